"""Plans, memory and throughput: what they count, what they refuse; no timing is asserted."""

from __future__ import annotations

import ctypes
import json
import sys
from contextlib import suppress
from pathlib import Path
from typing import Any

import pytest
import torch
from typer.testing import CliRunner

from benchmarks.__main__ import app as benchmarks
from benchmarks.records import write_benchmark
from benchmarks.training import default_setting, measure_alone
from tests.helpers.photos import photo
from tests.helpers.toy_training import toy_explainer
from ttame.attention import AttentionConfig
from ttame.classifiers.advice import is_out_of_memory
from ttame.cli.main import app
from ttame.cli.train import _config
from ttame.companion.shipped import read_benchmark
from ttame.data import PhotoList
from ttame.errors import TTameError
from ttame.evaluation.cost import peak_memory
from ttame.explainer import Explainer
from ttame.training.config import TrainingConfig
from ttame.training.devices import largest_batch
from ttame.training.planning import (
    check_launched,
    launch_command,
    measure_throughput,
    module_at_start,
    plan_training,
    slurm_command,
    step_function,
)
from ttame.training.recipes import published

ARGUMENTS = ["train", "--out", "my run", "--nodes", "2"]


def test_a_plan_counts_steps_photos_and_processes(photos: PhotoList, tmp_path: Path) -> None:
    explainer = toy_explainer(AttentionConfig())
    config = published(epochs=3, batch_size=4, devices=2, workers=0)
    plan = plan_training(explainer, photos, config, ["train", "--out", "x", "--devices", "2"])
    assert (plan.photos, plan.steps, plan.epochs) == (12, 9, 3)
    assert (plan.batch_size, plan.share, plan.processes) == (4, 2, 2)
    assert plan.parameters == sum(v.numel() for v in explainer.mechanism.parameters())
    assert plan.memory > 2**20 and plan.floor > 0
    assert plan.launch == "ttame train --out x --devices 2"
    assert plan.slurm == "srun --nodes=1 --ntasks-per-node=2 ttame train --out x --devices 2"
    with pytest.raises(TTameError, match="multiple of 5"):
        plan_training(explainer, photos, config.replace(devices=5), [])


def test_the_launch_command_of_several_nodes_is_exact() -> None:
    config = TrainingConfig.of(nodes=2, devices=4)
    assert launch_command(config, ARGUMENTS) == (
        'torchrun --nnodes=2 --nproc-per-node=4 --node-rank="$NODE_RANK" '
        '--master-addr="$MASTER_ADDR" --master-port=29500 --no-python '
        "ttame train --out 'my run' --nodes 2"
    )
    assert slurm_command(config, ARGUMENTS).startswith("srun --nodes=2 --ntasks-per-node=4 ttame")
    assert slurm_command(TrainingConfig(), ARGUMENTS) == ""


def test_nodes_that_nothing_starts_are_not_waited_for(monkeypatch: pytest.MonkeyPatch) -> None:
    for name in ("TORCHELASTIC_RUN_ID", "SLURM_JOB_ID", "NODE_RANK"):
        monkeypatch.delenv(name, raising=False)
    check_launched(TrainingConfig.of(devices=4), ARGUMENTS)
    with pytest.raises(TTameError, match=r"2 nodes need a launcher.*torchrun --nnodes=2"):
        check_launched(TrainingConfig.of(nodes=2), ARGUMENTS)
    monkeypatch.setenv("NODE_RANK", "0")
    check_launched(TrainingConfig.of(nodes=2), ARGUMENTS)


# Memory


