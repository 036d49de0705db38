"""Files that earlier versions wrote are read as before, and give the same maps and values."""

from __future__ import annotations

import json
import shutil
import tomllib
from pathlib import Path
from typing import Any

import pandas as pd
import pytest
import torch
from safetensors.torch import load_file
from torch import nn

import ttame
from tests.conftest import LAYERS, ToyClassifier
from ttame.companion.shipped import training_curves
from ttame.data import image_folder
from ttame.evaluation.evaluate import evaluate
from ttame.evaluation.tables import summary
from ttame.records import read_results, results_paths
from ttame.training.config import TrainingConfig
from ttame.training.fit import fit

ROOT = Path(__file__).resolve().parents[2]
OLD = ROOT / "tests" / "data" / "before_packages"
DATA = ROOT / "data"


@pytest.fixture
def classifier() -> nn.Module:
    model = ToyClassifier()
    model.load_state_dict(load_file(OLD / "classifier.safetensors"))
    return model.eval()


def test_explainer_gives_the_same_maps(classifier: nn.Module) -> None:
    photos = image_folder(OLD / "photos")
    expected = load_file(OLD / "explanation.safetensors")
    explainer = ttame.load(OLD / "explainer.safetensors", classifier)
    found = explainer.explain([photos.root / name for name in photos.names], top_k=2)
    assert explainer.layers == LAYERS
    assert torch.equal(found.targets, expected["targets"])
    torch.testing.assert_close(found.logits, expected["logits"])
    torch.testing.assert_close(found.maps, expected["maps"])


def test_results_are_read_and_measured_again(classifier: nn.Module, tmp_path: Path) -> None:
    header, records = read_results(OLD / "results.jsonl")
    assert header["commit"].startswith("6c45bf7")
    explainer = ttame.load(OLD / "explainer.safetensors", classifier)
    out = evaluate(
        explainer, image_folder(OLD / "photos"), tmp_path / "results.jsonl",
        methods=["T-TAME", "Grad-CAM", "random"], metrics=header["config"]["metrics"], steps=4,
    )  # fmt: skip
    again, measured = read_results(out)
    # The classifier's name in both is that of its class; how the explainer was saved is not.
    assert {**again["config"], "explainer": ""} == {**header["config"], "explainer": ""}
    seconds = [name for name in records.columns if "second" in name]
    # ROAD's imputation was solved less exactly then.
    road = [name for name in records.columns if name.startswith("road")]
    for columns, tolerance in ((road, 1e-4), (records.columns.difference(road + seconds), 1e-5)):
        pd.testing.assert_frame_equal(
            measured[columns], records[columns], rtol=1e-4, atol=tolerance
        )
    tables = [summary(path).drop(columns="ms") for path in (out, OLD / "results.jsonl")]
    pd.testing.assert_frame_equal(*tables, rtol=1e-3)


def read_config(record: dict[str, Any]) -> TrainingConfig:
    """The configuration of a training record as a reader would pass it on."""
    return TrainingConfig.of(**record["config"])


def test_training_record_repeats_the_run_and_a_stopped_one_goes_on(
    classifier: nn.Module, tmp_path: Path
) -> None:
    record = json.loads((OLD / "run.json").read_text("utf-8"))
    config = read_config(record)
    assert (config.optimization.steps, config.photos.batch_size, config.objective.area) == (
        4,
        2,
        1.0,
    )
    assert len(training_curves(record)) == len(record["curves"]) > 0
    (tmp_path / "checkpoints").mkdir()
    shutil.copy(OLD / "stopped.checkpoint", tmp_path / "checkpoints" / "last.ckpt")
    untrained = ttame.load(OLD / "explainer.safetensors", classifier)
    fit(
        untrained, image_folder(OLD / "photos"), config, tmp_path,
        name="toy", resume=True, progress=False,
    )  # fmt: skip
    expected, found = load_file(OLD / "run.safetensors"), load_file(tmp_path / "toy.safetensors")
    assert found.keys() == expected.keys()
    for name, value in expected.items():
        torch.testing.assert_close(found[name], value, rtol=1e-4, atol=1e-5)


@pytest.mark.parametrize("name", ttame.explainers())
def test_shipped_explainers_and_their_records_load(name: str) -> None:
    assert ttame.load(name).spec.name
    record = json.loads((DATA / "explainers" / f"{name}.json").read_text("utf-8"))
    assert len(training_curves(record)) > 0


def test_shipped_results_load() -> None:
    files = results_paths(DATA / "results", "*.jsonl")
    assert files
    for path in files:
        header, records = read_results(path)
        assert len(records) > 0 and header["config"], path


def test_shipped_studies_and_their_records_load() -> None:
    from ttame.companion.studies.records import read_runs
    from ttame.companion.studies.study import read_study

    files = sorted((DATA / "studies").glob("*.toml"))
    assert files
    for path in files:
        assert tomllib.loads(path.read_text("utf-8"))
        runs = {run.name for run in read_study(path).runs}
        if (DATA / "results" / path.stem).is_dir():
            assert set(read_runs(DATA / "results" / path.stem)["run"]) <= runs, path
