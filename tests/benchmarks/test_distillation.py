"""The shipped transformer: its architecture, the objective it learnt by, a run in miniature."""

from __future__ import annotations

import json
import math
from dataclasses import replace
from pathlib import Path
from typing import Any

import pytest
import torch
from safetensors.torch import load_file

from benchmarks.distillation.crops import CachedCrops, cache_crops
from benchmarks.distillation.run import distill
from benchmarks.distillation.training import DistillationConfig, distillation_loss
from ttame.classifiers.hybrid import STEM_END, copy_stem, hybrid_vit
from ttame.classifiers.registry import load_backbone
from ttame.classifiers.weights import weight_digest
from ttame.data import PhotoList
from ttame.errors import TTameError
from ttame.features import FeatureExtractor
from ttame.methods.attention_weights import read_attention

CLASSES = (3, 7, 281)


def test_the_transformer_reads_the_stem_of_its_teacher() -> None:
    teacher = load_backbone("tf_efficientnet_lite0").model
    model = hybrid_vit(3).eval()
    copy_stem(model, teacher)
    images = torch.randn(2, 3, 224, 224)
    with torch.inference_mode():
        (wanted,) = FeatureExtractor(teacher, [STEM_END])(images)[1]
        found = model.get_submodule("patch_embed.backbone")(images)
        assert model(images).shape == (2, 3)
    assert wanted.shape == (2, 80, 14, 14)
    assert torch.allclose(found, wanted, atol=1e-4)  # another memory format
    frozen = [name for name, value in model.named_parameters() if not value.requires_grad]
    assert frozen and all(name.startswith("patch_embed.backbone.") for name in frozen)
    seen = read_attention(model, images, gradients=False)
    assert len(seen.probabilities) == 6 and (seen.prefix, seen.grid) == (1, (14, 14))


def test_the_objective_by_hand() -> None:
    logits, teacher = torch.tensor([[2.0, 0.0]]), torch.tensor([[0.0, 4.0]])
    labels = torch.tensor([[1.0, 0.0]])
    # At T = 2 the student says softmax(1, 0), the teacher softmax(0, 2).
    student = [math.exp(1) / (math.exp(1) + 1), 1 / (math.exp(1) + 1)]
    wanted = [1 / (1 + math.exp(2)), math.exp(2) / (1 + math.exp(2))]
    divergence = sum(w * math.log(w / s) for w, s in zip(wanted, student, strict=True))
    entropy = math.log(1 + math.exp(-2))
    found = distillation_loss(logits, teacher, labels, temperature=2, label_share=0.3)
    assert float(found) == pytest.approx(0.3 * entropy + 0.7 * 4 * divergence, rel=1e-6)


def test_a_student_that_agrees_has_no_soft_loss() -> None:
    logits = torch.randn(4, 5)
    labels = torch.eye(5)[:4]
    assert float(distillation_loss(logits, logits, labels, 3, 0)) == pytest.approx(0, abs=1e-6)


def test_cached_crops_are_those_of_the_photos() -> None:
    maps = torch.arange(6.0).reshape(2, 3, 1, 1, 1)
    crops = CachedCrops(maps, torch.zeros(2, 3, 4), torch.tensor([0, 1, 2]))
    assert len(crops) == 3
    seen = {float(crops[1][0]) for _ in range(50)}
    assert seen == {1.0, 4.0} and int(crops[1][2]) == 1


@pytest.mark.parametrize(
    ("changes", "message"),
    [
        ({"epochs": 0}, "must be positive"),
        ({"crops": 0}, "must be positive"),
        ({"learning_rate": 0.0}, "must be positive"),
        ({"label_share": 1.5}, r"label_share.*1\.5"),
        ({"temperature": 0.0}, "temperature"),
        ({"mixup": -0.1}, "mixup"),
    ],
)
def test_settings_without_meaning_are_refused(changes: dict[str, Any], message: str) -> None:
    with pytest.raises(TTameError, match=message):
        DistillationConfig(**changes)


def test_photos_without_labels_are_refused(photos: PhotoList) -> None:
    teacher = load_backbone("tf_efficientnet_lite0")
    for labels in (None, (5,) * 12):
        with pytest.raises(TTameError, match="no labels among"):
            cache_crops(teacher, replace(photos, labels=labels), CLASSES, augmented=2)


@pytest.mark.slow
def test_a_run_in_miniature(photos: PhotoList, tmp_path: Path) -> None:
    labelled = replace(photos, labels=tuple(CLASSES[i % 3] for i in range(12)))
    config = DistillationConfig(epochs=2, crops=2, batch_size=4, workers=0)
    stages: list[tuple[str, int, int]] = []
    record = distill(
        labelled, labelled, CLASSES, config, tmp_path, name="small",
        progress=lambda stage: lambda done, total: stages.append((stage, done, total)),
    )  # fmt: skip
    assert stages[-1] == ("train crops", 24, 24) and ("val crops", 12, 12) in stages
    written = json.loads((tmp_path / "small.json").read_text())
    assert written["top1"] == record["top1"] and 0 <= record["top1"] <= 100
    assert len([row for row in written["curves"] if row["val/top1"] is not None]) == 2
    state = load_file(tmp_path / "small.safetensors")
    assert {v.dtype for v in state.values() if v.is_floating_point()} == {torch.float16}
    model = hybrid_vit(3)
    model.load_state_dict(state)
    assert weight_digest(model) == record["digest"]
    with pytest.raises(TTameError, match=r"small'.safetensors exists"):
        distill(labelled, labelled, CLASSES, config, tmp_path, name="small")
