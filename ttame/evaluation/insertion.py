"""Insertion and deletion: the classifier's answer as pixels come or go in the map's order (`rise`).

Insertion starts from the blurred photo and puts the most relevant pixels back first: a good map
finds the class early, higher is better. Deletion blanks the most relevant pixels first: a good
map loses the class early, lower is better.
"""

from __future__ import annotations

from dataclasses import dataclass
from typing import Literal, get_args

import torch
from torch import Tensor, nn
from torchvision.transforms.v2.functional import gaussian_blur

from ttame.classifiers.outputs import probabilities
from ttame.classifiers.specs import BackboneSpec
from ttame.errors import TTameError
from ttame.evaluation.road import pixel_places
from ttame.images import normalize

Baseline = Literal["mean", "black"]
STEPS = 20


@dataclass(frozen=True)
class InsertionScores:
    """Probabilities of the target class along both curves.

    Column i is after round(i / steps · H·W) pixels.

    Attributes:
        insertion: `(B, steps + 1)` float32, from the blurred photo to the photo.
        deletion: `(B, steps + 1)` float32, from the photo to the blank image.
    """

    insertion: Tensor
    deletion: Tensor


@torch.inference_mode()
def insertion_deletion(
    classifier: nn.Module,
    spec: BackboneSpec,
    images: Tensor,
    maps: Tensor,
    targets: Tensor,
    *,
    steps: int = STEPS,
    seed: int = 0,
    blur: tuple[int, float] = (11, 5.0),
    chunk: int = 32,
    baseline: Baseline = "mean",
) -> InsertionScores:
    """Measure both curves, most relevant pixels first, ranked as for ROAD (`pixel_places`).

    Blur and blank are RISE's: a Gaussian of 11 pixels and sigma 5 (edges reflected here, zeros
    there), and 0 in the normalised space, which is the mean colour (RISE's code blanks after the
    mean was subtracted). RISE moves 224 pixels per step, `steps=224` for 224x224; 20 steps cost an
    eleventh of that. Each photo is classified 2·steps + 1 times: the whole photo once for both.

    Args:
        classifier: The bare classifier, in `eval()`.
        spec: Its facts.
        images: Normalised photos, `(B, C, H, W)`.
        maps: Raw explanation maps, `(B, 1, h, w)`.
        targets: Target classes, `(B,)` int64.
        steps: Number of steps from nothing to all pixels.
        seed: Seed of tie-breaks.
        blur: Kernel width, pixels (odd), and standard deviation, pixels, of insertion's start.
        chunk: Masked images in memory at a time.
        baseline: What deleted pixels take: `"mean"`, the mean colour, or `"black"`. It does not
            follow `spec.space`.

    Raises:
        TTameError: If a map is not finite, images, maps and targets differ in number, or an
            option is out of range.
    """
    for name, value in (("steps", steps), ("chunk", chunk)):
        if value < 1:
            raise TTameError(f"{name} must be 1 or more, got {value!r}")
    if baseline not in get_args(Baseline):
        raise TTameError(f"unknown baseline {baseline!r}; expected 'mean' or 'black'")
    places = pixel_places(images, maps, targets, seed)
    blurred = _blur(images, *blur)
    mean = torch.zeros_like(images[:1])
    blank = normalize(mean, spec) if baseline == "black" else mean
    # Columns 0..steps insert, those after delete; column `steps`, the whole photo, is in both.
    pixels, columns = places.shape[-1], 2 * steps + 1
    counts = [round(step / steps * pixels) for step in range(steps + 1)]
    moved = torch.tensor(counts + counts[1:], device=images.device)
    total, found = len(images) * columns, []
    for start in range(0, total, chunk):
        jobs = torch.arange(start, min(start + chunk, total), device=images.device)
        photo, column = jobs // columns, jobs % columns
        deletes = (column > steps)[:, None]
        shown = (places[photo] < moved[column][:, None]) ^ deletes  # (n, HW)
        hidden = torch.where(deletes[..., None, None], blank, blurred[photo])
        masked = torch.where(shown.view(-1, 1, *images.shape[-2:]), images[photo], hidden)
        scores = probabilities(classifier(masked), spec.activation)
        found.append(scores.gather(1, targets[photo][:, None])[:, 0])
    curves = torch.cat(found).view(len(images), columns)
    return InsertionScores(insertion=curves[:, : steps + 1], deletion=curves[:, steps:])


def _blur(images: Tensor, kernel: int, sigma: float) -> Tensor:
    """Blur normalised images; the same as blurring the raw ones, as the weights sum to one."""
    if kernel < 1 or kernel % 2 == 0 or not sigma > 0 or kernel // 2 >= min(images.shape[-2:]):
        raise TTameError(
            f"blur must be an odd kernel width of less than twice the image's "
            f"{tuple(images.shape[-2:])} pixels and a positive sigma, got {(kernel, sigma)}"
        )
    blurred: Tensor = gaussian_blur(images, [kernel, kernel], [sigma, sigma])
    return blurred
