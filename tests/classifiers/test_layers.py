"""Which layers of a network can be read, and which are chosen."""

from __future__ import annotations

from typing import Any

import pytest
import timm
import torch
import torch.nn.functional as F
from torch import Tensor, nn

from tests.helpers.networks import Awkward, count_hooks
from ttame.classifiers.layers import LayerInfo, choose_layers, list_layers, outline, probe_images
from ttame.errors import TTameError
from ttame.features import FeatureExtractor


def marked(rows: tuple[LayerInfo, ...]) -> list[tuple[str, int, tuple[int, int], float]]:
    return [(row.name, row.channels, row.size, row.stride) for row in rows if row.chosen]


def test_layers_of_a_residual_network() -> None:
    model = timm.create_model("resnet18", pretrained=False).eval()
    rows = list_layers(model, (64, 64))
    assert marked(rows) == [
        ("layer2", 128, (8, 8), 8.0),
        ("layer3", 256, (4, 4), 16.0),
        ("layer4", 512, (2, 2), 32.0),
    ]
    assert choose_layers(model, (64, 64)) == ("layer2", "layer3", "layer4")
    listed = {row.name: row for row in rows}
    assert listed["layer1.0.conv1"].kind == "Conv2d"
    assert listed["layer1.0.conv1"].size == (16, 16)
    assert "fc" not in listed and "global_pool" not in listed
    assert rows[0].name == "conv1"


@pytest.mark.parametrize("fused", [True, False])
def test_layers_of_a_vision_transformer(fused: bool) -> None:
    model = timm.create_model("vit_tiny_patch16_224", pretrained=False, img_size=64, depth=6).eval()
    for block in model.blocks:
        block.attn.fused_attn = fused  # else attention matrices pass through a module
    expected = [(f"blocks.{index}", 192, (4, 4), 16.0) for index in (2, 3, 4)]
    assert marked(list_layers(model, (64, 64))) == expected


def test_layers_of_a_wide_vision_transformer() -> None:
    model = timm.create_model(
        "vit_tiny_patch16_224", pretrained=False, img_size=(32, 64), depth=4
    ).eval()
    rows = marked(list_layers(model, (32, 64)))
    assert [(name, size) for name, _, size, _ in rows] == [
        (f"blocks.{index}", (2, 4)) for index in (0, 1, 2)
    ]
    _, maps = FeatureExtractor(model, ("blocks.2",), "cls")(torch.randn(2, 3, 32, 64))
    assert maps[0].shape == (2, 192, 2, 4)


def test_layers_of_a_shifted_window_transformer() -> None:
    model = timm.create_model(
        "swin_tiny_patch4_window7_224", pretrained=False, img_size=64, window_size=2,
        depths=(1, 1, 2, 1), embed_dim=24, num_heads=(1, 2, 4, 8),
    ).eval()  # fmt: skip
    rows = marked(list_layers(model, (64, 64)))
    assert [(channels, size) for _, channels, size, _ in rows] == [
        (48, (8, 8)),
        (96, (4, 4)),
        (192, (2, 2)),
    ]
    assert [name for name, *_ in rows][:2] == ["layers.1", "layers.2"]


def test_layers_of_the_default_backbone() -> None:
    model = timm.create_model("tf_efficientnet_lite0", pretrained=False).eval()
    assert choose_layers(model, (224, 224)) == ("blocks.2", "blocks.4", "bn2")


def test_layers_of_the_toy_classifier(toy: nn.Module) -> None:
    assert choose_layers(toy, (32, 48)) == ("stages.0", "stages.1", "stages")


def test_a_network_without_maps_is_refused() -> None:
    model = nn.Sequential(nn.Flatten(), nn.Linear(48, 10))
    with pytest.raises(TTameError, match="no layer with a spatial feature map"):
        choose_layers(model, (4, 4))


def test_listing_leaves_the_model_alone(toy: nn.Module) -> None:
    before: dict[str, Any] = {name: value.clone() for name, value in toy.state_dict().items()}
    list_layers(toy, (32, 32))
    assert all(torch.equal(value, before[name]) for name, value in toy.state_dict().items())


def test_listing_leaves_no_hooks_behind(toy: nn.Module) -> None:
    list_layers(toy, (32, 32))
    assert count_hooks(toy) == 0
    model = Awkward(fails=True)
    with pytest.raises(TTameError, match=r"RuntimeError: out of luck\); the model itself fails"):
        list_layers(model, (64, 64))
    assert count_hooks(model) == 0


class Reordered(nn.Module):
    """Maps of one cell each 8 pixels; the second layer writes them in another order."""

    def __init__(self, order: str) -> None:
        super().__init__()
        self.patches = nn.Conv2d(3, 6, 8, stride=8)
        self.order = order
        self.turned = Turn(order)
        self.head = nn.Linear(6, 4)

    def forward(self, images: Tensor) -> Tensor:
        maps = self.turned(self.patches(images))
        logits: Tensor = self.head(maps.mean(dim=(2, 3)))
        return logits


