"""Charts of curves and scores; functions return a `Figure` and neither save nor show it."""

from __future__ import annotations

import textwrap
from collections.abc import Hashable, Iterable, Mapping, Sequence
from typing import Any

import pandas as pd
import seaborn as sns
from matplotlib.axes import Axes
from matplotlib.figure import Figure
from matplotlib.lines import Line2D

from ttame.errors import TTameError
from ttame.plotting import PALETTE, Picture

_COLORS = [color for index, color in enumerate(sns.color_palette(PALETTE)) if index != 7]  # no grey
_FEW = 12  # points that a line marks one by one
_MARKERS = "osD^vPX*<"


def plot_curves(
    curves: pd.DataFrame, columns: Mapping[str, str], ylabel: str = "value", window: int = 1
) -> Figure:
    """Logged quantities over training steps, one panel each.

    Args:
        curves: One row per logged step, with a column `step`.
        columns: Title by column name.
        ylabel: Label of the vertical axes.
        window: Rows to average over; above 1, the single values are points.
    """
    alt, size = describe_curves(curves, columns, ylabel), (3.2 * len(columns), 2.8)
    figure = Picture(figsize=size, layout="constrained", alt=alt)
    axes = figure.subplots(1, len(columns), squeeze=False)[0]
    for axis, (column, title) in zip(axes, columns.items(), strict=True):
        known = curves[["step", column]].dropna()
        color, mean = sns.color_palette(PALETTE)[0], known.copy()
        if window > 1:
            sns.scatterplot(data=known, x="step", y=column, ax=axis, color=color, s=8, alpha=0.4)
            mean[column] = known[column].rolling(window, center=True, min_periods=1).mean()
        marker = "o" if len(mean) < _FEW else None
        sns.lineplot(data=mean, x="step", y=column, ax=axis, color=color, marker=marker)
        axis.set(title=title, xlabel="step", ylabel=ylabel)
    sns.despine(fig=figure)
    return figure


def plot_metrics(long: pd.DataFrame) -> Figure:
    """AD and IC of each method at each retained percentage, with 95 % intervals over photos.

    Args:
        long: `ttame.evaluation.tables.per_sample`, or the like with a column `method`.
    """
    figure = Picture(figsize=(10, 3.6), layout="constrained", alt=describe_metrics(long))
    axes = figure.subplots(1, 2)
    titles = {
        "AD": "Average Drop, % (lower is better)",
        "IC": "Increase in Confidence, % (higher is better)",
    }
    for axis, (metric, title) in zip(axes, titles.items(), strict=True):
        sns.barplot(
            data=long[long["metric"] == metric],
            x="percentage",
            y="value",
            hue="method",
            order=sorted(long["percentage"].unique(), reverse=True),
            palette=PALETTE,
            errorbar=("ci", 95),
            n_boot=500,
            seed=0,
            err_kws={"linewidth": 1},
            ax=axis,
            legend=metric == "IC",
        )
        axis.set(title=title, xlabel="retained pixels, %", ylabel="mean over photos, %")
    if axes[1].get_legend():
        sns.move_legend(axes[1], "upper left", bbox_to_anchor=(1, 1), title=None, frameon=False)
    sns.despine(fig=figure)
    return figure


def plot_learning_rates(table: pd.DataFrame, chosen: float) -> Figure:
    """The range test: loss over the learning rate, and the rate that was chosen.

    Args:
        table: `ttame.training.learning_rate.find_learning_rate`.
        chosen: A rate to mark.
    """
    figure = Picture(figsize=(5, 3), layout="constrained", alt=describe_rates(table, chosen))
    axis, colors = figure.subplots(), sns.color_palette(PALETTE)
    sns.scatterplot(data=table, x="rate", y="loss", ax=axis, color=colors[0], s=14, alpha=0.5)
    sns.lineplot(data=table, x="rate", y="smoothed", ax=axis, color=colors[0], label="smoothed")
    axis.axvline(chosen, color=colors[1], linestyle="--", label=f"chosen, {chosen:.1e}")
    axis.set(xscale="log", xlabel="learning rate", ylabel="loss of a batch")
    axis.legend(frameon=False)
    sns.despine(fig=figure)
    return figure


