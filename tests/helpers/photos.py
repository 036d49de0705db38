"""Photos for tests that only need some."""

from __future__ import annotations

from pathlib import Path

from PIL import Image


def photo(path: Path) -> None:
    path.parent.mkdir(parents=True, exist_ok=True)
    Image.new("RGB", (8, 8), "red").save(path)
