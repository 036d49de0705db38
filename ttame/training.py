"""Training the attention mechanism; the classifier never changes (T-TAME §III-C)."""

from __future__ import annotations

import json
import time
from collections.abc import Sequence
from dataclasses import asdict
from pathlib import Path
from typing import Any

import lightning as L
import pandas as pd
import torch
from lightning.pytorch.callbacks import Callback, ModelCheckpoint, TQDMProgressBar
from lightning.pytorch.loggers import CSVLogger, TensorBoardLogger
from lightning.pytorch.utilities.types import OptimizerLRSchedulerConfig
from torch import Tensor
from torch.utils.data import DataLoader
from torchmetrics import MetricCollection

from ttame.backbones import Backbone
from ttame.data import PhotoDataset, PhotoList
from ttame.errors import TTameError
from ttame.explainer import Explainer
from ttame.features import masked_features
from ttame.files import replacing
from ttame.folding import fold_batch_norm
from ttame.initialization import initialize
from ttame.masking import apply_mask, keep_top, normalize_maps, upsample
from ttame.metrics import (
    PERCENTAGES,
    AverageDrop,
    IncreaseInConfidence,
    SampleMetric,
    masked_probabilities,
)
from ttame.objective import (
    ObjectiveParts,
    objective,
    own_maps,
    regularized_targets,
)
from ttame.recipes import TrainingConfig
from ttame.results import provenance

# Photos that the classifier-initialised map is centred and scaled on.
_CALIBRATION = 192


