"""The attention mechanism: one function, however it is computed."""

from __future__ import annotations

import itertools
from collections.abc import Sequence
from typing import Any

import pytest
import torch
from torch import Tensor, nn

from ttame.attention import (
    AttentionConfig,
    AttentionMechanism,
    FeatureBranch,
    SelfAttention,
    resize,
    standardize,
)
from ttame.errors import TTameError

CHANNELS = (6, 4, 5)
CLASSES = 7


def architectures() -> list[AttentionConfig]:
    branches: list[dict[str, Any]] = [{"branch": False}]
    for batch_norm, activation in itertools.product((True, False), ("relu", "sigmoid", "identity")):
        common: dict[str, Any] = {"batch_norm": batch_norm, "activation": activation}
        branches += [
            {"skip": True, **common},
            {"skip": False, **common},
            {"skip": False, "width": 3, **common},
        ]
    sizes: list[dict[str, Any]] = [
        {"resolution": resolution, "max_size": bound}
        for resolution in ("largest", "smallest")
        for bound in (56, 5)
    ]
    branches += [{"branch": False, "decoder": 3}, {"activation": "identity", "decoder": 3}]
    return [AttentionConfig(**a, **b) for a, b in itertools.product(branches, sizes)]


def name(config: AttentionConfig) -> str:
    default = AttentionConfig()
    changed = {k: v for k, v in vars(config).items() if v != getattr(default, k)}
    return ",".join(f"{key}={value}" for key, value in changed.items()) or "default"


def build(config: AttentionConfig | None = None) -> AttentionMechanism:
    mechanism = AttentionMechanism(CHANNELS, CLASSES, config)
    for module in mechanism.modules():
        if isinstance(module, nn.BatchNorm2d):
            nn.init.uniform_(module.weight, 0.5, 1.5)
            nn.init.normal_(module.bias)
            assert module.running_mean is not None and module.running_var is not None
            module.running_mean.normal_()
            module.running_var.uniform_(0.5, 2)
    return mechanism.eval()


def features(
    sizes: Sequence[tuple[int, int]] = ((8, 12), (4, 6), (2, 3)), batch: int = 3
) -> list[Tensor]:
    return [torch.randn(batch, count, *size) for count, size in zip(CHANNELS, sizes, strict=True)]


@pytest.mark.parametrize("config", architectures(), ids=name)
@torch.no_grad()
def test_fusing_first_is_the_textbook_order(config: AttentionConfig) -> None:
    mechanism, maps = build(config), features()
    every = mechanism(maps)
    assert every.shape == (3, CLASSES, *mechanism.output_size(maps))
    assert torch.allclose(every, mechanism.textbook(maps), atol=1e-5)
    targets = torch.tensor([[0, 6], [3, 3], [5, 1]])
    wanted = torch.stack([every[i, row] for i, row in enumerate(targets)])
    assert torch.allclose(mechanism(maps, targets), wanted, atol=1e-5)


@pytest.mark.parametrize("resolution", ["largest", "smallest"])
@pytest.mark.parametrize(
    "sizes",
    [((8, 3), (4, 5), (6, 6)), ((3, 8), (5, 4), (2, 2)), ((7, 5), (5, 7), (6, 6))],
    ids=str,
)
@torch.no_grad()
def test_maps_that_are_larger_in_one_axis_only(
    resolution: Any, sizes: Sequence[tuple[int, int]]
) -> None:
    mechanism = build(AttentionConfig(resolution=resolution))
    maps = features(sizes)
    assert mechanism(maps).shape[-2:] == mechanism.output_size(maps)
    assert torch.allclose(mechanism(maps), mechanism.textbook(maps), atol=1e-5)


def test_output_size() -> None:
    maps = features(((8, 12), (4, 6), (2, 3)))
    assert build().output_size(maps) == (8, 12)
    assert build().output_size(maps[::-1]) == (8, 12)  # by size, not by position
    assert build(AttentionConfig(resolution="smallest")).output_size(maps) == (2, 3)
    assert build(AttentionConfig(max_size=9)).output_size(maps) == (8, 9)
    assert AttentionConfig().max_size == 56


