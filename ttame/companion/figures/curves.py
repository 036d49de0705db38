"""Charts of scores, and of curves over pixels; functions never save or show what they return.

Each `describe_...` returns the alternative text of a figure, with its numbers.
"""

from __future__ import annotations

import textwrap
from collections.abc import Hashable, Iterable, Mapping, Sequence
from itertools import product
from typing import Any

import pandas as pd
import seaborn as sns
from matplotlib.figure import Figure
from matplotlib.lines import Line2D

from ttame.companion.figures.panels import COLORS, caption, listed, panels
from ttame.errors import TTameError
from ttame.plotting import LETTERING, PAGE_WIDTH, PALETTE

_COLORS = [color for index, color in enumerate(COLORS) if index != 7]  # no grey
_MARKERS = "osD^vPX*<"


def plot_metrics(long: pd.DataFrame) -> Figure:
    """Plot AD and IC of each method by percentage, with 95 % intervals over photos.

    Args:
        long: `ttame.evaluation.tables.per_sample`, or its rows under other names of methods.
    """
    figure, axes = panels(2, (PAGE_WIDTH, 2.9), describe_metrics(long))
    titles = {
        "AD": "Average Drop\n(lower is better)",
        "IC": "Increase in Confidence\n(higher is better)",
    }
    for axis, (metric, title) in zip(axes, titles.items(), strict=True):
        sns.barplot(
            data=long[long["metric"] == metric], x="percentage", y="value", hue="method",
            order=sorted(long["percentage"].unique(), reverse=True), palette=PALETTE,
            errorbar=("ci", 95), n_boot=500, seed=0, err_kws={"linewidth": 1}, ax=axis,
        )  # fmt: skip
        caption(axis, title, "retained pixels, %", "mean over photos, %")
    handles, names = axes[0].get_legend_handles_labels()
    for axis in axes:
        if legend := axis.get_legend():
            legend.remove()
    figure.legend(handles, names, loc="outside upper center", ncols=min(len(names), 4),
                  frameon=False)  # fmt: skip
    return figure


def plot_probabilities(records: pd.DataFrame, percentage: int) -> Figure:
    """Plot each photo's probability before and after masking, one panel per method.

    Args:
        records: Records of a results file.
        percentage: Percentage of retained pixels.
    """
    groups = records.groupby("method", sort=False)
    alt, size = describe_probabilities(records, percentage), (2.5 * len(groups), 2.9)
    figure, axes = panels(len(groups), size, alt, sharex=True, sharey=True)
    colors = sns.color_palette(PALETTE, len(groups))
    for axis, (method, found), color in zip(axes, groups, colors, strict=True):
        axis.plot([0, 1], [0, 1], color="0.7", linewidth=1)
        sns.scatterplot(
            data=found, x="probability", y=f"masked_{percentage}", color=color, s=18, ax=axis
        )
        caption(axis, str(method), "p, whole photo", f"p', {percentage} % retained")
        axis.set_aspect("equal")
    return figure


def plot_drops(long: pd.DataFrame, highlight: Sequence[str] | None = None) -> Figure:
    """Plot the share of photos whose confidence drops by at most x, one panel per percentage.

    Args:
        long: `ttame.evaluation.tables.per_sample`.
        highlight: At most nine methods to colour, the others are grey; default: the first nine.

    Raises:
        TTameError: If `highlight` has an unknown method, or too many.
    """
    drops = long[long["metric"] == "AD"]
    styles = _styles(drops, highlight)
    percentages = sorted(drops["percentage"].unique(), reverse=True)
    alt, size = describe_drops(drops, _colored(styles)), (3.1 * len(percentages) + 1.8, 3.1)
    figure, axes = panels(len(percentages), size, alt, sharey=True)
    for axis, percentage in zip(axes, percentages, strict=True):
        found = drops[drops["percentage"] == percentage]
        for method, style in styles.items():
            values = found.loc[found["method"] == method, "value"]
            style = {key: value for key, value in style.items() if "marker" not in key}
            sns.ecdfplot(x=values, stat="percent", ax=axis, **style)
        caption(axis, f"{percentage} % retained", "drop, %", "photos, %")
    _legend(figure, styles)
    return figure


def plot_road(curves: pd.DataFrame, highlight: Sequence[str] | None = None) -> Figure:
    """Plot ROAD's curves: what remains of the prediction while pixels are removed.

    The upper panels show the share of photos that keep their class, the lower ones the probability
    of that class; on the left the most relevant pixels are removed first, on the right the least
    relevant. Lines are means; highlighted methods have 95 % intervals over photos.

    Args:
        curves: `ttame.evaluation.tables.curves(records, "ROAD")`.
        highlight: At most nine methods to colour, the others are grey; default: the first nine.

    Raises:
        TTameError: If `highlight` has an unknown method, or too many.
    """
    titles = {
        "MoRF": "most relevant first\n(lower is better)",
        "LeRF": "least relevant first\n(higher is better)",
    }
    values = {"kept": "photos that keep their class, %", "probability": "probability of it, %"}
    return _plot_shares(curves, titles, values, ["removed pixels, %"] * 2, highlight)


def plot_insertion(curves: pd.DataFrame, highlight: Sequence[str] | None = None) -> Figure:
    """Plot the probability of the class while the most relevant pixels are inserted, or deleted.

    Lines are means; highlighted methods have 95 % intervals over photos.

    Args:
        curves: `ttame.evaluation.tables.curves(records, "insertion/deletion")`.
        highlight: At most nine methods to colour, the others are grey; default: the first nine.

    Raises:
        TTameError: If `highlight` has an unknown method, or too many.
    """
    titles = {"insertion": "insertion (higher is better)", "deletion": "deletion (lower is better)"}
    labels = ["inserted pixels, %", "deleted pixels, %"]
    return _plot_shares(curves, titles, {"probability": "probability, %"}, labels, highlight)


