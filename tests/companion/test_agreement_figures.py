"""The figure of the test of the tests."""

from __future__ import annotations

import pandas as pd

from ttame.companion.figures.agreement import describe_agreement, plot_agreement
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


def test_margins_are_signed_and_correlations_that_may_be_zero_carry_no_number() -> None:
    figure = plot_agreement({"photos": MARGINS}, {"photos": PAIRS})
    assert isinstance(figure, Picture)
    above, below = figure.axes
    marks = {
        float(x) for line in above.lines for x in line.get_xdata() if line.get_marker() != "None"
    }
    assert marks == {2.0, -8.0, 1.0}  # a drop that is smaller leads
    assert [text.get_text() for text in above.texts] == ["1 of 4", "2 of 4", "3 of 4"]
    assert [label.get_text() for label in above.get_yticklabels()] == list(MARGINS.index)
    assert [text.get_text() for text in below.texts] == ["-0.5", "", "+0.9"]
    assert [label.get_text() for label in below.get_xticklabels()] == ["AD 100%", "SDS"]


def test_the_description_names_what_blind_maps_win() -> None:
    text = describe_agreement({"photos": MARGINS}, {"photos": PAIRS})
    assert "photos: a blind map wins AD 100%. photos: a blind map may win SaCo." in text
    assert "from AD 100% and SDS -0.50, SDS and SaCo 0.90." in text
