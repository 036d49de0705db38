"""Strips: one photo step by step as ROAD takes its pixels away, with the classifier's answers."""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from dataclasses import dataclass

import torch
from matplotlib.figure import Figure
from torch import Tensor

from ttame.degradation import LEVELS, degrade
from ttame.errors import TTameError
from ttame.explainer import Explainer
from ttame.images import denormalize, normalize
from ttame.plotting import overlay, plot_grid

_CELL = 1.35  # inches a picture; eight of them fit a page
ORDERS = ("most relevant first", "least relevant first")


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
        seed: Of the tie-break and of the noise.

    Returns:
        A strip for each of `ORDERS`.

    Raises:
        TTameError: If there is more than one photo, or as `ttame.degradation.road`.
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
    """One photo while its pixels go, by the maps of several methods, two rows a method.

    The first column is the photo under the map. Then, above, the most relevant pixels go first,
    below, the least relevant.

    Args:
        explainer: Its classifier is asked.
        image: A normalised photo, `(1, 3, H, W)`.
        maps: Raw maps of the photo by method, `(1, 1, h, w)`.
        levels: Percent of pixels removed, each in 1..99.
        seed: Of the tie-break and of the noise.

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
