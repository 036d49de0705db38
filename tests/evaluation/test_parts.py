"""Measures of parts: golden maps by hand, and a run whose records give the same numbers."""

from __future__ import annotations

from hashlib import sha256
from itertools import combinations
from pathlib import Path
from typing import Any

import pytest
import torch
from scipy.stats import spearmanr
from torch import Tensor

from ttame.classifiers.drawn import PARTS, SIDE, class_words, drawn_cnn
from ttame.classifiers.registry import backbone_spec, freeze
from ttame.classifiers.weights import weight_digest
from ttame.companion.shipped import reference
from ttame.errors import TTameError
from ttame.evaluation.drawings import CLUTTER, drawing
from ttame.evaluation.parts import (
    PAIRS,
    background_independence,
    pair_means,
    part_correlation,
    part_intervals,
    part_scores,
    region_means,
    target_sensitivity,
)
from ttame.evaluation.removal import evaluate_parts, removal_effects
from ttame.explainer import Explainer
from ttame.images import normalize, to_batch
from ttame.loading import attach, load
from ttame.records import read_results

IMPORTANCE = torch.tensor([[3.0, -1.0, 0.5, 2.0, 0.0]])


def painted(index: int, values: Tensor) -> tuple[Tensor, Tensor]:
    """A map with a value for every part of a drawing, and the parts' regions."""
    covered = drawing("val", index).coverage()
    regions = torch.stack([covered[name] for name in PARTS])[None]
    return (regions * values.view(1, -1, 1, 1)).sum(dim=1, keepdim=True), regions


# Part correlation


@pytest.mark.parametrize("index", [0, 1, 2])
def test_a_map_of_the_importance_scores_one_and_its_negation_minus_one(index: int) -> None:
    maps, regions = painted(index, IMPORTANCE[0])
    for sign in (1, -1):
        means = region_means(sign * (4 * maps + 1), regions)
        assert part_correlation(means, IMPORTANCE).tolist() == pytest.approx([sign])


def test_a_constant_map_scores_nothing() -> None:
    _, regions = painted(0, IMPORTANCE[0])
    means = region_means(torch.ones(1, 1, 7, 7), regions)
    assert means.tolist() == [[0.0] * len(PARTS)]
    assert part_correlation(means, IMPORTANCE).tolist() == [0]
    assert part_correlation(pair_means(means, torch.ones(1, 5)), torch.rand(1, 10)).tolist() == [0]


def test_noise_scores_nothing_on_average() -> None:
    means, importance = torch.rand(4000, 5), torch.rand(4000, 5)
    found = part_correlation(means, importance)
    assert abs(float(found.mean())) < 4 * 0.5 / 4000**0.5  # of five ranks the deviation is 1/2
    by_scipy = spearmanr(means[0].numpy(), importance[0].numpy()).statistic
    assert float(found[0]) == pytest.approx(by_scipy)


def test_pairs_are_the_mean_over_both_parts() -> None:
    means, areas = torch.tensor([[1.0, 4, 0, 0, 2]]), torch.tensor([[30.0, 10, 5, 5, 20]])
    found = dict(zip(PAIRS, pair_means(means, areas)[0].tolist(), strict=True))
    assert list(PAIRS) == list(combinations(range(5), 2))
    assert found[0, 1] == (1 * 30 + 4 * 10) / 40
    assert found[1, 4] == pytest.approx((4 * 10 + 2 * 20) / 30)
    assert found[2, 3] == 0


def test_means_over_regions_by_hand() -> None:
    maps = torch.tensor([[[[2.0, 4.0], [6.0, 2.0]]]])  # scaled to [0, 1]: 0, 0.5, 1, 0
    regions = torch.tensor([[[[1.0, 1], [0, 0]], [[0, 0.5], [1, 0]], [[0, 0], [0, 0]]]])
    found = region_means(maps, regions)[0].tolist()
    assert found[:2] == pytest.approx([0.25, 1.25 / 1.5])
    assert found[2] != found[2]  # an empty region has no mean
    with pytest.raises(TTameError, match="must agree in batch"):
        region_means(maps.expand(2, -1, -1, -1), regions)