class ExplainerModule(L.LightningModule):
    """One training step: explain, mask, classify again, compare with the model truth.

    Args:
        explainer: The classifier (frozen, in `eval()` throughout) with its mechanism.
        config: How to train.
        total_steps: Length of the learning-rate schedule.
    """

    def __init__(self, explainer: Explainer, config: TrainingConfig, total_steps: int) -> None:
        super().__init__()
        self.explainer, self.config, self.total_steps = explainer, config, total_steps
        self.learning_rate = config.learning_rate  # the name that Lightning's finder sets
        self.scores = MetricCollection(
            {
                f"val/{name} {percentage}%": kind()
                for percentage in PERCENTAGES
                for name, kind in (("AD", AverageDrop), ("IC", IncreaseInConfidence))
            },
            compute_groups=False,
        )
        self.strict_loading = False  # checkpoints leave the frozen classifier out

    def parts(self, images: Tensor, retain: float = 1.0) -> ObjectiveParts:
        """The objective of one batch of normalised photos `(B, 3, H, W)`."""
        config, spec = self.config, self.explainer.spec
        with torch.no_grad():
            logits, features = self.explainer.extract(images)
        labels = logits.argmax(dim=1)  # the model truth
        raw = self.explainer.mechanism(features, regularized_targets(labels, config.objective))
        maps = torch.sigmoid(raw) if config.activation == "sigmoid" else normalize_maps(raw)
        classifier, layer = self.explainer.classifier, self.explainer.layers[-1]
        if config.masked == "features":
            with masked_features(classifier, layer, keep_top(own_maps(maps), retain, config.seed)):
                answer = classifier(images)
        else:
            masks = keep_top(upsample(own_maps(maps), images.shape[-2:]), retain, config.seed)
            answer = classifier(apply_mask(images, masks, spec.space, spec.mean, spec.std))
        return objective(logits, answer, labels, maps, config.objective)

    def training_step(self, batch: Sequence[Tensor], batch_idx: int) -> Tensor:
        """Lightning's hook; logs the parts of the objective."""
        retain = self.config.retain[batch_idx % len(self.config.retain)]
        parts = self.parts(batch[0], retain)
        if not bool(parts.total.isfinite()):
            raise TTameError(
                f"the loss became {parts.total.item()} at step {self.global_step}; lower the "
                f"learning rate ({self.config.learning_rate})"
            )
        logged = {f"train/{name}": value.detach() for name, value in vars(parts).items()}
        self.log_dict(logged, batch_size=len(batch[0]))
        self.log("loss", parts.total.detach(), prog_bar=True, logger=False)
        return parts.total

    def validation_step(self, batch: Sequence[Tensor], batch_idx: int) -> None:
        """AD and IC of held-out photos: what the maps are for, not the unmasked loss."""
        images = batch[0]
        logits, targets, maps = self.explainer(images)
        original = logits.float().softmax(dim=1).gather(1, targets)[:, 0]
        masked = masked_probabilities(
            self.explainer.classifier, self.explainer.spec, images, maps, targets[:, 0]
        )
        for column, percentage in enumerate(PERCENTAGES):
            for name in ("AD", "IC"):
                metric = self.scores[f"val/{name} {percentage}%"]
                assert isinstance(metric, SampleMetric)
                metric.update(original.clone(), masked[:, column].clone())

    def on_validation_epoch_end(self) -> None:
        """Log the means and start afresh."""
        self.log_dict(dict(self.scores.compute()))
        self.scores.reset()

    def configure_optimizers(self) -> OptimizerLRSchedulerConfig:
        """The papers' groups: no decay on biases; OneCycle stepped every batch."""
        named = list(self.explainer.mechanism.named_parameters())
        groups = [
            {
                "params": [value for name, value in named if not name.endswith("bias")],
                "weight_decay": self.config.weight_decay,
            },
            {
                "params": [value for name, value in named if name.endswith("bias")],
                "weight_decay": 0.0,
            },
        ]
        rate = self.learning_rate
        optimizer: torch.optim.Optimizer
        if self.config.optimizer == "sgd":
            optimizer = torch.optim.SGD(groups, lr=rate, momentum=0.9, nesterov=True)
        else:
            optimizer = torch.optim.AdamW(groups, lr=rate)
        schedule = torch.optim.lr_scheduler.OneCycleLR(
            optimizer, max_lr=rate, total_steps=self.total_steps
        )
        return {
            "optimizer": optimizer,
            "lr_scheduler": {"scheduler": schedule, "interval": "step"},
        }

    def on_save_checkpoint(self, checkpoint: dict[str, Any]) -> None:
        """Leave the frozen classifier out of checkpoints."""
        state = checkpoint["state_dict"]
        for name in [name for name in state if name.startswith("explainer.classifier.")]:
            del state[name]

    def on_load_checkpoint(self, checkpoint: dict[str, Any]) -> None:
        """Refuse a checkpoint of another mechanism, which non-strict loading would let pass."""
        found = {name: tuple(value.shape) for name, value in checkpoint["state_dict"].items()}
        for name, value in self.explainer.mechanism.state_dict().items():
            shape = found.get(f"explainer.mechanism.{name}")
            if shape != tuple(value.shape):
                raise TTameError(
                    f"the checkpoint holds {name!r} with shape {shape}, this mechanism needs "
                    f"{tuple(value.shape)}; resume with the settings it was begun with"
                )


def prepare(explainer: Explainer, photos: PhotoList, config: TrainingConfig) -> Explainer:
    """The explainer that is trained: batch norm of the classifier folded, fusion initialised.

    Args:
        explainer: Not changed.
        photos: Photos to calibrate the start on.
        config: How to train.
    """
    torch.manual_seed(config.seed)
    spec = explainer.spec
    dataset = PhotoDataset(photos.sample(_CALIBRATION, config.seed), spec)
    calibration = torch.stack([image for image, _ in dataset])  # type: ignore[attr-defined]
    folded = fold_batch_norm(explainer.classifier, calibration[:1], explainer.layers)
    folded = folded.to(memory_format=torch.channels_last)
    mechanism = type(explainer.mechanism)(
        explainer.mechanism.channels, explainer.mechanism.classes, explainer.mechanism.config
    )
    working = Explainer(Backbone(spec, folded), mechanism, explainer.layers)
    initialize(working, calibration, config.init)
    return working


