"""What explanations, methods and ROAD cost, against floors and peers in the same process.

Costs are medians of turns that alternate between the compared functions, so that a change of
the machine's speed meets both. Reading and preparing photos is in none of them.
"""

from __future__ import annotations

import inspect
import math
import statistics
from collections.abc import Callable, Sequence
from typing import Any

import torch
from torch import Tensor

from ttame.classifiers.outputs import probabilities
from ttame.data import PhotoDataset, PhotoList
from ttame.errors import TTameError
from ttame.evaluation.cost import alternate, clock, count_passes
from ttame.evaluation.imputation import impute
from ttame.evaluation.road import LEVELS, pixel_places
from ttame.explainer import Explainer
from ttame.images import denormalize, normalize
from ttame.methods import METHODS, build
from ttame.methods.method import networks_beside
from ttame.methods.rise import rise_method

# RISE would take minutes; its cost is linear in the masks, so that a part tells the whole.
RISE_MASKS = 100
_SLOW = 2.0  # seconds: a method beyond is timed once, one below for about as long
_TURNS = (3, 21)  # fewest and most timed turns of the others
_FLOORS = 3  # plain forward passes on either side of a method's turn


@torch.inference_mode()
def measure_road(
    explainer: Explainer,
    photos: PhotoList,
    repeats: int = 3,
    levels: Sequence[int] = LEVELS,
    seed: int = 0,
) -> dict[str, Any]:
    """Time ROAD's imputation against pytorch-grad-cam's, and compare what comes out.

    Both fill the same pixels of the same raw photos, those that `road.road` removes by
    T-TAME's maps at every level in both orders, without noise: the library's
    `NoisyLinearImputer` (`gildenblat`) image by image, as its ROAD classes call it, ours all
    images of a photo at once, as `road` calls it.

    Args:
        explainer: In `eval()`; the target is the predicted class.
        photos: What is degraded.
        repeats: Timed turns per photo; one more on the first photo warms up.
        levels: Percent of pixels removed.
        seed: Tie-break seed of the ranking.

    Returns:
        A record: medians in seconds per photo and their ratio (library by ours); the largest
        difference of the imputed images, in [0, 1] units, and of the target's probability; how
        many images have the same predicted class, of how many.

    Raises:
        TTameError: If there is no photo or no repeat, or a photo cannot be read.
    """
    from pytorch_grad_cam.metrics.road import NoisyLinearImputer

    if repeats < 1:
        raise TTameError(f"repeats must be at least 1, got {repeats}")
    spec, images = explainer.spec, _read(explainer, photos)
    _, targets, maps = explainer(images)
    targets, pixels = targets[:, 0], images.shape[-2] * images.shape[-1]
    places = pixel_places(images, maps, targets, seed).view(-1, 1, *images.shape[-2:])
    counts = [round(level / 100 * pixels) for level in levels]
    imputer = NoisyLinearImputer(noise=0)
    times: tuple[list[float], ...] = ([], [])
    apart, moved, equal = 0.0, 0.0, 0
    for raw, place, target in zip(denormalize(images.float(), spec), places, targets, strict=True):
        known = torch.stack([place >= n for n in counts] + [place < pixels - n for n in counts])
        # The library works on the CPU, and marks by numbers.
        on_cpu, marks = raw.cpu(), known[:, 0].float().cpu()

        def ours(raw: Tensor = raw, known: Tensor = known) -> Tensor:
            return impute(raw.expand(len(known), -1, -1, -1), known)

        def library(raw: Tensor = on_cpu, marks: Tensor = marks) -> Tensor:
            return torch.stack([imputer(raw, mark) for mark in marks])

        found = alternate((ours, library), repeats, raw.device, warm_up=int(not times[0]))
        for every, turns in zip(times, found, strict=True):
            every.extend(turns)
        filled, expected = ours(), library().to(raw)
        mine, theirs = (
            probabilities(
                explainer.classifier(normalize(degraded, spec).to(images.dtype)), spec.activation
            )
            for degraded in (filled, expected)
        )
        apart = max(apart, float((filled - expected).abs().max()))
        moved = max(moved, float((mine - theirs)[:, target].abs().max()))
        equal += int((mine.argmax(dim=1) == theirs.argmax(dim=1)).sum())
    by_us, by_library = (statistics.median(every) for every in times)
    return {
        "backbone": spec.name,
        "photos": list(photos.names),
        "levels": list(levels),
        "noise": 0.0,
        "ours_seconds": by_us,
        "library_seconds": by_library,
        "ratio": by_library / by_us,
        "largest_difference": apart,
        "largest_probability_difference": moved,
        "decisions_equal": equal,
        "decisions": 2 * len(counts) * len(photos),
        "repeats": repeats,
        "threads": torch.get_num_threads(),
    }


