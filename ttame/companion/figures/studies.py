"""Charts of studies: the variants of one axis, and all variants ranked."""

from __future__ import annotations

from math import ceil

import pandas as pd
from matplotlib.figure import Figure

from ttame.companion.figures.panels import (
    COLORS,
    caption,
    draw_verdicts,
    listed,
    name_lines,
    panels,
)
from ttame.companion.studies.study import Study
from ttame.companion.studies.tables import axis_runs, axis_words, mean_scores, seed_intervals
from ttame.evaluation.confidence import higher_is_better


def show_axis(long: pd.DataFrame, study: Study, *axes: str, resamples: int = 1000) -> None:
    """Display the mean scores, the chart and the verdicts of each axis in a notebook.

    Args:
        long: `ttame.companion.studies.tables.run_scores`.
        study: The study.
        axes: Names of its axes; several get a heading each.
        resamples: Number of bootstrap resamples.

    Raises:
        TTameError: If the study has no such axis, or no record of its runs.
    """
    from IPython.display import Markdown, display

    for name in axes:
        found = axis_runs(long, study.variants, name)
        if len(axes) > 1:
            display(Markdown(f"**{name.capitalize()}**"))  # type: ignore[no-untyped-call]
        words = Markdown(axis_words(long, study, name, resamples))  # type: ignore[no-untyped-call]
        display(mean_scores(found).round(1), plot_axis(found), words)  # type: ignore[no-untyped-call]


def plot_axis(long: pd.DataFrame) -> Figure:
    """Plot the scores of an axis's variants, one panel per score.

    Filled marks are means with 95 % intervals over photos and seeds; hollow marks are the means of
    single seeds, where there are several.

    Args:
        long: `ttame.companion.studies.tables.axis_runs`.
    """
    table = seed_intervals(long)
    scores, names = list(dict.fromkeys(table["score"])), list(dict.fromkeys(table["method"]))
    columns = min(len(scores), 3)
    lines = ceil(len(scores) / columns)
    size = (10.0, lines * (0.26 * len(names) + 0.9))
    figure, axes = panels(len(scores), size, describe_axis(table), columns=columns, sharey=True)
    seeds = long.groupby(["method", "score", "seed"], sort=False)["value"].mean().reset_index()
    for axis, score in zip(axes, scores, strict=True):
        rows = table[table["score"] == score].set_index("method").loc[names]
        axis.hlines(range(len(names)), rows["low"], rows["high"], color=COLORS[0], linewidth=1.5)
        axis.plot(rows["mean"], range(len(names)), "o", color=COLORS[0], markersize=6)
        single = seeds[(seeds["score"] == score) & seeds["method"].map(rows["seeds"]).gt(1)]
        axis.plot(
            single["value"], single["method"].map(names.index), "o", markersize=7,
            markerfacecolor="none", markeredgecolor="0.3", markeredgewidth=0.8, linestyle="none",
        )  # fmt: skip
        better = "higher" if higher_is_better(score) else "lower"
        caption(axis, f"{score} ({better} is better)")
        name_lines(axis, names, size=8)
    figure.supxlabel("mean over photos and seeds, %", fontsize=8)
    return figure


def plot_ranking(table: pd.DataFrame) -> Figure:
    """Plot the difference between each variant and its axis's default, best first.

    Args:
        table: `ttame.companion.studies.tables.ranking`.
    """
    figure, (axis,) = panels(1, (9.5, 0.24 * len(table) + 1.2), describe_ranking(table))
    axis.axvline(0, color="0.3", linewidth=0.8)
    draw_verdicts(axis, table, range(len(table)), size=6)
    name_lines(axis, list(table["axis"] + ": " + table["variant"]), size=8)
    axis.set_xlabel("IC - AD against the default, percentage points")
    axis.legend(frameon=False, loc="lower right")
    return figure


def describe_axis(table: pd.DataFrame) -> str:
    """List the mean of every score and variant of an axis."""
    parts = [
        f"{score}: {listed(rows.set_index('method')['mean'])}."
        for score, rows in table.groupby("score", sort=False)
    ]
    return f"Means over photos and seeds with intervals, percent. {' '.join(parts)}"


def describe_ranking(table: pd.DataFrame) -> str:
    """List every ranked variant with its difference."""
    parts = [
        f"{row.axis}: {row.variant} {row.difference:+.1f} ({row.verdict})"
        for row in table.itertuples()
    ]
    return (
        f"{len(table)} variants by how much IC less AD differs from the default, percentage "
        f"points, best first: {'; '.join(parts)}."
    )
