"""The classes of the drawn creatures, and the small network that tells them apart.

A creature has five parts of four variants each. A class is a word of five digits, the variant of
every part; its name spells them, a syllable per part: `ba ke li mo tu` is the first beak with the
second crest, and so on. `ttame.evaluation.drawings` draws them.
"""

from __future__ import annotations

import random
from collections import OrderedDict
from collections.abc import Sequence
from itertools import product

from torch import nn
from torchvision.ops import Conv2dNormActivation

PARTS = ("beak", "crest", "wing", "tail", "feet")
VARIANTS = 4
SIDE = 96  # of a drawing, pixels
_CLASSES = 32
_SYLLABLES = (
    ("ba", "be", "bi", "bo"), ("ka", "ke", "ki", "ko"), ("la", "le", "li", "lo"),
    ("ma", "me", "mi", "mo"), ("ta", "te", "ti", "to"),
)  # fmt: skip


def class_words() -> tuple[tuple[int, ...], ...]:
    """Return the variant of every part, by class: 32 words of five digits in 0..3.

    They are drawn, by a seed, from the 256 words whose digits add up to a multiple of four. Two
    such words differ in two digits at least, so no class is told by a single part.
    """
    every = [word for word in product(range(VARIANTS), repeat=len(PARTS)) if sum(word) % 4 == 0]
    return tuple(sorted(random.Random(0).sample(every, _CLASSES)))


def class_names() -> tuple[str, ...]:
    """Return the names of the classes in index order, such as `"bakelimota"`."""
    return tuple(
        "".join(_SYLLABLES[part][digit] for part, digit in enumerate(word))
        for word in class_words()
    )


def nearest_classes(label: int) -> tuple[int, ...]:
    """Return the classes that share the most parts with a class, itself excluded."""
    words = class_words()
    shared = [_shared(words[label], word) for word in words]
    shared[label] = -1
    return tuple(index for index, count in enumerate(shared) if count == max(shared))


def _shared(one: Sequence[int], other: Sequence[int]) -> int:
    return sum(a == b for a, b in zip(one, other, strict=True))


def drawn_cnn(classes: int = _CLASSES) -> nn.Module:
    """Build the network, untrained: five convolutions, average pooling and a linear head.

    Args:
        classes: Number of classes.

    Returns:
        A module from `(B, 3, H, W)` to logits `(B, classes)`. The maps of `block3` to `block5`
        have a stride of 8 pixels, and each of their cells sees 15 to 47.
    """
    shapes = ((3, 24, 2), (24, 48, 2), (48, 96, 2), (96, 128, 1), (128, 128, 1))
    blocks: OrderedDict[str, nn.Module] = OrderedDict(
        (f"block{index}", Conv2dNormActivation(inputs, outputs, stride=stride))
        for index, (inputs, outputs, stride) in enumerate(shapes, start=1)
    )
    blocks |= {"pool": nn.AdaptiveAvgPool2d(1), "flatten": nn.Flatten()}
    return nn.Sequential(blocks | {"head": nn.Linear(shapes[-1][1], classes)})
