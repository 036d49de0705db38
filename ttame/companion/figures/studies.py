"""Charts of studies: the variants of one axis, and all variants ranked."""

from __future__ import annotations

from collections.abc import Sequence
from typing import Any, Literal

import pandas as pd
from matplotlib.figure import Figure
from matplotlib.lines import Line2D
from matplotlib.ticker import MaxNLocator

from ttame.companion.figures.panels import (
    COLORS,
    caption,
    draw_verdicts,
    listed,
    name_lines,
    panels,
    verdict_label,
)
from ttame.companion.studies.study import Study
from ttame.companion.studies.tables import axis_runs, seed_intervals
from ttame.companion.studies.verdicts import axis_words
from ttame.errors import TTameError
from ttame.evaluation.confidence import higher_is_better
from ttame.plotting import LETTERING, PAGE_WIDTH

# Of references, in order.
_LOOKS: Sequence[tuple[Literal["-", "--", "-.", ":"], Any]] = (
    ("-", COLORS[1]), ("--", "0.35"), ("-.", "0.35"), (":", "0.35"),
)  # fmt: skip


def show_axis(
    long: pd.DataFrame,
    study: Study,
    axis: str,
    references: pd.DataFrame | None = None,
    resamples: int = 1000,
) -> None:
    """Display the chart of an axis in a notebook, and below it what it says in one sentence.

    Args:
        long: `ttame.companion.studies.tables.run_scores`, or some of its percentages.
        study: The study.
        axis: Name of the axis.
        references: As for `plot_axis`.
        resamples: Number of bootstrap resamples.

    Raises:
        TTameError: If the study has no such axis, or no record of its default and a variant.
    """
    from IPython.display import Markdown, display

    name = Markdown(f"**{axis.capitalize()}**")  # type: ignore[no-untyped-call]
    words = Markdown(axis_words(long, study, axis, resamples))  # type: ignore[no-untyped-call]
    figure = plot_axis(axis_runs(long, study.variants, axis), references)
    display(name, figure, words)  # type: ignore[no-untyped-call]


def plot_axis(long: pd.DataFrame, references: pd.DataFrame | None = None) -> Figure:
    """Plot the scores of an axis's variants, one panel per score.

    Filled marks are means with 95 % intervals over photos and seeds; hollow marks are the means of
    single seeds, where there are several. Vertical lines are the means of other methods.

    Args:
        long: `ttame.companion.studies.tables.axis_runs`.
        references: At most four other methods on the same photos, columns method, score and value
            (`ttame.companion.studies.references.read_references`).

    Raises:
        TTameError: If there are more than four references, or one lacks a score.
    """
    table = seed_intervals(long)
    scores, names = list(dict.fromkeys(table["score"])), list(dict.fromkeys(table["method"]))
    lines = _reference_means(references, scores)
    size = (PAGE_WIDTH, 0.22 * len(names) + 0.85 + 0.2 * bool(len(lines)))
    figure, axes = panels(len(scores), size, describe_axis(table, lines), sharey=True)
    seeds = long.groupby(["method", "score", "seed"], sort=False)["value"].mean().reset_index()
    for axis, score in zip(axes, scores, strict=True):
        rows = table[table["score"] == score].set_index("method").loc[names]
        for value, (style, color) in zip(lines[score], _LOOKS, strict=False):
            axis.axvline(value, linestyle=style, color=color, linewidth=1, zorder=0)
        axis.hlines(range(len(names)), rows["low"], rows["high"], color=COLORS[0], linewidth=1.5)
        axis.plot(rows["mean"], range(len(names)), "o", color=COLORS[0], markersize=5)
        single = seeds[(seeds["score"] == score) & seeds["method"].map(rows["seeds"]).gt(1)]
        axis.plot(
            single["value"], single["method"].map(names.index), "o", markersize=6,
            markerfacecolor="none", markeredgecolor="0.3", markeredgewidth=0.8, linestyle="none",
        )  # fmt: skip
        better = "higher" if higher_is_better(score) else "lower"
        caption(axis, f"{score}\n{better} is better")
        axis.title.set_fontsize(LETTERING)  # six of them share a line
        if len(scores) > 4:
            axis.xaxis.set_major_locator(MaxNLocator(2))
        name_lines(axis, names, size=LETTERING)
    figure.supxlabel("mean over photos and seeds, %", fontsize=8)
    handles = [Line2D([], [], label=name, linestyle=style, color=color, linewidth=1)
               for name, (style, color) in zip(lines.index, _LOOKS, strict=False)]  # fmt: skip
    if handles:
        figure.legend(handles=handles, loc="outside upper center", ncols=len(handles),
                      frameon=False, fontsize=LETTERING)  # fmt: skip
    return figure


