"""Sphinx extension: every image says what it shows, every figure can be saved at print quality.

The figures of notebooks are SVG files that carry their own description (`ttame.plotting`), which
becomes their alternative text. Below each figure, and below every other SVG that is no link
already, stands a link to the file. Dark pages show a copy with lettering and lines in light
colours; its photos and maps are the same. Images of the built pages that have no alternative text
are warned of. Warnings fail the build.
"""

from __future__ import annotations

import re
from colorsys import hls_to_rgb, rgb_to_hls
from html import escape
from html.parser import HTMLParser
from pathlib import Path, PurePosixPath
from xml.etree import ElementTree

from docutils import nodes
from sphinx.application import Sphinx
from sphinx.util import logging

logger = logging.getLogger(__name__)

_DUBLIN_CORE = "{http://purl.org/dc/elements/1.1/}"
_SMALL = 290  # points: a phone shows it at nine tenths, with letters of 9 pixels
# Lightness of what is black and what is white in a light figure: soft white, and the dark page's.
_BLACK, _WHITE = 0.88, 0.1
# Not the names of parts, which are referred to by `#` as well.
_COLOUR = re.compile(r"""(?<!href=")(?<!url\()#([0-9a-fA-F]{6}|[0-9a-fA-F]{3})(?![\w-])""")


def description_of(picture: ElementTree.Element) -> str:
    """The description that an SVG document carries; empty where there is none."""
    found = picture.find(f".//{_DUBLIN_CORE}description")
    return (found.text or "").strip() if found is not None else ""


def darkened(svg: str) -> str:
    """An SVG document for dark pages: drawn colours change their lightness, never their hue.

    Pixels, as of photos and maps, are written as base64, where no colour is found.
    """

    def turned(found: re.Match[str]) -> str:
        digits = found[1] if len(found[1]) == 6 else "".join(2 * digit for digit in found[1])
        hue, lightness, saturation = rgb_to_hls(*(byte / 255 for byte in bytes.fromhex(digits)))
        lightness = _BLACK + (_WHITE - _BLACK) * lightness
        return "#" + bytes(round(255 * x) for x in hls_to_rgb(hue, lightness, saturation)).hex()

    black = _COLOUR.sub(turned, "#000")  # in which is drawn what names no colour
    return _COLOUR.sub(turned, svg).replace("<svg ", f'<svg fill="{black}" ', 1)


def is_small(picture: ElementTree.Element) -> bool:
    """Whether an SVG document is so narrow that a phone's screen may shrink it."""
    width = picture.get("width", "")
    return width.endswith("pt") and float(width.removesuffix("pt")) <= _SMALL


class _Images(HTMLParser):
    """Collects the images of a page that have no alternative text."""

    def __init__(self) -> None:
        super().__init__()
        self.silent: list[str] = []

    def handle_starttag(self, tag: str, attrs: list[tuple[str, str | None]]) -> None:
        values = {key: value or "" for key, value in attrs}
        alt, source = values.get("alt", "").strip(), values.get("src", "")
        # Sphinx puts the file's path where a page gives no text.
        named = PurePosixPath(alt).suffix.lower() in {".png", ".svg", ".jpg", ".jpeg", ".gif"}
        if tag == "img" and (not alt or named):
            self.silent.append(source[:80])


def images_without_alt(page: Path) -> list[str]:
    """The sources of images in a built page that have no alternative text, or only a file name."""
    parser = _Images()
    parser.feed(page.read_text(encoding="utf-8"))
    return parser.silent


def _describe(app: Sphinx, doctree: nodes.document, page: str) -> None:
    """Give every figure its text and its link."""
    up = "../" * page.count("/")
    number = 0
    for image in list(doctree.findall(nodes.image)):
        source = Path(app.srcdir) / image["uri"]
        linked = isinstance(image.parent, nodes.reference)  # such as a badge
        if linked or source.suffix != ".svg" or image["uri"] not in app.env.images:
            continue
        number += 1
        svg = source.read_text(encoding="utf-8")
        picture = ElementTree.fromstring(svg)
        if description := description_of(picture):
            image["alt"] = description
        # The theme shows one of the two; a browser loads what is shown.
        image["classes"] += ["figure", "only-light"]
        image["loading"] = "lazy"
        file = PurePosixPath(app.env.images[image["uri"]][1])
        dark = Path(app.outdir) / app.builder.imagedir / f"{file.stem}.dark.svg"
        dark.parent.mkdir(parents=True, exist_ok=True)
        dark.write_text(darkened(svg), encoding="utf-8")
        folder = escape(f"{up}{app.builder.imagedir}/")
        name = f"{PurePosixPath(page).name}-{number}.svg"
        kilobytes = max(round(source.stat().st_size / 1000), 1)
        size = f' style="width: {image["width"]}"' if "width" in image else ""
        alt = escape(image.get("alt", ""))
        below = (
            f'<img class="figure only-dark" loading="lazy" alt="{alt}"{size}'
            f' src="{folder}{escape(dark.name)}"/>'
            f'<p class="figure-file"><a href="{folder}{escape(file.name)}"'
            f' download="{escape(name)}">Save figure {number} (SVG, {kilobytes} kB)</a></p>'
        )
        small = is_small(picture) or "width" in image  # a width of its own may be undercut
        box = nodes.container("", classes=["figure-box", *["small"] * small])
        image.parent.replace(image, box)
        box += [image, nodes.raw("", below, format="html")]


def _add_style(app: Sphinx) -> None:
    app.config.html_static_path.append(str(Path(__file__).with_name("pictures.css")))


def _report_silent_images(app: Sphinx, error: Exception | None) -> None:
    if error is not None:
        return
    built = Path(app.outdir)
    for page in sorted(built.rglob("*.html")):
        for source in images_without_alt(page):
            logger.warning("%s: image %s has no alternative text", page.relative_to(built), source)


def setup(app: Sphinx) -> dict[str, bool]:
    """Registers the steps; Sphinx calls this."""
    app.connect("builder-inited", _add_style)
    app.add_css_file("pictures.css")
    app.connect("doctree-resolved", _describe)
    app.connect("build-finished", _report_silent_images)
    return {"parallel_read_safe": True, "parallel_write_safe": True}
