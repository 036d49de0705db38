"""Figures that show themselves: SVG with a description, light enough, in colours for everybody."""

from __future__ import annotations

import ast
import re
from pathlib import Path
from xml.etree import ElementTree

import matplotlib as mpl
import numpy as np
import pytest
import torch

import ttame.plotting
from ttame.errors import TTameError
from ttame.plotting import MAP_COLORS, SIGNED_COLORS, Picture, colorize, lay_over, plot_grid

SOURCES = sorted((Path(ttame.plotting.__file__).parent).rglob("*.py"))


def chart(alt: str = "A line  that\nrises.") -> Picture:
    figure = Picture(figsize=(2, 1), alt=alt)
    figure.subplots().plot([0, 1], [0, 1])
    return figure


def test_picture_without_a_description_is_refused() -> None:
    with pytest.raises(TypeError, match="alt"):
        Picture()  # type: ignore[call-arg]
    with pytest.raises(TTameError, match="needs alt"):
        Picture(alt=" \n")


def test_the_description_travels_in_the_file_and_in_the_output() -> None:
    data, metadata = chart()._repr_mimebundle_()
    assert data["text/plain"] == "A line that rises."
    assert metadata == {"image/svg+xml": {"alt": "A line that rises."}}
    root = ElementTree.fromstring(data["image/svg+xml"])
    found = root.find(".//{http://purl.org/dc/elements/1.1/}description")
    assert found is not None
    assert found.text == "A line that rises."


def test_the_same_figure_gives_the_same_text() -> None:
    assert chart().svg() == chart().svg()
    assert "<dc:date>" not in chart().svg()


def test_a_picture_has_no_background_of_its_own() -> None:
    assert "fill: #ffffff" not in chart().svg()


def test_photos_become_jpeg_and_flat_maps_stay_exact() -> None:
    noise = torch.rand(3, 8, 8)
    photo = torch.nn.functional.interpolate(noise[None], (224, 224), mode="bicubic")[0]
    photo += 0.05 * torch.rand(3, 224, 224)  # smooth with grain, as photos are
    flat = torch.eye(4)
    picture = plot_grid([[("photo", photo), ("map", flat)]], bar=False)
    assert isinstance(picture, Picture)
    assert re.findall(r"data:image/(\w+);base64", picture.svg()) == ["jpeg", "png"]


def test_a_grid_reads_out_its_titles() -> None:
    tile = torch.zeros(2, 2)
    one = plot_grid([[("a\n1 %", tile), ("b", tile)]], what="Two maps")
    assert getattr(one, "alt") == "Two maps. From left to right: a 1 %; b."  # noqa: B009
    two = plot_grid([[("a", tile)], [("b", tile)]])
    assert getattr(two, "alt") == "Pictures. Row 1: a. Row 2: b."  # noqa: B009


def test_masks_are_laid_over_their_box_alone() -> None:
    photo, mask = torch.full((3, 6, 8), 0.25), torch.tensor([[[0.0, 1.0]]])
    laid = lay_over(photo, mask, (2, 1, 6, 3), opacity=1)[0]
    # Four pixels between two cells: half of the outer ones' distance lies beyond the centres.
    row = colorize(torch.tensor([[0.0, 0.25, 0.75, 1.0]]))
    expected = photo.clone()
    expected[:, 1:3, 2:6] = row.expand(3, 2, 4)
    assert torch.allclose(laid, expected)
    # A box between pixels colours those that it touches; beyond the photo there is nothing.
    thin = lay_over(photo, mask, (3.4, -1, 3.6, 9), opacity=1)[0]
    assert (thin != 0.25).any(0).nonzero().tolist() == [[row, 3] for row in range(6)]
    assert torch.equal(photo, torch.full((3, 6, 8), 0.25))


# Colours


def lightness(name: str) -> np.ndarray:
    """CIE lightness of 64 even steps of a colour map, from sRGB."""
    rgb = mpl.colormaps[name](np.linspace(0, 1, 64))[:, :3]
    linear = np.where(rgb <= 0.04045, rgb / 12.92, ((rgb + 0.055) / 1.055) ** 2.4)
    luminance = linear @ np.array([0.2126, 0.7152, 0.0722])
    return np.where(luminance > 0.008856, 116 * np.cbrt(luminance) - 16, 903.3 * luminance)


def test_maps_rise_evenly_in_lightness() -> None:
    steps = np.diff(lightness(MAP_COLORS))
    assert steps.min() > 0
    assert steps.max() < 2.5 * steps.mean()
    assert np.diff(lightness("jet")).min() < 0  # the test can fail


def test_signed_maps_are_lightest_at_zero() -> None:
    found = lightness(SIGNED_COLORS)
    assert np.diff(found[:32]).min() > 0
    assert np.diff(found[32:]).max() < 0


def named_colors(source: str) -> list[str]:
    """The colour maps and palettes that a module writes out instead of taking a constant."""
    found = []
    for node in ast.walk(ast.parse(source)):
        if isinstance(node, ast.keyword) and node.arg in ("cmap", "palette"):
            inner = [part for part in ast.walk(node.value) if isinstance(part, ast.Constant)]
            found += [part.value for part in inner if isinstance(part.value, str)]
        if isinstance(node, ast.Call) and getattr(node.func, "attr", "") == "color_palette":
            found += [part.value for part in node.args[:1] if isinstance(part, ast.Constant)]
        if isinstance(node, ast.Subscript) and getattr(node.value, "attr", "") == "colormaps":
            found += [node.slice.value] if isinstance(node.slice, ast.Constant) else []
    return [str(name) for name in found]


def test_colour_maps_are_named_in_one_place() -> None:
    written_out = named_colors("f(cmap='jet', palette='Set1'); sns.color_palette('husl')")
    assert sorted(written_out) == ["Set1", "husl", "jet"]
    used = {path.name: named_colors(path.read_text(encoding="utf-8")) for path in SOURCES}
    assert {name: found for name, found in used.items() if found} == {}
    constants = re.compile(r"^(?:MAP_COLORS|SIGNED_COLORS|PALETTE) = ", re.MULTILINE)
    homes = [path.name for path in SOURCES if constants.search(path.read_text(encoding="utf-8"))]
    assert homes == ["plotting.py"]
