"""Pictures of drawings without one of their parts, and what each part is worth."""

from __future__ import annotations

from collections.abc import Sequence

from matplotlib.figure import Figure
from torchvision.transforms.v2.functional import pil_to_tensor

from ttame.classifiers.drawn import PARTS, nearest_classes
from ttame.evaluation.drawings import Drawing
from ttame.evaluation.removal import removal_effects
from ttame.explainer import Explainer
from ttame.plotting import plot_grid

_CELL = 1.6  # inches per picture


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
        titles = [f"no {part}\n{drop:+.2f}" for part, drop in
                  zip(PARTS, (-effects["importance"]).tolist(), strict=True)]  # fmt: skip
        titles = [explainer.classes[found.label], *titles,
                  f"no clutter\n{-float(effects['background']):+.2f}"]  # fmt: skip
        removed = [(), *((part,) for part in PARTS), clutter]
        rows.append(
            [(title, pil_to_tensor(found.render(names)).float() / 255)
             for title, names in zip(titles, removed, strict=True)]
        )  # fmt: skip
    what = "Drawings, whole, without each part and without clutter, with the change of the logit"
    return plot_grid(rows, cell=_CELL, what=what)
