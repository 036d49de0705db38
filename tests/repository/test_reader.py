"""The reader of the built book: every defect that a page can have is reported, and nothing else."""

from __future__ import annotations

import subprocess
import sys
from collections.abc import Iterator
from concurrent.futures import ThreadPoolExecutor
from pathlib import Path
from typing import TYPE_CHECKING

import pytest
import yaml
from PIL import Image

from tests.helpers import reader

if TYPE_CHECKING:
    from playwright.sync_api import Browser

ROOT = Path(__file__).resolve().parents[2]
CONFIG = yaml.safe_load((ROOT / "_config.yml").read_text(encoding="utf-8"))["repository"]
COLAB = f"{reader.COLAB}/github/{CONFIG['url'].removeprefix('https://github.com/')}/blob/main"
PIXEL = "data:image/gif;base64,R0lGODlhAQABAAAAACH5BAEKAAEALAAAAAABAAEAAAICTAEAOw=="

CLEAN = f"""
<h1 id="top">Title</h1>
<p><a href="#top">up</a> <a href="search.html">search</a> <a href="_sources/page.ipynb">source</a>
<a href="https://example.org/elsewhere">elsewhere</a>
<a href="{COLAB}/notebooks/01_quickstart.ipynb"><img alt="Open in Colab" src="{PIXEL}"></a></p>
<span aria-hidden="true"><img alt="" src="{PIXEL}"></span>
<div class="cell tag_wide" style="overflow-x: auto">
<table style="width: 2000px"><tr><td>may scroll</td></tr></table></div>
<pre style="overflow: auto">{"a line of code that is long " * 3}</pre>
<style>@media (max-width: 500px) {{table.phone {{width: 600px}}}}</style>
<div style="overflow-x: auto">
<table class="phone"><tr><td>scrolls on a phone</td></tr></table></div>
"""
# Letters of eight units and of one tenth of that, which is an index, on a width of 200.
LETTERS = (
    '<svg xmlns="http://www.w3.org/2000/svg" viewBox="0 0 200 100" width="200pt"><g transform='
    '"translate(9 9) scale(0.08 -0.08)"><use transform="scale(0.1)"/></g></svg>'
)
FOUND = "<ul id='search-results'><li><a href='index.html#top'>found</a></li></ul>"

# A page with one defect each, and the beginning of what must be said of it.
DEFECTS = {
    "short": ("<p>61 rows × 4 columns</p>", "table shortened: 61 rows × 4 columns"),
    "console": ("<script>console.error('oh')</script>", "console error: oh"),
    "script": ("<script>throw new Error('oh')</script>", "script error: oh"),
    "outside": (
        "<script src='https://example.org/x.js'></script>",
        "asks for what is not in the book: https://example.org/x.js",
    ),
    "missing": ("<script src='gone.js'></script>", "request failed: file://"),
    "link": ("<a href='gone.html'>x</a>", "link to a file that does not exist: gone.html"),
    "source": ("<a href='_sources/gone.ipynb'>x</a>", "link to a file that does not exist: _sou"),
    "away": ("<a href='../repository/notes.md'>x</a>", "link out of the book: file://"),
    "anchor": (
        "<a href='index.html#gone'>x</a>",
        "link to an anchor that does not exist: index.html#gone",
    ),
    "alt": (f"<img src='{PIXEL}'>", "image without alternative text: data:image/gif"),
    "sphinx": (f"<img alt='{PIXEL}' src='{PIXEL}'>", "image without alternative text: data:"),
    "broken": ("<img alt='x' src='data:image/png;base64,AAAA'>", "image does not load: data:im"),
    "wide": ("<p class='long' style='width: 500px'>long</p>", "body is too wide for the screen"),
    "desk": (
        "<style>@media (min-width: 1000px) {.far {width: 2000px}}</style><p class='far'>far</p>",
        "body is too wide for the screen",
    ),
    "box": (
        "<div class='main' style='overflow-x: auto'><h1>x</h1><pre style='width: 2000px'></div>",
        "div.main is ",
    ),
    "colab": (f"<a href='{COLAB}/notebooks/gone.ipynb'>x</a>", "opens what is not in the repo"),
    "stranger": (
        f"<a href='{reader.COLAB}/github/a/b/blob/main/notebooks/01_quickstart.ipynb'>x</a>",
        "opens what is not in the repository: ",
    ),
    "binder": (
        f"<a href='{reader.BINDER}/v2/gh/a/b/main?urlpath=lab/tree/notebooks/gone.ipynb'>x</a>",
        "opens what is not in the repository: ",
    ),
    "formula": ("<p data-mjx-error='Missing brace'>x</p>", "formula not understood: Missing brace"),
    "lacking": (
        "<table><tr><th>AD</th><td>nan</td></tr><tr><th>Nan's bread</th><td>1.0</td></tr></table>",
        'table without a number: nan in tr "ADnan"',
    ),
    "deviation": (
        "<table><tr><td>1.0 ± nan</td><td>banana</td></tr></table>",
        'table without a number: 1.0 ± nan in tr "1.0 ± nanbanana"',
    ),
    "table": (
        "<div style='overflow: auto'><table style='width: 2000px'><td>x</td></table></div>",
        "table is cut: 2000 px in ",
    ),
    "formula-wide": (
        "<div class='math' style='overflow: auto'><mjx-container style='display: block'>"
        "<svg style='width: 2000px; height: 9px'></svg></mjx-container></div>",
        "formula is cut: 2000 px in ",
    ),
    "formula-high": (
        "<div class='math' style='overflow: hidden; height: 20px'><mjx-container>"
        "<svg style='width: 20px; height: 40px'></svg></mjx-container></div>",
        "formula too high: 40 px in 20 px, mjx-container",
    ),
    "faint": (
        "<p style='color: #aaa'>Faint</p><p style='color: #111'>Clear</p>",
        'hard to read: rgb(170, 170, 170) on rgb(255, 255, 255), p "Faint"',
    ),
    "command": (
        "<p>ipykernel_launcher.py -f kernel.json</p>",
        "command of a kernel: ipykernel_launcher.py",
    ),
    "letters": (
        "<img class='figure' alt='Letters' src='small.svg' style='width: 150px'>",
        "letters of 6.0 px in a figure: small.svg",
    ),
    "shrunk": (
        "<div class='cell_output'>"
        "<img alt='Wide' src='wide.png' style='width: 500px; max-width: 100%'></div>",
        "picture shrinks: 600 px drawn on 500 px: ",
    ),
    "theme": ("<script>document.documentElement.dataset.theme = 'dark'</script>", "the theme is"),
}


