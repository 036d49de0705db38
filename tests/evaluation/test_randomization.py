"""Cascading randomisation on the toy classifier; rank correlation against scipy."""

from __future__ import annotations

from typing import Any

import pytest
import torch
from scipy.stats import spearmanr
from torch import Tensor, nn

from ttame.errors import TTameError
from ttame.evaluation.randomization import cascade, randomized, sanity_check
from ttame.explainer import Explainer
from ttame.methods import METHODS, Method

TOY = ["head", "stages.2.1", "stages.2.0", "stages.1.1", "stages.1.0", "stages.0.1", "stages.0.0"]


class Odd(nn.Module):
    """Parameters outside of leaves, a module used twice, and one that is never called."""

    def __init__(self) -> None:
        super().__init__()
        self.attend = nn.MultiheadAttention(4, 2, batch_first=True)
        self.shared = nn.Linear(4, 4)
        self.embed = nn.Linear(3, 4)
        self.norm = nn.BatchNorm1d(4, affine=False)
        self.token = nn.Parameter(torch.randn(1, 1, 4))
        self.scale = nn.Parameter(torch.full((4,), 1e-5))
        self.head = nn.Linear(4, 2)

    def forward(self, images: Tensor) -> Tensor:
        tokens = self.shared(self.embed(images.flatten(2).transpose(1, 2)))
        tokens = torch.cat([self.token.expand(len(images), -1, -1), tokens], dim=1)
        tokens = tokens + self.scale * self.attend(tokens, tokens, tokens)[0]
        logits: Tensor = self.head(self.shared(self.norm(tokens[:, 0])))
        return logits


def state(model: nn.Module) -> dict[str, Tensor]:
    return {name: value.clone() for name, value in model.state_dict().items()}


def changed(before: dict[str, Tensor], after: dict[str, Tensor]) -> set[str]:
    assert before.keys() == after.keys()
    return {name for name in before if not torch.equal(before[name], after[name])}


def predictions(explainer: Explainer, images: Tensor) -> Tensor:
    with torch.no_grad():
        return explainer.classifier(images).argmax(dim=1)


# Rank correlation


# The cascade
def test_the_cascade_runs_from_the_head_to_the_first_layer(toy: nn.Module) -> None:
    assert cascade(toy, (32, 32)) == TOY
    assert not any(module._forward_pre_hooks for module in toy.modules())


def test_the_cascade_covers_parameters_wherever_they_are() -> None:
    model = Odd().eval()
    names = cascade(model, (4, 4))
    # The projection inside the attention is never called by itself; the token starts with
    # the network; what is used twice goes with its use nearest to the head.
    assert names == ["head", "shared", "norm", "attend", "embed", ""]
    before, after = state(model), state(randomized(model, names[:4]))
    assert {name.split(".")[0] for name in changed(before, after)} == {"head", "shared", "attend"}
    assert "attend.out_proj.weight" in changed(before, after)
    # A constant scale holds nothing learnt; the statistics were never trained either.
    left = before.keys() - changed(before, state(randomized(model, names)))
    assert left == {
        "scale", "attend.in_proj_bias",
        "norm.running_mean", "norm.running_var", "norm.num_batches_tracked",
    }  # fmt: skip


def test_the_cascade_cleans_up_after_an_exception(toy: nn.Module) -> None:
    with pytest.raises(RuntimeError):
        cascade(nn.Sequential(toy, nn.Linear(3, 3)), (32, 32))
    assert not any(module._forward_pre_hooks for module in toy.modules())


def test_a_classifier_without_parameters_is_refused() -> None:
    with pytest.raises(TTameError, match="Flatten has no parameters"):
        cascade(nn.Flatten())


# Randomised copies


def test_only_the_named_modules_change_and_only_in_the_copy(toy: nn.Module) -> None:
    before, random = state(toy), torch.get_rng_state()
    copy = randomized(toy, TOY[:2])
    assert torch.equal(torch.get_rng_state(), random)
    assert changed(before, state(toy)) == set()
    assert {name.rpartition(".")[0] for name in changed(before, state(copy))} == set(TOY[:2])
    norm = copy.get_submodule("stages.2.1")
    assert norm.running_mean.tolist() == [0] * 16 and norm.running_var.tolist() == [1] * 16
    assert [v.requires_grad for v in copy.parameters()] == [
        v.requires_grad for v in toy.parameters()
    ]
    assert not copy.training


