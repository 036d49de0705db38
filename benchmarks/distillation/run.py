"""Distillation: small Vision Transformers learn from a convolutional classifier.

No weights are downloaded: the teacher's come with a package. The transformer's stem is frozen,
so its feature maps and the teacher's logits are computed once for a few augmented crops of each
photo; training then costs only the transformer's own blocks.
"""

from __future__ import annotations

import json
import time
from collections.abc import Callable, Mapping
from dataclasses import asdict
from pathlib import Path
from typing import Any

import lightning as L
import torch
from lightning.pytorch.callbacks import Callback, TQDMProgressBar
from lightning.pytorch.loggers import CSVLogger
from safetensors.torch import save_file
from torch import Tensor, nn
from torch.utils.data import DataLoader

from benchmarks.distillation.crops import CachedCrops, cache_crops, choose_classes
from benchmarks.distillation.matching import MatchingConfig, MatchingModule
from benchmarks.distillation.teacher import split
from benchmarks.distillation.training import (
    DistillationConfig,
    DistillationModule,
    LabelConfig,
    LabelModule,
)
from ttame.classifiers.hybrid import STEM, copy_stem, hybrid_vit
from ttame.classifiers.registry import Backbone, load_backbone
from ttame.classifiers.weights import weight_digest
from ttame.data import PhotoDataset, PhotoList
from ttame.errors import TTameError
from ttame.files import replacing
from ttame.records import provenance
from ttame.training.fit import loss_curves

TEACHER = "tf_efficientnet_lite0"
# By data set: the shipped transformer's name and how it learns.
RECIPES: Mapping[str, tuple[str, type[DistillationConfig]]] = {
    "imagenette": ("vit_imagenette", LabelConfig),
    "photos": ("vit_hybrid_imagenet", MatchingConfig),
}
_START = 1024  # crops that the start is fitted on

Stages = Callable[[str], Callable[[int, int], None]]


def prepare(
    photos: PhotoList,
    validation: tuple[PhotoList, ...],
    config: DistillationConfig,
    folder: Path,
    teacher: Backbone,
    progress: Stages | None = None,
) -> tuple[CachedCrops, list[CachedCrops]]:
    """Compute the crops of all photos, or open those of an earlier run.

    Args:
        photos: Photos to train on.
        validation: Photos of which the centre crops are taken.
        config: Settings.
        folder: Folder with one folder per list of photos.
        teacher: The teacher.
        progress: Returns the progress callback of a named stage.

    Raises:
        TTameError: If the folder holds other crops.
    """

    def cached(some: PhotoList, augmented: int = 0) -> CachedCrops:
        return cache_crops(
            teacher, some, config.stages, folder / some.name.replace("/", "_"),
            augmented=augmented, seed=config.seed, batch_size=64, workers=config.workers,
            progress=progress(f"crops of {some.name}") if progress else None,
        )  # fmt: skip

    return cached(photos, config.crops), [cached(some) for some in validation]


