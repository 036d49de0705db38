"""Taking feature maps from networks of every kind, and leaving the networks as they were."""

from __future__ import annotations

import pytest
import timm
import torch
from torch import Tensor, nn

from tests.helpers.networks import Awkward, count_hooks
from ttame.classifiers.layers import list_layers
from ttame.errors import TTameError
from ttame.features import (
    FeatureExtractor,
    TokenLayout,
    capture,
    prefix_tokens,
    to_map,
    token_grid,
)

IMAGE = torch.zeros(2, 3, 64, 64)


class Transformer(nn.Module):
    """Patch tokens behind `prefix` others, numbered so that a test can tell them apart."""

    def __init__(self, prefix: int, patch: int = 16) -> None:
        super().__init__()
        self.num_prefix_tokens, self.patch = prefix, patch
        self.blocks = nn.Sequential(nn.Identity())

    def forward(self, images: Tensor) -> Tensor:
        patches = images.shape[-2] * images.shape[-1] // self.patch**2
        numbers = torch.arange(self.num_prefix_tokens + patches, dtype=torch.float32)
        scale = torch.tensor([1.0, 10.0, 100.0])
        tokens: Tensor = self.blocks((numbers[:, None] * scale).expand(len(images), -1, -1))
        return tokens.mean(dim=1)


def test_maps_come_in_the_order_that_was_asked_for(toy: nn.Module) -> None:
    extract = FeatureExtractor(toy, ("stages.2", "stages.0", "stages.1"))
    logits, maps = extract(torch.randn(2, 3, 32, 48))
    assert logits.shape == (2, 10)
    assert [tuple(found.shape) for found in maps] == [
        (2, 16, 4, 6),
        (2, 8, 16, 24),
        (2, 12, 8, 12),
    ]


def test_logits_and_maps_are_those_of_a_plain_pass(toy: nn.Module) -> None:
    images = torch.randn(2, 3, 32, 32)
    logits, maps = FeatureExtractor(toy, ("stages.1",))(images)
    assert torch.equal(logits, toy(images))
    first = toy.get_submodule("stages.0")(images)
    assert torch.equal(maps[0], toy.get_submodule("stages.1")(first))


def test_hooks_are_gone_after_a_pass(toy: nn.Module) -> None:
    before = count_hooks(toy)
    with capture(toy, ("stages.1", "stages.2")):
        assert count_hooks(toy) == before + 2
    assert count_hooks(toy) == before
    FeatureExtractor(toy, ("stages.0",))(torch.randn(1, 3, 32, 32))
    assert count_hooks(toy) == before


def test_hooks_are_gone_after_an_exception() -> None:
    model = Awkward(fails=True)
    extract = FeatureExtractor(model, ("convolution",))
    with pytest.raises(RuntimeError, match="out of luck"):
        extract(IMAGE)
    assert count_hooks(model) == 0


def test_a_layer_that_does_not_exist_is_named_with_suggestions(toy: nn.Module) -> None:
    with pytest.raises(TTameError, match=r"no layer 'stage\.2'.*'stages\.2'"):
        FeatureExtractor(toy, ("stages.1", "stage.2"))
    with pytest.raises(TTameError, match="no layer ''"):
        FeatureExtractor(toy, ("",))
    assert count_hooks(toy) == 0


def test_a_layer_given_twice_is_refused(toy: nn.Module) -> None:
    with pytest.raises(TTameError, match=r"'stages\.1' is given twice"):
        FeatureExtractor(toy, ("stages.1", "stages.2", "stages.1"))


def test_no_layers_at_all_are_refused(toy: nn.Module) -> None:
    with pytest.raises(TTameError, match="at least one layer"):
        FeatureExtractor(toy, ())


@pytest.mark.parametrize(
    ("layer", "message"),
    [
        ("unused", "is not used in the forward pass"),
        ("pair", "returns a tuple"),
        ("windows", r"\(8, 4, 8, 8\) for 2 images"),
        ("head", r"\(2, 5\) for 2 images"),
    ],
)
def test_layers_that_give_no_map_are_refused(layer: str, message: str) -> None:
    with pytest.raises(TTameError, match=f"'{layer}'.*{message}"):
        FeatureExtractor(Awkward(), (layer,))(IMAGE)


@torch.no_grad()
def test_an_in_place_layer_behind_does_not_change_the_map() -> None:
    model, images = Awkward(), torch.randn(2, 3, 64, 64)
    _, maps = FeatureExtractor(model, ("convolution",))(images)
    assert torch.equal(maps[0], model.convolution(images))
    assert float(maps[0].min()) < 0


