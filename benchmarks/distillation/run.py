"""Distillation: a small Vision Transformer learns Imagenette from a convolutional classifier.

No weights are downloaded: the teacher's come with a package. The transformer's stem is frozen,
so its feature maps and the teacher's logits are computed once for a few augmented crops of each
photo; training then costs only the transformer's own blocks.
"""

from __future__ import annotations

import json
import time
from collections.abc import Callable
from dataclasses import asdict
from pathlib import Path
from typing import Any

import lightning as L
import torch
from lightning.pytorch.callbacks import Callback, TQDMProgressBar
from lightning.pytorch.loggers import CSVLogger
from safetensors.torch import save_file
from torch import nn
from torch.utils.data import DataLoader

from benchmarks.distillation.crops import cache_crops
from benchmarks.distillation.training import DistillationConfig, DistillationModule
from ttame.classifiers.hybrid import STEM_END, copy_stem, hybrid_vit
from ttame.classifiers.registry import Backbone, load_backbone
from ttame.classifiers.weights import weight_digest
from ttame.data import PhotoDataset, PhotoList
from ttame.errors import TTameError
from ttame.files import replacing
from ttame.records import provenance
from ttame.training.fit import loss_curves

TEACHER = "tf_efficientnet_lite0"


def distill(
    photos: PhotoList,
    validation: PhotoList,
    classes: tuple[int, ...],
    config: DistillationConfig,
    out: Path | str,
    *,
    name: str,
    command: str | None = None,
    progress: Callable[[str], Callable[[int, int], None]] | None = None,
    callbacks: tuple[Callback, ...] = (),
) -> dict[str, Any]:
    """Train the transformer and write its weights, in half precision, and record.

    Args:
        photos: Labelled photos to train on.
        validation: Labelled photos for the top-1 accuracy.
        classes: The teacher's index of each class.
        config: Settings.
        out: Folder for `NAME.safetensors`, `NAME.json` and `csv/`.
        name: Name of the classifier.
        command: Command to record; default: this process's.
        progress: Returns the progress callback of a named stage.
        callbacks: Further Lightning callbacks.

    Returns:
        The record. Its top-1 accuracy is that of the weights as written.

    Raises:
        TTameError: If the file exists already, photos have no labels or the loss is not finite.
    """
    out = Path(out)
    if (out / f"{name}.safetensors").exists():
        raise TTameError(f"{str(out / name)!r}.safetensors exists; choose another folder or name")
    made, start = provenance(config.seed, command), time.perf_counter()
    L.seed_everything(config.seed, verbose=False)
    teacher = load_backbone(TEACHER)
    reports = [progress(stage) if progress else None for stage in ("train crops", "val crops")]
    reading = {"batch_size": config.batch_size, "workers": config.workers}
    held_out = cache_crops(teacher, validation, classes, **reading, progress=reports[1])
    crops = cache_crops(
        teacher, photos, classes, augmented=config.crops, **reading, progress=reports[0]
    )
    student = hybrid_vit(len(classes))
    stem = student.get_submodule("patch_embed.backbone")
    student.set_submodule("patch_embed.backbone", nn.Identity())
    train = DataLoader(crops, config.batch_size, shuffle=True, drop_last=True)
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
    trainer.fit(
        DistillationModule(student, config, total),
        train,
        DataLoader(held_out, 4 * config.batch_size),
    )
    student.set_submodule("patch_embed.backbone", stem)
    copy_stem(student, teacher.model)
    student = _rounded(student.eval().cpu())
    hits = top1(student, validation, teacher, classes, config)
    agreement = (held_out.teacher[0].argmax(dim=1) == held_out.labels).float().mean()
    record = {
        "name": name,
        **made,
        "config": asdict(config),
        "backbone": name,
        "digest": weight_digest(student),
        "weights": f"distilled from {teacher.spec.source}; its stem up to {STEM_END} is frozen",
        "classes": list(classes),
        "data": photos.name,
        "photos": len(photos),
        "validation": validation.name,
        "validation_photos": len(validation),
        "top1": round(100 * hits, 2),
        "teacher_top1": round(100 * float(agreement), 2),
        "parameters": sum(value.numel() for value in student.parameters()),
        "minutes": round((time.perf_counter() - start) / 60, 2),
        "curves": json.loads(loss_curves(out).to_json(orient="records")),
    }
    with replacing(out / f"{name}.safetensors") as temporary:
        save_file({key: value.half() if value.is_floating_point() else value
                   for key, value in student.state_dict().items()}, temporary)  # fmt: skip
    with replacing(out / f"{name}.json") as temporary:
        temporary.write_text(json.dumps(record, indent=1) + "\n", encoding="utf-8")
    return record


@torch.inference_mode()
def top1(
    model: nn.Module,
    photos: PhotoList,
    backbone: Backbone,
    classes: tuple[int, ...],
    config: DistillationConfig,
) -> float:
    """Measure the share of photos whose most probable class is their label.

    Args:
        model: Model from images to logits over `classes`, in `eval()`.
        photos: Labelled photos.
        backbone: Classifier whose preprocessing applies.
        classes: Label of each logit.
        config: Batch size and workers.
    """
    assert photos.labels is not None
    wanted = torch.tensor([classes.index(label) for label in photos.labels])
    dataset = PhotoDataset(photos, backbone.spec)
    loader = DataLoader(dataset, config.batch_size, num_workers=config.workers)
    hits = 0
    for images, indices in loader:
        hits += int((model(images).argmax(dim=1) == wanted[indices]).sum())
    return hits / len(photos)


@torch.no_grad()
def _rounded(model: nn.Module) -> nn.Module:
    """Round the weights to half precision, in place."""
    for value in model.state_dict().values():
        if value.is_floating_point():
            value.copy_(value.half())
    return model
