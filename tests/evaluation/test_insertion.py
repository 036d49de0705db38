"""Insertion and deletion, by hand on four pixels and against plain loops."""

from __future__ import annotations

import math
from typing import Any

import numpy as np
import pytest
import torch
import torch.nn.functional as F
from torch import Tensor, nn

from ttame.classifiers.specs import BackboneSpec
from ttame.errors import TTameError
from ttame.evaluation.insertion import InsertionScores, insertion_deletion
from ttame.evaluation.road import area_under_curve, pixel_places
from ttame.masking import normalize_maps

SPEC = BackboneSpec(
    name="toy", build=None, weights=None, layers=(), head="", input_size=(8, 8),
    mean=(0.2, 0.3, 0.4), std=(0.5, 0.6, 0.7), classes=("a", "b", "c"),
)  # fmt: skip
WEIGHT = torch.tensor([[2.0, -1.0, 0.5], [-0.5, 1.5, 1.0], [0.3, 0.2, -2.0]])


class MeanColour(nn.Module):
    """Logits are a linear function of the mean colour; remembers the sizes of its batches."""

    def __init__(self) -> None:
        super().__init__()
        self.batches: list[int] = []

    def forward(self, images: Tensor) -> Tensor:
        self.batches.append(len(images))
        return 3 * images.mean(dim=(2, 3)) @ WEIGHT.T


class RedSum(nn.Module):
    """Odds of class 0 are two to the power of the sum of red."""

    def forward(self, images: Tensor) -> Tensor:
        total = math.log(2) * images[:, 0].sum(dim=(1, 2))
        return torch.stack([total, torch.zeros_like(total)], dim=1)


def batch(count: int = 3, height: int = 8, width: int = 6) -> tuple[Tensor, Tensor, Tensor]:
    """Photos, maps of the photos' size without ties, and targets."""
    generator = torch.Generator().manual_seed(5)
    images = torch.randn(count, 3, height, width, generator=generator)
    ranks = [torch.randperm(height * width, generator=generator) for _ in range(count)]
    maps = torch.stack(ranks).view(count, 1, height, width).float() - 7
    return images, maps, torch.arange(count) % 3


def measure(*arguments: Any, **options: Any) -> InsertionScores:
    return insertion_deletion(MeanColour(), SPEC, *arguments, **{"blur": (3, 1.0), **options})


def odds(*sums: float) -> list[float]:
    return [2**total / (1 + 2**total) for total in sums]


def test_four_pixels_by_hand() -> None:
    images = torch.zeros(1, 3, 2, 2)
    images[0, 0] = torch.tensor([[4.0, 3.0], [2.0, 1.0]])
    maps = torch.tensor([[[[0.1, 0.9], [0.5, 0.3]]]])  # the order is 3, 2, 1, 4
    # So wide a Gaussian weighs its 3x3 pixels alike; with reflected edges a pixel keeps a ninth
    # of itself, two of each direct neighbour, four of the diagonal one.
    # Red blurred: [[2, 7/3], [8/3, 3]], sum 10.
    scores = insertion_deletion(
        RedSum(), SPEC, images, maps, torch.tensor([0]), steps=4, blur=(3, 1e4)
    )
    deleted = odds(10, 7, 5, 4, 0)
    inserted = odds(10, 10 + 3 - 7 / 3, 10 + 5 - 15 / 3, 10 + 6 - 24 / 3, 10)
    assert scores.deletion[0].tolist() == pytest.approx(deleted, abs=1e-5)
    assert scores.insertion[0].tolist() == pytest.approx(inserted, abs=1e-5)
    # The other class has the rest.
    other = insertion_deletion(
        RedSum(), SPEC, images, maps, torch.tensor([1]), steps=4, blur=(3, 1e4)
    )
    assert other.deletion[0].tolist() == pytest.approx([1 - p for p in deleted], abs=1e-5)
    area = area_under_curve(scores.deletion, [0, 0.25, 0.5, 0.75, 1])
    assert float(area) == pytest.approx((sum(deleted) - (deleted[0] + deleted[-1]) / 2) / 4)


# Against loops


