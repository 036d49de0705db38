"""Charts of what a budget buys: scores of methods against passes or minutes of training."""

from __future__ import annotations

from collections.abc import Sequence

import pandas as pd
from matplotlib.figure import Figure

from ttame.companion.figures.panels import COLORS, caption, panels
from ttame.errors import TTameError
from ttame.evaluation.confidence import higher_is_better
from ttame.plotting import LETTERING, PAGE_WIDTH

_MARKERS = "osD^v"
_WIDTH, _HEIGHT = PAGE_WIDTH / 2, 2.7  # inches, of a panel


def plot_budgets(
    table: pd.DataFrame, scores: Sequence[str], unit: str = "passes for one map"
) -> Figure:
    """Plot mean scores against a budget, one panel per score.

    The axis of a budget that spans more than a decade is logarithmic.

    Args:
        table: Columns method, score, budget, and mean, low and high (percent).
        scores: Scores to plot.
        unit: What the budget counts.

    Raises:
        TTameError: If a score is not in the table, or there are more than five methods.
    """
    methods = list(dict.fromkeys(table["method"]))
    missing = [score for score in scores if score not in set(table["score"])]
    if missing or len(methods) > len(_MARKERS):
        raise TTameError(
            f"expected at most {len(_MARKERS)} methods with the scores {', '.join(scores)}; got "
            f"{len(methods)} with {', '.join(dict.fromkeys(table['score']))}"
        )
    size = (_WIDTH * min(len(scores), 2), _HEIGHT * -(-len(scores) // 2))
    figure, axes = panels(len(scores), size, describe_budgets(table, scores, unit), columns=2)
    for axis, score in zip(axes, scores, strict=True):
        found = table[table["score"] == score]
        for index, method in enumerate(methods):
            rows = found[found["method"] == method]
            spent = rows["budget"]
            axis.fill_between(spent, rows["low"], rows["high"], color=COLORS[index], alpha=0.15)
            axis.plot(spent, rows["mean"], f"{_MARKERS[index]}-", color=COLORS[index],
                      markersize=4, linewidth=1.4, label=method)  # fmt: skip
        if table["budget"].max() > 10 * table["budget"].min():
            axis.set_xscale("log")
        axis.xaxis.set_major_formatter("{x:g}")
        axis.grid(alpha=0.3)
        better = "higher" if higher_is_better(score) else "lower"
        caption(axis, f"{score} ({better} is better)", unit, "mean, %")
    figure.legend(*axes[0].get_legend_handles_labels(), loc="outside upper center",
                  ncols=len(methods), frameon=False, fontsize=LETTERING)  # fmt: skip
    return figure


def describe_budgets(table: pd.DataFrame, scores: Sequence[str], unit: str) -> str:
    """List each method's score at its smallest and its largest budget."""
    parts = []
    for score in scores:
        for method, rows in table[table["score"] == score].groupby("method", sort=False):
            ends = rows.iloc[[0, -1]]
            values = [
                f"{row.average:.1f} with {row.budget:.3g}"
                for row in ends.rename(columns={"mean": "average"}).itertuples()
            ]
            parts.append(f"{score}, {method}: {' and '.join(values)} {unit}.")
    return f"Mean scores against {unit}. {' '.join(parts)}"
