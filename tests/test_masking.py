"""Normalising, upsampling, ranking, keeping and applying masks."""

from __future__ import annotations

import pytest
import torch
from hypothesis import given, settings
from hypothesis import strategies as st
from torch import Tensor

from ttame.classifiers.specs import IMAGENET_MEAN, IMAGENET_STD, BackboneSpec
from ttame.errors import TTameError
from ttame.masking import (
    Space,
    apply_mask,
    channel_tensor,
    degenerate,
    enlarge,
    fill_blurred,
    keep_top,
    normalize_maps,
    rank_pixels,
    upsample,
)


def test_normalize_maps_by_hand() -> None:
    maps = torch.tensor([[[[-1.0, 0.0], [1.0, 3.0]]], [[[10.0, 20.0], [30.0, 10.0]]]])
    expected = torch.tensor([[[[0.0, 0.25], [0.5, 1.0]]], [[[0.0, 0.5], [1.0, 0.0]]]])
    assert torch.allclose(normalize_maps(maps), expected)


def test_every_map_is_normalized_by_itself() -> None:
    maps = torch.randn(3, 2, 4, 5) * torch.tensor([1.0, 100.0])[:, None, None]
    together = normalize_maps(maps)
    for image in range(3):
        for target in range(2):
            assert torch.equal(together[image, target], normalize_maps(maps[image, target]))
    assert torch.equal(together.amin(dim=(-2, -1)), torch.zeros(3, 2))
    assert torch.equal(together.amax(dim=(-2, -1)), torch.ones(3, 2))


def test_normalize_maps_leaves_its_argument_alone() -> None:
    maps = torch.randn(2, 1, 3, 3)
    before = maps.clone()
    normalize_maps(maps).mul_(0)
    assert torch.equal(maps, before)


@pytest.mark.parametrize(("value", "expected"), [(1.0, 1.0), (0.4, 0.4), (7.0, 1.0), (-2.0, 0.0)])
def test_constant_maps_keep_their_value(value: float, expected: float) -> None:
    maps = torch.stack([torch.full((1, 3, 3), value), torch.arange(9.0).view(1, 3, 3)])
    normalized = normalize_maps(maps)
    assert torch.equal(normalized[0], torch.full((1, 3, 3), expected))
    assert torch.equal(normalized[1], torch.arange(9.0).view(1, 3, 3) / 8)


def test_degenerate_finds_constant_and_non_finite_maps() -> None:
    good = torch.tensor([[0.0, 1.0], [2.0, 3.0]])
    constant = torch.full((2, 2), 0.7)
    holed = torch.tensor([[0.0, float("nan")], [2.0, 3.0]])
    endless = torch.tensor([[0.0, float("inf")], [2.0, 3.0]])
    maps = torch.stack([good, constant, holed, endless])[:, None]
    assert degenerate(maps).tolist() == [[False], [True], [True], [True]]


def test_upsample_by_hand() -> None:
    maps = torch.tensor([[[[0.0, 4.0]]]])
    # Pixel centres: a quarter and three quarters of the way, clamped at the ends.
    assert torch.allclose(upsample(maps, (1, 4)), torch.tensor([[[[0.0, 1.0, 3.0, 4.0]]]]))
    square = torch.tensor([[[[0.0, 4.0], [8.0, 12.0]]]])
    grown = upsample(square, (4, 4))
    assert float(grown[0, 0, 1, 1]) == pytest.approx(0.25 * 4 + 0.25 * 8)
    assert float(grown[0, 0, 0, 0]) == 0.0


def test_upsample_goes_to_non_square_sizes_and_keeps_an_equal_one() -> None:
    maps = torch.rand(2, 3, 4, 5)
    assert upsample(maps, (9, 21)).shape == (2, 3, 9, 21)
    assert torch.equal(upsample(maps, (4, 5)), maps)


