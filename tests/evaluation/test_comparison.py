"""Paired differences by hand, and the count of passes on a toy classifier."""

from __future__ import annotations

import random
from collections.abc import Callable
from pathlib import Path

import pandas as pd
import pytest
import torch
from torch import Tensor, nn

from ttame.data import PhotoList
from ttame.errors import TTameError
from ttame.evaluation.comparison import in_short, in_words, paired_differences
from ttame.evaluation.cost import count_passes
from ttame.evaluation.evaluate import evaluate
from ttame.evaluation.tables import summary
from ttame.explainer import Explainer
from ttame.methods import build
from ttame.records import read_results


def long(values: dict[str, list[float]], score: str = "AD 50%") -> pd.DataFrame:
    return pd.DataFrame(
        [
            {"photo": str(i), "method": name, "score": score, "value": value}
            for name, column in values.items()
            for i, value in enumerate(column)
        ]
    )


def test_differences_are_paired_by_photo() -> None:
    table = paired_differences(long({"T-TAME": [10, 20, 30], "b": [12, 24, 36], "c": [10, 20, 30]}))
    first, second = table.iloc[0], table.iloc[1]
    assert first["against"] == "b" and first["difference"] == pytest.approx(-4)  # -(2 + 4 + 6) / 3
    # Every resample's mean lies between the extremes of the differences, -6 and -2.
    assert -6 <= first["low"] <= first["difference"] <= first["high"] <= -2
    assert second["difference"] == second["low"] == second["high"] == 0 and second["p"] == 1
    assert list(table["verdict"]) == ["better", "open"]  # of drops, the lower is the better
    assert list(table["photos"]) == [3, 3] and list(table["score"]) == ["AD 50%"] * 2


@pytest.mark.parametrize(
    ("score", "lower", "higher"),
    [
        ("AD 100%", "better", "worse"),
        ("ROAD MoRF", "better", "worse"),
        ("ROAD MoRF probability", "better", "worse"),
        ("deletion", "better", "worse"),
        ("IC 15%", "worse", "better"),
        ("AG 50%", "worse", "better"),
        ("ROAD LeRF", "worse", "better"),
        ("insertion", "worse", "better"),
    ],
)
def test_verdicts_know_which_way_is_better(score: str, lower: str, higher: str) -> None:
    table = paired_differences(
        long({"T-TAME": [5, 6, 7], "more": [6, 8, 8], "less": [1, 2, 2], "mixed": [1, 9, 8]}, score)
    )
    found = dict(zip(table["against"], table["verdict"], strict=True))
    assert found == {"more": lower, "less": higher, "mixed": "open"}


def test_the_interval_is_that_of_a_bootstrap_over_photos() -> None:
    ours, other = torch.randn(2, 40, generator=torch.Generator().manual_seed(1)).tolist()
    records = long({"T-TAME": ours, "b": other})
    row = paired_differences(records, resamples=4000).iloc[0]
    draw = random.Random(0)
    means = sorted(
        sum(ours[i] - other[i] for i in draw.choices(range(40), k=40)) / 40 for _ in range(4000)
    )
    # The bounds of two bootstraps of 4,000 differ by 0.013 here (their standard deviation).
    assert row["low"] == pytest.approx(means[100], abs=0.06)
    assert row["high"] == pytest.approx(means[3900], abs=0.06)
    again = paired_differences(records, resamples=4000).iloc[0]
    assert (again["low"], again["high"]) == (row["low"], row["high"])
    other_seed = paired_differences(records, resamples=4000, seed=1).iloc[0]
    assert other_seed["low"] != row["low"]


def test_pairs_are_the_photos_of_the_other_method() -> None:
    table = paired_differences(
        long({"T-TAME": [1, 2, 3, 100], "few": [2, 4, 6], "all": [1, 2, 3, 100]})
    ).set_index("against")
    assert table["photos"].to_dict() == {"few": 3, "all": 4}
    assert table.loc["few", "difference"] == pytest.approx(-2)  # the fourth photo is left out
    assert table.loc["all", "difference"] == 0


def test_every_score_has_its_rows_methods_in_order() -> None:
    values: dict[str, list[float]] = {"z": [3, 4], "T-TAME": [1, 2], "a": [3, 4]}
    table = paired_differences(pd.concat([long(values), long(values, "insertion")]))
    assert list(zip(table["against"], table["score"], strict=True)) == [
        ("z", "AD 50%"), ("z", "insertion"), ("a", "AD 50%"), ("a", "insertion"),
    ]  # fmt: skip
    assert list(table["verdict"]) == ["better", "worse"] * 2
    assert set(paired_differences(long(values), method="a")["against"]) == {"z", "T-TAME"}


def test_a_clear_difference_is_significant_and_noise_is_not() -> None:
    generator = torch.Generator().manual_seed(0)
    noise = torch.randn(200, generator=generator)
    other = torch.randn(200, generator=generator)
    table = paired_differences(
        long(
            {
                "T-TAME": noise.tolist(),
                "worse": (noise + 2 + other).tolist(),
                "same": other.tolist(),
            }
        )
    ).set_index("against")
    assert table.loc["worse", "high"] < 0 and table.loc["worse", "p"] < 1e-6
    assert (
        table.loc["same", "low"] < 0 < table.loc["same", "high"] and table.loc["same", "p"] > 0.01
    )


