"""Distillation: a small Vision Transformer learns Imagenette from a convolutional classifier.

Hub weights are not needed: the teacher's come with a package. The transformer's stem is frozen,
so its feature maps and the teacher's answers are computed once for a few augmented views of every
photo; training then costs only the transformer's own blocks.
"""

from __future__ import annotations

import json
import time
from collections.abc import Callable
from dataclasses import asdict, dataclass
from pathlib import Path
from typing import Any

import lightning as L
import torch
import torch.nn.functional as F
from lightning.pytorch.callbacks import Callback, TQDMProgressBar
from lightning.pytorch.loggers import CSVLogger
from lightning.pytorch.utilities.types import OptimizerLRSchedulerConfig
from safetensors.torch import save_file
from torch import Tensor, nn
from torch.utils.data import DataLoader, Dataset
from torchvision.transforms import v2

from ttame.backbones import Backbone, load_backbone, weight_digest
from ttame.data import PhotoDataset, PhotoList
from ttame.errors import TTameError
from ttame.features import FeatureExtractor
from ttame.files import replacing
from ttame.folding import fold_batch_norm
from ttame.hybrid import STEM_END, copy_stem, hybrid_vit
from ttame.images import normalize, read_image
from ttame.results import provenance
from ttame.training import loss_curves

TEACHER = "tf_efficientnet_lite0"


@dataclass(frozen=True)
class DistillationConfig:
    """How the transformer is trained.

    Attributes:
        epochs: Passes over the photos; each takes one of a photo's views at random.
        views: Augmented views of a photo that are computed beforehand.
        batch_size: Photos a step.
        learning_rate: Maximum of OneCycle under AdamW.
        weight_decay: On matrices; not on biases, norms, class token and positions.
        temperature: T of the softened probabilities (`distillation`).
        label_share: Weight of the true label's cross-entropy; the teacher has the rest.
        mixup: α of the Beta distribution that mixes pairs of photos; 0 for none.
        seed: Of initialisation, views and order.
        workers: Processes that read photos.
    """

    epochs: int = 8
    views: int = 3
    batch_size: int = 64
    learning_rate: float = 1e-3
    weight_decay: float = 0.05
    temperature: float = 2.0
    label_share: float = 0.3
    mixup: float = 0.2
    seed: int = 0
    workers: int = 1

    def __post_init__(self) -> None:
        """Refuse settings without meaning.

        Raises:
            TTameError: Naming the fields.
        """
        if min(self.epochs, self.views, self.batch_size) < 1 or self.learning_rate <= 0:
            raise TTameError("epochs, views, batch_size and learning_rate must be positive")
        if not 0 <= self.label_share <= 1 or self.temperature <= 0 or self.mixup < 0:
            raise TTameError(
                "label_share must lie in [0, 1], temperature above 0 and mixup not below 0, got "
                f"{self.label_share}, {self.temperature} and {self.mixup}"
            )


def distillation_loss(
    logits: Tensor, teacher: Tensor, labels: Tensor, temperature: float, label_share: float
) -> Tensor:
    """Hinton's objective (`distillation`): s·CE(labels) + (1-s)·T²·KL(teacher ‖ student) at T.

    Args:
        logits: The student's, `(B, K)`.
        teacher: The teacher's logits, `(B, K)`.
        labels: Probabilities of the true classes, `(B, K)`; one-hot unless mixed.
        temperature: T.
        label_share: s.

    Returns:
        A scalar, the mean over the batch.
    """
    student = F.log_softmax(logits.float() / temperature, dim=1)
    wanted = F.log_softmax(teacher.float() / temperature, dim=1)
    soft = F.kl_div(student, wanted, reduction="batchmean", log_target=True) * temperature**2
    return label_share * F.cross_entropy(logits.float(), labels) + (1 - label_share) * soft


