"""Images: read any kind of photo and prepare it for a classifier."""

from __future__ import annotations

from collections.abc import Callable, Sequence
from pathlib import Path
from typing import Any, TypeAlias, cast

import numpy as np
import torch
from PIL import Image, ImageOps, UnidentifiedImageError
from torch import Tensor
from torchvision.transforms import v2

from ttame.classifiers.specs import BackboneSpec
from ttame.errors import TTameError
from ttame.masking import channel_tensor

ImageLike: TypeAlias = "str | Path | Image.Image | np.ndarray | Tensor"

# Panoramas are cut to this aspect ratio before resizing; only their centre survives the crop.
_MAX_ASPECT = 4


def read_image(path: str | Path) -> Image.Image:
    """Read a photo as upright 8-bit RGB.

    Any other mode is converted, transparency is laid over white, EXIF rotation is applied, and
    of an animation the first frame is taken.

    Raises:
        TTameError: If the file is missing, empty, truncated, not an image, or larger than
            Pillow's limit.
    """
    path = Path(path)
    if not path.is_file():
        raise TTameError(f"image {str(path)!r} does not exist or is not a file")
    if path.stat().st_size == 0:
        raise TTameError(f"image {str(path)!r} is empty (0 bytes)")
    try:
        with Image.open(path) as image:
            image.load()
            return to_rgb(image)
    except UnidentifiedImageError as error:
        raise TTameError(
            f"{str(path)!r} is not an image that Pillow can read; expected JPEG, PNG, WebP, ..."
        ) from error
    except Image.DecompressionBombError as error:
        raise TTameError(f"image {str(path)!r} is too large ({error}); reduce it first") from error
    except (OSError, SyntaxError, ValueError) as error:
        raise TTameError(f"image {str(path)!r} is damaged or truncated: {error}") from error


def to_rgb(image: Image.Image) -> Image.Image:
    """Convert a Pillow image to upright 8-bit RGB; the argument is not changed."""
    image = ImageOps.exif_transpose(image)
    if image.mode.startswith(("I", "F")):
        values = np.asarray(image, dtype=np.float64)
        # 16-bit files use 0..65535; any other range is scaled by its own maximum.
        top = 65535.0 if 1 < values.max() <= 65535 else max(float(values.max()), 1e-12)
        image = Image.fromarray((values.clip(0) / top * 255).round().astype(np.uint8))
    if image.mode in ("RGBA", "LA", "PA") or "transparency" in image.info:
        layer = image.convert("RGBA")
        image = Image.alpha_composite(Image.new("RGBA", layer.size, "white"), layer)
    return image.convert("RGB")


def to_batch(images: ImageLike | Sequence[ImageLike], spec: BackboneSpec) -> Tensor:
    """Resize and crop one or more images for a classifier, without normalising them.

    Args:
        images: A path, Pillow image, array `(H, W)` or `(H, W, 3)`, or tensor `(3, H, W)`
            (uint8, or float in [0, 1]), or a sequence or batch of these.
        spec: Facts of the classifier.

    Returns:
        Raw images, `(B, 3, H, W)`, float32 in [0, 1].

    Raises:
        TTameError: If an image cannot be read, naming its position.
    """
    arrays = isinstance(images, (Tensor, np.ndarray))
    many = images.ndim == 4 if arrays else isinstance(images, (list, tuple))  # type: ignore[union-attr]
    items: list[Any] = list(images) if many else [images]  # type: ignore[arg-type]
    if not items:
        raise TTameError("got no images; pass at least one")
    transform = eval_transform(spec)
    return torch.stack([transform(_to_pil(item, i)) for i, item in enumerate(items)])


def normalize(images: Tensor, spec: BackboneSpec) -> Tensor:
    """Normalise raw images `(B, 3, H, W)` in [0, 1] for the classifier."""
    return (images - channel_tensor(spec.mean, images)) / channel_tensor(spec.std, images)


def denormalize(images: Tensor, spec: BackboneSpec) -> Tensor:
    """Invert `normalize`, clamped to [0, 1]."""
    raw = images * channel_tensor(spec.std, images) + channel_tensor(spec.mean, images)
    return raw.clamp(0, 1)


def eval_transform(spec: BackboneSpec) -> v2.Compose:
    """Build the transform that resizes and centre-crops to `(3, H, W)` float32 in [0, 1]."""
    return _compose(_resize(spec), v2.CenterCrop(list(spec.input_size)))


def train_transform(spec: BackboneSpec, crop_area: float | None = None) -> v2.Compose:
    """Build `eval_transform` with a random crop and horizontal flip.

    Args:
        spec: Facts of the classifier.
        crop_area: Minimum share of the photo's area in a crop, which is then resized to the
            input size; `None` crops the input size from the resized photo, as the papers do.
    """
    size, mode = list(spec.input_size), v2.InterpolationMode(spec.interpolation)
    crop = [_resize(spec), v2.RandomCrop(size)]
    if crop_area is not None:
        crop = [v2.RandomResizedCrop(size, scale=(crop_area, 1.0), interpolation=mode)]
    return _compose(*crop, v2.RandomHorizontalFlip())


def _compose(*steps: Callable[[Any], Any]) -> v2.Compose:
    convert = (v2.PILToTensor(), v2.ToDtype(torch.float32, scale=True))
    return v2.Compose([v2.Lambda(_limit_aspect), *steps, *convert])


def _resize(spec: BackboneSpec) -> v2.Resize:
    return v2.Resize(spec.resize, interpolation=v2.InterpolationMode(spec.interpolation))


def _limit_aspect(image: Image.Image) -> Image.Image:
    """Crop extreme panoramas to their centre, so that resizing them fits into memory."""
    width, height = image.size
    longest = _MAX_ASPECT * min(width, height)
    if max(width, height) <= longest:
        return image
    keep_w, keep_h = min(width, longest), min(height, longest)
    left, top = (width - keep_w) // 2, (height - keep_h) // 2
    return image.crop((left, top, left + keep_w, top + keep_h))


def _to_pil(item: ImageLike, position: int) -> Image.Image:
    where = f"image {position}"
    if isinstance(item, (str, Path)):
        return read_image(item)
    if isinstance(item, Image.Image):
        return to_rgb(item)
    if isinstance(item, np.ndarray):
        if item.ndim == 2:
            item = np.stack([item] * 3, axis=-1)
        if item.ndim != 3 or item.shape[-1] != 3:
            raise TTameError(f"{where}: expected an array (H, W, 3) or (H, W), got {item.shape}")
        item = torch.from_numpy(np.array(item)).permute(2, 0, 1)  # a copy: it may be read-only
    if not isinstance(item, Tensor):
        raise TTameError(
            f"{where}: cannot read a {type(item).__name__}; pass a path, a Pillow image, an "
            "array or a tensor"
        )
    if item.ndim != 3 or item.shape[0] != 3 or item.numel() == 0:
        raise TTameError(f"{where}: expected a tensor (3, H, W), got {tuple(item.shape)}")
    if item.is_floating_point():
        if not bool(item.isfinite().all()):
            raise TTameError(f"{where}: contains NaN or infinite values; clean the data first")
        low, high = float(item.min()), float(item.max())
        if low < 0 or high > 1:
            raise TTameError(
                f"{where}: float images must lie in [0, 1], got {low:.3g} to {high:.3g}; for "
                "normalised input call explainer(tensor, targets)"
            )
        item = (item * 255).round().to(torch.uint8)
    elif item.dtype != torch.uint8:
        raise TTameError(f"{where}: integers must be uint8, got {item.dtype}")
    return cast(Image.Image, v2.functional.to_pil_image(item.cpu()))
