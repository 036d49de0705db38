"""Records of the benchmarks: what `python -m benchmarks` wrote, and how it is written."""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from pathlib import Path
from typing import Any

import pandas as pd

from ttame.records import read_record, write_record

_FAMILIES, _FAMILIES_VERSION = "ttame-families", 1
_THROUGHPUT, _THROUGHPUT_VERSION = "ttame-throughput", 1
_SCALING, _SCALING_VERSION = "ttame-scaling", 1
_BENCHMARK, _BENCHMARK_VERSION = "ttame-benchmark", 3


def write_families(out: Path | str, rows: Sequence[Mapping[str, Any]]) -> Path:
    """Write the records with their provenance as one JSON file.

    Raises:
        TTameError: If the file cannot be written.
    """
    return write_record(out, _FAMILIES, _FAMILIES_VERSION, rows=list(rows))


def read_families(path: Path | str) -> tuple[dict[str, Any], pd.DataFrame]:
    """Read what `write_families` wrote: the provenance, and a row a family.

    Raises:
        TTameError: If the file is missing, damaged, or of another format or version.
    """
    found = read_record(path, _FAMILIES, _FAMILIES_VERSION, "make families")
    rows = pd.DataFrame.from_records(found.pop("rows")).set_index("family")
    # Where every family passes, none has a reason.
    return found, rows if "reason" in rows else rows.assign(reason="")


def write_throughput(out: Path | str, rows: Sequence[Mapping[str, Any]], seed: int = 0) -> Path:
    """Write records of `measure_throughput` with their provenance as one JSON file.

    Raises:
        TTameError: If the file cannot be written.
    """
    return write_record(out, _THROUGHPUT, _THROUGHPUT_VERSION, seed, rows=list(rows))


def read_throughput(path: Path | str) -> dict[str, Any]:
    """Read what `write_throughput` wrote: the provenance and `rows`.

    Raises:
        TTameError: If the file is missing, damaged, or of another format or version.
    """
    return read_record(path, _THROUGHPUT, _THROUGHPUT_VERSION, "make throughput")


def write_scaling(out: Path | str, rows: Sequence[Mapping[str, Any]]) -> Path:
    """Write rows of `measure_scaling` with their provenance as one JSON file.

    Raises:
        TTameError: If the file cannot be written.
    """
    return write_record(out, _SCALING, _SCALING_VERSION, rows=list(rows))


def read_scaling(path: Path | str) -> dict[str, Any]:
    """Read what `write_scaling` wrote: the provenance and `rows`.

    Raises:
        TTameError: If the file is missing, damaged, or of another format or version.
    """
    return read_record(path, _SCALING, _SCALING_VERSION, "python -m benchmarks scaling")


def write_benchmark(
    out: Path | str,
    rows: Sequence[Mapping[str, Any]],
    road: Mapping[str, Any],
    methods: Sequence[Mapping[str, Any]],
    left_out: Mapping[str, str],
    seed: int = 0,
) -> Path:
    """Write timings with their provenance as one JSON file.

    Args:
        out: The file, `.json`.
        rows: From `measure_cost`.
        road: From `measure_road`.
        methods: From `measure_methods`.
        left_out: Methods that do not apply, with the reason.
        seed: Seed of the run.

    Raises:
        TTameError: If the file cannot be written.
    """
    return write_record(
        out, _BENCHMARK, _BENCHMARK_VERSION, seed, rows=list(rows), road=dict(road),
        methods=list(methods), left_out=dict(left_out),
    )  # fmt: skip


def read_benchmark(path: Path | str) -> dict[str, Any]:
    """Read what `write_benchmark` wrote.

    Returns:
        The provenance and `rows`, `road`, `methods` and `left_out`.

    Raises:
        TTameError: If the file is missing, damaged, or of another format or version.
    """
    return read_record(path, _BENCHMARK, _BENCHMARK_VERSION, "make bench")
