"""The bootstrap of the project: means with intervals over photos and seeds, and verdicts."""

from __future__ import annotations

from typing import Any, Literal, NamedTuple

import numpy as np
import numpy.typing as npt

from ttame.evaluation.confidence import higher_is_better

Verdict = Literal["better", "worse", "open"]
RESAMPLES = 2000


class Interval(NamedTuple):
    """A mean with the bounds of its 95 % interval, in the unit of the values."""

    mean: float
    low: float
    high: float


def bootstrap(
    values: npt.NDArray[np.floating[Any]], resamples: int = RESAMPLES, seed: int = 0
) -> Interval:
    """Estimate the 95 % interval of a mean over photos, or photos and seeds (percentile method).

    Photos and seeds are drawn anew, each with replacement, in every resample. With two seeds that
    tells little of what further ones would bring, with one nothing. `scipy.stats.bootstrap` draws
    along one axis only, hence this function.

    Args:
        values: One value per photo `(N,)`, or per photo and seed `(N, S)`.
        resamples: Bootstrap resamples.
        seed: Bootstrap seed.
    """
    table = values[:, None] if values.ndim == 1 else values
    generator = np.random.default_rng(seed)
    photos, seeds = (
        generator.multinomial(count, np.full(count, 1 / count), size=resamples) / count
        for count in table.shape
    )
    means = ((photos @ table) * seeds).sum(axis=1)
    low, high = np.percentile(means, [2.5, 97.5])
    return Interval(float(table.mean()), float(low), float(high))


def verdict(score: str, difference: Interval) -> Verdict:
    """Judge a difference: `"better"` or `"worse"` if its interval leaves out zero, else `"open"`.

    Args:
        score: Name of the score, such as `"AD 50%"`; it says which direction is better.
        difference: The judged method minus another one.
    """
    sign = 1 if higher_is_better(score) else -1
    low, high = sorted((sign * difference.low, sign * difference.high))
    return "better" if low > 0 else "worse" if high < 0 else "open"
