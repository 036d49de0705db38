"""Reads a built book as a reader would: every page in a browser, straight from the file system.

    python tests/helpers/reader.py _build/html --memory _build/read.json

Each page is opened in the light theme on a phone's screen and in the dark theme on a desk's, since
colours depend on the theme, and places and sizes on the screen. What a reader would stumble over is
printed and ends the command with 1; how many tables and formulas scroll on a phone is counted.
Links to other sites are not followed: nothing here asks the network for anything. With a memory,
pages that have not changed since they were read without a complaint are not opened again; where
their links lead is checked all the same.
"""

from __future__ import annotations

import argparse
import hashlib
import json
import re
import shutil
import sys
import time
from collections import Counter
from collections.abc import Iterator
from contextlib import contextmanager
from pathlib import Path
from typing import TYPE_CHECKING, Any
from urllib.parse import parse_qs, unquote, urlsplit
from urllib.request import url2pathname

if TYPE_CHECKING:
    from playwright.sync_api import Browser, BrowserContext, Page

ROOT = Path(__file__).resolve().parents[2]
NAMES = ("chromium", "chromium-browser", "google-chrome")
# A browser that reads files needs no graphics card, and asks its maker for nothing.
FLAGS = [
    "--disable-gpu",
    "--no-first-run",
    "--disable-background-networking",
    "--disable-component-update",
    "--disable-sync",
    "--disable-quic",
]
VIEWS = [("light", 390), ("dark", 1280)]  # theme, and width of the screen in pixels
PHONE = 600  # pixels: narrower screens may have tables and formulas scroll
LETTERING = 9  # pixels: the smallest letters in figures
QUERIES = ("average+drop", "how+to+train+on+my+own+data")
INSPECT = Path(__file__).with_suffix(".js").read_text(encoding="utf-8")

COLAB = "https://colab.research.google.com"
BINDER = "https://mybinder.org"


class Unavailable(Exception):
    """There is no browser to read the book with; the message says why."""


def chromium() -> str | None:
    """The Chromium of this machine, `None` where there is none."""
    return next(filter(None, map(shutil.which, NAMES)), None)


@contextmanager
def browser() -> Iterator[Browser]:
    """A running Chromium, closed at the end.

    Raises:
        Unavailable: It is not installed, cannot be driven or does not start.
    """
    path = chromium()
    if path is None:
        raise Unavailable(f"no Chromium: none of {', '.join(NAMES)} is on the PATH")
    try:
        from playwright.sync_api import Error, sync_playwright
    except ModuleNotFoundError as error:
        message = "playwright is missing: install the dev extra, pip install 'ttame[dev]'"
        raise Unavailable(message) from error
    with sync_playwright() as driver:
        try:
            # Without Chromium's sandbox, which is playwright's default: it fails for root and in
            # most containers, and the pages are our own.
            running = driver.chromium.launch(executable_path=path, args=FLAGS, timeout=120_000)
        except Error as error:
            reason = f"{path} does not start: {error.message.splitlines()[0]}"
            raise Unavailable(reason) from error
        with running:
            yield running


def asks_nobody(url: str) -> bool:
    """Whether a browser gets an address without asking another machine."""
    return urlsplit(url).scheme in ("file", "data", "blob")


def on_phone(view: str) -> bool:
    """Whether a view is that of a phone."""
    return int(view.split()[-2]) < PHONE


def path_of(url: str) -> Path:
    """The path that a `file:` address names."""
    return Path(url2pathname(urlsplit(url).path))


def lettering(svg: str) -> float | None:
    """The size of the smallest letters of an SVG document, relative to its width.

    Matplotlib draws letters as paths, in hundredths of their size; indices may be smaller.
    """
    glyphs = re.findall(r"scale\((\d*\.?\d+(?:e-?\d+)?) -\1\)", svg)
    fonts = re.findall(r"font-size[=:]\s*\"?(\d*\.?\d+)", svg)
    width = re.search(r'viewBox="\S+ \S+ (\S+) ', svg)
    sizes = [100 * float(each) for each in glyphs] + [float(each) for each in fonts]
    return min(sizes) / float(width[1]) if sizes and width else None


