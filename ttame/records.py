"""Records: one measurement as one JSON file, with the command and machine that made it."""

from __future__ import annotations

import json
from pathlib import Path
from typing import Any

from ttame.errors import TTameError
from ttame.files import replacing
from ttame.results import provenance


def write_record(out: Path | str, kind: str, version: int, seed: int = 0, **content: Any) -> Path:
    """Write a measurement with its provenance, whole or not at all.

    Args:
        out: The file, `.json`.
        kind: Name of the format.
        version: Of the format.
        seed: Of the run.
        content: What was measured.

    Raises:
        TTameError: If the file cannot be written.
    """
    made = {"format": kind, "version": version, **provenance(seed), **content}
    # A line a field, and a list of plain values in one: thousands of them would hide the rest.
    fields = [
        f" {json.dumps(key)}: {json.dumps(value, indent=None if _plain(value) else 1)}"
        for key, value in made.items()
    ]
    with replacing(out) as temporary:
        temporary.write_text("{\n" + ",\n".join(fields) + "\n}\n", encoding="utf-8")
    return Path(out)


def _plain(value: Any) -> bool:
    return isinstance(value, list) and not any(isinstance(item, list | dict) for item in value)


def read_record(path: Path | str, kind: str, version: int, command: str) -> dict[str, Any]:
    """Read what `write_record` wrote: the provenance and the content.

    Args:
        path: The file.
        kind: Name of the expected format.
        version: Its expected version.
        command: What makes such a file, for messages.

    Raises:
        TTameError: If the file is missing, damaged, or of another format or version.
    """
    path = Path(path)
    if not path.is_file():
        raise TTameError(f"record {str(path)!r} does not exist; `{command}` writes it")
    try:
        found = json.loads(path.read_text(encoding="utf-8"))
    except ValueError as error:
        raise TTameError(f"{str(path)!r} is damaged ({error}); run `{command}` again") from error
    header = found if isinstance(found, dict) else {}
    if header.get("format") != kind or header.get("version") != version:
        raise TTameError(
            f"{str(path)!r} is {header.get('format')!r} version {header.get('version')!r}, "
            f"expected {kind!r} version {version}; run `{command}` again"
        )
    return header