def fit(
    explainer: Explainer,
    photos: PhotoList,
    config: TrainingConfig,
    out: Path | str,
    *,
    validation: PhotoList | None = None,
    name: str = "ttame",
    resume: bool = False,
    command: str | None = None,
    callbacks: Sequence[Callback] = (),
    progress: bool = True,
) -> Explainer:
    """Train a mechanism from scratch and write it with its record.

    Writes into `out`: `NAME.safetensors`, `NAME.json` (the training record with the loss
    curves), `checkpoints/` (after every epoch), `csv/` and `tensorboard/` logs.

    Args:
        explainer: Classifier, layers and architecture; not changed.
        photos: Photos to train on; their labels are not used.
        config: How to train.
        out: The folder.
        validation: Photos for AD and IC after every epoch.
        name: Of the explainer.
        resume: Go on from the last checkpoint in `out`.
        command: Recorded command; default: this process's.
        callbacks: More of Lightning's.
        progress: Whether to show a progress bar.

    Returns:
        A trained explainer on the unchanged classifier, in `eval()`.

    Raises:
        TTameError: Nothing to resume, something to overwrite, an unreadable photo, a loss
            that is not finite.
    """
    out = Path(out)
    last = out / "checkpoints" / "last.ckpt"
    if resume and not last.is_file():
        raise TTameError(f"nothing to resume in {str(out)!r}: {str(last)!r} does not exist")
    if not resume and last.exists():
        raise TTameError(f"{str(out)!r} holds an earlier run; resume it or choose another folder")
    made, start = provenance(config.seed, command), time.perf_counter()
    L.seed_everything(config.seed, verbose=False)
    working = prepare(explainer, photos, config)
    train = loader(photos, explainer, config, train=True)
    held_out = loader(validation, explainer, config, train=False) if validation else None
    total = config.steps or config.epochs * len(train)
    module = ExplainerModule(working, config, total)
    trainer = L.Trainer(
        max_steps=total,
        max_epochs=-1,
        precision=config.precision,
        logger=[CSVLogger(out, "csv"), TensorBoardLogger(out, "tensorboard")],
        callbacks=[
            # `save_last` alone would write nothing before the end of training.
            ModelCheckpoint(
                last.parent, last.stem, save_on_train_epoch_end=True, enable_version_counter=False
            ),
            *([TQDMProgressBar(refresh_rate=10)] if progress else []),
            *callbacks,
        ],
        enable_progress_bar=progress,
        enable_model_summary=False,
        log_every_n_steps=min(5, total),  # a run of a few steps has curves, too
        default_root_dir=out,
    )
    trainer.fit(module, train, held_out, ckpt_path=last if resume else None, weights_only=True)
    record = {
        "name": name,
        **made,
        "config": asdict(config),
        "backbone": explainer.spec.name,
        "weights": explainer.spec.source,
        "layers": list(explainer.layers),
        "attention": asdict(explainer.mechanism.config),
        "data": photos.name,
        "photos": len(photos),
        "steps": total,
        "minutes": round((time.perf_counter() - start) / 60, 2),
    }
    mechanism = working.mechanism.to("cpu").eval()
    trained = Explainer(
        Backbone(explainer.spec, explainer.classifier), mechanism, explainer.layers, record
    ).eval()
    trained.save(out / f"{name}.safetensors")
    curves = loss_curves(out)
    full = {**record, "curves": json.loads(curves.to_json(orient="records"))}
    with replacing(out / f"{name}.json") as temporary:
        temporary.write_text(json.dumps(full, indent=1) + "\n", encoding="utf-8")
    return trained


def loss_curves(out: Path | str) -> pd.DataFrame:
    """Everything logged in a training folder, one row a logged step, resumed runs joined."""
    files = sorted(
        Path(out).glob("csv/version_*/metrics.csv"), key=lambda path: path.stat().st_mtime
    )
    if not files:
        raise TTameError(f"no training log in {str(out)!r}")
    rows = pd.concat([pd.read_csv(file) for file in files])
    return rows.groupby("step", as_index=False).last()


def loader(
    photos: PhotoList, explainer: Explainer, config: TrainingConfig, train: bool
) -> DataLoader[tuple[Tensor, int]]:
    """Batches of normalised photos with their positions; shuffled and augmented to train."""
    dataset = PhotoDataset(photos, explainer.spec, augment=train and config.augment)
    return DataLoader(
        dataset,
        batch_size=config.batch_size,
        shuffle=train,
        # The label mode pairs the photos of a batch; a last batch of one photo has no pair.
        drop_last=train and len(photos) >= config.batch_size,
        num_workers=config.workers,
        persistent_workers=config.workers > 0,
    )
