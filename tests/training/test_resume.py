"""Exact resume: wherever a run stopped, it ends as if it had not; nothing half-written is met."""

from __future__ import annotations

import json
import os
import random
import resource
import shutil
import signal
import subprocess
import sys
import time
import warnings
from collections.abc import Callable
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import lightning as L
import pandas as pd
import pytest
import torch
from lightning.pytorch.callbacks import Callback
from safetensors.torch import load_file
from torch import Tensor

from tests.conftest import save_photos
from tests.helpers.callbacks import Stop
from tests.helpers.toy_training import toy_explainer
from ttame.attention import AttentionConfig
from ttame.data import PhotoList
from ttame.errors import TTameError
from ttame.explainer import Explainer
from ttame.training.config import TrainingConfig
from ttame.training.fit import fit, loss_curves
from ttame.training.module import ExplainerModule
from ttame.training.objective import ObjectiveParts

ROOT = Path(__file__).resolve().parents[2]
# Three steps an epoch; checkpoints, epochs and validations fall on different steps and on the same.
CONFIG = TrainingConfig.of(
    epochs=3, batch_size=4, workers=0, checkpoint_every=2, validate_every=4, learning_rate=1e-2
)


def run(explainer: Explainer, photos: PhotoList, out: Path, **options: Any) -> Explainer:
    config = options.pop("config", CONFIG)
    options.setdefault("validation", photos.select(range(5)))
    with warnings.catch_warnings():
        warnings.simplefilter("ignore")
        return fit(explainer, photos, config, out, progress=False, **options)


@dataclass(frozen=True)
class Whole:
    """An uninterrupted run, its folder, and what it was made from."""

    explainer: Explainer
    photos: PhotoList
    out: Path
    trained: Explainer


@pytest.fixture(scope="module")
def whole(tmp_path_factory: pytest.TempPathFactory) -> Whole:
    folder = tmp_path_factory.mktemp("whole")
    photos = save_photos(folder / "photos")
    explainer = toy_explainer(AttentionConfig())
    return Whole(explainer, photos, folder / "run", run(explainer, photos, folder / "run"))


def assert_same(found: Explainer, expected: Explainer) -> None:
    wanted = expected.mechanism.state_dict()
    for name, value in found.mechanism.state_dict().items():
        assert torch.equal(value, wanted[name]), name


@pytest.mark.parametrize(
    ("step", "hook", "kept"),
    [
        (1, "on_train_batch_end", None),
        pytest.param(2, "on_train_batch_start", 2, marks=pytest.mark.slow),
        (3, "on_train_batch_end", 2),  # the step is done, its checkpoint is not
        (4, "on_train_batch_start", 4),
        (4, "on_validation_start", 3),  # a validation that falls on a checkpoint's step
        pytest.param(4, "on_validation_batch_end", 3, marks=pytest.mark.slow),
        (4, "on_validation_end", 3),
        pytest.param(6, "on_train_batch_start", 6, marks=pytest.mark.slow),
        (7, "on_before_optimizer_step", 6),
        pytest.param(9, "on_train_batch_end", 8, marks=pytest.mark.slow),
        (9, "on_validation_end", 8),
        (9, "on_train_epoch_end", 9),
    ],
)
def test_a_resumed_run_ends_with_the_same_weights_and_curves(
    whole: Whole, tmp_path: Path, step: int, hook: str, kept: int | None
) -> None:
    with pytest.raises(RuntimeError, match="power cut"):
        run(whole.explainer, whole.photos, tmp_path, callbacks=[Stop(step, hook)])
    last = tmp_path / "checkpoints" / "last.ckpt"
    assert last.exists() == (kept is not None)
    if kept is not None:
        assert torch.load(last, weights_only=True)["global_step"] == kept
    torch.rand(7)  # whatever else this process drew must not matter
    resumed = run(whole.explainer, whole.photos, tmp_path, resume=kept is not None)
    assert_same(resumed, whole.trained)
    assert not list(tmp_path.rglob(".*"))
    columns = ["step", "train/total", "val/score", "val/AD 50%"]
    expected, found = loss_curves(whole.out)[columns], loss_curves(tmp_path)[columns]
    pd.testing.assert_frame_equal(found, expected, check_exact=True)
    records = [json.loads((folder / "ttame.json").read_text()) for folder in (whole.out, tmp_path)]
    assert records[0]["best"] == records[1]["best"] and records[1]["steps"] == 9


def test_a_finished_run_can_be_resumed_and_stays(whole: Whole, tmp_path: Path) -> None:
    shutil.copytree(whole.out, tmp_path / "run")
    again = run(whole.explainer, whole.photos, tmp_path / "run", resume=True)
    assert_same(again, whole.trained)


