"""The test of the tests, by hand on a few photos and methods."""

from __future__ import annotations

import random

import numpy as np
import pandas as pd
import pytest
import torch

from ttame.errors import TTameError
from ttame.evaluation.agreement import (
    add_gap,
    blind_margins,
    mean_ranks,
    rank_agreement,
    unwinnable,
)

BLIND = ("noise", "ones")


def long(score: str, values: dict[str, list[float]], prefix: str = "") -> pd.DataFrame:
    return pd.DataFrame(
        [
            {"photo": f"{prefix}{i}", "method": name, "score": score, "value": value}
            for name, column in values.items()
            for i, value in enumerate(column)
        ]
    )


def test_the_best_blind_map_is_held_against_the_best_method_that_looks() -> None:
    looking = {"a": [6.0, 8.0, 10.0], "b": [2.0, 2.0, 2.0]}
    blind = {"ones": [5.0, 5.0, 5.0], "noise": [1.0, 1.0, 1.0]}
    row = blind_margins(long("insertion", looking | blind), BLIND).loc["insertion"]
    assert (row["blind"], row["rank"], row["methods"]) == ("ones", 2, 4)
    assert (row["behind"], row["looking"], row["best"]) == (1, 2, "a")
    assert row["difference"] == -3  # 5 - 8
    # Of the differences -1, -3 and -5 no resample's mean leaves their range.
    assert -5 <= row["low"] < -3 < row["high"] <= -1
    assert row["verdict"] == "worse"


def test_of_drops_the_smaller_one_wins() -> None:
    """With the same values ones would be second best; of drops noise (1) beats a method's 2."""
    values = {"a": [6.0, 8.0], "b": [2.0, 2.0], "ones": [5.0, 5.0], "noise": [1.0, 1.0]}
    row = blind_margins(long("AD 50%", values), BLIND).loc["AD 50%"]
    assert (row["blind"], row["best"], row["rank"], row["behind"]) == ("noise", "b", 1, 2)
    assert (row["difference"], row["low"], row["high"], row["verdict"]) == (-1, -1, -1, "better")


def test_a_tie_is_open_and_shares_the_first_rank() -> None:
    row = blind_margins(long("SDS", {"a": [0.0, 2.0], "ones": [2.0, 0.0]}), BLIND).loc["SDS"]
    assert (row["rank"], row["behind"], row["difference"], row["verdict"]) == (1, 0, 0, "open")


def test_the_difference_is_paired_by_photo_whatever_their_order() -> None:
    table = long("SDS", {"a": [1.0, 101.0, 201.0], "ones": [0.0, 100.0, 200.0]})
    row = blind_margins(table.sample(frac=1, random_state=0), BLIND).loc["SDS"]
    assert (row["low"], row["high"]) == (-1, -1)  # unpaired it would span hundreds


def test_scores_that_no_blind_map_wins_anywhere() -> None:
    won = blind_margins(long("AD 100%", {"a": [2.0, 3.0], "ones": [0.0, 0.0]}), BLIND)
    lost = blind_margins(long("SDS", {"a": [2.0, 3.0], "ones": [0.0, 0.0]}), BLIND)
    tied = blind_margins(long("SDS", {"a": [2.0, -2.0], "ones": [0.0, 0.0]}), BLIND)
    both = pd.concat([won, lost])
    assert unwinnable(both) == ["SDS"]
    assert unwinnable(both, tied) == []
    assert unwinnable(lost, won) == ["SDS"]  # a score may be in one table only


def test_without_a_blind_map_nothing_is_tested() -> None:
    with pytest.raises(TTameError, match="SDS needs a blind method"):
        blind_margins(long("SDS", {"a": [1.0], "b": [2.0]}), BLIND)
    with pytest.raises(TTameError, match="one that looks; there are noise, ones"):
        blind_margins(long("SDS", {"noise": [1.0], "ones": [2.0]}), BLIND)


def test_methods_on_other_photos_are_refused() -> None:
    table = long("SDS", {"a": [1.0, 2.0], "ones": [2.0]})
    with pytest.raises(TTameError, match="SDS: 'ones' was not measured on all 2 photos"):
        blind_margins(table, BLIND)
    with pytest.raises(TTameError, match="'ones' was not measured"):
        rank_agreement(pd.concat([table, long("SaCo", {"a": [1.0], "ones": [2.0]})]))


