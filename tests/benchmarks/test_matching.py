"""Matching the teacher's features: its functions by hand, and a run in miniature."""

from __future__ import annotations

import json
from dataclasses import replace
from pathlib import Path
from typing import Any

import pytest
import torch
from safetensors.torch import load_file
from torch import Tensor, nn

from benchmarks.distillation.matching import FeatureHead, MatchingConfig, MatchingModule
from benchmarks.distillation.run import distill
from benchmarks.distillation.teacher import split
from ttame.classifiers.hybrid import CHANNELS, STEM, copy_stem, hybrid_vit, own_cells
from ttame.classifiers.registry import load_backbone
from ttame.classifiers.weights import weight_digest
from ttame.data import PhotoList
from ttame.errors import TTameError

NONE = torch.empty(0)


def start_maps(stages: int = 7) -> Tensor:
    return torch.randn(8, CHANNELS[stages], 14, 14, generator=torch.Generator().manual_seed(0))


def small_module(total: int = 10, **changes: Any) -> MatchingModule:
    torch.manual_seed(0)
    config = MatchingConfig(**{"patchwork": 0.0, **changes})
    teacher = load_backbone("tf_efficientnet_lite0")
    student = hybrid_vit(1000, config.stages, config.depth)
    student.set_submodule("patch_embed.backbone", nn.Identity())
    maps = start_maps(config.stages)
    return MatchingModule(student, config, total, split(teacher, config.stages)[1], maps)


@pytest.mark.parametrize("stages", sorted(CHANNELS))
def test_stem_and_tail_are_the_teacher(stages: int) -> None:
    """Also where the stem is dilated: the plain network has every second row and column."""
    teacher = load_backbone("tf_efficientnet_lite0")
    images = torch.randn(2, 3, 224, 224)
    stem, tail = split(teacher, stages)
    with torch.inference_mode():
        maps = stem(images)
        found = tail.classifier(tail(own_cells(maps, stages)).mean(dim=(2, 3)))
        wanted = teacher.model(images)
    assert maps.shape == (2, CHANNELS[stages], 14, 14)
    assert torch.allclose(found, wanted, atol=1e-3)


def test_the_head_is_one_linear_layer() -> None:
    torch.manual_seed(0)
    classifier = nn.Linear(5, 3)
    head, tokens = FeatureHead(4, classifier), torch.randn(6, 4)
    nn.init.normal_(head.project.bias)
    wanted = classifier(head.project(tokens))
    assert torch.allclose(head(tokens), wanted, atol=1e-6)
    assert torch.allclose(head.linear()(tokens), wanted, atol=1e-5)
    assert [name for name, _ in head.named_parameters()] == ["project.weight", "project.bias"]


def test_a_step_sees_every_second_patch_and_the_last_steps_all() -> None:
    module = small_module(whole_share=0.5)
    seen: list[tuple[int, ...]] = []
    module.student.get_submodule("blocks.0").register_forward_pre_hook(
        lambda _module, args: seen.append(tuple(args[0].shape))
    )
    asked: list[Tensor] = []
    module.tail.register_forward_pre_hook(lambda _module, args: asked.append(args[0]))
    maps = torch.randn(2, 320, 14, 14)
    assert bool(module.objective(maps, NONE, NONE).isfinite())
    assert seen[-1] == (2, 50, 192)
    lattices = [
        (row, column)
        for row in range(2)
        for column in range(2)
        for turned in (maps, maps.flip(3))
        if torch.equal(asked[-1], turned[:, :, row::2, column::2])
    ]
    assert len(lattices) == 1
    module.total_steps = 0  # so that every step is one of the last
    module.objective(maps, NONE, NONE)
    assert seen[-1] == (2, 197, 192)
    assert any(torch.equal(asked[-1], own_cells(turned, 7)) for turned in (maps, maps.flip(3)))


