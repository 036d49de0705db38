"""Charts of tables of methods: cost against quality, differences, the sanity check.

Each `describe_...` puts what a figure shows, with its numbers, into words: its alternative text.
"""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from itertools import product
from math import ceil, cos, floor, log10, pi, sin

import numpy as np
import pandas as pd
import seaborn as sns
from matplotlib.axes import Axes
from matplotlib.figure import Figure
from matplotlib.textpath import TextPath
from matplotlib.transforms import Bbox

from ttame.companion.figures.curves import _listed
from ttame.errors import TTameError
from ttame.evaluation.confidence import higher_is_better
from ttame.plotting import PALETTE, Picture

_COLUMNS = 5  # panels beside each other, at most
_SIZE = 8.0  # points, of the labels in the cost chart
_DISTANCES = (6, 12, 20, 30, 42, 56, 72, 90, 110)  # points from a mark to its label
_DIRECTIONS = 16


def plot_costs(
    table: pd.DataFrame,
    cost: str,
    scores: Mapping[str, str],
    xlabel: str,
    method: str = "T-TAME",
    controls: Sequence[str] = (),
) -> Figure:
    """What each method costs against how it scores, one panel per score; costs on a log axis.

    Every mark is labelled, and labels do not cover each other. A cost of zero has a place of its
    own at the left. Methods whose cost or score is missing (NaN) are left out.

    Args:
        table: One row per method, the name in the index.
        cost: Column of costs, zero or more.
        scores: Label by column name of a score.
        xlabel: Label of the costs, with their unit.
        method: Drawn in colour.
        controls: Methods drawn hollow, such as maps that look at nothing.

    Raises:
        TTameError: If a cost is negative, or no method has both a cost and a score.
    """
    panels = {score: _points(table, cost, score) for score in scores}
    alt = describe_costs(panels, scores, xlabel)
    figure = Picture(figsize=(6.2 * len(scores), 4.8), layout="constrained", alt=alt)
    axes = figure.subplots(1, len(scores), squeeze=False)[0]
    for axis, (score, label) in zip(axes, scores.items(), strict=True):
        found = panels[score]
        _log_axis(axis, found["x"])
        for name, x, y in found.itertuples():
            color = sns.color_palette(PALETTE)[0] if name == method else "0.35"
            face = "white" if name in controls else color
            size = 9 if name == method else 5
            axis.plot(x, y, "o", color=color, markerfacecolor=face, markersize=size)
        axis.margins(0.12)
        better = "higher" if higher_is_better(score) else "lower"
        axis.set(xlabel=xlabel, ylabel=f"{label} ({better} is better)")
        axis.grid(alpha=0.3)
    sns.despine(fig=figure)
    figure.draw_without_rendering()  # labels need to know where the axes end up
    figure.set_layout_engine("none")
    for axis, found in zip(axes, panels.values(), strict=True):
        _label(axis, found, method)
    return figure


def plot_differences(
    table: pd.DataFrame, method: str = "T-TAME", scores: Sequence[str] | None = None
) -> Figure:
    """Paired differences with intervals, one panel per score: right of zero `method` is better.

    Args:
        table: `ttame.evaluation.comparison.paired_differences`.
        method: The one that was compared with all others.
        scores: Which, in which order; default: all.

    Raises:
        TTameError: If a score is not in the table.
    """
    chosen = list(dict.fromkeys(table["score"] if scores is None else scores))
    missing = [score for score in chosen if score not in set(table["score"])]
    if missing or not chosen:
        raise TTameError(
            f"no differences of {', '.join(missing) or 'any score'}; the table has "
            f"{', '.join(dict.fromkeys(table['score']))}"
        )
    colors = sns.color_palette(PALETTE)
    looks = {"better": (colors[0], "o"), "worse": (colors[3], "s"), "open": ("0.55", "D")}
    others = list(dict.fromkeys(table["against"]))
    lines = ceil(len(chosen) / _COLUMNS)
    columns = ceil(len(chosen) / lines)  # six panels are two lines of three
    size = (2.3 * columns + 1.6, lines * (0.2 * len(others) + 1.0) + 0.4)
    alt = describe_differences(table, method, chosen)
    figure = Picture(figsize=size, layout="constrained", alt=alt)
    axes = figure.subplots(lines, columns, sharey=True, squeeze=False).flatten()
    for axis in axes[len(chosen) :]:
        axis.remove()
    for axis, score in zip(axes, chosen, strict=False):
        sign = 1 if higher_is_better(score) else -1
        axis.axvline(0, color="0.3", linewidth=0.8)
        for verdict, (color, marker) in looks.items():
            rows = table[(table["score"] == score) & (table["verdict"] == verdict)]
            places = [others.index(name) for name in rows["against"]]
            ends = sign * rows[["low", "high"]].to_numpy()
            axis.hlines(places, ends.min(axis=1), ends.max(axis=1), color=color, linewidth=1.4)
            axis.plot(
                sign * rows["difference"], places, marker, color=color, markersize=4,
                label=verdict if verdict == "open" else f"{method} {verdict}",
            )  # fmt: skip
        axis.set(title=score, yticks=range(len(others)), yticklabels=others)
        axis.set_ylim(len(others) - 0.5, -0.5)
        axis.grid(axis="y", alpha=0.3)
        axis.tick_params(labelsize=8)
    figure.supxlabel(f"advantage of {method}, percentage points", fontsize=10)
    figure.legend(
        *axes[0].get_legend_handles_labels(), loc="outside upper center", ncols=3, frameon=False
    )
    sns.despine(fig=figure)
    return figure


