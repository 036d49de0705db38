"""One method against another on the same photos: paired differences with intervals."""

from __future__ import annotations

import numpy as np
import pandas as pd
from scipy.stats import wilcoxon

from ttame.errors import TTameError


def paired_differences(
    long: pd.DataFrame, method: str = "T-TAME", resamples: int = 2000, seed: int = 0
) -> pd.DataFrame:
    """Mean difference `method` minus each other method, photo by photo.

    Args:
        long: `ttame.evaluation.per_sample`: a row a photo, method, metric and percentage.
        method: The method that is compared with all others.
        resamples: Bootstrap resamples of the photos.
        seed: Of the bootstrap.

    Returns:
        A row a metric, percentage and other method: mean difference (percentage points), the
        bounds of its 95 % bootstrap interval over photos (percentile method), and the p-value
        of Wilcoxon's signed-rank test (1 where every difference is zero).

    Raises:
        TTameError: If `method` was not measured, or a method lacks photos that it has.
    """
    methods = list(dict.fromkeys(long["method"]))
    if method not in methods:
        raise TTameError(f"{method!r} was not measured; there are {', '.join(methods)}")
    generator, rows = np.random.default_rng(seed), []
    for (metric, percentage), group in long.groupby(["metric", "percentage"], sort=False):
        wide = group.pivot_table(index="photo", columns="method", values="value")
        if bool(wide.isna().any(axis=None)):
            raise TTameError(f"{metric} at {percentage} %: not every method saw every photo")
        drawn = generator.integers(len(wide), size=(resamples, len(wide)))
        for other in (name for name in methods if name != method):
            difference = (wide[method] - wide[other]).to_numpy()
            low, high = np.percentile(difference[drawn].mean(axis=1), [2.5, 97.5])
            still = not np.any(difference)
            rows.append(
                {
                    "metric": metric,
                    "percentage": percentage,
                    "against": other,
                    "difference": difference.mean(),
                    "low": low,
                    "high": high,
                    "p": 1.0 if still else float(wilcoxon(difference).pvalue),
                }
            )
    return pd.DataFrame(rows)
