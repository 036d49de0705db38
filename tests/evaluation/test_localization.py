"""Pointing game and mask energy: by hand on 4x4 maps, and against plain loops."""

from __future__ import annotations

from math import dist
from typing import Any

import pytest
import torch
from torch import Tensor

from ttame.errors import TTameError
from ttame.evaluation.localization import (
    box_masks,
    mask_energy,
    mask_share,
    pointing_chance,
    pointing_game,
    positive_share,
)
from ttame.masking import rank_pixels


def one_peak(row: int, column: int, size: int = 4) -> Tensor:
    maps = torch.zeros(1, 1, size, size)
    maps[..., row, column] = 5
    return maps


def corner(size: int = 4) -> Tensor:
    """The top left pixel is the object."""
    masks = torch.zeros(1, 1, size, size, dtype=torch.bool)
    masks[..., 0, 0] = True
    return masks


def random_case() -> tuple[Tensor, Tensor]:
    generator = torch.Generator().manual_seed(3)
    maps = torch.randn(5, 1, 12, 9, generator=generator) * 3 - 2
    masks = torch.rand(5, 1, 12, 9, generator=generator) > 0.93
    masks[:, :, 4, 4] = True
    masks[0, 0].view(-1)[maps[0].argmax()] = True
    return maps, masks


def test_boxes_by_hand() -> None:
    masks = box_masks([[(1, 0, 3, 2)], [(0, 0, 1, 1), (2.5, 3.2, 4, 4)]], (4, 4))
    assert masks.shape == (2, 1, 4, 4) and masks.dtype == torch.bool
    assert masks[0, 0].int().tolist() == [[0, 1, 1, 0], [0, 1, 1, 0], [0] * 4, [0] * 4]
    assert masks[1, 0].int().tolist() == [[1, 0, 0, 0], [0] * 4, [0] * 4, [0, 0, 1, 1]]
    assert bool(box_masks([[(0, 0, 5, 3)]], (3, 5)).all())  # height first in size, x first here


@pytest.mark.parametrize(
    ("boxes", "message"),
    [
        ([[(0, 0, 1, 1)], []], "sample 1 has no box"),
        ([[(0, 0, 1)]], "four numbers"),
        ([(0, 0, 1, 1)], "four numbers"),
        ([[(0, 0, 6, 1)]], "sample 0.*<= 5"),
        ([[(0, 0, 1, 4)]], "<= 3"),
        ([[(-1, 0, 1, 1)]], "-1.0"),
        ([[(2, 0, 2, 1)]], "corners in order"),
        ([[(0, 2, 1, 1)]], "corners in order"),
        ([[(float("nan"), 0, 1, 1)]], "nan"),
    ],
    ids=str,
)
def test_bad_boxes_are_refused(boxes: Any, message: str) -> None:
    with pytest.raises(TTameError, match=message):
        box_masks(boxes, (3, 5))


@pytest.mark.parametrize(
    ("row", "column", "tolerance", "hit"),
    [
        (0, 0, 0, True),
        (0, 1, 0, False),
        (0, 1, 1, True),
        (1, 1, 1, False),  # a circle, no square: the root of 2
        (1, 1, 1.5, True),
        (3, 3, 4.2, False),  # the root of 18 is 4.243
        (3, 3, 4.25, True),
        (3, 0, 3, True),
    ],
)
def test_pointing_by_hand(row: int, column: int, tolerance: float, hit: bool) -> None:
    assert pointing_game(one_peak(row, column), corner(), tolerance).tolist() == [100.0 * hit]


def test_pointing_happens_on_the_enlarged_map() -> None:
    # The hot cell of the 2x2 map becomes a plateau about the last pixel of the 8x8 image.
    maps = torch.tensor([[[[0.0, 0.0], [0.0, 1.0]]]])
    masks = torch.zeros(1, 1, 8, 8, dtype=torch.bool)
    masks[..., 6:, 6:] = True
    assert pointing_game(maps, masks, 0).tolist() == [100.0]
    assert pointing_game(maps.flip(-1), masks, 3).tolist() == [0.0]


