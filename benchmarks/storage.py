"""What weights in fewer bits cost: maps of exported files beside PyTorch's."""

from __future__ import annotations

import tempfile
from collections.abc import Callable
from pathlib import Path
from typing import Any, get_args

import numpy as np
import torch
from torch import Tensor

from ttame.classifiers.outputs import probabilities
from ttame.classifiers.specs import masked_probabilities
from ttame.data import PhotoDataset, PhotoList
from ttame.evaluation.confidence import PERCENTAGES, average_drop, increase_in_confidence
from ttame.evaluation.intervals import bootstrap, verdict
from ttame.explainer import Explainer
from ttame.export.graph import open_graph
from ttame.export.weights import Storage

_BATCH = 20
_TORCH = "PyTorch"


def measure_storage(
    explainer: Explainer,
    photos: PhotoList,
    progress: Callable[[int, int], None] | None = None,
) -> list[dict[str, Any]]:
    """Export an explainer with each storage of weights and score its maps beside PyTorch's.

    Maps are of the class that PyTorch predicts, and PyTorch's classifier scores the masked photos,
    so that the maps alone differ.

    Args:
        explainer: In `eval()`, in float32 on the CPU.
        photos: Photos.
        progress: Called with (photos done, photos in all).

    Returns:
        One row per storage: megabytes of the file, `same`, the percentage of photos with the same
        predicted class, mean and lowest correlation of its maps with PyTorch's, and for AD and IC
        at each share the mean in percent, its paired difference from PyTorch's with the 95 %
        bootstrap interval, and the verdict on the file.
    """
    spec, classifier = explainer.spec, explainer.classifier
    names = get_args(Storage)
    runs, sizes = {}, {}
    with tempfile.TemporaryDirectory() as folder:
        for name in names:
            path = Path(folder) / f"{name}.onnx"
            explainer.export(path, storage=name)
            runs[name], sizes[name] = open_graph(path), path.stat().st_size
    scores: dict[tuple[str, str], list[Tensor]] = {}
    alike: dict[str, list[float]] = {name: [] for name in names}
    same = dict.fromkeys(names, 0)
    dataset = PhotoDataset(photos, spec)
    for first in range(0, len(photos), _BATCH):
        indices = range(first, min(first + _BATCH, len(photos)))
        images = torch.stack([dataset[index][0] for index in indices])
        with torch.inference_mode():
            logits, targets, own = explainer(images)
            whole = probabilities(logits, spec.activation).gather(1, targets)[:, 0]
        maps = {_TORCH: own}
        for name in names:
            found, _, theirs = runs[name](images.numpy(), targets[:, 0].numpy())
            maps[name] = torch.from_numpy(theirs)
            same[name] += int((found.argmax(axis=1) == targets[:, 0].numpy()).sum())
            alike[name] += [
                float(np.corrcoef(mine.ravel(), other.ravel())[0, 1])
                for mine, other in zip(own.numpy(), theirs, strict=True)
            ]
        for kind, made in maps.items():
            kept = masked_probabilities(classifier, spec, images, made, targets[:, 0])
            for column, share in enumerate(PERCENTAGES):
                for score, measure in (("AD", average_drop), ("IC", increase_in_confidence)):
                    values = measure(whole, kept[:, column])
                    scores.setdefault((kind, f"{score} {share}%"), []).append(values)
        if progress:
            progress(indices.stop, len(photos))
    samples = {key: torch.cat(values).double().numpy() for key, values in scores.items()}
    rows = []
    for name in names:
        row: dict[str, Any] = {
            "storage": name,
            "photos": len(photos),
            "megabytes": round(sizes[name] / 1e6, 2),
            "same": round(100 * same[name] / len(photos), 2),
            "correlation": round(float(np.mean(alike[name])), 6),
            "lowest_correlation": round(min(alike[name]), 6),
        }
        for (kind, score), sample in samples.items():
            if kind == name:
                apart = bootstrap(sample - samples[_TORCH, score])
                row[score] = {
                    "mean": round(float(sample.mean()), 3), "difference": round(apart.mean, 3),
                    "low": round(apart.low, 3), "high": round(apart.high, 3),
                    "verdict": verdict(score, apart),
                }  # fmt: skip
        rows.append(row)
    return rows
