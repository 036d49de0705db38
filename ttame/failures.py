"""Failures: photos on which maps mislead, chosen by their numbers, and pictures of them."""

from __future__ import annotations

from collections.abc import Mapping, Sequence

import pandas as pd
import torch
from matplotlib.figure import Figure
from torch import Tensor

from ttame.correlation import rank_correlation
from ttame.data import PhotoList
from ttame.errors import TTameError
from ttame.explainer import Explainer
from ttame.images import denormalize, normalize, to_batch
from ttame.masking import apply_mask, keep_top, normalize_maps, upsample
from ttame.plotting import overlay, plot_grid
from ttame.tables import measured

_CELL = 1.75  # inches a picture


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
        TTameError: If there are not two maps a photo.
    """
    if maps.ndim != 4 or maps.shape[1] != 2:
        raise TTameError(f"expected maps (B, 2, h, w) of two classes, got {tuple(maps.shape)}")
    return rank_correlation(maps[:, :1], maps[:, 1:])


def read_rows(explainer: Explainer, photos: PhotoList, rows: pd.DataFrame) -> tuple[Tensor, Tensor]:
    """The photos that were picked, as the classifier takes them, and their classes.

    Args:
        explainer: Its classifier's preprocessing.
        photos: Where the photos are.
        rows: A row a photo, its name in the index, with a column target.

    Returns:
        Normalised images `(B, 3, H, W)` and targets `(B,)`.

    Raises:
        TTameError: If a photo cannot be read.
    """
    raw = to_batch([photos.root / str(name) for name in rows.index], explainer.spec)
    return normalize(raw, explainer.spec), torch.tensor(rows["target"].tolist())


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

    A photo a row, titled with the explained class and its probability. Then for each method its
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
        raise TTameError(f"{len(notes)} notes for {len(images)} photos; there must be one a photo")
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
        masks = upsample(normalize_maps(found.float()), images.shape[-2:])
        for percentage in percentages:
            kept = keep_top(masks, percentage / 100)
            masked = apply_mask(images, kept, spec.space, spec.mean, spec.std)
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
    return plot_grid(rows, cell=_CELL, what=what)


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


def _name(explainer: Explainer, index: int, length: int = 20) -> str:
    name = explainer.classes[index].split(",")[0]
    return name if len(name) <= length else f"{name[: length - 1]}…"
