"""Records and results files: measurements with the command, commit and machine that made them.

A record is one JSON file. A results file is JSON lines: a header (format, provenance,
configuration), then one record per sample. It grows as `NAME.partial` and is renamed once
complete, so that a file with the final name is never partial. A name that ends in `.gz` makes it
compressed at that moment, to about a fifth; both are read alike.
"""

from __future__ import annotations

import gzip
import json
import os
import platform
import shlex
import subprocess
import sys
import zlib
from collections.abc import Iterable, Mapping
from datetime import UTC, datetime
from importlib.metadata import PackageNotFoundError, version
from pathlib import Path
from typing import TYPE_CHECKING, Any

import numpy as np
import torch

from ttame.errors import TTameError, require
from ttame.files import replacing

if TYPE_CHECKING:
    import pandas as pd

FORMAT, VERSION = "ttame-results", 1
_PACKAGES = ("ttame", "torch", "torchvision", "timm", "lightning", "torchmetrics", "grad-cam")


def write_record(out: Path | str, kind: str, version: int, seed: int = 0, **content: Any) -> Path:
    """Write a measurement and its provenance atomically.

    Args:
        out: Output file, `.json`.
        kind: Name of the format.
        version: Version of the format.
        seed: Seed of the run.
        content: The measurement, by field.

    Raises:
        TTameError: If the file cannot be written.
    """
    made = {"format": kind, "version": version, **provenance(seed), **content}
    # One line per field, and per list of plain values: indented, thousands would hide the rest.
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
    """Read the provenance and content that `write_record` wrote.

    Args:
        path: The file.
        kind: Expected format.
        version: Expected version of the format.
        command: Command that makes such a file, for error messages.

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
    return _checked(path, found, kind, version, f"; run `{command}` again")


class ResultsFile:
    """An append-only results file that survives being killed at any point.

    The header keeps the provenance of the run that began the file. Where another commit, machine
    or version of a package went on, `resumed` lists its provenance, and after how many records.

    Args:
        path: Final name, `.jsonl`, or `.jsonl.gz` to compress what is complete.
        config: Everything that decides the results; a partial file with another configuration
            is refused.
        made: Provenance of this run, from `provenance`.
        group: Number of records that belong together; resuming drops an incomplete last group.

    Attributes:
        records: Records found when resuming.

    Raises:
        TTameError: If the file exists, or a partial one differs in configuration, format or
            version.
    """

    def __init__(
        self, path: Path | str, config: Mapping[str, Any], made: Mapping[str, Any], group: int = 1
    ) -> None:
        self.path = Path(path)
        if not self.path.name or self.path.is_dir():
            raise TTameError(f"{str(self.path)!r} is a folder; name a file in it, 'results.jsonl'")
        self.partial = self.path.with_name(self.path.name + ".partial")
        if self.path.exists():
            raise TTameError(f"{str(self.path)!r} exists already; remove it or choose another name")
        header = {"format": FORMAT, "version": VERSION, **made, "config": dict(config)}
        self.records: list[dict[str, Any]] = []
        if self.partial.exists():
            header, found = _parse(self.partial, torn=True)
            begun, now = header["config"], json.loads(json.dumps(dict(config)))
            for key in sorted(begun.keys() | now.keys()):
                if begun.get(key) != now.get(key):
                    raise TTameError(
                        f"{str(self.partial)!r} was begun with {key}={str(begun.get(key))[:80]}, "
                        f"now it is {str(now.get(key))[:80]}; remove it or choose another name"
                    )
            self.records = found[: len(found) // group * group]
            header = _resumed(header, made, len(self.records))
        # Rewritten when resuming, to drop a torn last line or group.
        with replacing(self.partial) as temporary:
            temporary.write_text(_lines([header, *self.records]), encoding="utf-8")

    def append(self, records: Iterable[Mapping[str, Any]]) -> None:
        """Append records; they are on disk when this returns.

        Raises:
            TTameError: If the file cannot be written; earlier records are kept.
        """
        try:
            with self.partial.open("a", encoding="utf-8") as file:
                file.write(_lines(records))
                file.flush()
                os.fsync(file.fileno())
        except OSError as error:
            raise TTameError(f"cannot write {str(self.partial)!r}: {error.strerror}") from error

    def finish(self) -> Path:
        """Give the file its final name, compressed if that ends in `.gz`."""
        if self.path.suffix == ".gz":
            _write(self.path, self.partial.read_text(encoding="utf-8"))
            self.partial.unlink()
        else:
            self.partial.replace(self.path)
        return self.path


def results_paths(folder: Path, pattern: str) -> list[Path]:
    """Find the results files of a folder whose names fit, as they are or compressed (`.gz`).

    Args:
        folder: The folder.
        pattern: A name without `.gz`, such as `"imagenette_val.jsonl"`, or a pattern of names.

    Returns:
        The paths, sorted; none where nothing fits.

    Raises:
        TTameError: If a file is there both ways.
    """
    found = sorted([*folder.glob(pattern), *folder.glob(f"{pattern}.gz")])
    for path in found:
        if path.with_name(f"{path.name}.gz") in found:
            raise TTameError(f"{str(path)!r} is there compressed, too (.gz); remove one of them")
    return found


def read_results(path: Path | str) -> tuple[dict[str, Any], pd.DataFrame]:
    """Read a complete results file: its header, and its records as a table.

    Raises:
        TTameError: If the file is missing, damaged or of another format version.
    """
    require("evaluate", "pandas")
    import pandas as pd

    header, records = _parse(Path(path), torn=False)
    return header, pd.DataFrame.from_records(records)


def write_first(path: Path | str, out: Path | str, photos: int) -> Path:
    """Write the first photos of a results file, finished or not, as a finished results file.

    For runs that were ended: what `NAME.partial` holds is worth as much as a run on fewer photos.
    The header keeps the run's provenance, lists the photos written, and, where some are left out,
    says under `shortened` what the run was to measure and did. Floats are written with the fewest
    digits that give the same float32, the precision in which they were measured.

    Args:
        path: Results file of `ttame evaluate`, or its `.partial`.
        out: The file to write.
        photos: Number of photos, from the front.

    Returns:
        The path written.

    Raises:
        TTameError: If the file is no such results file, holds fewer photos with records of all
            methods, or `out` exists.
    """
    header, records = _parse(Path(path), torn=True)
    planned, methods = header["config"].get("photos"), header["config"].get("methods")
    if not planned or not methods:
        raise TTameError(f"{str(path)!r} lists no photos and methods; `ttame evaluate` writes both")
    measured = len(records) // len(methods)
    if not 1 <= photos <= measured:
        raise TTameError(
            f"{str(path)!r} holds {measured} of its {len(planned)} photos, cannot write {photos}"
        )
    if Path(out).exists():
        raise TTameError(f"{str(out)!r} exists already; remove it or choose another name")
    ended = "all measured" if measured == len(planned) else f"the run was ended after {measured}"
    header["config"]["photos"] = planned[:photos]
    if photos < len(planned):
        header["shortened"] = f"to the first {photos} of {len(planned)} photos; {ended}"
    kept = [_short(record) for record in records[: photos * len(methods)]]
    went_on = [run for run in header.pop("resumed", []) if run["after"] < len(kept)]
    header |= {"resumed": went_on} if went_on else {}
    _write(Path(out), _lines([header, *kept]))
    return Path(out)


def _short(value: Any) -> Any:
    """Give floats, in lists and dictionaries too, the fewest digits of the same float32."""
    if isinstance(value, dict):
        return {key: _short(inner) for key, inner in value.items()}
    if isinstance(value, list):
        return [_short(inner) for inner in value]
    return float(str(np.float32(value))) if isinstance(value, float) else value


def _resumed(header: dict[str, Any], made: Mapping[str, Any], records: int) -> dict[str, Any]:
    """Add the provenance of the run that goes on, unless it is like the last one's."""
    runs = header.get("resumed", [])
    last = runs[-1] if runs else header
    if all(made.get(key) == last.get(key) for key in ("commit", "versions", "hardware")):
        return header
    return {**header, "resumed": [*runs, {"after": records, **made}]}