class Turn(nn.Module):
    def __init__(self, order: str) -> None:
        super().__init__()
        self.order = order

    def forward(self, maps: Tensor) -> Tensor:
        if self.order == "transposed":
            return maps.transpose(2, 3)
        if self.order == "mirrored":
            return maps.flip(3)
        if self.order == "upside down":
            return maps.flip(2)
        if self.order == "shuffled":
            shuffled = torch.randperm(maps.shape[2] * maps.shape[3])
            return maps.flatten(2)[..., shuffled].view_as(maps)
        return maps * 2


@pytest.mark.parametrize("order", ["transposed", "mirrored", "upside down", "shuffled"])
def test_maps_in_another_order_are_not_chosen(order: str) -> None:
    rows = {row.name: row for row in list_layers(Reordered(order).eval(), (64, 64))}
    assert rows["patches"].in_place and rows["patches"].chosen
    assert not rows["turned"].in_place and not rows["turned"].chosen


def test_maps_in_their_place_are_chosen() -> None:
    rows = {row.name: row for row in list_layers(Reordered("kept").eval(), (64, 64))}
    assert rows["turned"].in_place and rows["turned"].chosen


class Mirror(nn.Module):
    """A convolution whose output is mirrored before anybody sees it."""

    def __init__(self) -> None:
        super().__init__()
        self.weight = nn.Parameter(torch.randn(6, 3, 8, 8))

    def forward(self, images: Tensor) -> Tensor:
        return F.conv2d(images, self.weight, stride=8).flip(3)


def test_a_network_without_maps_in_place_is_refused() -> None:
    model = nn.Sequential(Mirror(), nn.AdaptiveAvgPool2d(1), nn.Flatten(), nn.Linear(6, 4))
    with pytest.raises(TTameError, match="in the order of the image"):
        choose_layers(model.eval(), (64, 64))


def test_the_probe_is_the_same_each_time_and_changes_two_places() -> None:
    model = nn.Conv2d(3, 3, 1).double()
    images = probe_images(model, (32, 64))
    assert images.shape == (3, 3, 32, 64) and images.dtype == torch.float64
    assert torch.equal(images, probe_images(model, (32, 64)))
    changed = (images[1:] != images[:1]).any(dim=1)
    for change, (top, left) in zip(changed, ((4, 40), (20, 40)), strict=True):
        inside = torch.zeros(32, 64, dtype=torch.bool)
        inside[top : top + 8, left : left + 16] = True
        assert torch.equal(change, inside)


def test_an_outline_leaves_the_inside_of_blocks_out() -> None:
    names = (
        "stem",
        "blocks",
        "blocks.0",
        "blocks.0.0",
        "blocks.0.conv",
        "layer2",
        "layer2.1",
        "norm",
    )
    rows = [LayerInfo(name, "Conv2d", 4, (8, 8), 8.0) for name in names]
    shown = [row.name for row in outline(rows, keep=("blocks.0.conv",))]
    assert shown == ["stem", "blocks", "blocks.0", "blocks.0.conv", "layer2", "layer2.1", "norm"]
    names = ("encoder.ln", "encoder.layers.encoder_layer_3", "encoder.layers.encoder_layer_3.ln_1")
    rows = [LayerInfo(name, "Conv2d", 4, (8, 8), 8.0) for name in names]
    assert [row.name for row in outline(rows)] == list(names[:2])


def test_a_module_that_runs_twice_is_listed_where_it_ran_last() -> None:
    shared = nn.ReLU()
    model = nn.Sequential(
        nn.Conv2d(3, 4, 3, 2, 1), shared, nn.Conv2d(4, 8, 3, 2, 1), shared,
        nn.AdaptiveAvgPool2d(1), nn.Flatten(),
    ).eval()  # fmt: skip
    rows = list_layers(model, (32, 32))
    assert [row.name for row in rows] == ["0", "2", "1"]
    assert rows[-1].size == (8, 8)


def test_wrappers_do_not_change_the_choice() -> None:
    """Neither for convolutional networks nor for transformers, whose blocks are numbered."""
    for name in ("resnet18", "vit_tiny_patch16_224"):
        bare = timm.create_model(name, num_classes=4).eval()
        expected = choose_layers(bare, (224, 224))
        wrapped = nn.Sequential(nn.Sequential(nn.Identity(), nn.Identity()), bare)
        assert choose_layers(wrapped, (224, 224)) == tuple(f"1.{layer}" for layer in expected)


class Shared(nn.Module):
    """One ReLU after every convolution, as in many hand-written networks."""

    def __init__(self) -> None:
        super().__init__()
        self.first = nn.Conv2d(3, 4, 3, 2, 1)
        self.second = nn.Conv2d(4, 6, 3, 2, 1)
        self.third = nn.Conv2d(6, 8, 3, 2, 1)
        self.relu = nn.ReLU()
        self.head = nn.Linear(8, 5)

    def forward(self, images: Tensor) -> Tensor:
        maps = images
        for convolution in (self.first, self.second, self.third):
            maps = self.relu(convolution(maps))
        logits: Tensor = self.head(maps.mean(dim=(2, 3)))
        return logits


def test_modules_that_run_several_times_are_not_chosen() -> None:
    model = Shared().eval()
    rows = {row.name: row for row in list_layers(model, (32, 32))}
    assert rows["relu"].runs == 3 and rows["third"].runs == 1
    assert choose_layers(model, (32, 32)) == ("first", "second", "third")