def test_enlarging_keeps_what_ranks_and_makes_the_rest_ones() -> None:
    maps = torch.stack([torch.tensor([[[0.0, 4.0]]]), torch.full((1, 1, 2), 0.3)])
    found = enlarge(maps, (1, 4))
    assert found.tolist() == [[[[0.0, 1.0, 3.0, 4.0]]], [[[1.0] * 4]]]
    peak = torch.zeros(1, 1, 1, 64)
    peak[..., 0] = 5  # between the pixels that shrinking reads
    assert enlarge(peak, (1, 4)).tolist() == [[[[1.0] * 4]]]


def test_rank_pixels_is_a_sorted_permutation() -> None:
    masks = torch.rand(3, 1, 5, 7)
    order = rank_pixels(masks)
    assert order.shape == (3, 1, 35)
    assert torch.equal(order.sort(dim=-1).values, torch.arange(35).expand(3, 1, 35))
    ranked = masks.flatten(-2).gather(-1, order)
    assert bool((ranked.diff(dim=-1) <= 0).all())


def test_ties_are_broken_by_the_seed_alone() -> None:
    flat = torch.ones(4, 1, 6, 6)
    first = rank_pixels(flat, seed=3)
    assert torch.equal(first, rank_pixels(flat, seed=3))
    assert torch.equal(first, first[:1].expand_as(first))
    assert not torch.equal(first, rank_pixels(flat, seed=4))
    # No reading order: the first row must not win the ties.
    assert not torch.equal(first[0, 0], torch.arange(36))


def test_ranking_does_not_depend_on_the_batch() -> None:
    masks = torch.randint(0, 3, (5, 1, 6, 4)).float()
    together = rank_pixels(masks)
    for index in range(5):
        assert torch.equal(rank_pixels(masks[index : index + 1]), together[index : index + 1])


@settings(max_examples=150, deadline=None)
@given(
    height=st.integers(1, 9),
    width=st.integers(1, 9),
    fraction=st.floats(0, 1, exclude_min=True),
    levels=st.integers(1, 4),
    seed=st.integers(0, 1000),
)
def test_keep_top_keeps_exactly_the_share_whatever_the_ties(
    height: int, width: int, fraction: float, levels: int, seed: int
) -> None:
    generator = torch.Generator().manual_seed(seed)
    masks = torch.randint(1, levels + 1, (2, 1, height, width), generator=generator).float()
    kept = keep_top(masks, fraction, seed)
    assert kept.shape == masks.shape
    for before, after in zip(masks, kept, strict=True):
        chosen = after > 0
        assert int(chosen.sum()) == round(fraction * height * width)
        assert torch.equal(after[chosen], before[chosen])  # values stay soft
        if bool(chosen.any()) and not bool(chosen.all()):
            assert before[chosen].min() >= before[~chosen].max()
        ranked = rank_pixels(before, seed)[0, : int(chosen.sum())]
        assert torch.equal(ranked.sort().values, chosen.flatten().nonzero().flatten())


@pytest.mark.parametrize(("fraction", "count"), [(0.15, 24), (0.5, 80), (1.0, 160)])
def test_keep_top_counts_of_the_protocol(fraction: float, count: int) -> None:
    masks = torch.rand(3, 1, 10, 16) + 0.1
    kept = keep_top(masks, fraction)
    assert (kept > 0).sum(dim=(-2, -1)).flatten().tolist() == [count] * 3


def test_keep_top_picks_by_value_and_does_not_change_its_argument() -> None:
    masks = torch.tensor([[[[0.1, 0.9, 0.3], [0.8, 0.2, 0.7]]]])
    before = masks.clone()
    expected = torch.tensor([[[[0.0, 0.9, 0.0], [0.8, 0.0, 0.7]]]])
    assert torch.equal(keep_top(masks, 0.5), expected)
    assert torch.equal(masks, before)


@pytest.mark.parametrize("fraction", [0, -0.1, 1.01, 15, float("nan")])
def test_a_fraction_outside_its_range_is_refused(fraction: float) -> None:
    with pytest.raises(TTameError, match=r"\(0, 1\]"):
        keep_top(torch.rand(1, 1, 4, 4), fraction)


def two_steps(raw: Tensor, masks: Tensor) -> Tensor:
    mean, std = channel_tensor(IMAGENET_MEAN, raw), channel_tensor(IMAGENET_STD, raw)
    return (raw * masks - mean) / std