def plot_randomization(table: pd.DataFrame) -> Figure:
    """The sanity check: how alike maps stay while the classifier forgets, layer after layer.

    Args:
        table: `ttame.evaluation.randomization.sanity_check` of one or more methods that share their
            stages, with a column `method`.
    """
    alt = describe_randomization(table)
    figure = Picture(figsize=(8, 3.6), layout="constrained", alt=alt)
    axis = figure.subplots()
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
    sns.despine(fig=figure)
    return figure


def _points(table: pd.DataFrame, cost: str, score: str) -> pd.DataFrame:
    """Costs and scores of the methods that have both; arrays, as the cost may be a score itself."""
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
        axis.set_xscale("log")
    elif len(positive):
        axis.set_xscale("symlog", linthresh=10 ** floor(log10(positive.min())), linscale=0.6)
    axis.xaxis.set_major_formatter("{x:g}")
    axis.minorticks_off()


def _label(axis: Axes, found: pd.DataFrame, method: str) -> None:
    """Write each name near its mark, at the nearest place where it covers nothing."""
    scale = axis.figure.dpi / 72  # pixels per point
    marks = axis.transData.transform(found[["x", "y"]].to_numpy())
    taken = [_box(x, y, 4 * scale, 4 * scale) for x, y in marks]
    # Those with the nearest neighbours have the least choice.
    distances = np.linalg.norm(marks[:, None] - marks[None], axis=-1)
    crowd = (distances < 60 * scale).sum(axis=1)
    for index in np.argsort(-crowd, kind="stable"):
        name = str(found.index[index])
        weight = "bold" if name == method else "normal"
        extent = TextPath((0, 0), name, size=_SIZE * (1.1 if name == method else 1)).get_extents()
        half = (extent.width / 2 + 2) * scale, (_SIZE / 2 + 1.5) * scale
        best: tuple[float, float, float, Bbox] | None = None
        for distance, turn in product(_DISTANCES, range(_DIRECTIONS)):
            angle = 2 * pi * turn / _DIRECTIONS
            dx = cos(angle) * (distance * scale + half[0])
            dy = sin(angle) * (distance * scale + half[1])
            box = _box(marks[index, 0] + dx, marks[index, 1] + dy, *half)
            covered = sum(_overlap(box, other) for other in taken)
            inside = _overlap(box, axis.bbox)
            covered += box.width * box.height - inside
            if best is None or covered < best[0] - 1e-6:
                best = (covered, dx / scale, dy / scale, box)
            if covered < 1e-6:
                break
        assert best is not None
        taken.append(best[3])
        far = max(abs(best[1]) - half[0] / scale, abs(best[2]) - half[1] / scale) > _DISTANCES[0]
        axis.annotate(
            name, found.iloc[index].tolist(), best[1:3], textcoords="offset points",
            ha="center", va="center", fontsize=_SIZE, fontweight=weight,
            arrowprops={"arrowstyle": "-", "color": "0.7", "linewidth": 0.6} if far else None,
        )  # fmt: skip


def _box(x: float, y: float, width: float, height: float) -> Bbox:
    """A box about its centre, by half its width and height."""
    return Bbox.from_extents(x - width, y - height, x + width, y + height)


def _overlap(first: Bbox, second: Bbox) -> float:
    """Area that two boxes share, square pixels."""
    width = min(first.x1, second.x1) - max(first.x0, second.x0)
    height = min(first.y1, second.y1) - max(first.y0, second.y0)
    return float(max(width, 0.0) * max(height, 0.0))


def describe_costs(panels: Mapping[str, pd.DataFrame], labels: Mapping[str, str], cost: str) -> str:
    """The best of every score and its cost."""
    parts = []
    for score, found in panels.items():
        place = int(found["y"].argmax() if higher_is_better(score) else found["y"].argmin())
        x, y = found["x"].iloc[place], found["y"].iloc[place]
        parts.append(f"{labels[score]}: best {found.index[place]}, {y:.1f}, at a cost of {x:.3g}.")
    count = max(len(found) for found in panels.values())
    return f"{count} methods by cost, {cost}, and by score. {' '.join(parts)}"


def describe_differences(table: pd.DataFrame, method: str, scores: Sequence[str]) -> str:
    """Count the others that a method is better than, worse than, or cannot be told from."""
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
    """How alike the maps are when all stages of the sanity check are randomised."""
    last = table[table["stage"] == table["stage"].max()]
    ends = last.groupby("method", sort=False)["correlation"].mean()
    return (
        "Rank correlation of maps with those of the intact classifier while its layers are "
        f"randomised one after another; after the last: {_listed(ends, 2)}."
    )
