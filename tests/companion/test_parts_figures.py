"""Pictures of drawings without their parts."""

from __future__ import annotations

import re

import torch

import ttame
from ttame.classifiers.drawn import PARTS
from ttame.companion.figures.parts import plot_removals
from ttame.evaluation.drawings import drawing
from ttame.evaluation.removal import removal_effects


def test_titles_say_what_each_removal_takes() -> None:
    torch.manual_seed(0)
    explainer = ttame.attach("drawn_cnn", pretrained=False)
    found = drawing("val", 3)
    figure = plot_removals(explainer, [found, drawing("val", 4)])
    assert len(figure.axes) == 2 * (len(PARTS) + 2)
    titles = [axis.get_title() for axis in figure.axes]
    assert titles[0] == explainer.classes[found.label]
    drops = removal_effects(explainer, found, found.label, 0)["importance"].tolist()
    for part, title, drop in zip(PARTS, titles[1:], drops, strict=False):
        assert title.startswith(f"no {part}\n")
        assert abs(float(re.findall(r"[+-][\d.]+$", title)[0]) + drop) <= 0.005 + 1e-9
    assert "no clutter" in titles[len(PARTS) + 1]