def test_patches_keep_their_positions() -> None:
    """The first block sees what it sees of the whole map, at the same places."""
    module = small_module()
    seen: list[Tensor] = []
    module.student.get_submodule("blocks.0").register_forward_pre_hook(
        lambda _module, args: seen.append(args[0])
    )
    maps = torch.randn(1, 320, 14, 14)
    module._read(maps, (slice(0, None, 2), slice(1, None, 2)))
    module._read(maps)
    part, whole = seen[-2][0], seen[-1][0]
    assert torch.equal(part[0], whole[0])
    grid = torch.arange(1, 197).reshape(14, 14)[0::2, 1::2]
    assert torch.equal(part[1:], whole[grid.flatten()])


def test_the_start_is_a_linear_regression() -> None:
    """The head predicts the teacher's features from the untrained class token, as it is read."""
    module, maps = small_module(), start_maps()
    with torch.inference_mode():
        features = module.tail(own_cells(maps, 7)).mean(dim=(2, 3))
        tokens, _ = module._tokens(maps)
        found = module.student.get_submodule("head").project(tokens)  # type: ignore[operator]
    mean = features.mean(dim=0)
    # Eight photos and 320 channels: the ridge leaves a small share of the variance.
    assert float(((found - features) ** 2).mean() / ((features - mean) ** 2).mean()) < 0.1
    assert torch.allclose(found.mean(dim=0), mean, atol=1e-4)


def test_patchwork_pastes_one_rectangle() -> None:
    module = small_module(patchwork=1.0)
    maps = torch.stack([torch.zeros(320, 14, 14), torch.ones(320, 14, 14)])
    shares = []
    for _ in range(20):
        mixed = module._varied(maps)
        assert torch.equal(mixed[0], 1 - mixed[1])
        pasted = mixed[0, 0]
        rows, columns = pasted.any(dim=1).sum(), pasted.any(dim=0).sum()
        assert pasted.sum() == rows * columns > 0
        shares.append(float(pasted.mean()))
    assert min(shares) < 0.3 < 0.6 < max(shares)
    assert torch.equal(maps[0], torch.zeros(320, 14, 14))


@pytest.mark.parametrize(
    ("changes", "message"),
    [
        ({"stages": 5}, "stages=6 or 7.*got 5"),
        ({"depth": 1}, "depth of 2 blocks.*7 and 1"),
        ({"whole_share": 1.5}, r"whole_share.*1\.5"),
        ({"patchwork": -0.1}, r"patchwork.*-0\.1"),
        ({"epochs": 0}, "must be positive"),
    ],
)
def test_settings_without_meaning_are_refused(changes: dict[str, Any], message: str) -> None:
    with pytest.raises(TTameError, match=message):
        MatchingConfig(**changes)


@pytest.mark.slow
def test_a_run_in_miniature(photos: PhotoList, tmp_path: Path) -> None:
    """All classes, photos without labels; the file holds a plain transformer."""
    bare = replace(photos, name="bare", labels=None)
    labelled = replace(photos, labels=tuple(range(12)))
    config = MatchingConfig(epochs=2, crops=2, batch_size=4, workers=0, whole_share=0.5)
    record = distill(
        bare, (labelled, replace(bare, name="held out")), tuple(range(1000)), config,
        tmp_path / "run", name="small", crops=tmp_path / "crops",
    )  # fmt: skip
    written = json.loads((tmp_path / "run" / "small.json").read_text())
    assert written["agreement"] == record["agreement"]
    assert set(record["agreement"]) == {labelled.name, "held out"}
    assert record["agreement_photos"]["held out"] == 12
    assert all(0 <= value <= 100 for value in record["agreement"].values())
    assert len([row for row in written["curves"] if row["val/agreement"] is not None]) == 2
    state = load_file(tmp_path / "run" / "small.safetensors")
    model = hybrid_vit(1000, config.stages, config.depth)
    copy_stem(model, load_backbone("tf_efficientnet_lite0").model)
    missing, unexpected = model.load_state_dict(state, strict=False)
    assert missing and all(key.startswith(STEM) for key in missing) and not unexpected
    assert weight_digest(model) == record["digest"]
