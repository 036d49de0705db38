"""Sphinx extension: the built book makes no request to the network.

It ships MathJax with the pages instead of loading it from elsewhere, and warns of anything left
in the built pages that a browser would fetch from another host. Warnings fail the build.
"""

from __future__ import annotations

import re
import shutil
from html.parser import HTMLParser
from importlib.metadata import files
from pathlib import Path

from sphinx.application import Sphinx
from sphinx.util import logging

logger = logging.getLogger(__name__)

# One self-contained file: TeX in, SVG out, neither fonts nor extensions to load later.
MATHJAX = "tex-svg-full.js"

# Where an element names something that a browser fetches by itself. Links are followed by readers.
FETCHED = {
    "audio": "src",
    "embed": "src",
    "iframe": "src",
    "img": "src",
    "object": "data",
    "script": "src",
    "source": "src",
    "video": "src",
}
FETCHED_LINKS = {
    "dns-prefetch",
    "icon",
    "manifest",
    "modulepreload",
    "preconnect",
    "prefetch",
    "preload",
    "stylesheet",
}
OUTSIDE = re.compile(r"(https?:)?//", re.IGNORECASE)
OUTSIDE_STYLE = re.compile(
    r"(?:@import\s+|url\()\s*[\"']?((?:https?:)?//[^\"')\s]+)", re.IGNORECASE
)


class _Requests(HTMLParser):
    """Collects what a page makes a browser fetch from another host."""

    def __init__(self) -> None:
        super().__init__()
        self.found: list[str] = []

    def handle_starttag(self, tag: str, attrs: list[tuple[str, str | None]]) -> None:
        values = {key: value or "" for key, value in attrs}
        url = values.get(FETCHED.get(tag, ""), "")
        if tag == "link" and FETCHED_LINKS & set(values.get("rel", "").lower().split()):
            url = values.get("href", "")
        if OUTSIDE.match(url):
            self.found.append(url)


def requests_of(page: Path) -> list[str]:
    """The addresses on other hosts that a built page or style sheet fetches."""
    text = page.read_text(encoding="utf-8")
    if page.suffix == ".css":
        return OUTSIDE_STYLE.findall(text)
    parser = _Requests()
    parser.feed(text)
    return parser.found


def _ship_mathjax(app: Sphinx, error: Exception | None) -> None:
    if error is not None:
        return
    packaged = files("sphinx-mathjax-offline") or []
    source = next(Path(str(file.locate())) for file in packaged if file.name == MATHJAX)
    target = Path(app.outdir) / "_static" / "mathjax" / MATHJAX
    target.parent.mkdir(parents=True, exist_ok=True)
    shutil.copyfile(source, target)


def _report_requests(app: Sphinx, error: Exception | None) -> None:
    if error is not None:
        return
    built = Path(app.outdir)
    for page in sorted([*built.rglob("*.html"), *built.rglob("*.css")]):
        for address in requests_of(page):
            logger.warning("%s fetches %s", page.relative_to(built), address)


def setup(app: Sphinx) -> dict[str, bool]:
    """Registers the two steps; Sphinx calls this."""
    app.config.mathjax_path = f"mathjax/{MATHJAX}"
    app.connect("build-finished", _ship_mathjax)
    app.connect("build-finished", _report_requests)
    return {"parallel_read_safe": True, "parallel_write_safe": True}