def test_the_gap_is_that_of_each_photo() -> None:
    values = [long("ROAD LeRF", {"a": [70.0, 50.0]}), long("ROAD MoRF", {"a": [20.0, 60.0]})]
    table = add_gap(pd.concat([*values, long("SDS", {"b": [1.0]})]))
    gap = table[table["score"] == "ROAD gap"]
    assert list(zip(gap["photo"], gap["method"], gap["value"], strict=True)) == [
        ("0", "a", 50), ("1", "a", -10),
    ]  # fmt: skip
    assert len(table) == 7


def test_agreement_of_scores_that_rank_alike_and_of_drops() -> None:
    """One photo, so that no resample differs; a drop (lower is better) reverses its values."""
    values = {"a": [3.0], "b": [2.0], "c": [1.0]}
    reverse = {"a": [10.0], "b": [11.0], "c": [40.0]}
    table = pd.concat([long("SDS", values), long("AD 50%", reverse), long("SaCo", reverse)])
    found = rank_agreement(table).set_index(["first", "second"])
    assert found.loc[("SDS", "AD 50%"), ["correlation", "low", "high"]].tolist() == [1, 1, 1]
    assert found.loc[("SDS", "SaCo"), "correlation"] == pytest.approx(-1)
    assert found.loc[("AD 50%", "SaCo"), "correlation"] == pytest.approx(-1)
    assert set(found["methods"]) == {3}


def test_ties_share_their_average_rank() -> None:
    # Ranks 1, 2.5, 2.5, 4 and 1, 2, 3, 4: 4.5 / sqrt(4.5 * 5) by hand.
    one = {"a": [1.0], "b": [2.0], "c": [2.0], "d": [9.0]}
    other = {"a": [1.0], "b": [2.0], "c": [3.0], "d": [4.0]}
    found = rank_agreement(pd.concat([long("SDS", one), long("SaCo", other)]))
    assert found["correlation"][0] == pytest.approx(4.5 / (4.5 * 5) ** 0.5)
    equal = {"a": [1.0], "b": [1.0], "c": [1.0]}
    found = rank_agreement(pd.concat([long("SDS", equal), long("SaCo", other)]))
    assert found["correlation"][0] == 0


def test_the_interval_resamples_photos_of_both_scores_together() -> None:
    """Against a slow bootstrap by other means; apart, the interval would be another one."""
    generator = torch.Generator().manual_seed(3)
    one = torch.randn(12, 5, generator=generator).double()
    other = one + 0.3 * torch.randn(12, 5, generator=generator).double()
    names = "abcde"
    table = pd.concat(
        [
            long("SDS", {name: one[:, i].tolist() for i, name in enumerate(names)}),
            long("SaCo", {name: other[:, i].tolist() for i, name in enumerate(names)}),
        ]
    )
    row = rank_agreement(table, resamples=4000).iloc[0]
    draw, found = random.Random(0), []
    for _ in range(4000):
        chosen = draw.choices(range(12), k=12)
        frame = pd.DataFrame({"x": one[chosen].mean(0).numpy(), "y": other[chosen].mean(0).numpy()})
        found.append(float(frame.rank().corr().loc["x", "y"]))
    low, high = np.percentile(found, [2.5, 97.5])
    assert row["low"] == pytest.approx(low, abs=0.11)  # steps of 0.1 among five methods
    assert row["high"] == pytest.approx(high, abs=0.11)
    whole = pd.DataFrame({"x": one.mean(0).numpy(), "y": other.mean(0).numpy()})
    assert row["correlation"] == pytest.approx(whole.rank().corr().loc["x", "y"])


def test_scores_on_other_photos_share_methods_only() -> None:
    one = {"a": [3.0, 3.0], "b": [2.0, 2.0], "c": [1.0, 1.0], "d": [0.0, 0.0]}
    other = {"a": [3.0], "b": [2.0], "c": [1.0]}
    found = rank_agreement(pd.concat([long("SDS", one), long("grid pointing", other, "mosaic ")]))
    assert (found["correlation"][0], found["methods"][0]) == (1, 3)
    with pytest.raises(TTameError, match="share 2 methods"):
        rank_agreement(
            pd.concat([long("SDS", one), long("energy", {"a": [1.0], "b": [2.0]}, "mosaic ")])
        )


def test_mean_ranks_by_hand() -> None:
    means = pd.DataFrame(
        {"SDS": [3.0, 2.0, 1.0], "ROAD MoRF": [9.0, 7.0, 8.0], "grid pointing": [5.0, None, 6.0]},
        index=["a", "b", "c"],
    )
    found = mean_ranks(means)
    # a: 0, 1 and 1; b: 1/2 and 0; c: 1, 1/2 and 0.
    assert list(found.index) == ["b", "c", "a"]
    assert found.tolist() == pytest.approx([1 / 4, 1 / 2, 2 / 3])
