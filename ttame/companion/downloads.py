"""Downloads of public data sets into the folder of the data."""

from __future__ import annotations

import os
import shutil
from collections.abc import Callable
from pathlib import Path

from ttame.errors import TTameError


def download_imagenette() -> Path:
    """Download Imagenette (320 px) into `TTAME_DATA` or `data/`; torchvision verifies it.

    Returns:
        The folder `imagenette`.

    Raises:
        TTameError: If it exists already, the network fails or the archive is damaged.
    """
    from torchvision.datasets import Imagenette

    def fetch(folder: Path) -> Path:
        for split in ("train", "val"):
            Imagenette(folder, split=split, size="320px", download=split == "train")
        return folder / "imagenette2-320"

    return _fetched("Imagenette", "imagenette", fetch)


def download_caltech101() -> Path:
    """Download Caltech-101 into `TTAME_DATA` or `data/`; torchvision verifies it.

    Returns:
        The folder `photos/caltech101`, one sub-folder per category.

    Raises:
        TTameError: If it exists already, the network fails or the archive is damaged.
    """
    from torchvision.datasets import Caltech101

    def fetch(folder: Path) -> Path:
        Caltech101(folder, download=True)
        return folder / "caltech101" / "101_ObjectCategories"

    return _fetched("Caltech-101", "photos/caltech101", fetch)


def _fetched(title: str, place: str, fetch: Callable[[Path], Path]) -> Path:
    """Download into a folder aside, and move what `fetch` returns into place when it is whole."""
    final = Path(os.environ.get("TTAME_DATA", "data")) / place
    if final.exists():
        raise TTameError(f"{str(final)!r} exists already; remove it to fetch it again")
    aside = final.with_name(f".{final.name}.partial")
    try:
        aside.mkdir(parents=True, exist_ok=True)
        fetch(aside).rename(final)
    except Exception as error:  # urllib, hashlib and tarfile raise families of their own
        raise TTameError(
            f"{title} could not be fetched into {str(final)!r} ({type(error).__name__}: "
            f"{error}); check the network, or copy the folder there by hand"
        ) from error
    finally:
        shutil.rmtree(aside, ignore_errors=True)
    return final