def test_missing_methods_and_photos_are_refused() -> None:
    with pytest.raises(TTameError, match="not measured"):
        paired_differences(long({"b": [1.0]}))
    with pytest.raises(TTameError, match="AD 50%: 'b' saw photos that 'T-TAME' did not"):
        paired_differences(long({"T-TAME": [1], "b": [1, 2]}))
    elsewhere = pd.concat([long({"T-TAME": [1], "b": [1]}), long({"b": [1]}, "insertion")])
    with pytest.raises(TTameError, match="insertion: 'b' saw photos that 'T-TAME' did not"):
        paired_differences(elsewhere)
    with pytest.raises(TTameError, match="only 'T-TAME' was measured"):
        paired_differences(long({"T-TAME": [1]}))


@pytest.mark.parametrize(
    ("name", "forward", "backward"),
    [("T-TAME", 1, 0), ("Grad-CAM", 1, 1), ("all ones", 0, 0), ("Integrated Gradients", 50, 50)],
)
def test_passes_are_counted_by_image(
    name: str, forward: int, backward: int, explainer: Explainer, images: Tensor
) -> None:
    targets = torch.zeros(len(images), dtype=torch.int64)
    method = build(name, explainer)  # which may send a blank image through
    with count_passes(explainer.classifier) as passes:
        method(images, targets)
    assert passes.forward == forward * len(images)
    assert passes.backward == backward * len(images)
    assert not explainer.classifier._forward_hooks


def test_score_cam_takes_a_pass_a_channel(explainer: Explainer, images: Tensor) -> None:
    method = build("Score-CAM", explainer)
    with count_passes(explainer.classifier) as passes:
        method(images, torch.zeros(len(images), dtype=torch.int64))
    assert passes.forward == (1 + 16) * len(images)


def test_passes_of_several_classifiers_are_counted_together(
    make_toy: Callable[[int], nn.Module], images: Tensor
) -> None:
    first, second, other = (make_toy(seed) for seed in range(3))
    with count_passes(first, second) as passes:
        first(images).sum().backward()
        second(images[:2].detach())
        other(images)
    assert (passes.forward, passes.backward) == (8, 6)
    assert not first._forward_hooks and not second._forward_hooks
    with pytest.raises(RuntimeError), count_passes(first, second):
        raise RuntimeError
    assert not first._forward_hooks and not second._forward_hooks


def test_evaluation_records_road_and_passes(
    explainer: Explainer, photos: PhotoList, tmp_path: Path
) -> None:
    out = evaluate(
        explainer, photos.select(range(4)), tmp_path / "r.jsonl",
        methods=("T-TAME", "Grad-CAM", "random"), metrics=("AD/IC", "ROAD"),
    )  # fmt: skip
    _, records = read_results(out)
    assert {len(row) for row in records["road_morf"]} == {7}
    table = summary(out)
    assert table["forward"].tolist() == [1, 1, 0] and table["backward"].tolist() == [0, 1, 0]
    assert table[["ROAD MoRF", "ROAD LeRF"]].stack().between(0, 100).all()
    with pytest.raises(TTameError, match="ROAD"):
        evaluate(explainer, photos, tmp_path / "x.jsonl", metrics=("ROAD!",))


def test_verdicts_in_words() -> None:
    table = pd.DataFrame(
        {
            "against": ["Grad-CAM", "Grad-CAM", "RISE", "Grad-CAM"],
            "score": ["AD 100%", "AD 50%", "AD 100%", "IC 50%"],
            "verdict": ["better", "open", "worse", "better"],
        }
    )
    assert in_words(table, "Ours").split("\n") == [
        "Ours is",
        "",
        "- compared with Grad-CAM: **better** by AD 100% and IC 50%; **no difference** is shown by "
        "AD 50%",
        "- compared with RISE: **worse** by AD 100%",
    ]


def test_verdicts_in_short() -> None:
    table = pd.DataFrame(
        {
            "against": ["Grad-CAM", "RISE", "random", "RISE", "LIME", "CAM"],
            "score": ["AD 50%", "AD 50%", "AD 50%", "SDS", "SDS", "SDS"],
            "verdict": ["open", "worse", "better", "worse", "worse", "worse"],
        }
    )
    assert in_short(table, "Ours") == (
        "Ours is better in 1 of 6 comparisons, worse in 4; in 1, no difference is shown. It is "
        "worse than RISE by AD 50% and SDS; LIME and CAM by SDS."
    )


def test_nothing_worse_is_said_in_a_sentence() -> None:
    table = pd.DataFrame({"against": ["a", "b"], "score": "AD 50%", "verdict": "better"})
    assert in_short(table) == ("T-TAME is better in 2 of 2 comparisons, worse in none.")
