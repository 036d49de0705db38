"""Imputation against an independent dense solve, and ROAD against a slow re-implementation."""

from __future__ import annotations

import numpy as np
import pytest
import torch
import torch.nn.functional as F
from scipy.sparse import csc_matrix
from scipy.sparse.linalg import spsolve
from torch import Tensor, nn

from ttame.classifiers.specs import BackboneSpec
from ttame.errors import TTameError
from ttame.evaluation.imputation import impute
from ttame.evaluation.road import area_under_curve, road

WEIGHTS = {
    (dy, dx): 1 / 6 if dy == 0 or dx == 0 else 1 / 12
    for dy in (-1, 0, 1)
    for dx in (-1, 0, 1)
    if (dy, dx) != (0, 0)
}


def slow_impute(image: np.ndarray, known: np.ndarray) -> np.ndarray:
    """Solve x = weighted mean of its neighbours for every unknown pixel, equation by equation."""
    height, width = known.shape
    unknowns = [(y, x) for y in range(height) for x in range(width) if not known[y, x]]
    index = {place: number for number, place in enumerate(unknowns)}
    matrix, right = np.zeros((len(unknowns), len(unknowns))), np.zeros((len(unknowns), len(image)))
    for row, (y, x) in enumerate(unknowns):
        for (dy, dx), weight in WEIGHTS.items():
            place = (y + dy, x + dx)
            if not (0 <= place[0] < height and 0 <= place[1] < width):
                continue
            matrix[row, row] += weight
            if place in index:
                matrix[row, index[place]] -= weight
            else:
                right[row] += weight * image[:, place[0], place[1]]
    filled = image.copy()
    for place, values in zip(unknowns, np.linalg.solve(matrix, right), strict=True):
        filled[:, place[0], place[1]] = values
    return filled


@pytest.mark.parametrize("size", [(12, 10), (17, 31), (32, 32), (9, 40)])
@pytest.mark.parametrize("share", [0.1, 0.5, 0.9])
def test_imputation_is_the_exact_solution(size: tuple[int, int], share: float) -> None:
    generator = torch.Generator().manual_seed(1)
    images = torch.rand(2, 3, *size, generator=generator)
    known = torch.rand(2, 1, *size, generator=generator) >= share
    found = impute(images, known, tolerance=1e-6)
    for image, mask, filled in zip(images, known, found, strict=True):
        expected = slow_impute(image.double().numpy(), mask[0].numpy())
        assert np.abs(filled.numpy() - expected).max() < 1e-4
    assert torch.equal(found[known.expand_as(found)], images[known.expand_as(images)])


def test_large_holes_are_exact_to_a_thousandth() -> None:
    """One blob of 70 % of the image, the hardest case for an iterative solver."""
    images = torch.rand(1, 3, 48, 48, generator=torch.Generator().manual_seed(2))
    known = torch.ones(1, 1, 48, 48, dtype=torch.bool)
    known[..., 4:44, 3:45] = False
    expected = slow_impute(images[0].double().numpy(), known[0, 0].numpy())
    assert np.abs(impute(images, known)[0].numpy() - expected).max() < 1e-3


def smooth_image(size: int) -> Tensor:
    """A random image `(3, size, size)` as smooth as a photo, in [0, 1]."""
    generator = torch.Generator().manual_seed(11)
    total = torch.zeros(1, 3, size, size)
    for cells, weight in ((4, 0.6), (16, 0.3), (64, 0.1)):
        coarse = torch.rand(1, 3, cells, cells, generator=generator)
        total += weight * F.interpolate(coarse, size=(size, size), mode="bicubic")
    return total[0].clamp(0, 1)


def without_blobs(size: int, share: float) -> Tensor:
    """Which pixels stay `(1, size, size)` when the top of a smooth map of 7x7 cells goes."""
    cells = torch.rand(1, 1, 7, 7, generator=torch.Generator().manual_seed(12))
    relevance = F.interpolate(cells, size=(size, size), mode="bilinear").flatten()
    known = torch.ones(size * size, dtype=torch.bool)
    known[relevance.argsort(descending=True)[: round(share * size * size)]] = False
    return known.view(1, size, size)