def distill(
    photos: PhotoList,
    validation: tuple[PhotoList, ...],
    classes: tuple[int, ...],
    config: DistillationConfig,
    out: Path | str,
    *,
    name: str,
    crops: Path | None = None,
    command: str | None = None,
    progress: Stages | None = None,
    callbacks: tuple[Callback, ...] = (),
) -> dict[str, Any]:
    """Train the transformer and write its weights, in half precision and without stem, and record.

    Args:
        photos: Photos to train on; labelled unless the config is a `MatchingConfig`.
        validation: Photos for the agreement with the teacher: the first, labelled, also for the
            top-1 accuracy, the last also for the agreement after each epoch.
        classes: The teacher's index of each class.
        config: Settings.
        out: Folder for `NAME.safetensors`, `NAME.json` and `csv/`.
        name: Name of the classifier.
        crops: Folder of the crops (`prepare`); default: `crops` in `out`.
        command: Command to record; default: this process's.
        progress: Returns the progress callback of a named stage.
        callbacks: Further Lightning callbacks.

    Returns:
        The record. Its top-1 accuracy and agreement, percent, are those of the weights as written.

    Raises:
        TTameError: If the file exists already, photos have no labels, the folder holds other crops
            or the loss is not finite.
    """
    out = Path(out)
    if (out / f"{name}.safetensors").exists():
        raise TTameError(f"{str(out / name)!r}.safetensors exists; choose another folder or name")
    made, start = provenance(config.seed, command), time.perf_counter()
    L.seed_everything(config.seed, verbose=False)
    teacher = load_backbone(TEACHER)
    cached, held_out = prepare(
        photos, validation, config, crops or out / "crops", teacher, progress
    )
    prepared = time.perf_counter()
    if len(classes) < cached.teacher.shape[-1]:
        cached, *held_out = (choose_classes(some, classes) for some in (cached, *held_out))
    student = hybrid_vit(len(classes), config.stages, config.depth)
    stem = student.get_submodule(STEM)
    student.set_submodule(STEM, nn.Identity())
    train = DataLoader(cached, config.batch_size, shuffle=True, drop_last=True)
    total = config.epochs * len(train)
    trainer = L.Trainer(
        max_epochs=config.epochs,
        precision="bf16-mixed",
        logger=CSVLogger(out, "csv"),
        callbacks=[TQDMProgressBar(refresh_rate=10), *callbacks],
        enable_checkpointing=False,
        enable_model_summary=False,
        log_every_n_steps=min(10, total),
        default_root_dir=out,
    )
    module = _module(student, config, total, teacher, cached)
    trainer.fit(module, train, DataLoader(held_out[-1], 4 * config.batch_size))
    if isinstance(module, MatchingModule):
        student.set_submodule("head", student.get_submodule("head").linear())  # type: ignore[operator]
    state = {
        key: value.half() if value.is_floating_point() else value
        for key, value in student.cpu().state_dict().items()
    }
    student.load_state_dict(state)  # rounded, as written
    student.set_submodule(STEM, stem)
    copy_stem(student.eval(), teacher.model)
    answers = [predict(student, some, teacher, config) for some in validation]
    wanted, labels = held_out[0].teacher[0].argmax(dim=1), held_out[0].labels
    agreement = [
        _percent(found, some.teacher[0].argmax(dim=1))
        for found, some in zip(answers, held_out, strict=True)
    ]
    names = [some.name for some in validation]
    record = {
        "name": name,
        **made,
        "config": asdict(config),
        "backbone": name,
        "digest": weight_digest(student),
        "weights": f"distilled from {teacher.spec.source}; its stem of {config.stages} stages is "
        "frozen",
        "classes": list(classes),
        "data": photos.name,
        "photos": len(photos),
        "crops": {key: cached.made[key] for key in ("command", "commit", "date", "augmented")},
        "validation": names[0],
        "validation_photos": len(validation[0]),
        "top1": _percent(answers[0], labels),
        "teacher_top1": _percent(wanted, labels),
        "agreement": dict(zip(names, agreement, strict=True)),
        "agreement_photos": {some.name: len(some) for some in validation},
        "parameters": sum(value.numel() for value in student.parameters()),
        "minutes": round((time.perf_counter() - start) / 60, 2),
        "crops_minutes": round((prepared - start) / 60, 2),
        "curves": json.loads(loss_curves(out).to_json(orient="records")),
    }
    with replacing(out / f"{name}.safetensors") as temporary:
        save_file(state, temporary)
    with replacing(out / f"{name}.json") as temporary:
        temporary.write_text(json.dumps(record, indent=1) + "\n", encoding="utf-8")
    return record


@torch.inference_mode()
def predict(
    model: nn.Module, photos: PhotoList, backbone: Backbone, config: DistillationConfig
) -> Tensor:
    """Return the most probable class of each photo, `(N,)` int64.

    Args:
        model: Model from images to logits, in `eval()`.
        photos: Photos.
        backbone: Classifier whose preprocessing applies.
        config: Workers.
    """
    loader = DataLoader(PhotoDataset(photos, backbone.spec), 64, num_workers=config.workers)
    return torch.cat([model(images).argmax(dim=1) for images, _ in loader])


def _module(
    student: nn.Module,
    config: DistillationConfig,
    total: int,
    teacher: Backbone,
    crops: CachedCrops,
) -> DistillationModule:
    """Choose the objective by the kind of settings."""
    if not isinstance(config, MatchingConfig):
        return LabelModule(student, config, total)
    chosen = torch.randperm(len(crops))[:_START]
    _, tail = split(teacher, config.stages)
    return MatchingModule(student, config, total, tail, crops.maps[0, chosen])


def _percent(found: Tensor, wanted: Tensor) -> float:
    """Return the share of equal classes, percent."""
    return round(100 * float((found == wanted).float().mean()), 2)
