"""Tables in the papers' form: our values, their commands, and room for the published values.

Our values are read from the committed records. The column of published values is empty, for a
reader with the papers to fill in.
"""

from __future__ import annotations

import json
from collections.abc import Iterable, Mapping, Sequence
from pathlib import Path
from typing import Any

import pandas as pd

from ttame.companion.shipped import training_record
from ttame.companion.studies.records import read_runs, total_minutes
from ttame.companion.studies.study import read_study
from ttame.companion.studies.tables import mean_scores, run_scores
from ttame.errors import TTameError
from ttame.evaluation.tables import summary
from ttame.files import shipped
from ttame.methods import METHODS
from ttame.records import read_results, results_paths

OURS, PUBLISHED, NOT_RUN = "ours", "published (fill from the PDF)", "not run"
# The papers' classifiers, which need ImageNet-1k and their weights.
PAPERS = ("vgg16", "resnet50", "vit_b_16")
_SHARES = (100, 50, 15)
_AND = "\u00a0·\u00a0"  # keeps the numbers of a cell in one line
# Columns of `ttame.evaluation.tables.summary` that a cell joins, by the heading that it gets.
_MASKED = {
    f"{score} at {' · '.join(map(str, _SHARES))} %": [f"{score} {share}%" for share in _SHARES]
    for score in ("AD", "IC")
}
_SCORES = {
    **_MASKED,
    "ROAD MoRF · LeRF": ["ROAD MoRF", "ROAD LeRF"],
    "passes forward · backward": ["forward", "backward"],
}
_SINGLE = ("benchmark", "throughput", "scaling", "families")


def score_table(pattern: str) -> pd.DataFrame:
    """Make the papers' main table for one classifier.

    Args:
        pattern: Pattern of results files in `data/results`, such as `"imagenette_val*.jsonl"`.

    Returns:
        One row per method: for every score a column of ours, percent, and an empty one; then the
        number of photos. A second explainer of the same method has a row under its own name.

    Raises:
        TTameError: If no file matches.
    """
    pieces = []
    for path in _results(pattern):
        header, records = read_results(path)
        explainer = header["config"]["explainer"]
        if explainer != header["config"]["backbone"]:
            records["method"] = records["method"].replace("T-TAME", f"T-TAME, {explainer}")
        pieces.append(records)
    records = pd.concat(pieces, ignore_index=True)
    # As the methods are listed; a second explainer stands beside the first.
    order = {name: place for place, name in enumerate(METHODS)}
    records["place"] = records["method"].str.split(", ").str[0].map(order)
    found = summary(records.sort_values("place", kind="stable"))
    rows = {
        method: _beside(row, _SCORES) | {("photos", ""): f"{row['photos']:.0f}"}
        for method, row in found.iterrows()
    }
    return _framed(rows, ["method"])


def evaluation_table(patterns: Sequence[str]) -> pd.DataFrame:
    """List the commands behind `score_table`, one row per results file.

    Args:
        patterns: Patterns of results files in `data/results`.

    Raises:
        TTameError: If no file matches one of them.
    """
    rows = {}
    for path in (path for pattern in patterns for path in _results(pattern)):
        header, records = read_results(path)
        rows[path.name] = {
            "profile": "imagenette",
            "photos": f"{records['photo'].nunique()}",
            # Records know how long each map took, not the masking and scoring after it.
            "minutes, of the maps alone": f"{records['seconds'].sum() / 60:.1f}",
            **_made(header),
        }
    return pd.DataFrame.from_dict(rows, orient="index").rename_axis("results file")


def training_table() -> pd.DataFrame:
    """List training costs: of the shipped models, and of the papers' classifiers, not run here."""
    rows = {}
    for kind in ("explainers", "classifiers"):
        for path in sorted(shipped(kind).glob("*.json")):
            record = training_record(path.stem, "explainers" if kind[0] == "e" else "classifiers")
            length = record.get("steps") or f"{record['config']['epochs']} epochs"
            drawn = record["data"].startswith("drawn/")  # which every profile can draw
            rows[kind[:-1], path.stem] = {
                "profile": "any" if drawn else "imagenette",
                "photos": f"{record['photos']:,}",
                "steps": f"{length}",
                f"minutes, {OURS}": f"{record['minutes']:.1f}",
                f"minutes, {PUBLISHED}": "",
                **_made(record),
            }
    for backbone in PAPERS:
        rows["explainer", f"{backbone}, as in the papers"] = {
            "profile": "imagenet",
            f"minutes, {OURS}": NOT_RUN,
            "command": "ttame train --profile imagenet --recipe published "
            f"--backbone {backbone} --out runs/{backbone}",
        }
    table = pd.DataFrame.from_dict(rows, orient="index").fillna("")
    table.index.names = ["", "trained"]
    return table


