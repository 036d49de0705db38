"""What charts share: panels in a row, named lines, marks by verdict, and numbers in words."""

from __future__ import annotations

from collections.abc import Sequence
from typing import Any, Literal

import matplotlib as mpl
import numpy as np
import pandas as pd
import seaborn as sns
from matplotlib.axes import Axes
from matplotlib.layout_engine import ConstrainedLayoutEngine

from ttame.plotting import LETTERING, PAGE_WIDTH, PALETTE, Picture

COLORS = sns.color_palette(PALETTE)
_FONTS: dict[Any, Any] = {
    "axes.labelsize": 8.0,
    "xtick.labelsize": LETTERING,
    "ytick.labelsize": LETTERING,
}
_TITLE = 9.0  # points
_NARROWER = 0.8  # of the width that a panel asks for, before it goes to the next line
_LOOKS = {"better": (COLORS[0], "o"), "worse": (COLORS[3], "s"), "open": ("0.5", "D")}


def panels(
    count: int, size: tuple[float, float], alt: str, columns: int | None = None,
    sharex: bool = False, sharey: bool | Literal["row"] = False,
) -> tuple[Picture, list[Axes]]:  # fmt: skip
    """Make a figure of panels, filled line by line, at most as wide as a page.

    Args:
        count: Number of panels.
        size: Width and height of the figure, inches. Where that is wider than a page, panels get
            somewhat narrower or go to further lines, which are as high as the others.
        alt: Alternative text.
        columns: Panels in a line, at most; default: all.
        sharex: Share the horizontal axis.
        sharey: Share the vertical axis, of all panels or of those in a `"row"`.

    Returns:
        The figure and its panels.
    """
    asked = columns or count
    each, height = size[0] / asked, size[1] / -(-count // asked)
    columns = min(asked, max(int(PAGE_WIDTH / (_NARROWER * each)), 1))
    lines = -(-count // columns)
    size = (min(each * columns, PAGE_WIDTH), height * lines)
    figure = Picture(figsize=size, layout="constrained", alt=alt)
    with mpl.rc_context(_FONTS):
        axes = figure.subplots(lines, columns, squeeze=False, sharex=sharex, sharey=sharey)
    if lines > 1:  # titles keep away from the line above
        figure.set_layout_engine(ConstrainedLayoutEngine(h_pad=0.08))
    axes = axes.flatten()
    for axis in axes[count:]:
        axis.remove()
    sns.despine(fig=figure)
    return figure, list(axes[:count])


def caption(axis: Axes, title: str, xlabel: str = "", ylabel: str = "") -> None:
    """Set the title of a panel and its axes' labels, in the sizes of all charts.

    Args:
        axis: The panel.
        title: The title.
        xlabel: Label of the horizontal axis.
        ylabel: Label of the vertical axis.
    """
    axis.set_title(title, fontsize=_TITLE)  # a title takes its size when it is set
    axis.set(xlabel=xlabel, ylabel=ylabel)


def name_lines(axis: Axes, names: Sequence[str], size: float) -> None:
    """Give each name a line of its own, from the top.

    Args:
        axis: The panel.
        names: Names of the lines.
        size: Font size of the labels, points.
    """
    axis.set(yticks=range(len(names)), yticklabels=names, ylabel="")
    axis.set_ylim(len(names) - 0.5, -0.5)
    axis.grid(axis="y", alpha=0.3)
    axis.tick_params(labelsize=size)


def draw_verdicts(
    axis: Axes, table: pd.DataFrame, lines: Sequence[int], size: float, method: str = ""
) -> None:
    """Draw differences and their intervals, in colours and marks by verdict.

    Args:
        axis: The panel.
        table: Columns difference, low, high and verdict.
        lines: Line of each row, from the top.
        size: Size of the marks, points.
        method: What is better or worse, for the legend.
    """
    for verdict, (color, marker) in _LOOKS.items():
        chosen = (table["verdict"] == verdict).to_numpy()
        rows, places = table[chosen], np.asarray(lines)[chosen]
        ends = rows[["low", "high"]].to_numpy()
        axis.hlines(places, ends.min(axis=1), ends.max(axis=1), color=color, linewidth=1.5)
        axis.plot(rows["difference"], places, marker, color=color, markersize=size,
                  label=verdict_label(verdict, method))  # fmt: skip


def verdict_label(verdict: str, method: str = "") -> str:
    """Return what a legend calls a verdict on `method`."""
    return "no difference shown" if verdict == "open" else f"{method} {verdict}".strip()


def listed(values: pd.Series[Any], digits: int = 1) -> str:
    """Return names and values as text, such as `"a 1.0, b 2.5"`."""
    return ", ".join(f"{name} {value:.{digits}f}" for name, value in values.items())