def write(path: Path, body: str) -> None:
    path.parent.mkdir(parents=True, exist_ok=True)
    path.write_text(f"<!doctype html><html lang='en'><body>{body}</body></html>", encoding="utf-8")


def write_site(site: Path, search: str = FOUND) -> None:
    write(site / "index.html", CLEAN)
    write(site / "search.html", f"<h1>Search</h1>{search}")
    write(site / "_sources" / "page.ipynb", "")
    write(site / "_static" / "template.html", "{{ <img> }}")
    (site / "small.svg").write_text(LETTERS, encoding="utf-8")
    Image.new("1", (600, 10)).save(site / "wide.png")
    (site / "start.html").write_text('<meta http-equiv="Refresh" content="0; url=index.html">')


@pytest.fixture(scope="module")
def running() -> Iterator[Browser]:
    try:
        with reader.browser() as started:
            yield started
    except reader.Unavailable as reason:
        pytest.skip(str(reason))


@pytest.fixture(scope="module")
def problems(running: Browser, tmp_path_factory: pytest.TempPathFactory) -> dict[str, list[str]]:
    """What is said of each page of a site with one defect a page."""
    folder = tmp_path_factory.mktemp("defects")
    write_site(folder / "site")
    for name, (body, _) in DEFECTS.items():
        write(folder / "site" / f"{name}.html", body)
    found: dict[str, list[str]] = {}
    for problem in reader.check(running, folder / "site")[0]:
        page, said = problem.split(": ", 1)
        found.setdefault(page, []).append(said)
    return found


def test_a_clean_book_has_no_problems(running: Browser, tmp_path: Path) -> None:
    write_site(tmp_path)
    problems, scrolled, _ = reader.check(running, tmp_path)
    assert problems == []
    # Readers scroll the phone's table and, where it is narrow, the line of code.
    assert +scrolled == {"table (light, 390 px)": 1, "code (light, 390 px)": 1}


@pytest.mark.parametrize("name", DEFECTS)
def test_a_defect_is_reported_once(problems: dict[str, list[str]], name: str) -> None:
    said = problems.get(f"{name}.html", [])
    assert len(said) == 1, said
    assert said[0].startswith(DEFECTS[name][1])


def test_only_pages_with_defects_are_reported(problems: dict[str, list[str]]) -> None:
    assert set(problems) == {f"{name}.html" for name in DEFECTS}


