"""Pictures of layers: what is drawn where."""

from __future__ import annotations

import torch

from ttame.classifiers.layers import LayerInfo
from ttame.companion.figures.maps import plot_feature_maps, plot_layers


def row(name: str, stride: float, chosen: bool = False, in_place: bool = True) -> LayerInfo:
    cells = round(64 / stride)
    return LayerInfo(name, "Conv2d", 8, (cells, cells), stride, chosen, in_place)


def test_strongest_channels_are_named_below_their_layer() -> None:
    maps = torch.tensor([1.0, 3.0, -5.0, 2.0])[None, :, None, None].expand(1, 4, 2, 2)
    titles = [axis.get_title() for axis in plot_feature_maps({"blocks.2": maps}, 2).axes]
    assert titles[:2] == ["blocks.2\nchannel 1", "blocks.2\nchannel 3"]


def test_layers_are_drawn_in_the_order_they_run() -> None:
    rows = [row("a", 2), row("b", 4, chosen=True), row("c", 4, in_place=False), row("d", 8, True)]
    figure = plot_layers({"net": rows})
    (axis,) = figure.axes
    drawn = [mark.get_offsets().tolist() for mark in axis.collections]
    assert drawn == [[[0, 2]], [[2, 4]], [[1, 4], [3, 8]]]  # others, out of place, chosen
    assert [text.get_text() for text in axis.texts] == ["b\n8 × 16 × 16", "d\n8 × 8 × 8"]
    low, high = axis.get_ylim()
    assert low > high  # coarse maps at the bottom
    assert axis.get_title() == "net"


def test_panels_without_a_network_are_hidden() -> None:
    figure = plot_layers({str(i): [row("a", 2)] for i in range(3)})
    assert [axis.get_visible() for axis in figure.axes] == [True, True, True, False]