def test_resize_averages_down_and_interpolates_up() -> None:
    maps = torch.arange(16.0).view(1, 1, 4, 4)
    assert resize(maps, (2, 2)).flatten().tolist() == [2.5, 4.5, 10.5, 12.5]
    assert torch.equal(resize(maps, (4, 4)), maps)
    row = torch.tensor([[[[0.0, 4.0]]]])
    assert torch.allclose(resize(row, (1, 4)), torch.tensor([[[[0.0, 1.0, 3.0, 4.0]]]]))


@torch.no_grad()
def test_one_pixel_by_matrix_products() -> None:
    mechanism = build()
    maps = features(((4, 4), (4, 4), (4, 4)), batch=2)
    image, y, x, target = 1, 2, 3, 4
    pieces = []
    for branch, found in zip(mechanism.branches, maps, strict=True):
        pixel = found[image, :, y, x].double()
        hidden = branch.convolution.weight[:, :, 0, 0].double() @ pixel
        hidden = hidden + branch.convolution.bias.double()
        norm = branch.norm
        hidden = (hidden - norm.running_mean) / (norm.running_var.double() + norm.eps) ** 0.5
        hidden = hidden * norm.weight + norm.bias
        pieces.append((hidden + pixel).clamp_min(0))
    row = mechanism.fusion.weight[target, :, 0, 0].double()
    assert mechanism.fusion.bias is not None
    expected = float(row @ torch.cat(pieces) + mechanism.fusion.bias[target])
    got = mechanism(maps, torch.tensor([[0], [target]]))[image, 0, y, x]
    assert float(got) == pytest.approx(expected, abs=1e-5)


@torch.no_grad()
def test_self_attention_by_matrix_products() -> None:
    torch.manual_seed(0)
    channels, places = 128, 6  # two heads of 64
    layer = SelfAttention(channels)
    maps = torch.randn(1, channels, 2, 3)
    tokens = maps.flatten(2)[0].T.double()  # (places, channels)
    weight, bias = layer.heads.in_proj_weight.double(), layer.heads.in_proj_bias.double()
    query, key, value = (tokens @ weight.T + bias).split(channels, dim=1)
    heads = []
    for head in range(2):
        part = slice(64 * head, 64 * (head + 1))
        scores = query[:, part] @ key[:, part].T / 64**0.5
        heads.append(scores.softmax(dim=1) @ value[:, part])
    out = layer.heads.out_proj
    expected = torch.cat(heads, dim=1) @ out.weight.double().T + out.bias.double()
    got = layer(maps)
    assert got.shape == (1, channels, 2, 3)
    torch.testing.assert_close(got.flatten(2)[0].T, expected.float(), atol=1e-5, rtol=1e-4)
    assert expected.shape == (places, channels)


@torch.no_grad()
def test_branches_of_self_attention_relate_places() -> None:
    mechanism = build(AttentionConfig(mixing="attention"))
    maps = features()
    moved = [found.clone() for found in maps]
    moved[0][:, :, 0, 0] += 5
    before, after = (mechanism.branch_outputs(given)[0] for given in (maps, moved))
    assert not torch.allclose(before[:, :, -1, -1], after[:, :, -1, -1])
    alone = build(AttentionConfig())
    before, after = (alone.branch_outputs(given)[0] for given in (maps, moved))
    assert torch.allclose(before[:, :, -1, -1], after[:, :, -1, -1])
    with pytest.raises(TTameError, match="self-attention keeps the channels"):
        AttentionConfig(mixing="attention", skip=False, width=4)


@torch.no_grad()
def test_without_branches_the_features_are_fused_as_they_are() -> None:
    mechanism, maps = build(AttentionConfig(branch=False)), features()
    for output, given in zip(mechanism.branch_outputs(maps), maps, strict=True):
        assert torch.equal(output, given)
    assert sum(value.numel() for value in mechanism.parameters()) == (6 + 4 + 5) * 7 + 7


