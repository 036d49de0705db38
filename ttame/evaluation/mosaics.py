"""Mosaics: photos of different classes side by side, where the right place is known.

Mosaics have the classifier's input size, so that one rule serves networks that take any size and
those that take one: each photo, resized and cropped for the classifier, is shrunk to its cell.
In the paper (`coda_nets`) mosaics are n times that size, which a transformer of fixed size cannot
read. Shrunk photos are harder to recognise; hence the classifier must be sure of the photo as it
is shown, at the size of a cell, alone in the middle of an image that is otherwise what a mask
leaves (black, or the mean colour, by the classifier's `space`).
"""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass

import torch
from torch import Tensor
from torchvision.transforms.v2.functional import resize

from ttame.classifiers.outputs import probabilities
from ttame.classifiers.specs import BackboneSpec
from ttame.classifiers.weights import input_like
from ttame.data import PhotoDataset, PhotoList
from ttame.errors import TTameError
from ttame.explainer import Explainer
from ttame.masking import apply_mask

THRESHOLD = 0.9  # probability from which the classifier counts as sure


@dataclass(frozen=True)
class Mosaic:
    """Photos of different classes, row by row.

    Attributes:
        photos: Positions in the list of photos, n².
        targets: The class that the classifier sees in each.
    """

    photos: tuple[int, ...]
    targets: tuple[int, ...]


def grid_cells(size: Sequence[int], grid: int) -> list[tuple[slice, slice]]:
    """Divide an image into cells; where the side is no multiple, they differ by one pixel.

    Args:
        size: (H, W), pixels.
        grid: n, cells to a side.

    Returns:
        Rows and columns of each of the n² cells, row by row.

    Raises:
        TTameError: If there are fewer than 2 cells to a side, or more than pixels.
    """
    if not 2 <= grid <= min(size):
        raise TTameError(
            f"a mosaic has 2 to {min(size)} photos to a side (the classifier's input is "
            f"{size[0]}x{size[1]} pixels), got {grid}"
        )
    rows, columns = (
        [slice(round(i * side / grid), round((i + 1) * side / grid)) for i in range(grid)]
        for side in size
    )
    return [(row, column) for row in rows for column in columns]


def cell_masks(size: Sequence[int], grid: int) -> Tensor:
    """Return one mask per cell of `grid_cells`, `(n², 1, H, W)` bool."""
    cells = grid_cells(size, grid)
    masks = torch.zeros(len(cells), 1, *size, dtype=torch.bool)
    for mask, (rows, columns) in zip(masks, cells, strict=True):
        mask[0, rows, columns] = True
    return masks


def compose(images: Tensor, grid: int) -> Tensor:
    """Shrink photos, bilinearly and antialiased, and lay them side by side.

    Args:
        images: n² normalised photos, `(n², C, H, W)`, row by row.
        grid: n, photos to a side.

    Returns:
        The mosaic, `(C, H, W)`, normalised.

    Raises:
        TTameError: If the photos are not n², or as `grid_cells`.
    """
    cells = grid_cells(images.shape[-2:], grid)
    if len(images) != len(cells):
        raise TTameError(f"a {grid}x{grid} mosaic has {len(cells)} photos, got {len(images)}")
    mosaic = torch.empty_like(images[0])
    for image, (rows, columns) in zip(images, cells, strict=True):
        size = [rows.stop - rows.start, columns.stop - columns.start]
        mosaic[:, rows, columns] = resize(image, size, antialias=True)
    return mosaic


def alone(images: Tensor, spec: BackboneSpec, grid: int) -> Tensor:
    """Show each photo at the size of a cell, in the middle of an image with nothing else.

    Args:
        images: Normalised photos, `(B, C, H, W)`.
        spec: Facts of the classifier; its `space` decides what nothing looks like.
        grid: Cells to a side.

    Returns:
        `(B, C, H, W)`, normalised.
    """
    height, width = images.shape[-2:]
    size = [height // grid, width // grid]
    top, left = (height - size[0]) // 2, (width - size[1]) // 2
    nothing = images.new_zeros(len(images), 1, height, width)
    shown = apply_mask(images, nothing, spec.space, spec.mean, spec.std)
    shown[..., top : top + size[0], left : left + size[1]] = resize(images, size, antialias=True)
    return shown


@torch.inference_mode()
def draw_mosaics(
    explainer: Explainer,
    photos: PhotoList,
    grid: int = 2,
    count: int | None = None,
    threshold: float = THRESHOLD,
    batch_size: int = 16,
) -> list[Mosaic]:
    """Arrange photos that the classifier is sure of in mosaics, each photo once at most.

    Photos are taken in their order; each joins the first unfinished mosaic that lacks its class.
    The class is the classifier's answer to the photo as `alone` shows it, right or wrong.

    Args:
        explainer: Its classifier is asked, one pass per photo, until there are enough mosaics.
        photos: Photos to draw from.
        grid: n, photos to a side.
        count: Number of mosaics; default: as many as the photos give.
        threshold: Lowest probability of the class, in (0, 1].
        batch_size: Photos at a time.

    Raises:
        TTameError: If there are too few sure photos of different classes, saying how many there
            are; a photo cannot be read; or an option is out of range.
    """
    if not 0 < threshold <= 1:
        raise TTameError(f"the threshold is a probability in (0, 1], got {threshold!r}")
    for name, value in (("count", count), ("batch_size", batch_size)):
        if value is not None and value < 1:
            raise TTameError(f"{name} must be 1 or more, got {value!r}")
    classifier, spec = explainer.classifier, explainer.spec
    needed = len(grid_cells(spec.input_size, grid))
    dataset, like = PhotoDataset(photos, spec), input_like(explainer.classifier)
    found: list[Mosaic] = []
    unfinished: list[dict[int, int]] = []  # photos by class
    sure: list[int] = []  # classes
    for start in range(0, len(photos), batch_size):
        places = range(start, min(start + batch_size, len(photos)))
        images = torch.stack([dataset[place][0] for place in places]).to(like)
        outputs = classifier(alone(images, spec, grid))
        target = outputs.argmax(dim=1)
        probability = probabilities(outputs, spec.activation).gather(1, target[:, None])[:, 0]
        for place, value, label in zip(places, probability.tolist(), target.tolist(), strict=True):
            if value < threshold:
                continue
            sure.append(label)
            mosaic = next((some for some in unfinished if label not in some), {})
            if not mosaic:
                unfinished.append(mosaic)
            mosaic[label] = place
            if len(mosaic) == needed:
                unfinished = [some for some in unfinished if some is not mosaic]
                found.append(Mosaic(tuple(mosaic.values()), tuple(mosaic)))
            if len(found) == count:
                return found
    if not found or count is not None:
        raise TTameError(
            f"{len(found)} mosaics of {grid}x{grid} photos can be made, not {count or 'one'}: of "
            f"{len(photos)} photos the classifier is sure of {len(sure)} (probability "
            f"{threshold:g} or more at the size of a cell), of {len(set(sure))} classes, and each "
            f"mosaic takes {needed} of different classes; give more photos, or lower the threshold"
        )
    return found
