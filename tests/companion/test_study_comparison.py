"""Variants against each other, recomputed by hand on two photos and two seeds."""

from __future__ import annotations

from pathlib import Path

import numpy as np
import pandas as pd
import pytest

from ttame.companion.figures.studies import plot_axis, plot_ranking
from ttame.companion.studies.study import Claim, read_study
from ttame.companion.studies.tables import combined, differences, seed_intervals
from ttame.companion.studies.verdicts import axis_words, check_claims, ranking
from ttame.errors import TTameError
from ttame.plotting import Picture

STUDY = """
    [budget]
    backbone = "b"
    steps = 1
    [[variants]]
    axis = "size"
    name = "whole"
    [[variants]]
    axis = "size"
    name = "small"
    size = 64
    [[variants]]
    axis = "size"
    name = "not run"
    size = 32
    [[claims]]
    text = "whole photos are better"
    axis = "size"
    better = "whole"
    worse = "small"
    score = "AD 100%"
    [[claims]]
    text = "smaller ones are worse"
    axis = "size"
    better = "small"
    worse = "not run"
"""


def rows(method: str, photo: str, seed: int, drop: float, rise: float) -> list[dict[str, object]]:
    shared = {"photo": photo, "method": method, "seed": seed, "shown": "all", "percentage": 100}
    return [
        {**shared, "metric": "AD", "score": "AD 100%", "value": drop},
        {**shared, "metric": "IC", "score": "IC 100%", "value": rise},
    ]


def long() -> pd.DataFrame:
    """Two seeds of what changes nothing, one of a variant that is worse on every photo."""
    return pd.DataFrame(
        [
            *rows("nothing", "a", 0, 10, 0), *rows("nothing", "b", 0, 20, 100),
            *rows("nothing", "a", 1, 30, 0), *rows("nothing", "b", 1, 20, 100),
            *rows("size=64", "a", 0, 40, 0), *rows("size=64", "b", 0, 60, 100),
        ]
    )  # fmt: skip


@pytest.fixture
def path(tmp_path: Path) -> Path:
    file = tmp_path / "study.toml"
    file.write_text(STUDY, encoding="utf-8")
    return file


def test_intervals_hold_photos_and_seeds() -> None:
    table = seed_intervals(long()).set_index(["method", "score"])
    whole = table.loc["nothing", "AD 100%"]
    assert whole["mean"] == pytest.approx(20) and whole["seeds"] == 2
    assert whole["low"] == pytest.approx(10) and whole["high"] == pytest.approx(30)
    small = table.loc["size=64", "AD 100%"]
    assert (small["mean"], small["low"], small["high"]) == pytest.approx((50, 40, 60))
    # The two photos differ by the same amount in every seed: only their draw matters.
    assert table.loc["nothing", "IC 100%"]["mean"] == pytest.approx(50)


def test_seeds_widen_an_interval() -> None:
    photos = [f"{index}" for index in range(400)]
    still = pd.DataFrame(
        [row for seed in (0, 1) for name in photos for row in rows("m", name, seed, 10 * seed, 0)]
    )
    table = seed_intervals(still).set_index("score").loc["AD 100%"]
    # Photos agree; the mean is 0, 5 or 10 by the seeds that were drawn.
    assert (table["low"], table["mean"], table["high"]) == pytest.approx((0, 5, 10))


def test_one_score_a_photo() -> None:
    found = combined(long()).set_index(["method", "photo", "seed"])["value"]
    assert found["nothing", "a", 0] == -10 and found["nothing", "b", 1] == 100 - 20
    assert found["size=64", "b", 0] == 40


def test_differences_pair_photos_and_seeds() -> None:
    found = differences(long(), "size=64", "nothing").set_index("score")
    drop = found.loc["AD 100%"]  # seed 0 only: 40 - 10 and 60 - 20
    assert (drop["difference"], drop["low"], drop["high"]) == pytest.approx((35, 30, 40))
    assert drop["verdict"] == "worse" and drop["seeds"] == 1
    assert found.loc["IC 100%"]["verdict"] == "open"
    other = long().assign(seed=lambda table: np.where(table["method"] == "nothing", 7, 0))
    with pytest.raises(TTameError, match="no seed in common"):
        differences(other, "size=64", "nothing")


