"""Charts of curves and scores: functions return a `Figure`, never save and never show one."""

from __future__ import annotations

from collections.abc import Mapping

import pandas as pd
import seaborn as sns
from matplotlib.figure import Figure

from ttame.plotting import Picture

PALETTE = "colorblind"
_FEW = 12  # points that a line marks one by one


def plot_curves(
    curves: pd.DataFrame, columns: Mapping[str, str], ylabel: str = "value", window: int = 1
) -> Figure:
    """Logged quantities over training steps, one panel each.

    Args:
        curves: A row a logged step, with a column `step`.
        columns: Title by column name.
        ylabel: Label of the vertical axes.
        window: Rows to average over; above 1, the single values are points.
    """
    figure = Picture(figsize=(3.2 * len(columns), 2.8), layout="constrained")
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
        long: `ttame.evaluation.per_sample`, or the like with a column `method`.
    """
    figure = Picture(figsize=(10, 3.6), layout="constrained")
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
        table: `ttame.learning_rate.find_learning_rate`.
        chosen: A rate to mark.
    """
    figure = Picture(figsize=(5, 3), layout="constrained")
    axis, colors = figure.subplots(), sns.color_palette(PALETTE)
    sns.scatterplot(data=table, x="rate", y="loss", ax=axis, color=colors[0], s=14, alpha=0.5)
    sns.lineplot(data=table, x="rate", y="smoothed", ax=axis, color=colors[0], label="smoothed")
    axis.axvline(chosen, color=colors[1], linestyle="--", label=f"chosen, {chosen:.1e}")
    axis.set(xscale="log", xlabel="learning rate", ylabel="loss of a batch")
    axis.legend(frameon=False)
    sns.despine(fig=figure)
    return figure


def plot_probabilities(records: pd.DataFrame, percentage: int) -> Figure:
    """Each photo's probability before and after masking, a method a panel.

    Args:
        records: Records of a results file.
        percentage: Retained pixels, percent.
    """
    methods = list(dict.fromkeys(records["method"]))
    figure = Picture(figsize=(2.5 * len(methods), 2.9), layout="constrained")
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


def plot_drops(long: pd.DataFrame) -> Figure:
    """The share of photos whose confidence drops by at most so much, a percentage a panel.

    Args:
        long: `ttame.evaluation.per_sample`.
    """
    drops = long[long["metric"] == "AD"]
    percentages = sorted(drops["percentage"].unique(), reverse=True)
    figure = Picture(figsize=(3.1 * len(percentages) + 1.2, 2.9), layout="constrained")
    axes = figure.subplots(1, len(percentages), sharey=True, squeeze=False)[0]
    for axis, percentage in zip(axes, percentages, strict=True):
        sns.ecdfplot(
            data=drops[drops["percentage"] == percentage],
            x="value",
            hue="method",
            palette=PALETTE,
            ax=axis,
            legend=axis is axes[-1],
        )
        axis.set(title=f"{percentage} % retained", xlabel="drop, %", ylabel="share of photos")
    sns.move_legend(axes[-1], "upper left", bbox_to_anchor=(1, 1), title=None, frameon=False)
    sns.despine(fig=figure)
    return figure


def plot_road(curves: pd.DataFrame) -> Figure:
    """Share of photos that keep their class while pixels are removed, in both orders.

    Args:
        curves: `ttame.evaluation.road_curves`.
    """
    figure = Picture(figsize=(10, 3.6), layout="constrained")
    titles = {"MoRF": "most relevant first (lower is better)", "LeRF": "least relevant first"}
    for axis, (order, title) in zip(figure.subplots(1, 2), titles.items(), strict=True):
        sns.lineplot(
            data=curves[curves["order"] == order],
            x="removed",
            y="kept",
            hue="method",
            style="method",
            palette=PALETTE,
            markers=True,
            dashes=False,
            errorbar=("ci", 95),
            n_boot=300,
            seed=0,
            ax=axis,
            legend=order == "LeRF",
        )
        axis.set(title=title, xlabel="removed pixels, %", ylabel="photos that keep their class, %")
        axis.set_ylim(0, 100)
        if axis.get_legend():
            sns.move_legend(axis, "upper left", bbox_to_anchor=(1, 1), title=None, frameon=False)
    sns.despine(fig=figure)
    return figure
