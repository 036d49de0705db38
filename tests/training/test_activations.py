"""Training of classifiers whose outputs are not those of a softmax."""

from __future__ import annotations

import json
import math
import shutil
from dataclasses import replace
from pathlib import Path

import pytest
import torch
from torch import Tensor, nn

import ttame
from tests.conftest import IMAGENET, LAYERS, ToyClassifier, randomize_batch_norm
from ttame.classifiers.outputs import Activation
from ttame.data import PhotoList
from ttame.errors import TTameError
from ttame.explainer import Explainer
from ttame.training.config import TrainingConfig
from ttame.training.fit import fit, prepare_on
from ttame.training.module import ExplainerModule
from ttame.training.objective import ObjectiveConfig, objective, relative_drop
from ttame.training.recipes import DECODED, ours
from ttame.training.trials import reward

SIZE = (32, 32)


def attached(classes: int, activation: Activation, *ending: nn.Module) -> Explainer:
    model = ToyClassifier(classes)
    randomize_batch_norm(model)
    model.eval().centre()
    layers = [f"0.{name}" for name in LAYERS] if ending else LAYERS
    network = nn.Sequential(model, *ending) if ending else model
    return ttame.attach(
        network, layers, input_size=SIZE, **IMAGENET, activation=activation, config=DECODED
    )


# -ln σ(0) = ln 2; p falls from σ(ln 3) = 3/4 to 1/2, or from 3/4 to 1/2 as they are.
@pytest.mark.parametrize(
    ("activation", "whole", "masked"),
    [
        ("sigmoid", [-math.log(3), math.log(3)], [0.0, 0.0]),
        ("sigmoid", [math.log(3), math.log(3)], [5.0, 0.0]),  # the other label does not count
        ("none", [0.25, 0.75], [0.5, 0.5]),
        ("none", [0.9, 0.75], [0.1, 0.5]),
        ("softmax", [0.0, math.log(3)], [1.0, 1.0]),
    ],
)
def test_the_terms_by_hand(activation: Activation, whole: list[float], masked: list[float]) -> None:
    before, after, label = torch.tensor([whole]), torch.tensor([masked]), torch.tensor([1])
    maps = torch.zeros(1, 1, 2, 2)
    parts = objective(before, after, label, maps, ObjectiveConfig(labels="own"), activation)
    assert float(parts.cross_entropy) == pytest.approx(math.log(2), abs=1e-6)
    assert float(parts.drop) == pytest.approx(1 / 3, abs=1e-6)
    assert relative_drop(before, after, label, activation).tolist() == pytest.approx([1 / 3])
    found = reward(before, torch.cat([after, before]), label, None, activation)
    expected = [2 / 3 + 0.05 * math.log(2 / 3), 1]
    assert found[:, 0].tolist() == pytest.approx(expected, abs=1e-6)


def test_values_cannot_be_trained_on() -> None:
    values, maps = torch.tensor([[37.0]]), torch.zeros(1, 1, 2, 2)
    with pytest.raises(TTameError, match=r"activation='none'.*value - threshold"):
        objective(values, values, torch.tensor([0]), maps, ObjectiveConfig(labels="own"), "none")


@pytest.mark.parametrize(
    ("classes", "activation", "ending"),
    [(1, "sigmoid", ()), (4, "sigmoid", ()), (4, "none", (nn.Softmax(dim=1),)),
     (1, "none", (nn.Sigmoid(),))],
)  # fmt: skip
def test_the_loss_is_there_and_falls(
    classes: int, activation: Activation, ending: tuple[nn.Module, ...]
) -> None:
    explainer = attached(classes, activation, *ending)
    images = torch.randn(8, 3, 4, 4).repeat_interleave(8, 2).repeat_interleave(8, 3)
    only = ObjectiveConfig(cross_entropy=1, area=0, variation=0, labels="own")
    config = TrainingConfig.of(objective=only, init="classifier")
    module = ExplainerModule(prepare_on(explainer, images, config), config, total_steps=15)
    optimizer = torch.optim.Adam(module.explainer.mechanism.parameters(), lr=0.03)
    losses = []
    for _ in range(15):
        parts = module.parts(images)
        optimizer.zero_grad()
        parts.total.backward()
        optimizer.step()
        losses.append(float(parts.total.detach()))
    assert losses[0] > 0.01
    assert sum(losses[-3:]) / 3 < 0.95 * losses[0], losses


def test_the_target_is_the_most_probable_answer() -> None:
    explainer = attached(1, "sigmoid")
    images = torch.randn(8, 3, 4, 4).repeat_interleave(8, 2).repeat_interleave(8, 3)
    config = TrainingConfig.of(
        ranks=5, activation="sigmoid", objective=ObjectiveConfig(labels="own")
    )
    module = ExplainerModule(explainer, config, total_steps=1)
    assert module.ranks == 2  # of the five that are asked for
    with torch.no_grad():
        outputs, _, maps = explainer(images)
        masked = explainer.spec.mask(images, torch.sigmoid(maps))
        answer = explainer.classifier(masked)
    labels = (outputs[:, 1] > 0).long()
    assert set(labels.tolist()) == {0, 1}
    expected = nn.functional.binary_cross_entropy_with_logits(answer[:, 1], labels.float())
    found = module.eval().parts(images)
    assert float(found.cross_entropy.detach()) == pytest.approx(float(expected), abs=1e-5)
    second = module.parts(images, ranks=torch.ones(8, dtype=torch.int64))
    assert not torch.allclose(second.drop, found.drop)


def test_a_binary_classifier_is_trained_from_photos_to_file(
    photos: PhotoList, tmp_path: Path
) -> None:
    explainer = attached(1, "sigmoid")
    config = ours(batch_size=4, ranks=3, workers=0)
    held = photos.select(range(4))
    trained = fit(explainer, photos, config, tmp_path, validation=held, progress=False)
    record = json.loads((tmp_path / "ttame.json").read_text())
    assert record["activation"] == "sigmoid"
    losses = [row["train/drop"] for row in record["curves"] if row.get("train/drop") is not None]
    assert losses and all(math.isfinite(value) for value in losses) and any(losses)
    loaded = Explainer.load(tmp_path / "ttame.safetensors", explainer.classifier)
    photo = torch.rand(3, *SIZE)
    assert torch.equal(loaded.explain(photo, "no").maps, trained.explain(photo, "no").maps)
    other = explainer.replace(spec=replace(explainer.spec, activation="softmax"))
    with pytest.raises(TTameError, match=r"outputs.activation was sigmoid, is softmax"):
        fit(other, photos, config, tmp_path, validation=held, resume=True, progress=False)


@pytest.mark.slow
@pytest.mark.skipif(shutil.which("c++") is None, reason="torch.compile needs a C++ compiler")
def test_the_compiled_pass_answers_both() -> None:
    explainer, images = attached(1, "sigmoid"), torch.randn(4, 3, *SIZE)
    plain = ExplainerModule(explainer, TrainingConfig(), total_steps=10)
    compiled = ExplainerModule(explainer, TrainingConfig.of(compile=True), total_steps=10)
    found: list[Tensor] = [module.eval().parts(images).total for module in (plain, compiled)]
    torch.testing.assert_close(found[1], found[0], atol=1e-4, rtol=1e-3)
