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

_DAMPING = 0.9
_COARSEST = 8  # cells; below, smoothing alone solves
_COARSE_SMOOTHINGS = 12
# What known pixels weigh on coarser grids, and the share of unknown ones from which a coarse cell
# is solved for. Neither changes the solution, only how fast it is reached: measured on photos.
_PULL, _SHARE = 0.5, 0.25


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
    target = unknown * _spread(given)
    start = unknown * _pyramid_guess(given, known.to(images.dtype))
    filled = _conjugate_gradients(_grids(unknown), target, start, tolerance, iterations)
    if noise:
        generator = torch.Generator().manual_seed(seed)
        drawn = torch.randn(1, channels, height, width, generator=generator)
        filled = filled + noise * drawn.to(images)
    return torch.where(known, images, filled)


def _spread(values: Tensor) -> Tensor:
    """Sum by [1, 2, 1] ⊗ [1, 2, 1]; outside is 0. Additions are faster than a convolution."""
    for dim in (-2, -1):
        size = values.shape[dim]
        shape = list(values.shape)
        shape[dim] += 1
        pairs = values.new_empty(shape)
        first, second = values.narrow(dim, 0, size - 1), values.narrow(dim, 1, size - 1)
        torch.add(first, second, out=pairs.narrow(dim, 1, size - 1))
        pairs.select(dim, 0).copy_(values.select(dim, 0))
        pairs.select(dim, size).copy_(values.select(dim, size - 1))
        values = pairs.narrow(dim, 0, size) + pairs.narrow(dim, 1, size)
    return values


def _restrict(values: Tensor) -> Tensor:
    """Sum cells into every second one, the transpose of `_prolong`."""
    for dim in (-2, -1):
        fine = values.movedim(dim, -1)
        between, total = fine[..., 1::2], fine[..., ::2].clone()
        inner = total.shape[-1] - 1
        total[..., :inner].add_(between[..., :inner], alpha=0.5)
        total[..., 1:].add_(between[..., :inner], alpha=0.5)
        if between.shape[-1] > inner:
            total[..., inner] += between[..., inner]
        values = total.movedim(-1, dim)
    return values


def _prolong(values: Tensor, size: tuple[int, int] | torch.Size) -> Tensor:
    """Interpolate linearly between every second of `size` cells.

    A last cell with no coarse one beyond takes the value of the one before: images have no edge
    that holds values at zero, and constants must stay constant.
    """
    for dim, cells in ((-2, size[0]), (-1, size[1])):
        shape = list(values.shape)
        shape[dim] = cells
        finer = values.new_empty(shape)
        coarse, fine = values.movedim(dim, -1), finer.movedim(dim, -1)
        inner = coarse.shape[-1] - 1
        fine[..., ::2] = coarse
        fine[..., 1 : 2 * inner : 2] = torch.lerp(coarse[..., :inner], coarse[..., 1:], 0.5)
        if cells % 2 == 0:
            fine[..., -1] = coarse[..., -1]
        values = finer
    return values


class _Grid:
    """One level of the multigrid hierarchy: the system A of the cells that are solved for.

    With S for `_spread`, A(x) = d·x - S(x): twelve times each pixel's equation; that S counts the
    pixel itself four times cancels in d.

    Args:
        unknown: Which cells are solved for, `(B, 1, h, w)` of 0 and 1.
        held: What known pixels that lie between the cells add to d, `(B, 1, h, w)`.
    """

    def __init__(self, unknown: Tensor, held: Tensor) -> None:
        self.unknown, self.held = unknown, held
        self.diagonal = _spread(torch.ones_like(unknown)) + held  # fewer neighbours at the border
        self.inverse = unknown * (_DAMPING / (self.diagonal - 4))

    def residual(self, values: Tensor, target: Tensor) -> Tensor:
        """Return target - A(values); what it says of other cells is meaningless."""
        return _spread(values).addcmul_(self.diagonal, values, value=-1).add_(target)

    def smooth(self, values: Tensor, target: Tensor) -> Tensor:
        """One damped Jacobi sweep, in place; `inverse` keeps other cells at zero."""
        return values.addcmul_(self.inverse, self.residual(values, target))

    def coarser(self) -> _Grid:
        """Build the grid of every second cell."""
        # A coarse correction is a weighted sum of cells. Those beside known pixels pull it to zero.
        pull = self.unknown * (_spread(1 - self.unknown) + self.held)
        unknown = (_restrict(self.unknown) > _SHARE * 4).to(pull.dtype)  # weights sum to 4
        return _Grid(unknown, _PULL * _restrict(pull))


def _grids(unknown: Tensor) -> list[_Grid]:
    grids = [_Grid(unknown, torch.zeros_like(unknown))]
    while min(grids[-1].unknown.shape[-2:]) > _COARSEST:
        grids.append(grids[-1].coarser())
    return grids


def _cycle(grids: list[_Grid], target: Tensor) -> Tensor:
    """One symmetric V-cycle from zero: an approximate inverse of A."""
    grid = grids[0]
    values = grid.inverse * target
    if len(grids) == 1:
        for _ in range(_COARSE_SMOOTHINGS - 1):
            values = grid.smooth(values, target)
        return values
    residual = grid.residual(values, target).mul_(grid.unknown)
    # The same stencil on cells twice as wide is the same operator: it sums four times the cells.
    coarse = _cycle(grids[1:], grids[1].unknown * _restrict(residual))
    values.addcmul_(grid.unknown, _prolong(coarse, target.shape[-2:]))
    return grid.smooth(values, target)


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
    """Solve every image and channel on its own, in step; those that are done stay as they are."""

    def dot(a: Tensor, b: Tensor) -> Tensor:
        return (a * b).sum(dim=(-2, -1), keepdim=True)

    grid, values = grids[0], start.clone()
    residual = grid.residual(values, target).mul_(grid.unknown)
    limit = tolerance * dot(target, target).sqrt().clamp_min(1e-6)
    direction = torch.zeros_like(values)
    previous = torch.ones_like(limit)
    for _ in range(iterations):
        active = dot(residual, residual).sqrt() > limit
        if not bool(active.any()):
            return values
        corrected = _cycle(grids, residual)
        product = dot(residual, corrected)
        direction = corrected.addcmul_(product / previous, direction)
        # Minus A(direction).
        applied = grid.residual(direction, torch.zeros_like(limit)).mul_(grid.unknown)
        step = torch.where(active, -product / dot(direction, applied).clamp_max(-1e-30), 0.0)
        values = values.addcmul_(step, direction)
        residual = residual.addcmul_(step, applied)
        previous = product.clamp_min(1e-30)
    raise TTameError(f"the imputation did not converge within {iterations} iterations")
