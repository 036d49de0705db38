"""Figures of photos and maps: functions return a `Picture`, and never save or show one."""

from __future__ import annotations

import math
import re
import sys
import textwrap
import threading
from base64 import b64decode, b64encode
from collections.abc import Mapping, Sequence
from io import BytesIO, StringIO
from typing import Any

import matplotlib as mpl
import numpy as np
import torch
import torch.nn.functional as F
from matplotlib.axes import Axes
from matplotlib.cm import ScalarMappable
from matplotlib.figure import Figure
from PIL import Image
from torch import Tensor

from ttame.errors import TTameError
from ttame.images import Box
from ttame.masking import normalize_maps, upsample

# The only colours in the figures, all distinguishable with colour-blindness.
MAP_COLORS = "inferno"  # perceptually uniform: lightness rises evenly with the value
SIGNED_COLORS = "RdBu_r"  # lightest at zero, so that strength shows without the hue
PALETTE = "colorblind"  # seaborn's ten colours for categories
MARK_COLOR = "#0072B2"  # marks one item among grey ones
PAGE_WIDTH = 7.0  # inches: the book's column, so that figures are shown as large as they are drawn
LETTERING = 7.5  # points, 10 pixels on the page
PRINT_DPI = 200  # resolution of what an SVG embeds as pixels: photos and maps
_CELL = 2.2  # inches per picture
_REGISTERED = 20  # figures that pyplot keeps for plt.show(), at most
_QUALITY = 92  # JPEG quality of embedded photos
_EMBEDDED = re.compile(r"data:image/png;base64,([A-Za-z0-9+/=\s]+)")


class Picture(Figure):
    """A figure that notebooks display as SVG, without pyplot and its global state.

    The SVG is transparent, so that it suits light and dark pages, and carries its description.

    Args:
        *args: Passed to matplotlib's `Figure`.
        alt: Alternative text: what the figure shows, in words.
        **kwargs: Passed to matplotlib's `Figure`.

    Raises:
        TTameError: If `alt` is empty.
    """

    def __init__(self, *args: Any, alt: str, **kwargs: Any) -> None:
        if not alt.strip():
            raise TTameError("a picture needs alt, a sentence that says what it shows; got none")
        super().__init__(*args, **kwargs)
        self.alt = " ".join(alt.split())

    def svg(self) -> str:
        """Render the figure as SVG at print quality; equal figures give equal text."""
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
    """Re-encode an embedded photo as JPEG, several times smaller; flat maps stay PNG."""
    content = b64decode(embedded[1])
    image = Image.open(BytesIO(content)).convert("RGBA")
    if image.getchannel("A").getextrema() != (255, 255):
        return embedded[0]  # JPEG has no transparency
    buffer = BytesIO()
    image.convert("RGB").save(buffer, "JPEG", quality=_QUALITY, subsampling=0)
    if 2 * len(buffer.getvalue()) > len(content):
        return embedded[0]
    return f"data:image/jpeg;base64,{b64encode(buffer.getvalue()).decode()}"


def plot_grid(
    rows: Sequence[Sequence[tuple[str, Tensor]]],
    cell: float = _CELL,
    signed: bool = False,
    what: str = "Pictures",
    bar: bool | None = None,
) -> Figure:
    """Plot a grid of titled pictures, at most as wide as a page.

    Args:
        rows: Titles and pictures: photos `(C, H, W)` in [0, 1], as `render` shows them, or maps
            `(h, w)`, which are scaled to their own range.
        cell: Size of each picture, in inches; less where a row would not fit the page. Titles are
            wrapped to it.
        signed: Colour maps by sign: zero white, positive red, negative blue.
        what: What the pictures are, in a few words; the alternative text adds the titles.
        bar: Show which colour is low and which is high; default: where there is a map `(h, w)`.
    """
    columns = max(len(row) for row in rows)
    alt = describe_grid(what, [[title for title, _ in row] for row in rows])
    cell = min(cell, PAGE_WIDTH / columns)
    titles = [[_wrapped(title, cell) for title, _ in row] for row in rows]
    lines = sum(max(title.count("\n") + 1 for title in row) for row in titles)
    if bar is None:
        bar = any(picture.ndim == 2 for row in rows for _, picture in row)
    height = (cell + 0.12) * len(rows) + 1.25 * LETTERING / 72 * lines + 0.4 * bar
    figure = Picture(figsize=(cell * columns, height), layout="constrained", alt=alt)
    axes = figure.subplots(len(rows), columns, squeeze=False)
    for axis in axes.flat:
        axis.axis("off")
    for line, row, named in zip(axes, rows, titles, strict=True):
        for axis, (_, picture), title in zip(line, row, named, strict=False):
            values = picture.detach().cpu().float()
            if values.ndim == 3:
                axis.imshow(render(values).permute(1, 2, 0).clamp(0, 1).numpy())
            else:
                colors = SIGNED_COLORS if signed else MAP_COLORS
                shown = axis.imshow(values.numpy(), cmap=colors, interpolation="nearest")
                if signed:
                    limit = float(values.abs().max())
                    shown.set_clim(-limit, limit)
            axis.set_title(title, fontsize=LETTERING)
    if bar:
        _colour_bar(figure, list(axes.flat), signed)
    return figure


