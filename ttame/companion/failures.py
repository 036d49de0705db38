"""Failure cases: photos on which maps mislead, chosen by their scores."""

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
    """Sort photos by the probability that a method's masking costs, largest loss first.

    Args:
        records: Records of results files.
        method: Method whose maps mask the photos.
        percentage: Percentage of retained pixels.

    Returns:
        Columns target, probability, masked and loss (probability minus masked), by photo.

    Raises:
        TTameError: If the records lack the method or the percentage.
    """
    found = _masked(records, method, percentage)
    found["loss"] = found["probability"] - found["masked"]
    return found.sort_values("loss", ascending=False, kind="stable")


def beaten_by(records: pd.DataFrame, method: str, other: str, percentage: int = 50) -> pd.DataFrame:
    """Sort photos by how much more probability another method retains, largest gap first.

    Args:
        records: Records of results files.
        method: Method that loses.
        other: Method that wins.
        percentage: Percentage of retained pixels.

    Returns:
        Columns target, probability, masked, other (masked by the other method) and gap (other minus
        masked), by photo.

    Raises:
        TTameError: If the records lack a method or the percentage.
    """
    found = _masked(records, method, percentage)
    found["other"] = _masked(records, other, percentage)["masked"]
    found["gap"] = found["other"] - found["masked"]
    return found.dropna().sort_values("gap", ascending=False, kind="stable")


def keep_by_truth(
    records: pd.DataFrame,
    labels: Mapping[str, int],
    method: str,
    percentage: int = 50,
    between: tuple[float, float] = (0.0, 1.0),
) -> pd.DataFrame:
    """Compare what masked photos keep of wrong and of right predictions.

    Args:
        records: Records of results files.
        labels: True class by photo.
        method: Method whose maps mask the photos.
        percentage: Percentage of retained pixels.
        between: Lowest and highest probability of the predictions to compare: wrong ones are less
            sure than right ones, and unsure ones keep other shares.

    Returns:
        Rows wrong and right; columns photos and kept, the mean of masked by whole probability,
        percent, NaN where there are no photos.

    Raises:
        TTameError: If the records lack the method or the percentage, or a photo has no label.
    """
    found = _masked(records, method, percentage)
    unknown = [str(photo) for photo in found.index if photo not in labels]
    if unknown:
        raise TTameError(f"no label of {len(unknown)} photos, the first {unknown[0]!r}")
    found = found[found["probability"].between(*between)]
    kept = 100 * found["masked"] / found["probability"]
    right = found["target"] == [labels[photo] for photo in found.index]
    groups = {"wrong": kept[~right], "right": kept[right]}
    rows = {name: {"photos": len(each), "kept": each.mean()} for name, each in groups.items()}
    return pd.DataFrame.from_dict(rows, orient="index")


def class_sensitivity(maps: Tensor) -> Tensor:
    """Measure how similarly the maps of two classes rank the pixels of each photo.

    Args:
        maps: Raw maps, `(B, 2, h, w)`.

    Returns:
        Spearman's rank correlation, `(B,)`; 1 if the two maps rank pixels alike.

    Raises:
        TTameError: If there are not two maps per photo.
    """
    if maps.ndim != 4 or maps.shape[1] != 2:
        raise TTameError(f"expected maps (B, 2, h, w) of two classes, got {tuple(maps.shape)}")
    return rank_correlation(maps[:, :1], maps[:, 1:])


def read_rows(explainer: Explainer, photos: PhotoList, rows: pd.DataFrame) -> tuple[Tensor, Tensor]:
    """Read selected photos as the classifier expects them, with their classes.

    Args:
        explainer: Explainer whose classifier sets the preprocessing.
        photos: List that the photos belong to.
        rows: One row per photo, with its name in the index and a column target.

    Returns:
        Normalised photos `(B, C, H, W)` and targets `(B,)` int64.

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