KILLED = {"epochs": 8, "batch_size": 4, "workers": 1, "checkpoint_every": 3}


def begin(photos: PhotoList, out: Path, **options: Any) -> subprocess.Popen[bytes]:
    given = {"photos": str(photos.root), "out": str(out), "config": KILLED, "validation": 4,
             **options}  # fmt: skip
    return subprocess.Popen(
        [sys.executable, "-m", "tests.helpers.toy_training", json.dumps(given)], cwd=ROOT
    )


@pytest.fixture(scope="module")
def unbroken(tmp_path_factory: pytest.TempPathFactory) -> tuple[PhotoList, Path]:
    """Photos, and the run that nothing kills."""
    folder = tmp_path_factory.mktemp("unbroken")
    photos, out = save_photos(folder / "photos"), folder / "run"
    assert begin(photos, out).wait(timeout=300) == 0
    return photos, out


@pytest.mark.slow
@pytest.mark.parametrize("seed", [None, 1])
def test_a_run_killed_by_sigkill_ends_with_the_same_weights(
    unbroken: tuple[PhotoList, Path], tmp_path: Path, seed: int | None
) -> None:
    """At a moment nobody chose (seed None) or at a step that a seed chose; then once more."""
    photos, whole = unbroken
    chance = random.Random(seed)
    last = tmp_path / "checkpoints" / "last.ckpt"
    if seed is None:
        process = begin(photos, tmp_path)
        while not last.exists():
            assert process.poll() is None
            time.sleep(0.005)
        time.sleep(chance.uniform(0, 0.5))
        process.kill()
    else:
        kill = {"step": chance.randrange(4, 23), "rank": 0, "hook": "on_before_zero_grad"}
        process = begin(photos, tmp_path, kill=kill)
    process.wait(timeout=300)
    if seed is not None:
        assert process.returncode == -signal.SIGKILL
        assert not (tmp_path / "ttame.safetensors").exists()
    assert begin(photos, tmp_path, resume=True).wait(timeout=300) == 0
    expected, resumed = (load_file(out / "ttame.safetensors") for out in (whole, tmp_path))
    assert expected.keys() == resumed.keys()
    assert all(torch.equal(expected[name], resumed[name]) for name in expected)


def test_the_number_of_workers_does_not_matter(whole: Whole, tmp_path: Path) -> None:
    config = CONFIG.replace(workers=2)
    assert_same(run(whole.explainer, whole.photos, tmp_path, config=config), whole.trained)


def test_training_leaves_the_process_as_it_was(whole: Whole) -> None:
    assert not torch.are_deterministic_algorithms_enabled()


# What is refused


@pytest.mark.parametrize(
    ("change", "difference"),
    [
        ({"learning_rate": 0.5}, r"config\.learning_rate was 0\.01, is 0\.5"),
        ({"seed": 3, "retain": (1.0,)}, r"config\.retain was .*; config\.seed was 0, is 3"),
    ],
)
def test_a_checkpoint_of_another_configuration_is_refused(
    whole: Whole, change: dict[str, Any], difference: str
) -> None:
    last = whole.out / "checkpoints" / "last.ckpt"
    before = last.read_bytes()
    config = CONFIG.replace(**change)
    with pytest.raises(TTameError, match=difference):
        run(whole.explainer, whole.photos, whole.out, config=config, resume=True)
    assert last.read_bytes() == before


def test_other_photos_and_another_classifier_are_refused(whole: Whole, tmp_path: Path) -> None:
    fewer = whole.photos.select(range(11))
    with pytest.raises(TTameError, match=r"photos was photos, 12, \w+, is photos, 11,"):
        run(whole.explainer, fewer, whole.out, resume=True)
    with pytest.raises(TTameError, match="weights was"):
        run(toy_explainer(AttentionConfig(), seed=5), whole.photos, whole.out, resume=True)
    shutil.copytree(whole.out, tmp_path / "run")
    elsewhere = CONFIG.replace(workers=1, checkpoint_every=7)  # where, not what
    run(whole.explainer, whole.photos, tmp_path / "run", config=elsewhere, resume=True)


@pytest.mark.parametrize("damage", ["cut", "empty", "other"])
def test_a_damaged_checkpoint_is_named(whole: Whole, tmp_path: Path, damage: str) -> None:
    last = tmp_path / "checkpoints" / "last.ckpt"
    last.parent.mkdir()
    if damage == "other":
        torch.save({"state_dict": {}}, last)
    else:
        good = (whole.out / "checkpoints" / "last.ckpt").read_bytes()
        last.write_bytes(good[:1000] if damage == "cut" else b"")
    with pytest.raises(TTameError, match=r"last\.ckpt' is damaged or not one of ttame's"):
        run(whole.explainer, whole.photos, tmp_path, resume=True)


# What goes wrong on the way


