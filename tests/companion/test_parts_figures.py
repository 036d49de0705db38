"""Pictures of drawings without their parts."""

from __future__ import annotations

import re

import pandas as pd
import torch

import ttame
from ttame.classifiers.drawn import PARTS
from ttame.companion.figures.parts import plot_part_scores, plot_removals
from ttame.companion.shipped import reference
from ttame.evaluation.drawings import drawing
from ttame.evaluation.parts import part_intervals
from ttame.evaluation.removal import removal_effects
from ttame.records import read_results


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
        assert (
            abs(float(re.findall(r"[+-][\d.]+$", title.replace("\N{MINUS SIGN}", "-"))[0]) + drop)
            <= 0.005 + 1e-9
        )
    assert "no clutter" in titles[len(PARTS) + 1]


def test_scores_are_drawn_with_their_intervals() -> None:
    rows = [
        ("T-TAME", "energy", 60.0, 55.0, 65.0, 9), ("T-TAME", "pointing", 90.0, 80.0, 95.0, 9),
        ("random", "energy", 20.0, 19.0, 21.0, 9), ("random", "pointing", 14.0, 9.0, 19.0, 9),
    ]  # fmt: skip
    table = pd.DataFrame(rows, columns=["method", "score", "mean", "low", "high", "photos"])
    figure = plot_part_scores(table)
    energy = figure.axes[0]
    assert [axis.get_title() for axis in figure.axes] == ["energy", "pointing"]
    assert [label.get_text() for label in energy.get_yticklabels()] == ["T-TAME", "random"]
    assert [dot.get_xdata()[0] for dot in energy.lines] == [60.0, 20.0]
    ends = [[float(x) for x in line.get_segments()[0][:, 0]] for line in energy.collections]
    assert ends == [[55.0, 65.0], [19.0, 21.0]]
    assert [dot.get_markerfacecolor() == "white" for dot in energy.lines] == [False, True]
    assert "energy: T-TAME 60.00, random 20.00" in figure.alt


# What the chapter says in words


def test_what_the_chapter_says_of_the_scores_holds() -> None:
    table = part_intervals(read_results(reference("drawn_val_parts.jsonl"))[1])
    means = table.pivot(index="score", columns="method", values="mean")
    blind = ["random", "all ones", "centre Gaussian"]
    looking = means.drop(columns=blind)
    for score in ("part correlation", "pair correlation", "target sensitivity"):
        assert looking.loc[score].idxmax() == "RISE"
    for score in ("background independence", "pointing", "energy"):
        assert looking.loc[score].idxmax() == "T-TAME"
    # Better than chance, and far from perfect.
    assert looking.loc[["part correlation", "pair correlation"]].stack().between(0.1, 0.5).all()
    # The centre is a good guess in two of the measures, and none in the others.
    assert means.loc[["pointing", "background independence"], "centre Gaussian"].min() > 70
    assert means.loc[["part correlation", "pair correlation"], blind].abs().max(axis=None) < 0.1
    assert (means.loc["target sensitivity", blind] == 50).all()
