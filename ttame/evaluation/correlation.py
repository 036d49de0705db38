"""Rank correlation of explanation maps."""

from __future__ import annotations

import torch
import torch.nn.functional as F
from torch import Tensor

from ttame.errors import TTameError, require


def rank_correlation(first: Tensor, second: Tensor) -> Tensor:
    """Compute Spearman's rank correlation of each pair of maps, ties at their average rank.

    Values are signed: a map and its negative correlate with -1. A constant map has no ranking
    (`masking.degenerate`); its correlation is 0.

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
    require("evaluate", "scipy")
    from scipy.stats import rankdata

    flat = (maps.detach().flatten(1).cpu().double().numpy() for maps in (first, second))
    one, other = (torch.from_numpy(rankdata(values, axis=1)) for values in flat)
    mean = (one.shape[1] + 1) / 2  # less which a constant map's ranks are zero, and then the result
    return F.cosine_similarity(one - mean, other - mean, dim=1).clamp(-1, 1).to(first.device)
