"""Noisy linear imputation: removed pixels become the weighted mean of their neighbours (`road`).

Every removed pixel equals the mean of its eight neighbours, 1/6 each for direct and 1/12 for
diagonal ones, renormalised at the image's border. That is a sparse linear system per image and
level; the usual sparse LU takes a large part of a second. Here all images, levels and channels
are solved at once by conjugate gradients preconditioned with one multigrid cycle, in plain
tensor operations, on whatever device the images are.
"""

from __future__ import annotations

import torch
import torch.nn.functional as F
from torch import Tensor

from ttame.errors import TTameError

_SMOOTHINGS = 1
_DAMPING = 0.9
_COARSEST = 8  # cells; below, smoothing alone solves
_COARSE_SMOOTHINGS = 12


def impute(
    images: Tensor,
    known: Tensor,
    *,
    noise: float = 0.0,
    seed: int = 0,
    tolerance: float = 1e-5,
    iterations: int = 60,
) -> Tensor:
    """Fill removed pixels from the known ones.

    Args:
        images: Raw images, `(B, C, H, W)` in [0, 1].
        known: Which pixels stay, `(B, 1, H, W)` bool.
        noise: Standard deviation of the Gaussian noise on imputed pixels, in [0, 1] units.
        seed: Noise seed; all images get the same noise, so batching does not matter.
        tolerance: Residual tolerance, relative to the right-hand side's norm.
        iterations: Upper bound of conjugate-gradient steps.

    Returns:
        `(B, C, H, W)`; known pixels are bit for bit those of `images`.

    Raises:
        TTameError: If shapes disagree, an image has no known pixel, or the solver did not
            reach the tolerance.
    """
    batch, channels, height, width = images.shape
    if tuple(known.shape) != (batch, 1, height, width) or known.dtype != torch.bool:
        raise TTameError(
            f"known must be bool of shape {(batch, 1, height, width)}, got {known.dtype} "
            f"{tuple(known.shape)}"
        )
    if not bool(known.flatten(1).any(dim=1).all()):
        raise TTameError("an image has no known pixel left; nothing can be imputed from")
    given = images * known
    unknown = (~known).to(images.dtype)
    # Known pixels move to the right-hand side.
    target = unknown * _neighbours(given)
    start = unknown * _pyramid_guess(given, known.to(images.dtype))
    filled = _conjugate_gradients(_grids(unknown), target, start, tolerance, iterations)
    if noise:
        generator = torch.Generator().manual_seed(seed)
        drawn = torch.randn(1, channels, height, width, generator=generator)
        filled = filled + noise * drawn.to(images)
    return torch.where(known, images, filled)


def _spread(values: Tensor, step: int = 1) -> Tensor:
    """Sum by [1, 2, 1] ⊗ [1, 2, 1] at every `step`-th cell, in shifted additions; outside is 0."""
    rows = 2 * values
    rows[..., 1:, :] += values[..., :-1, :]
    rows[..., :-1, :] += values[..., 1:, :]
    rows = rows[..., ::step, :]
    total = 2 * rows
    total[..., 1:] += rows[..., :-1]
    total[..., :-1] += rows[..., 1:]
    return total[..., ::step]


def _neighbours(values: Tensor) -> Tensor:
    """Weighted sum of the eight neighbours; outside counts as zero."""
    return _spread(values).sub_(values, alpha=4).div_(12)


class _Grid:
    """One level of the multigrid hierarchy: which cells are unknown, and the diagonal."""

    def __init__(self, unknown: Tensor) -> None:
        self.unknown = unknown  # (B, 1, h, w) of 0 and 1
        self.diagonal = _neighbours(torch.ones_like(unknown[:1]))  # border cells have fewer
        self.inverse = unknown * (_DAMPING / self.diagonal)

    def apply(self, values: Tensor) -> Tensor:
        """Multiply the system's matrix by values that vanish on known cells."""
        return _neighbours(values).addcmul_(self.diagonal, values, value=-1).mul_(-self.unknown)

    def smooth(self, values: Tensor, target: Tensor) -> Tensor:
        """One damped Jacobi sweep; `inverse` keeps known cells at zero."""
        residual = _neighbours(values).addcmul_(self.diagonal, values, value=-1).add_(target)
        return values.addcmul(self.inverse, residual)


