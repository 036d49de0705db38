"""What a study's variants are held against: untrained methods, and the classifier's own answers."""

from __future__ import annotations

from collections.abc import Iterable, Sequence

import pandas as pd

from ttame.classifiers.classes import imagenet_indices
from ttame.companion.shipped import reference
from ttame.errors import TTameError
from ttame.evaluation.tables import read_together, scores

# One method that looks, and maps that look at nothing (`ttame.evaluation.agreement.BLIND`).
REFERENCES = ("Grad-CAM", "centre Gaussian", "random", "all ones")


def read_references(
    names: Sequence[str], photos: Iterable[str], methods: Sequence[str] = REFERENCES
) -> pd.DataFrame:
    """Read what methods without training score on the photos of a study.

    Args:
        names: Results files in `data/results`, measured alike.
        photos: Photos of the study.
        methods: Methods to read; those that the files lack are left out.

    Returns:
        Columns photo, method, score and value (percent), of AD and IC, in the order of `methods`.

    Raises:
        TTameError: If a file is missing, or a method saw other photos than the study.
    """
    records = read_together(*[reference(name) for name in names])[1]
    wanted = set(photos)
    pieces = []
    for method in methods:
        found = records[(records["method"] == method) & records["photo"].isin(wanted)]
        if len(found) not in (0, len(wanted)):
            raise TTameError(
                f"{method!r} was measured on {len(found)} of the study's {len(wanted)} photos in "
                f"{', '.join(names)}; measure it on all of them"
            )
        pieces.append(scores(found) if len(found) else None)
    long = pd.concat([piece for piece in pieces if piece is not None], ignore_index=True)
    return long[long["score"].str.match("AD|IC")].reset_index(drop=True)


def top1(targets: pd.Series[int], photos: pd.Series[str]) -> float:
    """Return how often a classifier of ImageNet's classes is right, percent.

    Args:
        targets: Predicted class of each photo.
        photos: Its name, which begins with the folder of its class, such as `"n01440764/"`.

    Raises:
        TTameError: If a photo lies in no folder of an ImageNet class.
    """
    indices = imagenet_indices()
    right = photos.str.partition("/")[0].map(indices)
    if bool(right.isna().any()):
        raise TTameError(
            f"photo {photos[right.isna()].iloc[0]!r} lies in no folder of an ImageNet class; top-1 "
            "needs photos that are named with their WordNet id, as in Imagenette"
        )
    return float(100 * (targets == right).mean())
