"""Metrics of explanation maps, per image, as `torchmetrics.Metric`.

All compare p, the probability of the target class on the photo, with p', that on the photo
masked by its explanation map; the classifier's activation says how its outputs become
probabilities. Every sample's value is kept; nothing is averaged by batch.
"""

from __future__ import annotations

from collections.abc import Callable

import torch
from torch import Tensor
from torchmetrics import Metric
from torchmetrics.utilities import dim_zero_cat

from ttame.classifiers.specs import PERCENTAGES as PERCENTAGES
from ttame.classifiers.specs import masked_probabilities as masked_probabilities
from ttame.errors import TTameError


def average_drop(original: Tensor, masked: Tensor) -> Tensor:
    """Average Drop of each sample, percent: 100 · max(0, p - p') / p (`gradcampp`, T-TAME §IV-B).

    Relative to p, of probabilities, and averaged over all samples, dropped or not.

    Args:
        original: p, `(B,)` in (0, 1].
        masked: p', `(B,)` in [0, 1].

    Returns:
        `(B,)` in [0, 100].
    """
    return 100 * (original - masked).clamp_min(0) / original


def increase_in_confidence(original: Tensor, masked: Tensor) -> Tensor:
    """Increase in Confidence of each sample, percent: 100 · [p' > p], strictly (`gradcampp`).

    Args:
        original: p, `(B,)`.
        masked: p', `(B,)`.

    Returns:
        `(B,)`, 0 or 100.
    """
    return 100 * (masked > original).to(original.dtype)


def average_gain(original: Tensor, masked: Tensor) -> Tensor:
    """Average Gain of each sample, percent: 100 · max(0, p' - p) / (1 - p) (`opticam`).

    The counterpart of Average Drop: the share of the missing certainty that the mask supplies.
    A photo that is certain already, p = 1, gains 0.

    Args:
        original: p, `(B,)` in [0, 1].
        masked: p', `(B,)` in [0, 1].

    Returns:
        `(B,)` in [0, 100].
    """
    missing = torch.where(original < 1, 1 - original, torch.ones_like(original))
    return 100 * (masked - original).clamp_min(0) / missing


class SampleMetric(Metric):
    """A mean that keeps every sample's value and joins them over processes."""

    full_state_update = False
    values: list[Tensor]
    sample: Callable[[Tensor, Tensor], Tensor]  # of a batch, each sample's value `(B,)`

    def __init__(self) -> None:
        super().__init__()
        self.add_state("values", default=[], dist_reduce_fx="cat")

    def update(self, original: Tensor, masked: Tensor) -> None:
        """Add a batch of probabilities p and p', `(B,)` each.

        Raises:
            TTameError: If the shapes differ, or a value is no probability (NaN included).
        """
        if original.shape != masked.shape or original.ndim != 1:
            raise TTameError(
                f"expected two vectors of one length, got {tuple(original.shape)} and "
                f"{tuple(masked.shape)}"
            )
        bounds = (("original", original, original > 0), ("masked", masked, masked >= 0))
        for name, value, above in bounds:
            if not bool((above & (value <= 1)).all()):
                raise TTameError(
                    f"{name} must be probabilities in [0, 1], the original ones above 0, "
                    f"got {value.tolist()[:4]}"
                )
        self.values.append(self.sample(original, masked).detach())

    def compute(self) -> Tensor:
        """Mean over all samples seen, percent."""
        return self.per_sample().mean()

    def per_sample(self) -> Tensor:
        """Return all samples' values in the order they came, `(N,)`."""
        return dim_zero_cat(self.values)


class AverageDrop(SampleMetric):
    """Mean of `average_drop`; lower is better."""

    higher_is_better = False
    sample = staticmethod(average_drop)


class IncreaseInConfidence(SampleMetric):
    """Mean of `increase_in_confidence`; higher is better."""

    higher_is_better = True
    sample = staticmethod(increase_in_confidence)


class AverageGain(SampleMetric):
    """Mean of `average_gain`; higher is better."""

    higher_is_better = True
    sample = staticmethod(average_gain)


def higher_is_better(score: str) -> bool:
    """Tell whether larger is better for a score such as `"AD 50%"` or `"ROAD MoRF"`."""
    return not (score.startswith("AD") or "MoRF" in score or score == "deletion")
