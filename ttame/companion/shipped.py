"""Committed results and training records: what the book shows beside what it just measured."""

from __future__ import annotations

import json
from collections.abc import Mapping
from pathlib import Path
from typing import Any, Literal

import pandas as pd

from ttame.errors import TTameError
from ttame.files import shipped


def reference(name: str) -> Path:
    """A results file that comes with `ttame`.

    Args:
        name: File name under `data/results`, for example `"imagenette_val.jsonl"`.

    Raises:
        TTameError: If this installation lacks it.
    """
    return _find("results", name)


def training_record(
    name: str, kind: Literal["explainers", "classifiers"] = "explainers"
) -> dict[str, Any]:
    """The training record of what ships: configuration, provenance and curves.

    Args:
        name: The explainer, or the classifier.
        kind: Which of the two.

    Raises:
        TTameError: If this installation lacks it.
    """
    record: dict[str, Any] = json.loads(_find(kind, f"{name}.json").read_text("utf-8"))
    return record


def training_curves(record: Mapping[str, Any]) -> pd.DataFrame:
    """The logged quantities of a training record, one row a logged step."""
    return pd.DataFrame.from_records(record["curves"])


def provenance_table(header: Mapping[str, Any]) -> pd.DataFrame:
    """Where a number comes from: model, data, number of photos, command, commit, date, machine.

    Args:
        header: Header of a results file, or a training record.
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
        "settings": config.get("settings") or None,
        "ROAD, insertion, deletion on the first": config.get("curve_limit"),
        "removed": header.get("removed"),
        "command": header.get("command"),
        "commit": header.get("commit"),
        "date": str(header.get("date", ""))[:10],
        "seed": header.get("seed"),
        "machine": header.get("hardware"),
        "ttame": header.get("versions", {}).get("ttame"),
        "torch": header.get("versions", {}).get("torch"),
    }
    known = {key: str(value) for key, value in rows.items() if value not in (None, "")}
    return pd.DataFrame({"provenance": known})


def _find(kind: str, name: str) -> Path:
    path = shipped(kind) / name
    if not path.is_file():
        raise TTameError(
            f"this installation of ttame has no {kind}/{name}; update the checkout, or reinstall"
        )
    return path