def slow_blur(image: np.ndarray, kernel: int, sigma: float) -> np.ndarray:
    """A Gaussian over mirrored edges, pixel by pixel."""
    reach = kernel // 2
    weights = [math.exp(-0.5 * (step / sigma) ** 2) for step in range(-reach, reach + 1)]
    _, height, width = image.shape
    found = np.zeros_like(image)
    for y in range(height):
        for x in range(width):
            for down, a in enumerate(weights):
                for right, b in enumerate(weights):
                    row, column = abs(y + down - reach), abs(x + right - reach)
                    row = 2 * (height - 1) - row if row >= height else row
                    column = 2 * (width - 1) - column if column >= width else column
                    found[:, y, x] += a * b * image[:, row, column]
    return found / sum(weights) ** 2


def slow_probability(image: np.ndarray, target: int) -> float:
    colour = [float(np.mean(channel)) for channel in image]
    scores = [
        math.exp(sum(3 * weight * value for weight, value in zip(row, colour, strict=True)))
        for row in WEIGHT.tolist()
    ]
    return scores[target] / sum(scores)


@pytest.mark.parametrize("baseline", ["mean", "black"])
@pytest.mark.parametrize("blur", [(3, 1.0), (11, 5.0)], ids=str)
@pytest.mark.parametrize("steps", [1, 5, 48])
def test_curves_against_loops(steps: int, blur: tuple[int, float], baseline: Any) -> None:
    images, maps, targets = batch()
    images, maps = images.repeat(1, 1, 1, 2), torch.cat([maps, maps + 0.5], dim=-1)
    scores = measure(images, maps, targets, steps=steps, blur=blur, baseline=baseline)
    blank = [0.0] * 3
    if baseline == "black":
        blank = [-mean / std for mean, std in zip(SPEC.mean, SPEC.std, strict=True)]
    assert scores.insertion.shape == scores.deletion.shape == (3, steps + 1)
    for photo in range(3):
        pixels = images[photo].double().numpy()
        places = [(y, x) for y in range(8) for x in range(12)]
        places.sort(key=lambda place: float(maps[photo, 0][place]), reverse=True)
        blurred = slow_blur(pixels, *blur)
        for step in range(0, steps + 1, 12 if steps == 48 else 1):
            inserted, deleted = blurred.copy(), pixels.copy()
            for y, x in places[: round(step / steps * 96)]:
                inserted[:, y, x] = pixels[:, y, x]
                deleted[:, y, x] = blank
            target = int(targets[photo])
            for found, image in ((scores.insertion, inserted), (scores.deletion, deleted)):
                expected = slow_probability(image, target)
                assert float(found[photo, step]) == pytest.approx(expected, abs=1e-5)


def test_coarse_maps_are_scaled_and_upsampled_first() -> None:
    images, _, targets = batch(height=8, width=12)
    maps = torch.randn(3, 1, 3, 4, generator=torch.Generator().manual_seed(6))
    fine = F.interpolate(normalize_maps(maps), size=(8, 12), mode="bilinear", align_corners=False)
    found, expected = measure(images, maps, targets), measure(images, fine, targets)
    assert torch.allclose(found.insertion, expected.insertion, atol=1e-6)
    assert torch.allclose(found.deletion, expected.deletion, atol=1e-6)


# What must hold of every call


def test_endpoints_are_shared_and_the_photo_is_classified_once() -> None:
    images, maps, targets = batch()
    classifier = MeanColour()
    scores = insertion_deletion(
        classifier, SPEC, images, maps, targets, steps=10, blur=(5, 2.0), chunk=16
    )
    assert sum(classifier.batches) == 3 * 21
    assert max(classifier.batches) == 16
    whole = MeanColour()(images).softmax(dim=1).gather(1, targets[:, None])[:, 0]
    assert torch.allclose(scores.deletion[:, 0], whole, atol=1e-6)
    assert torch.equal(scores.insertion[:, -1], scores.deletion[:, 0])
    # The blank image has no colour, so no class is preferred.
    assert torch.allclose(scores.deletion[:, -1], torch.tensor(1 / 3))


