"""Mosaics: cells, composition and drawing, with a classifier that knows plain colours."""

from __future__ import annotations

from collections.abc import Callable
from dataclasses import replace
from math import exp
from pathlib import Path

import pytest
import torch
from torch import Tensor

from tests.helpers.colours import COLOURS, colour_explainer, save_colours
from ttame.errors import TTameError
from ttame.evaluation.mosaics import (
    Mosaic,
    alone,
    cell_masks,
    compose,
    draw_mosaics,
    grid_cells,
)
from ttame.explainer import Explainer
from ttame.images import denormalize

Draw = Callable[..., list[Mosaic]]


@pytest.fixture
def draw(tmp_path: Path) -> Draw:
    """Draw mosaics from photos of these colours."""

    def run(*colours: str, **options: object) -> list[Mosaic]:
        photos = save_colours(tmp_path / "photos", colours)
        return draw_mosaics(colour_explainer(), photos, **options)  # type: ignore[arg-type]

    return run


def test_cells_by_hand() -> None:
    top, bottom, left, right = slice(0, 2), slice(2, 4), slice(0, 3), slice(3, 6)
    assert grid_cells((4, 6), 2) == [(top, left), (top, right), (bottom, left), (bottom, right)]
    # 224 is no multiple of 3: sides of 75, 74 and 75 pixels, nothing left over.
    assert [rows for rows, _ in grid_cells((224, 224), 3)][::3] == [
        slice(0, 75), slice(75, 149), slice(149, 224),
    ]  # fmt: skip


@pytest.mark.parametrize(("size", "grid"), [((32, 32), 2), ((32, 48), 3), ((7, 5), 4)])
def test_masks_divide_the_image(size: tuple[int, int], grid: int) -> None:
    masks = cell_masks(size, grid)
    assert masks.shape == (grid**2, 1, *size) and masks.dtype == torch.bool
    assert torch.equal(masks.sum(dim=0), torch.ones(1, *size, dtype=torch.int64))
    areas = masks.flatten(1).sum(dim=1)
    assert areas.min() >= (size[0] // grid) * (size[1] // grid)
    assert areas.float().mean() == size[0] * size[1] / grid**2


@pytest.mark.parametrize("grid", [1, 0, 6])
def test_grids_that_cannot_be_are_refused(grid: int) -> None:
    with pytest.raises(TTameError, match=f"2 to 5 photos.*7x5.*got {grid}"):
        grid_cells((7, 5), grid)


def test_a_mosaic_by_hand() -> None:
    ramp = torch.arange(8.0).expand(3, 8, 8)
    flat = [torch.full((3, 8, 8), value) for value in (1.0, 2.0, 3.0)]
    images = torch.stack([*flat, ramp])
    kept = images.clone()
    mosaic = compose(images, 2)
    assert mosaic.shape == (3, 8, 8)
    assert [float(mosaic[0, y, x]) for y, x in ((0, 0), (3, 4), (4, 3))] == [1, 2, 3]
    # Halving a ramp: means of pairs inside, where the triangle of the filter is whole.
    assert mosaic[1, 5, 5:7].tolist() == pytest.approx([2.5, 4.5])
    assert torch.equal(images, kept)
    with pytest.raises(TTameError, match="2x2 mosaic has 4 photos, got 3"):
        compose(images[:3], 2)


@pytest.mark.parametrize("space", ["raw", "normalized"])
def test_a_photo_alone_by_hand(explainer: Explainer, images: Tensor, space: str) -> None:
    spec = replace(explainer.spec, space=space)  # type: ignore[arg-type]
    shown = denormalize(alone(images, spec, 2), spec)
    small = torch.nn.functional.interpolate(
        denormalize(images, spec), size=(16, 16), mode="bilinear", antialias=True
    )
    assert torch.allclose(shown[..., 8:24, 8:24], small, atol=1e-5)
    black = torch.zeros(1, 3, 32, 32)
    nothing = black if space == "raw" else denormalize(black, spec)
    outside = torch.ones(32, 32, dtype=torch.bool)
    outside[8:24, 8:24] = False
    assert torch.allclose(
        shown[..., outside], nothing.expand(6, -1, -1, -1)[..., outside], atol=1e-6
    )


def test_photos_join_the_first_mosaic_that_lacks_their_class(draw: Draw) -> None:
    found = draw("red", "red", "green", "grey", "blue", "green", "white", "blue", "white", "red")
    red, green, blue, white = (COLOURS.index(name) for name in ("red", "green", "blue", "white"))
    # The grey photo is of no colour; the last red one finds no three others.
    assert found == [
        Mosaic((0, 2, 4, 6), (red, green, blue, white)),
        Mosaic((1, 5, 7, 8), (red, green, blue, white)),
    ]


@pytest.mark.parametrize("batch_size", [1, 3, 16])
def test_drawing_stops_at_the_count_whatever_the_batch(draw: Draw, batch_size: int) -> None:
    colours = ("red", "red", "green", "green", "blue", "blue", "white", "white")
    assert [mosaic.photos for mosaic in draw(*colours, count=1, batch_size=batch_size)] == [
        (0, 2, 4, 6)
    ]


def test_the_threshold_is_that_of_the_photo_as_it_is_shown(draw: Draw) -> None:
    # Of the logits, that of the colour is 40 times its share of the image, a quarter; six are 0.
    probability = exp(10) / (exp(10) + len(COLOURS) - 1)
    four = ("red", "green", "blue", "white")
    assert len(draw(*four, threshold=probability - 1e-5)) == 1
    with pytest.raises(TTameError, match="sure of 0"):
        draw(*four, threshold=probability + 1e-5)


def test_three_to_a_side_are_smaller(draw: Draw) -> None:
    # A cell of 10 x 10 pixels of 32 x 32; seven colours do not fill nine cells.
    probability = exp(40 * 100 / 1024) / (exp(40 * 100 / 1024) + len(COLOURS) - 1)
    for threshold, sure in ((probability - 1e-5, 7), (probability + 1e-5, 0)):
        with pytest.raises(TTameError, match=f"sure of {sure} .*of {sure} classes.*takes 9 of"):
            draw(*COLOURS, grid=3, threshold=threshold)


@pytest.mark.parametrize(
    ("colours", "options", "message"),
    [
        (("red", "green", "grey", "red"), {}, "0 mosaics of 2x2.*not one: of 4 photos.*sure of 3"),
        (("red", "green", "grey", "red"), {}, "0.9 or more.*of 2 classes.*takes 4 of different"),
        (("red", "green", "blue", "white"), {"count": 2}, "1 mosaics.*not 2: of 4 photos"),
        (("red",), {"count": 0}, "count must be 1 or more, got 0"),
        (("red",), {"batch_size": 0}, "batch_size must be 1 or more, got 0"),
        (("red",), {"threshold": 0.0}, r"\(0, 1\], got 0.0"),
        (("red",), {"threshold": float("nan")}, r"\(0, 1\], got nan"),
        (("red",), {"grid": 1}, "2 to 32 photos.*got 1"),
    ],
)
def test_what_cannot_be_drawn_is_said(
    draw: Draw, colours: tuple[str, ...], options: dict[str, object], message: str
) -> None:
    with pytest.raises(TTameError, match=message):
        draw(*colours, **options)