def test_equal_seeds_equal_weights_and_a_longer_cascade_keeps_a_shorter(toy: nn.Module) -> None:
    first, again = state(randomized(toy, TOY, 3)), state(randomized(toy, TOY[::-1], 3))
    assert changed(first, again) == set()
    other = changed(first, state(randomized(toy, TOY, 4)))
    assert {"head.weight", "head.bias", "stages.0.0.weight"} <= other
    short = state(randomized(toy, TOY[:3], 3))
    assert torch.equal(short["stages.2.0.weight"], first["stages.2.0.weight"])
    # Layers of one shape are not given one draw.
    twin = nn.Sequential(nn.Linear(4, 4), nn.Linear(4, 4))
    drawn = state(randomized(twin, ["0", "1"]))
    assert not torch.equal(drawn["0.weight"], drawn["1.weight"])


def test_containers_are_randomised_with_all_inside(toy: nn.Module) -> None:
    whole, parts = randomized(toy, ["stages.2"]), randomized(toy, ["stages.2.0", "stages.2.1"])
    assert changed(state(whole), state(parts)) == set()
    assert changed(state(toy), state(whole)) != set()


def test_tensors_without_a_rule_keep_their_spread() -> None:
    class Bare(nn.Module):
        def __init__(self) -> None:
            super().__init__()
            self.weight = nn.Parameter(torch.randn(5000) * 3 + 10)

    model = Bare()
    drawn = randomized(model, [""]).get_parameter("weight").detach()
    spread = float(model.weight.detach().std(correction=0))
    assert float(drawn.abs().max()) <= 2 * spread
    assert float(drawn.std()) == pytest.approx(0.88 * spread, rel=0.05)  # truncated at 2
    assert abs(float(drawn.mean())) < 0.05 * spread


def test_a_container_does_not_reset_its_children() -> None:
    class Block(nn.Module):
        def __init__(self) -> None:
            super().__init__()
            self.inner = nn.Linear(4, 4)
            self.weight = nn.Parameter(torch.randn(4))

        def reset_parameters(self) -> None:
            nn.init.zeros_(self.inner.weight)

    model = Block()
    first, alone = randomized(model, ["inner", ""]), randomized(model, ["inner"])
    assert torch.equal(state(first)["inner.weight"], state(alone)["inner.weight"])
    assert not torch.equal(state(first)["weight"], model.weight)


def test_unknown_modules_are_refused(toy: nn.Module) -> None:
    with pytest.raises(TTameError, match=r"no module 'heads'.*'head'"):
        randomized(toy, ["heads"])


# The check


def test_sanity_check_records_every_stage_and_photo(explainer: Explainer, images: Tensor) -> None:
    targets, before = predictions(explainer, images), state(explainer)
    explainer.eval()
    random = torch.get_rng_state()
    table = sanity_check(explainer, METHODS["Grad-CAM"], images, targets, stages=[1, 3, 7])
    assert list(table) == ["photo", "stage", "layer", "randomized", "correlation", "degenerate"]
    assert table["photo"].tolist() == list(range(6)) * 3
    assert table["stage"].tolist() == [1] * 6 + [3] * 6 + [7] * 6
    assert table["layer"].unique().tolist() == ["head", "stages.2.0", "stages.0.0"]
    total = sum(value.numel() for value in explainer.classifier.parameters())
    head, last = 16 * 10 + 10, 16 * 12 * 9 + 2 * 16
    shares = table["randomized"].unique().tolist()
    assert shares == pytest.approx([100 * head / total, 100 * (head + last) / total, 100])
    assert table["correlation"].between(-1, 1).all()
    assert table[table["stage"] == 7]["correlation"].mean() < 0.9  # Grad-CAM passes the check
    assert changed(before, state(explainer)) == set()
    assert torch.equal(torch.get_rng_state(), random)
    again = sanity_check(
        explainer, METHODS["Grad-CAM"], images, targets, stages=[1, 3, 7], batch_size=4
    )
    assert table["correlation"].tolist() == pytest.approx(again["correlation"].tolist(), abs=1e-4)
    other = sanity_check(explainer, METHODS["Grad-CAM"], images, targets, stages=[7], seed=1)
    assert table["correlation"][12:].tolist() != pytest.approx(other["correlation"].tolist())


