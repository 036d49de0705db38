"""Quality against training time: every length is trained anew, scored and paired with the rival."""

from __future__ import annotations

from pathlib import Path

import pytest
import torch

from benchmarks.quality import measure_quality
from ttame.data import PhotoList
from ttame.evaluation.evaluate import evaluate
from ttame.evaluation.tables import intervals
from ttame.explainer import Explainer
from ttame.records import read_results
from ttame.training.config import TrainingConfig


def test_each_length_is_trained_and_paired_with_the_rival(
    explainer: Explainer, photos: PhotoList, tmp_path: Path
) -> None:
    before = {name: value.clone() for name, value in explainer.mechanism.state_dict().items()}
    config = TrainingConfig.of(batch_size=4, workers=0)
    seen: list[tuple[str, int, int]] = []
    rows = measure_quality(
        explainer, config, photos, [photos], tmp_path, (1, 3), "Grad-CAM",
        lambda *done: seen.append(done),
    )  # fmt: skip
    assert seen == [("training", 1, 2), ("training", 2, 2), ("measuring", 1, 1)]
    assert len(rows) == 2 * 9 and {row["steps"] for row in rows} == {1, 3}
    for name, value in explainer.mechanism.state_dict().items():
        assert torch.equal(value, before[name])

    alone = evaluate(explainer, photos, tmp_path / "alone.jsonl", methods=["Grad-CAM"])
    expected = intervals(read_results(alone)[1]).set_index("score")["mean"]
    for row in rows:
        assert row["rival"] == pytest.approx(expected[row["score"]], abs=1e-3)
        assert row["difference"] == pytest.approx(row["mean"] - row["rival"], abs=2e-3)
        assert row["low"] <= row["mean"] <= row["high"] and row["photos"] == len(photos)
        assert row["minutes"] is not None


def test_minutes_of_a_resumed_run_are_unknown(
    explainer: Explainer, photos: PhotoList, tmp_path: Path
) -> None:
    config = TrainingConfig.of(batch_size=4, workers=0)
    measure_quality(explainer, config, photos, [photos], tmp_path, (2,))
    again = measure_quality(explainer, config, photos, [photos], tmp_path, (2,))
    assert {row["minutes"] for row in again} == {None}
