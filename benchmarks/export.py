"""Export: whether a small member of every model family becomes an ONNX file that agrees.

The networks are those of `benchmarks.families`, with random weights and an untrained mechanism:
what is checked is that the operations are translated and give the same numbers as PyTorch on
photos, one and several at a time. Random weights hide nothing there, and trained ones are not at
hand for most.
"""

from __future__ import annotations

import tempfile
import time
from pathlib import Path
from typing import Any

import torch

from benchmarks.families import build_member, member
from ttame.data import samples
from ttame.errors import TTameError
from ttame.loading import attach

_PHOTOS = 3


def check_export(family: str) -> dict[str, Any]:
    """Export a family's member and hold the file against PyTorch.

    A network whose code fixes the number of images is exported for one image at a time.

    Args:
        family: In `families`.

    Returns:
        A record: family, model, input_size, parameters, `batch` (`None` for any number, or 1),
        megabytes of the file, largest differences of logits and maps (`ttame.export.agreement`),
        `passed`, and where it did not pass the `reason`.
    """
    start = time.perf_counter()
    record: dict[str, Any] = {"family": family, "model": member(family), "passed": False}
    try:
        model, facts = build_member(family)
        record["parameters"] = sum(value.numel() for value in model.parameters())
        torch.manual_seed(0)
        explainer = attach(model, **facts)
        record["input_size"] = list(explainer.spec.input_size)
        photos = samples().paths[:_PHOTOS]
        with tempfile.TemporaryDirectory() as folder:
            path = Path(folder) / "explainer.onnx"
            try:
                record["batch"], found = None, explainer.export(path, photos=photos)
            except TTameError as error:
                if "batch=1" not in str(error):
                    raise
                record["batch"], found = 1, explainer.export(path, photos=photos, batch=1)
            record["megabytes"] = round(path.stat().st_size / 1e6, 2)
        record |= {"logits": found.logits, "maps": found.maps, "passed": True}
    except Exception as error:  # whatever a family raises belongs into its row
        record["reason"] = f"{type(error).__name__}: {' '.join(str(error).split())[:400]}"
    record["seconds"] = round(time.perf_counter() - start, 2)
    return record
