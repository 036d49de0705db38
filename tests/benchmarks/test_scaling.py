"""Scaling is measured on real training runs."""

from __future__ import annotations

from pathlib import Path

import pytest

from benchmarks.records import write_benchmark
from benchmarks.scaling import measure_scaling
from ttame.companion.shipped import read_benchmark
from ttame.errors import TTameError

ARGUMENTS = ["--data", "samples", "--workers", "0", "--checkpoint-every", "9"]


@pytest.mark.slow
def test_a_run_is_timed(tmp_path: Path) -> None:
    rows = measure_scaling([1], ARGUMENTS, steps=1, batch_size=2)
    assert [row["devices"] for row in rows] == [1]
    assert rows[0]["images_per_second"] > 0 and rows[0]["speedup"] == 1
    path = write_benchmark(tmp_path / "scaling.json", "scaling", rows=rows)
    assert read_benchmark(path, "scaling")["rows"] == rows


def test_bad_input_is_refused(tmp_path: Path) -> None:
    with pytest.raises(TTameError, match="need devices and steps"):
        measure_scaling([], ARGUMENTS, 1, 2)
    with pytest.raises(TTameError, match="does not exist"):
        read_benchmark(tmp_path / "scaling.json", "scaling")


@pytest.mark.slow
def test_a_failed_run_says_why() -> None:
    with pytest.raises(TTameError, match=r"(?s)on 1 devices failed:.*--no-such-option"):
        measure_scaling([1], ["--no-such-option"], 1, 2)