class CachedViews(Dataset[tuple[Tensor, Tensor, Tensor]]):
    """Stem maps, teacher logits and labels of every photo, a random view at each reading.

    Args:
        maps: `(V, N, C, h, w)`, half precision.
        teacher: `(V, N, K)`.
        labels: `(N,)`, int64.
    """

    def __init__(self, maps: Tensor, teacher: Tensor, labels: Tensor) -> None:
        self.maps, self.teacher, self.labels = maps, teacher, labels

    def __len__(self) -> int:
        return len(self.labels)

    def __getitem__(self, index: int) -> tuple[Tensor, Tensor, Tensor]:
        view = int(torch.randint(len(self.maps), ()))
        return self.maps[view, index], self.teacher[view, index], self.labels[index]


class _Augmented(PhotoDataset):
    """As `PhotoDataset`, with random resized crops, flips and colours."""

    def __init__(self, photos: PhotoList, backbone: Backbone) -> None:
        super().__init__(photos, backbone.spec)
        size = list(backbone.spec.input_size)
        self.transform = v2.Compose(
            [
                v2.RandomResizedCrop(size, scale=(0.35, 1.0), interpolation=_BICUBIC),
                v2.RandomHorizontalFlip(),
                v2.ColorJitter(0.3, 0.3, 0.3),
                v2.PILToTensor(),
                v2.ToDtype(torch.float32, scale=True),
            ]
        )

    def __getitem__(self, index: int) -> tuple[Tensor, int]:
        raw = self.transform(read_image(self.photos.root / self.photos.names[index]))
        return normalize(raw[None], self.spec)[0], index


_BICUBIC = v2.InterpolationMode.BICUBIC


@torch.inference_mode()
def cache_views(
    teacher: Backbone,
    photos: PhotoList,
    classes: tuple[int, ...],
    config: DistillationConfig,
    augment: bool,
    progress: Callable[[int, int], None] | None = None,
) -> CachedViews:
    """Run the teacher once over every view: the stem's maps and the logits of `classes`.

    Args:
        teacher: An EfficientNet-Lite0.
        photos: Photos with labels among `classes`.
        classes: The teacher's indices of the student's classes, in order.
        config: Views (one without augmentation), workers, batch size.
        augment: Whether views are random.
        progress: Called with (photos done, photos in all).

    Raises:
        TTameError: If the photos have no labels, or others.
    """
    if photos.labels is None or not set(photos.labels) <= set(classes):
        raise TTameError(f"{photos.name} has no labels among the classes {classes}")
    views = config.views if augment else 1
    blank = torch.zeros(1, 3, *teacher.spec.input_size)
    folded = fold_batch_norm(teacher.model, blank, [STEM_END])
    extract = FeatureExtractor(folded.to(memory_format=torch.channels_last), [STEM_END])
    dataset = _Augmented(photos, teacher) if augment else PhotoDataset(photos, teacher.spec)
    maps: list[Tensor] = []
    answers: list[Tensor] = []
    done, total = 0, views * len(photos)
    for _ in range(views):
        loader = DataLoader(dataset, config.batch_size, num_workers=config.workers)
        found_maps, found = [], []
        for images, _index in loader:
            logits, (stem,) = extract(images.contiguous(memory_format=torch.channels_last))
            found_maps.append(stem.half().contiguous())
            found.append(logits[:, list(classes)])
            done += len(images)
            if progress:
                progress(done, total)
        maps.append(torch.cat(found_maps))
        answers.append(torch.cat(found))
    labels = torch.tensor([classes.index(label) for label in photos.labels])
    return CachedViews(torch.stack(maps), torch.stack(answers), labels)


