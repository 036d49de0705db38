"""Drawings of creatures with known parts, from which every part can be taken away exactly.

In the spirit of FunnyBirds {cite}`funnybirds`, drawn anew: flat polygons, no files needed. A
drawing is a list of layers, clutter first; to remove a part is to draw the others again, so all
pixels in which the part does not show stay the same.
"""

from __future__ import annotations

import math
import os
import random
import shutil
from collections.abc import Callable, Collection
from dataclasses import dataclass
from pathlib import Path

import numpy as np
import torch
from PIL import Image, ImageDraw
from torch import Tensor

from ttame.classifiers.drawn import PARTS, SIDE, VARIANTS, class_words
from ttame.errors import TTameError

Points = tuple[tuple[float, float], ...]
Colour = tuple[int, int, int]

COUNTS = {"train": 4000, "val": 500}  # drawings of the data set
CLUTTER = tuple(f"clutter {index}" for index in range(8))
_FINE = 3  # drawn at this many times the size, then averaged
_PALETTE: tuple[Colour, ...] = ((214, 60, 50), (240, 190, 40), (50, 110, 205), (60, 165, 85))


def _ellipse(x: float, y: float, width: float, height: float) -> Points:
    turns = [2 * math.pi * step / 24 for step in range(24)]
    return tuple((x + width * math.cos(turn), y + height * math.sin(turn)) for turn in turns)


def _box(left: float, top: float, right: float, bottom: float) -> Points:
    return ((left, top), (right, top), (right, bottom), (left, bottom))


# Polygons by part and variant, x to the right, y down, facing right; the body is about (0, 0).
_SHAPES: dict[str, tuple[tuple[Points, ...], ...]] = {
    "beak": (
        (((0.26, -0.26), (0.52, -0.15), (0.26, -0.07)),),
        (((0.26, -0.21), (0.64, -0.17), (0.64, -0.14), (0.26, -0.1)),),
        (((0.25, -0.26), (0.41, -0.27), (0.5, -0.17), (0.48, 0.0), (0.4, -0.11), (0.25, -0.08)),),
        (_ellipse(0.38, -0.15, 0.14, 0.07),),
    ),
    "crest": (
        (
            ((0.08, -0.2), (0.04, -0.42), (0.17, -0.25)),
            ((0.13, -0.24), (0.2, -0.5), (0.27, -0.24)),
            ((0.23, -0.25), (0.36, -0.42), (0.31, -0.2)),
        ),
        (_ellipse(0.2, -0.42, 0.1, 0.1), _box(0.18, -0.36, 0.22, -0.23)),
        (((0.27, -0.24), (0.08, -0.43), (-0.08, -0.46), (0.01, -0.37), (-0.08, -0.33),
          (0.1, -0.2)),),
        (_box(0.06, -0.31, 0.34, -0.25), _box(0.12, -0.46, 0.28, -0.3)),
    ),
    "wing": (
        (((0.08, -0.02), (-0.22, -0.38), (-0.18, 0.05)),),
        (_ellipse(-0.04, 0.0, 0.13, 0.09),),
        (
            ((0.08, -0.07), (-0.3, 0.02), (-0.04, 0.05)),
            ((0.09, -0.05), (-0.22, 0.15), (0.02, 0.08)),
            ((0.1, -0.03), (-0.09, 0.21), (0.08, 0.08)),
        ),
        (_box(-0.16, -0.1, 0.08, 0.06),),
    ),
    "tail": (
        (((-0.14, 0.02), (-0.5, -0.2), (-0.55, -0.02), (-0.49, 0.14)),),
        (
            ((-0.14, -0.03), (-0.42, -0.15), (-0.44, -0.1), (-0.14, 0.04)),
            _ellipse(-0.46, -0.13, 0.095, 0.095),
        ),
        (((-0.14, -0.04), (-0.55, -0.2), (-0.36, -0.02), (-0.55, 0.16), (-0.14, 0.06)),),
        (((-0.14, -0.05), (-0.27, -0.18), (-0.38, -0.03), (-0.53, -0.18), (-0.52, -0.03),
          (-0.38, 0.13), (-0.27, -0.02), (-0.14, 0.07)),),
    ),
    "feet": (
        (
            ((-0.12, 0.1), (-0.07, 0.1), (-0.07, 0.3), (0.02, 0.37), (-0.17, 0.37), (-0.12, 0.3)),
            ((0.07, 0.1), (0.12, 0.1), (0.12, 0.3), (0.21, 0.37), (0.02, 0.37), (0.07, 0.3)),
        ),
        (_ellipse(-0.11, 0.24, 0.11, 0.11), _ellipse(0.14, 0.24, 0.11, 0.11)),
        tuple(_box(x, 0.06, x + 0.06, 0.33) for x in (-0.19, -0.08, 0.03, 0.14)),
        (_box(-0.26, 0.26, 0.28, 0.34), _box(-0.1, 0.1, -0.06, 0.27), _box(0.08, 0.1, 0.12, 0.27)),
    ),
}  # fmt: skip
_BODY = (_ellipse(0, 0, 0.22, 0.16), _ellipse(0.2, -0.17, 0.11, 0.11))
_EYE = _ellipse(0.23, -0.2, 0.025, 0.025)
_ORDER = ("tail", "feet", "crest", "body", "wing", "beak")  # back to front


