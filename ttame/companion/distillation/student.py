"""The student of a distillation: how it is trained, by which objective, one step of it.

Views: what a frozen stem and its network say of every photo, computed once for a few crops.
"""

from __future__ import annotations

from collections.abc import Callable
from dataclasses import dataclass

import lightning as L
import torch
import torch.nn.functional as F
from lightning.pytorch.utilities.types import OptimizerLRSchedulerConfig
from torch import Tensor, nn
from torch.utils.data import DataLoader, Dataset
from torchvision.transforms import v2

from ttame.classifiers.folding import fold_batch_norm
from ttame.classifiers.hybrid import STEM_END
from ttame.classifiers.registry import Backbone
from ttame.classifiers.specs import BackboneSpec
from ttame.data import PhotoDataset, PhotoList
from ttame.errors import TTameError
from ttame.features import FeatureExtractor

_TOKENS = ("cls_token", "pos_embed")


@dataclass(frozen=True)
class DistillationConfig:
    """How the transformer is trained.

    Attributes:
        epochs: Passes over the photos; each takes one of a photo's views at random.
        views: Augmented views of a photo that are computed beforehand.
        batch_size: Photos per step.
        learning_rate: Maximum of OneCycle under AdamW.
        weight_decay: On matrices; not on biases, norms, class token and positions.
        temperature: T of the softened probabilities (`distillation`).
        label_share: Weight of the true label's cross-entropy; the teacher has the rest.
        mixup: α of the Beta distribution that mixes pairs of photos; 0 for none.
        seed: Seed of initialisation, views and order.
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

    def __init__(self, photos: PhotoList, spec: BackboneSpec) -> None:
        super().__init__(photos, spec)
        interpolation = v2.InterpolationMode(spec.interpolation)
        self.transform = v2.Compose(
            [
                v2.RandomResizedCrop(
                    list(spec.input_size), scale=(0.35, 1.0), interpolation=interpolation
                ),
                v2.RandomHorizontalFlip(),
                v2.ColorJitter(0.3, 0.3, 0.3),
                v2.PILToTensor(),
                v2.ToDtype(torch.float32, scale=True),
            ]
        )


@torch.inference_mode()
def cache_views(
    teacher: Backbone,
    photos: PhotoList,
    classes: tuple[int, ...],
    *,
    augmented: int = 0,
    batch_size: int = 64,
    workers: int = 0,
    progress: Callable[[int, int], None] | None = None,
) -> CachedViews:
    """Run the teacher once over every view: the stem's maps and the logits of `classes`.

    Args:
        teacher: An EfficientNet-Lite0.
        photos: Photos with labels among `classes`.
        classes: The teacher's indices of the student's classes, in order.
        augmented: Random views of a photo; 0 for its centre crop alone.
        batch_size: Photos at a time.
        workers: Processes that read photos.
        progress: Called with (photos done, photos in all).

    Raises:
        TTameError: If the photos have no labels, or others.
    """
    if photos.labels is None or not set(photos.labels) <= set(classes):
        raise TTameError(f"{photos.name} has no labels among the classes {classes}")
    views = augmented or 1
    blank = torch.zeros(1, 3, *teacher.spec.input_size)
    folded = fold_batch_norm(teacher.model, blank, [STEM_END])
    extract = FeatureExtractor(folded.to(memory_format=torch.channels_last), [STEM_END])
    dataset = (_Augmented if augmented else PhotoDataset)(photos, teacher.spec)
    maps: list[Tensor] = []
    answers: list[Tensor] = []
    done, total = 0, views * len(photos)
    for _ in range(views):
        loader = DataLoader(dataset, batch_size, num_workers=workers)
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