def normalized(raw: Tensor) -> Tensor:
    return two_steps(raw, torch.ones(1))


def test_raw_space_is_multiplying_before_normalising() -> None:
    raw, masks = torch.rand(3, 3, 5, 7), torch.rand(3, 1, 5, 7)
    got = apply_mask(normalized(raw), masks, "raw", IMAGENET_MEAN, IMAGENET_STD)
    assert torch.allclose(got, two_steps(raw, masks), atol=1e-6)


def test_normalized_space_is_multiplying_after_normalising() -> None:
    raw, masks = torch.rand(3, 3, 5, 7), torch.rand(3, 1, 5, 7)
    got = apply_mask(normalized(raw), masks, "normalized", IMAGENET_MEAN, IMAGENET_STD)
    assert torch.equal(got, normalized(raw) * masks)


def test_masked_pixels_turn_black_or_mean_coloured() -> None:
    raw, nothing = torch.rand(2, 3, 4, 4), torch.zeros(2, 1, 4, 4)
    black = apply_mask(normalized(raw), nothing, "raw", IMAGENET_MEAN, IMAGENET_STD)
    assert torch.allclose(black, normalized(torch.zeros(2, 3, 4, 4)), atol=1e-6)
    grey = apply_mask(normalized(raw), nothing, "normalized", IMAGENET_MEAN, IMAGENET_STD)
    mean = channel_tensor(IMAGENET_MEAN, raw).expand(2, 3, 4, 4)
    assert torch.allclose(grey, normalized(mean), atol=1e-6)


@pytest.mark.parametrize("space", ["raw", "normalized"])
def test_a_mask_of_ones_changes_nothing_at_all(space: str) -> None:
    images = torch.randn(2, 3, 6, 6)
    ones = torch.ones(2, 1, 6, 6)
    assert torch.equal(
        apply_mask(images, ones, space, IMAGENET_MEAN, IMAGENET_STD),  # type: ignore[arg-type]
        images,
    )


@pytest.mark.parametrize(
    "shape",
    [(1, 1, 8, 8), (3, 1, 8, 8), (2, 1, 4, 4), (2, 1, 8, 4), (2, 3, 8, 8), (2, 8, 8)],
    ids=str,
)
def test_masks_that_do_not_match_the_images_are_refused(shape: tuple[int, ...]) -> None:
    with pytest.raises(TTameError, match="must agree"):
        apply_mask(torch.rand(2, 3, 8, 8), torch.rand(shape), "raw", IMAGENET_MEAN, IMAGENET_STD)


def test_an_unknown_space_is_refused() -> None:
    images, masks = torch.rand(1, 3, 4, 4), torch.rand(1, 1, 4, 4)
    with pytest.raises(TTameError, match=r"'blurred'.*'raw' or 'normalized'"):
        apply_mask(images, masks, "blurred", IMAGENET_MEAN, IMAGENET_STD)  # type: ignore[arg-type]


@pytest.mark.parametrize("space", ["raw", "normalized"])
def test_the_masks_gradient_is_that_of_the_stated_formula(space: Space) -> None:
    images = torch.randn(2, 3, 8, 8, dtype=torch.float64)
    masks = torch.rand(2, 1, 8, 8, dtype=torch.float64, requires_grad=True)
    mean, std = torch.tensor(IMAGENET_MEAN).double(), torch.tensor(IMAGENET_STD).double()
    shift = (mean / std).view(1, 3, 1, 1) * (space == "raw")
    weights = torch.randn(2, 3, 8, 8, dtype=torch.float64)
    masked = apply_mask(images, masks, space, IMAGENET_MEAN, IMAGENET_STD)
    (found,) = torch.autograd.grad((masked * weights).sum(), masks)
    expected = (weights * (images + shift)).sum(dim=1, keepdim=True)
    torch.testing.assert_close(found, expected, rtol=0, atol=1e-5)


# All steps: `BackboneSpec.mask`

