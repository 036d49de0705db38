"""The graph of the book: studies are targets, on this machine and on a cluster."""

from __future__ import annotations

import shutil
import subprocess
import sys
import tomllib
from pathlib import Path

import pytest

from ttame.data import PhotoList
from ttame.methods import METHODS

ROOT = Path(__file__).resolve().parents[2]
SNAKEMAKE = Path(sys.executable).with_name("snakemake")

PARTS = "data/results/every_metric/parts.toml"
STUDY = """
[budget]
backbone = "tf_efficientnet_lite0"
steps = 1
batch_size = 2
held_out = 2
size = 64
[[variants]]
axis = "layers"
name = "three"
[[variants]]
axis = "layers"
name = "nine"
layers = 9
[[variants]]
axis = "layers"
name = "two"
layers = 2
"""


@pytest.fixture
def checkout(tmp_path: Path) -> Path:
    """What the graph reads, with one study that is small, and one row of it that must fail."""
    for name in ("profiles", "notebooks", "book", "tests"):
        shutil.copytree(ROOT / name, tmp_path / name)
    for name in ("Snakefile", "_config.yml", "_toc.yml", "requirements.txt"):
        shutil.copy(ROOT / name, tmp_path / name)
    (tmp_path / "data" / "studies").mkdir(parents=True)
    (tmp_path / PARTS).parent.mkdir(parents=True)
    shutil.copy(ROOT / PARTS, tmp_path / PARTS)
    (tmp_path / "data" / "studies" / "trial.toml").write_text(STUDY, encoding="utf-8")
    return tmp_path


def snakemake(folder: Path, *arguments: str) -> subprocess.CompletedProcess[str]:
    return subprocess.run(
        [str(SNAKEMAKE), *arguments], cwd=folder, capture_output=True, text=True, check=False
    )


@pytest.mark.slow
def test_a_cluster_would_run_every_missing_run(checkout: Path) -> None:
    folder = checkout / "data" / "results" / "trial"
    folder.mkdir(parents=True)
    (folder / "layers-2_seed0.json").write_text("{}", encoding="utf-8")
    done = snakemake(checkout, "--profile", "profiles/slurm", "--dry-run", "--quiet", "host",
                     "--", "trial")  # fmt: skip
    said = done.stdout + done.stderr
    assert done.returncode == 0, said
    assert "nothing_seed0" in said and "layers-9_seed0" in said
    assert "layers-2_seed0" not in said
    assert "cpus_per_task=1" in said and "mem_mb=5000" in said and "runtime=120" in said


@pytest.mark.slow
@pytest.mark.data
def test_a_failed_run_does_not_stop_the_others_and_is_tried_again(
    checkout: Path, imagenette_val: PhotoList
) -> None:
    folder = checkout / "data" / "results" / "trial"
    done = snakemake(checkout, "--cores", "1", "--", "trial")
    said = done.stdout + done.stderr
    assert done.returncode != 0
    assert "asks for 9 layers" in said and "runs left" in said
    names = {path.name for path in folder.iterdir()}
    assert names == {"nothing_seed0.json", "layers-2_seed0.json", "layers-9_seed0.failure"}
    again = snakemake(checkout, "--dry-run", "--quiet", "host", "--", "trial")
    assert "layers-9_seed0" in again.stdout + again.stderr
    assert "layers-2_seed0" not in again.stdout + again.stderr


@pytest.mark.slow
def test_every_metric_is_measured_of_the_parts_that_are_missing(checkout: Path) -> None:
    done = checkout / "_build" / "every_metric" / "vit_main.jsonl.gz"
    done.parent.mkdir(parents=True)
    done.touch()
    said = snakemake(checkout, "--summary", "--", "every_metric")
    assert said.returncode == 0, said.stderr
    rows = [line.split("\t") for line in said.stdout.splitlines()[1:]]
    pending = {Path(row[0]).name for row in rows if row[-1] == "update pending"}
    assert len(pending) == len(rows) - 1 and "kinds_lcam.jsonl.gz" in pending
    assert "vit_main.jsonl.gz" not in pending


def test_every_metric_names_methods_that_exist() -> None:
    parts = tomllib.loads((ROOT / PARTS).read_text("utf-8"))
    named = [
        method
        for found in parts.values()
        if isinstance(found, dict)
        for methods in found["methods"].values()
        for method in methods.split(",")
    ]
    assert set(named) <= set(METHODS) and len(named) > 40
