"""Localisation: does an explanation map lie on the object, where its place is known?

Ground truth is a mask or a set of boxes. These metrics ask where the object is, not where the
classifier looks: a map that rightly shows the background a decision leans on scores low. Read
every score against its chance, which is what a map without any preference would get.
"""

from __future__ import annotations

from collections.abc import Sequence
from math import ceil, floor, isfinite

import torch
from torch import Tensor

from ttame.errors import TTameError
from ttame.masking import degenerate, enlarge, normalize_maps, rank_pixels

# Pixels of the mask; the paper's margin, which forgives a peak just beside the object.
TOLERANCE = 15


def box_masks(
    boxes: Sequence[Sequence[Sequence[float]]], size: Sequence[int], device: str = "cpu"
) -> Tensor:
    """Masks that are true inside any of a photo's boxes.

    Args:
        boxes: For every photo its boxes (x0, y0, x1, y1), pixels from the top left corner of
            the image, x to the right; x1 and y1 are the far edges, so (0, 0, W, H) is the
            whole image. A pixel that a box touches belongs to it.
        size: Height and width (H, W) of the image that the boxes refer to, pixels.
        device: Where to.

    Returns:
        `(B, 1, H, W)` bool.

    Raises:
        TTameError: If a photo has no box, or a box is no four numbers, empty, or beyond the
            image.
    """
    height, width = (int(value) for value in size)
    masks = torch.zeros(len(boxes), 1, height, width, dtype=torch.bool)
    for sample, found in enumerate(boxes):
        if len(found) == 0:
            raise TTameError(f"sample {sample} has no box; leave out photos without ground truth")
        for box in found:
            try:
                x0, y0, x1, y1 = (float(value) for value in box)
            except (TypeError, ValueError) as error:
                raise TTameError(
                    f"sample {sample}: a box is (x0, y0, x1, y1), four numbers, got {box!r}; "
                    "give a list of boxes for every photo"
                ) from error
            # Written so that NaN fails.
            if not (0 <= x0 < x1 <= width and 0 <= y0 < y1 <= height):
                raise TTameError(
                    f"sample {sample}: box {(x0, y0, x1, y1)} must satisfy 0 <= x0 < x1 <= {width} "
                    f"and 0 <= y0 < y1 <= {height}; give pixels of the image, corners in order"
                )
            masks[sample, 0, floor(y0) : ceil(y1), floor(x0) : ceil(x1)] = True
    return masks.to(device)


def pointing_game(
    maps: Tensor, masks: Tensor, tolerance: float = TOLERANCE, seed: int = 0
) -> Tensor:
    """Pointing game: whether each map's maximum hits the object, percent (`excitation_backprop`).

    A hit lies at most `tolerance` pixels (Euclidean, between pixel centres) from the mask. Maps
    are enlarged to the mask before their maximum is sought. Of several equal maxima one is
    taken by a seeded shuffle (`masking.rank_pixels`). A constant map has no maximum and scores what
    a random pixel does (`pointing_chance`): the shuffle would take the same pixel in all photos.

    Args:
        maps: Raw explanation maps, `(B, 1, h, w)`, any float dtype.
        masks: Where the object is, `(B, 1, H, W)` bool.
        tolerance: Pixels of the mask, not of the map.
        seed: Seed of the tie-break.

    Returns:
        `(B,)` float32, 0 or 100; of a constant map in between.

    Raises:
        TTameError: If the shapes do not fit, the masks are not bool, a mask is empty, a map is
            not finite, or the tolerance is negative.
    """
    _check_tolerance(tolerance)
    _check(maps, masks)
    large = enlarge(normalize_maps(maps.float()), masks.shape[-2:])
    height, width = masks.shape[-2:]
    peak = rank_pixels(large, seed)[:, :, :1, None]  # (B, 1, 1, 1)
    rows = torch.arange(height, device=maps.device).view(-1, 1) - peak // width  # (B, 1, H, 1)
    columns = torch.arange(width, device=maps.device) - peak % width  # (B, 1, 1, W)
    near = rows**2 + columns**2 <= tolerance**2
    hits = 100 * (near & masks).flatten(1).any(dim=1).float()
    flat = degenerate(maps[:, 0])
    if bool(flat.any()):
        hits[flat] = pointing_chance(masks[flat], tolerance)
    return hits


