"""ROAD: how fast the classifier's answer degrades as pixels are removed and imputed (`road`).

Pixels are removed in the map's order, most relevant first (MoRF: a good map loses the answer
early, lower is better) or least relevant first (LeRF: a good map keeps it long, higher is
better), and filled by noisy linear imputation, so that the hole itself tells little.
"""

from __future__ import annotations

from collections.abc import Iterator, Sequence
from dataclasses import dataclass
from itertools import pairwise

import torch
from torch import Tensor, nn

from ttame.classifiers.outputs import probabilities
from ttame.classifiers.specs import BackboneSpec
from ttame.errors import TTameError
from ttame.evaluation.imputation import impute
from ttame.images import denormalize, normalize
from ttame.masking import normalize_maps, rank_pixels, upsample

# The papers' levels: percent of pixels removed.
LEVELS = (10, 20, 30, 40, 50, 70, 90)
_NOISE = 0.01  # standard deviation in raw [0, 1] units, whatever the classifier's normalisation


@dataclass(frozen=True)
class RoadScores:
    """What the classifier says of degraded photos.

    Attributes:
        morf: Probability of the target class, most relevant pixels removed first, `(B, L)`.
        lerf: The same, least relevant first, `(B, L)`.
        morf_kept: Whether the target class is still the most probable one, `(B, L)` bool.
        lerf_kept: The same, least relevant first, `(B, L)` bool.
    """

    morf: Tensor
    lerf: Tensor
    morf_kept: Tensor
    lerf_kept: Tensor


@torch.inference_mode()
def road(
    classifier: nn.Module,
    spec: BackboneSpec,
    images: Tensor,
    maps: Tensor,
    targets: Tensor,
    levels: Sequence[int] = LEVELS,
    seed: int = 0,
) -> RoadScores:
    """Degrade photos by their maps in both orders and classify them.

    Exactly round(level·H·W / 100) pixels are removed at each level; ties in the map are broken
    by a seeded shuffle; imputation happens on raw images, the noise is in raw units.

    Args:
        classifier: The bare classifier, in `eval()`.
        spec: Its facts.
        images: Normalised photos, `(B, C, H, W)`.
        maps: Raw explanation maps, `(B, 1, h, w)`.
        targets: Target classes, `(B,)` int64.
        levels: Percent of pixels removed, each in 1..99.
        seed: Seed of tie-breaks and noise.

    Raises:
        TTameError: If a level leaves no pixel, a map is not finite, or images, maps and targets
            differ in number.
    """
    scores, hits = [], []
    series = degrade(spec, images, maps, targets, levels, seed)
    for degraded, target in zip(series, targets, strict=True):
        outputs = classifier(normalize(degraded, spec).to(images.dtype))
        scores.append(probabilities(outputs, spec.activation)[:, target])
        hits.append(outputs.argmax(dim=1) == target)
    found = (torch.stack(values).chunk(2, dim=1) for values in (scores, hits))
    return RoadScores(*next(found), *next(found))


def degrade(
    spec: BackboneSpec,
    images: Tensor,
    maps: Tensor,
    targets: Tensor,
    levels: Sequence[int] = LEVELS,
    seed: int = 0,
) -> Iterator[Tensor]:
    """Yield the degraded photos that `road` classifies, one photo at a time.

    Arguments and errors are those of `road`.

    Yields:
        For each photo `(2L, C, H, W)`, raw: every level with the most relevant pixels removed
        first, then every level with the least relevant first.
    """
    if not all(0 < level < 100 for level in levels):
        raise TTameError(f"ROAD levels are percentages in 1..99, got {tuple(levels)}")
    places = pixel_places(images, maps, targets, seed)  # (B, HW)
    removed = [round(level / 100 * places.shape[1]) for level in levels]
    raw = denormalize(images.float(), spec)
    for image, place in zip(raw, places, strict=True):  # one photo at a time bounds the memory
        morf = [place >= count for count in removed]
        lerf = [place < len(place) - count for count in removed]
        known = torch.stack(morf + lerf).view(-1, 1, *image.shape[-2:])
        yield impute(image.expand(len(known), -1, -1, -1), known, noise=_NOISE, seed=seed)


def pixel_places(images: Tensor, maps: Tensor, targets: Tensor, seed: int = 0) -> Tensor:
    """Rank every pixel of each photo, 0 the most relevant.

    Per image: min-max at the map's own resolution, bilinear to the image, stable sort, ties
    broken by a seeded shuffle (`masking.rank_pixels`).

    Args:
        images: The photos, `(B, C, H, W)`; only their size matters.
        maps: Raw explanation maps, `(B, 1, h, w)`.
        targets: Target classes, `(B,)`; only their number matters.
        seed: Seed of tie-breaks.

    Returns:
        `(B, H·W)` int64, a permutation of 0..H·W - 1 in every row.

    Raises:
        TTameError: If a map is not finite, or images, maps and targets differ in number.
    """
    count = images.shape[0]
    if maps.ndim != 4 or maps.shape[:2] != (count, 1) or targets.shape != (count,):
        raise TTameError(
            f"images {tuple(images.shape)}, maps {tuple(maps.shape)} and targets "
            f"{tuple(targets.shape)} must agree in batch, one map and one class an image"
        )
    if not bool(maps.isfinite().all()):
        raise TTameError("an explanation map holds NaN or infinite values; it cannot be ranked")
    masks = upsample(normalize_maps(maps.float()), images.shape[-2:])
    order = rank_pixels(masks, seed)[:, 0]
    places = torch.arange(order.shape[-1], device=order.device).expand_as(order)
    return torch.empty_like(order).scatter(-1, order, places)


def area_under_curve(values: Tensor, levels: Sequence[float] = LEVELS) -> Tensor:
    """Mean height of the curve over the measured levels (trapezoids, no endpoint assumed).

    Args:
        values: `(..., L)`.
        levels: L percentages or fractions, ascending.

    Returns:
        `(...)`, in the units of `values`.

    Raises:
        TTameError: If the levels are fewer than two, do not ascend, or are not L.
    """
    if len(levels) < 2 or any(low >= high for low, high in pairwise(levels)):
        raise TTameError(f"a curve needs two or more ascending levels, got {tuple(levels)}")
    if values.shape[-1:] != (len(levels),):
        raise TTameError(
            f"curves {tuple(values.shape)} must have a value for each of {len(levels)} levels"
        )
    where = torch.as_tensor(levels, dtype=values.dtype, device=values.device)
    return torch.trapezoid(values, where, dim=-1) / (where[-1] - where[0])