@pytest.mark.parametrize("limit", [0, 1, 5, 17, 31])
def test_the_largest_batch_is_found_to_an_eighth(limit: int) -> None:
    tried: list[int] = []

    def step(size: int) -> None:
        tried.append(size)
        if size > limit:
            raise torch.OutOfMemoryError("CUDA out of memory")

    found = largest_batch(step, 32)
    assert found <= limit and limit - found <= max(found // 8, 1)
    assert max(tried) <= 16 or limit >= 16


def test_other_errors_are_not_taken_for_lack_of_memory() -> None:
    assert is_out_of_memory(MemoryError()) and is_out_of_memory(torch.OutOfMemoryError())
    text = "[enforce fail at alloc_cpu.cpp] DefaultCPUAllocator: can't allocate memory: you tried"
    assert is_out_of_memory(RuntimeError(text))
    assert not is_out_of_memory(RuntimeError("shape mismatch"))
    assert not is_out_of_memory(ValueError("out of memory"))

    def broken(_: int) -> None:
        raise RuntimeError("shape mismatch")

    with pytest.raises(RuntimeError, match="shape mismatch"):
        largest_batch(broken, 8)


def test_peak_memory_sees_what_is_freed_again() -> None:
    device, size = torch.device("cpu"), 2**28  # 256 MiB
    # What earlier tests freed, but the process kept, would be used again and hide the rise.
    with suppress(OSError, AttributeError):
        ctypes.CDLL(None).malloc_trim(0)
    low = peak_memory(lambda: None, device)
    high = peak_memory(lambda: torch.ones(size // 4).sum(), device)
    assert high - low > size / 2


# Throughput


def test_a_step_is_measured_against_the_floor(tmp_path: Path) -> None:
    explainer = toy_explainer(AttentionConfig())
    config = TrainingConfig.of(batch_size=3, gradient_clip=1.0, precision="bf16-mixed")
    before = {name: value.clone() for name, value in explainer.state_dict().items()}
    row = measure_throughput(explainer, config, name="toy", repeats=3, device=torch.device("cpu"))
    assert (row["classifier"], row["batch"], row["input_size"]) == ("toy", 3, [32, 32])
    assert row["precision"] == "bf16-mixed" and row["device"] == "cpu"
    expected = row["floor_images_per_second"] / row["step_images_per_second"]
    assert row["ratio"] == pytest.approx(expected)
    assert row["step_spread"] >= 1 and row["floor_spread"] >= 1
    assert row["step_peak_mb"] > 0 and row["floor_peak_mb"] > 0
    assert all(torch.equal(v, before[name]) for name, v in explainer.state_dict().items())
    path = write_benchmark(tmp_path / "throughput.json", "training", rows=[row])
    written = read_benchmark(path, "training")
    assert written["rows"] == [row] and written["format"] == "ttame-throughput"
    assert {"commit", "hardware", "versions"} <= written.keys()
    with pytest.raises(TTameError, match="repeats"):
        measure_throughput(explainer, config, repeats=2)
    with pytest.raises(TTameError, match="make throughput"):
        read_benchmark(tmp_path / "none.json", "training")


def test_the_default_setting_suits_the_device() -> None:
    names, config = default_setting(cuda=False)
    assert len(names) == 3 and (config.photos.batch_size, config.run.precision) == (32, "32-true")
    names, config = default_setting(cuda=True)
    assert len(names) == 3 and (config.photos.batch_size, config.run.precision) == (
        128,
        "bf16-mixed",
    )


def test_the_command_measures_every_classifier_and_writes_a_record(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    asked = []

    def measure(name: str, config: TrainingConfig, repeats: int) -> dict[str, Any]:
        asked.append(
            (name, config.photos.batch_size, config.run.precision, config.run.seed, repeats)
        )
        row = measure_throughput(toy_explainer(AttentionConfig()), config, name=name, repeats=3)
        assert not torch.are_deterministic_algorithms_enabled()
        assert torch.utils.deterministic.fill_uninitialized_memory
        return row

    monkeypatch.setattr("benchmarks.training.measure_alone", measure)
    out = tmp_path / "throughput.json"
    found = CliRunner().invoke(
        benchmarks,
        ["training", "--out", str(out), "--classifier", "a", "--classifier", "b",
         "--batch-size", "2", "--precision", "bf16-mixed", "--repeats", "4", "--seed", "3"],
    )  # fmt: skip
    assert found.exit_code == 0, found.output
    assert asked == [(name, 2, "bf16-mixed", 3, 4) for name in "ab"]
    assert "a, batch 2, bf16-mixed on" in found.output and "record:" in found.output
    record = read_benchmark(out, "training")
    assert [row["classifier"] for row in record["rows"]] == ["a", "b"] and record["seed"] == 3


@pytest.mark.slow
def test_a_classifier_is_measured_in_a_process_of_its_own() -> None:
    config = TrainingConfig.of(batch_size=2)
    row = measure_alone("timm/test_resnet", config, repeats=3)
    assert row["classifier"] == "timm/test_resnet" and row["threads"] == torch.get_num_threads()
    with pytest.raises(TTameError, match="unknown backbone 'nothing'"):
        measure_alone("nothing", config)


def test_the_measured_step_trains_with_clipped_gradients() -> None:
    config = TrainingConfig.of(batch_size=4, gradient_clip=1e-3, retain=(1.0,))
    images = torch.randn(4, 3, 32, 32)
    module = module_at_start(
        toy_explainer(AttentionConfig()), images[:1], config, torch.device("cpu")
    )
    before = module.explainer.mechanism.fusion.weight.clone()
    step_function(module, images)()
    gradients = [v.grad for v in module.explainer.mechanism.parameters() if v.grad is not None]
    assert float(torch.cat([g.flatten() for g in gradients]).norm()) <= 1e-3 + 1e-6
    assert not torch.equal(module.explainer.mechanism.fusion.weight, before)
    assert all(v.grad is None for v in module.explainer.classifier.parameters())


# The command on a miniature of ImageNet


@pytest.fixture
def tree(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> Path:
    for split, count in (("train", 2), ("val", 1)):
        for wnid in ("n01440764", "n02102040", "n03000684"):
            for index in range(count):
                photo(tmp_path / "imagenet" / split / wnid / f"{wnid}_{index}.JPEG")
    monkeypatch.setenv("TTAME_DATA", str(tmp_path))
    monkeypatch.chdir(tmp_path)
    return tmp_path / "imagenet"


def command(monkeypatch: pytest.MonkeyPatch, *arguments: str) -> Any:
    monkeypatch.setattr(sys, "argv", ["ttame", *arguments])
    return CliRunner().invoke(app, list(arguments))


SMALL = ("--backbone", "tf_efficientnet_lite0", "--batch-size", "2", "--workers", "0")


def test_a_dry_run_prints_the_plan_and_writes_nothing(
    tree: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    arguments = ["train", "--out", "run", "--profile", "imagenet", *SMALL, "--epochs", "4"]
    found = command(monkeypatch, *arguments, "--nodes", "2", "--dry-run")
    assert found.exit_code == 0, found.output
    text = " ".join(found.output.split())
    assert "photos 6 " in text and "steps 12 of 2 photos, 1 a process: 4 epochs" in text
    assert "GiB a process" in text and "floor time" in text
    assert "--nnodes=2 --nproc-per-node=1" in text
    assert f"--no-python ttame {' '.join(arguments)} --nodes 2" in text
    assert "--dry-run" not in text and "srun --nodes=2" in text
    assert sorted(path.name for path in tree.parent.iterdir()) == ["imagenet"]


def test_a_configuration_file_gives_what_no_option_does(tmp_path: Path) -> None:
    path = tmp_path / "training.toml"
    path.write_text("gradient_clip = 1.0\nworkers = 3\n[mask]\nretain = [1.0, 0.5]\n")
    config = _config("published", path, workers=0, seed=None)
    assert config == published(gradient_clip=1.0, workers=0, retain=(1.0, 0.5))
    path.write_text("gradient_clop = 1.0\n")
    with pytest.raises(TTameError, match="Did you mean 'gradient_clip'"):
        _config("ttame", path)
    for wrong in (tmp_path / "none.toml", tmp_path):
        with pytest.raises(TTameError, match="cannot be read"):
            _config("ttame", wrong)


@pytest.mark.slow
def test_training_on_a_folder_tree_and_on_a_list(
    tree: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    few = ("--steps", "2", "--validation", "2")
    found = command(monkeypatch, "train", "--out", "a", "--profile", "imagenet", *SMALL, *few)
    assert found.exit_code == 0, found.output
    record = json.loads((tree.parent / "a" / "explainer.json").read_text())
    assert (record["data"], record["photos"], record["steps"]) == ("imagenet/train", 6, 2)
    assert record["best"] is not None
    lines = [f"{path.relative_to(tree)} 3" for path in sorted(tree.rglob("train/*/*.JPEG"))]
    (tree.parent / "train.txt").write_text("\n".join(lines))
    found = command(
        monkeypatch, "train", "--out", "b", "--data", "train.txt", "--image-root", str(tree),
        "--recipe", "published", *SMALL, *few,
    )  # fmt: skip
    assert found.exit_code == 0, found.output
    assert "no held-out photos" in found.output
    record = json.loads((tree.parent / "b" / "explainer.json").read_text())
    assert (record["data"], record["photos"]) == ("train", 6) and record["best"] is None


def test_a_malformed_list_is_refused_before_anything_is_written(
    tree: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    (tree.parent / "bad.txt").write_text("train/n01440764/n01440764_0.JPEG 0\nno index\n")
    found = command(monkeypatch, "train", "--out", "run", "--data", "bad.txt",
                    "--image-root", str(tree), *SMALL)  # fmt: skip
    assert isinstance(found.exception, TTameError) and "line 2" in str(found.exception)
    assert not (tree.parent / "run").exists()


def test_explainers_are_not_changed_by_planning(explainer: Explainer, photos: PhotoList) -> None:
    before = {name: value.clone() for name, value in explainer.state_dict().items()}
    plan_training(explainer, photos, TrainingConfig.of(batch_size=4), [])
    assert all(torch.equal(v, before[name]) for name, v in explainer.state_dict().items())
