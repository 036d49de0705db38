"""Images: read any kind of image, of any number of channels, and prepare it for a classifier."""

from __future__ import annotations

import os
import warnings
from collections.abc import Callable, Iterable, Iterator, Mapping, Sized
from dataclasses import dataclass
from functools import partial
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
from ttame.classifiers.transforms import Box as Box
from ttame.classifiers.transforms import crop_box as crop_box
from ttame.classifiers.transforms import eval_transform as eval_transform
from ttame.classifiers.transforms import image_size as image_size
from ttame.classifiers.transforms import train_transform as train_transform
from ttame.errors import TTameError
from ttame.files import image_paths
from ttame.masking import channel_tensor

ImageLike: TypeAlias = "str | Path | bytes | IO[bytes] | Image.Image | np.ndarray | Tensor"

_VALUES = "values must be uint8 (0 to 255), uint16 (0 to 65535) or floats in [0, 1]"


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
    return cast(Image.Image, _read(source, to_rgb))


def _read(source: str | Path | bytes | IO[bytes], convert: Callable[[Image.Image], Any]) -> Any:
    """Open an image file with Pillow and convert what it holds; errors as for `read_image`."""
    name, file, count = _opened(source)
    if count == 0:
        raise TTameError(f"image {name} is empty (0 bytes)")
    try:
        with Image.open(file) as image:
            image.load()
            return convert(image)
    except TTameError as error:
        raise TTameError(f"{name}: {error}") from error
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
    if not os.path.isfile(path):  # unlike path.is_file(), it takes names that are too long
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
        Raw images, `(B, C, H, W)`, float32 in [0, 1].

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
        Raw images, `(B, C, H, W)`, float32 in [0, 1], and their crops.

    Raises:
        TTameError: If an image cannot be read, naming its position, or there are none.
    """
    transform = eval_transform(spec)

    def prepared() -> Iterator[tuple[Tensor, Crop]]:
        for position, item in enumerate(_shown(source, size) if progress else source.items):
            try:
                image = open_image(item, position, spec.channels)
            except TTameError as error:
                if not skip_bad:
                    raise
                warnings.warn(f"skipped: {error}", stacklevel=2)
                continue
            photo = item if source.lasting or isinstance(item, (str, Path, bytes)) else None
            shape = image_size(image)
            yield transform(image), Crop(position, photo, shape, crop_box(shape, spec))

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
            image, an array `(H, W, C)` or tensor `(C, H, W)`, as `open_image` takes them for the
            C channels of the classifier. Or several: a folder, or a pattern such as
            `"photos/*.jpg"` (`ttame.files.image_paths`); a batch `(B, ...)` of arrays or tensors; a
            list, generator or other iterable, which is consumed as it is needed.

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
    """Normalise raw images `(B, C, H, W)` in [0, 1] for the classifier."""
    return (images - channel_tensor(spec.mean, images)) / channel_tensor(spec.std, images)


def denormalize(images: Tensor, spec: BackboneSpec) -> Tensor:
    """Invert `normalize`, clamped to [0, 1]."""
    raw = images * channel_tensor(spec.std, images) + channel_tensor(spec.mean, images)
    return raw.clamp(0, 1)


def to_raw(image: Image.Image | Tensor) -> Tensor:
    """Convert what `open_image` returns to `(C, H, W)`, float32 in [0, 1]."""
    raw = v2.functional.to_dtype(v2.functional.to_image(image), torch.float32, scale=True)
    return cast(Tensor, raw.as_subclass(Tensor))


def open_image(item: ImageLike, position: int = 0, channels: int = 3) -> Image.Image | Tensor:
    """Return one image, of any form that `image_source` names, for a classifier of C channels.

    Files and Pillow images are converted to RGB for three channels, and on to greyscale for one;
    16-bit greyscale keeps its 16 bits. For four channels they must have an alpha channel. More
    channels come as arrays, tensors or `.npy` files. Arrays `(H, W, C)` and tensors `(C, H, W)`
    are uint8 (0 to 255), uint16 (0 to 65535) or floating-point in [0, 1]; a float image of one or
    three channels is rounded to 8 bits. Arrays may be `(H, W)` for one or three channels, and in
    colour for one.

    Args:
        item: The image.
        position: Its position among others, for error messages.
        channels: Number of channels C.

    Returns:
        A Pillow image, upright RGB or greyscale of 8 bits, or `(C, H, W)`, float32 in [0, 1].

    Raises:
        TTameError: If the image cannot be read, naming its path or position, or has other channels
            or values.
    """
    convert, where = partial(_from_pillow, channels=channels), f"image {position}: "
    if isinstance(item, (str, Path)) and Path(item).suffix.lower() == ".npy":
        return _from_array(_read_array(Path(item)), channels, f"{str(item)!r}: ")
    if isinstance(item, (str, Path, bytes)) or hasattr(item, "read"):
        source = cast("str | Path | bytes | IO[bytes]", item)
        return cast("Image.Image | Tensor", _read(source, convert))
    if isinstance(item, Image.Image):
        try:
            return convert(item)
        except TTameError as error:
            raise TTameError(f"{where}{error}") from error
    if isinstance(item, np.ndarray):
        return _from_array(item, channels, where)
    if isinstance(item, Tensor):
        return _from_tensor(item, channels, where)
    raise TTameError(
        f"{where}cannot read a {type(item).__name__}; pass a path, bytes, a file open in binary "
        "mode, a Pillow image, an array or a tensor"
    )


def _from_pillow(image: Image.Image, channels: int) -> Image.Image | Tensor:
    if channels == 3:
        return to_rgb(image)
    if channels == 1 and not image.mode.startswith("I;16"):
        return to_rgb(image).convert("L")
    upright = ImageOps.exif_transpose(image)
    if channels == 1:
        return torch.from_numpy(np.asarray(upright, dtype=np.float32) / 65535)[None]
    if channels != 4:
        raise TTameError(
            f"the classifier takes {channels} channels, a photo of mode {image.mode} has "
            f"{len(image.getbands())}; pass an array (H, W, {channels}), or write it to a .npy file"
        )
    if upright.mode not in ("RGBA", "LA", "PA") and "transparency" not in upright.info:
        raise TTameError(
            f"the classifier takes 4 channels, a photo of mode {image.mode} has no alpha channel; "
            "pass RGBA, or an array (H, W, 4)"
        )
    # Not as a Pillow image: that would multiply the colours by alpha where it resizes them.
    return _from_array(np.asarray(upright.convert("RGBA")), channels, "")


def _read_array(path: Path) -> np.ndarray:
    if not os.path.isfile(path):
        raise TTameError(f"image {str(path)!r} does not exist or is not a file")
    try:
        return cast(np.ndarray, np.load(path, allow_pickle=False))
    except (OSError, ValueError, EOFError) as error:
        raise TTameError(f"{str(path)!r} is not a readable .npy array: {error}") from error


def _from_array(array: np.ndarray, channels: int, where: str) -> Image.Image | Tensor:
    expected = f"(H, W, {channels}){' or (H, W)' if channels in (1, 3) else ''}"
    found = array[..., None] if array.ndim == 2 else array
    if array.ndim == 2 and channels == 3:
        found = np.concatenate([found] * 3, axis=-1)
    if found.ndim != 3 or found.shape[-1] not in _accepted(channels):
        raise TTameError(f"{where}expected an array {expected}, got {array.shape}")
    try:
        # A copy, in the byte order of this machine: the array may be read-only.
        tensor = torch.from_numpy(found.astype(found.dtype.newbyteorder("=")))
    except TypeError as error:
        raise TTameError(f"{where}{_VALUES}, got {array.dtype}") from error
    return _from_tensor(tensor.permute(2, 0, 1), channels, where)


def _from_tensor(image: Tensor, channels: int, where: str) -> Image.Image | Tensor:
    """Convert `(C, H, W)`: to a Pillow image where one holds it, else to float32."""
    if image.ndim != 3 or image.shape[0] not in _accepted(channels) or image.numel() == 0:
        raise TTameError(
            f"{where}expected a tensor ({channels}, H, W), got {tuple(image.shape)}; the "
            f"classifier takes {channels} channel{'s' * (channels > 1)}"
        )
    image, photo = image.detach().cpu(), channels in (1, 3)
    if image.is_floating_point():
        if not bool(image.isfinite().all()):
            raise TTameError(f"{where}contains NaN or infinite values; clean the data first")
        low, high = float(image.min()), float(image.max())
        if low < 0 or high > 1:
            raise TTameError(
                f"{where}float images must lie in [0, 1], got {low:.3g} to {high:.3g}; for "
                "normalised input call explainer(tensor, targets)"
            )
        scaled = image.float()
        if photo:
            image = (scaled * 255).round().to(torch.uint8)
    elif image.dtype == torch.uint8:
        scaled = image.float() / 255
    elif image.dtype == torch.uint16:
        scaled = image.to(torch.int32).float() / 65535
    else:
        raise TTameError(f"{where}{_VALUES}, got {image.dtype}")
    if photo and image.dtype == torch.uint8:
        return _from_pillow(v2.functional.to_pil_image(image), channels)
    if len(scaled) != channels:
        raise TTameError(
            f"{where}a colour image of 16 bits is not converted to greyscale; pass (1, H, W)"
        )
    return scaled


def _accepted(channels: int) -> tuple[int, ...]:
    """Return the channels that an array may have: a colour photo can be made grey."""
    return (1, 3) if channels == 1 else (channels,)