def test_view_and_culprit_are_named(problems: dict[str, list[str]]) -> None:
    assert problems["wide.html"][0].endswith('screen: p.long "long" (light, 390 px)')
    assert problems["desk.html"][0].endswith('screen: p.far "far" (dark, 1280 px)')
    assert problems["theme.html"][0].endswith("(light, 390 px)")


@pytest.mark.parametrize(
    ("search", "messages"),
    [
        (
            "<ul id='search-results'></ul>",
            [f"search.html: the search finds nothing for {query}" for query in reader.QUERIES],
        ),
        (FOUND.replace("#top", "#gone"), ["search.html: link to an anchor that does not exist"]),
    ],
)
def test_search_must_find_what_exists(
    running: Browser, tmp_path: Path, search: str, messages: list[str]
) -> None:
    write_site(tmp_path, search)
    patience = 30 if "<li>" in search else 0.5
    problems, _, _ = reader.check(running, tmp_path, patience=patience)
    for found, message in zip(problems, messages, strict=True):
        assert found.startswith(message)


def test_only_changed_pages_are_opened_again(running: Browser, tmp_path: Path) -> None:
    site, memory = tmp_path / "site", tmp_path / "read.json"
    write_site(site)
    (site / "_images").mkdir()
    Image.new("RGB", (40, 40)).save(site / "_images" / "seen.png")
    write(site / "shows.html", "<h1>x</h1><img src='_images/seen.png' alt='seen'>")
    write(site / "leads.html", "<h1>x</h1><a href='shows.html#here'>x</a><p id='here'>y</p>")

    def opened() -> tuple[list[str], int]:
        problems, scrolled, count = reader.check(running, site, memory=memory)
        assert scrolled["table (light, 390 px)"] == 1  # of pages that are not opened, too
        return problems, count

    gone = "leads.html: link to an anchor that does not exist: shows.html#here (dark, 1280 px)"
    problems, every = opened()
    assert problems == [gone] and every >= 2 * 3
    Image.new("RGB", (50, 50)).save(site / "_images" / "seen.png")
    assert opened() == ([gone], 2)  # links of the other pages are followed all the same
    write(site / "shows.html", "<h1 id='here'>x</h1><img src='_images/seen.png'>")
    unnamed = "shows.html: image without alternative text: _images/seen.png (light, 390 px)"
    assert opened() == ([unnamed], 2)
    assert opened() == ([unnamed], 1)  # in the dark view nothing new was wrong
    (site / "_static").mkdir(exist_ok=True)
    (site / "_static" / "style.css").write_text("p { margin: 0 }")
    assert opened()[1] == every


def test_command_ends_with_one_where_there_is_no_book(running: Browser, tmp_path: Path) -> None:
    command = [sys.executable, reader.__file__, str(tmp_path)]
    ended = subprocess.run(command, capture_output=True, text=True)
    assert ended.returncode == 1
    assert "no search.html; run make book first" in ended.stderr


def test_browser_that_does_not_start_is_named(
    monkeypatch: pytest.MonkeyPatch, tmp_path: Path
) -> None:
    pytest.importorskip("playwright")
    fake = tmp_path / "chromium"
    fake.write_text("#!/bin/sh\nexit 1\n")
    fake.chmod(0o755)
    monkeypatch.setattr(reader, "chromium", lambda: str(fake))

    def start() -> None:
        with reader.browser():
            pass

    # In a thread of its own: playwright starts once a thread, and `running` is this one's.
    with (
        ThreadPoolExecutor(1) as pool,
        pytest.raises(reader.Unavailable, match="chromium does not start: "),
    ):
        pool.submit(start).result()


def test_without_a_browser_the_check_is_skipped_aloud(
    monkeypatch: pytest.MonkeyPatch, tmp_path: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    monkeypatch.setenv("PATH", str(tmp_path))
    assert reader.main(["site"]) == 0
    assert "NOT read" in (said := capsys.readouterr().out)
    assert "none of chromium, chromium-browser, google-chrome is on the PATH" in said
    assert reader.main(["site", "--require"]) == 1


@pytest.mark.parametrize(
    ("drawn", "relative"),
    [
        (LETTERS, 8 / 200),
        (LETTERS.replace("<g ", '<text font-size="7"/><g '), 7 / 200),
        (LETTERS.replace("<g ", "<text style='font-size: 6px'/><g "), 6 / 200),
        ('<svg viewBox="0 0 200 100"><path d="M0 0"/></svg>', None),
    ],
)
def test_smallest_letters_of_a_figure_are_found(drawn: str, relative: float | None) -> None:
    assert reader.lettering(drawn) == (None if relative is None else pytest.approx(relative))
