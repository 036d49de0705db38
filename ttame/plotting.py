"""Pictures of photos and maps: functions return a `Figure`, never save and never show one."""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from typing import TYPE_CHECKING

import matplotlib as mpl
import numpy as np
import torch
from matplotlib.figure import Figure
from torch import Tensor

from ttame.descriptions import describe_grid, describe_layers
from ttame.masking import normalize_maps, upsample
from ttame.picture import MAP_COLORS, MARK_COLOR, SIGNED_COLORS, Picture

if TYPE_CHECKING:
    from ttame.explanation import Explanation
    from ttame.layers import LayerInfo

_CELL = 2.2  # inches a picture


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
    return plot_grid(rows, what="Photos, each followed by its explanation maps laid over it")


def plot_grid(
    rows: Sequence[Sequence[tuple[str, Tensor]]],
    cell: float = _CELL,
    signed: bool = False,
    what: str = "Pictures",
) -> Figure:
    """A grid of titled pictures.

    Args:
        rows: Pictures with their titles: colour `(3, H, W)` in [0, 1], or maps `(h, w)`, which
            are scaled to their own range.
        cell: Size of a picture, inches.
        signed: Whether the sign of a map counts: zero is white, positive red, negative blue.
        what: What the pictures are, in a few words; the description goes on with their titles.
    """
    columns = max(len(row) for row in rows)
    alt = describe_grid(what, [[title for title, _ in row] for row in rows])
    size = (cell * columns, (cell + 0.45) * len(rows))
    figure = Picture(figsize=size, layout="constrained", alt=alt)
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


def overlay(images: Tensor, maps: Tensor) -> Tensor:
    """Photos under their coloured maps.

    Args:
        images: Raw photos, `(B, 3, H, W)` in [0, 1].
        maps: Raw maps, `(B, 1, h, w)`.

    Returns:
        `(B, 3, H, W)` in [0, 1].
    """
    colors = colorize(upsample(normalize_maps(maps.float()), images.shape[-2:])[:, 0])
    return (0.5 * images + 0.5 * colors).clamp(0, 1)


def plot_methods(images: Tensor, maps: Mapping[str, Tensor], names: Sequence[str]) -> Figure:
    """Photos in rows, methods in columns.

    Args:
        images: Raw photos, `(B, 3, H, W)` in [0, 1].
        maps: Raw maps of each method, `(B, 1, h, w)`.
        names: A caption a photo.
    """
    shown = {method: overlay(images, found) for method, found in maps.items()}
    rows = [
        [(names[index], images[index])]
        + [(method, overlays[index]) for method, overlays in shown.items()]
        for index in range(len(images))
    ]
    return plot_grid(rows, what="Photos, each followed by its map of several methods laid over it")


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
    return plot_grid(rows, what="Feature maps of strongest response, a layer a row")


def plot_layers(networks: Mapping[str, Sequence[LayerInfo]]) -> Figure:
    """Where a network's layers lie: order of execution against stride, a panel a network.

    Grey: modules whose output is a feature map; crosses: those whose map is in another order than
    the image; labelled: the automatic choice. The stride axis is logarithmic and runs downwards,
    so that maps get coarser towards the bottom.

    Args:
        networks: Rows of `ttame.layers.list_layers` by title.
    """
    columns = min(len(networks), 2)
    rows = -(-len(networks) // columns)
    size = (5.2 * columns, 3.1 * rows)
    figure = Picture(figsize=size, layout="constrained", alt=describe_layers(networks))
    axes = figure.subplots(rows, columns, squeeze=False).flatten()
    for axis, (title, found) in zip(axes, networks.items(), strict=False):
        for marker, color, picked in (
            ("o", "0.75", [i for i, row in enumerate(found) if row.in_place and not row.chosen]),
            ("x", "0.45", [i for i, row in enumerate(found) if not row.in_place]),
            ("o", MARK_COLOR, [i for i, row in enumerate(found) if row.chosen]),
        ):
            axis.scatter(
                picked, [found[i].stride for i in picked], s=22, c=color, marker=marker,
                linewidths=0.8, zorder=3 if color == MARK_COLOR else 2,
            )  # fmt: skip
        chosen = [(i, row) for i, row in enumerate(found) if row.chosen]
        level = len({row.stride for _, row in chosen}) == 1  # labels must not cover each other
        for turn, (place, row) in enumerate(chosen):
            left = place < len(found) / 4
            axis.annotate(
                f"{row.name}\n{row.channels} × {row.size[0]} × {row.size[1]}",
                (place, row.stride), xytext=(4 if left else -4, -9 - 26 * turn * level),
                fontsize=7, textcoords="offset points", ha="left" if left else "right", va="top",
            )  # fmt: skip
        axis.set_yscale("log", base=2)
        low, high = (pick(row.stride for row in found) for pick in (min, max))
        axis.set_ylim(high * 2.2, low / 1.6)
        axis.set_title(title, fontsize=9)
        axis.set_xlabel("module, in order of execution")
        axis.set_ylabel("stride (pixels a cell)")
    for axis in axes[len(networks) :]:
        axis.set_visible(False)
    return figure
