"""The book as one PDF: the pages of a built site, printed by a browser and joined.

    python -m tests.printing _build/html _build/ttame.pdf

The order is that of the table of contents. The pages of the API by package are left out: hundreds
of pages for looking up. Links between pages lead to the page in the file.
"""

from __future__ import annotations

import argparse
import sys
import tempfile
from pathlib import Path
from typing import TYPE_CHECKING

import yaml

from tests.helpers.reader import ROOT, Unavailable, browser, path_of

if TYPE_CHECKING:
    from playwright.sync_api import Page

# Loads what waits to be scrolled to, and waits until it is drawn.
READY = """async () => {
  const images = [...document.images].filter((each) => each.checkVisibility());
  for (const image of images) image.loading = "eager";
  await Promise.all(images.map((image) => image.decode().catch(() => null)));
  await window.MathJax?.startup?.promise;
  await document.fonts.ready;
}"""
MARGIN = "16mm"
SCALE = 0.85  # the column is then a little wider than the site's


def pages(toc: Path, site: Path) -> list[Path]:
    """The pages of the book in the order of its table of contents, without sections of chapters.

    Raises:
        FileNotFoundError: One of them was not built.
    """
    contents = yaml.safe_load(toc.read_text(encoding="utf-8"))
    entries = [entry["file"] for part in contents["parts"] for entry in part["chapters"]]
    found = [site.resolve() / f"{name}.html" for name in [contents["root"], *entries]]
    for path in found:
        if not path.is_file():
            raise FileNotFoundError(f"no page {path}: run make book first")
    return found


def write_page(page: Page, source: Path, target: Path) -> str:
    """Print one page of the site, and return its title."""
    page.goto(source.as_uri())
    page.emulate_media(media="print", color_scheme="light")
    page.evaluate(READY)
    margin = dict.fromkeys(("top", "right", "bottom", "left"), MARGIN)
    page.pdf(path=target, format="A4", scale=SCALE, margin=margin, outline=True, tagged=True)
    return page.locator("h1").first.inner_text().strip().removesuffix("#")


def join(parts: dict[Path, tuple[str, Path]], target: Path) -> int:
    """Join the printed pages, with their titles as bookmarks and their links between them.

    Args:
        parts: By page of the site, its title and its PDF.
        target: The PDF to write.

    Returns:
        The number of pages of paper.
    """
    from pypdf import PdfWriter
    from pypdf.generic import ArrayObject, DictionaryObject, NameObject

    writer = PdfWriter()
    first: dict[Path, int] = {}
    for source, (title, printed) in parts.items():
        first[source] = len(writer.pages)
        writer.append(printed, outline_item=title)
    for sheet in writer.pages:
        for reference in sheet.get("/Annots", []):
            link = reference.get_object()
            address = str(link.get("/A", {}).get("/URI", ""))
            if not address.startswith("file:"):
                continue
            if (start := first.get(path_of(address))) is None:
                del link["/A"]  # of what is not in the file
                continue
            place = [writer.pages[start].indirect_reference, NameObject("/Fit")]
            action = {NameObject("/S"): NameObject("/GoTo"), NameObject("/D"): ArrayObject(place)}
            link[NameObject("/A")] = DictionaryObject(action)
    writer.add_metadata({"/Title": "T-TAME, the reproducible companion"})
    writer.write(target)
    return len(writer.pages)


def main(arguments: list[str] | None = None) -> int:
    """The command line."""
    parser = argparse.ArgumentParser(description="Print a built book into one PDF.")
    parser.add_argument("site", type=Path, help="folder of the built book, such as _build/html")
    parser.add_argument("target", type=Path, help="the PDF")
    given = parser.parse_args(arguments)
    try:
        with browser() as running, tempfile.TemporaryDirectory() as folder:
            page = running.new_page()
            page.set_default_timeout(120_000)  # a busy machine takes its time
            parts = {}
            for number, source in enumerate(pages(ROOT / "_toc.yml", given.site)):
                printed = Path(folder) / f"{number:02d}.pdf"
                parts[source] = (write_page(page, source, printed), printed)
            count = join(parts, given.target)
    except (Unavailable, FileNotFoundError) as error:
        print(f"error: {error}", file=sys.stderr)
        return 1
    print(f"{given.target}: {count} pages, {given.target.stat().st_size / 1e6:.1f} MB")
    return 0


if __name__ == "__main__":
    sys.exit(main())