def _grids(unknown: Tensor) -> list[_Grid]:
    grids = [_Grid(unknown)]
    while min(unknown.shape[-2:]) > _COARSEST:
        # A coarse cell is unknown where its whole neighbourhood is: a correction that leaks
        # over known pixels would undo itself.
        unknown = -F.max_pool2d(-unknown, kernel_size=3, stride=2, padding=1)
        grids.append(_Grid(unknown))
    return grids


def _prolong(values: Tensor, like: Tensor) -> Tensor:
    """Bilinear interpolation from every second cell, the transpose of `_spread(_, 2) / 4`."""
    height, width = like.shape[-2:]
    wide = values.new_zeros(*values.shape[:-1], width)
    wide[..., ::2] = values
    wide[..., 1::2] = 0.5 * values[..., : width // 2]
    wide[..., 1 : width - 1 : 2] += 0.5 * values[..., 1 : (width + 1) // 2]
    tall = values.new_zeros(*values.shape[:-2], height, width)
    tall[..., ::2, :] = wide
    tall[..., 1::2, :] = 0.5 * wide[..., : height // 2, :]
    tall[..., 1 : height - 1 : 2, :] += 0.5 * wide[..., 1 : (height + 1) // 2, :]
    return tall


def _cycle(grids: list[_Grid], target: Tensor) -> Tensor:
    """One symmetric V-cycle from zero: an approximate inverse of the matrix."""
    grid = grids[0]
    values = grid.inverse * target
    sweeps = _SMOOTHINGS if len(grids) > 1 else _COARSE_SMOOTHINGS
    for _ in range(sweeps - 1):
        values = grid.smooth(values, target)
    if len(grids) == 1:
        return values
    residual = target - grid.apply(values)
    # The same stencil on cells twice as wide is a quarter of the operator.
    coarse = _cycle(grids[1:], grids[1].unknown * _spread(residual, step=2) / 4)
    values = values.addcmul(grid.unknown, _prolong(coarse, target))
    for _ in range(_SMOOTHINGS):
        values = grid.smooth(values, target)
    return values


def _pyramid_guess(given: Tensor, known: Tensor) -> Tensor:
    """Guess by weighted averages of known pixels at ever coarser scales, fine ones first."""
    if min(given.shape[-2:]) <= 2:
        total, count = (found.sum(dim=(-2, -1), keepdim=True) for found in (given, known))
        return (total / count.clamp_min(1)).expand_as(given)
    smaller = F.avg_pool2d(given, 2, ceil_mode=True)
    weight = F.avg_pool2d(known, 2, ceil_mode=True)
    mean = smaller / weight.clamp_min(1e-6)
    seen = (weight > 0).to(given.dtype)
    coarse = mean * seen + (1 - seen) * _pyramid_guess(mean * seen, seen)
    return F.interpolate(coarse, size=given.shape[-2:], mode="bilinear", align_corners=False)


def _conjugate_gradients(
    grids: list[_Grid], target: Tensor, start: Tensor, tolerance: float, iterations: int
) -> Tensor:
    """Solve every image and channel on its own, in step; images that are done drop out."""

    def dot(a: Tensor, b: Tensor) -> Tensor:
        return (a * b).sum(dim=(-2, -1), keepdim=True)

    values = start.clone()
    residual = target - grids[0].apply(values)
    limit = tolerance * dot(target, target).sqrt().clamp_min(1e-6)
    direction = torch.zeros_like(values)
    previous = torch.ones_like(limit)
    solved, places = torch.empty_like(values), torch.arange(len(values), device=values.device)
    for _ in range(iterations):
        active = dot(residual, residual).sqrt() > limit
        busy = active.flatten(1).any(dim=1)
        if not bool(busy.all()):
            solved[places[~busy]] = values[~busy]
            if not bool(busy.any()):
                return solved
            places, active, limit = places[busy], active[busy], limit[busy]
            values, residual, direction = values[busy], residual[busy], direction[busy]
            previous, grids = previous[busy], [_Grid(grid.unknown[busy]) for grid in grids]
        corrected = _cycle(grids, residual)
        product = dot(residual, corrected)
        direction = corrected.addcmul_(product / previous, direction)
        applied = grids[0].apply(direction)
        step = torch.where(active, product / dot(direction, applied).clamp_min(1e-30), 0.0)
        values = values.addcmul(step, direction)
        residual = residual.addcmul(step, applied, value=-1)
        previous = product.clamp_min(1e-30)
    raise TTameError(f"the imputation did not converge within {iterations} iterations")