def _reference_means(references: pd.DataFrame | None, scores: list[str]) -> pd.DataFrame:
    """Return the mean of each reference and score, one row per method."""
    if references is None:
        return pd.DataFrame(columns=scores)
    means = references.pivot_table(index="method", columns="score", values="value", sort=False)
    means = means.reindex(columns=scores)
    if len(means) > len(_LOOKS) or bool(means.isna().any(axis=None)):
        raise TTameError(
            f"references are at most {len(_LOOKS)} methods with the scores {', '.join(scores)}; "
            f"got {', '.join(map(str, means.index))}"
        )
    return means


def plot_ranking(table: pd.DataFrame) -> Figure:
    """Plot the difference between each variant and its axis's default, best first.

    Args:
        table: `ttame.companion.studies.tables.ranking`.
    """
    figure, (axis,) = panels(1, (3.9, 0.4 * len(table) + 1.2), describe_ranking(table))
    axis.axvline(0, color="0.3", linewidth=0.8)
    draw_verdicts(axis, table, range(len(table)), size=6)
    # As wide as a phone. Beside the lines, long names would leave half of that to the data.
    name_lines(axis, [""] * len(table), size=8)
    names = table["axis"] + ": " + table["variant"]
    for place, name in enumerate(names):
        axis.annotate(name, (0.006, place - 0.32), xycoords=("axes fraction", "data"), fontsize=8,
                      va="center")  # fmt: skip
    axis.set_ylim(len(table) - 0.5, -0.8)
    axis.set_xlabel("IC minus AD against the default, percentage points")
    handles, labels = axis.get_legend_handles_labels()
    present = set(map(verdict_label, table["verdict"]))
    shown = [(handle, label) for handle, label in zip(handles, labels, strict=True)
             if label in present]  # fmt: skip
    figure.legend(*zip(*shown, strict=True), loc="outside upper right", ncols=3, frameon=False,
                  fontsize=LETTERING, columnspacing=1, handletextpad=0.2)  # fmt: skip
    return figure


def describe_axis(table: pd.DataFrame, lines: pd.DataFrame) -> str:
    """List the mean of every score and variant of an axis, and of the references.

    Args:
        table: `ttame.companion.studies.tables.seed_intervals`.
        lines: Means of the references, one row per method and one column per score.
    """
    parts = []
    for score, rows in table.groupby("score", sort=False):
        beside = f"; lines: {listed(lines[score])}" if len(lines) else ""
        parts.append(f"{score}: {listed(rows.set_index('method')['mean'])}{beside}.")
    return f"Means over photos and seeds with intervals, percent. {' '.join(parts)}"


def describe_ranking(table: pd.DataFrame) -> str:
    """List every ranked variant with its difference."""
    parts = [
        f"{row.axis}: {row.variant} {row.difference:+.1f} ({row.verdict})"
        for row in table.itertuples()
    ]
    return (
        f"{len(table)} variants by how much IC minus AD differs from the default, percentage "
        f"points, best first: {'; '.join(parts)}."
    )
