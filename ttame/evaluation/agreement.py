"""A test of the tests: can a map that looks at nothing win a metric, and do metrics agree?

Blind maps (all ones, noise, a Gaussian about the centre) know neither photo nor class. A metric
by which one of them comes first says little about explanations, however it ranks the others.
"""

from __future__ import annotations

from collections.abc import Sequence
from itertools import combinations
from typing import Any

import numpy as np
import pandas as pd
from numpy.typing import NDArray

from ttame.errors import TTameError, require
from ttame.evaluation.confidence import higher_is_better
from ttame.evaluation.intervals import RESAMPLES, bootstrap, verdict

BLIND = ("random", "all ones", "centre Gaussian", "Fake-CAM")  # in `ttame.methods.METHODS`
GAP = "ROAD gap"


def add_gap(long: pd.DataFrame) -> pd.DataFrame:
    """Add ROAD's two orders as one score, `"ROAD gap"`: LeRF minus MoRF, per photo.

    A map that ranks nothing removes the same pixels in both orders, and gets about zero.

    Args:
        long: `ttame.evaluation.tables.scores`.

    Returns:
        The same rows, and one per photo and method that has both orders.
    """
    keys = ["photo", "method"]
    least, most = (
        long[long["score"] == name].set_index(keys)["value"] for name in ("ROAD LeRF", "ROAD MoRF")
    )
    gap = (least - most).dropna().reset_index().assign(score=GAP)
    return pd.concat([long, gap], ignore_index=True)


def blind_margins(
    long: pd.DataFrame, blind: Sequence[str] = BLIND, resamples: int = RESAMPLES, seed: int = 0
) -> pd.DataFrame:
    """Hold the best blind map against the best method that looks, score by score.

    Args:
        long: `ttame.evaluation.tables.scores`; per score, all methods on the same photos.
        blind: Methods that look at neither photo nor class.
        resamples: Bootstrap resamples.
        seed: Bootstrap seed.

    Returns:
        One row per score, in the index: `blind`, the blind method with the best mean; its `rank`
        among all `methods` (1 is best); `behind`, how many of the `looking` methods have a worse
        mean; `best`, the method that looks with the best mean; the mean paired `difference` of the
        two, blind minus best (percentage points), with its 95 % bootstrap interval over photos,
        `low` and `high`; and the `verdict` on the blind map: `"better"`, `"worse"` or `"open"`.

    Raises:
        TTameError: If a score lacks a blind or a looking method, or methods saw other photos.
    """
    rows = {}
    for score, values in _values(long).items():
        oriented = _sign(score) * values.mean()
        looks = ~oriented.index.isin(list(blind))
        if looks.all() or not looks.any():
            raise TTameError(
                f"{score} needs a blind method ({', '.join(blind)}) and one that looks; there are "
                f"{', '.join(map(str, values))}"
            )
        first, best = str(oriented[~looks].idxmax()), str(oriented[looks].idxmax())
        found = bootstrap((values[first] - values[best]).to_numpy(), resamples, seed)
        rows[score] = {
            "blind": first,
            "rank": int((oriented > oriented[first]).sum()) + 1,
            "methods": len(oriented),
            "behind": int((oriented[looks] < oriented[first]).sum()),
            "looking": int(looks.sum()),
            "best": best,
            "difference": found.mean,
            "low": found.low,
            "high": found.high,
            "verdict": verdict(score, found),
        }
    return pd.DataFrame.from_dict(rows, orient="index")


def unwinnable(*margins: pd.DataFrame) -> list[str]:
    """Name the scores that no blind map wins or ties: its verdict is `"worse"` in every table.

    Args:
        margins: `blind_margins`, one table per set of photos or classifier.

    Returns:
        Scores in the order in which the tables have them first.
    """
    every = pd.concat([table["verdict"].rename_axis("score").reset_index() for table in margins])
    lost = (every["verdict"] == "worse").groupby(every["score"], sort=False).all()
    return list(lost.index[lost])


