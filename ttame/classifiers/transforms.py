"""Transforms: resize and crop images to the input size of a classifier, whatever its shape."""

from __future__ import annotations

from collections.abc import Callable
from functools import partial
from typing import Any, TypeAlias

import torch
from PIL import Image
from torch import Tensor
from torchvision.transforms import v2

from ttame.classifiers.specs import BackboneSpec

Box: TypeAlias = "tuple[float, float, float, float]"

# Panoramas are cut to this many times the input's aspect ratio before resizing; only their centre
# survives the crop.
_MAX_ASPECT = 4


def eval_transform(spec: BackboneSpec) -> v2.Compose:
    """Build the transform that resizes and centre-crops to `(C, H, W)` float32 in [0, 1].

    The photo keeps its shape: it is resized until the crop, enlarged by the ratio of `resize` to
    the input size, is covered. Where `resize` is a height and width, it is stretched to those.
    """
    return _compose(spec, _resize(spec), v2.CenterCrop(list(spec.input_size)))


def train_transform(spec: BackboneSpec, crop_area: float | None = None) -> v2.Compose:
    """Build `eval_transform` with a random crop and horizontal flip.

    Args:
        spec: Facts of the classifier.
        crop_area: Minimum share of the photo's area in a crop, which is then resized to the
            input size; `None` crops the input size from the resized photo, as the papers do.
    """
    (height, width), mode = spec.input_size, v2.InterpolationMode(spec.interpolation)
    crop = [_resize(spec), v2.RandomCrop([height, width])]
    if crop_area is not None:
        # Up to a third wider or narrower than the input: torchvision's limits for a square.
        ratio = (3 / 4 * width / height, 4 / 3 * width / height)
        crop = [
            v2.RandomResizedCrop(
                [height, width], scale=(crop_area, 1.0), ratio=ratio, interpolation=mode
            )
        ]
    return _compose(spec, *crop, v2.RandomHorizontalFlip())


def _compose(spec: BackboneSpec, *steps: Callable[[Any], Any]) -> v2.Compose:
    limit = [] if _stretches(spec) else [v2.Lambda(partial(_limit_aspect, shape=spec.input_size))]
    convert = (v2.PILToTensor(), v2.ToDtype(torch.float32, scale=True), v2.Lambda(_clamp))
    return v2.Compose([*limit, *steps, *convert])


def _clamp(image: Tensor) -> Tensor:
    """Undo the overshoot of bicubic interpolation, as Pillow does."""
    return image.clamp(0, 1)


def _resize(spec: BackboneSpec) -> v2.Lambda:
    return v2.Lambda(partial(_cover, spec=spec))


def _cover(image: Image.Image | Tensor, spec: BackboneSpec) -> Any:
    """Resize an image until it covers the enlarged crop, or stretch it."""
    width, height = _covering(image_size(image), spec)
    mode = v2.InterpolationMode(spec.interpolation)
    return v2.functional.resize(image, [height, width], interpolation=mode)


def _covering(size: tuple[int, int], spec: BackboneSpec) -> tuple[int, int]:
    """Return width and height to which `_cover` resizes an image of a width and height."""
    if not isinstance(spec.resize, int):
        return spec.resize[1], spec.resize[0]
    width, height = size
    share = spec.resize / min(spec.input_size)
    tall, wide = (round(side * share) for side in spec.input_size)
    if width * tall <= height * wide:
        return wide, wide * height // width
    return tall * width // height, tall


def crop_box(size: tuple[int, int], spec: BackboneSpec) -> Box:
    """Find the part of a photo that `eval_transform` shows to the classifier.

    Args:
        size: Width and height of the upright photo, in pixels.
        spec: Facts of the classifier.

    Returns:
        Left, top, right and bottom edge, in pixels of the photo, as for `PIL.Image.Image.crop`.
    """
    left, top, right, bottom = (0, 0, *size) if _stretches(spec) else _inner(size, spec.input_size)
    inner = (right - left, bottom - top)
    edges = []
    for offset, length, scaled, kept in zip(
        (left, top), inner, _covering(inner, spec), spec.input_size[::-1], strict=True
    ):
        # As torchvision's CenterCrop rounds; where it pads, the start is negative.
        start = round((scaled - kept) / 2) if scaled >= kept else -((kept - scaled) // 2)
        edges.append([offset + at * length / scaled for at in (start, start + kept)])
    (x0, x1), (y0, y1) = edges
    return x0, y0, x1, y1


def _stretches(spec: BackboneSpec) -> bool:
    """Return whether photos are resized to a fixed height and width, whatever their shape."""
    return not isinstance(spec.resize, int)


def _inner(size: tuple[int, int], shape: tuple[int, int]) -> tuple[int, int, int, int]:
    """Return the centre of an extreme panorama, and of any other photo all of it.

    Args:
        size: Width and height of the photo.
        shape: Height and width of the input.
    """
    width, height = size
    keep_w = min(width, max(_MAX_ASPECT * height * shape[1] // shape[0], 1))
    keep_h = min(height, max(_MAX_ASPECT * width * shape[0] // shape[1], 1))
    left, top = (width - keep_w) // 2, (height - keep_h) // 2
    return left, top, left + keep_w, top + keep_h


def _limit_aspect(image: Image.Image | Tensor, shape: tuple[int, int]) -> Any:
    """Crop extreme panoramas to their centre, so that resizing them fits into memory."""
    size = image_size(image)
    left, top, right, bottom = box = _inner(size, shape)
    if box == (0, 0, *size):
        return image
    return v2.functional.crop(image, top, left, bottom - top, right - left)


def image_size(image: Image.Image | Tensor) -> tuple[int, int]:
    """Return width and height of a Pillow image or tensor `(C, H, W)`."""
    height, width = v2.functional.get_size(image)
    return width, height
