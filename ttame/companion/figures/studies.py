"""Charts of studies: one axis in a table, a figure and words, and all variants ranked."""

from __future__ import annotations

from math import ceil

import pandas as pd
import seaborn as sns
from matplotlib.figure import Figure

from ttame.companion.figures.curves import _listed
from ttame.companion.studies.study import Study
from ttame.companion.studies.tables import axis_runs, axis_words, mean_scores, seed_intervals
from ttame.evaluation.confidence import higher_is_better
from ttame.plotting import PALETTE, Picture

_LOOKS = {"better": (0, "o"), "worse": (3, "s"), "open": (None, "D")}


def show_axis(long: pd.DataFrame, study: Study, *axes: str, resamples: int = 1000) -> None:
    """Display the mean scores, the figure and the verdicts of each axis in a notebook.

    Args:
        long: `ttame.companion.studies.tables.run_scores`.
        study: The study that was run.
        axes: Names of its axes; several of them get a heading each.
        resamples: Number of bootstrap resamples.

    Raises:
        TTameError: If the study has no such axis, or none of its runs is there.
    """
    from IPython.display import Markdown, display

    for name in axes:
        found = axis_runs(long, study.variants, name)
        if len(axes) > 1:
            display(Markdown(f"**{name.capitalize()}**"))  # type: ignore[no-untyped-call]
        words = Markdown(axis_words(long, study, name, resamples))  # type: ignore[no-untyped-call]
        display(mean_scores(found).round(1), plot_axis(found), words)  # type: ignore[no-untyped-call]


def plot_axis(long: pd.DataFrame) -> Figure:
    """The scores of an axis's variants, one panel per score.

    Filled marks are means with 95 % intervals over photos and seeds, hollow ones the seeds' means
    where there are several.

    Args:
        long: `ttame.companion.studies.tables.axis_runs`.
    """
    table = seed_intervals(long)
    scores, names = list(dict.fromkeys(table["score"])), list(dict.fromkeys(table["method"]))
    columns = min(len(scores), 3)
    lines = ceil(len(scores) / columns)
    size = (10.0, lines * (0.26 * len(names) + 0.9))
    figure = Picture(figsize=size, layout="constrained", alt=describe_axis(table))
    axes = figure.subplots(lines, columns, sharey=True, squeeze=False).flatten()
    color = sns.color_palette(PALETTE)[0]
    seeds = long.groupby(["method", "score", "seed"], sort=False)["value"].mean().reset_index()
    for axis, score in zip(axes, scores, strict=False):
        rows = table[table["score"] == score].set_index("method").loc[names]
        axis.hlines(range(len(names)), rows["low"], rows["high"], color=color, linewidth=1.6)
        sns.scatterplot(x=rows["mean"], y=range(len(names)), color=color, s=36, ax=axis, zorder=3)
        single = seeds[(seeds["score"] == score) & seeds["method"].map(rows["seeds"]).gt(1)]
        axis.plot(
            single["value"], single["method"].map(names.index), "o", markersize=7,
            markerfacecolor="none", markeredgecolor="0.3", markeredgewidth=0.8, linestyle="none",
        )  # fmt: skip
        better = "higher" if higher_is_better(score) else "lower"
        axis.set(title=f"{score} ({better} is better)", xlabel="", ylabel="")
        axis.set(yticks=range(len(names)), yticklabels=names)
        axis.set_ylim(len(names) - 0.5, -0.5)
        axis.grid(axis="y", alpha=0.3)
        axis.title.set_fontsize(10)
        axis.tick_params(labelsize=9)
    figure.supxlabel("mean over photos and seeds, %", fontsize=10)
    sns.despine(fig=figure)
    return figure


def plot_ranking(table: pd.DataFrame) -> Figure:
    """Every variant against the row that changes nothing, best first.

    Args:
        table: `ttame.companion.studies.tables.ranking`.
    """
    size = (9.5, 0.24 * len(table) + 1.2)
    figure = Picture(figsize=size, layout="constrained", alt=describe_ranking(table))
    axis, colors = figure.subplots(), sns.color_palette(PALETTE)
    axis.axvline(0, color="0.3", linewidth=0.8)
    for verdict, (index, marker) in _LOOKS.items():
        rows = table[table["verdict"] == verdict]
        color = "0.5" if index is None else colors[index]
        axis.hlines(rows.index, rows["low"], rows["high"], color=color, linewidth=1.6)
        sns.scatterplot(x=rows["difference"], y=rows.index, color=color, s=36, ax=axis, zorder=3,
                        marker=marker, label=verdict)  # fmt: skip
    axis.set(yticks=table.index, yticklabels=table["axis"] + ": " + table["variant"])
    axis.set_ylim(len(table) - 0.5, -0.5)
    axis.set(xlabel="IC - AD against the default, percentage points", ylabel="")
    axis.grid(axis="y", alpha=0.3)
    axis.tick_params(labelsize=8)
    axis.legend(frameon=False, loc="lower right")
    sns.despine(fig=figure)
    return figure


def describe_axis(table: pd.DataFrame) -> str:
    """The mean of every score and variant of an axis."""
    parts = [
        f"{score}: {_listed(rows.set_index('method')['mean'])}."
        for score, rows in table.groupby("score", sort=False)
    ]
    return f"Means over photos and seeds with intervals, percent. {' '.join(parts)}"


def describe_ranking(table: pd.DataFrame) -> str:
    """Every ranked variant with its difference."""
    parts = [
        f"{row.axis}: {row.variant} {row.difference:+.1f} ({row.verdict})"
        for row in table.itertuples()
    ]
    return (
        f"{len(table)} variants by how much IC less AD differs from the default, percentage "
        f"points, best first: {'; '.join(parts)}."
    )