def test_neither_batch_nor_chunk_matters() -> None:
    images, maps, targets = batch()
    together = measure(images, maps, targets, steps=7)
    for chunk in (1, 4, 1000):
        other = measure(images, maps, targets, steps=7, chunk=chunk)
        assert torch.allclose(other.insertion, together.insertion, atol=1e-6)
        assert torch.allclose(other.deletion, together.deletion, atol=1e-6)
    for index in range(3):
        part = slice(index, index + 1)
        alone = measure(images[part], maps[part], targets[part], steps=7)
        assert torch.allclose(alone.insertion, together.insertion[part], atol=1e-6)
        assert torch.allclose(alone.deletion, together.deletion[part], atol=1e-6)


def test_ties_are_broken_by_the_seed_alike_for_every_photo() -> None:
    images, maps, targets = batch(1)
    images, targets = images.expand(2, -1, -1, -1), targets.expand(2)
    flat = torch.full((2, 1, 4, 3), 0.5)  # a degenerate map ranks by the shuffle alone
    found = measure(images, flat, targets, steps=6, seed=1)
    assert torch.equal(found.deletion[0], found.deletion[1])
    assert torch.equal(found.deletion, measure(images, flat, targets, steps=6, seed=1).deletion)
    assert not torch.allclose(
        found.deletion, measure(images, flat, targets, steps=6, seed=2).deletion, atol=1e-4
    )
    # Without ties the seed has no say.
    distinct = maps.expand(2, -1, -1, -1)
    assert torch.equal(
        measure(images, distinct, targets, seed=1).deletion,
        measure(images, distinct, targets, seed=2).deletion,
    )


def test_more_steps_than_pixels_repeat_columns() -> None:
    images, maps, targets = batch(2, 4, 4)
    found = measure(images, maps, targets, steps=32).insertion
    once = measure(images, maps, targets, steps=16).insertion
    assert torch.allclose(found[:, ::2], once, atol=1e-6)


def test_nothing_outside_is_changed() -> None:
    images, maps, targets = batch()
    copies = [tensor.clone() for tensor in (images, maps, targets)]
    state = torch.random.get_rng_state()
    scores = measure(images, maps, targets)
    assert all(map(torch.equal, copies, (images, maps, targets)))
    assert torch.equal(state, torch.random.get_rng_state())
    assert not scores.insertion.requires_grad and scores.insertion.dtype == torch.float32


def test_places_are_the_inverse_of_the_ranking() -> None:
    images = torch.zeros(1, 3, 2, 3)
    maps = torch.tensor([[[[0.3, 0.9, 0.1], [0.5, 0.2, 0.7]]]])
    places = pixel_places(images, maps, torch.tensor([0]))
    assert places.tolist() == [[3, 0, 5, 2, 4, 1]]


@pytest.mark.parametrize(
    ("options", "message"),
    [
        ({"steps": 0}, "steps must be 1 or more, got 0"),
        ({"chunk": 0}, "chunk must be 1 or more, got 0"),
        ({"baseline": "grey"}, "baseline 'grey'.*'mean' or 'black'"),
        ({"blur": (4, 1.0)}, r"odd.*\(4, 1.0\)"),
        ({"blur": (3, 0.0)}, "positive sigma"),
        ({"blur": (3, float("nan"))}, "positive sigma"),
        ({"blur": (13, 5.0)}, "less than twice"),  # beyond a reflection of 6 pixels
    ],
    ids=str,
)
def test_bad_options_are_refused(options: dict[str, Any], message: str) -> None:
    with pytest.raises(TTameError, match=message):
        measure(*batch(), **options)


@pytest.mark.parametrize("value", [float("nan"), float("inf")])
def test_maps_that_are_not_finite_are_refused(value: float) -> None:
    images, maps, targets = batch()
    maps[1, 0, 2, 2] = value
    with pytest.raises(TTameError, match="NaN or infinite"):
        measure(images, maps, targets)


def test_lengths_must_agree() -> None:
    images, maps, targets = batch()
    for bad in (
        (images[:2], maps, targets),
        (images, maps[:2], targets),
        (images, maps, targets[:2]),
        (images, maps.expand(-1, 2, -1, -1), targets),
        (images, maps[:, 0], targets),
    ):
        with pytest.raises(TTameError, match="agree in batch"):
            measure(*bad)
