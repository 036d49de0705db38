"""Maps that look at nothing: what every method has to beat."""

from __future__ import annotations

import hashlib

import torch
from torch import Tensor

_CELLS = 7  # the resolution of the CAM methods' maps on the papers' networks


def random_map(images: Tensor, targets: Tensor) -> Tensor:
    """Uniform noise of 7×7 cells, `(B, 1, 7, 7)` in [0, 1).

    The noise of an image is seeded by its pixels, so it depends neither on its batch nor on
    when it is computed.
    """
    maps = []
    for image in images:
        digest = hashlib.sha256(image.detach().cpu().float().contiguous().numpy().tobytes())
        generator = torch.Generator().manual_seed(int(digest.hexdigest()[:15], 16))
        maps.append(torch.rand(1, _CELLS, _CELLS, generator=generator))
    return torch.stack(maps).to(images.device)


def all_ones(images: Tensor, targets: Tensor) -> Tensor:
    """Return the mask that changes nothing at 100 %, `(B, 1, 7, 7)` of ones."""
    return images.new_ones(images.shape[0], 1, _CELLS, _CELLS)


def centre_gaussian(images: Tensor, targets: Tensor) -> Tensor:
    """Return a Gaussian about the centre, `(B, 1, 28, 28)` in (0, 1]."""
    place = torch.linspace(-1, 1, 4 * _CELLS, device=images.device, dtype=images.dtype)
    bell = torch.exp(-(place**2) / (2 * 0.5**2))
    return (bell[:, None] * bell[None, :]).expand(images.shape[0], 1, -1, -1)


def fake_cam(images: Tensor, targets: Tensor) -> Tensor:
    """Fake-CAM (`fakecam`): ones but for one pixel in the corner, at the image's size.

    It explains nothing and scores a near-perfect Average Drop at 100 %: what that number alone
    cannot see.
    """
    maps = images.new_ones(images.shape[0], 1, *images.shape[-2:])
    maps[..., 0, 0] = 0
    return maps
