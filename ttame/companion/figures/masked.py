"""Pictures of masked photos, and of photos that ROAD degrades, with the classifier's answers."""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from dataclasses import dataclass

import torch
from matplotlib.figure import Figure
from torch import Tensor

from ttame.classifiers.classes import short_name
from ttame.classifiers.outputs import probabilities
from ttame.errors import TTameError
from ttame.evaluation.road import LEVELS, degrade
from ttame.explainer import Explainer
from ttame.images import denormalize, normalize
from ttame.masking import normalize_maps
from ttame.plotting import overlay, plot_grid

ORDERS = ("most relevant first", "least relevant first")
_SERIES_CELL, _MASKED_CELL = 1.35, 1.75  # inches per picture; eight of a series fit a page


@dataclass(frozen=True)
class RoadSeries:
    """A photo that ROAD degrades step by step, in one order.

    Attributes:
        order: One of `ORDERS`.
        levels: Percentages of pixels removed, L of them.
        images: Degraded raw photos, `(L, C, H, W)` in [0, 1].
        answers: Predicted class at each level.
        probabilities: Probability of that class, in [0, 1].
    """

    order: str
    levels: tuple[int, ...]
    images: Tensor
    answers: tuple[str, ...]
    probabilities: tuple[float, ...]


@torch.inference_mode()
def road_series(
    explainer: Explainer,
    image: Tensor,
    explanation: Tensor,
    levels: Sequence[int] = LEVELS,
    seed: int = 0,
) -> tuple[RoadSeries, RoadSeries]:
    """Degrade one photo by its map in both orders, and classify it at each level.

    Args:
        explainer: Explainer whose classifier answers.
        image: Normalised photo, `(1, C, H, W)`.
        explanation: Raw map, `(1, 1, h, w)`.
        levels: Percentages of pixels removed, each in 1..99.
        seed: Seed of the tie-break and of the noise.

    Returns:
        One series for each of `ORDERS`.

    Raises:
        TTameError: If there is more than one photo, or as `ttame.evaluation.road.road`.
    """
    if len(image) != 1:
        raise TTameError(f"a series shows one photo, got a batch of {len(image)}; take one of them")
    target = torch.zeros(1, dtype=torch.int64)  # which class counts for scores only
    (degraded,) = degrade(explainer.spec, image, explanation, target, levels, seed)
    outputs = explainer.classifier(normalize(degraded, explainer.spec).to(image))
    answers = outputs.argmax(dim=1)
    found = probabilities(outputs, explainer.spec.activation)
    top = found.gather(1, answers[:, None])[:, 0]
    names = [short_name(explainer.classes[index]) for index in answers.tolist()]
    first, last = (
        RoadSeries(order, tuple(levels), degraded[part].clamp(0, 1), tuple(names[part]),
                   tuple(top[part].tolist()))
        for order, part in zip(
            ORDERS, (slice(len(levels)), slice(len(levels), None)), strict=True
        )
    )  # fmt: skip
    return first, last


def plot_road_series(
    explainer: Explainer,
    image: Tensor,
    maps: Mapping[str, Tensor],
    levels: Sequence[int] = LEVELS,
    seed: int = 0,
) -> Figure:
    """Plot a photo while ROAD degrades it by the maps of several methods, two rows per method.

    The first column is the photo under the map. In a method's upper row the most relevant pixels
    are removed first, in its lower row the least relevant.

    Args:
        explainer: Explainer whose classifier answers.
        image: Normalised photo, `(1, C, H, W)`.
        maps: Raw maps of the photo by method, `(1, 1, h, w)`.
        levels: Percentages of pixels removed, each in 1..99.
        seed: Seed of the tie-break and of the noise.

    Raises:
        TTameError: As `road_series`.
    """
    rows = []
    raw = denormalize(image, explainer.spec)
    for method, explanation in maps.items():
        laid = overlay(raw, explanation)[0]
        for series in road_series(explainer, image, explanation, levels, seed):
            titles = [
                f"{level} % gone\n{_short(name, 18)}\n{100 * value:.0f}\u00a0%"
                for level, name, value in zip(
                    series.levels, series.answers, series.probabilities, strict=True
                )
            ]
            first = (f"{method}\n{series.order.replace(' first', '')}\nfirst", laid)
            rows.append([first, *zip(titles, series.images, strict=True)])
    what = (
        "One photo while its pixels are removed and imputed, with the classifier's answer and its "
        "probability at each share"
    )
    return plot_grid(rows, cell=_SERIES_CELL, what=what)


@torch.inference_mode()
def plot_masked(
    explainer: Explainer,
    images: Tensor,
    targets: Tensor,
    maps: Mapping[str, Tensor],
    percentages: Sequence[int] = (50,),
    notes: Sequence[str] | None = None,
) -> Figure:
    """Plot photos, their maps and the masked photos, with what the classifier makes of them.

    One row per photo, titled with the explained class and its probability; then, for each method,
    its map and the masked photo at each percentage, titled with the remaining probability p' of
    the class and, where it differs, the class that the classifier now predicts.

    Args:
        explainer: Explainer whose classifier answers.
        images: Normalised photos, `(B, C, H, W)`.
        targets: Explained classes, `(B,)` int64.
        maps: Raw maps by method, `(B, 1, h, w)`.
        percentages: Percentages of retained pixels.
        notes: Further line of each photo's title.

    Raises:
        TTameError: If the numbers of notes and photos differ.
    """
    if notes is not None and len(notes) != len(images):
        raise TTameError(f"{len(notes)} notes for {len(images)} photos; pass one per photo")
    spec, raw = explainer.spec, denormalize(images, explainer.spec)
    outputs = explainer.classifier(images)
    whole = probabilities(outputs, spec.activation).gather(1, targets[:, None])[:, 0]
    rows = [
        [
            (
                "\n".join(
                    [_short(explainer.classes[target]), f"{100 * value:.0f}\u00a0%", note]
                ).rstrip(),
                picture,
            )
        ]
        for target, value, picture, note in zip(
            targets.tolist(), whole.tolist(), raw, notes or [""] * len(raw), strict=True
        )
    ]
    for method, found in maps.items():
        for row, laid in zip(rows, overlay(raw, found), strict=True):
            row.append((method, laid))
        masks = normalize_maps(found.float())
        for percentage in percentages:
            masked = spec.mask(images, masks, percentage / 100)
            answers = probabilities(explainer.classifier(masked), spec.activation)
            for row, answer, target, picture in zip(
                rows, answers, targets.tolist(), denormalize(masked, spec), strict=True
            ):
                title = f"{percentage} % retained\np' = {100 * answer[target]:.0f}\u00a0%"
                if (top := int(answer.argmax())) != target:
                    title += f"\n{_short(explainer.classes[top])} {100 * answer[top]:.0f}\u00a0%"
                row.append((title, picture))
    what = (
        "Photos with the class that is explained, its map, and the masked photo with what is left"
    )
    return plot_grid(rows, cell=_MASKED_CELL, what=what, bar=True)


def _short(name: str, length: int = 20) -> str:
    """Return the first of a class's names, cut to a length."""
    name = short_name(name)
    return name if len(name) <= length else f"{name[: length - 1]}…"