def sparse_impute(image: Tensor, known: Tensor) -> np.ndarray:
    """The same equations as `slow_impute`, solved by a sparse LU factorisation in doubles."""
    height, width = known.shape
    number = np.full(height * width, -1)
    unknowns = np.flatnonzero(~known.numpy().ravel())
    number[unknowns] = np.arange(len(unknowns))
    values = image.double().numpy().reshape(len(image), -1)
    diagonal, right = np.zeros(len(unknowns)), np.zeros((len(unknowns), len(image)))
    entries: list[tuple[np.ndarray, np.ndarray, np.ndarray]] = []
    for (dy, dx), weight in WEIGHTS.items():
        y, x = unknowns // width + dy, unknowns % width + dx
        inside = (y >= 0) & (y < height) & (x >= 0) & (x < width)
        rows, places = np.flatnonzero(inside), (y * width + x)[inside]
        diagonal[rows] += weight
        open_ = number[places] >= 0
        entries.append((rows[open_], number[places[open_]], np.full(open_.sum(), -weight)))
        right[rows[~open_]] += weight * values[:, places[~open_]].T
    every = np.arange(len(unknowns))
    entries.append((every, every, diagonal))
    row, column, entry = (np.concatenate(parts) for parts in zip(*entries, strict=True))
    matrix = csc_matrix((entry, (row, column)), shape=(len(unknowns), len(unknowns)))
    filled = values.copy()
    filled[:, unknowns] = spsolve(matrix, right).T
    return filled.reshape(image.shape)


def test_the_two_exact_solutions_agree() -> None:
    image, known = smooth_image(20)[:, :, :15], without_blobs(20, 0.6)[0, :, :15]
    dense = slow_impute(image.double().numpy(), known.numpy())
    assert np.abs(sparse_impute(image, known) - dense).max() < 1e-10


def test_blobs_of_a_photo_are_exact_to_a_thousandth() -> None:
    """At full size, as ROAD asks: several levels of one image at once."""
    image = smooth_image(224)
    known = torch.stack([without_blobs(224, share) for share in (0.1, 0.5, 0.9)])
    found = impute(image.expand(3, -1, -1, -1), known)
    for filled, mask in zip(found, known, strict=True):
        assert np.abs(filled.numpy() - sparse_impute(image, mask[0])).max() < 1e-3
        assert torch.equal(filled[:, mask[0]], image[:, mask[0]])


@pytest.mark.parametrize("size", [224, 225])
def test_few_cycles_solve_every_level(size: int) -> None:
    """Also where the border is removed, on which coarse grids of an even size depend."""
    image = smooth_image(size)
    blobs = torch.stack([without_blobs(size, share) for share in (0.1, 0.5, 0.9)])
    known = torch.cat([blobs, ~blobs[:1]])
    impute(image.expand(len(known), -1, -1, -1), known, iterations=10)  # raises beyond
    scattered = torch.rand(1, 1, size, size, generator=torch.Generator().manual_seed(15)) > 0.9
    impute(image[None], scattered, iterations=14)


def test_images_do_not_meet_in_the_solver() -> None:
    """Images that converge early leave the batch; the others must not notice, nor be swapped."""
    size = 56
    noise = torch.rand(3, size, size, generator=torch.Generator().manual_seed(13))
    images = torch.stack([smooth_image(size), noise, smooth_image(size), noise, 1 - noise])
    known = torch.stack(
        [
            without_blobs(size, 0.9),
            without_blobs(size, 0.02),
            torch.ones(1, size, size, dtype=torch.bool),  # nothing removed: done at once
            without_blobs(size, 0.5),
            torch.rand(1, size, size, generator=torch.Generator().manual_seed(14)) > 0.3,
        ]
    )
    before = images.clone(), known.clone()
    together = impute(images, known)
    assert torch.equal(images, before[0]) and torch.equal(known, before[1])
    assert torch.equal(together[2], images[2])
    turned = impute(images.flip(0), known.flip(0)).flip(0)
    for index in range(len(images)):
        part = slice(index, index + 1)
        alone = impute(images[part], known[part])
        assert torch.allclose(together[part], alone, atol=1e-4)
        assert torch.allclose(together[part], turned[part], atol=1e-4)
        exact = sparse_impute(images[index], known[index, 0])
        assert np.abs(together[index].numpy() - exact).max() < 1e-3


def test_nothing_removed_anywhere_changes_nothing() -> None:
    images, known = torch.rand(2, 3, 16, 16), torch.ones(2, 1, 16, 16, dtype=torch.bool)
    assert torch.equal(impute(images, known, noise=0.1), images)


def test_a_constant_image_stays_constant() -> None:
    known = torch.rand(1, 1, 20, 20, generator=torch.Generator().manual_seed(3)) > 0.8
    assert torch.allclose(
        impute(torch.full((1, 1, 20, 20), 0.4), known), torch.tensor(0.4), atol=1e-4
    )


