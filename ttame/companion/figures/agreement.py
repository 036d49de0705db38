"""The test of the tests as one figure: what blind maps win, and which metrics agree."""

from __future__ import annotations

from collections.abc import Mapping

import numpy as np
import pandas as pd
import seaborn as sns
from matplotlib.axes import Axes
from matplotlib.figure import Figure

from ttame.companion.figures.panels import draw_verdicts, listed, name_lines, panels
from ttame.evaluation.confidence import higher_is_better
from ttame.plotting import SIGNED_COLORS

_SIZE = 7.0  # points, of names and numbers
_LINE = 0.27  # inches per score


def plot_agreement(
    margins: Mapping[str, pd.DataFrame], correlations: Mapping[str, pd.DataFrame]
) -> Figure:
    """Plot the best blind map against the best method that looks, and how metrics agree.

    Args:
        margins: `ttame.evaluation.agreement.blind_margins` by name of the photos.
        correlations: `ttame.evaluation.agreement.rank_agreement` by the same names.

    Returns:
        Above, one panel per set: the paired difference by score, right of zero where the blind map
        is better, with its rank among all methods; below, the rank correlations, with a number
        where the interval leaves zero out.
    """
    count, longest = len(margins), max(map(len, margins.values()))
    size = (4.6 * count, 2 * (_LINE * longest + 1.0))
    alt = describe_agreement(margins, correlations)
    figure, axes = panels(2 * count, size, alt, columns=count)
    for axis, (name, table) in zip(axes, margins.items(), strict=False):
        _draw_margins(axis, table)
        axis.set_title(name)
    for axis, table in zip(axes[count:], correlations.values(), strict=True):
        _draw_correlations(axis, table)
    figure.legend(
        *axes[0].get_legend_handles_labels(), loc="outside upper center", ncols=3, frameon=False
    )
    return figure


def _draw_margins(axis: Axes, table: pd.DataFrame) -> None:
    """Draw differences, right of zero where the blind map is better, and ranks beside them."""
    sign = np.array([[1 if higher_is_better(score) else -1] for score in table.index])
    signed = (table[["difference", "low", "high"]] * sign).assign(verdict=table["verdict"])
    lines = range(len(table))
    axis.axvline(0, color="0.3", linewidth=0.8)
    draw_verdicts(axis, signed, lines, 4, "best blind map")
    name_lines(axis, list(map(str, table.index)), _SIZE)
    for line, (rank, methods) in enumerate(zip(table["rank"], table["methods"], strict=True)):
        text = f"{rank} of {methods}"
        axis.text(1.02, line, text, size=_SIZE, va="center", transform=axis.get_yaxis_transform())
    axis.set_xlabel("lead of the best blind map, percentage points", size=8)


def _draw_correlations(axis: Axes, table: pd.DataFrame) -> None:
    """Draw the lower triangle of correlations, with numbers where they leave zero out."""
    names = list(dict.fromkeys([*table["first"], *table["second"]]))
    shown = table.assign(
        text=[
            f"{value:+.1f}" if low > 0 or high < 0 else ""
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
        values, annot=texts.fillna(""), fmt="", vmin=-1, vmax=1, cmap=SIGNED_COLORS, cbar=False,
        square=True, linewidths=0.5, annot_kws={"size": 5.5}, xticklabels=True, yticklabels=True,
        ax=axis,
    )  # fmt: skip
    axis.set(xlabel="", ylabel="")
    axis.tick_params(labelsize=_SIZE, length=0)


def describe_agreement(
    margins: Mapping[str, pd.DataFrame], correlations: Mapping[str, pd.DataFrame]
) -> str:
    """Name the scores that blind maps win or tie, and the pairs that agree least and most."""
    parts = []
    for name, table in margins.items():
        for verdict, words in (("better", "a blind map wins"), ("open", "a blind map may win")):
            chosen = table.index[table["verdict"] == verdict]
            if len(chosen):
                parts.append(f"{name}: {words} {', '.join(chosen)}.")
    for name, table in correlations.items():
        pairs = table.set_index(table["first"] + " and " + table["second"])["correlation"]
        ends = pairs.sort_values().iloc[[0, -1]]
        parts.append(f"{name}: rank correlation of metrics from {listed(ends, 2)}.")
    return (
        "Above, the lead of the best blind map over the best method that looks, by metric, with "
        f"intervals and ranks; below, rank correlations of metrics. {' '.join(parts)}"
    )