@pytest.mark.parametrize(
    ("activation", "low", "high"), [("relu", True, False), ("sigmoid", True, True)]
)
@torch.no_grad()
def test_activations_bound_the_branches(activation: Any, low: bool, high: bool) -> None:
    config = AttentionConfig(activation=activation)
    outputs = torch.cat([found.flatten() for found in build(config).branch_outputs(features())])
    assert bool((outputs >= 0).all()) is low
    assert bool((outputs <= 1).all()) is high
    free = build(AttentionConfig(activation="identity")).branch_outputs(features())
    assert min(float(found.min()) for found in free) < 0


@pytest.mark.parametrize("targets", [None, torch.tensor([[2, 4], [0, 6], [6, 1]])], ids=str)
@torch.no_grad()
def test_a_batch_gives_the_maps_of_its_images(targets: Tensor | None) -> None:
    mechanism, maps = build(), features()
    together = mechanism(maps, targets)
    for i in range(3):
        alone = [found[i : i + 1] for found in maps]
        rows = None if targets is None else targets[i : i + 1]
        assert torch.allclose(mechanism(alone, rows), together[i : i + 1], atol=1e-5)


def test_only_the_wanted_rows_learn() -> None:
    mechanism = build()
    mechanism(features(), torch.tensor([[2], [2], [5]])).sum().backward()
    gradient = mechanism.fusion.weight.grad
    assert gradient is not None
    touched = gradient.abs().sum(dim=(1, 2, 3)) > 0
    assert touched.nonzero().flatten().tolist() == [2, 5]


@pytest.mark.parametrize(
    ("channels", "millions"),
    [((256, 512, 512), 1.87), ((512, 1024, 2048), 9.10), ((768, 768, 768), 4.08)],
    ids=["vgg16", "resnet50", "vit_b_16"],
)
def test_parameter_counts_of_the_papers_backbones(
    channels: tuple[int, ...], millions: float
) -> None:
    with torch.device("meta"):
        mechanism = AttentionMechanism(channels, 1000)
    count = sum(value.numel() for value in mechanism.parameters())
    by_hand = sum(c * c + c + 2 * c for c in channels) + sum(channels) * 1000 + 1000
    assert count == by_hand
    assert round(count / 1e6, 2) == millions


@pytest.mark.parametrize("channels", [(6, 4), (4, 6, 5), (6, 4, 5, 5), (6, 4, 1)], ids=str)
def test_maps_of_other_layers_are_refused(channels: tuple[int, ...]) -> None:
    maps = [torch.randn(1, count, 4, 4) for count in channels]
    with pytest.raises(TTameError, match=r"\(6, 4, 5\) channels"):
        build()(maps)
    with pytest.raises(TTameError, match=r"\(6, 4, 5\) channels"):
        build().textbook(maps)


@pytest.mark.parametrize("shape", [(2, 1), (1, 1), (4, 2), (3,)], ids=str)
def test_targets_of_another_batch_are_refused(shape: tuple[int, ...]) -> None:
    with pytest.raises(TTameError, match="targets"):
        build()(features(batch=3), torch.zeros(shape, dtype=torch.int64))


@pytest.mark.parametrize(
    ("fields", "message"),
    [
        ({"activation": "tanh"}, "activation.*'tanh'"),
        ({"resolution": "middle"}, "resolution.*'middle'"),
        ({"tokens": "keep"}, "tokens.*'keep'"),
        ({"max_size": 0}, "max_size"),
        ({"width": 0, "skip": False}, "width"),
        ({"width": 8}, "skip=False"),
    ],
    ids=str,
)
def test_architectures_without_meaning_are_refused(fields: dict[str, Any], message: str) -> None:
    with pytest.raises(TTameError, match=message):
        AttentionConfig(**fields)


@pytest.mark.parametrize(("channels", "classes"), [((), 5), ((3,), 0)])
def test_a_mechanism_needs_layers_and_classes(channels: tuple[int, ...], classes: int) -> None:
    with pytest.raises(TTameError, match="layers and classes"):
        AttentionMechanism(channels, classes)


@pytest.mark.parametrize("size", [(1, 1), (2, 3), (9, 9)])
def test_few_places_are_the_same_convolution(size: tuple[int, int]) -> None:
    branch = FeatureBranch(96, AttentionConfig()).eval()
    maps = torch.randn(1, 96, *size)
    with torch.no_grad():
        weight, bias = branch.convolution.weight[:, :, 0, 0], branch.convolution.bias
        wanted = torch.einsum("oc,bchw->bohw", weight, maps) + bias[:, None, None]
        wanted = (wanted / (1 + branch.norm.eps) ** 0.5 + maps).relu()
        assert torch.allclose(branch(maps), wanted, atol=1e-5)