def benchmark_table() -> pd.DataFrame:
    """List the commands of the benchmarks, one row per record."""
    rows = {}
    for path in (path for name in _SINGLE for path in _results(f"{name}.json")):
        rows[path.name] = {"profile": "quick", **_made(json.loads(path.read_text("utf-8")))}
    return pd.DataFrame.from_dict(rows, orient="index").rename_axis("record")


def studies() -> list[str]:
    """Return the names of all studies that have a file or records."""
    recorded = {path.parent.name for path in shipped("results").glob("*/*_seed*.json")}
    # The papers' ablations are listed whether or not they have been run.
    return sorted(
        {path.stem for path in shipped("studies").glob("*.toml")} | recorded | {"ablations"}
    )


def progress_table(names: Sequence[str], folder: Path | None = None) -> pd.DataFrame:
    """List how many runs of each study are done, and their cost, one row per study.

    Args:
        names: Names of the studies.
        folder: Parent folder of the studies' records; default: the shipped ones.

    Returns:
        Columns profile, runs, minutes of training and command; `"not run"` without a record.
    """
    rows = {}
    for name in names:
        planned, runs = _plan(name), _runs(name, folder)
        each = (
            runs.drop_duplicates("run")["minutes"] if runs is not None else pd.Series(dtype=float)
        )
        rows[name] = {
            "profile": "imagenette",
            "runs": f"{len(each)} of {len(planned[1])}" if planned else f"{len(each)}",
            "minutes of training": total_minutes(each) if len(each) else NOT_RUN,
            "command": f"ttame study data/studies/{name}.toml --out data/results/{name}",
        }
    return pd.DataFrame.from_dict(rows, orient="index").rename_axis("study")


def ablation_table(name: str, folder: Path | None = None) -> pd.DataFrame:
    """Make a study's table of scores, each with an empty column for the published value.

    Args:
        name: Name of the study.
        folder: Parent folder of the study's records; default: the shipped ones.

    Returns:
        One row per variant: AD and IC, means over photos and runs, percent, or `"not run"`.
    """
    plan, runs = _plan(name), _runs(name, folder)
    found = pd.DataFrame() if runs is None else mean_scores(run_scores(runs))
    recorded = [("", changes, changes) for changes in found.index]
    rows = {}
    for axis, variant, changes in (plan[0] if plan else recorded) or [("", "all axes", "")]:
        row = found.loc[[changes]].iloc[0] if changes in found.index else None
        count = "0" if row is None else f"{row['runs']:.0f}"
        rows[axis, variant] = _beside(row, _MASKED) | {("runs", ""): count}
    return _framed(rows, ["axis", "variant"])


def _plan(name: str) -> tuple[list[tuple[str, str, str]], list[str]] | None:
    """Return axis, name and changes of a study's variants, and its runs; `None` without a file."""
    path = shipped("studies") / f"{name}.toml"
    if not path.is_file():
        return None
    study = read_study(path)
    rows = [(variant.axis, variant.name, variant.changes) for variant in study.variants]
    return rows, [run.name for run in study.runs]


def _runs(name: str, folder: Path | None) -> pd.DataFrame | None:
    records = (folder or shipped("results")) / name
    return read_runs(records) if any(records.glob("*.json")) else None


def _results(pattern: str) -> list[Path]:
    found = results_paths(shipped("results"), pattern)
    if not found:
        raise TTameError(f"no results file is called {pattern!r}; reinstall ttame, or name another")
    return found


def _made(header: Mapping[str, Any]) -> dict[str, str]:
    keys = ("command", "commit", "date", "hardware")
    return {key: str(header[key])[:10] if key == "date" else str(header[key]) for key in keys}


def _beside(
    row: Mapping[str, Any] | pd.Series | None, scores: Mapping[str, Iterable[str]]
) -> dict[tuple[str, str], str]:
    """Make two cells for every score: our values, joined, and an empty one."""
    cells = {}
    for score, columns in scores.items():
        values = [] if row is None else [row[column] for column in columns if column in row]
        known = [f"{value:.1f}" for value in values if pd.notna(value)]
        cells[score, OURS] = NOT_RUN if row is None else _AND.join(known) or "not measured"
        cells[score, PUBLISHED] = ""
    return cells


def _framed(rows: Mapping[Any, Mapping[tuple[str, str], str]], names: list[str]) -> pd.DataFrame:
    table: pd.DataFrame = pd.DataFrame.from_dict(dict(rows), orient="index")
    table.columns = pd.MultiIndex.from_tuples([tuple(column) for column in table.columns])
    table.index.names = names
    return table
