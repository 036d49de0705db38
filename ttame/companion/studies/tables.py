"""Tables of studies: scores of variants, axes, intervals and paired differences."""

from __future__ import annotations

from collections.abc import Sequence

import pandas as pd

from ttame.companion.studies.variants import Variant
from ttame.errors import TTameError
from ttame.evaluation.comparison import paired_differences
from ttame.evaluation.intervals import bootstrap, verdict
from ttame.evaluation.tables import per_sample

_SCORES = [f"{metric} {share}%" for metric in ("AD", "IC") for share in (100, 50, 15)]


def study_table(variants: Sequence[Variant]) -> pd.DataFrame:
    """List the variants of a study: name and what differs from the default, by axis."""
    rows = [(row.axis, row.name, row.changes) for row in variants]
    return pd.DataFrame(rows, columns=["axis", "variant", "what differs"]).set_index("axis")


def run_scores(runs: pd.DataFrame) -> pd.DataFrame:
    """Compute AD and IC of every run and photo, in long form.

    Args:
        runs: `ttame.companion.studies.records.read_runs`.

    Returns:
        Columns photo, method (what the variant changes), seed, shown, metric, percentage, score
        (such as `"AD 50%"`) and value (percent).
    """
    facts = runs.drop_duplicates("run").set_index("run")[["changes", "seed", "shown"]]
    long = per_sample(runs.assign(method=runs["run"]))
    long = long[long["metric"] != "AG"].join(facts, on="method")
    long["score"] = long["metric"] + " " + long["percentage"].astype(str) + "%"
    return long.drop(columns="method").rename(columns={"changes": "method"})


def axis_runs(long: pd.DataFrame, variants: Sequence[Variant], axis: str) -> pd.DataFrame:
    """Select the rows of one axis, under its variants' names; variants without a run are left out.

    Args:
        long: `run_scores`, or another table with a column `method` of variants' changes.
        variants: Rows of the study.
        axis: Name of the axis.

    Returns:
        Those rows, in the study's order.

    Raises:
        TTameError: If the study has no such axis, or no record of its runs.
    """
    names = {row.changes: row.name for row in variants if row.axis == axis}
    if not names:
        axes = dict.fromkeys(row.axis for row in variants)
        raise TTameError(f"the study has no axis {axis!r}, only {', '.join(axes)}")
    found = pd.concat(
        [long[long["method"] == changes].assign(method=name) for changes, name in names.items()],
        ignore_index=True,
    )
    if found.empty:
        raise TTameError(f"no run of the axis {axis!r} is there; `ttame study` makes them")
    return found


def mean_scores(long: pd.DataFrame) -> pd.DataFrame:
    """Average scores over photos and seeds, percent, one row per method in order of appearance."""
    table = long.pivot_table(index="method", columns="score", values="value", aggfunc="mean")
    table = table.loc[list(dict.fromkeys(long["method"])), _SCORES]
    table["runs"] = long.groupby("method")[["seed", "shown"]].apply(
        lambda rows: len(rows.drop_duplicates())
    )
    table.columns.name = None
    return table


def split_by_sight(long: pd.DataFrame) -> pd.DataFrame:
    """Add a column `sight`: whether training showed the photo's class, `"seen"` or `"unseen"`.

    The class of each photo is seen by one of a variant's two runs, and unseen by the other.
    Variants without both runs are left out.

    Args:
        long: `run_scores` of runs that were shown even or odd classes. A photo's class is its
            folder.

    Raises:
        TTameError: If a run was shown all classes.
    """
    if not set(long["shown"]) <= {"even", "odd"}:
        raise TTameError("classes are seen or unseen only where training was shown half of them")
    halves = long.groupby("method")["shown"].transform("nunique")
    long = long[halves == 2]
    folders = long["photo"].str.partition("/")[0]
    places = {name: place for place, name in enumerate(sorted(folders.unique()))}
    parity = folders.map(places).mod(2).map({0: "even", 1: "odd"})
    sight = (parity == long["shown"]).map({True: "seen", False: "unseen"})
    return long.assign(sight=sight)


def sight_gap(split: pd.DataFrame) -> pd.DataFrame:
    """Compare unseen with seen classes photo by photo, for every variant and score.

    Args:
        split: `split_by_sight`.

    Returns:
        One row per variant (`against`) and score: the means `seen` and `unseen`, percent, and the
        columns of `ttame.evaluation.comparison.paired_differences`, unseen minus seen.
    """
    pieces = []
    for method, rows in split.groupby("method", sort=False):
        both = paired_differences(rows.assign(method=rows["sight"]), "unseen")
        means = rows.groupby(["score", "sight"])["value"].mean().unstack()
        pieces.append(both.assign(against=method).join(means, on="score"))
    return pd.concat(pieces, ignore_index=True)


def seed_intervals(long: pd.DataFrame, resamples: int = 1000, seed: int = 0) -> pd.DataFrame:
    """Average every method and score, with 95 % intervals over photos and seeds.

    Args:
        long: Columns photo, method, seed, score and value; all seeds of a method share photos.
        resamples: Number of bootstrap resamples.
        seed: Bootstrap seed.

    Returns:
        Columns method, score, mean, low, high, seeds, in order of appearance.
    """
    rows = []
    for (method, score), group in long.groupby(["method", "score"], sort=False):
        values = group.pivot_table(index="photo", columns="seed", values="value").to_numpy()
        rows.append((method, score, *bootstrap(values, resamples, seed), values.shape[1]))
    return pd.DataFrame(rows, columns=["method", "score", "mean", "low", "high", "seeds"])


def combined(long: pd.DataFrame) -> pd.DataFrame:
    """Combine the scores of each photo: IC - AD, averaged over the percentages.

    Args:
        long: `run_scores`, or part of it.

    Returns:
        Columns photo, method, seed, shown, score (`"IC - AD"`) and value (percentage points).
    """
    signed = long.assign(value=long["value"].where(long["metric"] == "IC", -long["value"]))
    keys = ["photo", "method", "seed", "shown"]
    total = signed.groupby(keys, sort=False)["value"].sum() / signed["percentage"].nunique()
    return total.reset_index().assign(score="IC - AD")


def differences(
    long: pd.DataFrame, method: str, other: str, resamples: int = 1000, seed: int = 0
) -> pd.DataFrame:
    """Compare two methods photo by photo and seed by seed.

    Args:
        long: Columns photo, method, seed, score and value.
        method: Name of a method.
        other: Name of the method to subtract.
        resamples: Number of bootstrap resamples.
        seed: Bootstrap seed.

    Returns:
        One row per score: score, difference, low, high, seeds and verdict, which is `"better"` or
        `"worse"` where the 95 % interval excludes zero, else `"open"`.

    Raises:
        TTameError: If the two have no seed in common.
    """
    rows = []
    for score, group in long.groupby("score", sort=False):
        first, second = (
            group[group["method"] == name].pivot_table(
                index="photo", columns="seed", values="value"
            )
            for name in (method, other)
        )
        values = (first - second).dropna(axis=1, how="all").to_numpy()
        if not values.size:
            raise TTameError(f"{method!r} and {other!r} have no seed in common")
        found = bootstrap(values, resamples, seed)
        rows.append((score, *found, values.shape[1], verdict(str(score), found)))
    return pd.DataFrame(rows, columns=["score", "difference", "low", "high", "seeds", "verdict"])