def test_sanity_check_is_its_parts(explainer: Explainer, images: Tensor) -> None:
    targets = predictions(explainer, images)
    explainer.eval()
    table = sanity_check(explainer, METHODS["T-TAME"], images, targets, stages=[1, 2, 7])
    # The head is no input of the mechanism's maps.
    assert table["correlation"][:6].tolist() == pytest.approx([1.0] * 6)
    before = METHODS["T-TAME"](explainer)(images, targets)
    kept = state(explainer.classifier)
    explainer.classifier.load_state_dict(randomized(explainer.classifier, TOY).state_dict())
    after = METHODS["T-TAME"](explainer)(images, targets)
    explainer.classifier.load_state_dict(kept)
    for index in range(6):
        enlarged = [
            nn.functional.interpolate(maps[index : index + 1], size=(32, 32), mode="bilinear")
            for maps in (before, after)
        ]
        expected = spearmanr(enlarged[0].flatten(), enlarged[1].flatten()).statistic
        assert table["correlation"][12 + index] == pytest.approx(float(expected), abs=1e-4)


def test_a_method_that_ignores_the_classifier_fails_the_check(
    explainer: Explainer, images: Tensor
) -> None:
    explainer.eval()
    table = sanity_check(
        explainer, METHODS["centre Gaussian"], images, predictions(explainer, images)
    )
    assert table["correlation"].tolist() == pytest.approx([1.0] * len(table))
    assert not table["degenerate"].any()
    assert table["stage"].unique().tolist() == list(range(1, 8))  # eight, of seven modules


def test_stages_are_spread_evenly_up_to_the_whole(explainer: Explainer, images: Tensor) -> None:
    targets = predictions(explainer, images)
    explainer.eval()

    def found(stages: int) -> list[int]:
        table = sanity_check(explainer, METHODS["centre Gaussian"], images, targets, stages=stages)
        counts: list[int] = table["stage"].unique().tolist()
        return counts

    assert found(1) == [7] and found(2) == [1, 7] and found(4) == [1, 3, 5, 7]


@pytest.mark.parametrize("value", [0.3, float("nan")])
def test_maps_without_ranking_are_flagged(
    explainer: Explainer, images: Tensor, value: float
) -> None:
    explainer.eval()
    intact = explainer.classifier

    def bind(bound: Explainer) -> Method:
        def explain(images: Tensor, targets: Tensor) -> Tensor:
            maps = torch.arange(9.0).view(1, 1, 3, 3).repeat(len(images), 1, 1, 1)
            if bound.classifier is not intact:
                maps[0] = value
            return maps

        return explain

    table = sanity_check(explainer, bind, images[:2], predictions(explainer, images)[:2], stages=1)
    assert table["degenerate"].tolist() == [True, False]
    assert table["correlation"].tolist() == pytest.approx([0.0, 1.0])


def test_the_check_works_in_inference_mode(explainer: Explainer, images: Tensor) -> None:
    targets = predictions(explainer, images)
    explainer.eval()
    expected = sanity_check(explainer, METHODS["Grad-CAM"], images, targets, stages=2)
    with torch.inference_mode():
        found = sanity_check(explainer, METHODS["Grad-CAM"], images, targets, stages=2)
    assert found["correlation"].tolist() == pytest.approx(expected["correlation"].tolist())


@pytest.mark.parametrize(
    ("change", "message"),
    [
        ({"stages": 0}, "at least 1"),
        ({"stages": []}, "ascending"),
        ({"stages": [2, 1]}, "ascending"),
        ({"stages": [0, 1]}, r"1\.\.7"),
        ({"stages": [8]}, r"1\.\.7"),
        ({"batch_size": 0}, "batch_size"),
        ({"targets": torch.zeros(2, dtype=torch.int64)}, "targets"),
        ({"images": torch.zeros(3, 32, 32)}, r"\(B, C, H, W\)"),
        ({"build_method": lambda explainer: lambda images, targets: images}, "returned"),
    ],
    ids=lambda value: "-".join(value) if isinstance(value, dict) else value,
)
def test_bad_arguments_are_refused(
    explainer: Explainer, images: Tensor, change: dict[str, Any], message: str
) -> None:
    arguments: dict[str, Any] = {
        "build_method": METHODS["centre Gaussian"],
        "images": images,
        "targets": predictions(explainer, images),
        **change,
    }
    with pytest.raises(TTameError, match=message):
        sanity_check(explainer.eval(), **arguments)


def test_a_mechanism_in_training_mode_is_refused(explainer: Explainer, images: Tensor) -> None:
    with pytest.raises(TTameError, match=r"explainer\.eval"):
        sanity_check(explainer.train(), METHODS["T-TAME"], images, predictions(explainer, images))