def test_channels_last_outputs_are_turned() -> None:
    output = torch.randn(2, 8, 8, 24)
    assert torch.equal(to_map(output, "x", IMAGE), output.permute(0, 3, 1, 2))
    wide = torch.zeros(2, 3, 64, 128)
    output = torch.randn(2, 4, 8, 24)
    assert torch.equal(to_map(output, "x", wide), output.permute(0, 3, 1, 2))


@pytest.mark.parametrize("shape", [(2, 24, 8, 8), (2, 8, 8, 8), (2, 3, 64, 64), (2, 24, 1, 1)])
def test_channels_first_outputs_are_kept(shape: tuple[int, ...]) -> None:
    output = torch.randn(shape)
    assert torch.equal(to_map(output, "x", IMAGE), output)


def test_channels_first_outputs_of_wide_images_are_kept() -> None:
    output = torch.randn(2, 8, 4, 8)
    assert torch.equal(to_map(output, "x", torch.zeros(2, 3, 64, 128)), output)


@pytest.mark.parametrize("prefix", [0, 1, 2, 5])
@pytest.mark.parametrize("size", [(64, 64), (64, 96), (96, 48)], ids=str)
@pytest.mark.parametrize("told", [True, False])
def test_tokens_become_a_grid(prefix: int, size: tuple[int, int], told: bool) -> None:
    model = Transformer(prefix)
    if not told:
        del model.num_prefix_tokens
        assert prefix_tokens(model) is None
    image = torch.zeros(2, 3, *size)
    rows, columns = size[0] // 16, size[1] // 16
    numbers = torch.arange(prefix + rows * columns, dtype=torch.float32)
    tokens = (numbers[:, None] * torch.tensor([1.0, 10.0])).expand(2, -1, -1)
    found = to_map(tokens, "x", image, prefix_tokens(model))
    assert found.shape == (2, 2, rows, columns)
    for y in range(rows):
        for x in range(columns):
            number = prefix + y * columns + x
            assert found[1, :, y, x].tolist() == [number, 10 * number]


def test_the_extractor_reads_the_prefix_off_the_model() -> None:
    _, maps = FeatureExtractor(Transformer(2), ("blocks.0",))(torch.zeros(1, 3, 32, 64))
    assert maps[0].shape == (1, 3, 2, 4)
    assert maps[0][0, 0].flatten().tolist() == [2, 3, 4, 5, 6, 7, 8, 9]


def test_patches_times_the_class_token_by_hand() -> None:
    tokens = torch.tensor([[[2.0, -1.0], [1.0, 1.0], [2.0, 3.0], [4.0, 5.0], [6.0, 7.0]]])
    found = to_map(tokens, "x", torch.zeros(1, 3, 32, 32), 1, tokens="cls")
    assert found[0, 0].tolist() == [[2.0, 4.0], [8.0, 12.0]]
    assert found[0, 1].tolist() == [[-1.0, -3.0], [-5.0, -7.0]]


def test_the_class_token_is_the_first_of_several() -> None:
    tokens = torch.randn(2, 2 + 16, 3)
    found = to_map(tokens, "x", IMAGE, 2, tokens="cls")
    assert torch.equal(found[:, :, 0, 0], tokens[:, 2] * tokens[:, 0])


def test_without_a_class_token_there_is_nothing_to_multiply_by() -> None:
    with pytest.raises(TTameError, match="needs a class token"):
        to_map(torch.randn(2, 16, 3), "x", IMAGE, 0, tokens="cls")


@pytest.mark.parametrize(("tokens", "prefix"), [(12, 0), (17, 0), (18, 1), (3, 1), (35, None)])
def test_tokens_that_form_no_grid_are_refused(tokens: int, prefix: int | None) -> None:
    with pytest.raises(TTameError, match=f"{tokens} tokens.*64x64"):
        token_grid(tokens, (64, 64), prefix)


def test_the_grid_is_that_of_the_patch_embedding() -> None:
    # 5 + 18 · 24 = 437 = 19 · 23, which has nearly the shape of the image, too.
    embedding = nn.Conv2d(3, 8, 16, stride=16)
    layout = TokenLayout.of(nn.Sequential(nn.Identity(), embedding))
    assert layout.grids((288, 384)) == [(18, 24)]
    assert token_grid(437, (288, 384), layout) == (5, 18, 24)
    assert token_grid(432, (288, 384), layout) == (0, 18, 24)
    # Without it, square cells of whole pixels are found; before, 19 rows of 15.2 pixels.
    assert token_grid(437, (288, 384), None) == (5, 18, 24)
    # Cells of 16 x 8 pixels, as no search by shape would find them, and sixteen registers.
    oblong = TokenLayout.of(nn.Conv2d(1, 8, (16, 8), stride=(16, 8)))
    assert token_grid(1 + 4 * 8, (64, 64), oblong) == (1, 4, 8)
    assert token_grid(17 + 4 * 8, (64, 64), oblong) == (17, 4, 8)