class Repository:
    """The checkout that a book was built from: what its launch buttons open lies there."""

    def __init__(self, folder: Path) -> None:
        import yaml

        config = yaml.safe_load((folder / "_config.yml").read_text(encoding="utf-8"))["repository"]
        self.folder = folder
        colab = f"{COLAB}/github{urlsplit(config['url']).path}"
        self.prefixes = [
            f"{start}/{view}/{config['branch']}/"
            for start in (colab, config["url"])
            for view in ("blob", "tree", "edit", "raw")
        ]

    def lacks(self, link: str) -> bool:
        """Whether a link opens a file of the repository that does not exist."""
        opened = None
        if link.startswith((COLAB, BINDER)):
            opened = parse_qs(urlsplit(link).query).get("urlpath", [""])[0]  # Binder's way
            opened = opened.removeprefix("lab/").removeprefix("tree/")
        for prefix in self.prefixes:
            if link.startswith(prefix):
                opened = unquote(urlsplit(link.removeprefix(prefix)).path)
        return opened is not None and not (opened and (self.folder / opened).exists())


def digest(*parts: bytes) -> str:
    """A short name of what some bytes are."""
    return hashlib.sha256(b"\0".join(hashlib.sha256(part).digest() for part in parts)).hexdigest()


class Memory:
    """What the browser saw on pages that nothing was wrong with, until they change.

    A page has changed with its own text, with a picture that it shows, or with what all pages
    share: style sheets, scripts, the browser and this check.

    Args:
        file: Where it is kept, `.json`; `None`: nowhere.
        site: The folder of the built book.
        browser: The version of the browser.
    """

    def __init__(self, file: Path | None, site: Path, browser: str) -> None:
        self.file, self.site = file, site
        self.found: dict[str, Any] = {}
        self.kept: dict[str, Any] = {}
        self.opened = 0  # pages that the browser had to open
        if file is None:
            return
        if file.is_file():
            self.found = json.loads(file.read_text(encoding="utf-8"))
        shared = [Path(__file__), Path(__file__).with_suffix(".js")]
        shared += [path for path in sorted((site / "_static").rglob("*")) if path.is_file()]
        self.shared = digest(str(site).encode(), browser.encode(), *map(Path.read_bytes, shared))
        self.pictures = {path.name: path for path in sorted((site / "_images").glob("*"))}

    def key(self, path: Path, view: str) -> str:
        """The state of a page as it is seen in a view."""
        text = path.read_bytes()
        shown = [picture.read_bytes() for name, picture in self.pictures.items()
                 if name.encode() in text]  # fmt: skip
        own = digest(self.shared.encode(), str(path).encode(), text, *shown)
        return f"{view}, {own}"

    def recall(self, path: Path, view: str) -> dict[str, Any] | None:
        """What was seen on a page, `None` where it has changed or was not read."""
        seen: dict[str, Any] | None = self.found.get(self.key(path, view)) if self.file else None
        if seen is not None:
            self.kept[self.key(path, view)] = seen
        return seen

    def keep(self, path: Path, view: str, seen: dict[str, Any]) -> None:
        """Remember what was seen on a page."""
        if self.file:
            self.kept[self.key(path, view)] = seen

    def write(self) -> None:
        """Write what was seen in this reading and forget the rest."""
        if self.file:
            whole = self.file.with_suffix(".new")
            whole.write_text(json.dumps(self.kept), encoding="utf-8")
            whole.replace(self.file)


