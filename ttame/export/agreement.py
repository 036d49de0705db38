"""Agreement: what an exported file computes, held against PyTorch on photos."""

from __future__ import annotations

from collections.abc import Iterable
from dataclasses import dataclass
from pathlib import Path
from typing import TYPE_CHECKING

import numpy as np
import torch

from ttame.classifiers.passes import own_precision
from ttame.errors import TTameError
from ttame.export.program import PREDICTED, Program
from ttame.images import ImageLike, image_batches, image_source, normalize

if TYPE_CHECKING:
    from ttame.explainer import Explainer

TOLERANCE = 1e-3  # of logits and maps, relative to their largest value where that is above 1
_BATCH = 8


@dataclass(frozen=True)
class Agreement:
    """How far an exported file is from PyTorch.

    Attributes:
        photos: Number of photos compared.
        logits: Largest difference of the logits, relative to the largest one where above 1.
        maps: The same of the raw maps of the classes that PyTorch predicts.
    """

    photos: int
    logits: float
    maps: float


def compare(
    path: Path, explainer: Explainer, photos: ImageLike | Iterable[ImageLike], batch: int | None
) -> Agreement:
    """Run an exported file and PyTorch on photos.

    Raises:
        TTameError: If a photo cannot be read, or the file disagrees.
    """
    import onnxruntime

    session = onnxruntime.InferenceSession(path)
    program, size = Program(explainer), batch or _BATCH
    count, apart = 0, {"logits": 0.0, "maps": 0.0}
    for raw, _ in image_batches(image_source(photos), explainer.spec, size):
        images = normalize(raw, explainer.spec)
        images = torch.cat(
            [images, images[-1:].expand(max(0, (batch or 0) - len(raw)), -1, -1, -1)]
        )
        predicted = torch.full((len(images),), PREDICTED)
        with torch.inference_mode(), own_precision(torch.device("cpu")):
            logits, targets, maps = (found.numpy() for found in program(images, predicted))
        own, explained, _ = session.run(
            None, {"images": images.numpy(), "targets": predicted.numpy()}
        )
        if not np.array_equal(own.argmax(axis=1), explained):
            raise TTameError("the exported file does not explain the class that it predicts")
        found, explained, found_maps = session.run(
            None, {"images": images.numpy(), "targets": targets}
        )
        for name, mine, theirs in (("logits", logits, found), ("maps", maps, found_maps)):
            apart[name] = max(apart[name], _difference(mine, theirs))
        count += len(raw)
    agreement = Agreement(count, **apart)
    if not max(agreement.logits, agreement.maps) <= TOLERANCE:  # NaN fails, too
        raise TTameError(
            f"the exported file disagrees with PyTorch on {count} photos: logits by "
            f"{agreement.logits:.2g}, maps by {agreement.maps:.2g} of the largest value, more than "
            f"{TOLERANCE:g}; nothing is written"
        )
    return agreement


def _difference(ours: np.ndarray, theirs: np.ndarray) -> float:
    """Return the largest difference, relative to the largest value where that is above 1."""
    if ours.shape != theirs.shape:
        return float("inf")
    return float(np.abs(ours - theirs).max() / max(1.0, float(np.abs(ours).max())))