def _plot_shares(
    curves: pd.DataFrame,
    titles: Mapping[str, str],
    values: Mapping[str, str],
    xlabels: Sequence[str],
    highlight: Sequence[str] | None,
) -> Figure:
    """Plot curves over the share of pixels, one column per kind of curve, one row per quantity."""
    styles = _styles(curves, highlight)
    alt = describe_shares(curves, titles, values, _colored(styles))
    columns = [(*item, xlabel) for item, xlabel in zip(titles.items(), xlabels, strict=True)]
    count, size = len(values) * len(columns), (PAGE_WIDTH, 2.9 * len(values))
    figure, axes = panels(count, size, alt, columns=len(columns), sharey="row")
    places = product(values.items(), columns)
    for axis, ((value, ylabel), (curve, title, xlabel)) in zip(axes, places, strict=True):
        for method, style in styles.items():
            chosen = curves[(curves["curve"] == curve) & (curves["method"] == method)]
            sns.lineplot(
                data=chosen, x="share", y=value, errorbar=("ci", 95) if "marker" in style else None,
                n_boot=200, seed=0, ax=axis, **style,
            )  # fmt: skip
        caption(axis, title, xlabel, ylabel)
    for axis in axes:
        axis.set_ylim(bottom=0)  # not before all are drawn: it fixes the top of the whole row
    _legend(figure, styles)
    return figure


def _styles(data: pd.DataFrame, highlight: Sequence[str] | None) -> dict[str, dict[str, Any]]:
    """Return the style of each method's line, grey ones first so that they lie below."""
    methods = list(dict.fromkeys(data["method"]))
    colored = list(dict.fromkeys(methods[: len(_COLORS)] if highlight is None else highlight))
    unknown = [name for name in colored if name not in methods]
    if unknown or len(colored) > len(_COLORS):
        raise TTameError(
            f"highlight must name at most {len(_COLORS)} of {', '.join(methods)}; got "
            f"{', '.join(unknown or colored)}"
        )
    grey = {"color": "0.78", "linewidth": 0.8, "zorder": 1}
    styles: dict[str, dict[str, Any]] = {name: grey for name in methods if name not in colored}
    for index, name in enumerate(colored):
        styles[name] = {
            "color": _COLORS[index],
            "linewidth": 2.2 if index == 0 else 1.4,
            "marker": _MARKERS[index],
            "markersize": 4,
            "markeredgewidth": 0,
            "zorder": 3 if index == 0 else 2,
        }
    return styles


def _colored(styles: Mapping[str, dict[str, Any]]) -> list[str]:
    return [name for name, style in styles.items() if "marker" in style]


def _legend(figure: Figure, styles: Mapping[str, dict[str, Any]]) -> None:
    """Add a legend with an entry per coloured line, and one that names the grey ones."""
    handles = [Line2D([], [], label=name, **styles[name]) for name in _colored(styles)]
    others = [name for name, style in styles.items() if "marker" not in style]
    if others:
        names = textwrap.fill(f"others: {', '.join(others)}", 24, break_on_hyphens=False)
        handles.append(Line2D([], [], label=names, **styles[others[0]]))
    figure.legend(handles=handles, loc="outside right upper", frameon=False, fontsize=LETTERING)


def describe_metrics(long: pd.DataFrame) -> str:
    """List AD and IC of every method at every percentage."""
    parts = []
    for metric in ("AD", "IC"):
        rows = long[long["metric"] == metric]
        for percentage in sorted(rows["percentage"].unique(), reverse=True):
            found = rows.loc[rows["percentage"] == percentage]
            means = found.groupby("method", sort=False)["value"].mean()
            parts.append(f"{metric} with {percentage} % retained: {listed(means)}.")
    return f"Bars of Average Drop and Increase in Confidence, percent. {' '.join(parts)}"


def describe_probabilities(records: pd.DataFrame, percentage: int) -> str:
    """Describe how often each method raises the probability."""
    rises = records[f"masked_{percentage}"] > records["probability"]
    shares = 100 * rises.groupby(records["method"], sort=False).mean()
    return (
        f"Probability of each photo, whole against masked with {percentage} % retained. Percent "
        f"of photos above the diagonal, where it rises: {listed(shares)}."
    )


def describe_drops(drops: pd.DataFrame, colored: Sequence[str]) -> str:
    """List the median drop of each coloured method."""
    medians = drops.groupby(["percentage", "method"])["value"].median()
    parts = [
        f"Median with {percentage} % retained: {listed(medians[percentage][list(colored)])}."
        for percentage in sorted(drops["percentage"].unique(), reverse=True)
    ]
    lines = _lines(drops["method"], colored)
    return f"Share of photos whose drop is at most x, {lines}. {' '.join(parts)}"


def describe_shares(
    curves: pd.DataFrame,
    titles: Mapping[str, str],
    values: Mapping[str, str],
    colored: Sequence[str],
) -> str:
    """List the mean height of each coloured curve."""
    means = curves.groupby(["curve", "method"])[list(values)].mean()
    parts = [
        f"Mean height, {title}, {label}: {listed(means.loc[curve][value][list(colored)])}."
        for value, label in values.items()
        for curve, title in titles.items()
    ]
    lines = _lines(curves["method"], colored)
    return f"Curves over the share of pixels, {lines}. {' '.join(parts)}"


def _lines(methods: Iterable[Hashable], colored: Sequence[str]) -> str:
    others = len(set(methods)) - len(colored)
    grey = f"; in grey {others} others" if others else ""
    return f"in colour {', '.join(colored)}{grey}"