def measure_methods(
    explainer: Explainer,
    photos: PhotoList,
    methods: Sequence[str] = tuple(METHODS),
    progress: Callable[[int, int], None] | None = None,
) -> list[dict[str, Any]]:
    """Time explanation methods photo by photo, each against plain forward passes around it.

    A method's first call warms up, unless it takes more than two seconds: then it is the
    measurement. The others are timed for about two seconds, 3 to 21 turns, on the photos in
    rotation. RISE is timed with `RISE_MASKS` masks and scaled to its full number.

    Args:
        explainer: In `eval()`; its classifier is explained, the target is the predicted class.
        photos: What is explained.
        methods: Names in `METHODS` that apply to the classifier (`methods.select`).
        progress: Called with (methods done, methods in all).

    Returns:
        One record per method: medians in milliseconds per photo of the method and of a forward
        pass, their ratio, and the forward and backward passes per photo. `scaled` says whether time
        and passes are scaled up, from `masks_measured` to `masks`.

    Raises:
        TTameError: If there is no photo or one cannot be read, or a method is unknown or does
            not apply.
    """
    images, classifier = _read(explainer, photos), explainer.classifier
    with torch.inference_mode():
        targets = torch.cat([classifier(image[None]).argmax(dim=1) for image in images])
    targets = targets.clone()  # an inference tensor could not enter a graph

    def turn(method: Callable[[Tensor, Tensor], Tensor], index: int) -> tuple[float, list[float]]:
        where = slice(index % len(images), index % len(images) + 1)
        image, target = images[where], targets[where]

        @torch.inference_mode()
        def floor() -> None:
            classifier(image)

        (before,) = alternate((floor,), _FLOORS, images.device)
        seconds = clock(lambda: method(image, target), images.device)
        (after,) = alternate((floor,), _FLOORS, images.device)
        return seconds, before + after

    rows = []
    for done, name in enumerate(methods, start=1):
        scale, masks = 1.0, {}
        if name == "RISE":
            full = inspect.signature(rise_method).parameters["masks"].default
            scale, masks = full / RISE_MASKS, {"masks": full, "masks_measured": RISE_MASKS}
        method = build(name, explainer, {"masks": RISE_MASKS} if masks else None)
        with count_passes(classifier, *networks_beside(method)) as passes:
            turns = [turn(method, 0)]
        if turns[0][0] <= _SLOW:
            fewest, most = _TURNS
            repeats = min(most, max(fewest, math.ceil(_SLOW / max(turns[0][0], 1e-6))))
            turns = [turn(method, index) for index in range(repeats)]
        seconds = scale * statistics.median(taken for taken, _ in turns)
        floor_seconds = statistics.median(taken for _, floors in turns for taken in floors)
        rows.append(
            {
                "method": name,
                "ms": 1000 * seconds,
                "forward_ms": 1000 * floor_seconds,
                "ratio": seconds / floor_seconds,
                "forward": scale * (passes.forward - 2 * _FLOORS),  # without the floor's
                "backward": scale * passes.backward,
                "repeats": len(turns),
                "threads": torch.get_num_threads(),
                "scaled": bool(masks),
                **masks,
            }
        )
        if progress:
            progress(done, len(methods))
    return rows


def _read(explainer: Explainer, photos: PhotoList) -> Tensor:
    """The photos, normalised `(B, 3, H, W)`, where the classifier is."""
    if not len(photos):
        raise TTameError("nothing to time: the list of photos is empty; name at least one")
    parameter = next(explainer.parameters())
    dataset = PhotoDataset(photos, explainer.spec)
    return torch.stack([dataset[index][0] for index in range(len(photos))]).to(parameter)


def measure_cost(
    explainer: Explainer, batch_sizes: Sequence[int] = (1, 32), repeats: int = 21, seed: int = 0
) -> list[dict[str, Any]]:
    """Time a plain forward pass and an explanation of the predicted class, turn by turn.

    Args:
        explainer: In `eval()`.
        batch_sizes: Photos at a time.
        repeats: Timed turns; two more of a batch size warm up and do not count.
        seed: Seed of the random input (convolutions take the same time on noise as on photos).

    Returns:
        One record per batch size: medians in milliseconds per batch and their ratio.

    Raises:
        TTameError: If there are too few repeats for a median.
    """
    if repeats < 3:
        raise TTameError(f"repeats must be at least 3, got {repeats}")
    generator = torch.Generator().manual_seed(seed)
    device = next(explainer.parameters()).device
    rows = []
    for batch in batch_sizes:
        images = torch.randn(batch, 3, *explainer.spec.input_size, generator=generator).to(device)

        def floor(images: Tensor = images) -> object:
            return explainer.classifier(images)

        def explain(images: Tensor = images) -> object:
            return explainer(images)

        with torch.inference_mode():
            forward, explanation = alternate((floor, explain), repeats, device, warm_up=2)
        rows.append(
            {
                "backbone": explainer.spec.name,
                "weights": explainer.spec.source,
                "batch": batch,
                "forward_ms": 1000 * statistics.median(forward),
                "explanation_ms": 1000 * statistics.median(explanation),
                "ratio": statistics.median(explanation) / statistics.median(forward),
                "repeats": repeats,
                "threads": torch.get_num_threads(),
            }
        )
    return rows
