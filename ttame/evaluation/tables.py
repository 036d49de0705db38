"""Tables of results: every score of every sample, means with intervals, the papers' layout."""

from __future__ import annotations

from pathlib import Path
from typing import Any

import numpy as np
import pandas as pd
import torch

from ttame.errors import TTameError
from ttame.evaluation.confidence import average_drop, average_gain, increase_in_confidence
from ttame.evaluation.faithfulness import faithfulness_coefficient, single_deletion_score
from ttame.evaluation.intervals import RESAMPLES, bootstrap
from ttame.evaluation.road import LEVELS, area_under_curve
from ttame.files import replacing
from ttame.records import read_results

# What two files must share before their methods may stand in one table.
_SHARED = (
    "backbone", "size", "space", "cam_layer", "data", "metrics", "percentages", "steps", "grid",
    "groups", "mosaics", "seed",
)  # fmt: skip
_ROAD = {
    "ROAD MoRF": "road_morf_kept",
    "ROAD LeRF": "road_lerf_kept",
    "ROAD MoRF probability": "road_morf",
    "ROAD LeRF probability": "road_lerf",
}
# Coefficients in [-1, 1], shown in percent, each with the columns that it is made of.
_COEFFICIENTS = {
    "SDS": (single_deletion_score, "sds_output", "sds_salience"),
    "SaCo": (faithfulness_coefficient, "saco_salience", "saco_probability"),
}
# Percent already, of mosaics.
_PLACES = {"grid pointing": "grid_pointing", "energy": "energy", "pointing": "pointing"}


def measured(records: pd.DataFrame) -> pd.DataFrame:
    """Select the records of photos that could be read.

    Raises:
        TTameError: If there is none.
    """
    if "skipped" not in records:
        return records
    read = records[records["skipped"].isna()].drop(columns="skipped")
    if read.empty:
        raise TTameError(
            f"none of the {records['photo'].nunique()} photos could be read; the first: "
            f"{records['skipped'].iloc[0]}"
        )
    return read


def read_together(*paths: Path | str) -> tuple[list[dict[str, Any]], pd.DataFrame]:
    """Read results files that measured different methods in the same way.

    Args:
        paths: Results files. A photo and method may be in one of them only.

    Returns:
        Their headers, and all records.

    Raises:
        TTameError: If the files differ in classifier, weights, data, seed or protocol, or both
            hold the same photo and method.
    """
    found = [read_results(path) for path in paths]
    first = found[0][0]["config"]
    for path, (header, _) in zip(paths[1:], found[1:], strict=True):
        config = header["config"]
        for key in _SHARED:
            if config.get(key) != first.get(key):
                raise TTameError(
                    f"{str(path)!r} has {key}={config.get(key)!r}, {str(paths[0])!r} has "
                    f"{first.get(key)!r}; results of different configurations cannot be mixed"
                )
        if config["digests"][0] != first["digests"][0]:
            raise TTameError(f"{str(path)!r} and {str(paths[0])!r} measured different classifiers")
    records = pd.concat([records for _, records in found], ignore_index=True)
    twice = records[records.duplicated(["photo", "method"])]
    if len(twice):
        raise TTameError(f"{twice['method'].iloc[0]!r} is in more than one of the files")
    return [header for header, _ in found], records


def per_sample(records: pd.DataFrame) -> pd.DataFrame:
    """AD, IC and Average Gain of every record, in long form.

    Args:
        records: Records of a results file.

    Returns:
        Columns photo, method, percentage, metric (`"AD"`, `"IC"` or `"AG"`), value (percent).
    """
    records = measured(records)
    original = torch.tensor(records["probability"].to_numpy())
    functions = {"AD": average_drop, "IC": increase_in_confidence, "AG": average_gain}
    keys = records[["photo", "method"]]
    pieces = [pd.DataFrame(columns=["photo", "method", "percentage", "metric", "value"])]
    for column in (name for name in map(str, records) if name.startswith("masked_")):
        masked = torch.tensor(records[column].to_numpy())
        for metric, function in functions.items():
            share, values = int(column.removeprefix("masked_")), function(original, masked).numpy()
            pieces.append(keys.assign(percentage=share, metric=metric, value=values))
    return pd.concat(pieces[1:] or pieces, ignore_index=True)