def test_ranking_claims_and_words(path: Path) -> None:
    study = read_study(path)
    ranked = ranking(long(), study)
    assert ranked[["axis", "variant", "verdict"]].to_numpy().tolist() == [
        ["size", "small", "worse"]
    ]
    assert ranked["difference"].iloc[0] == pytest.approx(-35)
    assert len(plot_ranking(ranked).axes) == 1
    claims = check_claims(long(), study)
    assert list(claims["verdict"]) == ["agrees", "not run"]
    assert claims["measured"].iloc[0] == "+35.0\u00a0(+30.0\u00a0to\u00a0+40.0)"
    assert list(claims["on"]) == ["AD 100%", "IC - AD"]
    assert axis_words(long(), study, "size") == (
        "Compared with “whole”, “small” (\u221235.0, \u221240.0 to \u221230.0) is **worse**. "
        "(IC minus AD, 1 seed in common.)"
    )
    only = long()[long()["method"] == "nothing"]
    with pytest.raises(TTameError, match=r"records of whole alone.*needs 'whole' and another"):
        axis_words(only, study, "size")
    with pytest.raises(TTameError, match="no variant and the row"):
        ranking(only, study)


def test_what_is_no_different_is_said_last(path: Path) -> None:
    study = read_study(path)
    same = pd.DataFrame(
        [
            *rows("nothing", "a", 0, 10, 0), *rows("nothing", "b", 0, 20, 0),
            *rows("size=64", "a", 0, 20, 0), *rows("size=64", "b", 0, 10, 0),
            *rows("size=32", "a", 0, 5, 0), *rows("size=32", "b", 0, 15, 0),
            *rows("nothing", "a", 1, 10, 0), *rows("nothing", "b", 1, 20, 0),
            *rows("size=32", "a", 1, 5, 0), *rows("size=32", "b", 1, 15, 0),
        ]
    )  # fmt: skip
    assert axis_words(same, study, "size") == (
        "Compared with “whole”, “not run” (+5.0, +5.0 to +5.0) is **better**; **no difference** is "
        "shown for “small”. (IC minus AD, 1 to 2 seeds in common.)"
    )


def test_an_axis_is_drawn_with_its_seeds() -> None:
    figure = plot_axis(long())
    assert [axis.get_title() for axis in figure.axes] == [
        "AD 100%\nlower is better", "IC 100%\nhigher is better",
    ]  # fmt: skip
    assert not figure.legends
    hollow = [line for line in figure.axes[0].lines if line.get_markerfacecolor() == "none"]
    assert len(hollow) == 1 and sorted(hollow[0].get_xdata()) == [
        15,
        25,
    ]  # the variant has one seed


def references(method: str, drop: float) -> pd.DataFrame:
    named = pd.DataFrame(rows(method, "a", 0, drop, 50) + rows(method, "b", 0, drop, 100))
    return named[["photo", "method", "score", "value"]]


def test_references_are_lines_with_a_legend() -> None:
    lines = pd.concat([references("Grad-CAM", 33), references("random", 90)])
    figure = plot_axis(long(), lines)
    drops, rises = figure.axes
    assert [line.get_xdata()[0] for line in drops.lines[:2]] == [33, 90]
    assert [line.get_xdata()[0] for line in rises.lines[:2]] == [75, 75]
    (legend,) = figure.legends
    assert [text.get_text() for text in legend.get_texts()] == ["Grad-CAM", "random"]
    assert isinstance(figure, Picture) and "lines: Grad-CAM 33.0, random 90.0" in figure.alt
    five = pd.concat([references(f"m{index}", 1) for index in range(5)])
    with pytest.raises(TTameError, match="at most 4 methods"):
        plot_axis(long(), five)
    with pytest.raises(TTameError, match="with the scores AD 100%, IC 100%"):
        plot_axis(long(), lines[lines["score"] == "AD 100%"])


@pytest.mark.parametrize(
    ("change", "message"),
    [
        (('worse = "not run"', 'worse = "gone"'), "axis 'size' has no row 'gone'"),
        (('worse = "not run"', 'word = "x"'), "unknown field 'word'"),
        (('worse = "not run"', ""), "text, axis, better and worse are needed"),
    ],
)
def test_a_claim_about_nothing_is_refused(
    path: Path, change: tuple[str, str], message: str
) -> None:
    path.write_text(STUDY.replace(*change), encoding="utf-8")
    with pytest.raises(TTameError, match=message):
        read_study(path)


def test_a_claim_names_its_score() -> None:
    assert Claim("x", "a", "b", "c").score == "IC - AD"
