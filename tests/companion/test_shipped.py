"""Committed results: found, described in full, and missed with a clear message."""

from __future__ import annotations

import pytest

from ttame.companion.shipped import (
    provenance_table,
    provenances,
    reference,
    training_curves,
    training_record,
)
from ttame.errors import TTameError
from ttame.records import read_results


def test_reference_results_say_where_they_come_from() -> None:
    header, records = read_results(reference("imagenette_val.jsonl"))
    table = provenance_table(header)["provenance"]
    assert table["photos"] == f"{records['photo'].nunique():,}"
    assert table["command"].startswith("ttame evaluate")
    assert {"classifier", "explainer", "data", "commit", "date", "machine"} <= set(table.index)


def test_a_run_that_went_on_elsewhere_says_where() -> None:
    run = {"commit": "abc", "hardware": "a CPU", "versions": {"torch": "2"}, "date": "2026-11-27T1"}
    header = {"hardware": "a GPU", "resumed": [{"after": 1500, **run}]}
    assert provenance_table(header)["provenance"].to_dict() == {
        "machine": "a GPU",
        "resumed": "after 1,500 records, 2026-11-27, commit abc, a CPU, torch 2",
    }


def test_settings_read_as_words() -> None:
    settings = {"RISE": {"masks": 4000, "cells": 8}, "IIA": {"steps": 2}}
    table = provenance_table({"config": {"settings": settings}})["provenance"]
    assert table["settings"] == "RISE: masks 4000, cells 8; IIA: steps 2"


def test_what_files_share_is_said_once_and_nothing_is_left_empty() -> None:
    headers = {
        "a": {"command": "ttame one", "commit": "abc", "seed": 0},
        "b": {"command": "ttame two", "commit": "abc", "seed": 0, "hardware": "a CPU"},
    }
    assert provenances(headers)["provenance"].to_dict() == {
        ("all", "commit"): "abc",
        ("all", "seed"): "0",
        ("a", "command"): "ttame one",
        ("b", "command"): "ttame two",
        ("b", "machine"): "a CPU",
    }


def test_training_record_describes_the_shipped_explainer() -> None:
    record = training_record("tf_efficientnet_lite0")
    table = provenance_table(record)["provenance"]
    assert table["explainer"] == "tf_efficientnet_lite0"
    assert table["data"] == "photos/train"
    curves = training_curves(record)
    assert curves["train/total"].notna().sum() > 50
    assert bool(curves["step"].is_monotonic_increasing)


def test_missing_reference_is_named() -> None:
    with pytest.raises(TTameError, match=r"results/nothing\.jsonl"):
        reference("nothing.jsonl")


def test_a_classifiers_record_is_no_explainers() -> None:
    tables = {
        kind: provenance_table(training_record("vit_imagenette", kind))["provenance"]
        for kind in ("explainers", "classifiers")
    }
    assert tables["explainers"]["explainer"] == "vit_imagenette"
    assert "explainer" not in tables["classifiers"]
    assert tables["classifiers"]["classifier"] == "vit_imagenette"
    assert {table["seed"] for table in tables.values()} == {"0"}  # a seed of zero is a seed
