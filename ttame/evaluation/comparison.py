"""One method against another on the same photos: paired differences with intervals."""

from __future__ import annotations

from collections.abc import Iterable

import numpy as np
import pandas as pd

from ttame.errors import TTameError, require
from ttame.evaluation.intervals import RESAMPLES, bootstrap, verdict


def paired_differences(
    long: pd.DataFrame, method: str = "T-TAME", resamples: int = RESAMPLES, seed: int = 0
) -> pd.DataFrame:
    """Mean difference `method` minus each other method, photo by photo.

    Args:
        long: `ttame.evaluation.tables.scores`: one row per photo, method and score.
        method: The method that is compared with all others.
        resamples: Bootstrap resamples.
        seed: Bootstrap seed.

    Returns:
        One row per score and other method: mean difference (percentage points), the bounds of its
        95 % bootstrap interval over photos (percentile method), the p-value of Wilcoxon's
        signed-rank test (1 where every difference is zero), the photos, and the verdict:
        `"better"` or `"worse"` where the interval leaves zero out, else `"open"`.

    Raises:
        TTameError: If `method` was not measured, or not on all photos of another method, or
            there is no other.
    """
    require("evaluate", "scipy")
    from scipy.stats import wilcoxon

    methods = list(dict.fromkeys(long["method"]))
    if method not in methods:
        raise TTameError(f"{method!r} was not measured; there are {', '.join(methods)}")
    if len(methods) < 2:
        raise TTameError(f"only {method!r} was measured; there is nothing to compare it with")
    rows = []
    for score, group in long.groupby("score", sort=False):
        wide = group.pivot_table(index="photo", columns="method", values="value")
        for other in (name for name in wide.columns if name != method):
            pairs = wide.reindex(columns=[method, other]).dropna(subset=[other])
            if bool(pairs[method].isna().any()):
                raise TTameError(f"{score}: {other!r} saw photos that {method!r} did not")
            difference = (pairs[method] - pairs[other]).to_numpy()
            found = bootstrap(difference, resamples, seed)
            p = float(wilcoxon(difference).pvalue) if np.any(difference) else 1.0
            judged = verdict(str(score), found)
            rows.append((score, other, *found, p, len(difference), judged))
    columns = ["score", "against", "difference", "low", "high", "p", "photos", "verdict"]
    table = pd.DataFrame(rows, columns=columns)
    order = table["against"].map(methods.index).sort_values(kind="stable").index
    return table.loc[order].reset_index(drop=True)


def in_words(differences: pd.DataFrame, method: str = "T-TAME") -> str:
    """Write the verdicts of `paired_differences` as a Markdown list, one item per other method.

    Args:
        differences: With columns `against`, `score` and `verdict`.
        method: What the differences are of.
    """
    said = {
        "better": "**better** by",
        "worse": "**worse** by",
        "open": "**no difference** is shown by",
    }
    lines = [f"{method} is", ""]
    for other, found in differences.groupby("against", sort=False):
        by = found.groupby("verdict")["score"].agg(_listed)
        parts = [f"{words} {by[name]}" for name, words in said.items() if name in by]
        lines.append(f"- compared with {other}: {'; '.join(parts)}")
    return "\n".join(lines)


def in_short(differences: pd.DataFrame, method: str = "T-TAME") -> str:
    """Write the verdicts of `paired_differences` in one or two sentences.

    Comparisons are counted; only those in which `method` is worse are named.

    Args:
        differences: With columns `against`, `score` and `verdict`, one row per comparison.
        method: What the differences are of.
    """
    counts = differences["verdict"].value_counts().reindex(["better", "worse", "open"])
    better, worse, unclear = counts.fillna(0).astype(int)
    text = f"{method} is better in {better} of {len(differences)} comparisons, worse in "
    text += f"{worse or 'none'}"
    text += f"; in {unclear}, no difference is shown." if unclear else "."
    behind = differences[differences["verdict"] == "worse"]
    by = behind.groupby("against", sort=False)["score"].agg(_listed)
    named = [f"{_listed(found.index)} by {scores}" for scores, found in by.groupby(by, sort=False)]
    return f"{text} It is worse than {'; '.join(named)}." if named else text


def _listed(names: Iterable[str]) -> str:
    """Join names by commas, the last by "and"."""
    return " and ".join(", ".join(names).rsplit(", ", 1))
