"""Pictures of drawings without one of their parts, and charts of how well maps foretell that."""

from __future__ import annotations

from collections.abc import Sequence

import pandas as pd
from matplotlib.figure import Figure
from torchvision.transforms.v2.functional import pil_to_tensor

from ttame.classifiers.drawn import PARTS, nearest_classes
from ttame.companion.figures.panels import COLORS, caption, listed, name_lines, panels
from ttame.evaluation.agreement import BLIND
from ttame.evaluation.drawings import Drawing
from ttame.evaluation.removal import removal_effects
from ttame.explainer import Explainer
from ttame.plotting import LETTERING, PAGE_WIDTH, plot_grid

_CELL = 1.6  # inches per picture
_PANELS = 3  # charts side by side


def plot_removals(explainer: Explainer, drawings: Sequence[Drawing]) -> Figure:
    """Plot drawings in rows: whole, without each part, and without clutter.

    Each picture is titled with what the removal takes from the logit of the drawing's class.

    Args:
        explainer: Explainer on a classifier of the drawn creatures.
        drawings: Drawings.
    """
    rows = []
    for found in drawings:
        effects = removal_effects(explainer, found, found.label, nearest_classes(found.label)[0])
        clutter = [layer.name for layer in found.layers if layer.name.startswith("clutter")]
        changes = dict(zip(PARTS, (-effects["importance"]).tolist(), strict=True))
        changes["clutter"] = -float(effects["background"])
        titles = [f"no {name}\n{change:+.2f}".replace("-", "\N{MINUS SIGN}")
                  for name, change in changes.items()]  # fmt: skip
        titles = [explainer.classes[found.label], *titles]
        removed = [(), *((part,) for part in PARTS), clutter]
        rows.append(
            [(title, pil_to_tensor(found.render(names)).float() / 255)
             for title, names in zip(titles, removed, strict=True)]
        )  # fmt: skip
    what = "Drawings, whole, without each part and without clutter, with the change of the logit"
    return plot_grid(rows, cell=_CELL, what=what)


def plot_part_scores(table: pd.DataFrame, method: str = "T-TAME") -> Figure:
    """Plot mean scores with their intervals, one panel per score and one line per method.

    The method to compare is drawn in colour, maps that look at nothing as hollow dots.

    Args:
        table: Of `ttame.evaluation.parts.part_intervals`.
        method: The method to draw in colour.
    """
    scores, methods = list(dict.fromkeys(table["score"])), list(dict.fromkeys(table["method"]))
    alt = describe_part_scores(table)
    size = (PAGE_WIDTH, -(-len(scores) // _PANELS) * (0.2 * len(methods) + 0.7))
    figure, axes = panels(len(scores), size, alt, columns=_PANELS, sharey=True)
    for axis, score in zip(axes, scores, strict=True):
        rows = table[table["score"] == score].set_index("method").loc[methods]
        for line, (name, row) in enumerate(rows.iterrows()):
            color = COLORS[0] if name == method else "0.35"
            axis.hlines(line, row["low"], row["high"], color=color, linewidth=1.5)
            face = "white" if name in BLIND else color
            axis.plot(row["mean"], line, "o", color=color, markerfacecolor=face, markersize=5)
        caption(axis, score)
        name_lines(axis, methods, size=LETTERING)
    return figure


def describe_part_scores(table: pd.DataFrame) -> str:
    """Describe the means of every score in words.

    Args:
        table: Of `ttame.evaluation.parts.part_intervals`.
    """
    lines = [f"{score}: {listed(rows.set_index('method')['mean'], 2)}"
             for score, rows in table.groupby("score", sort=False)]  # fmt: skip
    return f"Mean scores of methods, with 95 % intervals. {'; '.join(lines)}."
