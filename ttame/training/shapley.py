"""Amortised Shapley values: a surrogate, then a mechanism whose maps are the values of cells.

In the manner of FastSHAP and ViT-Shapley {cite}`fastshap,vitshapley`. First a copy of the
classifier learns to answer to photos with cells masked as the classifier does to whole ones: what
is left tells of the class, not of the masking. Then the mechanism learns the Shapley values of
cells in the surrogate's game. The trained explainer is read as any other, in one pass of the
classifier itself. Unlike the papers', it reads the frozen classifier's feature maps, by our
mechanism.
"""

from __future__ import annotations

import math
from collections.abc import Callable, Sequence
from dataclasses import dataclass
from functools import partial
from typing import Any, Self

import torch
import torch.nn.functional as F
from torch import Tensor, nn

from ttame.classifiers.outputs import Activation, log_probabilities, probabilities
from ttame.classifiers.passes import copy_module
from ttame.classifiers.weights import input_like
from ttame.data import PhotoList
from ttame.explainer import Explainer
from ttame.training.coalitions import (
    coalition_masks,
    draw_coalitions,
    even_sizes,
    kernel_sizes,
    shapley_loss,
    shapley_values,
    with_complements,
)
from ttame.training.config import TrainingConfig
from ttame.training.module import ExplainerModule
from ttame.training.objective import Parts

# Standard deviation of the initial map, in N times Shapley values: what fits class activation maps
# of EfficientNet-Lite0 best to drawn coalitions of 7×7 cells of 320 photos.
VALUE_SPREAD = 0.5
_WARM_UP = 0.3  # of a cycle; rates rise from a 25th, as in OneCycle
_START = 25.0


@dataclass(frozen=True)
class ShapleyParts(Parts):
    """What a step minimises: first the surrogate's divergence, then the fit of the values.

    `efficiency` is the mean square of what raw maps miss to the total, unweighted.
    """

    surrogate: Tensor | None = None
    shapley: Tensor | None = None
    efficiency: Tensor | None = None


