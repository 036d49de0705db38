"""The chart of what a budget buys."""

import pandas as pd
import pytest

from ttame.companion.figures.budgets import plot_budgets
from ttame.errors import TTameError
from ttame.plotting import Picture


def table() -> pd.DataFrame:
    """Two methods at two budgets each."""
    rows = [
        ("ours", 1, 30.0),
        ("ours", 9, 20.0),
        ("RISE", 100, 50.0),
        ("RISE", 400, 25),
    ]
    found = pd.DataFrame(rows, columns=["method", "budget", "mean"])
    return found.assign(score="AD 50%", low=found["mean"] - 1, high=found["mean"] + 2)


def test_scores_stand_against_the_budget() -> None:
    figure = plot_budgets(table(), ["AD 50%"])
    (axis,) = figure.axes
    assert axis.get_xlabel() == "passes for one map"
    assert axis.get_title() == "AD 50% (lower is better)" and axis.get_xscale() == "log"
    assert [list(line.get_xdata()) for line in axis.lines] == [[1, 9], [100, 400]]
    assert [list(line.get_ydata()) for line in axis.lines] == [[30, 20], [50, 25]]
    assert isinstance(figure, Picture)
    assert "AD 50%, ours: 30.0 with 1 and 20.0 with 9 passes for one map." in figure.alt


def test_a_budget_within_a_decade_has_a_linear_axis() -> None:
    found = table().assign(budget=[1.4, 6.9, 1.4, 6.9])
    (axis,) = plot_budgets(found, ["AD 50%"], "minutes of training").axes
    assert axis.get_xscale() == "linear" and axis.get_xlabel() == "minutes of training"


def test_what_cannot_be_drawn_is_refused() -> None:
    with pytest.raises(TTameError, match=r"scores IC 50%; got 2 with AD 50%"):
        plot_budgets(table(), ["IC 50%"])
    many = pd.concat([table().assign(method=f"m{index}") for index in range(6)])
    with pytest.raises(TTameError, match="at most 5 methods"):
        plot_budgets(many, ["AD 50%"])
