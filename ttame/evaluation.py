"""Methods side by side on the same photos: streamed, resumable, every sample recorded."""

from __future__ import annotations

import time
from collections.abc import Callable, Mapping, Sequence
from pathlib import Path
from typing import Any

import pandas as pd
import torch
from torch import Tensor
from torch.utils.data import DataLoader, Subset

from ttame.backbones import weight_digest
from ttame.data import PhotoDataset, PhotoList
from ttame.degradation import LEVELS, area_under_curve, road
from ttame.errors import TTameError
from ttame.explainer import Explainer
from ttame.masking import degenerate
from ttame.methods import DEFAULT_METHODS, Method, build
from ttame.metrics import (
    PERCENTAGES,
    average_drop,
    increase_in_confidence,
    masked_probabilities,
)
from ttame.passes import count_passes
from ttame.results import ResultsFile, provenance, read_results

Progress = Callable[[int, int], None]
METRICS = ("AD/IC", "ROAD")


def evaluate(
    explainer: Explainer,
    photos: PhotoList,
    out: Path | str,
    *,
    methods: Sequence[str] | Mapping[str, Method] = DEFAULT_METHODS,
    metrics: Sequence[str] = ("AD/IC",),
    percentages: Sequence[int] = PERCENTAGES,
    batch_size: int = 16,
    seed: int = 0,
    command: str | None = None,
    progress: Progress | None = None,
) -> Path:
    """Measure methods on photos and write one record a photo and method.

    The target is the classifier's own prediction. A run that was killed goes on where it
    stopped when it is started again with the same arguments.

    Args:
        explainer: T-TAME's explainer; the other methods explain its classifier.
        photos: The photos, in the order they are measured.
        out: The results file, `.jsonl`.
        methods: Names in `ttame.methods.METHODS`, or methods of your own by name.
        metrics: `"AD/IC"` always; add `"ROAD"` for degradation curves, half a second or more a
            photo and method.
        percentages: Shares of pixels to keep, percent.
        batch_size: Photos at a time.
        seed: Seed of tie-breaks.
        command: Recorded command; default: this process's.
        progress: Called with (photos done, photos in all).

    Returns:
        The path of the complete results file.

    Raises:
        TTameError: An unknown method or metric, an unreadable photo, a file of another run.
    """
    if not methods:
        raise TTameError("name at least one method")
    unknown = [name for name in metrics if name not in METRICS]
    if unknown or "AD/IC" not in metrics:
        raise TTameError(f"metrics must hold 'AD/IC' and may hold 'ROAD', got {list(metrics)}")
    explainer = explainer.eval()
    bound = (
        dict(methods)
        if isinstance(methods, Mapping)
        else {name: build(name, explainer) for name in methods}
    )
    config = {
        "backbone": explainer.spec.name,
        "weights": explainer.spec.source,
        "space": explainer.spec.space,
        "layers": list(explainer.layers),
        "cam_layer": explainer.spec.cam_layer,
        "explainer": explainer.record.get("name", "untitled"),
        "digests": [weight_digest(explainer.classifier), weight_digest(explainer.mechanism)],
        "data": photos.name,
        "photos": list(photos.names),
        "methods": list(methods),
        "metrics": list(metrics),
        "percentages": list(percentages),
        "seed": seed,
    }
    # A photo counts as done when all its methods are recorded.
    results = ResultsFile(out, config, provenance(seed, command), group=len(bound))
    complete = len(results.records) // len(bound)
    device = next(explainer.parameters()).device
    remaining = Subset(PhotoDataset(photos, explainer.spec), range(complete, len(photos)))
    for images, indices in DataLoader(remaining, batch_size=batch_size):
        batch = images.to(device)
        rows = _measure(explainer, bound, batch, percentages, seed, "ROAD" in metrics)
        results.append(
            {"photo": photos.names[index], **row}
            for position, index in enumerate(indices.tolist())
            for row in rows[position]
        )
        complete += len(indices)
        if progress:
            progress(complete, len(photos))
    return results.finish()


