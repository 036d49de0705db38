"""Several processes train what one does; where one dies, all stop and nothing is corrupt."""

from __future__ import annotations

import json
import os
import signal
import socket
import subprocess
import sys
import time
import warnings
from collections.abc import Callable, Iterator
from contextlib import suppress
from pathlib import Path
from typing import Any

import pytest
import torch
from safetensors.torch import load_file
from torch import nn

from tests.conftest import save_photos
from tests.helpers.toy_training import toy_explainer
from ttame.attention import AttentionConfig
from ttame.data import PhotoList
from ttame.errors import TTameError
from ttame.training.config import TrainingConfig
from ttame.training.devices import synchronize_batch_norm
from ttame.training.fit import loss_curves
from ttame.training.sampling import StepSampler, validation_loader

ROOT = Path(__file__).resolve().parents[2]
# Batch norm sees a process's share of the batch on CPUs; so this mechanism has none.
PLAIN = {"batch_norm": False, "activation": "identity"}
STEPS = 25
WAIT = 900  # seconds; each process imports torch and Lightning, on whatever else is running
CONFIG = {"steps": STEPS, "batch_size": 4, "workers": 0, "checkpoint_every": 4}


Begin = Callable[..., subprocess.Popen[bytes]]


@pytest.fixture
def begin() -> Iterator[Begin]:
    """Starts toy trainings; none outlives the test."""
    started: list[subprocess.Popen[bytes]] = []

    def start(*arguments: Any, **options: Any) -> subprocess.Popen[bytes]:
        started.append(begin_training(*arguments, **options))
        return started[-1]

    yield start
    for process in started:
        with suppress(ProcessLookupError):
            os.killpg(process.pid, signal.SIGKILL)
        process.wait()


def begin_training(
    photos: PhotoList, out: Path, *, launcher: tuple[str, ...] = (), **options: Any
) -> subprocess.Popen[bytes]:
    """Start the toy training in a process group of its own, without GPUs."""
    config = {**CONFIG, **options.pop("config", {})}
    given = {"photos": str(photos.root), "out": str(out), "config": config, "attention": PLAIN,
             **options}  # fmt: skip
    return subprocess.Popen(
        [sys.executable, *launcher, "-m", "tests.helpers.toy_training", json.dumps(given)],
        cwd=ROOT,
        env={**os.environ, "CUDA_VISIBLE_DEVICES": "", "OMP_NUM_THREADS": "1"},
        start_new_session=True,
    )


@pytest.fixture(scope="module")
def single(tmp_path_factory: pytest.TempPathFactory) -> tuple[PhotoList, Path]:
    """Photos, and what one process makes of them."""
    folder = tmp_path_factory.mktemp("single")
    photos, out = save_photos(folder / "photos"), folder / "run"
    assert begin_training(photos, out, validation=5).wait(timeout=WAIT) == 0
    return photos, out


def assert_all_gone(group: int) -> None:
    """No process of the group lives on, a minute after the first one's end at most."""
    deadline = time.monotonic() + 60
    while time.monotonic() < deadline:
        try:
            os.killpg(group, 0)
        except ProcessLookupError:
            return
        time.sleep(0.2)
    os.killpg(group, signal.SIGKILL)
    pytest.fail("processes live on after the others have ended")


def assert_equal_runs(found: Path, expected: Path) -> None:
    """Losses of all logged steps to 1e-4, and the weights to ten times that.

    AdamW scales gradients that are near zero to full steps, so rounding shows in single weights.
    """
    columns = ["step", "train/total", "train/drop", "train/area", "train/variation"]
    ours, theirs = (loss_curves(out)[columns].dropna() for out in (found, expected))
    assert len(theirs) == STEPS // 5
    for column in columns:
        # The unweighted variation is a sum of several hundred, and float32 has seven digits.
        relative = 1e-5 if column == "train/variation" else 0
        assert ours[column].tolist() == pytest.approx(
            theirs[column].tolist(), abs=1e-4, rel=relative
        ), column
    weights = load_file(found / "ttame.safetensors")
    for name, value in load_file(expected / "ttame.safetensors").items():
        torch.testing.assert_close(weights[name], value, atol=1e-3, rtol=0)


@pytest.mark.slow
def test_two_processes_train_what_one_does(
    begin: Begin, single: tuple[PhotoList, Path], tmp_path: Path
) -> None:
    photos, alone = single
    process = begin(photos, tmp_path, config={"devices": 2}, validation=5)
    assert process.wait(timeout=WAIT) == 0
    assert_equal_runs(tmp_path, alone)
    scores = [
        json.loads((out / "ttame.json").read_text())["best"]["score"] for out in (alone, tmp_path)
    ]
    assert scores[1] == pytest.approx(scores[0], abs=1e-2)  # every held-out photo counts once


