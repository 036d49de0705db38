"""Do explanation maps know which parts matter? Measures against exact importance.

The importance of a part is what the target's logit loses when a drawing is drawn without it
(`ttame.evaluation.removal`): no mask, no blur, nothing that the classifier has not seen. The
measures follow the ideas of FunnyBirds {cite}`funnybirds` in definitions of our own. They read of a
map, scaled to [0, 1], its mean over every part: raw maps are known up to scale and offset, and a
sum would rank the parts by their areas under any offset. A constant map prefers nothing: it scores
0 in the correlations and 50 where two means are compared.
"""

from __future__ import annotations

from itertools import combinations

import pandas as pd
import torch
from torch import Tensor

from ttame.classifiers.drawn import PARTS
from ttame.errors import TTameError
from ttame.evaluation.correlation import rank_correlation
from ttame.evaluation.intervals import bootstrap
from ttame.evaluation.tables import measured
from ttame.masking import degenerate, normalize_maps, upsample

PAIRS = tuple(combinations(range(len(PARTS)), 2))
NO_EFFECT = 0.05  # of the most important part's: what changes a logit by less has no effect


def part_correlation(means: Tensor, importance: Tensor) -> Tensor:
    """Spearman's correlation between a map's means over the parts and their importance.

    Args:
        means: Mean of the map over every part, or pair of parts, `(B, P)`.
        importance: What their removal costs, `(B, P)`.

    Returns:
        `(B,)` float64 in [-1, 1]; 0 for a map of equal means.

    Raises:
        TTameError: If the shapes differ or a value is not finite.
    """
    return rank_correlation(means[:, None, None], importance[:, None, None])


def pair_means(means: Tensor, areas: Tensor) -> Tensor:
    """Means of maps over the union of every two parts (`PAIRS`).

    Args:
        means: Mean of each map over every part, `(B, P)`.
        areas: Pixels in which each part shows, `(B, P)`.

    Returns:
        `(B, P·(P-1)/2)`.
    """
    first, second = ([pair[side] for pair in PAIRS] for side in (0, 1))
    total = means * areas
    return (total[:, first] + total[:, second]) / (areas[:, first] + areas[:, second])


def background_independence(
    means: Tensor, importance: Tensor, clutter: Tensor, effects: Tensor
) -> Tensor:
    """Share of comparisons in which a part that matters beats clutter without effect, percent.

    Every part with an effect is compared with every piece of clutter without one, by the map's
    means over them; a tie counts half. Effects below `NO_EFFECT` of the largest part's are none.

    Args:
        means: Mean of each map over every part, `(B, P)`.
        importance: What the removal of each part costs, `(B, P)`.
        clutter: Mean of each map over every piece of clutter, `(B, C)`; NaN where it is hidden.
        effects: What the removal of each piece costs, `(B, C)`.

    Returns:
        `(B,)` float64 in [0, 100], NaN where there is nothing to compare; 50 is chance.
    """
    least = NO_EFFECT * importance.amax(dim=1, keepdim=True)
    matters = importance >= least.clamp_min(torch.finfo(importance.dtype).tiny)
    inert = clutter.isfinite() & (effects.abs() < least)
    counted = (matters[:, :, None] & inert[:, None, :]).double()
    won = _wins(means[:, :, None], clutter[:, None, :])
    return 100 * (won * counted).sum(dim=(1, 2)) / counted.sum(dim=(1, 2))