# Background independence


def test_background_independence_by_hand() -> None:
    """Parts 0 and 3 matter, above 5 % of 3; of the clutter only pieces 0 and 1 do not."""
    importance = torch.tensor([[3.0, -1.0, 0.1, 2.0, 0.0]])
    effects = torch.tensor([[0.1, -0.14, 0.2, 0.0]])
    clutter = torch.tensor([[0.3, 0.6, 0.0, float("nan")]])

    def score(means: list[float]) -> float:
        given = torch.tensor([means])
        return float(background_independence(given, importance, clutter, effects))

    assert score([0.9, 0, 0, 0.7, 0]) == 100
    assert score([0.2, 1, 1, 0.1, 1]) == 0
    assert score([0.9, 0, 0, 0.4, 0]) == 75
    assert score([0.6, 0, 0, 0.1, 0]) == 37.5  # one won, one tied, two lost
    nothing = background_independence(importance, importance, clutter, torch.full((1, 4), 9.0))
    assert bool(nothing.isnan())
    assert bool(background_independence(importance, -importance.abs(), clutter, effects).isnan())


def test_a_constant_map_is_at_chance_on_the_background() -> None:
    found = background_independence(
        torch.zeros(1, 5), IMPORTANCE, torch.zeros(1, 8), torch.zeros(1, 8)
    )
    assert float(found) == 50


# Target sensitivity


def test_target_sensitivity_by_hand() -> None:
    """Parts 0 and 1 speak for A over B; part 2 does by less than 5 % of part 0."""
    contrast = torch.tensor([[4.0, 1.0, 0.1, 0.0, -2.0]])
    one, other = torch.tensor([[0.9, 0.7, 0.5, 0.1, 0.3]]), torch.tensor([[0.2, 0.4, 0.9, 0.6, 0]])
    # A prefers its parts by 0.8 - 0.3, B by 0.3 - 0.5.
    assert float(target_sensitivity(one, other, contrast)) == 100
    assert float(target_sensitivity(other, one, contrast)) == 0
    assert float(target_sensitivity(one, one, contrast)) == 50
    assert bool(target_sensitivity(one, other, -contrast.abs()).isnan())
    assert bool(target_sensitivity(one, other, torch.ones(1, 5)).isnan())


# The run


class Reader(torch.nn.Module):
    """Logits that know what was drawn: weights of the parts in which a class has the word's digit.

    It compares an image with every drawing that can be made of it by removing parts, so a logit
    drops by exactly the weight of a part that is gone.
    """

    WEIGHTS = (5.0, 4.0, 3.0, 2.0, 1.0)

    def __init__(self, indices: range) -> None:
        super().__init__()
        self.unused = torch.nn.Parameter(torch.zeros(()))
        for layer in backbone_spec("drawn_cnn").layers:  # which the explainer looks for
            self.add_module(layer, torch.nn.Identity())
        self.known: dict[str, Tensor] = {}
        words = torch.tensor(class_words())
        for index in indices:
            found = drawing("val", index)
            same = (words == words[found.label]).double()  # (K, P)
            for count in range(3):
                for gone in combinations(range(len(PARTS)), count):
                    kept = torch.tensor([0 if i in gone else w for i, w in enumerate(self.WEIGHTS)])
                    self.keep(found.render([PARTS[i] for i in gone]), same @ kept.double())
            for name in ((piece,) for piece in CLUTTER):
                self.keep(found.render(name), same @ torch.tensor(self.WEIGHTS).double())
            self.keep(found.render(CLUTTER), same @ torch.tensor(self.WEIGHTS).double())

    def keep(self, image: Any, logits: Tensor) -> None:
        self.known[sha256(image.tobytes()).hexdigest()] = logits

    def forward(self, images: Tensor) -> Tensor:
        raw = (images * 0.5 + 0.5).mul(255).round().to(torch.uint8).permute(0, 2, 3, 1)
        digests = [sha256(one.contiguous().numpy().tobytes()).hexdigest() for one in raw]
        nothing = torch.zeros(len(class_words())).double()  # of the blank that opens a run
        return torch.stack([self.known.get(digest, nothing) for digest in digests])