class ShapleyModule(ExplainerModule):
    """One training step: of the surrogate in the first steps, of the mechanism in the others.

    A step of the mechanism values the photo's `ranks` most probable classes at once, since all
    are answered by the same passes.

    Args:
        explainer: As for `ExplainerModule`.
        config: How to train; `config.shapley.pairs` is at least 1.
        total_steps: Steps in all.
        photos: As for `ExplainerModule`.

    Attributes:
        surrogate: The copy that is fine-tuned, in `eval()`; `None` where there are no steps for it.
        surrogate_steps: Steps of the surrogate.
    """

    def __init__(
        self,
        explainer: Explainer,
        config: TrainingConfig,
        total_steps: int,
        photos: PhotoList | None = None,
    ) -> None:
        super().__init__(explainer, config, total_steps, photos)
        self.surrogate_steps = round(config.shapley.surrogate * total_steps)
        self.surrogate: nn.Module | None = None
        if self.surrogate_steps:
            self.surrogate = copy_module(explainer.classifier).requires_grad_(True)

    def train(self, mode: bool = True) -> Self:
        """Set the mode of the mechanism; classifier and surrogate remain in `eval()`."""
        super().train(mode)
        if self.surrogate is not None:
            self.surrogate.eval()
        return self

    def step_parts(self, images: Tensor, positions: Tensor, step: int) -> ShapleyParts:
        """What one step minimises; `ExplainerModule.step_parts`."""
        images = images.to(input_like(self.explainer.classifier))
        with torch.no_grad():
            logits, features = self.explainer.features(self.laid_out(images))
        grid = self.explainer.mechanism.output_size(features)
        draw = partial(draw_coalitions, self.config.run.seed, step, positions.tolist())
        if self.surrogate is not None and step < self.surrogate_steps:
            shown = draw(1, even_sizes(math.prod(grid))).to(images)
            answer = self.surrogate(self._masked(images, shown, grid))
            loss = divergence(logits, answer, self.explainer.spec.activation)
            return ShapleyParts(total=loss, surrogate=loss)
        targets = logits.topk(self.ranks, dim=1).indices
        if self.truth is not None:
            targets = self.truth.to(positions.device)[positions][:, None]
        pairs = draw(self.config.shapley.pairs, kernel_sizes(math.prod(grid))).to(images)
        coalitions = with_complements(pairs)
        worth, empty = self.worth(images, coalitions, grid, targets)
        # The surrogate learns the classifier's answer to whole photos; here it is at hand.
        whole = probabilities(logits, self.explainer.spec.activation).gather(1, targets)
        raw = self.explainer.mechanism(features, targets).float()
        fit = shapley_loss(shapley_values(raw, whole - empty), coalitions, worth, empty)
        gap = (raw.mean(dim=(2, 3)) - (whole - empty)).square().mean()
        total = fit + self.config.shapley.efficiency * gap
        return ShapleyParts(total=total, shapley=fit, efficiency=gap)

    @torch.no_grad()
    def worth(
        self, images: Tensor, coalitions: Tensor, grid: Sequence[int], targets: Tensor
    ) -> tuple[Tensor, Tensor]:
        """Ask the surrogate, or the classifier where there is none, what coalitions are worth.

        Args:
            images: Normalised photos, `(B, C, H, W)`.
            coalitions: 1 for the cells shown, `(B, M, N)`.
            grid: Height and width of the map, in cells.
            targets: Classes, `(B, T)` int64.

        Returns:
            Probabilities of the classes for the coalitions `(B, M, T)`, and for no cell at all
            `(B, T)`.
        """
        batch, count = coalitions.shape[:2]
        nothing = self._masked(images[:1], torch.zeros_like(coalitions[:1, :1]), grid)
        seen = torch.cat([self._masked(images, coalitions, grid), nothing])
        game = self.explainer.classifier if self.surrogate is None else self.surrogate
        found = probabilities(game(self.laid_out(seen)), self.explainer.spec.activation)
        chosen = targets[:, None].expand(-1, count, -1)
        worth = found[:-1].view(batch, count, -1).gather(2, chosen)
        return worth, found[-1:].expand(batch, -1).gather(1, targets)

    def _masked(self, images: Tensor, coalitions: Tensor, grid: Sequence[int]) -> Tensor:
        """Mask each photo for each of its coalitions `(B, M, N)`: `(B·M, C, H, W)`."""
        masks = coalition_masks(coalitions, grid, images.shape[-2:])
        repeated = images.repeat_interleave(coalitions.shape[1], dim=0)
        return self.laid_out(self.explainer.spec.mask(repeated, masks))

    def parameter_groups(self) -> list[dict[str, Any]]:
        """Those of the mechanism, and last the surrogate's, without decay."""
        groups = super().parameter_groups()
        if self.surrogate is not None:
            rate = self.config.shapley.surrogate_rate
            groups.append({"params": list(self.surrogate.parameters()), "lr": rate,
                           "weight_decay": 0.0})  # fmt: skip
        return groups

    def schedule(self, optimizer: torch.optim.Optimizer) -> torch.optim.lr_scheduler.LRScheduler:
        """A cycle for the surrogate over its steps, then one for the mechanism over the rest."""
        first, rest = self.surrogate_steps, self.total_steps - self.surrogate_steps
        shapes: list[Callable[[int], float]] = [
            partial(cycle, start=first, steps=rest) for _ in optimizer.param_groups
        ]
        if self.surrogate is not None:
            shapes[-1] = partial(cycle, start=0, steps=first)
        return torch.optim.lr_scheduler.LambdaLR(optimizer, shapes)


def training_module(
    explainer: Explainer,
    config: TrainingConfig,
    total_steps: int,
    photos: PhotoList | None = None,
) -> ExplainerModule:
    """Return the module that a configuration trains by; arguments as for `ExplainerModule`."""
    kind = ShapleyModule if config.shapley.pairs else ExplainerModule
    return kind(explainer, config, total_steps, photos)


def divergence(whole: Tensor, masked: Tensor, activation: Activation) -> Tensor:
    """Mean Kullback-Leibler divergence of the answers to masked photos from those to whole ones.

    Args:
        whole: The classifier's outputs for whole photos, `(B, K)`.
        masked: The surrogate's outputs for masked photos, `(B, K)`.
        activation: What outputs are. Of classes that exclude each other (`"softmax"`) the
            divergence is that of one distribution, otherwise the sum over labels.

    Returns:
        Scalar, at least 0.
    """
    if activation == "softmax":
        log_whole, log_masked = (log_probabilities(out, activation) for out in (whole, masked))
        return F.kl_div(log_masked, log_whole, log_target=True, reduction="batchmean")
    true, found = probabilities(whole, activation), probabilities(masked, activation)
    excess = F.binary_cross_entropy(found, true, reduction="sum") - F.binary_cross_entropy(
        true, true, reduction="sum"
    )
    return excess / len(whole)


def cycle(step: int, *, start: int, steps: int) -> float:
    """Return the share of the maximum rate at a step: cosines from a 25th to 1 and to 0.

    Args:
        step: Number of the step.
        start: First step of the cycle; the rate is 0 before.
        steps: Length of the cycle; the rate is 0 after.
    """
    if not start <= step < start + steps:
        return 0.0
    place, peak = step - start, _WARM_UP * steps
    low, share = (
        (1 / _START, place / peak) if place < peak else (0.0, (steps - place) / (steps - peak))
    )
    return low + (1 - low) * (1 - math.cos(math.pi * share)) / 2
