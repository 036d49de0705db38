"""Agreement: what an exported file computes, held against PyTorch on photos."""

from __future__ import annotations

from collections.abc import Callable, Iterable, Iterator, Mapping, Sequence
from dataclasses import dataclass
from typing import TYPE_CHECKING

import numpy as np
import torch
import torch.nn.functional as F
from PIL import Image
from torch import Tensor

from ttame.classifiers.passes import own_precision
from ttame.errors import TTameError
from ttame.export.program import PREDICTED, Program, other_size
from ttame.export.weights import Storage
from ttame.images import (
    ImageLike,
    denormalize,
    image_batches,
    image_source,
    normalize,
    open_image,
    to_batch,
)

if TYPE_CHECKING:
    from ttame.explainer import Explainer

# Largest differences of logits and maps, relative to the largest value.
TOLERANCES: Mapping[Storage, float] = {"float32": 1e-3, "float16": 1e-2, "int8": 0.2}
GREY_LEVELS = 2  # by which preprocessing in the file may differ
_BATCH = 8
_ZERO = 1e-6  # values below count as rounding

Run = Callable[..., Sequence[np.ndarray]]  # of inputs, in order, to outputs


@dataclass(frozen=True)
class Agreement:
    """How far an exported file is from PyTorch.

    Attributes:
        photos: Number of photos compared.
        logits: Largest difference of the logits, relative to the largest one.
        maps: Largest difference of the raw maps of the classes that PyTorch predicts, relative to
            the largest value.
        same: Share of photos for which both predict the same class.
        pixels: Largest difference of the prepared photos, in grey levels of 255, where the file
            prepares them.
    """

    photos: int
    logits: float
    maps: float
    same: float
    pixels: float | None = None


def compare(
    run: Run,
    explainer: Explainer,
    photos: ImageLike | Iterable[ImageLike],
    *,
    batch: int | None = None,
    storage: Storage = "float32",
    prepare: Run | None = None,
    any_size: bool = False,
) -> Agreement:
    """Run an exported network and PyTorch on photos, one and several at a time.

    Args:
        run: The exported network.
        explainer: What was exported, in float32 on the CPU.
        photos: As for `Explainer.explain`.
        batch: Number of images per call, if it is fixed.
        storage: How the weights are stored, on which the tolerance depends.
        prepare: The preprocessing in the file, if there is any: from pixels `(1, H, W, C)` to
            normalised images. What it makes is then what PyTorch gets.
        any_size: Compare on the photos in another height and width as well.

    Raises:
        TTameError: If a photo cannot be read, or the network disagrees.
    """
    program, spec = Program(explainer), explainer.spec
    count, same, apart = 0, 0, {"logits": 0.0, "maps": 0.0}
    pixels = None if prepare is None else 0.0
    given = (
        _pixels(explainer, photos)
        if prepare is not None
        else _inputs(explainer, photos, batch, any_size)
    )
    for fed, images in given:
        if prepare is not None:
            prepared = torch.from_numpy(prepare(fed)[0])
            moved = (denormalize(prepared, spec) - denormalize(images, spec)).abs().max()
            pixels, images = max(pixels or 0.0, 255 * float(moved)), prepared
        size = len(images)
        if batch is not None:  # filled up with the last one
            at = np.arange(batch).clip(max=size - 1)
            fed, images = fed[at], images[at]
        for part in {len(images), 1} if batch is None else {batch}:
            ours, targets, maps = _torch(program, images[:part])
            theirs, explained, _ = run(fed[:part], np.full(part, PREDICTED))
            if not np.array_equal(theirs.argmax(axis=1), explained):
                raise TTameError("the exported file does not explain the class that it predicts")
            found = run(fed[:part], targets)[2]
            apart["logits"] = max(apart["logits"], _difference(ours, theirs))
            apart["maps"] = max(apart["maps"], _difference(maps, found))
            if part == len(images):
                same += int((explained == targets)[:size].sum())
        count += size
    agreement = Agreement(
        count // 2 if any_size else count, **apart, same=same / count, pixels=pixels
    )
    _judge(agreement, TOLERANCES[storage])
    return agreement


def _judge(agreement: Agreement, limit: float) -> None:
    """Refuse a file that disagrees."""
    if not max(agreement.logits, agreement.maps) <= limit:  # NaN fails, too
        raise TTameError(
            f"the exported file disagrees with PyTorch on {agreement.photos} photos: logits by "
            f"{agreement.logits:.2g} and maps by {agreement.maps:.2g} of their largest value, more "
            f"than {limit:g}; nothing is written"
        )
    if agreement.pixels is not None and not agreement.pixels <= GREY_LEVELS + 1e-3:
        raise TTameError(
            f"the exported preprocessing differs by {agreement.pixels:.1f} grey levels, more than "
            f"{GREY_LEVELS}; nothing is written; export without preprocessing"
        )


def _torch(program: Program, images: Tensor) -> tuple[np.ndarray, np.ndarray, np.ndarray]:
    """Run PyTorch: logits, predicted classes and their maps."""
    with torch.inference_mode(), own_precision(images.device):
        logits, targets, maps = program(images, torch.full((len(images),), PREDICTED))
    return logits.numpy(), targets.numpy(), maps.numpy()


def _inputs(
    explainer: Explainer, photos: ImageLike | Iterable[ImageLike], batch: int | None, other: bool
) -> Iterator[tuple[np.ndarray, Tensor]]:
    """Yield normalised images batch by batch, as array and tensor; `other`: in two sizes each."""
    for raw, _ in image_batches(image_source(photos), explainer.spec, batch or _BATCH):
        images = normalize(raw, explainer.spec)
        yield images.numpy(), images
        if other:
            images = F.interpolate(images, other_size(explainer.spec.input_size), mode="bilinear")
            yield images.numpy(), images


def _pixels(
    explainer: Explainer, photos: ImageLike | Iterable[ImageLike]
) -> Iterator[tuple[np.ndarray, Tensor]]:
    """Yield the pixels of photos `(1, H, W, C)` one by one, with their normalised images."""
    spec = explainer.spec
    for position, photo in enumerate(image_source(photos).items):
        image = open_image(photo, position, spec.channels)
        if not isinstance(image, Image.Image):
            raise TTameError(
                f"image {position} is no photo of 8 bits; compare preprocessing on photos"
            )
        pixels = np.asarray(image).reshape(1, image.height, image.width, spec.channels)
        yield pixels, normalize(to_batch(image, spec), spec)


def _difference(ours: np.ndarray, theirs: np.ndarray) -> float:
    """Return the largest difference, relative to the largest value."""
    if ours.shape != theirs.shape:
        return float("inf")
    return float(np.abs(ours - theirs).max() / max(_ZERO, float(np.abs(ours).max())))