@pytest.fixture(scope="module")
def creatures() -> Explainer:
    """An explainer of the network with random weights."""
    torch.manual_seed(0)
    return attach("drawn_cnn", pretrained=False)


@pytest.fixture
def knowing(creatures: Explainer) -> Explainer:
    spec = backbone_spec("drawn_cnn")
    return creatures.replace(classifier=freeze(spec, Reader(range(2))).model)


def test_effects_are_what_the_removal_costs(knowing: Explainer) -> None:
    found, words = drawing("val", 0), class_words()
    other = 7
    effects = removal_effects(knowing, found, found.label, other)
    weights = torch.tensor(Reader.WEIGHTS).double()
    assert torch.equal(effects["importance"], weights)
    assert effects["pairs"].tolist() == [float(weights[a] + weights[b]) for a, b in PAIRS]
    assert not effects["clutter"].any() and not effects["background"].any()
    differs = torch.tensor(words[0]) != torch.tensor(words[other])
    assert torch.equal(effects["contrast"], weights * differs)


def test_records_give_the_scores_of_their_maps(knowing: Explainer, tmp_path: Path) -> None:
    """A method that paints the weights scores the best of everything, its negation the worst."""
    words = torch.tensor(class_words())

    def paint(sign: float) -> Any:
        def method(images: Tensor, targets: Tensor) -> Tensor:
            maps = []
            for image, target in zip(images, targets, strict=True):
                raw = (image * 0.5 + 0.5).mul(255).round().to(torch.uint8).permute(1, 2, 0)
                data = raw.contiguous().numpy().tobytes()
                index = next(i for i in range(2) if drawing("val", i).render().tobytes() == data)
                own = words[drawing("val", index).label] == words[target]
                values = torch.tensor(Reader.WEIGHTS) * (0.2 + own.float())
                maps.append(painted(index, sign * values)[0][0])
            return torch.stack(maps)

        return method

    def ones(images: Tensor, targets: Tensor) -> Tensor:
        return torch.ones(len(images), 1, 7, 7)

    made = {"good": paint(1), "bad": paint(-1), "all ones": ones}
    out = evaluate_parts(knowing, tmp_path / "parts.jsonl", methods=made, limit=2, batch_size=2)
    header, records = read_results(out)
    assert header["config"]["photos"] == 2 and len(records) == 6
    table = part_intervals(records).pivot(index="method", columns="score", values="mean")
    good, bad, blind = (table.loc[name] for name in ("good", "bad", "all ones"))
    assert good["part correlation"] == pytest.approx(1)
    assert bad["part correlation"] == pytest.approx(-1)
    assert (good["background independence"], bad["background independence"]) == (100, 0)
    assert (good["target sensitivity"], bad["target sensitivity"]) == (100, 0)
    assert good["pointing"] == 100 and good["energy"] > 95 and bad["pointing"] == 0
    assert blind["part correlation"] == blind["pair correlation"] == 0
    assert blind["background independence"] == blind["target sensitivity"] == 50
    assert records.loc[records["method"] == "all ones", "degenerate"].all()


def test_a_killed_run_goes_on_and_ends_with_the_same_records(
    creatures: Explainer, tmp_path: Path
) -> None:
    """With random weights most drawings are classified wrongly, which is recorded."""
    options: dict[str, Any] = {"methods": ["Grad-CAM", "random"], "limit": 5, "batch_size": 2}
    whole = evaluate_parts(creatures, tmp_path / "whole.jsonl", **options)

    def stop(done: int, total: int) -> None:
        if done == 4:
            raise KeyboardInterrupt

    with pytest.raises(KeyboardInterrupt):
        evaluate_parts(creatures, tmp_path / "killed.jsonl", progress=stop, **options)
    again = evaluate_parts(creatures, tmp_path / "killed.jsonl", **options)
    first, second = (read_results(path)[1].drop(columns="seconds", errors="ignore")
                     for path in (whole, again))  # fmt: skip
    assert len(first) == 10 and first.to_dict() == second.to_dict()
    wrong = first[first["skipped"].notna()] if "skipped" in first else first[:0]
    assert len(wrong) and wrong["skipped"].str.startswith("classified as ").all()


