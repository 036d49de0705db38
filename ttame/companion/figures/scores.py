"""Charts of methods: cost against score, differences, the sanity check.

Each `describe_...` returns the alternative text of a figure, with its numbers.
"""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from math import ceil, floor, log10
from typing import Any

import numpy as np
import pandas as pd
import seaborn as sns
from matplotlib.axes import Axes
from matplotlib.figure import Figure
from matplotlib.textpath import TextPath
from numpy.typing import NDArray

from ttame.companion.figures.panels import (
    COLORS,
    caption,
    draw_verdicts,
    listed,
    name_lines,
    panels,
)
from ttame.errors import TTameError
from ttame.evaluation.confidence import higher_is_better
from ttame.plotting import LETTERING, PAGE_WIDTH, PALETTE

Array = NDArray[np.floating[Any]]

_COLUMNS = 5  # panels beside each other, at most
_SIZE = 8.0  # points, of the labels in the cost chart
_DISTANCES = np.array([6, 12, 20, 30, 42, 56, 72, 90, 110])  # points from a mark to its label
_DIRECTIONS = 16


def plot_costs(
    table: pd.DataFrame,
    cost: str,
    scores: Mapping[str, str],
    xlabel: str,
    method: str = "T-TAME",
    controls: Sequence[str] = (),
) -> Figure:
    """Plot the score of each method against its cost, one panel per score; costs on a log axis.

    Labels avoid the marks and each other. A cost of zero has a place of its own at the left.
    Methods whose cost or score is missing (NaN) are left out.

    Args:
        table: One row per method, the name in the index.
        cost: Column of costs, none below zero.
        scores: Labels of the scores by column name.
        xlabel: Label of the costs, with their unit.
        method: Method to draw in colour.
        controls: Methods to draw hollow, such as maps that ignore the photo.

    Raises:
        TTameError: If a cost is negative, or no method has both a cost and a score.
    """
    points = {score: _points(table, cost, score) for score in scores}
    alt = describe_costs(points, scores, xlabel)
    figure, axes = panels(len(scores), (6.2 * len(scores), 4.8), alt)
    for axis, (score, label) in zip(axes, scores.items(), strict=True):
        found = points[score]
        _log_axis(axis, found["x"])
        for name, x, y in found.itertuples():
            color = COLORS[0] if name == method else "0.35"
            face = "white" if name in controls else color
            size = 9 if name == method else 5
            axis.plot(x, y, "o", color=color, markerfacecolor=face, markersize=size)
        axis.margins(0.12)
        better = "higher" if higher_is_better(score) else "lower"
        axis.set(xlabel=xlabel, ylabel=f"{label} ({better} is better)")
        axis.grid(alpha=0.3)
    figure.draw_without_rendering()  # labels depend on where the axes end up
    figure.set_layout_engine("none")
    for axis, found in zip(axes, points.values(), strict=True):
        _label(axis, found, method)
    return figure


def plot_differences(
    table: pd.DataFrame, method: str = "T-TAME", scores: Sequence[str] | None = None
) -> Figure:
    """Plot paired differences with intervals, one panel per score; right of zero, `method` leads.

    Args:
        table: `ttame.evaluation.comparison.paired_differences`.
        method: The method that was compared with all others.
        scores: Scores to plot, in order; default: all.

    Raises:
        TTameError: If a score is not in the table.
    """
    chosen = list(dict.fromkeys(table["score"] if scores is None else scores))
    kinds = [score.split()[0] for score in chosen]  # each kind in a line where there are two lines
    chosen.sort(key=lambda score: kinds.index(score.split()[0]))
    missing = [score for score in chosen if score not in set(table["score"])]
    if missing or not chosen:
        raise TTameError(
            f"no differences of {', '.join(missing) or 'any score'}; the table has "
            f"{', '.join(dict.fromkeys(table['score']))}"
        )
    others = list(dict.fromkeys(table["against"]))
    lines = ceil(len(chosen) / _COLUMNS)
    columns = ceil(len(chosen) / lines)  # six panels are two lines of three
    size = (PAGE_WIDTH, lines * (0.2 * len(others) + 0.8) + 0.4)
    alt = describe_differences(table, method, chosen)
    figure, axes = panels(len(chosen), size, alt, columns=columns, sharey=True)
    for axis, score in zip(axes, chosen, strict=True):
        sign = 1 if higher_is_better(score) else -1
        axis.axvline(0, color="0.3", linewidth=0.8)
        rows = table[table["score"] == score]
        signed = rows[["difference", "low", "high"]] * sign
        places = [others.index(name) for name in rows["against"]]
        draw_verdicts(axis, signed.assign(verdict=rows["verdict"]), places, 4, method)
        caption(axis, score)
        name_lines(axis, others, size=LETTERING)
    figure.supxlabel(f"advantage of {method}, percentage points", fontsize=8)
    figure.legend(
        *axes[0].get_legend_handles_labels(), loc="outside upper center", ncols=3, frameon=False
    )
    return figure


