"""Sphinx extension: every image says what it shows, every figure can be saved at print quality.

The figures of notebooks are SVG files that carry their own description (`ttame.plotting`), which
becomes their alternative text. Below each figure, and below every other SVG that is no link
already, stands a link to the file. Images of the built pages that have no alternative text are
warned of. Warnings fail the build.
"""

from __future__ import annotations

from html import escape
from html.parser import HTMLParser
from pathlib import Path, PurePosixPath
from xml.etree import ElementTree

from docutils import nodes
from sphinx.application import Sphinx
from sphinx.util import logging

logger = logging.getLogger(__name__)

_DUBLIN_CORE = "{http://purl.org/dc/elements/1.1/}"
_SVG = "{http://www.w3.org/2000/svg}"
_SMALL = 340  # points


def description_of(picture: ElementTree.Element) -> str:
    """The description that an SVG document carries; empty where there is none."""
    found = picture.find(f".//{_DUBLIN_CORE}description")
    return (found.text or "").strip() if found is not None else ""


def has_photos(picture: ElementTree.Element) -> bool:
    """Whether an SVG document holds pixels, whose colours must stay as they are on a dark page."""
    return picture.find(f".//{_SVG}image") is not None


def is_small(picture: ElementTree.Element) -> bool:
    """Whether an SVG document is as narrow as two photos, which a phone's screen may shrink."""
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
        picture = ElementTree.parse(source).getroot()
        if alt := description_of(picture):
            image["alt"] = alt
            image["classes"] += ["photos" if has_photos(picture) else "chart"]
        address = f"{up}{app.builder.imagedir}/{app.env.images[image['uri']][1]}"
        name = f"{PurePosixPath(page).name}-{number}.svg"
        kilobytes = max(round(source.stat().st_size / 1000), 1)
        link = (
            f'<p class="figure-file"><a href="{escape(address)}" download="{escape(name)}">'
            f"Save figure {number} (SVG, {kilobytes} kB)</a></p>"
        )
        box = nodes.container("", classes=["figure-box", *["small"] * is_small(picture)])
        image.parent.replace(image, box)
        box += [image, nodes.raw("", link, format="html")]


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
