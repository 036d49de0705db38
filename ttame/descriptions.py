"""Descriptions: what a figure shows, in words, with the numbers that it was drawn from.

They become the alternative text of the figure, for those who do not see it.
"""

from __future__ import annotations

from collections.abc import Hashable, Iterable, Mapping, Sequence
from typing import Any

import pandas as pd

from ttame.layers import LayerInfo
from ttame.tables import higher_is_better


def describe_grid(what: str, titles: Sequence[Sequence[str]]) -> str:
    """Titled pictures, row by row.

    Args:
        what: What the pictures are, in a few words.
        titles: The title of each, in rows.
    """
    lines = ["; ".join(" ".join(title.split()) for title in row) for row in titles]
    if len(lines) == 1:
        return f"{what}. From left to right: {lines[0]}."
    rows = [f"Row {number}: {line}." for number, line in enumerate(lines, start=1)]
    return " ".join([f"{what}.", *rows])


def describe_layers(networks: Mapping[str, Sequence[LayerInfo]]) -> str:
    """The layers that were chosen in each network.

    Args:
        networks: Rows of `ttame.layers.list_layers` by title.
    """
    parts = [
        f"{title}: {len(found)} modules, strides {min(row.stride for row in found):g} to "
        f"{max(row.stride for row in found):g}, chosen "
        f"{', '.join(row.name for row in found if row.chosen) or 'none'}"
        for title, found in networks.items()
    ]
    return f"Modules in order of execution against the stride of their maps. {'; '.join(parts)}."


def describe_curves(curves: pd.DataFrame, columns: Mapping[str, str], quantity: str) -> str:
    """Where each logged quantity begins and where it ends.

    Args:
        curves: A row a logged step, with a column `step`.
        columns: Title by column name.
        quantity: What they have in common.
    """
    parts = []
    for column, title in columns.items():
        known = curves[["step", column]].dropna()
        if known.empty:
            parts.append(f"{title}: nothing logged")
            continue
        first, last = known.iloc[0], known.iloc[-1]
        parts.append(
            f"{title} from {first[column]:.3g} at step {first['step']:.0f} to "
            f"{last[column]:.3g} at step {last['step']:.0f}"
        )
    return f"Over training steps, {quantity}: {'; '.join(parts)}."


def describe_rates(table: pd.DataFrame, chosen: float) -> str:
    """The range test: where the loss is lowest, and the rate that was chosen.

    Args:
        table: `ttame.learning_rate.find_learning_rate`.
        chosen: The marked rate.
    """
    least = table.nsmallest(1, "smoothed").iloc[0]
    return (
        f"Loss of a batch at learning rates from {table['rate'].min():.1e} to "
        f"{table['rate'].max():.1e}; smoothed, it is lowest at {least['rate']:.1e}, with "
        f"{least['smoothed']:.2f}. Marked: the chosen rate, {chosen:.1e}."
    )


def describe_metrics(long: pd.DataFrame) -> str:
    """AD and IC of every method at every percentage.

    Args:
        long: `ttame.tables.per_sample`, or the like with a column `method`.
    """
    parts = []
    for metric in ("AD", "IC"):
        rows = long[long["metric"] == metric]
        for percentage in sorted(rows["percentage"].unique(), reverse=True):
            found = rows.loc[rows["percentage"] == percentage]
            means = found.groupby("method", sort=False)["value"].mean()
            parts.append(f"{metric} with {percentage} % retained: {_listed(means)}.")
    return f"Bars of Average Drop and Increase in Confidence, percent. {' '.join(parts)}"


def describe_probabilities(records: pd.DataFrame, percentage: int) -> str:
    """How often each method raises the probability.

    Args:
        records: Records of a results file.
        percentage: Retained pixels, percent.
    """
    rises = records[f"masked_{percentage}"] > records["probability"]
    shares = 100 * rises.groupby(records["method"], sort=False).mean()
    return (
        f"Probability of each photo, whole against masked with {percentage} % retained. Percent "
        f"of photos above the diagonal, where it rises: {_listed(shares)}."
    )


def describe_drops(drops: pd.DataFrame, colored: Sequence[str]) -> str:
    """The median drop of the methods in colour.

    Args:
        drops: Rows of AD of `ttame.tables.per_sample`.
        colored: Methods in colour.
    """
    medians = drops.groupby(["percentage", "method"])["value"].median()
    parts = [
        f"Median with {percentage} % retained: {_listed(medians[percentage][list(colored)])}."
        for percentage in sorted(drops["percentage"].unique(), reverse=True)
    ]
    lines = _lines(drops["method"], colored)
    return f"Share of photos whose drop is at most so large, {lines}. {' '.join(parts)}"


