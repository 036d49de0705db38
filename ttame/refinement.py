"""Refining maps photo by photo, by a few gradient steps from T-TAME's own (not in `ttame`).

A mechanism answers from what it learned on other photos. Where a photo is worth more passes, each
step masks it by the map, asks the classifier, and moves the map so that the masked photo keeps
more of the target class, with all pixels and with its top half in turn.

Gradients can as well find masks that fool a classifier. Two brakes keep that down: the map moves on
a coarse grid, and a pixel moves the less the more relevant T-TAME found it, so that the top of the
map stays what it was.
"""

from __future__ import annotations

import torch
from torch import Tensor, nn

from ttame.classifiers.outputs import log_probabilities
from ttame.classifiers.specs import BackboneSpec
from ttame.errors import TTameError
from ttame.masking import normalize_maps, upsample

MOST_STEPS = 1000
_CELLS = 14  # height and width of what moves; smaller maps are enlarged to that
_RATE, _MOMENTUM = 0.4, 0.7  # of steps of normalised length, in log-odds
_SHARES = (1.0, 0.5)  # of top pixels kept, in turn
_MARGIN = 0.01  # maps begin in [0.01, 0.99], where log-odds are finite


def check_steps(steps: int) -> int:
    """Return a number of steps that can be made.

    Raises:
        TTameError: If it is not a whole number from 0 to `MOST_STEPS`.
    """
    if isinstance(steps, bool) or not isinstance(steps, int) or not 0 <= steps <= MOST_STEPS:
        raise TTameError(
            f"refine must be a whole number of steps from 0 to {MOST_STEPS}, got {steps!r}; "
            "4 to 20 are enough"
        )
    return steps


def refine_maps(
    classifier: nn.Module,
    spec: BackboneSpec,
    images: Tensor,
    targets: Tensor,
    maps: Tensor,
    *,
    steps: int,
) -> Tensor:
    """Improve maps by gradient steps; each costs a forward and a backward pass per target.

    Args:
        classifier: In `eval()`.
        spec: Facts of the classifier; it says how masks are applied and what outputs mean.
        images: Normalised images, `(B, C, H, W)`.
        targets: Target classes, `(B, T)` int64.
        maps: Raw maps to begin with, `(B, T, h, w)`.
        steps: Number of steps, at least 1.

    Returns:
        `(B, T, h', w')` in [0, 1], h' and w' at least 14; maps that are constant, or whose
        gradient vanishes, stay as they are but for scaling.

    Raises:
        TTameError: If gradients do not pass through the classifier.
    """
    with torch.inference_mode(False), torch.enable_grad():
        # Copies: what was made under inference mode cannot be part of a graph.
        classes = maps.shape[1]
        size = [max(length, _CELLS) for length in maps.shape[-2:]]
        photos = images.clone().repeat_interleave(classes, dim=0)
        index = targets.clone().reshape(-1, 1)
        start = normalize_maps(upsample(maps.clone().float().flatten(0, 1)[:, None], size))
        odds, free = torch.logit(start, eps=_MARGIN), 1 - start
        moved = start.new_zeros(len(start), 1, _CELLS, _CELLS)
        speed = torch.zeros_like(moved)

        def current(moved: Tensor) -> Tensor:
            return torch.sigmoid(odds + free * upsample(moved, size))

        for step in range(steps):
            moved.requires_grad_(True)
            share = _SHARES[step % len(_SHARES)]
            masks = normalize_maps(current(moved))
            answer = classifier(spec.mask(photos, masks, share))
            if not answer.requires_grad:
                raise TTameError(
                    f"refine={steps} needs gradients, and none pass through "
                    f"{type(classifier).__name__}: it is quantised, detaches its input or runs "
                    "under torch.no_grad(); use refine=0"
                )
            after = log_probabilities(answer, spec.activation).gather(1, index)[:, 0]
            (gradient,) = torch.autograd.grad(-after.sum(), moved)
            length = gradient.flatten(1).square().mean(dim=1).sqrt()[:, None, None, None]
            speed = _MOMENTUM * speed + gradient / length.clamp_min(1e-12)
            moved = (moved - _RATE * speed).detach()
        return current(moved).detach().reshape(-1, classes, *size)