def plot_probabilities(records: pd.DataFrame, percentage: int) -> Figure:
    """Each photo's probability before and after masking, one panel per method.

    Args:
        records: Records of a results file.
        percentage: Retained pixels, percent.
    """
    methods = list(dict.fromkeys(records["method"]))
    alt, size = describe_probabilities(records, percentage), (2.5 * len(methods), 2.9)
    figure = Picture(figsize=size, layout="constrained", alt=alt)
    axes = figure.subplots(1, len(methods), sharex=True, sharey=True, squeeze=False)[0]
    for axis, method, color in zip(
        axes, methods, sns.color_palette(PALETTE, len(methods)), strict=True
    ):
        found = records[records["method"] == method]
        axis.plot([0, 1], [0, 1], color="0.7", linewidth=1)
        sns.scatterplot(
            data=found, x="probability", y=f"masked_{percentage}", color=color, s=18, ax=axis
        )
        axis.set(title=method, xlabel="p, whole photo", ylabel=f"p', {percentage} % retained")
        axis.set_aspect("equal")
    sns.despine(fig=figure)
    return figure


def plot_drops(long: pd.DataFrame, highlight: Sequence[str] | None = None) -> Figure:
    """The share of photos whose confidence drops by at most x, one panel per percentage.

    Args:
        long: `ttame.evaluation.tables.per_sample`.
        highlight: Methods in colour, nine at most, the others are grey; default: the first nine.

    Raises:
        TTameError: If one of `highlight` is not there, or they are too many.
    """
    drops = long[long["metric"] == "AD"]
    styles = _styles(drops, highlight)
    percentages = sorted(drops["percentage"].unique(), reverse=True)
    alt, size = describe_drops(drops, _colored(styles)), (3.1 * len(percentages) + 1.8, 3.1)
    figure = Picture(figsize=size, layout="constrained", alt=alt)
    axes = figure.subplots(1, len(percentages), sharey=True, squeeze=False)[0]
    for axis, percentage in zip(axes, percentages, strict=True):
        found = drops[drops["percentage"] == percentage]
        for method, style in styles.items():
            values = found.loc[found["method"] == method, "value"]
            style = {key: value for key, value in style.items() if "marker" not in key}
            sns.ecdfplot(x=values, stat="percent", ax=axis, **style)
        axis.set(title=f"{percentage} % retained", xlabel="drop, %", ylabel="photos, %")
    _legend(figure, styles)
    sns.despine(fig=figure)
    return figure


def plot_road(curves: pd.DataFrame, highlight: Sequence[str] | None = None) -> Figure:
    """ROAD's curves: what is left of the answer while pixels are removed, in both orders.

    Above the share of photos that keep their class, below the probability of the class; left
    the most relevant pixels go first, right the least relevant. Means, for highlighted methods
    with 95 % intervals over photos.

    Args:
        curves: `ttame.evaluation.tables.curves(records, "ROAD")`.
        highlight: Methods in colour, nine at most, the others are grey; default: the first nine.

    Raises:
        TTameError: If one of `highlight` is not there, or they are too many.
    """
    titles = {
        "MoRF": "most relevant first (lower is better)",
        "LeRF": "least relevant first (higher is better)",
    }
    values = {"kept": "photos that keep their class, %", "probability": "probability of it, %"}
    return _plot_shares(curves, titles, values, ["removed pixels, %"] * 2, highlight)


