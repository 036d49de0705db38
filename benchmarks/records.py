"""Records of the benchmarks; `ttame.companion.shipped` reads them."""

from __future__ import annotations

from pathlib import Path
from typing import Any

from ttame.companion.shipped import BENCHMARKS, Benchmark
from ttame.records import write_record


def write_benchmark(out: Path | str, kind: Benchmark, seed: int = 0, **content: Any) -> Path:
    """Write the record of a benchmark atomically, with its provenance.

    Args:
        out: Output file, `.json`.
        kind: Name of the benchmark.
        seed: Seed of the run.
        content: The measurements: `rows`; of `"explaining"` also `road`, `methods` and `left_out`.

    Raises:
        TTameError: If the file cannot be written.
    """
    name, version, _ = BENCHMARKS[kind]
    return write_record(out, name, version, seed, **content)