PHOTO = torch.linspace(-1, 1, 12).view(1, 3, 2, 2)  # normalised
MASK = torch.tensor([[[[0.2, 0.9], [0.6, 0.4]]]])
TOP_HALF = torch.tensor([[[[0.0, 0.9], [0.6, 0.0]]]])


def spec_of(space: Space) -> BackboneSpec:
    return BackboneSpec(
        name="tiny", build=None, weights=None, layers=(), head="", input_size=(2, 2),
        mean=(0.1, 0.2, 0.3), std=(0.5, 0.4, 0.25), space=space,
    )  # fmt: skip


def test_a_spec_masks_by_hand_in_normalized_space() -> None:
    expected = PHOTO * TOP_HALF
    assert torch.equal(spec_of("normalized").mask(PHOTO, MASK, 0.5), expected)
    assert torch.equal(spec_of("normalized").mask(PHOTO, MASK), PHOTO * MASK)


def test_a_spec_masks_by_hand_in_raw_space() -> None:
    mean = torch.tensor([0.1, 0.2, 0.3]).view(1, 3, 1, 1)
    std = torch.tensor([0.5, 0.4, 0.25]).view(1, 3, 1, 1)
    for share, kept in ((0.5, TOP_HALF), (1.0, MASK)):
        expected = ((PHOTO * std + mean) * kept - mean) / std
        assert torch.allclose(spec_of("raw").mask(PHOTO, MASK, share), expected, atol=1e-6)


@pytest.mark.parametrize("space", ["raw", "normalized"])
def test_a_spec_upsamples_then_keeps_the_top_with_its_seed(space: Space) -> None:
    spec, images = spec_of(space), torch.randn(2, 3, 8, 6)
    masks = torch.tensor([[1.0, 1.0, 0.0], [1.0, 1.0, 0.5]]).expand(2, 1, 2, 3)  # ties at the top
    kept = keep_top(upsample(masks, (8, 6)), 0.25, seed=3)
    expected = apply_mask(images, kept, space, spec.mean, spec.std)
    assert torch.equal(spec.mask(images, masks, 0.25, seed=3), expected)
    assert not torch.equal(spec.mask(images, masks, 0.25, seed=4), expected)


@pytest.mark.parametrize("share", [0.0, -0.5, 1.5, float("nan")])
def test_a_spec_refuses_a_share_outside_its_range(share: float) -> None:
    with pytest.raises(TTameError, match=r"\(0, 1\]"):
        spec_of("raw").mask(PHOTO, MASK, share)


def test_a_spec_refuses_masks_of_another_batch() -> None:
    with pytest.raises(TTameError, match="must agree"):
        spec_of("raw").mask(PHOTO, MASK.repeat(2, 1, 1, 1))


def test_masked_pixels_are_filled_with_the_blurred_image_by_hand() -> None:
    left, right = torch.full((1, 1, 16, 16), 2.0), torch.full((1, 1, 16, 16), 6.0)
    images = torch.cat([left, right], dim=3).repeat(2, 3, 1, 1)
    images[:, :, ::2, ::2] += 0.4  # a pattern that the blur takes away: mean 0.1
    masks = torch.zeros(2, 1, 16, 32)
    masks[1] = 1
    filled = fill_blurred(images, masks)
    assert torch.equal(filled[1], images[1])
    # One coarse cell a half; beyond the centres of the cells the outer ones go on.
    assert torch.allclose(filled[0, :, :, :8], torch.tensor(2.1))
    assert torch.allclose(filled[0, :, :, 24:], torch.tensor(6.1))
    assert torch.allclose(
        filled[0, 0, 0, 15:17], torch.tensor([2.1 + 4 * 7.5 / 16, 2.1 + 4 * 8.5 / 16])
    )
    half = fill_blurred(images, torch.full((2, 1, 16, 32), 0.5))
    assert torch.allclose(half[0], (images[0] + filled[0]) / 2)


def test_images_of_fewer_pixels_than_a_coarse_cell_are_filled_with_their_mean() -> None:
    images = torch.arange(16.0).view(1, 1, 4, 4)
    assert torch.allclose(fill_blurred(images, torch.zeros(1, 1, 4, 4)), torch.tensor(7.5))
