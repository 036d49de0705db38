"""Pictures of photos and maps: functions return a `Figure`, never save and never show one.

A figure that shows itself in a notebook: as SVG, with a description of what it shows.
"""

from __future__ import annotations

import re
from base64 import b64decode, b64encode
from collections.abc import Mapping, Sequence
from io import BytesIO, StringIO
from typing import Any

import matplotlib as mpl
import numpy as np
import torch
from matplotlib.figure import Figure
from PIL import Image
from torch import Tensor

from ttame.errors import TTameError
from ttame.masking import normalize_maps, upsample

_CELL = 2.2  # inches a picture
# Every colour of the figures is one of these; all can be told apart by colour-blind people.
MAP_COLORS = "inferno"  # perceptually uniform: lightness rises evenly with the value
SIGNED_COLORS = "RdBu_r"  # lightest at zero, so that the strength shows without the hue
PALETTE = "colorblind"  # seaborn's name of ten colours for categories
MARK_COLOR = "#0072B2"  # the one thing that is pointed out among grey ones
PRINT_DPI = 200  # pixels an inch of what an SVG cannot draw: photos and maps
_QUALITY = 92  # of photos as JPEG, out of 95
_EMBEDDED = re.compile(r"data:image/png;base64,([A-Za-z0-9+/=\s]+)")


def colorize(maps: Tensor, colors: str = MAP_COLORS) -> Tensor:
    """Colour maps: `(..., H, W)` in [0, 1] -> `(..., 3, H, W)` in [0, 1]."""
    rgba = mpl.colormaps[colors](maps.detach().cpu().numpy())
    return torch.from_numpy(np.moveaxis(rgba[..., :3], -1, -3)).float()


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


class Picture(Figure):
    """A figure that notebooks show by themselves, without pyplot and its global state.

    The SVG has no background, so that it may lie on a light or a dark page, and its description
    travels in the file as well as in the notebook's output.

    Args:
        *args: Of matplotlib's `Figure`.
        alt: What the figure shows, in words, for those who do not see it.
        **kwargs: Of matplotlib's `Figure`.

    Raises:
        TTameError: If `alt` is empty.
    """

    def __init__(self, *args: Any, alt: str, **kwargs: Any) -> None:
        if not alt.strip():
            raise TTameError("a picture needs alt, a sentence that says what it shows; got none")
        super().__init__(*args, **kwargs)
        self.alt = " ".join(alt.split())

    def svg(self) -> str:
        """The figure as an SVG document at print quality; the same figure gives the same text."""
        buffer = StringIO()
        with mpl.rc_context({"svg.hashsalt": "ttame", "svg.fonttype": "path"}):
            self.savefig(
                buffer,
                format="svg",
                bbox_inches="tight",
                transparent=True,
                dpi=PRINT_DPI,
                metadata={"Description": self.alt, "Date": None},
            )
        return _EMBEDDED.sub(_lighter, buffer.getvalue())

    def _repr_mimebundle_(
        self, include: object = None, exclude: object = None
    ) -> tuple[dict[str, str], dict[str, dict[str, str]]]:
        kind = "image/svg+xml"
        return {kind: self.svg(), "text/plain": self.alt}, {kind: {"alt": self.alt}}


def _lighter(embedded: re.Match[str]) -> str:
    """A photo as JPEG, which is several times smaller; flat maps stay PNG."""
    content = b64decode(embedded[1])
    image = Image.open(BytesIO(content)).convert("RGBA")
    if image.getchannel("A").getextrema() != (255, 255):
        return embedded[0]  # JPEG has no transparency
    buffer = BytesIO()
    image.convert("RGB").save(buffer, "JPEG", quality=_QUALITY, subsampling=0)
    if 2 * len(buffer.getvalue()) > len(content):
        return embedded[0]
    return f"data:image/jpeg;base64,{b64encode(buffer.getvalue()).decode()}"


def describe_grid(what: str, titles: Sequence[Sequence[str]]) -> str:
    """Titled pictures, row by row.

    Args:
        what: What the pictures are, in a few words.
        titles: The title of each, in rows.
    """
    lines = ["; ".join(" ".join(title.split()) for title in row) for row in titles]
    if len(lines) == 1:
        return f"{what}. From left to right: {lines[0]}."
    rows = [f"Row {number}: {line}." for number, line in enumerate(lines, start=1)]
    return " ".join([f"{what}.", *rows])
