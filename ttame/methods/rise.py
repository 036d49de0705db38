"""RISE: the average of random masks, weighted by what the classifier still sees (`rise`)."""

from __future__ import annotations

from collections.abc import Callable

import torch
from torch import Tensor

from ttame.classifiers.outputs import probabilities
from ttame.errors import TTameError
from ttame.explainer import Explainer
from ttame.masking import upsample
from ttame.methods.method import Method


def rise_method(
    masks: int = 4000, cells: int = 7, keep: float = 0.5, chunk: int = 32, seed: int = 0
) -> Callable[[Explainer], Method]:
    """Make a factory for RISE, scored by probabilities, in the backbone's masking space.

    Masks are drawn, upsampled and used chunk by chunk, so memory does not grow with their
    number. Every image sees the same masks, so results do not depend on batching.

    Args:
        masks: Random masks an image, each one forward pass (8,000 in T-TAME's comparison).
        cells: Cells a side of the coarse random grid.
        keep: Probability that a cell is on.
        chunk: Masked images at a time.
        seed: Mask seed.

    Raises:
        TTameError: If there is no mask to draw.
    """
    if min(masks, cells, chunk) < 1:
        raise TTameError(f"RISE needs masks, cells and a chunk above 0, got {masks, cells, chunk}")

    def bind(explainer: Explainer) -> Method:
        @torch.inference_mode()
        def explain(images: Tensor, targets: Tensor) -> Tensor:
            size = images.shape[-2:]
            generator = torch.Generator().manual_seed(seed)
            total = images.new_zeros(len(images), 1, *size)
            for start in range(0, masks, chunk):
                count = min(chunk, masks - start)
                drawn = _draw(count, cells, keep, size, generator).to(images)
                for index, image in enumerate(images):
                    masked = explainer.spec.mask(image.expand(count, -1, -1, -1), drawn)
                    outputs = explainer.classifier(masked)
                    scores = probabilities(outputs, explainer.spec.activation)
                    weights = scores[:, targets[index]]
                    total[index] += torch.einsum("n,nchw->chw", weights.to(drawn), drawn)
            return total / (masks * keep)

        return explain

    return bind


def _draw(
    count: int, cells: int, keep: float, size: torch.Size, generator: torch.Generator
) -> Tensor:
    """Smooth random masks `(count, 1, H, W)` in [0, 1]: coarse grids, upsampled and shifted."""
    height, width = size
    step_h, step_w = -(-height // cells), -(-width // cells)  # ceiling
    # One cell more than needed, then a random crop: the grid's lines fall anywhere.
    grid = (torch.rand(count, 1, cells + 1, cells + 1, generator=generator) < keep).float()
    large = upsample(grid, ((cells + 1) * step_h, (cells + 1) * step_w))
    tops = torch.randint(step_h, (count,), generator=generator).tolist()
    lefts = torch.randint(step_w, (count,), generator=generator).tolist()
    places = zip(large, tops, lefts, strict=True)
    return torch.stack([mask[:, y : y + height, x : x + width] for mask, y, x in places])
