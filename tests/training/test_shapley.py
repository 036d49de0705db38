"""Amortised Shapley values on a toy classifier: phases, rates, the surrogate, the exact values."""

from __future__ import annotations

import math
from pathlib import Path
from typing import Any

import pytest
import torch
import torch.nn.functional as F
from torch import Tensor

import ttame
from tests.conftest import CLASSES, IMAGENET, LAYERS, randomize_batch_norm
from tests.helpers.callbacks import Stop
from tests.training.test_coalitions import all_coalitions, exact_values
from ttame.attention import AttentionConfig
from ttame.data import PhotoList
from ttame.errors import TTameError
from ttame.explainer import Explainer
from ttame.training.config import TrainingConfig
from ttame.training.fit import fit, prepare_on
from ttame.training.learning_rate import find_learning_rate
from ttame.training.objective import ObjectiveConfig
from ttame.training.recipes import architecture, open_recipe, shapley
from ttame.training.shapley import ShapleyModule, cycle, divergence, training_module


@pytest.fixture
def small(toy: torch.nn.Module) -> Explainer:
    """An explainer with maps of nine cells."""
    explainer = ttame.attach(
        toy, LAYERS, classes=CLASSES, input_size=(32, 32), head="head", **IMAGENET,
        config=AttentionConfig(activation="identity", max_size=3),
    )  # fmt: skip
    randomize_batch_norm(explainer.mechanism)
    return explainer


def snapshot(module: torch.nn.Module) -> dict[str, Tensor]:
    return {name: value.clone() for name, value in module.state_dict().items()}


def same(module: torch.nn.Module, before: dict[str, Tensor]) -> bool:
    return all(torch.equal(value, before[name]) for name, value in module.state_dict().items())


def module_of(explainer: Explainer, steps: int = 10, **changes: Any) -> ShapleyModule:
    module = training_module(explainer, shapley(fusion="free", **changes), steps).train()
    assert isinstance(module, ShapleyModule)
    return module


def test_the_recipe_opens() -> None:
    config = open_recipe("shapley")
    assert config.shapley.pairs == 2
    assert TrainingConfig.of(**config.flat()) == config
    assert architecture("shapley").max_size == 7


@pytest.mark.parametrize(
    ("changes", "said"),
    [
        ({"objective": ObjectiveConfig()}, "objective weights"),
        ({"masked": "features"}, "masked='features'"),
        ({"fill": "blur"}, "fill='blur'"),
        ({"tried": 0.5}, "tried=0.5"),
        ({"compile": True}, "compile=True"),
        ({"devices": 2}, "2 processes"),
    ],
)
def test_what_has_no_place_is_refused(changes: dict[str, Any], said: str) -> None:
    with pytest.raises(TTameError, match=f"pairs=2 learns Shapley values, without .*{said}"):
        shapley(**changes)


def test_no_rate_is_suggested(small: Explainer, photos: PhotoList) -> None:
    with pytest.raises(TTameError, match="at two rates"):
        find_learning_rate(small, photos, shapley(), steps=3)


def test_each_phase_changes_its_own_weights_alone(small: Explainer, images: Tensor) -> None:
    module = module_of(small, surrogate=0.3, surrogate_rate=1e-3)
    assert module.surrogate is not None and not module.surrogate.training
    assert module.surrogate_steps == 3
    optimizer = module.configure_optimizers()["optimizer"]
    for group in optimizer.param_groups:
        group["lr"] = 1e-3
    classifier, positions = snapshot(small.classifier), torch.arange(6)
    for step, moved, still in (
        (2, module.surrogate, small.mechanism),
        (3, small.mechanism, module.surrogate),
    ):
        before = snapshot(moved), snapshot(still)
        parts = module.step_parts(images, positions, step)
        assert (parts.surrogate is None) == (step == 3) == (parts.shapley is not None)
        optimizer.zero_grad()
        parts.total.backward()  # type: ignore[no-untyped-call]
        optimizer.step()
        assert not same(moved, before[0]) and same(still, before[1])
        assert same(small.classifier, classifier)


def test_cells_are_worth_what_the_classifier_answers_without_a_surrogate(
    small: Explainer, images: Tensor
) -> None:
    module = module_of(small, surrogate=0.0)
    assert module.surrogate is None
    coalitions = torch.tensor([[[1.0, 0, 0, 0, 0, 0, 0, 0, 1]]]).expand(6, -1, -1)
    worth, empty = module.worth(images, coalitions, (3, 3), torch.tensor([[2, 5]] * 6))
    shown = torch.zeros(32, 32)  # cells of nearest upsampling: pixel i belongs to cell ⌊3·i/32⌋
    shown[:11, :11] = 1
    shown[22:, 22:] = 1
    mean, std = (torch.tensor(IMAGENET[key]).view(1, 3, 1, 1) for key in ("mean", "std"))
    masked = ((images * std + mean) * shown - mean) / std  # black, as this classifier is masked
    with torch.no_grad():
        expected = small.classifier(masked).softmax(dim=1)[:, [2, 5]]
        nothing = small.classifier((-mean / std).expand(1, 3, 32, 32)).softmax(dim=1)[:, [2, 5]]
    assert torch.allclose(worth[:, 0], expected, atol=1e-5)
    assert torch.allclose(empty, nothing.expand(6, -1), atol=1e-5)


def test_the_surrogate_learns_to_answer_to_masked_photos(small: Explainer, images: Tensor) -> None:
    module = module_of(small, surrogate=0.5, surrogate_rate=3e-3, learning_rate=1e-3)
    optimizer = module.configure_optimizers()["optimizer"]
    for group in optimizer.param_groups:
        group["lr"] = 3e-3

    def held_out() -> float:
        with torch.no_grad():
            parts = [module.step_parts(images, torch.arange(6) + 1000 * i, 0) for i in range(20)]
        return sum(float(part.total) for part in parts)

    before = held_out()
    for number in range(60):
        optimizer.zero_grad()
        module.step_parts(images, torch.arange(6) + 6 * number, 0).total.backward()  # type: ignore[no-untyped-call]
        optimizer.step()
    assert held_out() < 0.6 * before