def _wrapped(title: str, width: float) -> str:
    """Break the lines of a title that would be wider than `width` inches."""
    limit = max(int(72 * width / (0.56 * LETTERING)), 1)
    lines = (textwrap.fill(line, limit, break_long_words=False) for line in title.split("\n"))
    return "\n".join(lines)


def _colour_bar(figure: Figure, axes: Sequence[Axes], signed: bool) -> None:
    """Say what the colours of all maps of a figure mean; each map has its own range."""
    colors = mpl.colormaps[SIGNED_COLORS if signed else MAP_COLORS]
    bar = figure.colorbar(ScalarMappable(cmap=colors), ax=axes, location="bottom", fraction=0.03,
                          aspect=24, shrink=min(0.4 * PAGE_WIDTH / figure.get_figwidth(), 0.8),
                          pad=0.02)  # fmt: skip
    words = ["negative", "0", "positive"] if signed else ["low", "high"]
    bar.set_ticks(np.linspace(0, 1, len(words)).tolist(), labels=words)
    bar.ax.tick_params(labelsize=LETTERING, length=0)
    bar.outline.set_visible(False)


def register(figure: Figure) -> Figure:
    """Let `plt.show()` and `plt.savefig()` find a figure, if pyplot has been imported.

    pyplot keeps figures until they are closed: of ours it gets the last 20, so that plotting in a
    loop neither fills the memory nor warns. Notebooks display what a cell returns by themselves;
    there, and outside the main thread, figures are not registered.

    Args:
        figure: The figure, which is returned.
    """
    pyplot = sys.modules.get("matplotlib.pyplot")
    main = threading.current_thread() is threading.main_thread()
    if pyplot is None or not main or "inline" in mpl.get_backend():
        return figure
    ours = [number for number in pyplot.get_fignums() if isinstance(pyplot.figure(number), Picture)]
    for number in ours[: max(len(ours) + 1 - _REGISTERED, 0)]:
        pyplot.close(number)
    pyplot.figure(figure)
    return figure


def plot_methods(
    images: Tensor,
    maps: Mapping[str, Tensor],
    names: Sequence[str],
    channels: Sequence[int] | None = None,
) -> Figure:
    """Plot photos in rows and the overlays of each method in columns.

    Args:
        images: Raw photos, `(B, C, H, W)` in [0, 1].
        maps: Raw maps by method, `(B, 1, h, w)`.
        names: One caption per photo.
        channels: Channels to show, as for `render`.
    """
    images = render(images, channels)
    shown = {method: overlay(images, found) for method, found in maps.items()}
    rows = [
        [(names[index], image), *((method, laid[index]) for method, laid in shown.items())]
        for index, image in enumerate(images)
    ]
    what = "Photos, each followed by its map of several methods laid over it"
    return plot_grid(rows, what=what, bar=True)


def describe_grid(what: str, titles: Sequence[Sequence[str]]) -> str:
    """Describe a grid of titled pictures in words, row by row.

    Args:
        what: What the pictures are, in a few words.
        titles: Rows of titles.
    """
    lines = ["; ".join(" ".join(title.split()) for title in row) for row in titles]
    if len(lines) == 1:
        return f"{what}. From left to right: {lines[0]}."
    rows = [f"Row {number}: {line}." for number, line in enumerate(lines, start=1)]
    return " ".join([f"{what}.", *rows])


