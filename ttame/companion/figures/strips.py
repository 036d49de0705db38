"""Strips: one photo step by step as ROAD takes its pixels away, with the classifier's answers."""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from dataclasses import dataclass

import torch
from matplotlib.figure import Figure
from torch import Tensor

from ttame.errors import TTameError
from ttame.evaluation.road import LEVELS, degrade
from ttame.explainer import Explainer
from ttame.images import denormalize, normalize
from ttame.masking import normalize_maps
from ttame.plotting import overlay, plot_grid

_CELL = 1.35  # inches per picture; eight of them fit a page
ORDERS = ("most relevant first", "least relevant first")
_MASKED_CELL = 1.75  # inches per picture


@dataclass(frozen=True)
class Strip:
    """A photo as its pixels go, in one order.

    Attributes:
        order: One of `ORDERS`.
        levels: Percent of pixels removed, L of them.
        images: The degraded photos, raw, `(L, 3, H, W)` in [0, 1].
        answers: The class that the classifier predicts at each level.
        probabilities: Its probability for that class, in [0, 1].
    """

    order: str
    levels: tuple[int, ...]
    images: Tensor
    answers: tuple[str, ...]
    probabilities: tuple[float, ...]


@torch.inference_mode()
def road_strips(
    explainer: Explainer,
    image: Tensor,
    explanation: Tensor,
    levels: Sequence[int] = LEVELS,
    seed: int = 0,
) -> tuple[Strip, Strip]:
    """Degrade one photo by its map in both orders and note what the classifier answers.

    Args:
        explainer: Its classifier is asked.
        image: A normalised photo, `(1, 3, H, W)`.
        explanation: Its raw map, `(1, 1, h, w)`.
        levels: Percent of pixels removed, each in 1..99.
        seed: Seed of the tie-break and of the noise.

    Returns:
        A strip for each of `ORDERS`.

    Raises:
        TTameError: If there is more than one photo, or as `ttame.evaluation.road.road`.
    """
    if len(image) != 1:
        raise TTameError(f"a strip shows one photo, got a batch of {len(image)}; take one of them")
    target = torch.zeros(1, dtype=torch.int64)  # which class counts for scores only
    (degraded,) = degrade(explainer.spec, image, explanation, target, levels, seed)
    found = explainer.classifier(normalize(degraded, explainer.spec)).float().softmax(dim=1)
    top, answers = found.max(dim=1)
    names = [explainer.classes[index].split(",")[0] for index in answers.tolist()]
    strips = []
    for turn, order in enumerate(ORDERS):
        part = slice(turn * len(levels), (turn + 1) * len(levels))
        strips.append(
            Strip(
                order,
                tuple(levels),
                degraded[part].clamp(0, 1),
                tuple(names[part]),
                tuple(top[part].tolist()),
            )
        )
    return strips[0], strips[1]


def plot_road_strips(
    explainer: Explainer,
    image: Tensor,
    maps: Mapping[str, Tensor],
    levels: Sequence[int] = LEVELS,
    seed: int = 0,
) -> Figure:
    """One photo while its pixels go, by the maps of several methods, two rows per method.

    The first column is the photo under the map. Then, above, the most relevant pixels go first,
    below, the least relevant.

    Args:
        explainer: Its classifier is asked.
        image: A normalised photo, `(1, 3, H, W)`.
        maps: Raw maps of the photo by method, `(1, 1, h, w)`.
        levels: Percent of pixels removed, each in 1..99.
        seed: Seed of the tie-break and of the noise.

    Raises:
        TTameError: As `road_strips`.
    """
    rows = []
    raw = denormalize(image, explainer.spec)
    for method, explanation in maps.items():
        laid = overlay(raw, explanation)[0]
        for strip in road_strips(explainer, image, explanation, levels, seed):
            titles = [
                f"{level} % gone\n{_short(name)}\n{value:.0%}"
                for level, name, value in zip(
                    strip.levels, strip.answers, strip.probabilities, strict=True
                )
            ]
            first = (f"{method}\n{strip.order.replace(' first', '')}\nfirst", laid)
            rows.append([first, *zip(titles, strip.images, strict=True)])
    what = (
        "One photo while its pixels are removed and imputed, with the classifier's answer and its "
        "probability at each share"
    )
    return plot_grid(rows, cell=_CELL, what=what)


def _short(name: str, length: int = 18) -> str:
    return name if len(name) <= length else f"{name[: length - 1]}…"


@torch.inference_mode()
def plot_masked(
    explainer: Explainer,
    images: Tensor,
    targets: Tensor,
    maps: Mapping[str, Tensor],
    percentages: Sequence[int] = (50,),
    notes: Sequence[str] | None = None,
) -> Figure:
    """Photos, their maps, and what is left of photo and answer behind each map.

    One row per photo, titled with the explained class and its probability. Then for each method its
    map and the masked photo at each percentage, with the probability p' that is left of the
    class, and with the class that the classifier now predicts where that is another one.

    Args:
        explainer: Its classifier is asked.
        images: Normalised photos, `(B, 3, H, W)`.
        targets: Explained classes, `(B,)` int64.
        maps: Raw maps by method, `(B, 1, h, w)`.
        percentages: Retained pixels, percent.
        notes: A further line of each photo's title.

    Raises:
        TTameError: If there are not as many notes as photos.
    """
    if notes is not None and len(notes) != len(images):
        raise TTameError(f"{len(notes)} notes for {len(images)} photos; pass one per photo")
    spec, raw = explainer.spec, denormalize(images, explainer.spec)
    whole = explainer.classifier(images).float().softmax(dim=1).gather(1, targets[:, None])[:, 0]
    rows = [
        [("\n".join([_name(explainer, target), f"{value:.0%}", note]).rstrip(), picture)]
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
            answers = explainer.classifier(masked).float().softmax(dim=1)
            for row, answer, target, picture in zip(
                rows, answers, targets.tolist(), denormalize(masked, spec), strict=True
            ):
                title = f"{percentage} % retained\np' = {answer[target]:.0%}"
                if (top := int(answer.argmax())) != target:
                    title += f"\n{_name(explainer, top)} {answer[top]:.0%}"
                row.append((title, picture))
    what = (
        "Photos with the class that is explained, its map, and the masked photo with what is left"
    )
    return plot_grid(rows, cell=_MASKED_CELL, what=what)


def _name(explainer: Explainer, index: int, length: int = 20) -> str:
    name = explainer.classes[index].split(",")[0]
    return name if len(name) <= length else f"{name[: length - 1]}…"
