"""Figures of feature maps, and of where a network's layers lie."""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from typing import TYPE_CHECKING

from matplotlib.figure import Figure
from matplotlib.layout_engine import ConstrainedLayoutEngine
from torch import Tensor

from ttame.plotting import LETTERING, MARK_COLOR, PAGE_WIDTH, Picture, plot_grid

if TYPE_CHECKING:
    from ttame.classifiers.layers import LayerInfo


def plot_feature_maps(maps: Mapping[str, Tensor], channels: int = 6) -> Figure:
    """Plot the channels with the strongest response of each layer, one row per layer.

    Args:
        maps: Feature maps of one photo, `(1, C, h, w)`, by layer name.
        channels: Number of channels to show.
    """
    rows = []
    for name, found in maps.items():
        strength = found[0].clamp_min(0).mean(dim=(-2, -1))
        top = strength.topk(min(channels, len(strength))).indices.tolist()
        rows.append([(f"{name}\nchannel {index}", found[0, index]) for index in top])
    return plot_grid(rows, what="Feature maps of strongest response, one row per layer")


def plot_layers(networks: Mapping[str, Sequence[LayerInfo]]) -> Figure:
    """Plot the stride of each layer in order of execution, one panel per network.

    Grey dots are modules whose output is a feature map, crosses those whose cells are out of
    place, labelled dots the automatic choice. The stride axis is logarithmic and runs downwards,
    so that maps get coarser towards the bottom.

    Args:
        networks: Rows of `ttame.classifiers.layers.list_layers` by title.
    """
    columns = min(len(networks), 2)
    rows = -(-len(networks) // columns)
    size = (min(5.2 * columns, PAGE_WIDTH), 3.1 * rows)
    layout = ConstrainedLayoutEngine(h_pad=0.12)  # inches: titles keep away from the line above
    figure = Picture(figsize=size, layout=layout, alt=describe_layers(networks))
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
                fontsize=LETTERING, textcoords="offset points",
                ha="left" if left else "right", va="top",
            )  # fmt: skip
        axis.set_yscale("log", base=2)
        low, high = (pick(row.stride for row in found) for pick in (min, max))
        axis.set_ylim(high * 2.2, low / 1.6)
        axis.set_title(title, fontsize=9)
        axis.set_xlabel("module, in order of execution", fontsize=8)
        axis.set_ylabel("stride (pixels per cell)", fontsize=8)
        axis.tick_params(labelsize=LETTERING)
    for axis in axes[len(networks) :]:
        axis.set_visible(False)
    return figure


def describe_layers(networks: Mapping[str, Sequence[LayerInfo]]) -> str:
    """Describe the layers chosen in each network.

    Args:
        networks: Rows of `ttame.classifiers.layers.list_layers` by title.
    """
    parts = [
        f"{title}: {len(found)} modules, strides {min(row.stride for row in found):g} to "
        f"{max(row.stride for row in found):g}, chosen "
        f"{', '.join(row.name for row in found if row.chosen) or 'none'}"
        for title, found in networks.items()
    ]
    return f"Modules in order of execution against the stride of their maps. {'; '.join(parts)}."