class AtStep(Callback):
    """Does something once, before a step."""

    def __init__(self, step: int, action: Callable[[L.LightningModule], None]) -> None:
        self.step, self.action = step, action

    def on_train_batch_start(
        self, trainer: L.Trainer, pl_module: L.LightningModule, batch: Any, batch_idx: int
    ) -> None:
        if trainer.global_step == self.step:
            self.action(pl_module)


def test_a_full_disk_leaves_the_previous_checkpoint(whole: Whole, tmp_path: Path) -> None:
    """The operating system itself refuses to write more than a few bytes, from step 3 on."""
    out = tmp_path / "run"
    soft, hard = resource.getrlimit(resource.RLIMIT_FSIZE)
    limit = AtStep(3, lambda _: resource.setrlimit(resource.RLIMIT_FSIZE, (8192, hard)))
    try:
        with pytest.raises(TTameError, match=r"cannot write .*best\.ckpt': File too large"):
            run(whole.explainer, whole.photos, out, callbacks=[limit])
    finally:
        resource.setrlimit(resource.RLIMIT_FSIZE, (soft, hard))
    last = out / "checkpoints" / "last.ckpt"
    assert [path.name for path in last.parent.iterdir()] == ["last.ckpt"]
    assert torch.load(last, weights_only=True)["global_step"] == 3
    assert_same(run(whole.explainer, whole.photos, out, resume=True), whole.trained)


def spoil(value: float) -> Callable[[L.LightningModule], None]:
    def action(module: L.LightningModule) -> None:
        weight = dict(module.named_parameters())["explainer.mechanism.fusion.weight"]
        weight.data.fill_(value)

    return action


def test_a_loss_of_nan_names_the_photos_and_the_last_good_checkpoint(
    explainer: Explainer, photos: PhotoList, tmp_path: Path
) -> None:
    with pytest.raises(TTameError) as caught:
        run(explainer, photos, tmp_path / "run", callbacks=[AtStep(5, spoil(float("nan")))])
    last = tmp_path / "run" / "checkpoints" / "last.ckpt"
    message = str(caught.value)
    assert "loss became nan at step 5" in message and str(last) in message
    assert sum(name in message for name in photos.names) == 4  # of the batch, not all twelve
    saved = torch.load(last, weights_only=True)
    assert saved["global_step"] == 4
    assert all(bool(value.isfinite().all()) for value in saved["state_dict"].values())


def test_weights_that_a_step_ruined_are_not_saved(
    explainer: Explainer, photos: PhotoList, tmp_path: Path
) -> None:
    """The loss was finite, its gradient was not: only the next loss would tell."""

    class Ruin(Callback):
        def on_before_zero_grad(
            self, trainer: L.Trainer, pl_module: L.LightningModule, optimizer: Any
        ) -> None:
            if trainer.global_step == 3:
                pl_module.get_parameter("explainer.mechanism.fusion.weight").register_hook(
                    lambda gradient: gradient * float("inf")
                )

    with pytest.raises(TTameError, match=r"step 4 made .* infinite or NaN.*last\.ckpt"):
        run(explainer, photos, tmp_path / "run", callbacks=[Ruin()], validation=None)
    saved = torch.load(tmp_path / "run" / "checkpoints" / "last.ckpt", weights_only=True)
    assert saved["global_step"] == 3
    assert all(bool(value.isfinite().all()) for value in saved["state_dict"].values())


@pytest.mark.parametrize("workers", [0, 1])
def test_a_corrupt_photo_in_the_middle_of_an_epoch_is_named(
    explainer: Explainer, photos: PhotoList, tmp_path: Path, workers: int
) -> None:
    bad = photos.root / photos.names[7]

    def damage(_: object) -> None:
        bad.write_bytes(b"not a photo")

    config = CONFIG.replace(workers=workers, epochs=9)
    with pytest.raises(TTameError) as caught:
        run(explainer, photos, tmp_path / "run", config=config, callbacks=[AtStep(2, damage)])
    message = str(caught.value)
    assert message.startswith(f"{str(bad)!r} is not an image") and "Traceback" not in message
    assert "last.ckpt" in message


def test_a_corrupt_photo_is_skipped_when_asked(
    explainer: Explainer, photos: PhotoList, tmp_path: Path
) -> None:
    for index in (1, 7):
        (photos.root / photos.names[index]).write_bytes(b"")
    seen: list[Tensor] = []

    class Watch(Callback):
        def on_train_batch_end(
            self, trainer: L.Trainer, pl_module: L.LightningModule, outputs: Any, batch: Any,
            batch_idx: int,
        ) -> None:  # fmt: skip
            seen.append(batch[1])

    config = CONFIG.replace(skip_bad=True)
    with pytest.warns(UserWarning, match=f"skipped: .*{photos.names[7]}.* is empty"):
        fit(
            explainer, photos, config, tmp_path / "run", validation=photos.select(range(5)),
            progress=False, callbacks=[Watch()],
        )  # fmt: skip
    assert [len(batch) for batch in seen] == [4] * 9  # the next photo takes the place
    counts = torch.cat(seen).bincount(minlength=12).tolist()
    assert counts == [3, 0, 6, 3, 3, 3, 3, 0, 6, 3, 3, 3]


