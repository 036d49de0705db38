"""Mosaics of the photos of a batch: images with several things in them, each of its own class.

A photo mostly shows one thing, and a map that finds what stands out serves any class of it. In a
mosaic such a map spreads over four photos, while a good one follows the class that is asked for.
"""

from __future__ import annotations

import torch
import torch.nn.functional as F
from torch import Tensor

PHOTOS = 4  # of a mosaic, two to a side


def mosaic_places(batch: int, share: float) -> list[int]:
    """Return which places of a batch hold mosaics, spread evenly over it."""
    count = round(share * batch)
    return [index * batch // count for index in range(count)]


def with_mosaics(images: Tensor, places: list[int]) -> Tensor:
    """Put mosaics of each photo and the three that follow it in place of some photos.

    Args:
        images: Normalised photos, `(B, C, H, W)`.
        places: Places of the mosaics in the batch; a mosaic's last photos may be the batch's first.

    Returns:
        `(B, C, H, W)`; the photos are shrunk bilinearly, antialiased, and lie row by row.
    """
    if not places:
        return images
    height, width = images.shape[-2:]
    mosaics = []
    for place in places:
        shown = [(place + step) % len(images) for step in range(PHOTOS)]
        rows = []
        for row, tall in enumerate((height // 2, height - height // 2)):
            cells = [
                F.interpolate(
                    images[None, shown[2 * row + column]], (tall, wide),
                    mode="bilinear", align_corners=False, antialias=True,
                )
                for column, wide in enumerate((width // 2, width - width // 2))
            ]  # fmt: skip
            rows.append(torch.cat(cells, dim=-1))
        mosaics.append(torch.cat(rows, dim=-2)[0])
    changed = images.clone()
    changed[places] = torch.stack(mosaics)
    return changed
