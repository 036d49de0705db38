"""What an explanation costs, against the floor: one plain forward pass of the same classifier."""

from __future__ import annotations

import json
import statistics
import time
from collections.abc import Callable, Sequence
from pathlib import Path
from typing import Any

import torch

from ttame.errors import TTameError
from ttame.explainer import Explainer
from ttame.files import replacing
from ttame.results import provenance

FORMAT = "ttame-benchmark"


def measure_cost(
    explainer: Explainer, batch_sizes: Sequence[int] = (1, 32), repeats: int = 21, seed: int = 0
) -> list[dict[str, Any]]:
    """Time a plain forward pass and an explanation of the predicted class, turn by turn.

    Both run in this process with the same settings, on the same batch, alternately, so that a
    change of the machine's speed meets both. Preprocessing is in neither.

    Args:
        explainer: In `eval()`.
        batch_sizes: Photos at a time.
        repeats: Timed turns; the first two of a batch size warm up and do not count.
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

        def floor(images: torch.Tensor = images) -> object:
            return explainer.classifier(images)

        def explain(images: torch.Tensor = images) -> object:
            return explainer(images)

        times: dict[str, list[float]] = {"forward": [], "explanation": []}
        with torch.inference_mode():
            for turn in range(repeats + 2):
                # Swapping who goes first keeps the caches' favour even.
                pair = (("forward", floor), ("explanation", explain))
                for name, function in pair if turn % 2 else reversed(pair):
                    seconds = _clock(function, device)
                    if turn >= 2:
                        times[name].append(seconds)
        medians = {name: 1000 * statistics.median(values) for name, values in times.items()}
        rows.append(
            {
                "backbone": explainer.spec.name,
                "batch": batch,
                "forward_ms": medians["forward"],
                "explanation_ms": medians["explanation"],
                "ratio": medians["explanation"] / medians["forward"],
                "repeats": repeats,
                "threads": torch.get_num_threads(),
            }
        )
    return rows


def write_benchmark(rows: Sequence[dict[str, Any]], out: Path | str, seed: int = 0) -> Path:
    """Write timings with their provenance as one JSON file."""
    made = {"format": FORMAT, "version": 1, **provenance(seed), "rows": list(rows)}
    with replacing(out) as temporary:
        temporary.write_text(json.dumps(made, indent=1) + "\n", encoding="utf-8")
    return Path(out)


def read_benchmark(path: Path | str) -> dict[str, Any]:
    """Read what `write_benchmark` wrote.

    Raises:
        TTameError: If it is no such file.
    """
    path = Path(path)
    if not path.is_file():
        raise TTameError(f"benchmark file {str(path)!r} does not exist; `make bench` writes it")
    found: dict[str, Any] = json.loads(path.read_text(encoding="utf-8"))
    if found.get("format") != FORMAT or found.get("version") != 1:
        raise TTameError(f"{str(path)!r} is no {FORMAT} file of version 1")
    return found


def _clock(function: Callable[[], object], device: torch.device) -> float:
    if device.type == "cuda":
        torch.cuda.synchronize(device)
    start = time.perf_counter()
    function()
    if device.type == "cuda":
        torch.cuda.synchronize(device)
    return time.perf_counter() - start
