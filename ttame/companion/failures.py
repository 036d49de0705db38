"""Failures: photos on which maps mislead, chosen by their numbers, and pictures of them."""

from __future__ import annotations

from collections.abc import Mapping

import pandas as pd
import torch
from torch import Tensor

from ttame.data import PhotoList
from ttame.errors import TTameError
from ttame.evaluation.correlation import rank_correlation
from ttame.evaluation.tables import measured
from ttame.explainer import Explainer
from ttame.images import normalize, to_batch


def largest_losses(records: pd.DataFrame, method: str, percentage: int = 50) -> pd.DataFrame:
    """Photos by how much probability their masking by a method costs, the worst first.

    Args:
        records: Records of results files.
        method: Whose maps masked the photos.
        percentage: Retained pixels, percent.

    Returns:
        Columns target, probability, masked and loss (probability less masked), by photo.

    Raises:
        TTameError: If the records lack the method or the percentage.
    """
    found = _masked(records, method, percentage)
    found["loss"] = found["probability"] - found["masked"]
    return found.sort_values("loss", ascending=False, kind="stable")


def beaten_by(records: pd.DataFrame, method: str, other: str, percentage: int = 50) -> pd.DataFrame:
    """Photos that both methods masked, by how much more another keeps, the most first.

    Args:
        records: Records of results files.
        method: The one that loses.
        other: The one that wins.
        percentage: Retained pixels, percent.

    Returns:
        Columns target, probability, masked, other (masked by the other) and gap (other less
        masked), by photo.

    Raises:
        TTameError: If the records lack a method or the percentage.
    """
    found = _masked(records, method, percentage)
    found["other"] = _masked(records, other, percentage)["masked"]
    found["gap"] = found["other"] - found["masked"]
    return found.dropna().sort_values("gap", ascending=False, kind="stable")


def kept_mistakes(
    records: pd.DataFrame, labels: Mapping[str, int], method: str, percentage: int = 50
) -> pd.DataFrame:
    """Wrong predictions, by how much of the wrong class the masked photo keeps, the most first.

    Args:
        records: Records of results files.
        labels: True class by photo.
        method: Whose maps masked the photos.
        percentage: Retained pixels, percent.

    Returns:
        Columns target, probability, masked and label, by photo.

    Raises:
        TTameError: If the records lack the method or the percentage, or a photo has no label.
    """
    found = _masked(records, method, percentage)
    unknown = [str(photo) for photo in found.index if photo not in labels]
    if unknown:
        raise TTameError(f"no label of {len(unknown)} photos, the first {unknown[0]!r}")
    found["label"] = [labels[photo] for photo in found.index]
    wrong = found[found["target"] != found["label"]]
    return wrong.sort_values("masked", ascending=False, kind="stable")


def class_sensitivity(maps: Tensor) -> Tensor:
    """How alike the maps of two classes of each photo rank its pixels.

    Args:
        maps: Raw maps, `(B, 2, h, w)`.

    Returns:
        Spearman's correlation, `(B,)`; at 1 the two maps say the same.

    Raises:
        TTameError: If there are not two maps per photo.
    """
    if maps.ndim != 4 or maps.shape[1] != 2:
        raise TTameError(f"expected maps (B, 2, h, w) of two classes, got {tuple(maps.shape)}")
    return rank_correlation(maps[:, :1], maps[:, 1:])


def read_rows(explainer: Explainer, photos: PhotoList, rows: pd.DataFrame) -> tuple[Tensor, Tensor]:
    """The photos that were picked, as the classifier takes them, and their classes.

    Args:
        explainer: Its classifier's preprocessing.
        photos: Where the photos are.
        rows: One row per photo, its name in the index, with a column target.

    Returns:
        Normalised images `(B, 3, H, W)` and targets `(B,)`.

    Raises:
        TTameError: If a photo cannot be read.
    """
    raw = to_batch([photos.root / str(name) for name in rows.index], explainer.spec)
    return normalize(raw, explainer.spec), torch.tensor(rows["target"].tolist())


def _masked(records: pd.DataFrame, method: str, percentage: int) -> pd.DataFrame:
    records, column = measured(records), f"masked_{percentage}"
    rows = records[records["method"] == method]
    if rows.empty or column not in records:
        raise TTameError(
            f"no records of {method!r} with {percentage} % of pixels retained; there are "
            f"{', '.join(dict.fromkeys(records['method']))} with "
            f"{', '.join(name for name in map(str, records) if name.startswith('masked_'))}"
        )
    rows = rows.set_index("photo")[["target", "probability", column]]
    return rows.rename(columns={column: "masked"})