class Reader:
    """Opens the pages of one book and remembers what is wrong with them.

    Args:
        site: The folder of the built book.
        repository: The checkout it was built from.
        patience: Seconds that the search may take.
        memory: What was seen at earlier readings.
    """

    def __init__(self, site: Path, repository: Path, patience: float, memory: Memory) -> None:
        self.site, self.memory = site.resolve(), memory
        self.repository = Repository(repository)
        self.patience = patience
        self.problems: dict[str, str] = {}  # each with the view in which it was seen first
        self.anchors: dict[Path, set[str]] = {}
        self.links: dict[tuple[Path, str], str] = {}
        self.scrolled: Counter[str] = Counter()  # what scrolls where it may

    def name(self, path: Path) -> str:
        """A file's name in the book, or its full path where it lies elsewhere."""
        inside = path.is_relative_to(self.site)
        return path.relative_to(self.site).as_posix() if inside else str(path)

    def note(self, path: Path, view: str, *problems: str) -> None:
        """Remember what is wrong with a page."""
        for problem in problems:
            self.problems.setdefault(f"{self.name(path)}: {problem}", view)

    @contextmanager
    def opened(
        self, context: BrowserContext, path: Path, view: str, query: str = ""
    ) -> Iterator[Page]:
        """A page in the browser, whose complaints are noted until it is closed."""
        page = context.new_page()

        def requested(url: str) -> None:
            foreign = urlsplit(url).scheme == "file" and not path_of(url).is_relative_to(self.site)
            if foreign or not asks_nobody(url):
                self.note(path, view, f"asks for what is not in the book: {url[:200]}")

        def failed(url: str, failure: str | None) -> None:
            if asks_nobody(url):  # other requests were noted when they were made
                self.note(path, view, f"request failed: {url[:200]} ({failure})")

        def said(kind: str, text: str) -> None:
            if kind == "error" and not text.startswith("Failed to load resource"):  # noted above
                self.note(path, view, f"console error: {text}")

        page.on("request", lambda request: requested(request.url))
        page.on("requestfailed", lambda request: failed(request.url, request.failure))
        page.on("pageerror", lambda error: self.note(path, view, f"script error: {error.message}"))
        page.on("console", lambda message: said(message.type, message.text))
        page.goto(path.as_uri() + query)
        yield page
        page.close()

    def read(self, context: BrowserContext, path: Path, view: str) -> None:
        """Look at one page, or remember it."""
        seen = self.memory.recall(path, view)
        if seen is not None:
            self.judge(path, seen, view)
            return
        self.memory.opened += 1
        before = len(self.problems)
        with self.opened(context, path, view) as page:
            seen = page.evaluate(INSPECT)
        self.judge(path, seen, view)
        if len(self.problems) == before:
            self.memory.keep(path, view, seen)

    def judge(self, path: Path, seen: dict[str, Any], view: str) -> None:
        """Note what the browser saw on a page; its links wait until every page was read."""
        for image in seen["images"]:
            source = image["source"][:120]
            if not image["loaded"]:
                self.note(path, view, f"image does not load: {source}")
            # Sphinx writes the address where an author wrote nothing.
            if not image["decoration"] and image["alt"].strip() in ("", image["source"]):
                self.note(path, view, f"image without alternative text: {source}")
        self.note(path, view, *(f"formula not understood: {each}" for each in seen["formulas"]))
        self.note(path, view, *(f"table without a number: {each}" for each in seen["lacking"]))
        self.note(path, view, *(f"table shortened: {each}" for each in seen["shortened"]))
        self.note(path, view, *(f"formula too high: {each}" for each in seen["low"]))
        self.note(path, view, *(f"hard to read: {each}" for each in seen["faint"]))
        self.note(path, view, *(f"command of a kernel: {each}" for each in seen["commands"]))
        for kind, found in seen["scrolling"].items():
            # Long lines of code scroll everywhere, which readers are used to.
            if on_phone(view) or kind == "code":
                self.scrolled[f"{kind} ({view})"] += len(found)
            else:
                self.note(path, view, *(f"{kind} is cut: {each}" for each in found))
        for figure in seen["figures"]:
            self.measure(path, view, figure)
        if seen["theme"] is not None and not view.startswith(seen["theme"]):
            self.note(path, view, f"the theme is {seen['theme']!r}, not the one asked for")
        if wide := seen["wide"]:
            parts = ", ".join(wide["parts"])
            self.note(path, view, f"{wide['box']} is too wide for the screen: {parts}")
        self.anchors.setdefault(path, set()).update(filter(None, seen["anchors"]))
        self.links.update({(path, link): view for link in seen["links"]})

    def measure(self, path: Path, view: str, figure: dict[str, Any]) -> None:
        """Note a figure whose letters are too small as it is shown."""
        file = path_of(figure["url"])
        if urlsplit(figure["url"]).scheme == "file" and file.suffix == ".svg":
            size = lettering(file.read_text(encoding="utf-8"))
            if size is not None and size * figure["shown"] < LETTERING - 0.05:
                told = f"letters of {size * figure['shown']:.1f} px in a figure: {self.name(file)}"
                self.note(path, view, told)
        elif figure["shown"] < 0.9 * figure["drawn"] and not on_phone(view):
            told = f"{figure['drawn']} px drawn on {figure['shown']} px: {figure['url'][-80:]}"
            self.note(path, view, f"picture shrinks: {told}")

    def follow_redirect(self, context: BrowserContext, path: Path, view: str) -> None:
        """Check where a page leads that only sends its reader on."""
        with self.opened(context, path, view) as page:
            page.wait_for_url(lambda url: url != path.as_uri())
            self.links[path, page.url] = view

    def search(self, context: BrowserContext, view: str, query: str) -> None:
        """Check that the book's own search finds something, and that its finds exist."""
        from playwright.sync_api import TimeoutError

        path = self.site / "search.html"
        with self.opened(context, path, view, f"?q={query}") as page:
            try:
                page.wait_for_selector("#search-results li a", timeout=1000 * self.patience)
            except TimeoutError:
                self.note(path, view, f"the search finds nothing for {query}")
            page.wait_for_timeout(500)  # for what the results fetch by themselves
            self.judge(path, page.evaluate(INSPECT), view)

    def wrong_with(self, link: str) -> str | None:
        """What keeps a link from leading anywhere, as far as that can be known offline."""
        if urlsplit(link).scheme == "file":
            path, fragment = path_of(link), unquote(urlsplit(link).fragment)
            if not path.is_relative_to(self.site):
                return f"link out of the book: {link}"
            if not path.is_file():
                return f"link to a file that does not exist: {self.name(path)}"
            if fragment and path in self.anchors and fragment not in self.anchors[path]:
                return f"link to an anchor that does not exist: {self.name(path)}#{fragment}"
        return (
            f"opens what is not in the repository: {link}" if self.repository.lacks(link) else None
        )

    def follow(self) -> None:
        """Check where the links of all pages lead."""
        for (path, link), view in self.links.items():
            if wrong := self.wrong_with(link):
                self.note(path, view, wrong)


