"""Pure functions from explanation maps to masks, and from masks to masked images.

The order is the papers' (T-TAME §IV-A): min-max scale each map at its own resolution, upsample
it to the image, keep the top pixels, multiply.
"""

from __future__ import annotations

from collections.abc import Sequence
from typing import Literal

import torch
import torch.nn.functional as F
from torch import Tensor

from ttame.errors import TTameError

Space = Literal["raw", "normalized"]


def normalize_maps(maps: Tensor) -> Tensor:
    """Scale each map to [0, 1] by its own minimum and maximum.

    A constant map keeps its value, clamped to [0, 1], so that a map of ones still masks nothing;
    see `degenerate`.

    Args:
        maps: Raw explanation maps, `(..., h, w)`, any float dtype.

    Returns:
        `(..., h, w)` in [0, 1], same dtype.
    """
    low = maps.amin(dim=(-2, -1), keepdim=True)
    span = maps.amax(dim=(-2, -1), keepdim=True) - low
    constant = span <= 0
    scaled = (maps - low) / torch.where(constant, torch.ones_like(span), span)
    return torch.where(constant, maps.clamp(0, 1), scaled)


def degenerate(maps: Tensor) -> Tensor:
    """Find the maps that rank nothing: constant, or with values that are not finite.

    Args:
        maps: Raw explanation maps, `(..., h, w)`.

    Returns:
        Booleans, `(...)`.
    """
    flat = maps.flatten(-2)
    return ~flat.isfinite().all(-1) | (flat.amax(-1) <= flat.amin(-1))


def upsample(maps: Tensor, size: Sequence[int]) -> Tensor:
    """Resize maps `(B, T, h, w)` to `size` = (H, W) bilinearly (`align_corners=False`)."""
    if tuple(maps.shape[-2:]) == tuple(size):
        return maps
    return F.interpolate(maps, size=tuple(size), mode="bilinear", align_corners=False)


def enlarge(maps: Tensor, size: Sequence[int]) -> Tensor:
    """Upsample maps that are scaled already; those that rank nothing become ones.

    Args:
        maps: `(B, T, h, w)` float32, finite.
        size: (H, W), pixels.

    Returns:
        `(B, T, H, W)` float32. A map that is constant before or after becomes exactly ones.
    """
    large = upsample(maps, size)
    # Judged before, as interpolation rounds a constant, and after, as it may skip a lone peak.
    constant = degenerate(maps) | degenerate(large)
    return torch.where(constant[..., None, None], torch.ones_like(large), large)


def rank_pixels(masks: Tensor, seed: int = 0) -> Tensor:
    """Sort the pixels of each mask from most to least relevant, with seeded tie-breaking.

    Ties are broken alike in every image and on every device, so that results do not depend on
    batching or hardware.

    Args:
        masks: `(..., H, W)`, finite.
        seed: Tie-break seed.

    Returns:
        Flat pixel indices, `(..., H·W)`, int64, most relevant first.
    """
    flat = masks.flatten(-2)
    shuffle = _shuffle(flat, seed)
    order = flat[..., shuffle].argsort(dim=-1, descending=True, stable=True)
    return shuffle[order]


def keep_top(masks: Tensor, fraction: float, seed: int = 0) -> Tensor:
    """Keep the values of the top `fraction` of pixels in each mask and zero the others.

    Args:
        masks: `(..., H, W)`.
        fraction: Share of pixels to keep, in (0, 1]; exactly round(fraction·H·W) are kept.
        seed: Tie-break seed, as for `rank_pixels`.

    Returns:
        `(..., H, W)`.

    Raises:
        TTameError: If `fraction` is outside (0, 1].
    """
    if not 0 < fraction <= 1:
        raise TTameError(f"the retained fraction must lie in (0, 1], got {fraction!r}")
    if fraction == 1:
        return masks
    flat = masks.flatten(-2)
    count = round(fraction * flat.shape[-1])
    if count == 0:
        return torch.zeros_like(masks)
    # Selects the first `count` pixels of `rank_pixels` several times faster than sorting:
    # all above the count-th largest value, then ties until the count is reached.
    threshold = flat.kthvalue(flat.shape[-1] - count + 1, dim=-1, keepdim=True).values
    kept = flat >= threshold
    if int(kept.count_nonzero()) > count * (flat.numel() // flat.shape[-1]):
        above, tied = flat > threshold, flat == threshold
        missing = count - above.sum(dim=-1, keepdim=True)
        shuffle = _shuffle(flat, seed)
        first = tied[..., shuffle].cumsum(dim=-1) <= missing
        kept = above | (tied & torch.zeros_like(tied).scatter(-1, shuffle.expand_as(flat), first))
    return torch.where(kept, flat, 0).reshape(masks.shape)


def _shuffle(flat: Tensor, seed: int) -> Tensor:
    """Draw a seeded permutation of the pixels, on the CPU to be equal on every device."""
    generator = torch.Generator().manual_seed(seed)
    return torch.randperm(flat.shape[-1], generator=generator).to(flat.device)


def channel_tensor(values: Sequence[float], like: Tensor) -> Tensor:
    """Return per-channel constants as `(1, C, 1, 1)`, with the dtype and device of `like`."""
    return torch.as_tensor(values, dtype=like.dtype, device=like.device).view(1, -1, 1, 1)


def apply_mask(
    images: Tensor, masks: Tensor, space: Space, mean: Sequence[float], std: Sequence[float]
) -> Tensor:
    """Multiply normalised images by masks, in raw or normalised space.

    Args:
        images: Normalised images, `(B, C, H, W)`.
        masks: `(B, 1, H, W)` in [0, 1].
        space: `"normalized"` multiplies directly: masked pixels take the mean colour. `"raw"`
            multiplies in [0, 1] and normalises again: masked pixels turn black.
        mean: Per-channel mean of the normalisation.
        std: Per-channel standard deviation of the normalisation.

    Returns:
        Normalised masked images, `(B, C, H, W)`.

    Raises:
        TTameError: If the shapes do not match, or the space is unknown.
    """
    if masks.shape != (images.shape[0], 1, *images.shape[-2:]):
        raise TTameError(
            f"images {tuple(images.shape)} and masks {tuple(masks.shape)} must agree in batch "
            "and size, with one mask per image; upsample the masks to the images first"
        )
    if space == "normalized":
        return images * masks
    if space == "raw":
        # ((x·s + m)·a - m)/s interpolates between black, -m/s, and x: one pass over the image.
        dtype = torch.promote_types(images.dtype, masks.dtype)
        black = -channel_tensor(mean, images) / channel_tensor(std, images)
        return torch.lerp(black.to(dtype), images.to(dtype), masks.to(dtype))
    raise TTameError(f"unknown masking space {space!r}; expected 'raw' or 'normalized'")


def fill_blurred(images: Tensor, masks: Tensor) -> Tensor:
    """Mask images by blending them with themselves at a sixteenth of the resolution.

    Args:
        images: Images, `(B, C, H, W)`; normalised or not, as the weights of a blur sum to one.
        masks: `(B, 1, H, W)` in [0, 1]: 1 keeps a pixel, 0 blurs it.

    Returns:
        `(B, C, H, W)`, of the images' dtype.
    """
    height, width = images.shape[-2:]
    coarse = F.interpolate(images, (max(height // 16, 1), max(width // 16, 1)), mode="area")
    return torch.lerp(upsample(coarse, (height, width)), images, masks.to(images.dtype))