def _write(path: Path, text: str) -> None:
    """Write a results file atomically, compressed if its name ends in `.gz`."""
    data = text.encode()
    with replacing(path) as temporary:
        # Without a time stamp: the same records make the same file.
        temporary.write_bytes(gzip.compress(data, mtime=0) if path.suffix == ".gz" else data)


def _lines(records: Iterable[Mapping[str, Any]]) -> str:
    return "".join(json.dumps(record, allow_nan=False) + "\n" for record in records)


def _parse(path: Path, torn: bool) -> tuple[dict[str, Any], list[dict[str, Any]]]:
    """Read header and records; with `torn`, drop a last line that is cut off."""
    if not path.is_file():
        raise TTameError(f"results file {str(path)!r} does not exist")
    try:
        data = path.read_bytes()
        lines = (gzip.decompress(data) if path.suffix == ".gz" else data).decode().splitlines()
    except (UnicodeDecodeError, gzip.BadGzipFile, EOFError, zlib.error) as error:
        raise TTameError(f"{str(path)!r} is damaged: {error}") from error
    parsed: list[dict[str, Any]] = []
    for number, line in enumerate(lines, start=1):
        try:
            parsed.append(json.loads(line))
        except json.JSONDecodeError as error:
            if torn and number == len(lines) and number > 1:
                break  # being killed while writing leaves half a line
            raise TTameError(f"{str(path)!r} is damaged in line {number}: {error}") from error
    return _checked(path, parsed[0] if parsed else None, FORMAT, VERSION), parsed[1:]


