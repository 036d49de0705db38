"""Every number of the book: our values in the papers' form, and the command behind each.

Our values are read from the committed records. Values of the papers stand beside them where the
caller, a reader with the papers, gives any.
"""

from __future__ import annotations

import json
import shlex
from collections import Counter
from collections.abc import Iterable, Mapping, Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import pandas as pd

from ttame.companion.shipped import BENCHMARKS, resumptions, training_record
from ttame.companion.studies.records import read_runs, total_minutes
from ttame.companion.studies.study import read_study
from ttame.companion.studies.tables import mean_scores, run_scores
from ttame.errors import TTameError
from ttame.evaluation.tables import summary
from ttame.files import shipped
from ttame.methods import METHODS
from ttame.records import read_results, results_paths

NOT_RUN = "not run"
# The papers' classifiers, which need ImageNet-1k and their weights.
PAPERS = ("vgg16", "resnet50", "vit_b_16")
Published = Mapping[str, Mapping[str, str]]
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
_PHOTOS = "photos AD, IC · ROAD"
_LINE = 76  # characters of a command that fit the book's column


@dataclass(frozen=True)
class Made:
    """How one record was made.

    Attributes:
        name: Name of the file, model or study.
        facts: What it holds or took, then commit, date and machine, in words.
        command: The recorded command, or the one that would make what was not run.
    """

    name: str
    facts: tuple[str, ...]
    command: str


def score_table(pattern: str, published: Published | None = None) -> pd.DataFrame:
    """Make the papers' main table for one classifier.

    Args:
        pattern: Pattern of results files in `data/results`, such as `"imagenette_val*.jsonl"`.
        published: Published values by method and heading of the table; each heading with any gets
            a column of its own.

    Returns:
        One row per method: for every score a column, percent, then the number of photos, of AD and
        IC and of ROAD. A second explainer of the same method has a row under its own name.

    Raises:
        TTameError: If no file matches, or a published value has no such method or heading.
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
    records = records.sort_values(["place", "method"], kind="stable")
    found = summary(records)
    # ROAD may be limited to the first photos, or not measured.
    walked = records[records["road_morf"].notna()] if "road_morf" in records else records[:0]
    counts = walked.groupby("method").size().reindex(found.index, fill_value=0)
    rows = {
        str(method): _cells(row, _SCORES)
        | {_PHOTOS: f"{row['photos']:.0f}{_AND}{counts[str(method)]}"}
        for method, row in found.iterrows()
    }
    table = pd.DataFrame.from_dict(rows, orient="index")
    return _beside(table, published or {})


def evaluations(patterns: Sequence[str]) -> list[Made]:
    """List how results files were made.

    Args:
        patterns: Patterns of results files in `data/results`.

    Raises:
        TTameError: If no file matches one of them.
    """
    found = []
    for path in (path for pattern in patterns for path in _results(pattern)):
        header, records = read_results(path)
        # Records know how long each map took, not the masking and scoring after it.
        minutes = records["seconds"].sum() / 60
        mosaics = header["config"].get("mosaics")
        photos = f"{len(mosaics)} mosaics" if mosaics else f"{records['photo'].nunique()} photos"
        if "shortened" in header:
            photos += f" ({header['shortened']})"
        found.append(_made(path.name, header, photos, f"{minutes:.1f} minutes for the maps"))
    return found


def trainings() -> list[Made]:
    """List how the shipped models were trained, and the papers' classifiers, not run here."""
    found = []
    for kind in ("explainers", "classifiers"):
        for path in sorted(shipped(kind).glob("*.json")):
            record = training_record(path.stem, "explainers" if kind[0] == "e" else "classifiers")
            length = record.get("steps")
            took = f"{length} steps" if length else f"{record['config']['epochs']} epochs"
            facts = f"{record['photos']:,} photos", took, f"{record['minutes']:.1f} minutes"
            found.append(_made(f"{kind[:-1]} {path.stem}", record, *facts))
    for backbone in PAPERS:
        command = (
            "ttame train --profile imagenet --recipe published "
            f"--backbone {backbone} --out runs/{backbone}"
        )
        found.append(Made(f"explainer of {backbone}, as in the papers", (NOT_RUN,), command))
    return found


def benchmarks() -> list[Made]:
    """List how the records of the benchmarks were made."""
    paths = sorted(shipped("results").glob("*.json"))
    formats = {name for name, _, _ in BENCHMARKS.values()}
    records = {path.name: json.loads(path.read_text("utf-8")) for path in paths}
    return [_made(name, record) for name, record in records.items() if record["format"] in formats]


def studies() -> list[str]:
    """Return the names of all studies that have a file or records."""
    recorded = {path.parent.name for path in shipped("results").glob("*/*_seed*.json")}
    # The papers' ablations are listed whether or not they have been run.
    return sorted(
        {path.stem for path in shipped("studies").glob("*.toml")} | recorded | {"ablations"}
    )