@pytest.mark.parametrize("tolerance", [0, 1, 2.5])
def test_pointing_against_loops(tolerance: float) -> None:
    maps, masks = random_case()
    found = pointing_game(maps, masks, tolerance)
    shares = pointing_chance(masks, tolerance)
    for index in range(len(maps)):
        places = [(y, x) for y in range(12) for x in range(9)]
        peak = max(places, key=lambda place: float(maps[index, 0][place]))
        hits = [
            any(bool(masks[index, 0][end]) and dist(start, end) <= tolerance for end in places)
            for start in places
        ]
        assert float(found[index]) == 100 * hits[places.index(peak)]
        assert float(shares[index]) == pytest.approx(100 * sum(hits) / len(hits), abs=1e-4)
    assert float(found[0]) == 100  # by construction
    assert tolerance > 0 or 0.0 in found.tolist()


def test_equal_maxima_are_drawn_by_the_seed() -> None:
    masks = box_masks([[(0, 0, 4, 8)]], (8, 8))
    equal = torch.ones(1, 1, 8, 8)
    equal[..., 7, 7] = 0
    found = []
    for seed in range(20):
        pixel = int(rank_pixels(equal, seed)[0, 0, 0])
        found.append(float(pointing_game(equal, masks, 0, seed)[0]))
        assert found[-1] == 100 * (pixel % 8 < 4)
    assert set(found) == {0.0, 100.0}


def test_a_constant_map_points_as_well_as_chance() -> None:
    masks = box_masks([[(0, 0, 2, 8)], [(0, 0, 8, 8)], [(0, 0, 4, 8)]], (8, 8))
    maps = torch.full((3, 1, 3, 3), 0.3)  # enlarging would round this value
    maps[2, 0, 1, 2] = 1.0
    assert pointing_game(maps, masks, 0).tolist() == [25.0, 100.0, 0.0]
    # Within one pixel: three columns of eight.
    assert pointing_game(maps[:1], masks[:1], 1).tolist() == [37.5]


def test_energy_by_hand() -> None:
    maps = torch.tensor([[[[3.0, 1.0], [2.0, 1.0]]]])  # scaled: 1, 0, 1/2, 0
    masks = torch.tensor([[[[True, True], [False, False]]]])
    assert mask_energy(maps, masks).tolist() == pytest.approx([100 / 1.5])
    assert mask_energy(maps * 7 - 100, masks).tolist() == pytest.approx([100 / 1.5])
    assert mask_energy(one_peak(0, 0), corner()).tolist() == [100.0]
    assert mask_energy(one_peak(0, 1), corner()).tolist() == [0.0]


def test_positive_share_by_hand() -> None:
    maps = torch.tensor([[[[3.0, 1.0], [2.0, -4.0]]]])
    masks = torch.tensor([[[[True, True], [False, False]]]])
    assert positive_share(maps, masks).tolist() == pytest.approx([100 * 4 / 6])
    # The map's own zero counts: a shift moves the share, a factor does not.
    assert positive_share(maps * 7, masks).tolist() == pytest.approx([100 * 4 / 6])
    assert positive_share(maps + 5, masks).tolist() == pytest.approx([100 * 14 / 22])
    assert positive_share(maps - 10, masks).tolist() == [50.0]  # nothing positive is left


def test_positive_share_against_loops() -> None:
    maps, masks = random_case()
    found = positive_share(maps, masks)
    for index in range(len(maps)):
        values = [max(0.0, float(value)) for value in maps[index].flatten()]
        inside = sum(v for v, m in zip(values, masks[index].flatten(), strict=True) if m)
        assert float(found[index]) == pytest.approx(100 * inside / sum(values), abs=1e-4)


def test_energy_against_loops() -> None:
    maps, masks = random_case()
    found = mask_energy(maps, masks)
    for index in range(len(maps)):
        low, high = float(maps[index].min()), float(maps[index].max())
        inside = total = 0.0
        for y in range(12):
            for x in range(9):
                value = (float(maps[index, 0, y, x]) - low) / (high - low)
                total += value
                inside += value * bool(masks[index, 0, y, x])
        assert float(found[index]) == pytest.approx(100 * inside / total, abs=1e-4)


