"""The training objective, as pure functions with named parts (`ttame`, §III-C; `tame`).

The loss of a batch is ::

    L = λ₃ · cross-entropy(classifier(masked image), model truth)
      + λ₂ · area(a)
      + λ₁ · variation(a)

with a = sigmoid(c) the explanation maps at their own resolution. The cross-entropy is -log p' of
the label, with the probability that the classifier's activation makes of its outputs. A term of our
own may stand in for the cross-entropy: the relative drop of the label's probability, which is what
AD measures.
"""

from __future__ import annotations

from dataclasses import dataclass
from typing import Literal

import torch
import torch.nn.functional as F
from torch import Tensor

from ttame.classifiers.outputs import Activation, log_probabilities
from ttame.errors import TTameError

# The papers' batch size and map size; `reduction="mean"` agrees with `"paper"` there.
_PAPER_BATCH, _PAPER_CELLS = 32, 28 * 28
_BORDER_WEIGHT = 0.3
_AREA_OFFSET = 5e-4


@dataclass(frozen=True)
class ObjectiveConfig:
    """Weights and readings of the objective; the defaults are the papers'.

    Attributes:
        cross_entropy: λ₃.
        drop: Weight of the mean relative drop 1 - p'/p, ours, 0 in the papers. Cross-entropy
            is largest where the masked photo is lost anyway; the drop is bounded, and so moved
            by the photos that the mask can still win or lose.
        trials: Weight of `ttame.training.trials`, ours, for the photos that
            `MaskConfig.tried` sets apart.
        complement: Weight of the share of the label's probability that is left when the photo is
            masked by 1 - map, ours, 0 in the papers: what a map leaves out should not do.
        gain_limit: How far a relative rise of the probability, a negative drop, counts; `None`:
            without limit. Classes of a small probability may rise many times over, and would
            outweigh all others.
        area: λ₂.
        variation: λ₁.
        area_exponent: λ₄, exponent of the area term.
        labels: Which maps are regularised: for every image the maps of all labels of the
            batch (`"batch"`, as published, B×B maps) or of its own label (`"own"`, B maps).
        reduction: `"paper"`: the variation is a sum over maps and pixels divided by 2B, and so
            grows with batch size and resolution. `"mean"`: per map and per pixel, scaled to
            agree with the published one (`labels="batch"`) at batch size 32 and 28×28 cells; with
            own labels it is the same mean over fewer maps, 32 times the published sum there.
        own_share: With `labels="batch"`, the share of the regularisers that rests on the own
            map. `None`, as published: every map counts the same, which is 1/B.
    """

    cross_entropy: float = 1.5
    drop: float = 0.0
    trials: float = 0.0
    complement: float = 0.0
    gain_limit: float | None = None
    area: float = 2.0
    variation: float = 0.01
    area_exponent: float = 0.3
    labels: Literal["batch", "own"] = "batch"
    reduction: Literal["paper", "mean"] = "paper"
    own_share: float | None = None

    def __post_init__(self) -> None:
        """Refuse weights and modes without meaning.

        Raises:
            TTameError: Naming the field, its value and what is possible.
        """
        if self.labels not in ("batch", "own") or self.reduction not in ("paper", "mean"):
            raise TTameError(
                f"labels must be 'batch' or 'own' and reduction 'paper' or 'mean', got "
                f"{self.labels!r} and {self.reduction!r}"
            )
        if (
            min(self.cross_entropy, self.drop, self.trials, self.complement) < 0
            or min(self.area, self.variation) < 0
            or self.area_exponent <= 0
        ):
            raise TTameError("objective weights must not be negative, the exponent positive")
        if self.gain_limit is not None and self.gain_limit < 0:
            raise TTameError(f"gain_limit must not be negative, got {self.gain_limit}")
        if self.own_share is not None and not (0 <= self.own_share <= 1 and self.labels == "batch"):
            raise TTameError(
                f"own_share={self.own_share} must lie in [0, 1] and goes with labels='batch'"
            )


@dataclass(frozen=True)
class Parts:
    """What a step minimises, a scalar (differentiable); subclasses add what it is made of."""

    total: Tensor


@dataclass(frozen=True)
class ObjectiveParts(Parts):
    """The objective of a batch and its unweighted parts, scalars (differentiable).

    `trials` is there for batches in which photos were tried (`ttame.training.trials`),
    `complement` where it has a weight.
    """

    cross_entropy: Tensor
    drop: Tensor
    area: Tensor
    variation: Tensor
    trials: Tensor | None = None
    complement: Tensor | None = None


def regularized_targets(labels: Tensor, config: ObjectiveConfig) -> Tensor:
    """The classes whose maps the regularisers see, the own label's place known (`own_maps`).

    Args:
        labels: Model truth, `(B,)` int64.
        config: The objective.

    Returns:
        `(B, 1)` for own labels, `(B, B)` for batch labels.
    """
    batch = labels.shape[0]
    return labels[:, None] if config.labels == "own" else labels[None, :].expand(batch, batch)


