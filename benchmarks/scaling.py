"""Scaling: what several processes gain, measured on whole training runs, photos included."""

from __future__ import annotations

import json
import os
import subprocess
import sys
import tempfile
from collections.abc import Sequence
from pathlib import Path
from typing import Any

import torch

from ttame.errors import TTameError


def measure_scaling(
    devices: Sequence[int], arguments: Sequence[str], steps: int, batch_size: int
) -> list[dict[str, Any]]:
    """Time a training run on one number of devices after the other.

    Each run is `ttame train`, with the same batch for any number of devices. On a CPU a device is
    a process with one thread, so that more devices mean more cores.

    Args:
        devices: Numbers of devices.
        arguments: Others of `ttame train`, such as the classifier and the photos.
        steps: Steps of a run.
        batch_size: Photos per step, over all devices.

    Returns:
        One record per number: devices, photos per second of the steps (reading photos included, the
        start not), and the times of the first number's rate.

    Raises:
        TTameError: If there is no number, or a run fails.
    """
    if not devices or min(devices) < 1 or steps < 1:
        raise TTameError(f"need devices and steps of 1 or more, got {list(devices)} and {steps}")
    rows: list[dict[str, Any]] = []
    for count in devices:
        with tempfile.TemporaryDirectory() as folder:
            command = [
                *("ttame", "train", "--out", folder, "--devices", str(count), "--validation", "0"),
                *("--steps", str(steps), "--batch-size", str(batch_size)), *arguments,
            ]  # fmt: skip
            environment = dict(os.environ)
            if not torch.cuda.is_available():
                environment |= {"OMP_NUM_THREADS": "1", "MKL_NUM_THREADS": "1"}
            done = subprocess.run(
                [sys.executable, "-m", *command], env=environment, capture_output=True, text=True
            )
            if done.returncode:
                raise TTameError(f"training on {count} devices failed: {done.stderr[-800:]}")
            record = json.loads((Path(folder) / "explainer.json").read_text(encoding="utf-8"))
        rate = steps * batch_size / record["training_seconds"]
        rows.append(
            {
                "devices": count,
                "device": "gpu" if torch.cuda.is_available() else "one CPU core",
                "backbone": record["backbone"],
                "batch": batch_size,
                "steps": steps,
                "images_per_second": rate,
                "speedup": rate / rows[0]["images_per_second"] if rows else 1.0,
            }
        )
    return rows
