"""Budgets of passes: more are counted, and the unrefined map scores as the evaluation does."""

from __future__ import annotations

import pytest
import torch

from benchmarks.refinement import BUDGETS, measure_budgets
from ttame.data import PhotoDataset, PhotoList
from ttame.evaluation.confidence import average_drop, masked_probabilities
from ttame.explainer import Explainer
from ttame.methods import build


def test_every_budget_is_scored_and_compared(explainer: Explainer, photos: PhotoList) -> None:
    explainer.eval()
    budgets = {"T-TAME (refined)": ("steps", (0, 3)), "RISE": ("masks", (2, 5))}
    seen: list[tuple[int, int]] = []
    rows = measure_budgets(
        explainer, photos, budgets, lambda done, total: seen.append((done, total))
    )
    assert seen[-1] == (len(photos), len(photos))
    by = {(row["method"], row["budget"], row["score"]): row for row in rows}
    assert len(by) == len(rows) == 4 * 6
    plain, refined = by["T-TAME (refined)", 0, "AD 100%"], by["T-TAME (refined)", 3, "AD 100%"]
    assert (plain["forward"], plain["backward"]) == (1, 0)
    assert (refined["forward"], refined["backward"]) == (4, 3)
    assert by["RISE", 5, "AD 100%"]["forward"] == 5

    dataset = PhotoDataset(photos, explainer.spec)
    images = torch.stack([dataset[index][0] for index in range(len(dataset))])
    with torch.no_grad():
        logits, targets, maps = explainer(images)
    whole = logits.softmax(dim=1).gather(1, targets)[:, 0]
    kept = masked_probabilities(explainer.classifier, explainer.spec, images, maps, targets[:, 0])
    expected = float(average_drop(whole, kept[:, 0]).mean())
    assert plain["mean"] == pytest.approx(expected, abs=0.01)
    rival = by["RISE", 5, "AD 100%"]
    assert refined["difference from RISE"] == pytest.approx(
        refined["mean"] - rival["mean"], abs=0.01
    )
    assert "difference from RISE" not in rival


def test_the_methods_have_the_settings_that_are_their_budgets(explainer: Explainer) -> None:
    for name, (setting, values) in BUDGETS.items():
        for value in values:
            build(name, explainer.eval(), {setting: value})
