"""What explanations cost, and what evaluating them does, as one file (`make bench`).

The measures of methods and of ROAD are in `ttame.timing`.
"""

from __future__ import annotations

import statistics
from collections.abc import Mapping, Sequence
from pathlib import Path
from typing import Any

import torch
from torch import Tensor

from ttame.errors import TTameError
from ttame.explainer import Explainer
from ttame.records import read_record, write_record
from ttame.timing import alternate

FORMAT, VERSION = "ttame-benchmark", 3


def measure_cost(
    explainer: Explainer, batch_sizes: Sequence[int] = (1, 32), repeats: int = 21, seed: int = 0
) -> list[dict[str, Any]]:
    """Time a plain forward pass and an explanation of the predicted class, turn by turn.

    Args:
        explainer: In `eval()`.
        batch_sizes: Photos at a time.
        repeats: Timed turns; two more of a batch size warm up and do not count.
        seed: Of the random input (convolutions take the same time on noise as on photos).

    Returns:
        A record a batch size: medians in milliseconds a batch and their ratio.

    Raises:
        TTameError: If there are too few repeats for a median.
    """
    if repeats < 3:
        raise TTameError(f"repeats must be at least 3, got {repeats}")
    generator = torch.Generator().manual_seed(seed)
    device = next(explainer.parameters()).device
    rows = []
    for batch in batch_sizes:
        images = torch.randn(batch, 3, *explainer.spec.input_size, generator=generator).to(device)

        def floor(images: Tensor = images) -> object:
            return explainer.classifier(images)

        def explain(images: Tensor = images) -> object:
            return explainer(images)

        with torch.inference_mode():
            forward, explanation = alternate((floor, explain), repeats, device, warm_up=2)
        rows.append(
            {
                "backbone": explainer.spec.name,
                "weights": explainer.spec.source,
                "batch": batch,
                "forward_ms": 1000 * statistics.median(forward),
                "explanation_ms": 1000 * statistics.median(explanation),
                "ratio": statistics.median(explanation) / statistics.median(forward),
                "repeats": repeats,
                "threads": torch.get_num_threads(),
            }
        )
    return rows


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
        seed: Of the run.

    Raises:
        TTameError: If the file cannot be written.
    """
    return write_record(
        out, FORMAT, VERSION, seed, rows=list(rows), road=dict(road), methods=list(methods),
        left_out=dict(left_out),
    )  # fmt: skip


def read_benchmark(path: Path | str) -> dict[str, Any]:
    """Read what `write_benchmark` wrote.

    Returns:
        The provenance and `rows`, `road`, `methods` and `left_out`.

    Raises:
        TTameError: If the file is missing, damaged, or of another format or version.
    """
    return read_record(path, FORMAT, VERSION, "make bench")
