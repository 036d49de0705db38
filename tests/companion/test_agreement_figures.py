"""The figure of the test of the tests."""

from __future__ import annotations

import pandas as pd

from ttame.companion.figures.agreement import (
    describe_agreement,
    describe_margins,
    plot_agreement,
    plot_margins,
)
from ttame.plotting import Picture

MARGINS = pd.DataFrame(
    {
        "rank": [1, 2, 3],
        "methods": [4, 4, 4],
        "difference": [-2.0, -8.0, 1.0],
        "low": [-3.0, -9.0, -1.0],
        "high": [-1.0, -7.0, 2.0],
        "verdict": ["better", "worse", "open"],
    },
    index=["AD 100%", "SDS", "SaCo"],
)
PAIRS = pd.DataFrame(
    {
        "first": ["AD 100%", "AD 100%", "SDS"],
        "second": ["SDS", "SaCo", "SaCo"],
        "correlation": [-0.5, 0.25, 0.9],
        "low": [-0.8, -0.1, 0.7],
        "high": [-0.2, 0.5, 1.0],
    }
)


def test_margins_are_signed_and_ranked() -> None:
    short = MARGINS.loc[["SDS"]].assign(rank=7, methods=9)
    figure = plot_margins({"photos": MARGINS, "others": short})
    assert isinstance(figure, Picture)
    first, second = figure.axes
    marks = {
        float(x) for line in first.lines for x in line.get_xdata() if line.get_marker() != "None"
    }
    assert marks == {2.0, -8.0, 1.0}  # a drop that is smaller leads
    assert [text.get_text() for text in first.texts] == ["1 of 4", "2 of 4", "3 of 4"]
    assert [label.get_text() for label in first.get_yticklabels()] == list(MARGINS.index)
    (only,) = second.texts  # in the line of its score, although the set has no other
    assert (only.get_text(), only.get_position()[1]) == ("7 of 9", 1)


def test_correlations_that_may_be_zero_carry_no_number() -> None:
    figure = plot_agreement(PAIRS)
    assert isinstance(figure, Picture)
    (axis,) = figure.axes
    assert [text.get_text() for text in axis.texts] == ["\N{MINUS SIGN}0.5", "", "+0.9"]
    assert {text.get_color() for text in axis.texts} == {"black"}
    (bar,) = axis.child_axes
    assert bar.get_xlabel() == "rank correlation"
    assert bar.get_xlim() == (-1, 1)
    assert [label.get_text() for label in axis.get_xticklabels()] == ["AD 100%", "SDS"]


def test_the_descriptions_name_what_blind_maps_win_and_what_agrees() -> None:
    text = describe_margins({"photos": MARGINS})
    assert "photos: a blind map wins AD 100%. photos: a blind map may win SaCo." in text
    assert "from AD 100% and SDS -0.50, SDS and SaCo 0.90." in describe_agreement(PAIRS)
