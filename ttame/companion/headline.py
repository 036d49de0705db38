"""The headline tables: methods by measures that no blind map wins, read from shipped records."""

from __future__ import annotations

from dataclasses import dataclass
from typing import Any, Literal

import pandas as pd

from ttame.errors import TTameError
from ttame.evaluation.agreement import BLIND, GAP, add_gap, mean_ranks
from ttame.evaluation.tables import measured, read_together, scores
from ttame.files import shipped
from ttame.records import read_results

Photos = Literal["Imagenette", "other kinds", "transformer"]
# The files of each, in data/results/every_metric, compressed or not.
SETS: dict[Photos, str] = {
    "Imagenette": "imagenette_*.jsonl*",
    "other kinds": "kinds_*.jsonl*",
    "transformer": "vit_*.jsonl*",
}
_MOSAICS: dict[Photos, str] = {"Imagenette": "mosaics_imagenette*.jsonl*"}
SCORES = [
    *(f"{score} {share}%" for score in ("AD", "IC") for share in (100, 50, 15)),
    "ROAD MoRF", "ROAD LeRF", GAP, "insertion", "deletion", "SDS", "SaCo", "grid pointing",
]  # fmt: skip
# Those of the headline, of which more is better; a test holds that no blind map wins one.
MEASURES = [GAP, "insertion", "SDS", "SaCo", "grid pointing"]


@dataclass(frozen=True)
class Comparison:
    """What was measured of the same photos by every metric.

    Attributes:
        headers: Headers of the results files by file name, without `.gz`, mosaics last.
        long: One row per photo, method and score: columns photo, method, score (of `SCORES`) and
            value, percent. Of mosaics `photo` is the mosaic, since its cells are not independent.
        passes: Columns forward and backward, one row per method.
    """

    headers: dict[str, dict[str, Any]]
    long: pd.DataFrame
    passes: pd.DataFrame

    def complete(self) -> pd.DataFrame:
        """Select, by score, the photos of the blind maps and the methods that saw all of them."""
        blind = self.long[self.long["method"].isin(BLIND)]
        rows = self.long.merge(blind[["score", "photo"]].drop_duplicates())
        seen = rows.groupby(["score", "method"])["photo"].transform("nunique")
        return rows[seen == seen.groupby(rows["score"]).transform("max")]


def read_comparison(photos: Photos) -> Comparison:
    """Read what ships of every metric on the same photos.

    Args:
        photos: In `SETS`; the transformer's are of Imagenette, too.

    Raises:
        TTameError: If there is no such set, or this installation lacks its files.
    """
    if photos not in SETS:
        raise TTameError(f"unknown photos {photos!r}; expected one of {', '.join(SETS)}")
    folder = shipped("results") / "every_metric"
    paths = sorted(folder.glob(SETS[photos]))
    if not paths:
        raise TTameError(f"this installation of ttame has no results/every_metric/{SETS[photos]}")
    found, records = read_together(*paths)
    names = [path.name.removesuffix(".gz") for path in paths]
    headers = dict(zip(names, found, strict=True))
    records = measured(records)
    pieces = [add_gap(scores(records))]
    if photos in _MOSAICS:
        boards = sorted(folder.glob(_MOSAICS[photos]))
        made = [read_results(path) for path in boards]
        if len({str(header["config"]["mosaics"]) for header, _ in made}) > 1:
            raise TTameError(f"{', '.join(path.name for path in boards)} are of different mosaics")
        for path, (header, _) in zip(boards, made, strict=True):
            headers[path.name.removesuffix(".gz")] = header
        mosaics = pd.concat([found for _, found in made])
        named = mosaics.assign(photo="mosaic " + mosaics["mosaic"].astype(str))
        pieces.append(scores(named).groupby(["photo", "method", "score"], as_index=False).mean())
    long = pd.concat(pieces, ignore_index=True)
    long = long[long["score"].isin(SCORES)]
    long = long.sort_values("score", key=lambda names: names.map(SCORES.index), kind="stable")
    passes = records.groupby("method")[["forward", "backward"]].mean()
    return Comparison(headers, long.reset_index(drop=True), passes)


def common_photos(comparison: Comparison) -> int:
    """Count the photos that all methods saw, mosaics apart."""
    long = comparison.long[comparison.long["score"] == GAP]
    return int((long.groupby("photo")["method"].nunique() == long["method"].nunique()).sum())


def headline(comparison: Comparison) -> pd.DataFrame:
    """Order the methods that look by the measures that no blind map wins.

    Args:
        comparison: From `read_comparison`.

    Returns:
        One row per method, best mean rank first (`ttame.evaluation.agreement.mean_ranks`): its
        means by `MEASURES`, percent, over the photos that all methods saw, NaN where a method was
        not measured; then its passes, forward and backward. Methods that were measured on mosaics
        alone are left out.
    """
    long, passes = comparison.long, comparison.passes
    looking = passes.index.difference(list(BLIND))
    chosen = long[long["score"].isin(MEASURES) & long["method"].isin(looking)]
    by_score = chosen.groupby("score")["method"].transform("nunique")
    common = chosen[chosen.groupby(["score", "photo"])["method"].transform("nunique") == by_score]
    means = common.pivot_table(index="method", columns="score", values="value")
    means = means[[name for name in MEASURES if name in means]].rename_axis(None, axis=1)
    return means.loc[mean_ranks(means).index].join(passes)


def worth_showing(table: pd.DataFrame, method: str = "T-TAME") -> pd.DataFrame:
    """Select a method's own variants, Grad-CAM, and every method ahead of it in a measure.

    Args:
        table: From `headline`.
        method: Name of the method; its variants begin with it.
    """
    measures = [name for name in MEASURES if name in table]
    ahead = (table[measures] > table.loc[method, measures]).any(axis=1)
    own = table.index.str.startswith(method) | (table.index == "Grad-CAM")
    return table[ahead | own]