def test_trained_maps_are_the_exact_values(small: Explainer, images: Tensor) -> None:
    """Nine cells, 512 coalitions of two photos: the definition of Shapley values as the truth."""
    images = images[:2]
    config = shapley(surrogate=0.0, pairs=8, ranks=2, fusion="free", learning_rate=1e-2)
    working = prepare_on(small, images, config)
    module = training_module(working, config, 400).train()
    assert isinstance(module, ShapleyModule)
    found = module.configure_optimizers()
    optimizer, schedule = found["optimizer"], found["lr_scheduler"]["scheduler"]  # type: ignore[index,typeddict-item]
    for step in range(400):
        parts = module.step_parts(images, torch.arange(2), step)
        optimizer.zero_grad()
        parts.total.backward()  # type: ignore[no-untyped-call]
        optimizer.step()
        schedule.step()
    with torch.no_grad():
        targets = small.classifier(images).topk(2, dim=1).indices
        coalitions = all_coalitions(9)[None].expand(2, -1, -1)
        worth, _ = module.worth(images, coalitions, (3, 3), targets)
        exact = torch.stack([exact_values(of_photo) for of_photo in worth]).transpose(1, 2)
        maps = working.eval()(images, targets)[2].flatten(2) / 9
    assert exact.shape == maps.shape == (2, 2, 9)
    centred = [v - v.mean(dim=2, keepdim=True) for v in (exact, maps.double())]
    # Independent of the level, as maps are ranked and scaled; then the level itself.
    assert float(F.cosine_similarity(centred[0].flatten(), centred[1].flatten(), dim=0)) > 0.97
    assert torch.allclose(maps.sum(dim=2).double(), exact.sum(dim=2), atol=0.15)


def test_rates_run_through_two_cycles(small: Explainer) -> None:
    module = module_of(small, steps=100, surrogate=0.4, surrogate_rate=1e-4, learning_rate=1e-3)
    found = module.configure_optimizers()
    optimizer, schedule = found["optimizer"], found["lr_scheduler"]["scheduler"]  # type: ignore[index,typeddict-item]
    rates = []
    for _ in range(100):
        rates.append([group["lr"] for group in optimizer.param_groups])
        schedule.step()
    mechanism, surrogate = zip(*[(row[0], row[-1]) for row in rates], strict=True)
    assert max(surrogate) == surrogate[12] == pytest.approx(1e-4)
    assert surrogate[0] == pytest.approx(1e-4 / 25) and not any(surrogate[40:])
    assert max(mechanism) == mechanism[58] == pytest.approx(1e-3)
    assert not any(mechanism[:40]) and 0 < mechanism[99] < 1e-5


def test_a_cycle_by_hand() -> None:
    # three steps up from a 25th, seven down to nothing
    assert cycle(10, start=10, steps=10) == pytest.approx(1 / 25)
    assert cycle(13, start=10, steps=10) == pytest.approx(1.0)
    share = (1 - math.cos(math.pi / 7)) / 2
    assert cycle(19, start=10, steps=10) == pytest.approx(share)
    assert cycle(9, start=10, steps=10) == cycle(20, start=10, steps=10) == 0.0


def test_divergences_by_hand() -> None:
    whole, masked = torch.tensor([[0.5, 0.5]]), torch.tensor([[0.25, 0.75]])
    one = 0.5 * math.log(0.5 / 0.25) + 0.5 * math.log(0.5 / 0.75)
    assert float(divergence(whole.log(), masked.log(), "softmax")) == pytest.approx(one, rel=1e-5)
    # two labels, each of two answers: the same distribution twice
    assert float(divergence(whole, masked, "none")) == pytest.approx(2 * one, rel=1e-5)
    logits = [torch.logit(value) for value in (whole, masked)]
    assert float(divergence(*logits, "sigmoid")) == pytest.approx(2 * one, rel=1e-5)
    assert float(divergence(whole, whole, "none")) == pytest.approx(0, abs=1e-6)


def test_a_resumed_run_ends_as_an_uninterrupted_one(
    small: Explainer, photos: PhotoList, tmp_path: Path
) -> None:
    """Cut in the surrogate's steps and in the mechanism's; the file is an ordinary explainer."""
    config = shapley(
        batch_size=4, steps=8, workers=0, checkpoint_every=1, surrogate=0.5, learning_rate=1e-2,
        keep="best", validate_every=2,
    )  # fmt: skip
    held = photos.select(range(4))
    whole = fit(small, photos, config, tmp_path / "whole", validation=held, progress=False)
    for cut in (2, 6):
        out = tmp_path / f"cut{cut}"
        stopped: dict[str, Any] = {"validation": held, "progress": False}
        with pytest.raises(RuntimeError, match="power cut"):
            fit(small, photos, config, out, callbacks=[Stop(cut, "on_train_batch_end")], **stopped)
        resumed = fit(small, photos, config, out, resume=True, **stopped)
        expected = whole.mechanism.state_dict()
        assert all(torch.equal(v, expected[k]) for k, v in resumed.mechanism.state_dict().items())
    loaded = ttame.load(tmp_path / "whole" / "ttame.safetensors", small.classifier)
    shown = loaded.explain(torch.rand(3, 32, 32))
    assert shown.maps.shape == (1, 1, 3, 3) and bool(shown.maps.isfinite().all())
    curves = loaded.record
    assert curves["config"]["pairs"] == 2  # type: ignore[index]
