"""Charts of training; functions never save or show what they return.

Each `describe_...` returns the alternative text of a figure, with its numbers.
"""

from __future__ import annotations

from collections.abc import Mapping

import pandas as pd
import seaborn as sns
from matplotlib.figure import Figure

from ttame.companion.figures.panels import COLORS, caption, name_lines, panels
from ttame.plotting import LETTERING

_FEW = 12  # points that a line marks one by one


def plot_curves(
    curves: pd.DataFrame, columns: Mapping[str, str], ylabel: str = "", window: int = 1
) -> Figure:
    """Plot logged quantities over training steps, one panel per quantity.

    Args:
        curves: One row per logged step, with a column `step`.
        columns: Titles by column name.
        ylabel: Label of the vertical axes; default: none, for titles that say the unit.
        window: Number of rows to average over; above 1, single values are drawn as points.
    """
    alt = describe_curves(curves, columns, ylabel)
    figure, axes = panels(len(columns), (2.8 * len(columns), 2.6), alt)
    for axis, (column, title) in zip(axes, columns.items(), strict=True):
        known = curves[["step", column]].dropna()
        color, mean = COLORS[0], known.copy()
        if window > 1:
            sns.scatterplot(data=known, x="step", y=column, ax=axis, color=color, s=8, alpha=0.7)
            mean[column] = known[column].rolling(window, center=True, min_periods=1).mean()
        marker = "o" if len(mean) < _FEW else None
        sns.lineplot(data=mean, x="step", y=column, ax=axis, color=color, marker=marker)
        caption(axis, title, "step", ylabel)
    return figure


def plot_learning_rates(table: pd.DataFrame, chosen: float) -> Figure:
    """Plot the loss of a range test over the learning rate.

    Args:
        table: `ttame.training.learning_rate.find_learning_rate`.
        chosen: Learning rate to mark.
    """
    figure, (axis,) = panels(1, (5, 3), describe_rates(table, chosen))
    sns.scatterplot(data=table, x="rate", y="loss", ax=axis, color=COLORS[0], s=14, alpha=0.5)
    sns.lineplot(data=table, x="rate", y="smoothed", ax=axis, color=COLORS[0], label="smoothed")
    axis.axvline(chosen, color=COLORS[1], linestyle="--", label=f"chosen, {chosen:.1e}")
    axis.set(xscale="log", xlabel="learning rate", ylabel="loss of a batch")
    axis.legend(frameon=False)
    return figure


def plot_bars(table: pd.DataFrame, unit: str) -> Figure:
    """Plot numbers as horizontal bars that carry their values, one panel per column.

    Args:
        table: One row per bar, from the top, with its name in the index.
        unit: What the numbers are, such as `"photos per second"`.
    """
    size = (3.2 * table.shape[1] + 1.6, 0.3 * len(table) + 0.8)
    alt = describe_bars(table, unit)
    figure, axes = panels(table.shape[1], size, alt, columns=table.shape[1], sharey=True)
    for axis, (title, values) in zip(axes, table.items(), strict=True):
        bars = axis.barh(range(len(table)), values, color=COLORS[0], height=0.6)
        axis.bar_label(bars, fmt="%.3g", padding=3, fontsize=LETTERING)
        axis.set_xlim(0, 1.18 * values.max())  # room for the values
        caption(axis, str(title), unit)
        name_lines(axis, list(map(str, table.index)), size=LETTERING)
        axis.grid(visible=False)
    return figure


def describe_curves(curves: pd.DataFrame, columns: Mapping[str, str], quantity: str) -> str:
    """Describe where each logged quantity begins and ends."""
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
    what = f", {quantity}" if quantity else ""
    return f"Over training steps{what}: {'; '.join(parts)}."


def describe_bars(table: pd.DataFrame, unit: str) -> str:
    """List the numbers of every column."""
    parts = [f"{title}: {', '.join(f'{name} {value:.3g}' for name, value in values.items())}."
             for title, values in table.items()]  # fmt: skip
    return f"Bars, {unit}. {' '.join(parts)}"


def describe_rates(table: pd.DataFrame, chosen: float) -> str:
    """Describe where the loss is lowest, and the chosen rate."""
    least = table.nsmallest(1, "smoothed").iloc[0]
    return (
        f"Loss of a batch at learning rates from {table['rate'].min():.1e} to "
        f"{table['rate'].max():.1e}; smoothed, it is lowest at {least['rate']:.1e}, with "
        f"{least['smoothed']:.2f}. Marked: the chosen rate, {chosen:.1e}."
    )