def render(images: Tensor, channels: Sequence[int] | None = None) -> Tensor:
    """Make images of any number of channels visible in colour or grey.

    Args:
        images: Raw images, `(..., C, H, W)` in [0, 1].
        channels: Three channels to show as red, green and blue, from 0, or one to show in grey;
            default: images of three channels as they are, of others the mean of all channels in
            grey.

    Returns:
        `(..., 3, H, W)` in [0, 1], float32.

    Raises:
        TTameError: If there are not one or three of them, or one does not exist.
    """
    count = images.shape[-3]
    if channels is None:
        shown = images.float() if count == 3 else images.float().mean(dim=-3, keepdim=True)
    elif len(channels) not in (1, 3) or not all(0 <= channel < count for channel in channels):
        raise TTameError(
            f"channels to show are one or three numbers from 0 to {count - 1}, got {channels!r}"
        )
    else:
        shown = images.float()[..., list(channels), :, :]
    return shown.expand(*shown.shape[:-3], 3, *shown.shape[-2:])


def overlay(images: Tensor, maps: Tensor, channels: Sequence[int] | None = None) -> Tensor:
    """Normalise, upsample and colour maps, and lay them over photos.

    Args:
        images: Raw photos, `(B, C, H, W)` in [0, 1].
        maps: Raw maps, `(B, 1, h, w)`.
        channels: Channels to show, as for `render`.

    Returns:
        `(B, 3, H, W)` in [0, 1].
    """
    masks = upsample(normalize_maps(maps.float()), images.shape[-2:])[:, 0]
    return blend(render(images, channels), masks)


def blend(images: Tensor, masks: Tensor, opacity: float = 0.5) -> Tensor:
    """Lay coloured masks over photos.

    Args:
        images: Raw photos, `(..., 3, H, W)` in [0, 1].
        masks: `(..., H, W)` in [0, 1]; leading axes broadcast against those of `images`.
        opacity: Opacity of the colours, from 0 (photo only) to 1 (mask only).

    Returns:
        `(..., 3, H, W)` in [0, 1].
    """
    return ((1 - opacity) * images + opacity * colorize(masks)).clamp(0, 1)


def lay_over(photo: Tensor, masks: Tensor, box: Box, opacity: float = 0.5) -> Tensor:
    """Lay coloured masks over the part of a photo that they belong to.

    Args:
        photo: A whole raw photo, `(3, H, W)` in [0, 1].
        masks: `(T, h, w)` in [0, 1], of the part.
        box: Left, top, right and bottom edge of the part, in pixels of the photo.
        opacity: Opacity of the colours, from 0 (photo only) to 1 (mask only).

    Returns:
        `(T, 3, H, W)` in [0, 1]; pixels that the box does not touch are those of the photo.
    """
    spans, places = [], []
    for length, low, high in zip(photo.shape[:0:-1], box[:2], box[2:], strict=True):
        first, last = max(math.floor(low + 1e-4), 0), min(math.ceil(high - 1e-4), length)
        spans.append(slice(first, last))
        # Centres of pixels, with -1 and 1 at the edges of the box.
        places.append((torch.arange(first, last) + 0.5 - low) / (high - low) * 2 - 1)
    y, x = torch.meshgrid(places[1], places[0], indexing="ij")
    # Bilinear between the centres of the cells, and constant beyond the outer ones, as `upsample`.
    laid = F.grid_sample(
        masks[None].float(),
        torch.stack([x, y], dim=-1)[None],
        padding_mode="border",
        align_corners=False,
    )[0]
    result = photo.repeat(len(masks), 1, 1, 1)
    within = result[:, :, spans[1], spans[0]]
    within.copy_(blend(within, laid, opacity))
    return result


def colorize(maps: Tensor, signed: bool = False) -> Tensor:
    """Colour maps `(..., H, W)` in [0, 1] as `(..., 3, H, W)` in [0, 1].

    Args:
        maps: The maps.
        signed: Colour values above 0.5 red, those below blue.
    """
    rgba = mpl.colormaps[SIGNED_COLORS if signed else MAP_COLORS](
        maps.detach().cpu().float().numpy()
    )
    return torch.from_numpy(np.moveaxis(rgba[..., :3], -1, -3)).float()
