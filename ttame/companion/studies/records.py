"""Records of a study's runs: scores, provenance, and what is left to run."""

from __future__ import annotations

from collections.abc import Iterable
from pathlib import Path
from typing import Any

import pandas as pd

from ttame.companion.studies.study import Study
from ttame.companion.studies.variants import Run
from ttame.errors import TTameError
from ttame.records import read_record

FORMAT, VERSION = "ttame-study-run", 1
FAILED = "ttame-study-failure"
COMMAND = "ttame study"


def read_runs(folder: Path | str) -> pd.DataFrame:
    """Read the records of a study, one row per run and photo.

    Args:
        folder: Folder of the records, `*.json`.

    Returns:
        Columns run, changes, seed, shown, minutes (of training), photo, target, probability,
        masked_100 and so on; with a column `method`, `ttame.evaluation.tables.per_sample` reads
        it.

    Raises:
        TTameError: If there is no record, or one is damaged or of another format or version.
    """
    pieces = []
    for run, record in _records(folder).items():
        columns = ["probability", *(name for name in record if name.startswith("masked_"))]
        piece = pd.DataFrame({"photo": record["photos"], "target": record["targets"],
                              **{name: record[name] for name in columns}})  # fmt: skip
        facts = {name: record[name] for name in ("changes", "seed", "shown")}
        pieces.append(piece.assign(run=run, **facts, minutes=record["training"]["minutes"]))
    return pd.concat(pieces, ignore_index=True)


def study_provenance(folder: Path | str) -> pd.DataFrame:
    """List where a study's records come from: models, data, commands, commits, dates, machines.

    Args:
        folder: Folder of the records.

    Returns:
        One column `provenance`, one row per fact, with all values where records differ.

    Raises:
        TTameError: As `read_runs`.
    """
    found = _facts(_records(folder))
    facts: dict[str, Iterable[Any]] = {
        "runs": [len(found)],
        "classifier": found["backbone"],
        "weights": found["weights"],
        "trained on": found["training.data"],
        "measured on": found["photos"].map(len).astype(str) + " photos of " + found["measured_on"],
        "a run's command": found["command"].str.replace(
            r"(?: --only \S+)+", " --only RUN", regex=True
        ),
        "commit": found["commit"],
        "date": found["date"].str[:10],
        "minutes of all runs": [total_minutes(_minutes(found))],
        "seeds": found["seed"],
        "machine": found["hardware"],
        "ttame": found["versions.ttame"],
        "torch": found["versions.torch"],
    }
    shown = {key: ", ".join(map(str, sorted(set(values)))) for key, values in facts.items()}
    return pd.DataFrame({"provenance": shown})


def unfinished(study: Study, folder: Path | str) -> pd.DataFrame:
    """List the runs of a study that have no record, and why.

    Args:
        study: The study.
        folder: Folder of the records.

    Returns:
        Columns axis, variant, seed and state: `"not run"`, or the error of the failed run.

    Raises:
        TTameError: If the file of a failure is damaged or of another format or version.
    """
    rows = []
    for run in study.missing(folder):
        path, state = Path(folder) / f"{run.name}.failure", "not run"
        if path.is_file():
            state = f"failed: {read_record(path, FAILED, VERSION, COMMAND)['error']}"
        rows.append((run.variant.axis, run.variant.name, run.seed, state))
    return pd.DataFrame(rows, columns=["axis", "variant", "seed", "state"]).set_index("axis")


def minutes_left(runs: Iterable[Run], folder: Path | str) -> float | None:
    """Estimate how long runs take, by the pace of finished ones on the same classifier and size.

    Args:
        runs: Runs that are missing.
        folder: Folder of the records.

    Returns:
        Minutes, one run after the other; `None` if no similar run has finished.
    """
    paces: dict[Any, float] = {}
    if any(Path(folder).glob("*.json")):
        found = _facts(_records(folder))
        pace = (_minutes(found) / found["training.steps"]).dropna()
        paces = pace.groupby([found["backbone"], found["size"].str[0]]).mean().to_dict()
    sizes = {backbone: size for backbone, size in paces}
    total = 0.0
    for run in runs:
        kind = (run.budget.backbone, run.budget.size or sizes.get(run.budget.backbone, 0))
        if kind not in paces:
            return None
        total += run.variant.training.get("steps", run.budget.steps) * paces[kind]
    return total


def total_minutes(minutes: Iterable[float | None]) -> str:
    """Sum the minutes of runs, and count the runs without."""
    known = pd.Series(minutes, dtype=float)
    missing = known.isna().sum()
    rest = f" and those of {missing} runs, not recorded" if missing else ""
    return f"{known.sum():.0f}{rest}"


def _records(folder: Path | str) -> dict[str, dict[str, Any]]:
    """Read all records of a study by run."""
    paths = sorted(Path(folder).glob("*.json"))
    if not paths:
        raise TTameError(f"no record of a study in {str(folder)!r}; `{COMMAND}` writes them")
    return {path.stem: read_record(path, FORMAT, VERSION, COMMAND) for path in paths}


def _facts(records: dict[str, dict[str, Any]]) -> pd.DataFrame:
    """Return one row per record and one column per field, such as `training.steps`."""
    return pd.json_normalize(list(records.values()))


def _minutes(found: pd.DataFrame) -> pd.Series[float]:
    """Return the minutes of runs, with the measurement if timed; NaN if a run was killed."""
    training = found["training.minutes"].astype(float)
    return found["minutes"].astype(float).fillna(training) if "minutes" in found else training
