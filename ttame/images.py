"""Images: read any kind of photo and prepare it for a classifier."""

from __future__ import annotations

import warnings
from collections.abc import Callable, Iterable, Iterator, Mapping, Sized
from dataclasses import dataclass
from io import BytesIO, TextIOBase
from itertools import islice
from pathlib import Path
from typing import IO, Any, TypeAlias, cast

import numpy as np
import torch
from PIL import Image, ImageOps, UnidentifiedImageError
from torch import Tensor
from torchvision.transforms import v2

from ttame.classifiers.specs import BackboneSpec
from ttame.errors import TTameError
from ttame.files import image_paths
from ttame.masking import channel_tensor

ImageLike: TypeAlias = "str | Path | bytes | IO[bytes] | Image.Image | np.ndarray | Tensor"
Box: TypeAlias = "tuple[float, float, float, float]"

# Panoramas are cut to this aspect ratio before resizing; only their centre survives the crop.
_MAX_ASPECT = 4


@dataclass(frozen=True)
class Crop:
    """One photo among those explained, and the part of it that the classifier sees.

    Attributes:
        position: Position of the photo among all that were passed, from 0.
        photo: The photo as it was passed; `None` if an iterator gave it in memory, so that it can
            be freed.
        size: Width and height of the upright photo, in pixels.
        box: Left, top, right and bottom edge of the part, in pixels of the upright photo. It
            reaches beyond the photo where the transform pads.
    """

    position: int
    photo: ImageLike | None
    size: tuple[int, int]
    box: Box


def read_image(source: str | Path | bytes | IO[bytes]) -> Image.Image:
    """Read a photo as upright 8-bit RGB.

    Any other mode is converted, transparency is laid over white, EXIF rotation is applied, and
    of an animation the first frame is taken.

    Args:
        source: A path, the bytes of an image file, or a file that is open in binary mode, which
            is read from its beginning and stays open.

    Raises:
        TTameError: If the file is missing, empty, truncated, not an image, or larger than
            Pillow's limit.
    """
    name, file, count = _opened(source)
    if count == 0:
        raise TTameError(f"image {name} is empty (0 bytes)")
    try:
        with Image.open(file) as image:
            image.load()
            return to_rgb(image)
    except UnidentifiedImageError as error:
        raise TTameError(
            f"{name} is not an image that Pillow can read; expected JPEG, PNG, WebP, ..."
        ) from error
    except Image.DecompressionBombError as error:
        raise TTameError(f"image {name} is too large ({error}); reduce it first") from error
    except (OSError, SyntaxError, ValueError) as error:
        raise TTameError(f"image {name} is damaged or truncated: {error}") from error


def _opened(source: str | Path | bytes | IO[bytes]) -> tuple[str, Path | IO[bytes], int | None]:
    """Return a source's name for messages, what Pillow opens, and its bytes, where known."""
    if isinstance(source, bytes):
        return f"of {len(source)} bytes", BytesIO(source), len(source)
    if not isinstance(source, (str, Path)):
        name = repr(str(getattr(source, "name", type(source).__name__)))
        if isinstance(source, TextIOBase):
            raise TTameError(f"image {name} is open in text mode; open it with mode 'rb'")
        if getattr(source, "closed", False):
            raise TTameError(f"image {name} is a closed file; open it again")
        return name, source, None
    path = Path(source)
    if not path.is_file():
        raise TTameError(f"image {str(path)!r} does not exist or is not a file")
    return repr(str(path)), path, path.stat().st_size


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


def to_batch(images: ImageLike | Iterable[ImageLike], spec: BackboneSpec) -> Tensor:
    """Resize and crop one or more images for a classifier, without normalising them.

    Args:
        images: As for `image_source`.
        spec: Facts of the classifier.

    Returns:
        Raw images, `(B, 3, H, W)`, float32 in [0, 1].

    Raises:
        TTameError: If an image cannot be read, naming its position, or there are none.
    """
    return torch.cat([batch for batch, _ in image_batches(image_source(images), spec, 1)])


def image_batches(
    source: ImageSource,
    spec: BackboneSpec,
    size: int,
    *,
    skip_bad: bool = False,
    progress: bool = False,
) -> Iterator[tuple[Tensor, tuple[Crop, ...]]]:
    """Prepare images as `to_batch` does, batch by batch; no more are read than are yielded.

    Args:
        source: The images.
        spec: Facts of the classifier.
        size: Images per batch, at most.
        skip_bad: Skip images that cannot be read, with a warning each.
        progress: Show a progress bar if there is more than one batch, in terminals and notebooks.

    Yields:
        Raw images, `(B, 3, H, W)`, float32 in [0, 1], and their crops.

    Raises:
        TTameError: If an image cannot be read, naming its position, or there are none.
    """
    transform = eval_transform(spec)

    def prepared() -> Iterator[tuple[Tensor, Crop]]:
        for position, item in enumerate(_shown(source, size) if progress else source.items):
            try:
                image = open_image(item, position)
            except TTameError as error:
                if not skip_bad:
                    raise
                warnings.warn(f"skipped: {error}", stacklevel=2)
                continue
            photo = item if source.lasting or isinstance(item, (str, Path, bytes)) else None
            yield transform(image), Crop(position, photo, image.size, crop_box(image.size, spec))

    images, found = prepared(), False
    while batch := list(islice(images, size)):
        found = True
        yield torch.stack([raw for raw, _ in batch]), tuple(crop for _, crop in batch)
    if not found:
        readable = " that can be read" if skip_bad else ""
        raise TTameError(f"got no images{readable}; pass at least one")