def describe_shares(
    curves: pd.DataFrame,
    titles: Mapping[str, str],
    values: Mapping[str, str],
    colored: Sequence[str],
) -> str:
    """The mean height of each coloured curve over the share of pixels.

    Args:
        curves: `ttame.tables.curves`.
        titles: Title by kind of curve.
        values: Label by quantity.
        colored: Methods in colour.
    """
    means = curves.groupby(["curve", "method"])[list(values)].mean()
    parts = [
        f"Mean height, {title}, {label}: {_listed(means.loc[curve][value][list(colored)])}."
        for value, label in values.items()
        for curve, title in titles.items()
    ]
    return f"Curves over the share of pixels, {_lines(curves['method'], colored)}. " + " ".join(
        parts
    )


def describe_costs(panels: Mapping[str, pd.DataFrame], labels: Mapping[str, str], cost: str) -> str:
    """The best of every score and its cost.

    Args:
        panels: Costs `x` and scores `y` of the methods in the index, by score.
        labels: Label by score.
        cost: What the costs are.
    """
    parts = []
    for score, found in panels.items():
        place = int(found["y"].argmax() if higher_is_better(score) else found["y"].argmin())
        x, y = found["x"].iloc[place], found["y"].iloc[place]
        parts.append(f"{labels[score]}: best {found.index[place]}, {y:.1f}, at a cost of {x:.3g}.")
    count = max(len(found) for found in panels.values())
    return f"{count} methods by cost, {cost}, and by score. {' '.join(parts)}"


def describe_differences(table: pd.DataFrame, method: str, scores: Sequence[str]) -> str:
    """Against how many others a method is better, worse, or not told apart.

    Args:
        table: `ttame.comparison.paired_differences`.
        method: The one that was compared with all others.
        scores: Which are drawn.
    """
    counts = table.groupby("score")["verdict"].value_counts()
    parts = [
        f"{score}: better {counts.get((score, 'better'), 0)}, worse "
        f"{counts.get((score, 'worse'), 0)}, open {counts.get((score, 'open'), 0)}"
        for score in scores
    ]
    return (
        f"Paired differences between {method} and {table['against'].nunique()} others, with "
        f"intervals. Against how many {method} is better, worse, or not told apart (open): "
        f"{'; '.join(parts)}."
    )


def describe_randomization(table: pd.DataFrame) -> str:
    """How alike the maps are when all stages of the sanity check are randomised.

    Args:
        table: `ttame.randomization.sanity_check` with a column `method`.
    """
    last = table[table["stage"] == table["stage"].max()]
    ends = last.groupby("method", sort=False)["correlation"].mean()
    return (
        "Rank correlation of maps with those of the intact classifier while its layers are "
        f"randomised one after another; after the last: {_listed(ends, 2)}."
    )


def describe_axis(table: pd.DataFrame) -> str:
    """The mean of every score and variant of an axis.

    Args:
        table: `ttame.study_comparison.seed_intervals`.
    """
    parts = [
        f"{score}: {_listed(rows.set_index('method')['mean'])}."
        for score, rows in table.groupby("score", sort=False)
    ]
    return f"Means over photos and seeds with intervals, percent. {' '.join(parts)}"


def describe_ranking(table: pd.DataFrame) -> str:
    """Every ranked variant with its difference.

    Args:
        table: `ttame.study_comparison.ranking`.
    """
    parts = [
        f"{row.axis}: {row.variant} {row.difference:+.1f} ({row.verdict})"
        for row in table.itertuples()
    ]
    return (
        f"{len(table)} variants by how much IC less AD differs from the default, percentage "
        f"points, best first: {'; '.join(parts)}."
    )


def _lines(methods: Iterable[Hashable], colored: Sequence[str]) -> str:
    others = len(set(methods)) - len(colored)
    grey = f"; in grey {others} others" if others else ""
    return f"in colour {', '.join(colored)}{grey}"


def _listed(values: pd.Series[Any], digits: int = 1) -> str:
    return ", ".join(f"{name} {value:.{digits}f}" for name, value in values.items())