def scores(records: pd.DataFrame) -> pd.DataFrame:
    """Compute every score of every record, in long form.

    Args:
        records: Records of results files.

    Returns:
        Columns photo, method, score, value (percent). Scores are `"AD 100%"` and the like for
        AD, IC and AG; where measured, the areas under ROAD's curves (`"ROAD MoRF"` and
        `"ROAD LeRF"` of the share of photos that keep their class, the same with
        `" probability"` of the class's probability), `"insertion"` and `"deletion"`; `"SDS"` and
        `"SaCo"`, 100 times a coefficient in [-1, 1]; of mosaics, `"grid pointing"`, `"energy"`
        and `"pointing"`.
    """
    records = measured(records)
    long = per_sample(records)
    long["score"] = long["metric"].str.cat(long["percentage"].astype(str), sep=" ") + "%"
    pieces = [long[["photo", "method", "score", "value"]]]
    areas = {name: column for name, column in _ROAD.items() if column in records}
    areas |= {name: name for name in ("insertion", "deletion") if name in records}
    for name, column in areas.items():
        known = records[records[column].notna()]  # curves may be limited to the first photos
        curves = torch.tensor(known[column].to_list(), dtype=torch.float64)
        road = name.startswith("ROAD")
        levels = LEVELS if road else np.linspace(0, 100, curves.shape[1]).tolist()
        value = 100 * area_under_curve(curves, levels).numpy()
        pieces.append(known[["photo", "method"]].assign(score=name, value=value))
    for name, (function, *columns) in _COEFFICIENTS.items():
        if columns[0] in records:
            known = records[records[columns[0]].notna()]
            given = (torch.tensor(known[x].to_list(), dtype=torch.float64) for x in columns)
            value = 100 * function(*given).numpy()
            pieces.append(known[["photo", "method"]].assign(score=name, value=value))
    for name in (name for name, column in _PLACES.items() if column in records):
        placed = records[["photo", "method"]].assign(score=name, value=records[_PLACES[name]])
        pieces.append(placed)
    return pd.concat([piece for piece in pieces if len(piece)], ignore_index=True)


def curves(records: pd.DataFrame, kind: str) -> pd.DataFrame:
    """Curves over the share of pixels, in long form.

    Args:
        records: Records of a results file.
        kind: `"ROAD"` or `"insertion/deletion"`.

    Returns:
        Columns photo, method, curve (`"MoRF"` and `"LeRF"`, or `"insertion"` and `"deletion"`),
        share (percent of pixels removed, or inserted), probability (of the class, percent), and
        for ROAD kept (100 where the class is kept, else 0).

    Raises:
        TTameError: If it was not measured.
    """
    kinds = {"ROAD": ("road_morf", "road_lerf"), "insertion/deletion": ("insertion", "deletion")}
    if kind not in kinds:
        raise TTameError(f"unknown curves {kind!r}; expected one of {', '.join(kinds)}")
    records = measured(records)
    if kinds[kind][0] not in records:
        raise TTameError(f"these results hold no {kind}; measure with metrics=('AD/IC', {kind!r})")
    records = records[records[kinds[kind][0]].notna()]
    pieces = []
    for column in kinds[kind]:
        values = np.array(records[column].to_list())
        shares = LEVELS if kind == "ROAD" else np.linspace(0, 100, values.shape[1])
        for index, share in enumerate(shares):
            curve = {"road_morf": "MoRF", "road_lerf": "LeRF"}.get(column, column)
            piece = records[["photo", "method"]].assign(curve=curve, share=share)
            piece["probability"] = 100 * values[:, index]
            if kind == "ROAD":
                piece["kept"] = 100 * records[f"{column}_kept"].str[index]
            pieces.append(piece)
    return pd.concat(pieces, ignore_index=True)


def intervals(records: pd.DataFrame, resamples: int = RESAMPLES, seed: int = 0) -> pd.DataFrame:
    """Compute every mean with its 95 % bootstrap interval over photos.

    Args:
        records: Records of results files.
        resamples: Bootstrap resamples.
        seed: Bootstrap seed.

    Returns:
        One row per method and score: mean, low, high (percent) and photos.
    """
    rows = [
        (method, score, *bootstrap(group["value"].to_numpy(), resamples, seed), len(group))
        for (method, score), group in scores(records).groupby(["method", "score"], sort=False)
    ]
    return pd.DataFrame(rows, columns=["method", "score", "mean", "low", "high", "photos"])


def summary(results: Path | str | pd.DataFrame) -> pd.DataFrame:
    """Build the papers' table: AD and IC at every percentage, one row per method.

    Args:
        results: A results file, or records.

    Returns:
        Means in percent under columns like `"AD 50%"`; where they were measured, the areas under
        ROAD's curves of the share of photos that keep their class, and of insertion and
        deletion, SDS and SaCo, or the scores of mosaics; then photos, degenerate maps, and of
        making a map the median milliseconds and the passes of the classifier, per image.
    """
    records = results if isinstance(results, pd.DataFrame) else read_results(results)[1]
    skipped = records[records["skipped"].notna()] if "skipped" in records else records[:0]
    records = measured(records)
    long, methods = scores(records), list(dict.fromkeys(records["method"]))
    found = list(dict.fromkeys(long["score"]))
    columns = [
        name
        for kind in ("AD ", "IC ", "ROAD", "insertion", "deletion", *_COEFFICIENTS, *_PLACES)
        for name in found if name.startswith(kind) and not name.endswith("probability")
    ]  # fmt: skip
    table = long.pivot_table(index="method", columns="score", values="value", aggfunc="mean")
    table = table.loc[methods, columns]
    grouped = records.groupby("method")
    table["photos"] = grouped.size()
    if len(skipped):
        table["skipped"] = skipped.groupby("method").size().reindex(methods, fill_value=0)
    table["degenerate"] = grouped["degenerate"].sum()
    table["ms"] = 1000 * grouped["seconds"].median()
    for name in [name for name in ("forward", "backward") if name in records]:
        table[name] = grouped[name].mean()
    table.columns.name = None
    return table


def write_table(table: pd.DataFrame, path: Path) -> Path:
    """Write a table as CSV, atomically."""
    with replacing(path) as temporary:
        table.to_csv(temporary, index=False)
    return path
