"""Opens pages from the disk in Chromium and Firefox, with one interface for both."""

from __future__ import annotations

from collections.abc import Iterator
from contextlib import contextmanager
from pathlib import Path
from typing import TYPE_CHECKING, Any, Protocol

from tests.helpers import firefox, reader

if TYPE_CHECKING:
    from playwright.sync_api import Page

BROWSERS = ("chromium", "firefox")
# What a page has fetched that a browser cannot take from itself or the disk.
FETCHED = """() => performance.getEntriesByType("resource").map(({ name }) => name)
    .filter((name) => !/^(file|data|blob):/.test(name))"""


class Opened(Protocol):
    """A browser with one page."""

    def open(self, path: Path) -> None:
        """Open a file."""

    def evaluate(self, function: str, argument: object = None) -> Any:
        """Call a JavaScript function, which may be asynchronous, with one argument."""


class Chromium:
    """A page of Chromium's; whatever it requests or complains of is collected."""

    def __init__(self, page: Page) -> None:
        self.page, self.complaints, self.requests = page, list[str](), list[str]()
        page.set_default_timeout(120_000)
        page.on("console", lambda message: self.complaints.append(message.text))
        page.on("pageerror", lambda error: self.complaints.append(str(error)))
        page.on("request", lambda request: self._note(request.url))

    def _note(self, url: str) -> None:
        self.requests.append(url)
        if not reader.asks_nobody(url):
            self.complaints.append(f"requests {url}")

    def open(self, path: Path) -> None:
        """Open a file."""
        self.page.goto(path.as_uri())

    def evaluate(self, function: str, argument: object = None) -> Any:
        """Call a JavaScript function, which may be asynchronous, with one argument."""
        return self.page.evaluate(function, argument)


@contextmanager
def started(name: str, folder: Path) -> Iterator[Opened]:
    """A browser by name, ended afterwards.

    Args:
        name: One of `BROWSERS`.
        folder: An empty folder.

    Raises:
        reader.Unavailable: It is not installed or cannot be driven.
    """
    if name == "chromium":
        with reader.browser() as running:
            yield Chromium(running.new_page())
    elif firefox.firefox() is None:
        raise reader.Unavailable(f"no Firefox: none of {', '.join(firefox.NAMES)} is on the PATH")
    else:
        with firefox.running(folder) as driven:
            yield driven