def plot_randomization(table: pd.DataFrame) -> Figure:
    """Plot the sanity check: how similar maps remain while layers are randomised one by one.

    Args:
        table: `ttame.evaluation.randomization.sanity_check` of one or more methods with the same
            stages, with a column `method`.
    """
    figure, (axis,) = panels(1, (8, 3.6), describe_randomization(table))
    named = table.drop_duplicates("stage").sort_values("stage")
    places = {stage: place for place, stage in enumerate(named["stage"])}
    drawn = table.assign(place=table["stage"].map(places))
    look = {"hue": "method", "palette": PALETTE, "x": "place", "y": "correlation", "ax": axis}
    if table["photo"].nunique() > 1:  # one photo is its own mean
        sns.stripplot(data=drawn, **look, size=3, alpha=0.5, jitter=0.1, legend=False)
    sns.lineplot(data=drawn, **look, style="method", markers=True, dashes=False, errorbar=None)
    axis.axhline(0, color="0.3", linewidth=0.8)
    labels = [
        f"{layer}\n{share:.0f} %"
        for layer, share in zip(named["layer"], named["randomized"], strict=True)
    ]
    axis.set_xticks(list(places.values()), labels, fontsize=8)
    axis.set(xlabel="randomised down to layer, share of parameters", ylabel="rank correlation")
    axis.set_ylim(top=1.05)
    sns.move_legend(axis, "upper left", bbox_to_anchor=(1, 1), title=None, frameon=False)
    return figure


def _points(table: pd.DataFrame, cost: str, score: str) -> pd.DataFrame:
    """Return costs and scores of the methods that have both; the cost may itself be a score."""
    found = pd.DataFrame(
        {"x": table[cost].to_numpy(float), "y": table[score].to_numpy(float)}, table.index
    ).dropna()
    if found.empty or bool((found["x"] < 0).any()):
        raise TTameError(
            f"{cost!r} against {score!r} needs a method with both, and costs of zero or more, "
            f"got costs {found['x'].tolist()}"
        )
    return found


def _log_axis(axis: Axes, costs: pd.Series[float]) -> None:
    """Scale the axis logarithmically; a cost of zero has a place of its own at the left."""
    positive = costs[costs > 0]
    if len(positive) == len(costs):
        if costs.max() < 10 * costs.min():  # a logarithmic axis would have one tick or none
            return
        axis.set_xscale("log")
    elif len(positive):
        axis.set_xscale("symlog", linthresh=10 ** floor(log10(positive.min())), linscale=0.6)
    axis.xaxis.set_major_formatter("{x:g}")
    axis.minorticks_off()


