"""Charts of what passes buy: scores of methods at several budgets."""

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


def plot_budgets(table: pd.DataFrame, scores: Sequence[str]) -> Figure:
    """Plot mean scores against the passes of the classifier, one panel per score.

    Args:
        table: Rows of `python -m benchmarks refinement`: columns method, score, forward and
            backward (passes per photo), and mean, low and high (percent).
        scores: Scores to plot.

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
    figure, axes = panels(len(scores), size, describe_budgets(table, scores), columns=2)
    for axis, score in zip(axes, scores, strict=True):
        found = table[table["score"] == score]
        for index, method in enumerate(methods):
            rows = found[found["method"] == method]
            passes = rows["forward"] + rows["backward"]
            axis.fill_between(passes, rows["low"], rows["high"], color=COLORS[index], alpha=0.15)
            axis.plot(passes, rows["mean"], f"{_MARKERS[index]}-", color=COLORS[index],
                      markersize=4, linewidth=1.4, label=method)  # fmt: skip
        axis.set_xscale("log")
        axis.xaxis.set_major_formatter("{x:g}")
        axis.grid(alpha=0.3)
        better = "higher" if higher_is_better(score) else "lower"
        caption(axis, f"{score} ({better} is better)", "passes for one map", "mean, %")
    figure.legend(*axes[0].get_legend_handles_labels(), loc="outside upper center",
                  ncols=len(methods), frameon=False, fontsize=LETTERING)  # fmt: skip
    return figure


def describe_budgets(table: pd.DataFrame, scores: Sequence[str]) -> str:
    """List each method's score at its smallest and its largest budget."""
    parts = []
    for score in scores:
        for method, rows in table[table["score"] == score].groupby("method", sort=False):
            ends = rows.iloc[[0, -1]]
            values = [
                f"{row.average:.1f} with {row.forward + row.backward:.0f}"
                for row in ends.rename(columns={"mean": "average"}).itertuples()
            ]
            parts.append(f"{score}, {method}: {' and '.join(values)} passes.")
    return f"Mean scores against passes of the classifier. {' '.join(parts)}"