def progress(names: Sequence[str], folder: Path | None = None) -> list[Made]:
    """List how many runs of each study are done, their training time and the study's command.

    Args:
        names: Names of the studies.
        folder: Parent folder of the studies' records; default: the shipped ones.
    """
    found = []
    for name in names:
        planned, runs = _plan(name), _runs(name, folder)
        each = (
            runs.drop_duplicates("run")["minutes"] if runs is not None else pd.Series(dtype=float)
        )
        count = f"{len(each)} of {len(planned[1])} runs" if planned else f"{len(each)} runs"
        took = f"{total_minutes(each)} minutes of training" if len(each) else NOT_RUN
        command = f"ttame study data/studies/{name}.toml --out data/results/{name}"
        found.append(Made(name, (count, took), command))
    return found


def ablation_table(
    name: str, folder: Path | None = None, published: Published | None = None
) -> pd.DataFrame:
    """Make a study's table of scores.

    Args:
        name: Name of the study.
        folder: Parent folder of the study's records; default: the shipped ones.
        published: Published values by variant and heading, as for `score_table`.

    Returns:
        One row per variant, under its axis: AD and IC, means over photos and runs, percent, or
        `"not run"`.

    Raises:
        TTameError: If a published value has no such variant or heading.
    """
    plan, runs = _plan(name), _runs(name, folder)
    found = pd.DataFrame() if runs is None else mean_scores(run_scores(runs))
    recorded = [("", changes, changes) for changes in found.index]
    rows = []
    for axis, variant, changes in (plan[0] if plan else recorded) or [("", "all axes", "")]:
        row = found.loc[[changes]].iloc[0] if changes in found.index else None
        count = "0" if row is None else f"{row['runs']:.0f}"
        rows.append({"axis": axis, "variant": variant, **_cells(row, _MASKED), "runs": count})
    table = pd.DataFrame(rows).set_index("variant")
    return _beside(table, published or {})


def command_list(made: Iterable[Made]) -> str:
    """Write commands as Markdown: a line of facts each, then the whole command, broken to fit.

    Args:
        made: From `evaluations`, `trainings`, `benchmarks` or `progress`.
    """
    items = (
        f"**`{item.name}`**: {', '.join(item.facts)}\n\n```console\n$ {_broken(item.command)}\n```"
        for item in made
    )
    return "\n\n".join(items)


def _broken(command: str) -> str:
    """Break a command before its options, so that it can still be copied as it is."""
    parts: list[str] = []
    for word in map(shlex.quote, shlex.split(command)):
        if word.startswith("--") or not parts:
            parts.append(word)
        else:
            parts[-1] += f" {word}"
    lines = parts[:1]
    for part in parts[1:]:
        if len(lines[-1]) + len(part) > _LINE:
            lines.append(f"    {part}")
        else:
            lines[-1] += f" {part}"
    return " \\\n".join(lines)


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


def _made(name: str, header: Mapping[str, Any], *facts: str) -> Made:
    made = f"commit {header['commit']}", str(header["date"])[:10], str(header["hardware"])
    # Rows that the named command left as an earlier one made them say so.
    kept = Counter(
        row["commit"]
        for row in header.get("rows", [])
        if row.get("commit", header["commit"]) != header["commit"]
    )
    earlier = (f"{count} rows kept, of commit {commit}" for commit, count in kept.items())
    later = (f"resumed {run}" for run in resumptions(header))
    return Made(name, (*facts, *made, *earlier, *later), str(header["command"]))


def _cells(row: pd.Series | None, scores: Mapping[str, Iterable[str]]) -> dict[str, str]:
    """Make one cell for every heading: our values, joined."""
    cells = {}
    for heading, columns in scores.items():
        values = [] if row is None else [row[column] for column in columns if column in row]
        digits = 0 if heading.startswith("passes") else 1
        known = [f"{value:.{digits}f}" for value in values if pd.notna(value)]
        cells[heading] = NOT_RUN if row is None else _AND.join(known) or "not measured"
    return cells


def _beside(table: pd.DataFrame, published: Published) -> pd.DataFrame:
    """Put published values beside ours, in a column of their own for each heading with any."""
    for name, values in published.items():
        for heading in values:
            if name not in table.index or heading not in table:
                raise TTameError(
                    f"a published value of {name!r} for {heading!r} has no place; rows are "
                    f"{', '.join(map(str, table.index))}, headings {', '.join(map(str, table))}"
                )
    columns: dict[str, pd.Series] = {}
    for heading in map(str, table):
        columns[heading] = table[heading]
        given = {name: values[heading] for name, values in published.items() if heading in values}
        if given:
            shown = [given.get(str(name), "") for name in table.index]
            columns[f"{heading}, published"] = pd.Series(shown, table.index)
    return pd.DataFrame(columns, index=table.index)