def pointing_chance(masks: Tensor, tolerance: float = TOLERANCE) -> Tensor:
    """Compute what a random pixel scores in the pointing game: the percentage of pixels that hit.

    Args:
        masks: `(B, 1, H, W)` bool.
        tolerance: Pixels.

    Returns:
        `(B,)` float32 in (0, 100].

    Raises:
        TTameError: If the masks are not of this form, one is empty, or the tolerance negative.
    """
    from scipy.ndimage import distance_transform_edt

    _check_tolerance(tolerance)
    _check_masks(masks)
    distances = [distance_transform_edt(~mask) for mask in masks[:, 0].cpu().numpy()]
    # A hair more: the transform takes a root, and 15 pixels are meant to count.
    shares = [100 * float((distance <= tolerance + 1e-6).mean()) for distance in distances]
    return torch.tensor(shares, dtype=torch.float32, device=masks.device)


def mask_energy(maps: Tensor, masks: Tensor) -> Tensor:
    """Energy-based pointing game: the share of each map's energy on the object (`scorecam`).

    100 · (Σ m inside) / (Σ m), where m is the map, min-max scaled at its own resolution (so never
    negative, whatever the raw map) and enlarged to the mask. A constant map prefers no pixel
    and scores the mask's area (`mask_share`).

    Args:
        maps: Raw explanation maps, `(B, 1, h, w)`, any float dtype.
        masks: Where the object is, `(B, 1, H, W)` bool.

    Returns:
        `(B,)` float32 in [0, 100].

    Raises:
        TTameError: If the shapes do not fit, the masks are not bool, a mask is empty, or a map
            is not finite.
    """
    _check(maps, masks)
    return _share(normalize_maps(maps.float()), masks)


def positive_share(maps: Tensor, masks: Tensor) -> Tensor:
    """Share of each map's positive part on the object, percent (`coda_nets`).

    As `mask_energy`, of the raw map with negative values cut off instead of the scaled one: the
    map's own zero counts, so that a map that is positive everywhere, such as one that ends in a
    sigmoid, spreads over the whole image. A map without any positive value prefers no pixel and
    scores the mask's area, as a constant one does.

    Args:
        maps: Raw explanation maps, `(B, 1, h, w)`, any float dtype.
        masks: Where the object is, `(B, 1, H, W)` bool.

    Returns:
        `(B,)` float32 in [0, 100].

    Raises:
        TTameError: As `mask_energy`.
    """
    _check(maps, masks)
    return _share(maps.float().clamp_min(0), masks)


def mask_share(masks: Tensor) -> Tensor:
    """Area of each mask, percent of the image: what a uniform map scores in `mask_energy`.

    Args:
        masks: `(B, 1, H, W)` bool.

    Returns:
        `(B,)` float32 in (0, 100].

    Raises:
        TTameError: If the masks are not of this form, or one is empty.
    """
    _check_masks(masks)
    return 100 * masks.float().mean(dim=(1, 2, 3))


def _share(maps: Tensor, masks: Tensor) -> Tensor:
    """Percentage of each map, `(B, 1, h, w)` from 0 up, on its mask."""
    energy = enlarge(maps, masks.shape[-2:])
    return 100 * (energy * masks).sum(dim=(1, 2, 3)) / energy.sum(dim=(1, 2, 3))


def _check(maps: Tensor, masks: Tensor) -> None:
    _check_masks(masks)
    if maps.ndim != 4 or maps.shape[:2] != masks.shape[:2]:
        raise TTameError(
            f"maps {tuple(maps.shape)} and masks {tuple(masks.shape)} must be (B, 1, h, w) and "
            "(B, 1, H, W), one mask per map"
        )
    if not bool(maps.isfinite().all()):
        raise TTameError(
            "an explanation map holds NaN or infinite values and points nowhere; leave out what "
            "masking.degenerate finds"
        )


def _check_masks(masks: Tensor) -> None:
    if masks.dtype != torch.bool or masks.ndim != 4 or masks.shape[1] != 1:
        raise TTameError(
            f"masks must be (B, 1, H, W) bool, got {tuple(masks.shape)} {masks.dtype}; "
            "compare them with a threshold, or use box_masks"
        )
    empty = (~masks.flatten(1).any(dim=1)).nonzero().flatten().tolist()
    if empty:
        raise TTameError(
            f"the mask of sample {empty[0]} is empty; leave out photos without ground truth"
        )


def _check_tolerance(tolerance: float) -> None:
    if not (isfinite(tolerance) and tolerance >= 0):
        raise TTameError(f"the tolerance is a number of pixels from 0 up, got {tolerance!r}")