def _label(axis: Axes, found: pd.DataFrame, method: str) -> None:
    """Write each name near its mark, at the nearest place where it covers nothing."""
    scale = axis.figure.dpi / 72  # pixels per point
    marks = axis.transData.transform(found[["x", "y"]].to_numpy())
    low, high = marks - 4 * scale, marks + 4 * scale  # what is taken, in pixels
    turns = 2 * np.pi * np.arange(_DIRECTIONS) / _DIRECTIONS
    circle = np.stack([np.cos(turns), np.sin(turns)], axis=-1)
    # Those with the nearest neighbours have the least choice.
    crowd = (np.linalg.norm(marks[:, None] - marks, axis=-1) < 60 * scale).sum(axis=1)
    for index in np.argsort(-crowd, kind="stable"):
        name = str(found.index[index])
        size, weight = (1.1 * _SIZE, "bold") if name == method else (_SIZE, "normal")
        width = TextPath((0, 0), name, size=size).get_extents().width
        half = scale * np.array([width / 2 + 2, _SIZE / 2 + 1.5])
        offsets = (circle * (scale * _DISTANCES[:, None, None] + half)).reshape(-1, 2)
        centres = marks[index] + offsets
        covered = _overlap(centres, half, low, high).sum(axis=1)
        outside = 4 * half.prod() - _overlap(centres, half, *axis.bbox.get_points()[:, None])[:, 0]
        gaps = np.maximum(np.abs(centres[:, None] - marks) - half, 0)
        away = np.linalg.norm(gaps, axis=-1)
        others = np.delete(away, index, axis=1).min(axis=1, initial=np.inf)
        # A name that lies nearer to another mark is taken for that one's.
        mistaken = np.where(others < away[:, index] + 2 * scale, 2 * half.prod(), 0)
        best = np.argmin(np.round(covered + outside + mistaken, 6))  # the first, so the nearest
        low, high = np.vstack([low, centres[best] - half]), np.vstack([high, centres[best] + half])
        far = (np.abs(offsets[best]) - half).max() > scale * _DISTANCES[0] + 1e-6
        axis.annotate(
            name, found.iloc[index].tolist(), offsets[best] / scale, textcoords="offset points",
            ha="center", va="center", fontsize=_SIZE, fontweight=weight,
            arrowprops={"arrowstyle": "-", "color": "0.45", "linewidth": 0.7} if far else None,
        )  # fmt: skip


def _overlap(centres: Array, half: Array, low: Array, high: Array) -> Array:
    """Return the areas that boxes about N centres share with M others, `(N, M)`, pixels."""
    centres = centres[:, None]
    sides = np.minimum(centres + half, high) - np.maximum(centres - half, low)
    return np.asarray(np.clip(sides, 0, None).prod(axis=-1))


def describe_costs(points: Mapping[str, pd.DataFrame], labels: Mapping[str, str], cost: str) -> str:
    """List the best method of each score and its cost."""
    parts = []
    for score, found in points.items():
        place = int(found["y"].argmax() if higher_is_better(score) else found["y"].argmin())
        x, y = found["x"].iloc[place], found["y"].iloc[place]
        parts.append(f"{labels[score]}: best {found.index[place]}, {y:.1f}, at a cost of {x:.3g}.")
    count = max(len(found) for found in points.values())
    return f"{count} methods by cost, {cost}, and by score. {' '.join(parts)}"


def describe_differences(table: pd.DataFrame, method: str, scores: Sequence[str]) -> str:
    """Count the methods that one is better or worse than, or does not differ from."""
    counts = table.groupby("score")["verdict"].value_counts()
    parts = [
        f"{score}: better {counts.get((score, 'better'), 0)}, worse "
        f"{counts.get((score, 'worse'), 0)}, open {counts.get((score, 'open'), 0)}"
        for score in scores
    ]
    return (
        f"Paired differences between {method} and {table['against'].nunique()} others, with "
        f"intervals. Against how many {method} is better, worse, or not told apart (open): "
        f"{'; '.join(parts)}."
    )


def describe_randomization(table: pd.DataFrame) -> str:
    """List the similarity of each method's maps after the last stage."""
    last = table[table["stage"] == table["stage"].max()]
    ends = last.groupby("method", sort=False)["correlation"].mean()
    return (
        "Rank correlation of maps with those of the intact classifier while its layers are "
        f"randomised one after another; after the last: {listed(ends, 2)}."
    )