@dataclass(frozen=True)
class Layer:
    """Polygons of one name, in pixels of the drawing, each with its colour."""

    name: str
    shapes: tuple[tuple[Points, Colour], ...]


@dataclass(frozen=True)
class Drawing:
    """One drawing.

    Attributes:
        name: Name of its file in the data set.
        label: Class index.
        backdrop: Colours of the top and bottom edge, blended between.
        layers: Clutter and the creature's body and parts, back to front.
    """

    name: str
    label: int
    backdrop: tuple[Colour, Colour]
    layers: tuple[Layer, ...]

    def render(self, without: Collection[str] = ()) -> Image.Image:
        """Draw the layers but for those that are to be removed.

        Args:
            without: Names of parts (`PARTS`) or clutter (`CLUTTER`).

        Returns:
            An RGB image of `SIDE`×`SIDE` pixels. Pixels that the removed layers do not touch are
            those of the whole drawing, bit for bit.

        Raises:
            TTameError: If no such layer can be removed.
        """
        self._check(without)
        size = _FINE * SIDE
        rows = np.linspace(0, 1, size)[:, None]
        top, bottom = (np.array(colour) for colour in self.backdrop)
        blend = np.rint(top + rows * (bottom - top)).astype(np.uint8)  # (H, 3)
        canvas = Image.fromarray(np.repeat(blend[:, None], size, axis=1))
        pen = ImageDraw.Draw(canvas)
        for layer in self.layers:
            for points, colour in layer.shapes if layer.name not in without else ():
                pen.polygon(_fine(points), fill=colour)
        return canvas.reduce(_FINE)

    def coverage(self, without: Collection[str] = ()) -> dict[str, Tensor]:
        """Return the share of every pixel in which each layer shows.

        Args:
            without: As for `render`.

        Returns:
            `(H, W)` float32 in [0, 1] by layer; what they leave of 1 is backdrop.
        """
        self._check(without)
        canvas = Image.new("L", (_FINE * SIDE, _FINE * SIDE), 0)
        pen = ImageDraw.Draw(canvas)
        for value, layer in enumerate(self.layers, start=1):
            for points, _ in layer.shapes if layer.name not in without else ():
                pen.polygon(_fine(points), fill=value)
        owner = torch.from_numpy(np.array(canvas)).view(SIDE, _FINE, SIDE, _FINE)
        return {
            layer.name: (owner == value).float().mean(dim=(1, 3))
            for value, layer in enumerate(self.layers, start=1)
        }

    def _check(self, without: Collection[str]) -> None:
        stray = sorted(set(without) - {*PARTS, *CLUTTER})
        if stray:
            raise TTameError(
                f"a drawing has no removable layer {stray[0]!r}; there are {', '.join(PARTS)} and "
                f"{CLUTTER[0]!r} to {CLUTTER[-1]!r}"
            )