@pytest.mark.slow
def test_two_nodes_train_what_one_does(
    begin: Begin, single: tuple[PhotoList, Path], tmp_path: Path
) -> None:
    """Two launchers that know each other by address and port alone, as on two machines."""
    photos, alone = single
    with socket.socket() as probe:
        probe.bind(("127.0.0.1", 0))
        port = probe.getsockname()[1]
    launchers = [
        ("-m", "torch.distributed.run", "--nnodes=2", "--nproc-per-node=1", f"--node-rank={rank}",
         "--master-addr=127.0.0.1", f"--master-port={port}")
        for rank in (0, 1)
    ]  # fmt: skip
    processes = [begin(photos, tmp_path, config={"nodes": 2}, launcher=one) for one in launchers]
    assert [process.wait(timeout=WAIT) for process in processes] == [0, 0]
    assert_equal_runs(tmp_path, alone)


@pytest.mark.slow
@pytest.mark.parametrize("rank", [0, 1])
def test_where_one_process_dies_all_stop_and_the_run_can_go_on(
    begin: Begin, single: tuple[PhotoList, Path], tmp_path: Path, rank: int
) -> None:
    photos, alone = single
    config, out = {"devices": 2}, tmp_path / "broken"
    kill = {"step": 10, "rank": rank, "hook": "on_train_batch_start"}
    process = begin(photos, out, config=config, kill=kill)
    assert process.wait(timeout=WAIT) != 0
    assert_all_gone(process.pid)
    assert not (out / "ttame.safetensors").exists() and not list(out.rglob("*.tmp"))
    last = out / "checkpoints" / "last.ckpt"
    assert [path.name for path in last.parent.iterdir()] == ["last.ckpt"]
    assert torch.load(last, weights_only=True)["global_step"] == 9  # an epoch's end
    assert begin(photos, out, config=config, resume=True).wait(timeout=WAIT) == 0
    assert_equal_runs(out, alone)


# Shares of a batch


def test_processes_share_every_batch() -> None:
    whole = list(StepSampler(11, 4, 7, seed=3))
    shares = [list(StepSampler(11, 4, 7, seed=3, rank=rank, world=2)) for rank in (0, 1)]
    assert len(whole) == 7
    for batch, first, second in zip(whole, *shares, strict=True):
        assert sorted([*first, *second]) == sorted(batch)
        assert len(first) == len(second) == 2
    for epoch in (0, 1, 2):  # two full batches of eleven photos; the rest is left out
        drawn = [draw.photo for batch in whole for draw in batch if draw.epoch == epoch]
        assert len(set(drawn)) == len(drawn) == min(8, 4 * (7 - 2 * epoch))
    assert [draw.photo for draw in whole[0]] != [draw.photo for draw in whole[2]]
    assert list(StepSampler(11, 4, 7, seed=4)) != whole


def test_a_sampler_goes_on_where_another_stopped() -> None:
    whole, late = list(StepSampler(11, 4, 7, seed=3)), StepSampler(11, 4, 7, seed=3)
    late.start = 3
    assert list(late) == whole[3:] and len(late) == 7


def test_few_photos_are_one_batch() -> None:
    assert [len(batch) for batch in StepSampler(3, 8, 2, seed=0)] == [3, 3]


@pytest.mark.parametrize(("photos", "batch"), [(12, 5), (3, 8)])
def test_uneven_shares_are_refused(photos: int, batch: int) -> None:
    with pytest.raises(TTameError, match="multiple of 2"):
        StepSampler(photos, batch, 1, seed=0, world=2)


def test_held_out_photos_are_seen_once(photos: PhotoList) -> None:
    spec = toy_explainer(AttentionConfig()).spec
    config = TrainingConfig.of(batch_size=4, workers=0)
    seen = [
        index
        for rank in range(3)
        for _, positions in validation_loader(photos.select(range(7)), spec, config, rank, 3)
        for index in positions.tolist()
    ]
    assert sorted(seen) == list(range(7))
    with pytest.raises(TTameError, match="2 held-out photos cannot be shared by 3"):
        validation_loader(photos.select(range(2)), spec, config, 0, 3)


def test_batch_norm_is_synchronised_on_gpus_only() -> None:
    """Decided by the device alone; the frozen classifier is not touched."""
    explainer = toy_explainer(AttentionConfig())
    with warnings.catch_warnings():
        warnings.simplefilter("error")
        synchronize_batch_norm(explainer.mechanism, 1, torch.device("cpu"))
    with pytest.warns(UserWarning, match="its own share of the batch, 1/2 of it"):
        synchronize_batch_norm(explainer.mechanism, 2, torch.device("cpu"))
    assert not any(isinstance(m, nn.SyncBatchNorm) for m in explainer.modules())
    synchronize_batch_norm(explainer.mechanism, 2, torch.device("cuda"))
    converted = [m for m in explainer.mechanism.modules() if isinstance(m, nn.SyncBatchNorm)]
    assert len(converted) == 3
    assert not any(isinstance(m, nn.SyncBatchNorm) for m in explainer.classifier.modules())