def _shown(source: ImageSource, size: int) -> Iterable[ImageLike]:
    """Go through images with a progress bar, which vanishes at the end."""
    from rich.console import Console
    from rich.progress import track

    console = Console(stderr=True)
    seen = console.is_terminal or console.is_jupyter
    more = source.count is None or source.count > size
    return track(
        source.items, "photos", source.count, console=console, transient=True,
        disable=not (seen and more),
    )  # fmt: skip


@dataclass(frozen=True)
class ImageSource:
    """Images to go through once (`image_source`).

    Attributes:
        items: The images, one by one.
        count: Number of images, if it is known.
        lasting: Whether the images exist elsewhere, so that to keep them costs no memory.
    """

    items: Iterator[ImageLike]
    count: int | None
    lasting: bool


def image_source(images: ImageLike | Iterable[ImageLike]) -> ImageSource:
    """Find out what images are meant.

    Args:
        images: One image: a path, the bytes of an image file, a file open in binary mode, a Pillow
            image, an array `(H, W)` or `(H, W, 3)`, or a tensor `(3, H, W)` (uint8, or float in
            [0, 1]). Or several: a folder, or a pattern such as `"photos/*.jpg"`
            (`ttame.files.image_paths`); a batch `(B, ...)` of arrays or tensors; a list,
            generator or other iterable, which is consumed as it is needed.

    Raises:
        TTameError: If a folder holds no images, or a pattern fits none.
    """
    if isinstance(images, (str, Path)):
        paths = image_paths(images)
        return ImageSource(iter(paths), len(paths), lasting=True)
    if isinstance(images, (Tensor, np.ndarray)):
        rows: list[ImageLike] = list(images) if images.ndim == 4 else [images]
        return ImageSource(iter(rows), len(rows), lasting=True)
    # Open files are iterable, but give lines; a mapping is refused like any unknown type.
    single = isinstance(images, (bytes, Image.Image, Mapping)) or hasattr(images, "read")
    if single or not isinstance(images, Iterable):
        return ImageSource(iter([cast("ImageLike", images)]), 1, lasting=True)
    count = len(images) if isinstance(images, Sized) else None
    several = cast("Iterable[ImageLike]", images)
    return ImageSource(iter(several), count, lasting=isinstance(images, (list, tuple)))


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


def crop_box(size: tuple[int, int], spec: BackboneSpec) -> Box:
    """Find the part of a photo that `eval_transform` shows to the classifier.

    Args:
        size: Width and height of the upright photo, in pixels.
        spec: Facts of the classifier.

    Returns:
        Left, top, right and bottom edge, in pixels of the photo, as for `PIL.Image.Image.crop`.
    """
    left, top, right, bottom = _inner(size)
    # Only the shape is computed: a meta tensor has no values.
    resized = _resize(spec)(torch.empty(1, bottom - top, right - left, device="meta"))
    edges = []
    for offset, length, scaled, kept in zip(
        (left, top), (right - left, bottom - top), resized.shape[:0:-1], spec.input_size[::-1],
        strict=True,
    ):  # fmt: skip
        # As torchvision's CenterCrop rounds; where it pads, the start is negative.
        start = round((scaled - kept) / 2) if scaled >= kept else -((kept - scaled) // 2)
        edges.append([offset + at * length / scaled for at in (start, start + kept)])
    (x0, x1), (y0, y1) = edges
    return x0, y0, x1, y1


def _inner(size: tuple[int, int]) -> tuple[int, int, int, int]:
    """Return the centre of an extreme panorama, and of any other photo all of it."""
    longest = _MAX_ASPECT * min(size)
    keep = [min(side, longest) for side in size]
    left, top = ((side - kept) // 2 for side, kept in zip(size, keep, strict=True))
    return left, top, left + keep[0], top + keep[1]


def _limit_aspect(image: Image.Image) -> Image.Image:
    """Crop extreme panoramas to their centre, so that resizing them fits into memory."""
    box = _inner(image.size)
    return image if box == (0, 0, *image.size) else image.crop(box)


def open_image(item: ImageLike, position: int = 0) -> Image.Image:
    """Return one image, of any form that `image_source` names, as upright 8-bit RGB.

    Raises:
        TTameError: If it cannot be read, naming its position.
    """
    where = f"image {position}"
    if isinstance(item, (str, Path, bytes)) or hasattr(item, "read"):
        return read_image(cast("str | Path | bytes | IO[bytes]", item))
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
            f"{where}: cannot read a {type(item).__name__}; pass a path, bytes, a file open "
            "in binary mode, a Pillow image, an array or a tensor"
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
