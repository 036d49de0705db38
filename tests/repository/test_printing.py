"""The book as one PDF: its order, its bookmarks, and the links between its pages."""

from pathlib import Path

import pytest

from tests.helpers.reader import Unavailable, browser
from tests.printing import join, pages, write_page

pypdf = pytest.importorskip("pypdf", reason="pypdf joins the pages; it is in the extra ttame[dev]")

TOC = """\
root: start
parts:
  - chapters:
      - file: book/one
        sections:
          - file: book/left_out
"""
PAGE = (
    "<!doctype html><html><body><h1>{title}</h1><p>Words.</p>"
    "<img alt='' loading='lazy' src='data:image/gif;base64,R0lGODlhAQABAAAAACwAAAAAAQABAAA7'>"
    "<a href='{other}'>other</a> <a href='gone.html'>gone</a>"
    "<a href='https://example.org/'>outside</a></body></html>"
)


@pytest.fixture
def site(tmp_path: Path) -> Path:
    folder = tmp_path / "site"
    (folder / "book").mkdir(parents=True)
    start, one = folder / "start.html", folder / "book" / "one.html"
    start.write_text(PAGE.format(title="Start", other="book/one.html#x"), encoding="utf-8")
    one.write_text(PAGE.format(title="One", other="../start.html"), encoding="utf-8")
    (tmp_path / "_toc.yml").write_text(TOC, encoding="utf-8")
    return folder


def test_pages_are_those_of_the_contents_without_sections(site: Path) -> None:
    toc = site.parent / "_toc.yml"
    assert pages(toc, site) == [site / "start.html", site / "book" / "one.html"]
    (site / "book" / "one.html").unlink()
    with pytest.raises(FileNotFoundError, match=r"no page .*one\.html: run make book first"):
        pages(toc, site)


def test_pages_are_joined_and_linked_inside_the_file(site: Path) -> None:
    parts = {}
    try:
        with browser() as running:
            page = running.new_page()
            for source in pages(site.parent / "_toc.yml", site):
                printed = site.parent / f"{source.stem}.pdf"
                parts[source] = (write_page(page, source, printed), printed)
    except Unavailable as reason:
        pytest.skip(str(reason))
    target = site.parent / "book.pdf"
    assert join(parts, target) == 2

    reader = pypdf.PdfReader(target)
    titles = [item.title for item in reader.outline if not isinstance(item, list)]
    assert titles == ["Start", "One"]
    for number, other in ((0, 1), (1, 0)):
        actions = [link.get_object().get("/A") for link in reader.pages[number]["/Annots"]]
        inside, gone, outside = actions
        assert inside["/S"] == "/GoTo"
        assert inside["/D"][0].get_object() == reader.pages[other].get_object()
        assert gone is None
        assert outside["/URI"] == "https://example.org/"
