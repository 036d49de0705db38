"""Committed results, training records and benchmarks, shown beside what a notebook measures."""

from __future__ import annotations

import json
from collections.abc import Mapping
from pathlib import Path
from typing import Any, Literal

import pandas as pd

from ttame.errors import TTameError
from ttame.files import shipped
from ttame.records import read_record, results_paths

Benchmark = Literal[
    "explaining", "training", "scaling", "families", "transfer", "refinement", "quality", "export",
    "storage", "runtime",
]  # fmt: skip
# Format, version and command of the record that `python -m benchmarks NAME` writes.
BENCHMARKS: Mapping[Benchmark, tuple[str, int, str]] = {
    "explaining": ("ttame-benchmark", 3, "make bench"),
    "training": ("ttame-throughput", 1, "make throughput"),
    "scaling": ("ttame-scaling", 1, "python -m benchmarks scaling"),
    "families": ("ttame-families", 1, "make families"),
    "transfer": ("ttame-transfer", 1, "python -m benchmarks transfer"),
    "refinement": ("ttame-refinement", 1, "python -m benchmarks refinement"),
    "quality": ("ttame-quality", 1, "python -m benchmarks quality"),
    "export": ("ttame-export-families", 1, "python -m benchmarks export"),
    "storage": ("ttame-storage", 1, "python -m benchmarks storage"),
    "runtime": ("ttame-runtime", 1, "make bench"),
}


def reference(name: str) -> Path:
    """Return the path of a results file that ships with `ttame`.

    Args:
        name: File name in `data/results`, such as `"imagenette_val.jsonl"`; what is found may be
            compressed, `"imagenette_val.jsonl.gz"`.

    Raises:
        TTameError: If this installation lacks it.
    """
    found = results_paths(shipped("results"), name)
    return found[0] if found else _find("results", name)


def training_record(
    name: str, kind: Literal["explainers", "classifiers"] = "explainers"
) -> dict[str, Any]:
    """Read the training record of a shipped model: configuration, provenance and curves.

    Args:
        name: Name of the explainer or classifier.
        kind: Kind of model.

    Raises:
        TTameError: If this installation lacks it.
    """
    record: dict[str, Any] = json.loads(_find(kind, f"{name}.json").read_text("utf-8"))
    return record


def training_curves(record: Mapping[str, Any]) -> pd.DataFrame:
    """Return the logged quantities of a training record, one row per logged step."""
    return pd.DataFrame.from_records(record["curves"])


def read_benchmark(path: Path | str, kind: Benchmark = "explaining") -> dict[str, Any]:
    """Read the record of a benchmark: its provenance and measurements.

    Args:
        path: The record, `.json`.
        kind: Name of the benchmark.

    Returns:
        The provenance and `rows`; of `"explaining"` also `road`, `methods` and `left_out`.

    Raises:
        TTameError: If the file is missing, damaged, or of another format or version.
    """
    return read_record(path, *BENCHMARKS[kind])


def read_families(path: Path | str) -> tuple[dict[str, Any], pd.DataFrame]:
    """Read the check of model families: the provenance, and one row per family.

    Raises:
        TTameError: As `read_benchmark`.
    """
    found = read_benchmark(path, "families")
    rows = pd.DataFrame.from_records(found.pop("rows")).set_index("family")
    # Where every family passes, none has a reason.
    return found, rows if "reason" in rows else rows.assign(reason="")


def provenance_table(header: Mapping[str, Any]) -> pd.DataFrame:
    """List where a number comes from: model, data, photos, command, commit, date and machine.

    Args:
        header: Header of a results file, or a training record.

    Returns:
        One column `provenance`, one row per known fact.
    """
    config = {**header, **header.get("config", {})}
    photos = config.get("photos")
    rows = {
        "classifier": config.get("backbone"),
        "weights": config.get("weights"),
        # A classifier's training record has a name, too, but no layers that are read.
        "explainer": config.get("explainer")
        or (header.get("name") if "layers" in config else None),
        "data": config.get("data"),
        "photos": f"{len(photos) if isinstance(photos, list) else photos:,}" if photos else None,
        "masking space": config.get("space"),
        "settings": "; ".join(
            f"{method}: {', '.join(f'{name} {value}' for name, value in given.items())}"
            for method, given in (config.get("settings") or {}).items()
        ),
        "ROAD, insertion, deletion on the first": config.get("curve_limit"),
        "removed": header.get("removed"),
        "shortened": header.get("shortened"),
        "command": header.get("command"),
        "commit": header.get("commit"),
        "date": str(header.get("date", ""))[:10],
        "seed": header.get("seed"),
        "machine": header.get("hardware"),
        "resumed": "; ".join(resumptions(header)),
        "ttame": header.get("versions", {}).get("ttame"),
        "torch": header.get("versions", {}).get("torch"),
    }
    known = {key: str(value) for key, value in rows.items() if value not in (None, "")}
    return pd.DataFrame({"provenance": known})


def resumptions(header: Mapping[str, Any]) -> list[str]:
    """Say which other commit and machine went on with a results file, and after how many records.

    Args:
        header: Header of a results file.
    """
    return [
        f"after {run['after']:,} records, {run['date'][:10]}, commit {run['commit']}, "
        f"{run['hardware']}, torch {run['versions']['torch']}"
        for run in header.get("resumed", [])
    ]


def provenances(headers: Mapping[str, Mapping[str, Any]]) -> pd.DataFrame:
    """List where the numbers of several files come from; what they share is said once, first.

    Args:
        headers: As for `provenance_table`, by the name of the file.

    Returns:
        One column `provenance`; rows by file, `"all"` for what is the same in every one, and fact.
    """
    tables = {name: provenance_table(header)["provenance"] for name, header in headers.items()}
    joined = pd.concat(tables, axis=1)
    shared = joined.nunique(axis=1, dropna=False) == 1
    rows = {("all", fact): value for fact, value in joined.loc[shared].iloc[:, 0].items()}
    for name, found in tables.items():
        rows |= {(name, fact): value for fact, value in found.items()
                 if not shared[str(fact)]}  # fmt: skip
    return pd.Series(rows).to_frame("provenance")


def _find(kind: str, name: str) -> Path:
    path = shipped(kind) / name
    if not path.is_file():
        raise TTameError(
            f"this installation of ttame has no {kind}/{name}; update the checkout, or reinstall"
        )
    return path
