"""The test of the tests as figures: what blind maps win, and which metrics agree."""

from __future__ import annotations

from collections.abc import Mapping

import matplotlib as mpl
import numpy as np
import pandas as pd
import seaborn as sns
from matplotlib.axes import Axes
from matplotlib.colors import ListedColormap
from matplotlib.figure import Figure

from ttame.companion.figures.panels import caption, draw_verdicts, listed, name_lines, panels
from ttame.evaluation.confidence import higher_is_better
from ttame.plotting import LETTERING, PAGE_WIDTH, SIGNED_COLORS

_LINE = 0.24  # inches per score
# The paler part of the colours: black numbers on them can be read, as light ones in a dark copy.
# So few that the colour bar is no embedded image, whose colours a dark copy would leave.
_PALE = ListedColormap(mpl.colormaps[SIGNED_COLORS](np.linspace(0.2, 0.8, 41)))


def plot_margins(margins: Mapping[str, pd.DataFrame]) -> Figure:
    """Plot the best blind map against the best method that looks, one panel per set of photos.

    Args:
        margins: `ttame.evaluation.agreement.blind_margins` by name of the photos.

    Returns:
        The paired differences by score, right of zero where the blind map is better, with its
        rank among all methods.
    """
    scores = list(dict.fromkeys(score for table in margins.values() for score in table.index))
    size = (PAGE_WIDTH, _LINE * len(scores) + 1.2)
    figure, axes = panels(len(margins), size, describe_margins(margins), sharey=True)
    for axis, (name, table) in zip(axes, margins.items(), strict=True):
        _draw_margins(axis, table, scores)
        caption(axis, name)
    figure.supxlabel("lead of the best blind map, percentage points", fontsize=8)
    figure.legend(
        *axes[0].get_legend_handles_labels(), loc="outside upper center", ncols=3, frameon=False
    )
    return figure


def plot_agreement(correlations: pd.DataFrame) -> Figure:
    """Plot how metrics agree in their ranking of methods.

    Args:
        correlations: `ttame.evaluation.agreement.rank_agreement`.

    Returns:
        The rank correlations, with a number where the interval leaves zero out.
    """
    count = correlations["second"].nunique()
    size = (PAGE_WIDTH, 0.36 * count + 1)
    figure, (axis,) = panels(1, size, describe_agreement(correlations))
    _draw_correlations(axis, correlations)
    return figure


def _draw_margins(axis: Axes, table: pd.DataFrame, scores: list[str]) -> None:
    """Draw differences, right of zero where the blind map is better, and ranks beside them."""
    sign = np.array([[1 if higher_is_better(score) else -1] for score in table.index])
    signed = (table[["difference", "low", "high"]] * sign).assign(verdict=table["verdict"])
    lines = [scores.index(score) for score in table.index]
    axis.axvline(0, color="0.3", linewidth=0.8)
    draw_verdicts(axis, signed, lines, 4, "best blind map")
    name_lines(axis, scores, LETTERING)
    for line, (rank, methods) in zip(lines, table[["rank", "methods"]].to_numpy(), strict=True):
        text, place = f"{rank} of {methods}", axis.get_yaxis_transform()
        axis.text(1.02, line, text, size=LETTERING, va="center", transform=place)


def _draw_correlations(axis: Axes, table: pd.DataFrame) -> None:
    """Draw the lower triangle of correlations, with numbers where they leave zero out."""
    names = list(dict.fromkeys([*table["first"], *table["second"]]))
    shown = table.assign(
        text=[
            f"{value:+.1f}".replace("-", "\N{MINUS SIGN}") if low > 0 or high < 0 else ""
            for value, low, high in table[["correlation", "low", "high"]].itertuples(index=False)
        ]
    )
    values, texts = (
        shown.pivot(index="second", columns="first", values=column).reindex(
            index=names[1:], columns=names[:-1]
        )
        for column in ("correlation", "text")
    )
    sns.heatmap(
        values, annot=texts.fillna(""), fmt="", vmin=-1, vmax=1, cmap=_PALE, cbar=False,
        linewidths=0.5, annot_kws={"size": LETTERING, "color": "black"}, xticklabels=True,
        yticklabels=True, ax=axis,
    )  # fmt: skip
    corner = axis.inset_axes((0.6, 0.9, 0.36, 0.03))  # the triangle leaves it free
    bar = axis.figure.colorbar(axis.collections[0], cax=corner, orientation="horizontal")
    corner.collections[-1].set_edgecolor("face")  # no seams
    bar.set_ticks([-1, 0, 1])
    bar.set_label("rank correlation", size=8)
    bar.ax.tick_params(labelsize=LETTERING, length=0)
    axis.set(xlabel="", ylabel="")
    axis.tick_params(labelsize=LETTERING, length=0)


def describe_margins(margins: Mapping[str, pd.DataFrame]) -> str:
    """Name the scores that blind maps win or tie."""
    parts = []
    for name, table in margins.items():
        for verdict, words in (("better", "a blind map wins"), ("open", "a blind map may win")):
            chosen = table.index[table["verdict"] == verdict]
            if len(chosen):
                parts.append(f"{name}: {words} {', '.join(chosen)}.")
    return (
        "Lead of the best blind map over the best method that looks, by metric, with intervals and "
        f"ranks. {' '.join(parts)}"
    )


def describe_agreement(correlations: pd.DataFrame) -> str:
    """Name the pairs of metrics that agree least and most."""
    names = correlations["first"] + " and " + correlations["second"]
    ends = correlations["correlation"].set_axis(names).sort_values().iloc[[0, -1]]
    return f"Rank correlation of metrics, from {listed(ends, 2)}."