def own_maps(maps: Tensor) -> Tensor:
    """Pick every image's own map out of `(B, 1, h, w)` or `(B, B, h, w)`: `(B, 1, h, w)`."""
    if maps.shape[1] == 1:
        return maps
    index = torch.arange(maps.shape[0], device=maps.device)
    return maps[index, index][:, None]


def area(maps: Tensor, exponent: float = 0.3) -> Tensor:
    """Mean of (a + 0.0005)^λ₄ over the pixels of each map.

    Args:
        maps: `(..., h, w)` in [0, 1].
        exponent: λ₄.

    Returns:
        `(...)`.
    """
    return ((maps + _AREA_OFFSET) ** exponent).mean(dim=(-2, -1))


def variation(maps: Tensor) -> Tensor:
    """Squared differences of neighbours, plus 0.3 of the squares on the border, summed per map.

    The four border lines are summed one by one, so corners count twice, as published.

    Args:
        maps: `(..., h, w)` in [0, 1].

    Returns:
        `(...)`.
    """
    across = maps.diff(dim=-1).square().sum(dim=(-2, -1))
    down = maps.diff(dim=-2).square().sum(dim=(-2, -1))
    lines = (maps[..., 0, :], maps[..., -1, :], maps[..., :, 0], maps[..., :, -1])
    border = sum((line.square().sum(dim=-1) for line in lines), torch.zeros_like(across))
    return across + down + _BORDER_WEIGHT * border


def relative_drop(
    whole: Tensor, masked: Tensor, labels: Tensor, activation: Activation = "softmax"
) -> Tensor:
    """Relative drop 1 - p'/p of the label's probability; negative where it rises.

    Args:
        whole: Outputs for the whole images, `(B, K)`.
        masked: Outputs for the masked images, `(B, K)`.
        labels: `(B,)` int64.
        activation: What turns outputs into probabilities.

    Returns:
        `(B,)`, at most 1.
    """
    index = labels[:, None]
    logarithms = log_probabilities(masked, activation) - log_probabilities(whole, activation)
    return 1 - logarithms.gather(1, index)[:, 0].exp()


def remaining(
    whole: Tensor, masked: Tensor, labels: Tensor, activation: Activation = "softmax"
) -> Tensor:
    """Share p'/p of the label's probability that a masked photo keeps, at most 1, `(B,)`.

    Arguments are those of `relative_drop`.
    """
    return (1 - relative_drop(whole, masked, labels, activation)).clamp_max(1)


def objective(
    whole: Tensor,
    logits: Tensor,
    labels: Tensor,
    maps: Tensor,
    config: ObjectiveConfig,
    activation: Activation = "softmax",
) -> ObjectiveParts:
    """The objective of one batch.

    Args:
        whole: The classifier's answer to the whole images, `(B, K)`.
        logits: Its answer to the masked images, `(B, K)`.
        labels: Model truth, `(B,)` int64.
        maps: Sigmoid maps of `regularized_targets`, `(B, 1, h, w)` or `(B, B, h, w)`.
        config: Weights and readings.
        activation: What turns the classifier's answers into probabilities.

    Returns:
        The weighted total and its unweighted parts.

    Raises:
        TTameError: If the maps are not those that the label mode asks for, or the answers are no
            probabilities where they are used as they are.
    """
    batch = labels.shape[0]
    expected = (batch, 1) if config.labels == "own" else (batch, batch)
    if tuple(maps.shape[:2]) != expected or logits.shape[0] != batch:
        raise TTameError(
            f"labels={config.labels!r} needs maps of shape {expected} + (h, w) for {batch} "
            f"labels, got {tuple(maps.shape)} with logits {tuple(logits.shape)}"
        )
    weights = _map_weights(batch, config).to(maps)
    roughness = variation(maps)  # (B, T)
    if config.reduction == "paper":
        scale = roughness.numel() / (2 * batch)  # a weighted mean times this is the sum over 2B
    else:
        scale = (_PAPER_BATCH / 2) * _PAPER_CELLS / (maps.shape[-2] * maps.shape[-1])
    drop = relative_drop(whole, logits, labels, activation)
    if config.gain_limit is not None:
        drop = drop.clamp_min(-config.gain_limit)
    parts = {
        "cross_entropy": F.nll_loss(log_probabilities(logits, activation), labels),
        "drop": drop.mean(),
        "area": (weights * area(maps, config.area_exponent)).sum(),
        "variation": (weights * roughness).sum() * scale,
    }
    total = (
        config.cross_entropy * parts["cross_entropy"]
        + config.drop * parts["drop"]
        + config.area * parts["area"]
        + config.variation * parts["variation"]
    )
    return ObjectiveParts(total=total, **parts)


def _map_weights(batch: int, config: ObjectiveConfig) -> Tensor:
    """Weights of the `(B, T)` maps in the regularisers; they sum to one."""
    if config.labels == "own":
        return torch.full((batch, 1), 1 / batch)
    if config.own_share is None or batch == 1:
        return torch.full((batch, batch), 1 / batch**2)
    own = torch.eye(batch)
    others = (1 - own) / (batch - 1)
    return (config.own_share * own + (1 - config.own_share) * others) / batch
