"""Transfer: a classifier scores its own maps as the evaluation does; others are checked."""

from __future__ import annotations

from dataclasses import replace

import pytest
import torch

from benchmarks.transfer import measure_transfer
from ttame.classifiers.registry import Backbone
from ttame.data import PhotoDataset, PhotoList
from ttame.errors import TTameError
from ttame.evaluation.confidence import average_drop, masked_probabilities
from ttame.explainer import Explainer


def test_the_own_classifier_scores_as_the_evaluation_does(
    explainer: Explainer, photos: PhotoList
) -> None:
    explainer.eval()
    scorer = Backbone(explainer.spec, explainer.classifier)
    rows = measure_transfer(explainer, [scorer], photos, steps=3)
    assert [row["score"] for row in rows] == [
        f"{score} {share}%" for share in (100, 50, 15) for score in ("AD", "IC")
    ]
    dataset = PhotoDataset(photos, explainer.spec)
    images = torch.stack([dataset[index][0] for index in range(len(dataset))])
    with torch.no_grad():
        logits, targets, maps = explainer(images)
    whole = logits.softmax(dim=1).gather(1, targets)[:, 0]
    kept = masked_probabilities(explainer.classifier, explainer.spec, images, maps, targets[:, 0])
    assert rows[0]["plain"] == pytest.approx(
        float(average_drop(whole, kept[:, 0]).mean()), abs=0.01
    )
    for row in rows:
        assert row["difference"] == pytest.approx(row["refined"] - row["plain"], abs=0.01)
        assert row["low"] <= row["difference"] <= row["high"] and row["photos"] == len(photos)


def test_other_classes_are_refused(explainer: Explainer, photos: PhotoList) -> None:
    other = replace(explainer.spec, name="other", classes=("one", "two"))
    with pytest.raises(TTameError, match="other has other classes than"):
        measure_transfer(explainer, [Backbone(other, explainer.classifier)], photos)