def target_sensitivity(means: Tensor, others: Tensor, contrast: Tensor) -> Tensor:
    """Whether the map of class A prefers the parts that speak for A over B more than B's does.

    Parts speak for A over B if their removal lowers the difference of the two logits, by at least
    `NO_EFFECT` of the largest such drop. A map prefers them by its mean over them less its mean
    over the other parts. A map that is the same for all classes ties.

    Args:
        means: Mean of A's map over every part, `(B, P)`.
        others: The same of B's map.
        contrast: What the removal of each part takes from the logit of A minus that of B, `(B, P)`.

    Returns:
        `(B,)` float64: 100, 50 for a tie, or 0; NaN where all parts speak for A, or none.
    """
    least = (NO_EFFECT * contrast.amax(dim=1, keepdim=True)).clamp_min(0)
    speaks = (contrast > least).double()
    rest = 1 - speaks

    def preference(values: Tensor) -> Tensor:
        inside, outside = (values * speaks).sum(dim=1), (values * rest).sum(dim=1)
        return inside / speaks.sum(dim=1) - outside / rest.sum(dim=1)

    one, other = preference(means.double()), preference(others.double())
    return 100 * torch.where(one.isnan(), one, _wins(one, other))


def region_means(maps: Tensor, regions: Tensor) -> Tensor:
    """Means of maps over regions.

    Args:
        maps: Raw explanation maps, `(B, 1, h, w)`; scaled to [0, 1] at this resolution and
            enlarged to the regions. Constant maps become zeros.
        regions: Share of each pixel that belongs to a region, `(B, R, H, W)` in [0, 1].

    Returns:
        `(B, R)` in [0, 1]; NaN where a region is empty.

    Raises:
        TTameError: If the batch sizes differ.
    """
    if maps.shape[:1] != regions.shape[:1]:
        raise TTameError(
            f"maps {tuple(maps.shape)} and regions {tuple(regions.shape)} must agree in batch"
        )
    flat = degenerate(maps)[..., None, None]
    scaled = torch.where(flat, torch.zeros_like(maps), normalize_maps(maps)).float()
    large = upsample(scaled, regions.shape[-2:])
    return (large * regions).sum(dim=(2, 3)) / regions.sum(dim=(2, 3))


def part_scores(records: pd.DataFrame) -> pd.DataFrame:
    """Compute every score of every record, in long form.

    Args:
        records: Records that `evaluate_parts` wrote.

    Returns:
        Columns photo, method, score, value. Scores are `"part correlation"`, `"pair correlation"`
        (of pairs of parts), `"background independence"`, `"target sensitivity"`, `"pointing"` and
        `"energy"`; drawings on which a score is not defined are left out of it.
    """
    records = measured(records)

    def column(name: str) -> Tensor:
        # Hidden clutter is None, which becomes NaN.
        return torch.tensor(
            [[float("nan") if value is None else value for value in row] for row in records[name]],
            dtype=torch.float64,
        )

    means, importance = column("parts"), column("importance")
    found = {
        "part correlation": part_correlation(means, importance),
        "pair correlation": part_correlation(pair_means(means, column("areas")), column("pairs")),
        "background independence": background_independence(
            means, importance, column("clutter_means"), column("clutter")
        ),
        "target sensitivity": target_sensitivity(means, column("other_parts"), column("contrast")),
        "pointing": torch.tensor(records["pointing"].to_numpy()),
        "energy": torch.tensor(records["energy"].to_numpy()),
    }
    pieces = [records[["photo", "method"]].assign(score=score, value=values.numpy())
              for score, values in found.items()]  # fmt: skip
    return pd.concat(pieces, ignore_index=True).dropna(subset="value")


def part_intervals(records: pd.DataFrame) -> pd.DataFrame:
    """Compute every mean score with its 95 % bootstrap interval over drawings.

    Args:
        records: Records that `evaluate_parts` wrote.

    Returns:
        One row per method and score: mean, low, high and photos.
    """
    rows = [
        (method, score, *bootstrap(group["value"].to_numpy()), len(group))
        for (method, score), group in part_scores(records).groupby(["method", "score"], sort=False)
    ]
    return pd.DataFrame(rows, columns=["method", "score", "mean", "low", "high", "photos"])


def _wins(one: Tensor, other: Tensor) -> Tensor:
    """1 where `one` is larger, 0.5 where they are equal, else 0; NaN counts as smaller."""
    return (one > other).double() + 0.5 * (one == other)