def test_passes_are_those_of_one_map(tmp_path: Path) -> None:
    out = evaluate_parts(load("drawn_cnn"), tmp_path / "p.jsonl", methods=["T-TAME", "Grad-CAM"],
                         limit=2)  # fmt: skip
    _, records = read_results(out)
    passes = records.groupby("method")[["forward", "backward"]].mean()
    assert passes.loc["T-TAME"].tolist() == [1, 0]
    assert passes.loc["Grad-CAM"].tolist() == [1, 1]


def test_hidden_clutter_counts_in_no_score(knowing: Explainer, tmp_path: Path) -> None:
    out = evaluate_parts(knowing, tmp_path / "p.jsonl", methods=["random"], limit=2)
    _, records = read_results(out)
    for name, means in zip(records["photo"], records["clutter_means"], strict=True):
        covered = drawing("val", int(Path(name).stem)).coverage()
        hidden = [float(covered[piece].sum()) < 20 for piece in CLUTTER]
        assert [value is None or value != value for value in means] == hidden
    long = part_scores(records)
    assert set(long["score"]) == {
        "part correlation", "pair correlation", "background independence", "target sensitivity",
        "pointing", "energy",
    }  # fmt: skip
    assert long["value"].notna().all()


def test_what_cannot_be_measured_is_refused(
    explainer: Explainer, creatures: Explainer, tmp_path: Path
) -> None:
    out = tmp_path / "x.jsonl"
    with pytest.raises(TTameError, match=r"classifier of the drawn creatures at \(96, 96\) px"):
        evaluate_parts(explainer, out, methods=["random"])
    with pytest.raises(TTameError, match="name at least one method"):
        evaluate_parts(creatures, out, methods=[])
    with pytest.raises(TTameError, match="1 or more, got limit=0"):
        evaluate_parts(creatures, out, methods=["random"], limit=0)
    with pytest.raises(TTameError, match="unknown method 'nothing'"):
        evaluate_parts(creatures, out, methods=["nothing"])
    assert not out.exists() and not list(tmp_path.iterdir())


def test_images_reach_the_classifier_untouched() -> None:
    spec = backbone_spec("drawn_cnn")
    image = drawing("val", 0).render()
    given = normalize(to_batch(image, spec), spec)
    back = ((given * 0.5 + 0.5) * 255).round().to(torch.uint8)[0].permute(1, 2, 0)
    assert back.contiguous().numpy().tobytes() == image.tobytes()
    assert spec.input_size == (SIDE, SIDE)
    assert len(spec.classes) == drawn_cnn().head.out_features  # type: ignore[union-attr]


def test_the_shipped_record_ranks_blind_maps_at_chance() -> None:
    """Constant maps score nothing, maps without a class tie, and T-TAME does better."""
    header, records = read_results(reference("drawn_val_parts.jsonl"))
    assert header["config"]["digests"][1] == weight_digest(load("drawn_cnn").mechanism)
    assert records["photo"].nunique() >= 200
    table = part_intervals(records).set_index(["method", "score"])
    assert table.loc[("all ones", "part correlation"), "mean"] == 0
    assert table.loc[("all ones", "background independence"), "mean"] == 50
    for blind in ("random", "all ones", "centre Gaussian"):
        assert table.loc[(blind, "target sensitivity"), "mean"] == 50
    assert table.loc[("random", "part correlation"), "low"] < 0.05
    for score in ("part correlation", "background independence", "target sensitivity"):
        assert table.loc[("T-TAME", score), "low"] > table.loc[("random", score), "high"]