def test_noise_is_seeded_and_of_the_stated_size() -> None:
    images, known = torch.zeros(2, 3, 64, 64), torch.ones(2, 1, 64, 64, dtype=torch.bool)
    known[..., :, 1:] = False
    found = impute(images, known, noise=0.01, seed=5)
    assert torch.equal(found, impute(images, known, noise=0.01, seed=5))
    assert torch.equal(found[0], found[1])
    assert found[..., 1:].std().item() == pytest.approx(0.01, rel=0.05)
    assert (found[..., 0] == 0).all()


def test_bad_masks_are_refused() -> None:
    images = torch.rand(1, 3, 8, 8)
    with pytest.raises(TTameError, match="no known pixel"):
        impute(images, torch.zeros(1, 1, 8, 8, dtype=torch.bool))
    with pytest.raises(TTameError, match="bool"):
        impute(images, torch.ones(1, 1, 8, 8))
    with pytest.raises(TTameError, match="known must be"):
        impute(images, torch.ones(1, 1, 8, 9, dtype=torch.bool))


SPEC = BackboneSpec(
    name="toy", build=None, weights=None, layers=(), head="", input_size=(6, 6),
    mean=(0.2, 0.3, 0.4), std=(0.5, 0.6, 0.7), classes=("a", "b"),
)  # fmt: skip


class Toy(nn.Module):
    """Class 0 is the brightness of the left half, class 1 of the right half."""

    def forward(self, images: Tensor) -> Tensor:
        halves = images.mean(dim=1).unflatten(-1, (2, -1)).mean(dim=(1, 3))
        return 4 * halves


def test_road_removes_exactly_the_stated_pixels_in_both_orders() -> None:
    generator = torch.Generator().manual_seed(4)
    images = torch.rand(2, 3, 6, 6, generator=generator)
    mean, std = torch.tensor(SPEC.mean).view(1, 3, 1, 1), torch.tensor(SPEC.std).view(1, 3, 1, 1)
    maps, targets = torch.rand(2, 1, 6, 6, generator=generator), torch.tensor([0, 1])
    scores = road(Toy(), SPEC, (images - mean) / std, maps, targets, levels=(10, 50, 90), seed=7)
    noise = 0.01 * torch.randn(1, 3, 6, 6, generator=torch.Generator().manual_seed(7))
    for photo in range(2):
        order = maps[photo].flatten().argsort(descending=True)
        for column, count in enumerate((4, 18, 32)):  # round(level * 36 / 100)
            for found, kept, removed in (
                (scores.morf, scores.morf_kept, order[:count]),
                (scores.lerf, scores.lerf_kept, order[-count:]),
            ):
                known = torch.ones(36, dtype=torch.bool)
                known[removed] = False
                known = known.view(6, 6)
                filled = torch.from_numpy(
                    slow_impute(images[photo].double().numpy(), known.numpy())
                ).float()
                filled = torch.where(known, filled, filled + noise[0])
                probability = Toy()((filled[None] - mean) / std).softmax(dim=1)[0]
                assert found[photo, column].item() == pytest.approx(
                    float(probability[targets[photo]]), abs=1e-3
                )
                assert bool(kept[photo, column]) == bool(probability.argmax() == targets[photo])


def test_road_does_not_depend_on_the_batch() -> None:
    images, maps = torch.rand(3, 3, 6, 6), torch.rand(3, 1, 2, 2)
    targets = torch.tensor([0, 1, 0])
    together = road(Toy(), SPEC, images, maps, targets)
    for index in range(3):
        part = slice(index, index + 1)
        alone = road(Toy(), SPEC, images[part], maps[part], targets[part])
        assert torch.allclose(together.morf[part], alone.morf, atol=1e-5)


def test_road_refuses_bad_levels_and_maps() -> None:
    images, targets = torch.rand(1, 3, 6, 6), torch.tensor([0])
    with pytest.raises(TTameError, match=r"1\.\.99"):
        road(Toy(), SPEC, images, torch.rand(1, 1, 2, 2), targets, levels=(100,))
    with pytest.raises(TTameError, match="NaN"):
        road(Toy(), SPEC, images, torch.full((1, 1, 2, 2), float("nan")), targets)


def test_area_under_the_curve_by_hand() -> None:
    # Trapezoids: (1 + .5)/2 * 10 + (.5 + .1)/2 * 80 = 7.5 + 24, over a width of 90.
    values = torch.tensor([1.0, 0.5, 0.1])
    assert area_under_curve(values, (0, 10, 90)).item() == pytest.approx(31.5 / 90)
