"""Checkpoints of a training run: written whole, of good weights only, resumed by their own run."""

from __future__ import annotations

import hashlib
import io
import json
import pickle
from collections.abc import Iterator, Mapping
from dataclasses import asdict
from pathlib import Path
from typing import Any, cast

import lightning as L
import torch
from lightning.fabric.plugins.io import TorchCheckpointIO
from lightning.pytorch.callbacks import Checkpoint

from ttame.attention import AttentionConfig
from ttame.classifiers.weights import weight_digest
from ttame.data import PhotoList
from ttame.errors import TTameError
from ttame.explainer import Explainer
from ttame.files import replacing
from ttame.training.config import PLACEMENT, SCORE, TrainingConfig


class WholeFiles(TorchCheckpointIO):
    """Writes a checkpoint beside its place and renames it: the old one outlives a full disk.

    Lightning's own writer goes through the system's temporary folder, which may lie on another
    disk; the move from there is a copy, and a kill or a full disk in its middle spoils both.
    """

    def save_checkpoint(
        self, checkpoint: dict[str, Any], path: Any, storage_options: object = None
    ) -> None:
        """Lightning's hook.

        Raises:
            TTameError: If the file cannot be written; what was there stays.
        """
        buffer = io.BytesIO()
        torch.save(checkpoint, buffer)
        with replacing(path) as temporary:
            temporary.write_bytes(buffer.getbuffer())


class Checkpoints(Checkpoint):
    """Keep `last.ckpt`, every few steps, and `best.ckpt`, of the highest validation score.

    Lightning's `ModelCheckpoint` saves before a validation that falls on the same step; resumed
    from there, a run would skip it, and stop or choose differently.

    Args:
        folder: Where they are written.
        every: Steps between two.
        epoch: Steps of an epoch; its end is saved as well.
        run: `run_identity(...)`.

    Attributes:
        best: The highest score and its step so far; `None` before a validation.
    """

    def __init__(self, folder: Path, every: int, epoch: int, run: Mapping[str, Any]) -> None:
        self.folder, self.every, self.epoch, self.run = folder, every, epoch, dict(run)
        self.best: tuple[float, int] | None = None
        self.stopped = False

    @property
    def last_path(self) -> Path:
        """The checkpoint that a run is resumed from."""
        return self.folder / "last.ckpt"

    @property
    def best_path(self) -> Path:
        """The checkpoint with the highest score."""
        return self.folder / "best.ckpt"

    def state_dict(self) -> dict[str, Any]:
        """Lightning's hook: what a checkpoint says about its run."""
        return {"run": self.run, "best": self.best, "stopped": self.stopped}

    def load_state_dict(self, state_dict: dict[str, Any]) -> None:
        """Lightning's hook."""
        best = state_dict["best"]
        self.best = None if best is None else (best[0], best[1])
        self.stopped = state_dict["stopped"]

    def on_train_start(self, trainer: L.Trainer, pl_module: L.LightningModule) -> None:
        """Lightning's hook: a run that had stopped early stays stopped."""
        trainer.should_stop = trainer.should_stop or self.stopped

    def on_train_batch_end(self, trainer: L.Trainer, pl_module: L.LightningModule, *_: Any) -> None:
        """Lightning's hook: save, unless a validation follows at once."""
        step = trainer.global_step
        if step == trainer.max_steps:
            trainer.should_stop = True  # makes Lightning validate at the end of any run
        elif step % self.every and step % self.epoch:
            return
        due = trainer.should_stop or step % int(trainer.val_check_batch or 1) == 0
        if not (trainer.enable_validation and due):  # else saved when that is done
            self._save(trainer, pl_module, self.last_path)

    def on_validation_end(self, trainer: L.Trainer, pl_module: L.LightningModule) -> None:
        """Lightning's hook: save, and keep the best."""
        if trainer.sanity_checking:
            return
        score = float(trainer.callback_metrics[SCORE])
        self.stopped = trainer.should_stop and trainer.global_step < trainer.max_steps
        if self.best is None or score > self.best[0]:
            self.best = (score, trainer.global_step)
            self._save(trainer, pl_module, self.best_path)
        self._save(trainer, pl_module, self.last_path)

    def _save(self, trainer: L.Trainer, pl_module: L.LightningModule, path: Path) -> None:
        for name, value in pl_module.named_parameters():
            if value.requires_grad and not bool(value.isfinite().all()):
                raise TTameError(
                    f"step {trainer.global_step} made {name!r} infinite or NaN; lower the learning "
                    "rate, or clip the gradients (gradient_clip)"
                )
        trainer.save_checkpoint(path, weights_only=False)


