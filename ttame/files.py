"""Atomic writing of files, and the files that ship with `ttame`."""

from __future__ import annotations

import os
import tempfile
from collections.abc import Iterator
from contextlib import contextmanager, suppress
from pathlib import Path

from ttame.errors import TTameError


@contextmanager
def replacing(path: Path | str) -> Iterator[Path]:
    """Yield a temporary path beside `path`, renamed to `path` when the block succeeds.

    On any failure, including an interrupt or a full disk, the temporary file is removed and
    `path` is left unchanged.

    Raises:
        TTameError: If the operating system refuses to write.
    """
    final = Path(path)
    temporary = None
    try:
        final.parent.mkdir(parents=True, exist_ok=True)
        handle, name = tempfile.mkstemp(
            dir=final.parent, prefix=f".{final.stem}.", suffix=final.suffix
        )
        os.close(handle)
        temporary = Path(name)
        yield temporary
        with temporary.open("rb+") as written:
            os.fsync(written.fileno())
        temporary.chmod(0o644)  # mkstemp makes files that only the owner can read
        temporary.replace(final)
    except BaseException as error:
        if temporary is not None:
            with suppress(OSError):
                temporary.unlink()
        if isinstance(error, OSError):
            reason = error.strerror or error
            raise TTameError(f"cannot write {str(final)!r}: {reason}; nothing changed") from error
        raise


def shipped(kind: str) -> Path:
    """Return the folder of shipped `samples`, `classifiers`, `explainers`, `results` or `studies`.

    In a wheel it lies beside the modules; in a checkout, in the repository's `data/`.

    Raises:
        TTameError: If neither exists.
    """
    here = Path(__file__).resolve().parent
    for folder in (here / "_data" / kind, here.parent / "data" / kind):
        if folder.is_dir():
            return folder
    raise TTameError(f"this installation of ttame has no {kind}; reinstall the wheel")
