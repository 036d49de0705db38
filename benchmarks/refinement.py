"""What passes buy: maps of T-TAME, refined step by step, beside methods that optimise or sample."""

from __future__ import annotations

from collections.abc import Callable, Mapping, Sequence
from typing import Any

import torch
from torch import Tensor

from ttame.classifiers.weights import input_like
from ttame.data import PhotoDataset, PhotoList
from ttame.evaluation.confidence import (
    PERCENTAGES,
    average_drop,
    increase_in_confidence,
    masked_probabilities,
)
from ttame.evaluation.cost import count_passes
from ttame.evaluation.intervals import bootstrap, verdict
from ttame.explainer import Explainer
from ttame.methods import Method, build

_BATCH = 20
# Gradient steps or masks of each method, from one pass to about a hundred, and RISE's 400.
BUDGETS: Mapping[str, tuple[str, Sequence[int]]] = {
    "T-TAME (refined)": ("steps", (0, 1, 2, 4, 9, 19, 49)),
    "Opti-CAM": ("iterations", (1, 4, 9, 19, 50)),
    "RISE": ("masks", (100, 400)),
}


def measure_budgets(
    explainer: Explainer,
    photos: PhotoList,
    budgets: Mapping[str, tuple[str, Sequence[int]]] = BUDGETS,
    progress: Callable[[int, int], None] | None = None,
) -> list[dict[str, Any]]:
    """Score each method's maps of the predicted classes at several budgets of passes.

    Args:
        explainer: In `eval()`.
        photos: Photos.
        budgets: By method of `ttame.methods`: the setting that is its budget, and its values.
        progress: Called with (photos done, photos in all).

    Returns:
        One row per method, budget and score: the mean with its 95 % bootstrap interval, in percent,
        passes per photo, and the paired difference of the first method at this row's budget from
        the largest budget of each other method, with the verdict on the first.
    """
    methods: dict[tuple[str, int], Method] = {
        (name, value): build(name, explainer, {setting: value})
        for name, (setting, values) in budgets.items()
        for value in values
    }
    classifier, spec = explainer.classifier, explainer.spec
    found: dict[tuple[str, int, str], list[Tensor]] = {}
    passes: dict[tuple[str, int], tuple[float, float]] = {}
    dataset = PhotoDataset(photos, spec)
    for first in range(0, len(photos), _BATCH):
        indices = range(first, min(first + _BATCH, len(photos)))
        images = torch.stack([dataset[index][0] for index in indices]).to(input_like(classifier))
        with torch.inference_mode():
            whole, targets = classifier(images).float().softmax(dim=1).max(dim=1)
        for key, method in methods.items():
            with count_passes(classifier) as counted:
                maps = method(images, targets.clone())
            passes[key] = (counted.forward / len(images), counted.backward / len(images))
            kept = masked_probabilities(classifier, spec, images, maps, targets)
            for column, share in enumerate(PERCENTAGES):
                for score, measure in (("AD", average_drop), ("IC", increase_in_confidence)):
                    values = measure(whole, kept[:, column])
                    found.setdefault((*key, f"{score} {share}%"), []).append(values)
        if progress:
            progress(indices.stop, len(photos))
    scores = {key: torch.cat(values).double().cpu().numpy() for key, values in found.items()}
    ours = next(iter(budgets))
    rows = []
    for (name, value, score), sample in scores.items():
        mean = bootstrap(sample)
        row = {
            "method": name, "budget": value, "score": score, "mean": mean.mean, "low": mean.low,
            "high": mean.high, "photos": len(sample),
            "forward": passes[name, value][0], "backward": passes[name, value][1],
        }  # fmt: skip
        for other, (_, choices) in budgets.items():
            if name == ours and other != ours:
                rival = scores[other, max(choices), score]
                difference = bootstrap(sample - rival)
                row[f"difference from {other}"] = difference.mean
                row[f"verdict against {other}"] = verdict(score, difference)
        rows.append(row)
    return [
        {key: round(value, 3) if isinstance(value, float) else value for key, value in row.items()}
        for row in rows
    ]