def drawing(split: str, index: int) -> Drawing:
    """Make a drawing of the data set: its class, pose, colours and clutter, from a seed of its own.

    Classes take turns. Everything else is drawn independently of the class.

    Args:
        split: `"train"` or `"val"`; they share no drawing.
        index: Position, from 0; beyond the data set's size there are more.

    Raises:
        TTameError: If there is no such split or position.
    """
    if split not in COUNTS or index < 0:
        raise TTameError(
            f"drawings have splits {', '.join(COUNTS)} and positions from 0, got {split!r}, {index}"
        )
    words = class_words()
    label = index % len(words)
    # Seeded by text, which Python hashes alike everywhere.
    chance = random.Random(f"{split}/{index}")
    tint = chance.randint(140, 225)
    body = _jittered(chance, (tint, tint, tint), 25)
    place = _pose(chance, label)
    clutter = tuple(_clutter(chance, name) for name in CLUTTER)
    creature = []
    for name in _ORDER:
        if name == "body":
            found = [(points, body) for points in _BODY] + [(_EYE, (25, 25, 25))]
        else:
            variant = words[label][PARTS.index(name)]
            colour = _jittered(chance, _PALETTE[(variant + PARTS.index(name)) % VARIANTS])
            found = [(points, colour) for points in _SHAPES[name][variant]]
        creature.append(Layer(name, tuple((place(points), colour) for points, colour in found)))
    backdrop = (_any_colour(chance), _any_colour(chance))
    return Drawing(f"{label:02d}/{index:05d}.png", label, backdrop, (*clutter, *creature))


def write_drawings(progress: Callable[[int, int], None] | None = None) -> Path:
    """Write the data set `drawn` as PNG files into `TTAME_DATA` or `data/`.

    Args:
        progress: Called with the number of drawings done and their total.

    Returns:
        The folder `drawn`, with one sub-folder per split and class.

    Raises:
        TTameError: If it exists already.
    """
    final = Path(os.environ.get("TTAME_DATA", "data")) / "drawn"
    if final.exists():
        raise TTameError(f"{str(final)!r} exists already; remove it to draw it again")
    aside = final.with_name(".drawn.partial")
    shutil.rmtree(aside, ignore_errors=True)
    done, total = 0, sum(COUNTS.values())
    for split, count in COUNTS.items():
        for index in range(count):
            found = drawing(split, index)
            path = aside / split / found.name
            path.parent.mkdir(parents=True, exist_ok=True)
            found.render().save(path)
            done += 1
            if progress:
                progress(done, total)
    return aside.rename(final)


def _fine(points: Points) -> list[tuple[int, int]]:
    return [(round(_FINE * x), round(_FINE * y)) for x, y in points]


def _pose(chance: random.Random, label: int) -> Callable[[Points], Points]:
    """Draw size, turn, side and place of a creature such that it lies within the image."""
    size = chance.uniform(0.7, 0.84) * SIDE
    turn, mirror = math.radians(chance.uniform(-15, 15)), chance.choice((-1, 1))
    cosine, sine = math.cos(turn), math.sin(turn)

    def turned(points: Points) -> Points:
        return tuple(
            (mirror * size * (cosine * x - sine * y), size * (sine * x + cosine * y))
            for x, y in points
        )

    # The variants of all classes fit where one does, so place says nothing of the class.
    every = [point for part in _SHAPES.values() for shapes in part for shape in shapes
             for point in turned(shape)]  # fmt: skip
    shift = [chance.uniform(-min(axis), SIDE - max(axis)) for axis in zip(*every, strict=True)]
    return lambda points: tuple((x + shift[0], y + shift[1]) for x, y in turned(points))


def _clutter(chance: random.Random, name: str) -> Layer:
    x, y = chance.uniform(0, SIDE), chance.uniform(0, SIDE)
    size = chance.uniform(0.05, 0.14) * SIDE
    turn, corners = chance.uniform(0, 2 * math.pi), chance.choice((3, 4, 5, 24))
    stretch = chance.uniform(0.3, 1)
    angles = [2 * math.pi * step / corners for step in range(corners)]
    flat = [(size * math.cos(angle), stretch * size * math.sin(angle)) for angle in angles]
    cosine, sine = math.cos(turn), math.sin(turn)
    points = tuple((x + cosine * a - sine * b, y + sine * a + cosine * b) for a, b in flat)
    known = chance.random() < 0.7  # of the creatures' colours, so that colour alone tells nothing
    colour = _jittered(chance, chance.choice(_PALETTE)) if known else _any_colour(chance)
    return Layer(name, ((points, colour),))


def _jittered(chance: random.Random, colour: Colour, spread: int = 22) -> Colour:
    red, green, blue = (
        min(255, max(0, value + chance.randint(-spread, spread))) for value in colour
    )
    return red, green, blue


def _any_colour(chance: random.Random) -> Colour:
    return chance.randint(40, 235), chance.randint(40, 235), chance.randint(40, 235)
