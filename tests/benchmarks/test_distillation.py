"""The shipped transformers: architecture, crops, the ten classes' objective, a small run."""

from __future__ import annotations

import json
import math
from dataclasses import replace
from pathlib import Path
from typing import Any

import pytest
import torch
from safetensors.torch import load_file

from benchmarks.distillation.crops import CachedCrops, cache_crops, choose_classes
from benchmarks.distillation.run import distill
from benchmarks.distillation.training import LabelConfig, distillation_loss, soft_loss
from ttame.classifiers.hybrid import CHANNELS, STEM, copy_stem, hybrid_vit, own_cells
from ttame.classifiers.registry import load_backbone
from ttame.classifiers.weights import weight_digest
from ttame.data import PhotoList
from ttame.errors import TTameError
from ttame.features import FeatureExtractor
from ttame.methods.attention_weights import read_attention

CLASSES = (3, 7, 281)


@pytest.mark.parametrize("stages", sorted(CHANNELS))
def test_the_transformer_reads_the_stem_of_its_teacher(stages: int) -> None:
    teacher = load_backbone("tf_efficientnet_lite0").model
    model = hybrid_vit(3, stages).eval()
    copy_stem(model, teacher)
    images = torch.randn(2, 3, 224, 224)
    with torch.inference_mode():
        (wanted,) = FeatureExtractor(teacher, [f"blocks.{stages - 1}"])(images)[1]
        found = model.get_submodule("patch_embed.backbone")(images)
        assert model(images).shape == (2, 3)
    assert found.shape == (2, CHANNELS[stages], 14, 14)
    assert torch.allclose(own_cells(found, stages), wanted, atol=1e-4)  # another memory format
    frozen = [name for name, value in model.named_parameters() if not value.requires_grad]
    assert frozen and all(name.startswith("patch_embed.backbone.") for name in frozen)
    seen = read_attention(model, images, gradients=False)
    assert len(seen.probabilities) == 6 and (seen.prefix, seen.grid) == (1, (14, 14))


@pytest.mark.parametrize("stages", [3, 8])
def test_a_stem_of_other_cells_is_refused(stages: int) -> None:
    with pytest.raises(TTameError, match=rf"stem of {stages} stages.*\[4, 5, 6, 7\]"):
        hybrid_vit(3, stages)


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
    assert float(soft_loss(logits, teacher, 2)) == pytest.approx(4 * divergence, rel=1e-6)


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
        LabelConfig(**changes)


def test_logits_of_some_classes() -> None:
    logits = torch.arange(12.0).reshape(1, 3, 4)
    crops = CachedCrops(torch.zeros(1, 3, 1, 1, 1), logits, torch.tensor([3, 1, 3]))
    chosen = choose_classes(crops, (1, 3))
    assert chosen.teacher.tolist() == [[[1, 3], [5, 7], [9, 11]]]
    assert chosen.labels.tolist() == [1, 0, 1]
    for labels in ([-1, 1, 3], [0, 1, 3]):
        other = CachedCrops(crops.maps, logits, torch.tensor(labels))
        with pytest.raises(TTameError, match="no labels among"):
            choose_classes(other, (1, 3))


def test_crops_are_computed_once(photos: PhotoList, tmp_path: Path) -> None:
    teacher = load_backbone("tf_efficientnet_lite0")
    wanted = {"stages": 5, "folder": tmp_path / "crops", "batch_size": 5}
    done: list[tuple[int, int]] = []
    crops = cache_crops(
        teacher, photos, **wanted, augmented=2, progress=lambda *count: done.append(count)
    )
    assert done[-1] == (24, 24) and done[0] == (5, 24)
    assert crops.maps.shape == (2, 12, 112, 14, 14) and crops.maps.dtype == torch.float16
    # What lies on disk is what the teacher says, and its logits follow from its maps.
    model: Any = teacher.model
    with torch.inference_mode():
        last = model.blocks[5:](crops.maps[1].float())
        logits = model.forward_head(model.bn2(model.conv_head(last)))
    assert torch.allclose(logits, crops.teacher[1], atol=0.1)  # maps in half precision
    assert not torch.equal(crops.maps[0], crops.maps[1])
    done.clear()
    again = cache_crops(
        teacher, photos, **wanted, augmented=2, progress=lambda *count: done.append(count)
    )
    assert not done and torch.equal(again.maps, crops.maps) and again.made == crops.made
    with pytest.raises(TTameError, match=r"augmented=2, wanted is 3; choose another folder"):
        cache_crops(teacher, photos, **wanted, augmented=3)
    with pytest.raises(TTameError, match="names="):
        cache_crops(teacher, photos.sample(5), **wanted, augmented=2)


def test_crops_follow_the_seed(photos: PhotoList, tmp_path: Path) -> None:
    teacher = load_backbone("tf_efficientnet_lite0")
    before = torch.get_rng_state()
    one, same, other = (
        cache_crops(teacher, photos.sample(3), 4, tmp_path / str(i), augmented=1, seed=s)
        for i, s in enumerate((0, 0, 1))
    )
    assert torch.equal(one.maps, same.maps) and not torch.equal(one.maps, other.maps)
    assert torch.equal(torch.get_rng_state(), before)


@pytest.mark.slow
def test_a_run_in_miniature(photos: PhotoList, tmp_path: Path) -> None:
    labelled = replace(photos, labels=tuple(CLASSES[i % 3] for i in range(12)))
    held_out = replace(labelled, name="held out")
    config = LabelConfig(epochs=2, crops=2, batch_size=4, workers=0)
    stages: list[tuple[str, int, int]] = []
    record = distill(
        labelled, (held_out,), CLASSES, config, tmp_path, name="small",
        progress=lambda stage: lambda done, total: stages.append((stage, done, total)),
    )  # fmt: skip
    assert stages == [
        (f"crops of {labelled.name}", 12, 24),
        (f"crops of {labelled.name}", 24, 24),
        ("crops of held out", 12, 12),
    ]
    written = json.loads((tmp_path / "small.json").read_text())
    assert written["top1"] == record["top1"] and 0 <= record["top1"] <= 100
    assert len([row for row in written["curves"] if row["val/top1"] is not None]) == 2
    state = load_file(tmp_path / "small.safetensors")
    assert {v.dtype for v in state.values() if v.is_floating_point()} == {torch.float16}
    model = hybrid_vit(3)
    copy_stem(model, load_backbone("tf_efficientnet_lite0").model)
    missing, unexpected = model.load_state_dict(state, strict=False)
    assert missing and all(key.startswith(STEM) for key in missing) and not unexpected
    assert weight_digest(model) == record["digest"]
    with pytest.raises(TTameError, match=r"small'.safetensors exists"):
        distill(labelled, (held_out,), CLASSES, config, tmp_path, name="small")