def plot_insertion(curves: pd.DataFrame, highlight: Sequence[str] | None = None) -> Figure:
    """The probability of the class while the most relevant pixels come, or go.

    Means, for highlighted methods with 95 % intervals over photos.

    Args:
        curves: `ttame.evaluation.tables.curves(records, "insertion/deletion")`.
        highlight: Methods in colour, nine at most, the others are grey; default: the first nine.

    Raises:
        TTameError: If one of `highlight` is not there, or they are too many.
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
    """Curves over the share of pixels: one column per kind of curve, one row per quantity."""
    styles = _styles(curves, highlight)
    alt = describe_shares(curves, titles, values, _colored(styles))
    figure = Picture(figsize=(11, 3.3 * len(values)), layout="constrained", alt=alt)
    axes = figure.subplots(len(values), len(titles), squeeze=False, sharey="row")
    for line, (value, ylabel) in zip(axes, values.items(), strict=True):
        for axis, (curve, title), xlabel in zip(line, titles.items(), xlabels, strict=True):
            _draw(axis, curves[curves["curve"] == curve], value, styles)
            axis.set(title=title, xlabel=xlabel, ylabel=ylabel)
            axis.set_ylim(bottom=0)
    _legend(figure, styles)
    sns.despine(fig=figure)
    return figure


def _draw(axis: Axes, curves: pd.DataFrame, value: str, styles: Mapping[str, Any]) -> None:
    for method, style in styles.items():
        sns.lineplot(
            data=curves[curves["method"] == method],
            x="share",
            y=value,
            errorbar=("ci", 95) if "marker" in style else None,
            n_boot=200,
            seed=0,
            ax=axis,
            **style,
        )


def _styles(data: pd.DataFrame, highlight: Sequence[str] | None) -> dict[str, dict[str, Any]]:
    """How to draw the line of each method; grey ones come first, so that they lie below."""
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
    """One entry per coloured line, and one that names the grey ones."""
    handles = [Line2D([], [], label=name, **styles[name]) for name in _colored(styles)]
    others = [name for name, style in styles.items() if "marker" not in style]
    if others:
        names = textwrap.fill(f"others: {', '.join(others)}", 28, break_on_hyphens=False)
        handles.append(Line2D([], [], label=names, **styles[others[0]]))
    figure.legend(handles=handles, loc="outside right upper", frameon=False, fontsize=8)


def describe_curves(curves: pd.DataFrame, columns: Mapping[str, str], quantity: str) -> str:
    """Where each logged quantity begins and where it ends."""
    parts = []
    for column, title in columns.items():
        known = curves[["step", column]].dropna()
        if known.empty:
            parts.append(f"{title}: nothing logged")
            continue
        first, last = known.iloc[0], known.iloc[-1]
        parts.append(
            f"{title} from {first[column]:.3g} at step {first['step']:.0f} to "
            f"{last[column]:.3g} at step {last['step']:.0f}"
        )
    return f"Over training steps, {quantity}: {'; '.join(parts)}."


def describe_rates(table: pd.DataFrame, chosen: float) -> str:
    """The range test: where the loss is lowest, and the rate that was chosen."""
    least = table.nsmallest(1, "smoothed").iloc[0]
    return (
        f"Loss of a batch at learning rates from {table['rate'].min():.1e} to "
        f"{table['rate'].max():.1e}; smoothed, it is lowest at {least['rate']:.1e}, with "
        f"{least['smoothed']:.2f}. Marked: the chosen rate, {chosen:.1e}."
    )


def describe_metrics(long: pd.DataFrame) -> str:
    """AD and IC of every method at every percentage."""
    parts = []
    for metric in ("AD", "IC"):
        rows = long[long["metric"] == metric]
        for percentage in sorted(rows["percentage"].unique(), reverse=True):
            found = rows.loc[rows["percentage"] == percentage]
            means = found.groupby("method", sort=False)["value"].mean()
            parts.append(f"{metric} with {percentage} % retained: {_listed(means)}.")
    return f"Bars of Average Drop and Increase in Confidence, percent. {' '.join(parts)}"


def describe_probabilities(records: pd.DataFrame, percentage: int) -> str:
    """How often each method raises the probability."""
    rises = records[f"masked_{percentage}"] > records["probability"]
    shares = 100 * rises.groupby(records["method"], sort=False).mean()
    return (
        f"Probability of each photo, whole against masked with {percentage} % retained. Percent "
        f"of photos above the diagonal, where it rises: {_listed(shares)}."
    )


def describe_drops(drops: pd.DataFrame, colored: Sequence[str]) -> str:
    """The median drop of the methods in colour."""
    medians = drops.groupby(["percentage", "method"])["value"].median()
    parts = [
        f"Median with {percentage} % retained: {_listed(medians[percentage][list(colored)])}."
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
    """The mean height of each coloured curve over the share of pixels."""
    means = curves.groupby(["curve", "method"])[list(values)].mean()
    parts = [
        f"Mean height, {title}, {label}: {_listed(means.loc[curve][value][list(colored)])}."
        for value, label in values.items()
        for curve, title in titles.items()
    ]
    return f"Curves over the share of pixels, {_lines(curves['method'], colored)}. " + " ".join(
        parts
    )


def _lines(methods: Iterable[Hashable], colored: Sequence[str]) -> str:
    others = len(set(methods)) - len(colored)
    grey = f"; in grey {others} others" if others else ""
    return f"in colour {', '.join(colored)}{grey}"


def _listed(values: pd.Series[Any], digits: int = 1) -> str:
    return ", ".join(f"{name} {value:.{digits}f}" for name, value in values.items())