class DistillationModule(L.LightningModule):
    """Trains the transformer on cached stem maps.

    Args:
        student: The transformer, its stem replaced by `nn.Identity`.
        config: How to train.
        total_steps: Length of the schedule.
    """

    def __init__(self, student: nn.Module, config: DistillationConfig, total_steps: int) -> None:
        super().__init__()
        self.student, self.config, self.total_steps = student, config, total_steps

    def training_step(self, batch: tuple[Tensor, Tensor, Tensor], batch_idx: int) -> Tensor:
        """Lightning's hook: mixes each photo with the one at its place from the batch's end."""
        maps, teacher, labels = batch
        wanted = F.one_hot(labels, teacher.shape[1]).float()
        maps = maps.float()
        if self.config.mixup:
            alpha = torch.tensor(self.config.mixup)
            share = float(torch.distributions.Beta(alpha, alpha).sample())
            maps = share * maps + (1 - share) * maps.flip(0)
            wanted = share * wanted + (1 - share) * wanted.flip(0)
            # Mixed probabilities, as the teacher's own logits of a mixed photo are not known.
            soft = teacher.float().softmax(dim=1)
            teacher = (share * soft + (1 - share) * soft.flip(0)).clamp_min(1e-8).log()
        loss = distillation_loss(
            self.student(maps), teacher, wanted, self.config.temperature, self.config.label_share
        )
        if not bool(loss.isfinite()):
            raise TTameError(
                f"the loss became {loss.item()} at step {self.global_step}; lower the learning "
                f"rate ({self.config.learning_rate})"
            )
        self.log("train/loss", loss.detach(), prog_bar=True)
        return loss

    def validation_step(self, batch: tuple[Tensor, Tensor, Tensor], batch_idx: int) -> None:
        """Top-1 accuracy, percent."""
        maps, _teacher, labels = batch
        hits = (self.student(maps.float()).argmax(dim=1) == labels).float().mean()
        self.log("val/top1", 100 * hits, batch_size=len(labels), prog_bar=True)

    def configure_optimizers(self) -> OptimizerLRSchedulerConfig:
        """AdamW; no decay on vectors, class token and positions; OneCycle stepped every batch."""
        named = [item for item in self.student.named_parameters() if item[1].requires_grad]
        free = {name for name, value in named if value.ndim < 2 or name in _TOKENS}
        groups = [
            {
                "params": [value for name, value in named if name not in free],
                "weight_decay": self.config.weight_decay,
            },
            {
                "params": [value for name, value in named if name in free],
                "weight_decay": 0.0,
            },
        ]
        optimizer = torch.optim.AdamW(groups, lr=self.config.learning_rate)
        schedule = torch.optim.lr_scheduler.OneCycleLR(
            optimizer, self.config.learning_rate, total_steps=self.total_steps, pct_start=0.15
        )
        return {"optimizer": optimizer, "lr_scheduler": {"scheduler": schedule, "interval": "step"}}


_TOKENS = ("cls_token", "pos_embed")


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
    """Train the transformer and write it, in half precision, with its record.

    Args:
        photos: Labelled photos to train on.
        validation: Labelled photos to measure top-1 accuracy on.
        classes: The teacher's indices of the classes, in order.
        config: How to train.
        out: Folder; `NAME.safetensors`, `NAME.json` and `csv/` are written there.
        name: Of the classifier.
        command: Recorded command; default: this process's.
        progress: Makes a progress callback for a named stage.
        callbacks: More of Lightning's.

    Returns:
        The record. Its top-1 accuracy is that of the written weights.

    Raises:
        TTameError: Something to overwrite, photos without labels, a loss that is not finite.
    """
    out = Path(out)
    if (out / f"{name}.safetensors").exists():
        raise TTameError(f"{str(out / name)!r}.safetensors exists; choose another folder or name")
    made, start = provenance(config.seed, command), time.perf_counter()
    L.seed_everything(config.seed, verbose=False)
    teacher = load_backbone(TEACHER)
    reports = [progress(stage) if progress else None for stage in ("train views", "val views")]
    held_out = cache_views(teacher, validation, classes, config, False, reports[1])
    views = cache_views(teacher, photos, classes, config, True, reports[0])
    student = hybrid_vit(len(classes))
    stem = student.get_submodule("patch_embed.backbone")
    student.set_submodule("patch_embed.backbone", nn.Identity())
    train = DataLoader(views, config.batch_size, shuffle=True, drop_last=True)
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
    """Share of photos whose most probable class is the label, from the image files on.

    Args:
        model: Maps images to logits over `classes`, in `eval()`.
        photos: Labelled photos.
        backbone: Its spec says how photos are prepared.
        classes: What the labels are called in the photos, in the order of the logits.
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
    """The weights as half precision stores them, in single precision, in place."""
    for value in model.state_dict().values():
        if value.is_floating_point():
            value.copy_(value.half())
    return model