def _checked(path: Path, found: Any, kind: str, version: int, remedy: str = "") -> dict[str, Any]:
    """Return a header if it has the expected format and version."""
    header = found if isinstance(found, dict) else {}
    if header.get("format") != kind or header.get("version") != version:
        raise TTameError(
            f"{str(path)!r} is {header.get('format')!r} version {header.get('version')!r}, "
            f"expected {kind!r} version {version}{remedy}"
        )
    return header


def provenance(seed: int, command: str | None = None) -> dict[str, Any]:
    """Collect the command, commit, seed, package versions, hardware and date of a run.

    Args:
        seed: Seed of the run.
        command: Command line; default: this process's, without folders.
    """
    if command is None:
        program = Path(sys.argv[0])
        words = [program.name]
        if program.name == "__main__.py":  # `python -m ttame`, `python -m benchmarks`
            benchmarks = program.parent.name == "benchmarks"
            words = ["python", "-m", "benchmarks"] if benchmarks else ["ttame"]
        command = shlex.join([*words, *sys.argv[1:]])
    return {
        "command": command,
        "commit": _commit(),
        "seed": seed,
        "versions": {"python": platform.python_version()} | {p: _version(p) for p in _PACKAGES},
        "hardware": _hardware(),
        "date": datetime.now(UTC).isoformat(timespec="seconds"),
    }


def _commit() -> str:
    """Return the repository's commit, with `+` for uncommitted changes, or `unknown`.

    A copy without its repository, as in a container, is told its commit by `TTAME_COMMIT`.
    """
    if told := os.environ.get("TTAME_COMMIT"):
        return told
    here = Path(__file__).resolve().parent
    try:
        commit, changes = (
            subprocess.run(
                ["git", *command], cwd=here, capture_output=True, text=True, check=True, timeout=10
            ).stdout.strip()
            for command in (("rev-parse", "--short=12", "HEAD"), ("status", "--porcelain", "-uno"))
        )
    except (OSError, subprocess.SubprocessError):
        return "unknown"
    return commit + ("+" if changes else "")


def _version(package: str) -> str:
    try:
        return version(package)
    except PackageNotFoundError:
        return "not installed"


def _hardware() -> str:
    if torch.cuda.is_available():
        return f"{torch.cuda.device_count()} x {torch.cuda.get_device_name(0)}"
    model = platform.processor() or platform.machine()
    info = Path("/proc/cpuinfo")
    lines = info.read_text().splitlines() if info.is_file() else []
    model = next((x.split(":", 1)[1].strip() for x in lines if x.startswith("model name")), model)
    return f"{os.cpu_count()} cores, {model}"
