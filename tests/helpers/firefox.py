"""Drives the Firefox of this machine through Marionette, the protocol that it speaks by itself.

Playwright drives only a Firefox of its own, and Debian has no geckodriver. A message is a JSON
array, preceded by its length in bytes and a colon.
"""

from __future__ import annotations

import json
import shutil
import socket
import subprocess
import time
from base64 import b64decode
from collections.abc import Iterator
from contextlib import contextmanager
from pathlib import Path
from typing import Any

NAMES = ("firefox-esr", "firefox")
# A browser that reads files asks its maker for nothing, and takes the theme from here.
PREFERENCES = {
    "app.normandy.enabled": False,
    "app.update.disabledForTesting": True,
    "browser.shell.checkDefaultBrowser": False,
    "browser.startup.page": 0,
    "datareporting.policy.dataSubmissionEnabled": False,
    "network.captive-portal-service.enabled": False,
    "network.connectivity-service.enabled": False,
    "services.settings.server": "data:,",
    "toolkit.telemetry.enabled": False,
}
_DARK, _LIGHT = 0, 1
_SECONDS = 120  # that a command may take


def firefox() -> str | None:
    """The Firefox of this machine, `None` where there is none."""
    return next(filter(None, map(shutil.which, NAMES)), None)


class Firefox:
    """A running Firefox with one page."""

    def __init__(self, port: int) -> None:
        self._socket = _connected(port)
        self._file = self._socket.makefile("rb")
        self._read()  # its greeting
        self._count = 0
        self._send("WebDriver:NewSession", {"capabilities": {}})
        self._send("WebDriver:SetTimeouts", {"script": 1000 * _SECONDS})

    def resize(self, width: int, height: int) -> None:
        """Give the window a size, in pixels."""
        self._send("WebDriver:SetWindowRect", {"width": width, "height": height})

    def open(self, path: Path) -> None:
        """Open a file and wait until it is loaded."""
        self._send("WebDriver:Navigate", {"url": path.as_uri()})

    def evaluate(self, function: str, argument: object = None) -> Any:
        """Call a JavaScript function, which may be asynchronous, with one argument.

        Raises:
            RuntimeError: It throws; the message says what.
        """
        script = (
            f"const done = arguments[1]; Promise.resolve(({function})(arguments[0]))"
            ".then((value) => done([value ?? null, null]), (error) => done([null, String(error)]))"
        )
        value, error = self._send(
            "WebDriver:ExecuteAsyncScript",
            {"script": script, "args": [argument], "sandbox": None, "newSandbox": False},
        )["value"]
        if error is not None:
            raise RuntimeError(error)
        return value

    def screenshot(self, path: Path) -> None:
        """Save a picture of the whole page as PNG."""
        found = self._send("WebDriver:TakeScreenshot", {"full": True, "hash": False})
        path.write_bytes(b64decode(found["value"]))

    def _send(self, command: str, parameters: dict[str, object]) -> Any:
        self._count += 1
        message = json.dumps([0, self._count, command, parameters]).encode()
        self._socket.sendall(b"%d:%s" % (len(message), message))
        _, _, error, result = self._read()
        if error is not None:
            raise RuntimeError(f"{command}: {error['error']}: {error['message']}")
        return result

    def _read(self) -> Any:
        digits = b""
        while (byte := self._file.read(1)) != b":":
            if not byte:
                raise RuntimeError("Firefox has ended")
            digits += byte
        return json.loads(self._file.read(int(digits)))

    def close(self) -> None:
        """Close the connection."""
        self._file.close()
        self._socket.close()


@contextmanager
def running(folder: Path, *, dark: bool = False) -> Iterator[Firefox]:
    """A headless Firefox with a fresh profile, ended afterwards.

    Args:
        folder: An empty folder for its profile.
        dark: Ask pages for their dark theme.
    """
    with socket.create_server(("127.0.0.1", 0)) as free:
        port = free.getsockname()[1]
    scheme = {"layout.css.prefers-color-scheme.content-override": _DARK if dark else _LIGHT}
    lines = {"marionette.port": port, **PREFERENCES, **scheme}.items()
    text = "".join(f"user_pref({json.dumps(key)}, {json.dumps(value)});\n" for key, value in lines)
    (folder / "user.js").write_text(text, encoding="utf-8")
    process = subprocess.Popen(
        [firefox() or NAMES[0], "--headless", "--marionette", "--no-remote", "--profile", folder],
        stdout=subprocess.DEVNULL, stderr=subprocess.DEVNULL,
    )  # fmt: skip
    try:
        driven = Firefox(port)
        try:
            yield driven
        finally:
            driven.close()
    finally:
        process.terminate()
        process.wait(timeout=30)


def _connected(port: int) -> socket.socket:
    """Connect as soon as Firefox listens."""
    limit = time.monotonic() + _SECONDS
    while True:
        try:
            found = socket.create_connection(("127.0.0.1", port), timeout=_SECONDS)
        except ConnectionRefusedError:
            if time.monotonic() > limit:
                raise
            time.sleep(0.1)
        else:
            return found
