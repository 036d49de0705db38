"""Tables of studies: scores of every run and photo, axes, and classes seen against unseen."""

from __future__ import annotations

from collections.abc import Sequence

import pandas as pd

from ttame.comparison import paired_differences
from ttame.errors import TTameError
from ttame.tables import per_sample
from ttame.variants import Variant, select_axis

_SCORES = [f"{metric} {share}%" for metric in ("AD", "IC") for share in (100, 50, 15)]


def run_scores(runs: pd.DataFrame) -> pd.DataFrame:
    """AD and IC of every run and photo, in long form.

    Args:
        runs: `ttame.study.read_runs`.

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
    """The scores of one axis under its variants' names; variants that were not run are left out.

    Args:
        long: `run_scores`, or a table with a column `method` that holds the variants' changes.
        variants: The study.
        axis: One of its axes.

    Raises:
        TTameError: If the study has no such axis, or none of its runs is there.
    """
    found = select_axis(long, variants, axis)
    if found.empty:
        raise TTameError(f"no run of the axis {axis!r} is there; `ttame study` makes them")
    return found


def mean_scores(long: pd.DataFrame) -> pd.DataFrame:
    """Means over photos and seeds, percent, a method a row, in the order of appearance."""
    table = long.pivot_table(index="method", columns="score", values="value", aggfunc="mean")
    table = table.loc[list(dict.fromkeys(long["method"])), _SCORES]
    table["runs"] = long.groupby("method")[["seed", "shown"]].apply(
        lambda rows: len(rows.drop_duplicates())
    )
    table.columns.name = None
    return table


def split_by_sight(long: pd.DataFrame) -> pd.DataFrame:
    """Scores with a column `sight`: whether training showed photos of the photo's class.

    Every photo is seen by one of a variant's two runs, and unseen by the other. Variants of which
    one of the two is missing are left out.

    Args:
        long: `run_scores` of runs that were shown the classes of even or of odd place. The class
            of a photo is the folder that it lies in.

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
    """Unseen minus seen, photo by photo, for every variant and score.

    Args:
        split: `split_by_sight`.

    Returns:
        A row a variant (`against`) and score: means of seen and unseen (percent), and columns of
        `ttame.comparison.paired_differences`: `"worse"` says that unseen classes are.
    """
    pieces = []
    for method, rows in split.groupby("method", sort=False):
        both = paired_differences(rows.assign(method=rows["sight"]), "unseen")
        means = rows.groupby(["score", "sight"])["value"].mean().unstack()
        pieces.append(both.assign(against=method).join(means, on="score"))
    return pd.concat(pieces, ignore_index=True)