def test_a_folder_without_a_readable_photo_is_refused(
    explainer: Explainer, photos: PhotoList, tmp_path: Path
) -> None:
    for path in photos.paths:
        path.write_bytes(b"")
    with pytest.raises(TTameError, match="none of the 5 photos"):
        run(explainer, photos, tmp_path / "run", config=CONFIG.replace(skip_bad=True))
    assert os.listdir(tmp_path) == ["photos"]


def test_the_best_checkpoint_is_that_of_the_highest_score(
    explainer: Explainer, photos: PhotoList, tmp_path: Path
) -> None:
    config = CONFIG.replace(validate_every=2, keep="best")
    trained = run(explainer, photos, tmp_path, config=config)
    rows = loss_curves(tmp_path)[lambda table: table["val/score"].notna()]
    assert list(rows["step"] + 1) == [2, 4, 6, 8, 9]  # the end is always validated
    for _, row in rows.iterrows():
        signed = [row[f"val/IC {p}%"] - row[f"val/AD {p}%"] for p in (100, 50, 15)]
        assert row["val/score"] == pytest.approx(sum(signed) / 3, abs=1e-3)
    best = rows.loc[rows["val/score"].idxmax()]
    record = json.loads((tmp_path / "ttame.json").read_text())
    assert record["best"] == {"score": pytest.approx(best["val/score"], abs=1e-3),
                              "step": best["step"] + 1}  # fmt: skip
    saved = torch.load(tmp_path / "checkpoints" / "best.ckpt", weights_only=True)
    assert saved["global_step"] == best["step"] + 1
    for name, value in trained.mechanism.state_dict().items():
        assert torch.equal(value, saved["state_dict"][f"explainer.mechanism.{name}"])


def test_training_stops_where_the_score_no_longer_rises(
    explainer: Explainer, photos: PhotoList, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    """The score cannot rise: two validations after the first, the run ends, resumed or not."""
    monkeypatch.setattr(
        "ttame.evaluation.confidence.AverageDrop.compute", lambda _: torch.tensor(10.0)
    )
    monkeypatch.setattr(
        "ttame.evaluation.confidence.IncreaseInConfidence.compute", lambda _: torch.tensor(5.0)
    )
    config = CONFIG.replace(validate_every=1, patience=2)
    whole = run(explainer, photos, tmp_path / "whole", config=config)
    record = json.loads((tmp_path / "whole" / "ttame.json").read_text())
    assert record["steps"] == 3 and record["best"] == {"score": -5.0, "step": 1}
    out = tmp_path / "broken"
    with pytest.raises(RuntimeError, match="power cut"):
        run(explainer, photos, out, config=config, callbacks=[Stop(2, "on_train_batch_start")])
    assert_same(run(explainer, photos, out, config=config, resume=True), whole)
    assert json.loads((out / "ttame.json").read_text())["steps"] == 3
    again = run(explainer, photos, out, config=config, resume=True)  # it stays stopped
    assert_same(again, whole)


@pytest.mark.parametrize("change", [{"patience": 1}, {"keep": "best"}])
def test_choosing_needs_held_out_photos(
    explainer: Explainer, photos: PhotoList, tmp_path: Path, change: dict[str, Any]
) -> None:
    with pytest.raises(TTameError, match="need validation photos"):
        run(explainer, photos, tmp_path / "run", config=CONFIG.replace(**change), validation=None)
    assert not (tmp_path / "run").exists()


def test_out_of_memory_names_the_batch_that_fits(
    whole: Whole, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    parts = ExplainerModule.parts
    tried: list[int] = []

    def limited(module: ExplainerModule, images: Tensor, *rest: Any) -> ObjectiveParts:
        tried.append(len(images))
        if len(images) > 3:
            raise torch.OutOfMemoryError("CUDA out of memory. Tried to allocate 2 GiB")
        return parts(module, images, *rest)

    monkeypatch.setattr(ExplainerModule, "parts", limited)
    config = CONFIG.replace(batch_size=12)
    with pytest.raises(TTameError, match=r"batch_size=12 \(CUDA out of.*batch_size=3 fits"):
        run(whole.explainer, whole.photos, tmp_path / "run", config=config)
    assert tried == [12, 6, 3, 4]
    assert not list((tmp_path / "run").rglob("*.ckpt"))
