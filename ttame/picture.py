"""A figure that shows itself in a notebook: as SVG, with a description of what it shows."""

from __future__ import annotations

import re
from base64 import b64decode, b64encode
from io import BytesIO, StringIO
from typing import Any

import matplotlib as mpl
from matplotlib.figure import Figure
from PIL import Image

from ttame.errors import TTameError

# Every colour of the figures is one of these; all can be told apart by colour-blind people.
MAP_COLORS = "inferno"  # perceptually uniform: lightness rises evenly with the value
SIGNED_COLORS = "RdBu_r"  # lightest at zero, so that the strength shows without the hue
PALETTE = "colorblind"  # seaborn's name of ten colours for categories
MARK_COLOR = "#0072B2"  # the one thing that is pointed out among grey ones

PRINT_DPI = 200  # pixels an inch of what an SVG cannot draw: photos and maps
_QUALITY = 92  # of photos as JPEG, out of 95
_EMBEDDED = re.compile(r"data:image/png;base64,([A-Za-z0-9+/=\s]+)")


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