def check(
    running: Browser,
    site: Path,
    repository: Path = ROOT,
    patience: float = 30,
    memory: Path | None = None,
) -> tuple[list[str], Counter[str], int]:
    """Read a book and say what is wrong with it.

    Args:
        running: The browser to read it with.
        site: The folder of the built book.
        repository: The checkout it was built from.
        patience: Seconds that the search may take.
        memory: A file that holds what was seen last time, and then what is seen now.

    Returns:
        The problems, each with its page and the view in which it was seen first; how many tables,
        formulas and pieces of code scroll where they may, by kind and view; and how many pages were
        opened, in each view.

    Raises:
        FileNotFoundError: The folder holds no book.
    """
    known = Memory(memory, site.resolve(), running.version)
    reader = Reader(site, repository, patience, known)
    # Themes and extensions keep templates beside their scripts; readers see none of them.
    pages = [path for path in sorted(reader.site.rglob("*.html")) if "_static" not in path.parts]
    if reader.site / "search.html" not in pages:
        raise FileNotFoundError(f"no book under {site}: it has no search.html; run make book first")
    redirect = re.compile(r'<meta\s+http-equiv="?refresh', re.IGNORECASE)
    for theme, width in VIEWS:
        view = f"{theme}, {width} px"
        context = running.new_context(
            viewport={"width": width, "height": 900},
            color_scheme="dark" if theme == "dark" else "light",
        )
        context.set_default_timeout(120_000)  # a busy machine takes its time
        context.route(lambda url: not asks_nobody(url), lambda route: route.abort())
        for path in pages:
            sends_on = redirect.search(path.read_text(encoding="utf-8"))
            (reader.follow_redirect if sends_on else reader.read)(context, path, view)
        for query in QUERIES:
            reader.search(context, view, query)
        context.close()
    reader.follow()
    known.write()
    problems = [f"{problem} ({view})" for problem, view in sorted(reader.problems.items())]
    return problems, reader.scrolled, known.opened


def main(arguments: list[str] | None = None) -> int:
    """The command line."""
    parser = argparse.ArgumentParser(description="Read a built book as a reader would.")
    parser.add_argument("site", type=Path, help="folder of the built book, such as _build/html")
    parser.add_argument("--memory", type=Path, help="file of what was seen before, .json")
    parser.add_argument("--require", action="store_true", help="fail where there is no browser")
    given = parser.parse_args(arguments)
    start = time.monotonic()
    try:
        with browser() as running:
            problems, scrolled, opened = check(running, given.site, memory=given.memory)
    except Unavailable as reason:
        print(f"The book was NOT read in a browser, this check is skipped: {reason}")
        return int(given.require)
    except FileNotFoundError as error:
        print(f"error: {error}", file=sys.stderr)
        return 1
    for problem in problems:
        print(problem)
    counts = ", ".join(f"{kind} {count}" for kind, count in sorted(scrolled.items()))
    print(f"What scrolls in a box of its own: {counts}")
    seconds = time.monotonic() - start
    read = f"{opened} views of pages opened, {len(problems)} problems, {seconds:.0f} s"
    print(f"The book was read in a browser: {read}")
    return int(bool(problems))


if __name__ == "__main__":
    sys.exit(main())