def test_the_grid_is_that_of_the_end_of_a_stem() -> None:
    # Convolutions of stride 2 with padding 1 halve 96 x 64, rounding up: 48 x 32, 24 x 16.
    stem = nn.Sequential(*(nn.Conv2d(3, 3, 3, stride=2, padding=1) for _ in range(2)))
    layout = TokenLayout.of(nn.Sequential(stem, nn.Conv2d(3, 8, 1)))
    assert layout.grids((96, 64)) == [(48, 32), (24, 16)]
    assert token_grid(2 + 24 * 16, (96, 64), layout) == (2, 24, 16)
    assert layout.grids((2, 2)) == [(1, 1), (1, 1)]


def test_a_known_number_of_prefix_tokens_comes_first() -> None:
    # 4 · 4 + 1 tokens: with one prefix token 4 x 4, not 1 x 1 with sixteen.
    layout = TokenLayout(1, (((16, 16), (16, 16), (0, 0)), ((4, 4), (4, 4), (0, 0))))
    assert layout.grids((64, 64)) == [(4, 4), (1, 1)]
    assert token_grid(17, (64, 64), layout) == (1, 4, 4)


def test_prefix_tokens_are_found_at_any_depth() -> None:
    class Tokens(nn.Module):
        def __init__(self, **shapes: tuple[int, ...]) -> None:
            super().__init__()
            for name, shape in shapes.items():
                self.register_parameter(name, nn.Parameter(torch.zeros(shape)))

    def deep(model: nn.Module) -> nn.Module:
        return nn.Sequential(nn.Identity(), nn.ModuleDict({"model": nn.Sequential(model)}))

    assert prefix_tokens(deep(Transformer(5))) == 5
    assert prefix_tokens(deep(Tokens(class_token=(1, 1, 8)))) == 1
    assert prefix_tokens(deep(Tokens(cls_token=(1, 1, 8), register_tokens=(1, 4, 8)))) == 5
    assert prefix_tokens(deep(Tokens(cls_token=(8,), dist_token=(1, 1, 8)))) == 2
    # Tokens that replace patches, and embeddings of positions, do not stand before them.
    assert prefix_tokens(deep(Tokens(mask_token=(1, 1, 8), pos_embed=(1, 17, 8)))) is None


@pytest.mark.parametrize("registers", [0, 4])
def test_wrapped_transformers_have_the_grid_of_their_patches(registers: int) -> None:
    bare = timm.create_model(
        "vit_tiny_patch16_224", img_size=(288, 384), reg_tokens=registers, depth=4, embed_dim=12,
        num_heads=2, num_classes=5,
    )  # fmt: skip
    first = nn.Sequential(nn.Identity(), nn.Identity())  # as if it changed the image
    wrapped = nn.Sequential(first, nn.Sequential(bare)).eval()
    rows = list_layers(wrapped, (288, 384))
    assert {row.size for row in rows if row.name[0] == "1"} == {(18, 24)}
    chosen = tuple(row.name for row in rows if row.chosen)
    assert chosen == ("1.0.blocks.0", "1.0.blocks.1", "1.0.blocks.2")
    _, maps = FeatureExtractor(wrapped, chosen[:1])(torch.zeros(1, 3, 288, 384))
    with torch.no_grad(), capture(bare, ["blocks.0"]) as outputs:
        bare(torch.zeros(1, 3, 288, 384))
    tokens = outputs["blocks.0"]
    assert isinstance(tokens, Tensor) and tokens.shape[1] == 1 + registers + 18 * 24
    # The cell in row 2, column 3.
    assert torch.equal(maps[0][0, :, 2, 3], tokens[0, 1 + registers + 2 * 24 + 3])


def test_token_counts_of_the_usual_transformers() -> None:
    assert token_grid(197, (224, 224), 1) == (1, 14, 14)
    assert token_grid(198, (224, 224), 2) == (2, 14, 14)
    assert token_grid(261, (224, 224), 5) == (5, 16, 16)
    assert token_grid(197, (224, 224), None) == (1, 14, 14)
    assert token_grid(196, (224, 224), 1) == (0, 14, 14)  # a layer before the class token
    assert token_grid(49, (224, 224), None) == (0, 7, 7)
    assert token_grid(1 + 14 * 28, (224, 448), None) == (1, 14, 28)
