"""The training of the shipped classifier of drawn creatures, and what was shipped."""

from __future__ import annotations

import json
import random
from pathlib import Path

import pytest
import torch
from safetensors.torch import load_file

from benchmarks.drawn import DrawnConfig, missing_layers, pixels, top1, train_classifier
from ttame.classifiers.drawn import PARTS, drawn_cnn
from ttame.classifiers.registry import load_backbone
from ttame.classifiers.weights import weight_digest
from ttame.companion.shipped import training_record
from ttame.errors import TTameError
from ttame.evaluation.drawings import CLUTTER, drawing
from ttame.files import shipped


def test_a_tiny_training_leaves_weights_and_a_record(tmp_path: Path) -> None:
    config = DrawnConfig(drawings=16, epochs=2, batch_size=8)
    seen: list[tuple[int, int]] = []
    record = train_classifier(
        config, tmp_path, held_out=10, progress=lambda *step: seen.append(step)
    )
    assert seen == [(1, 4), (2, 4), (3, 4), (4, 4)]
    assert record == json.loads((tmp_path / "drawn_cnn.json").read_text("utf-8"))
    state = load_file(tmp_path / "drawn_cnn.safetensors")
    assert {value.dtype for value in state.values() if value.is_floating_point()} == {torch.half}
    model = drawn_cnn()
    before = {key: value.clone() for key, value in model.state_dict().items()}
    model.load_state_dict(state)
    assert record["digest"] == weight_digest(model)
    moved = model.state_dict()["block1.0.weight"]
    assert not torch.equal(moved, before["block1.0.weight"])
    assert len(record["curves"]) == 2 and record["photos"] == 16
    again = train_classifier(config, tmp_path / "again", held_out=10)
    assert again["digest"] == record["digest"] and again["top1"] == record["top1"]
    with pytest.raises(TTameError, match="exists; choose another folder or name"):
        train_classifier(config, tmp_path)


def test_settings_are_checked() -> None:
    with pytest.raises(TTameError, match="epochs must be at least 1, got 0"):
        DrawnConfig(epochs=0)


def test_one_to_three_parts_are_missing() -> None:
    chance = random.Random(1)
    found = [missing_layers(chance) for _ in range(300)]
    parts = [[name for name in names if name in PARTS] for names in found]
    assert {len(names) for names in parts} == {1, 2, 3}
    assert {name for names in parts for name in names} == set(PARTS)
    clutter = [len(names) - len(some) for names, some in zip(found, parts, strict=True)]
    assert 3.5 < sum(clutter) / 300 < 4.5  # eight coins


def test_top1_by_hand() -> None:
    class Always(torch.nn.Module):
        def forward(self, images: torch.Tensor) -> torch.Tensor:
            return torch.eye(32)[torch.ones(len(images), dtype=torch.int64)]

    found = [drawing("val", index) for index in (1, 2, 33, 65)]
    assert top1(Always(), found, [() for _ in found]) == 75
    assert pixels(found).shape == (4, 3, 96, 96) and pixels(found).dtype == torch.uint8


def test_the_shipped_classifier_is_that_of_its_record() -> None:
    """On 96 drawings, with and without parts; the record's accuracies are those of 500."""
    record = training_record("drawn_cnn", "classifiers")
    backbone = load_backbone("drawn_cnn")
    assert record["digest"] == weight_digest(backbone.model)
    assert record["top1"] > 95
    assert (shipped("classifiers") / "drawn_cnn.safetensors").stat().st_size < 2e6
    found = [drawing("val", index) for index in range(96)]
    assert top1(backbone.model, found, [() for _ in found]) == pytest.approx(record["top1"], abs=3)
    without = [(PARTS[index % 5],) for index in range(96)]
    assert top1(backbone.model, found, without) == pytest.approx(
        record["top1_without_a_part"], abs=6
    )
    assert top1(backbone.model, found, [CLUTTER for _ in found]) > 95