def rank_agreement(long: pd.DataFrame, resamples: int = RESAMPLES, seed: int = 0) -> pd.DataFrame:
    """Correlate the rankings of methods by each pair of scores (Spearman, better first).

    Scores on the same photos are resampled together; those on other photos by themselves.

    Args:
        long: `ttame.evaluation.tables.scores`; per score, all methods on the same photos. Leave
            out blind maps: being far from all others, they alone make scores agree.
        resamples: Bootstrap resamples.
        seed: Bootstrap seed.

    Returns:
        One row per pair of scores, `first` and `second`: `correlation` in [-1, 1], positive where
        the scores agree which method is better; the bounds of its 95 % bootstrap interval over
        photos, `low` and `high`; and the number of `methods` that have both scores.

    Raises:
        TTameError: If two scores share fewer than three methods, or methods saw other photos.
    """
    found = _values(long)
    draws: dict[tuple[str, ...], NDArray[np.float64]] = {}
    for values in found.values():
        photos = tuple(values.index)
        if photos not in draws:
            generator = np.random.default_rng([seed, len(draws)])
            count = len(photos)
            drawn = generator.multinomial(count, np.full(count, 1 / count), size=resamples) / count
            draws[photos] = np.vstack([np.full(count, 1 / count), drawn])  # all photos first
    rows: list[tuple[Any, ...]] = []
    for first, second in combinations(found, 2):
        methods = found[first].columns.intersection(found[second].columns)
        if len(methods) < 3:
            raise TTameError(
                f"{first!r} and {second!r} share {len(methods)} methods; ranks need three or more"
            )
        one, other = (
            _sign(score) * draws[tuple(found[score].index)] @ found[score][methods].to_numpy()
            for score in (first, second)
        )
        correlations = _spearman(one, other)
        low, high = np.percentile(correlations[1:], [2.5, 97.5])
        rows.append((first, second, correlations[0], low, high, len(methods)))
    return pd.DataFrame(rows, columns=["first", "second", "correlation", "low", "high", "methods"])


def mean_ranks(means: pd.DataFrame) -> pd.Series[float]:
    """Average each method's places over scores, from 0, best by all, to 1, worst by all.

    Args:
        means: One row per method, one column per score; a score that a method lacks (NaN) does
            not count for it.

    Returns:
        By method, best first.
    """
    signed = means * [_sign(str(score)) for score in means]
    places = signed.rank(ascending=False) - 1
    mean: pd.Series[float] = (places / (signed.notna().sum() - 1)).mean(axis=1)
    return mean.sort_values(kind="stable")


def _values(long: pd.DataFrame) -> dict[str, pd.DataFrame]:
    """Return the values of each score, one row per photo, one column per method."""
    found = {}
    for score, group in long.groupby("score", sort=False):
        wide = group.pivot_table(index="photo", columns="method", values="value", sort=False)
        lacking = wide.columns[wide.isna().any()]
        if len(lacking):
            raise TTameError(
                f"{score}: {lacking[0]!r} was not measured on all {len(wide)} photos; keep the "
                "photos that every method saw"
            )
        found[str(score)] = wide
    return found


def _sign(score: str) -> int:
    return 1 if higher_is_better(score) else -1


def _spearman(first: NDArray[Any], second: NDArray[Any]) -> NDArray[np.float64]:
    """Correlate the ranks of each row, `(R, M)` and `(R, M)` to `(R,)`; 0 where all are equal."""
    require("evaluate", "scipy")
    from scipy.stats import rankdata

    ranks = (rankdata(values, axis=1) for values in (first, second))
    one, other = (value - value.mean(axis=1, keepdims=True) for value in ranks)
    scale = np.sqrt((one**2).sum(axis=1) * (other**2).sum(axis=1))
    return np.asarray((one * other).sum(axis=1) / np.where(scale > 0, scale, 1))
