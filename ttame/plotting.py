"""Pictures: every function returns a `Figure`; none saves and none shows."""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from io import BytesIO
from typing import TYPE_CHECKING

import matplotlib as mpl
import numpy as np
import pandas as pd
import seaborn as sns
import torch
from matplotlib.figure import Figure
from torch import Tensor

from ttame.masking import normalize_maps, upsample

if TYPE_CHECKING:
    from ttame.explanation import Explanation

# Perceptually uniform and readable by colour-blind people.
MAP_COLORS = "inferno"
SIGNED_COLORS = "RdBu_r"
PALETTE = "colorblind"
_CELL = 2.2  # inches a picture
_FEW = 12  # points that a line marks one by one


class Picture(Figure):
    """A figure that notebooks show by themselves, without pyplot and its global state."""

    def _repr_png_(self) -> bytes:
        buffer = BytesIO()
        self.savefig(buffer, format="png", bbox_inches="tight")
        return buffer.getvalue()


def colorize(maps: Tensor, colors: str = MAP_COLORS) -> Tensor:
    """Colour maps: `(..., H, W)` in [0, 1] -> `(..., 3, H, W)` in [0, 1]."""
    rgba = mpl.colormaps[colors](maps.detach().cpu().numpy())
    return torch.from_numpy(np.moveaxis(rgba[..., :3], -1, -3)).float()


def plot_explanation(explanation: Explanation) -> Figure:
    """One row a photo: the photo, then the overlay of each explained class with its probability."""
    overlays, probabilities = explanation.overlay(), explanation.probabilities()
    rows = []
    for image, row, names, values in zip(
        explanation.images, overlays, explanation.names(), probabilities.tolist(), strict=True
    ):
        titles = [f"{name}\n{value:.1%}" for name, value in zip(names, values, strict=True)]
        rows.append([("photo\n", image), *zip(titles, row, strict=True)])
    return plot_grid(rows)


def plot_grid(
    rows: Sequence[Sequence[tuple[str, Tensor]]], cell: float = _CELL, signed: bool = False
) -> Figure:
    """A grid of titled pictures.

    Args:
        rows: Pictures with their titles: colour `(3, H, W)` in [0, 1], or maps `(h, w)`, which
            are scaled to their own range.
        cell: Size of a picture, inches.
        signed: Whether the sign of a map counts: zero is white, positive red, negative blue.
    """
    columns = max(len(row) for row in rows)
    figure = Picture(figsize=(cell * columns, (cell + 0.45) * len(rows)), layout="constrained")
    axes = figure.subplots(len(rows), columns, squeeze=False)
    for axis in axes.flat:
        axis.axis("off")
    for line, row in zip(axes, rows, strict=True):
        for axis, (title, picture) in zip(line, row, strict=False):
            values = picture.detach().cpu().float()
            if values.ndim == 3:
                axis.imshow(values.permute(1, 2, 0).clamp(0, 1).numpy())
            else:
                top = float(values.abs().max()) if signed else None
                axis.imshow(
                    values.numpy(),
                    cmap=SIGNED_COLORS if signed else MAP_COLORS,
                    vmin=None if top is None else -top,
                    vmax=top,
                    interpolation="nearest",
                )
            axis.set_title(title, fontsize=9)
    return figure


def plot_methods(images: Tensor, maps: Mapping[str, Tensor], names: Sequence[str]) -> Figure:
    """Photos in rows, methods in columns.

    Args:
        images: Raw photos, `(B, 3, H, W)` in [0, 1].
        maps: Raw maps of each method, `(B, 1, h, w)`.
        names: A caption a photo.
    """
    shown = {
        method: 0.5 * images
        + 0.5 * colorize(upsample(normalize_maps(found.float()), images.shape[-2:])[:, 0])
        for method, found in maps.items()
    }
    rows = [
        [(names[index], images[index])]
        + [(method, overlays[index]) for method, overlays in shown.items()]
        for index in range(len(images))
    ]
    return plot_grid(rows)


def plot_feature_maps(maps: Mapping[str, Tensor], channels: int = 6) -> Figure:
    """The channels of strongest response of each layer, a layer a row.

    Args:
        maps: Feature maps of one photo, `(1, C, h, w)`, by layer name.
        channels: How many channels to show.
    """
    rows = []
    for name, found in maps.items():
        strength = found[0].clamp_min(0).mean(dim=(-2, -1))
        top = strength.topk(min(channels, len(strength))).indices.tolist()
        rows.append([(f"{name} · channel {index}", found[0, index]) for index in top])
    return plot_grid(rows)


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
    titles = {"AD": "Average Drop, % (lower is better)", "IC": "Increase in Confidence, %"}
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
