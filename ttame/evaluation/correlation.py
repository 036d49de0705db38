"""How alike two explanation maps rank the pixels of a photo."""

from __future__ import annotations

import torch
from torch import Tensor
from torchmetrics.utilities import dim_zero_cat

from ttame.errors import TTameError
from ttame.evaluation.confidence import SampleMetric
from ttame.masking import degenerate


def rank_correlation(first: Tensor, second: Tensor) -> Tensor:
    """Spearman's rank correlation of each pair of maps, ties at their average rank.

    Of signed values: a map and its negative correlate with -1. A constant map has no ranking;
    its correlation counts as 0 (`masking.degenerate` tells which those are).

    Args:
        first: Explanation maps, `(B, 1, h, w)`, any float dtype.
        second: Maps of the same shape.

    Returns:
        `(B,)` float64 in [-1, 1].

    Raises:
        TTameError: If the shapes differ or are not of this form, or a map is not finite.
    """
    if first.shape != second.shape or first.ndim != 4 or first.shape[1] != 1:
        raise TTameError(
            f"expected two batches of maps (B, 1, h, w) of one shape, got {tuple(first.shape)} "
            f"and {tuple(second.shape)}; bring them to one size with masking.upsample"
        )
    if not bool(first.isfinite().all() and second.isfinite().all()):
        raise TTameError("an explanation map holds NaN or infinite values; it cannot be ranked")
    one, other = _centred_ranks(first), _centred_ranks(second)
    scale = (one.square().sum(dim=1) * other.square().sum(dim=1)).sqrt()
    found = (one * other).sum(dim=1) / torch.where(scale > 0, scale, torch.ones_like(scale))
    return found.clamp(-1, 1)


class RankCorrelation(SampleMetric):
    """Mean of `rank_correlation` over samples; how many were degenerate is kept too."""

    flags: list[Tensor]

    def __init__(self) -> None:
        super().__init__()
        self.add_state("flags", default=[], dist_reduce_fx="cat")

    def update(self, first: Tensor, second: Tensor) -> None:
        """Add a batch of pairs of maps, `(B, 1, h, w)` each.

        Raises:
            TTameError: As `rank_correlation` does; nothing is added then.
        """
        self.values.append(self.sample(first, second).detach())
        self.flags.append((degenerate(first) | degenerate(second))[:, 0])

    def sample(self, first: Tensor, second: Tensor) -> Tensor:
        """See `rank_correlation`."""
        return rank_correlation(first, second)

    def degenerate(self) -> Tensor:
        """Which samples count as 0 for want of a ranking, `(N,)` bool."""
        return dim_zero_cat(self.flags)


def _centred_ranks(maps: Tensor) -> Tensor:
    """Average ranks of each map's pixels less their mean, `(B, h·w)` float64."""
    flat = maps.detach().flatten(1).contiguous()
    ordered = flat.sort(dim=1).values
    below = torch.searchsorted(ordered, flat, right=False)
    upto = torch.searchsorted(ordered, flat, right=True)
    # A tie fills the places below+1 .. upto; the mean of all ranks is (n + 1) / 2.
    return (below + upto - flat.shape[1]).double() / 2