def random_maps(batch: int = 2) -> list[Tensor]:
    sizes = ((8, 8), (4, 4), (2, 2))
    return [torch.randn(batch, count, *size) for count, size in zip(CHANNELS, sizes, strict=True)]


def test_a_decoder_starts_as_the_sigmoid_of_the_standardised_map() -> None:
    config = AttentionConfig(branch=False, decoder=3)
    mechanism = AttentionMechanism(CHANNELS, CLASSES, config).eval()
    maps, targets = random_maps(), torch.tensor([[1, 4], [0, 6]])
    plain = AttentionMechanism(CHANNELS, CLASSES, AttentionConfig(branch=False)).eval()
    plain.load_state_dict(mechanism.state_dict(), strict=False)
    for found, fused in zip(
        mechanism(maps, targets).flatten(0, 1), plain(maps, targets).flatten(0, 1), strict=True
    ):
        z = (fused - fused.mean()) / fused.std(correction=0)
        assert torch.allclose(found, 1 / (1 + torch.exp(-2 * z - 1)), atol=1e-5)


def test_a_decoder_explains_each_class_of_each_photo_alone() -> None:
    mechanism = build(AttentionConfig(branch=False, decoder=3))
    for parameter in mechanism.parameters():
        nn.init.normal_(parameter, std=0.2)
    maps, targets = random_maps(3), torch.tensor([[1, 4], [0, 6], [2, 2]])
    together = mechanism(maps, targets)
    for photo in range(3):
        for column in range(2):
            one = mechanism(
                [item[photo : photo + 1] for item in maps],
                targets[photo : photo + 1, column : column + 1],
            )
            assert torch.allclose(one[0, 0], together[photo, column], atol=1e-5)
    assert torch.allclose(together[2, 0], together[2, 1])
    assert not torch.allclose(together[0, 0], together[0, 1], atol=1e-3)


def test_a_decoder_does_not_see_the_scale_of_the_fused_map() -> None:
    mechanism = build(AttentionConfig(branch=False, decoder=3))
    maps, targets = random_maps(), torch.tensor([[1], [4]])
    before = mechanism(maps, targets)
    with torch.no_grad():
        mechanism.fusion.weight.mul_(100)
        mechanism.fusion.bias.add_(5)  # type: ignore[union-attr]
    assert torch.allclose(before, mechanism(maps, targets), atol=1e-4)


@pytest.mark.parametrize("config", [AttentionConfig(), AttentionConfig(branch=False, decoder=3)])
def test_nothing_of_a_layer_that_is_not_kept_reaches_the_map(config: AttentionConfig) -> None:
    mechanism = build(config)
    for parameter in mechanism.parameters():
        nn.init.normal_(parameter, std=0.2)
    maps, targets = random_maps(), torch.tensor([[1], [4]])
    kept = mechanism.keep_layers([0, 2])
    moved = [maps[0], torch.randn_like(maps[1]), maps[2]]
    assert torch.equal(kept(maps, targets), kept(moved, targets))
    assert not torch.allclose(mechanism(maps, targets), mechanism(moved, targets), atol=1e-3)
    assert not torch.equal(kept(maps, targets), mechanism(maps, targets))


def test_standardize_by_hand() -> None:
    found = standardize(torch.tensor([[[1.0, 3.0], [5.0, 7.0]]]))
    root = 5**0.5  # of the variance (9 + 1 + 1 + 9) / 4
    assert torch.allclose(found, torch.tensor([[[-3.0, -1.0], [1.0, 3.0]]]) / root)
    constant = torch.full((1, 2, 2), 4.0, requires_grad=True)
    assert torch.equal(standardize(constant), torch.zeros(1, 2, 2))
    standardize(constant).sum().backward()  # type: ignore[no-untyped-call]
    assert constant.grad is not None and bool(constant.grad.isfinite().all())