def run_identity(explainer: Explainer, photos: PhotoList, config: TrainingConfig) -> dict[str, Any]:
    """What decides the weights that a run ends with; where it runs does not.

    Args:
        explainer: Classifier, layers and architecture.
        photos: Photos to train on.
        config: How to train.

    Returns:
        Plain values that a checkpoint can hold.
    """
    names = "\n".join(photos.names).encode()
    identity = {
        "config": {name: item for name, item in config.flat().items() if name not in PLACEMENT},
        "attention": asdict(explainer.mechanism.config),
        "backbone": explainer.spec.name,
        "weights": weight_digest(explainer.classifier),
        **({} if explainer.auxiliary is None else {"auxiliary": explainer.auxiliary.facts()}),
        "space": explainer.spec.space,
        "outputs": {"activation": explainer.spec.activation},
        "layers": explainer.layers,
        "channels": explainer.mechanism.channels,
        "classes": explainer.mechanism.classes,
        "photos": f"{photos.name}, {len(photos)}, {hashlib.sha256(names).hexdigest()[:12]}",
        "labels": list(photos.labels or ()) if config.photos.truth == "ground" else "not used",
    }
    return cast(dict[str, Any], json.loads(json.dumps(identity)))


def check_resumable(path: Path, run: Mapping[str, Any]) -> None:
    """Refuse a checkpoint that another run wrote.

    Args:
        path: The checkpoint.
        run: `run_identity(...)` of the run that wants to go on.

    Raises:
        TTameError: If it is missing or damaged, or was made otherwise; every difference is named.
    """
    if not path.is_file():
        raise TTameError(f"nothing to resume: {str(path)!r} does not exist")
    try:
        found = torch.load(path, weights_only=True, map_location="cpu", mmap=True)
        begun = found["callbacks"][Checkpoints.__qualname__]["run"]
    except (RuntimeError, OSError, EOFError, KeyError, TypeError, pickle.UnpicklingError) as error:
        raise TTameError(
            f"the checkpoint {str(path)!r} is damaged or not one of ttame's ({error}); begin anew "
            "in another folder"
        ) from error
    # Settings that are younger than the checkpoint were at their defaults, which change nothing.
    settings = {
        "config": TrainingConfig().flat(), "attention": asdict(AttentionConfig()),
        "outputs": {"activation": "softmax"},
    }  # fmt: skip
    defaults = dict(_flat(json.loads(json.dumps(settings))))
    old, new = {**defaults, **dict(_flat(begun))}, {**defaults, **dict(_flat(run))}
    pairs = [(k, old.get(k, "absent"), new.get(k, "absent")) for k in sorted({**old, **new})]
    differences = [f"{key} was {was}, is {now}" for key, was, now in pairs if was != now]
    if differences:
        raise TTameError(
            f"{str(path)!r} was written by another configuration: {'; '.join(differences)}. Resume "
            "with the settings it was begun with, or choose another folder"
        )


def _flat(values: Mapping[str, Any], prefix: str = "") -> Iterator[tuple[str, Any]]:
    for key, value in values.items():
        if isinstance(value, Mapping):
            yield from _flat(value, f"{prefix}{key}.")
        else:
            yield f"{prefix}{key}", value
