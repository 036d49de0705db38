"""One method against another on the same photos: paired differences with intervals."""

from __future__ import annotations

import numpy as np
import pandas as pd
from scipy.stats import wilcoxon

from ttame.errors import TTameError
from ttame.evaluation.confidence import higher_is_better


def paired_differences(
    long: pd.DataFrame, method: str = "T-TAME", resamples: int = 2000, seed: int = 0
) -> pd.DataFrame:
    """Mean difference `method` minus each other method, photo by photo.

    Args:
        long: `ttame.evaluation.tables.scores`: a row a photo, method and score.
        method: The method that is compared with all others.
        resamples: Bootstrap resamples of the photos.
        seed: Of the bootstrap.

    Returns:
        A row a score and other method: mean difference (percentage points), the bounds of its
        95 % bootstrap interval over photos (percentile method), the p-value of Wilcoxon's
        signed-rank test (1 where every difference is zero), the photos, and the verdict:
        `"better"` or `"worse"` where the interval leaves zero out, else `"open"`.

    Raises:
        TTameError: If `method` was not measured, or not on all photos of another method, or
            there is no other.
    """
    methods = list(dict.fromkeys(long["method"]))
    if method not in methods:
        raise TTameError(f"{method!r} was not measured; there are {', '.join(methods)}")
    if len(methods) < 2:
        raise TTameError(f"only {method!r} was measured; there is nothing to compare it with")
    generator, rows = np.random.default_rng(seed), []
    for score, group in long.groupby("score", sort=False):
        wide = group.pivot_table(index="photo", columns="method", values="value")
        for other in (name for name in wide.columns if name != method):
            pairs = wide.reindex(columns=[method, other]).dropna(subset=[other])
            if bool(pairs[method].isna().any()):
                raise TTameError(f"{score}: {other!r} saw photos that {method!r} did not")
            difference = (pairs[method] - pairs[other]).to_numpy()
            drawn = generator.integers(len(difference), size=(resamples, len(difference)))
            low, high = np.percentile(difference[drawn].mean(axis=1), [2.5, 97.5])
            sign = 1 if higher_is_better(str(score)) else -1
            better, worse = min(sign * low, sign * high) > 0, max(sign * low, sign * high) < 0
            rows.append(
                {
                    "score": score,
                    "against": other,
                    "difference": difference.mean(),
                    "low": low,
                    "high": high,
                    "p": float(wilcoxon(difference).pvalue) if np.any(difference) else 1.0,
                    "photos": len(difference),
                    "verdict": "better" if better else "worse" if worse else "open",
                }
            )
    table = pd.DataFrame(rows)
    table["against"] = pd.Categorical(
        table["against"], [name for name in methods if name != method]
    )
    return (
        table.sort_values("against", kind="stable").astype({"against": str}).reset_index(drop=True)
    )


def in_words(differences: pd.DataFrame, method: str = "T-TAME") -> str:
    """The verdicts of `paired_differences` as a Markdown list, one item a method compared with.

    Args:
        differences: With columns `against`, `score` and `verdict`.
        method: What the differences are of.
    """
    lines = [f"{method} is", ""]
    for other, found in differences.groupby("against", sort=False):
        on = found.groupby("verdict")["score"].agg(", ".join)
        parts = [f"**{name}** on {on[name]}" for name in ("better", "worse", "open") if name in on]
        lines.append(f"- against {other}: {'; '.join(parts)}")
    return "\n".join(lines)