def _measure(
    explainer: Explainer,
    methods: Mapping[str, Method],
    images: Tensor,
    percentages: Sequence[int],
    seed: int,
    with_road: bool,
) -> list[list[dict[str, Any]]]:
    """Records of one batch: for every photo one a method."""
    with torch.inference_mode():
        scores = explainer.classifier(images).float().softmax(dim=1)
    original, targets = (found.clone() for found in scores.max(dim=1))
    rows: list[list[dict[str, Any]]] = [[] for _ in images]
    for name, method in methods.items():
        with count_passes(explainer.classifier) as passes:
            start = time.perf_counter()
            maps = method(images, targets)
            seconds = (time.perf_counter() - start) / len(images)
        flat = degenerate(maps)[:, 0]
        finite = maps.isfinite().all(dim=-1).all(dim=-1)[..., None, None]
        maps = torch.where(finite, maps, torch.zeros_like(maps))  # NaN explains nothing
        masked = masked_probabilities(
            explainer.classifier, explainer.spec, images, maps, targets, percentages, seed
        )
        curves: list[dict[str, list[float]]] = [{} for _ in images]
        if with_road:
            scores = road(explainer.classifier, explainer.spec, images, maps, targets, seed=seed)
            curves = [
                {
                    f"road_{name}": values[index].float().tolist()
                    for name, values in vars(scores).items()
                }
                for index in range(len(images))
            ]
        for index, row in enumerate(rows):
            row.append(
                {
                    "method": name,
                    "target": int(targets[index]),
                    "probability": float(original[index]),
                    **{
                        f"masked_{percentage}": float(value)
                        for percentage, value in zip(percentages, masked[index], strict=True)
                    },
                    "degenerate": bool(flat[index]),
                    "seconds": seconds,
                    "forward": passes.forward / len(images),
                    "backward": passes.backward / len(images),
                    **curves[index],
                }
            )
    return rows


def per_sample(records: pd.DataFrame) -> pd.DataFrame:
    """AD and IC of every record, in long form.

    Args:
        records: Records of a results file.

    Returns:
        Columns photo, method, percentage, metric (`"AD"` or `"IC"`), value (percent).
    """
    original = torch.tensor(records["probability"].to_numpy())
    pieces = []
    for column in (name for name in map(str, records) if name.startswith("masked_")):
        masked = torch.tensor(records[column].to_numpy())
        for metric, function in (("AD", average_drop), ("IC", increase_in_confidence)):
            piece = records[["photo", "method"]].copy()
            piece["percentage"] = int(column.removeprefix("masked_"))
            piece["metric"], piece["value"] = metric, function(original, masked).numpy()
            pieces.append(piece)
    return pd.concat(pieces, ignore_index=True)


def road_curves(records: pd.DataFrame) -> pd.DataFrame:
    """ROAD's curves in long form.

    Args:
        records: Records of a results file that was measured with `"ROAD"`.

    Returns:
        Columns photo, method, removed (percent of pixels), order (`"MoRF"` or `"LeRF"`), kept
        (100 where the class is kept, else 0) and probability (of the class, percent).

    Raises:
        TTameError: If ROAD was not measured.
    """
    if "road_morf" not in records:
        raise TTameError("these results hold no ROAD; measure with metrics=('AD/IC', 'ROAD')")
    pieces = []
    for order in ("MoRF", "LeRF"):
        values, kept = records[f"road_{order.lower()}"], records[f"road_{order.lower()}_kept"]
        for column, removed in enumerate(LEVELS):
            piece = records[["photo", "method"]].copy()
            piece["removed"], piece["order"] = removed, order
            piece["kept"] = 100 * kept.str[column]
            piece["probability"] = 100 * values.str[column]
            pieces.append(piece)
    return pd.concat(pieces, ignore_index=True)


def summary(path: Path | str) -> pd.DataFrame:
    """The papers' table: AD and IC at every percentage, a method a row.

    Args:
        path: A results file.

    Returns:
        Means in percent under columns like `"AD 50%"`; where it was measured, ROAD's area under
        the curve of the share of photos that keep their class, percent; then photos, degenerate
        maps, and of making a map the median milliseconds and the passes of the classifier, per
        image.
    """
    _, records = read_results(path)
    long = per_sample(records)
    long["column"] = long["metric"] + " " + long["percentage"].astype(str) + "%"
    order, methods = list(dict.fromkeys(long["column"])), list(dict.fromkeys(records["method"]))
    table = long.pivot_table(index="method", columns="column", values="value", aggfunc="mean")
    table = table.loc[methods, sorted(order, key=lambda name: (name[:2], order.index(name)))]
    grouped = records.groupby("method")
    for order_name, column in (("MoRF", "road_morf_kept"), ("LeRF", "road_lerf_kept")):
        if column in records:
            means = grouped[column].apply(lambda rows: torch.tensor(list(rows)).mean(dim=0))
            table[f"ROAD {order_name}"] = [
                100 * float(area_under_curve(means[name])) for name in methods
            ]
    table["photos"] = grouped.size()
    table["degenerate"] = grouped["degenerate"].sum()
    table["ms"] = 1000 * grouped["seconds"].median()
    for name in [name for name in ("forward", "backward") if name in records]:
        table[name] = grouped[name].mean()
    table.columns.name = None
    return table