def test_energy_is_scaled_before_it_is_enlarged() -> None:
    maps = torch.tensor([[[[0.0, 4.0]]]])
    masks = torch.zeros(1, 1, 2, 4, dtype=torch.bool)
    masks[..., 3] = True  # columns become 0, 1/4, 3/4, 1
    assert mask_energy(maps, masks).tolist() == pytest.approx([50.0])


@pytest.mark.parametrize("value", [0.0, 1.0, -3.0, 0.3])
def test_constant_maps_score_the_area(value: float) -> None:
    masks = box_masks([[(0, 0, 1, 3)]], (3, 7))
    assert mask_share(masks).tolist() == pytest.approx([100 / 7])
    for function in (mask_energy, positive_share):
        found = function(torch.full((1, 1, 5, 5), value), masks)
        assert found.tolist() == pytest.approx([100 / 7])


def test_a_peak_lost_in_shrinking_is_no_nan() -> None:
    assert mask_energy(one_peak(0, 0, 64), corner()).tolist() == pytest.approx([100 / 16])


@pytest.mark.parametrize("function", [pointing_game, mask_energy, positive_share])
def test_results_do_not_depend_on_the_batch(function: Any) -> None:
    maps, masks = random_case()
    kept = maps.clone(), masks.clone()
    together = function(maps, masks)
    alone = [function(maps[i : i + 1], masks[i : i + 1]) for i in range(len(maps))]
    assert torch.allclose(together, torch.cat(alone), atol=1e-4)
    assert together.dtype == torch.float32
    assert torch.equal(maps, kept[0]) and torch.equal(masks, kept[1])


def test_a_quarter_of_the_pixels_is_a_quarter_of_the_chance() -> None:
    left = torch.tensor([[[[True, False], [False, False]]]]).expand(4, -1, -1, -1)
    hit, miss = one_peak(0, 0, 2), one_peak(1, 1, 2)
    maps = torch.cat([hit, miss, miss, hit])
    assert pointing_game(maps, left, tolerance=0).tolist() == [100.0, 0.0, 0.0, 100.0]
    assert mask_energy(maps, left).tolist() == [100.0, 0.0, 0.0, 100.0]
    assert pointing_chance(left, tolerance=0).tolist() == mask_share(left).tolist() == [25.0] * 4


def test_the_paper_tolerance_is_the_default() -> None:
    masks = corner(32)
    found = [pointing_game(one_peak(0, column, 32), masks) for column in (15, 16)]
    assert torch.cat(found).tolist() == [100.0, 0.0]


@pytest.mark.parametrize("function", [pointing_game, mask_energy, positive_share])
def test_bad_input_is_refused(function: Any) -> None:
    maps, masks = random_case()
    broken = maps.clone()
    broken[2, 0, 1, 1] = float("nan")
    empty = masks.clone()
    empty[3] = False
    cases = [
        ((broken, masks), "NaN or infinite"),
        ((maps, empty), "sample 3 is empty"),
        ((maps, masks.float()), "bool"),
        ((maps, masks[:, 0]), r"\(B, 1, H, W\)"),
        ((maps[:4], masks), "one mask per map"),
        ((maps[:, 0], masks), "one mask per map"),
    ]
    for arguments, message in cases:
        with pytest.raises(TTameError, match=message):
            function(*arguments)


@pytest.mark.parametrize("tolerance", [-1, float("nan"), float("inf")])
def test_bad_tolerances_are_refused(tolerance: float) -> None:
    maps, masks = random_case()
    for call in (
        lambda: pointing_game(maps, masks, tolerance),
        lambda: pointing_chance(masks, tolerance),
    ):
        with pytest.raises(TTameError, match="tolerance"):
            call()
    for function in (mask_share, pointing_chance):
        with pytest.raises(TTameError, match="empty"):
            function(torch.zeros(1, 1, 4, 4, dtype=torch.bool))
