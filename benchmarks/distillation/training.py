"""How the transformer learns: its settings, its objective and one step of training."""

from __future__ import annotations

from dataclasses import dataclass

import lightning as L
import torch
import torch.nn.functional as F
from lightning.pytorch.utilities.types import OptimizerLRSchedulerConfig
from torch import Tensor, nn

from ttame.errors import TTameError

_TOKENS = ("cls_token", "pos_embed")


@dataclass(frozen=True)
class DistillationConfig:
    """Settings of every training.

    Attributes:
        epochs: Passes over the photos; each draws one of a photo's crops.
        crops: Augmented crops per photo, computed beforehand.
        batch_size: Photos per step.
        learning_rate: Maximum learning rate of OneCycle, under AdamW.
        weight_decay: Weight decay of matrices; biases, norms, class token and positions have
            none.
        seed: Seed of initialisation, crops and order.
        workers: Number of processes that read photos.
        stages: Number of the teacher's stages in the stem.
        depth: Number of blocks.
    """

    epochs: int = 8
    crops: int = 3
    batch_size: int = 64
    learning_rate: float = 1e-3
    weight_decay: float = 0.05
    seed: int = 0
    workers: int = 1
    stages: int = 4
    depth: int = 6

    def __post_init__(self) -> None:
        """Check the settings.

        Raises:
            TTameError: If a setting is out of range.
        """
        if min(self.epochs, self.crops, self.batch_size) < 1 or self.learning_rate <= 0:
            raise TTameError("epochs, crops, batch_size and learning_rate must be positive")


@dataclass(frozen=True)
class LabelConfig(DistillationConfig):
    """Settings of learning few classes from labels and the teacher's logits.

    Attributes:
        temperature: Temperature T of the softened probabilities (`distillation`).
        label_share: Weight of the cross-entropy with the label; the teacher has the rest.
        mixup: Parameter α of the Beta distribution that mixes pairs of photos; 0 for none.
    """

    temperature: float = 2.0
    label_share: float = 0.3
    mixup: float = 0.2

    def __post_init__(self) -> None:
        """Check the settings.

        Raises:
            TTameError: If a setting is out of range.
        """
        super().__post_init__()
        if not 0 <= self.label_share <= 1 or self.temperature <= 0 or self.mixup < 0:
            raise TTameError(
                "label_share must lie in [0, 1], temperature above 0 and mixup not below 0, got "
                f"{self.label_share}, {self.temperature} and {self.mixup}"
            )


def soft_loss(logits: Tensor, teacher: Tensor, temperature: float = 1.0) -> Tensor:
    """Compute T²·KL(teacher ‖ student) of the probabilities at temperature T (`distillation`).

    Args:
        logits: Student logits, `(B, K)`.
        teacher: Teacher logits, `(B, K)`.
        temperature: Temperature T.

    Returns:
        Mean over the batch, a scalar.
    """
    student = F.log_softmax(logits.float() / temperature, dim=1)
    wanted = F.log_softmax(teacher.float() / temperature, dim=1)
    divergence = F.kl_div(student, wanted, reduction="batchmean", log_target=True)
    return divergence * temperature**2


def distillation_loss(
    logits: Tensor, teacher: Tensor, labels: Tensor, temperature: float, label_share: float
) -> Tensor:
    """Compute s·CE(labels) + (1-s)·T²·KL(teacher ‖ student), as `soft_loss`.

    Args:
        logits: Student logits, `(B, K)`.
        teacher: Teacher logits, `(B, K)`.
        labels: Label probabilities, `(B, K)`; one-hot unless mixed.
        temperature: Temperature T.
        label_share: Weight s.

    Returns:
        Mean over the batch, a scalar.
    """
    soft = soft_loss(logits, teacher, temperature)
    return label_share * F.cross_entropy(logits.float(), labels) + (1 - label_share) * soft


class DistillationModule(L.LightningModule):
    """Train the transformer on cached stem maps; subclasses say by which objective.

    Args:
        student: The transformer, with `nn.Identity` in place of its stem.
        config: Settings.
        total_steps: Number of steps in the schedule.
    """

    def __init__(self, student: nn.Module, config: DistillationConfig, total_steps: int) -> None:
        super().__init__()
        self.student, self.config, self.total_steps = student, config, total_steps

    def objective(self, maps: Tensor, teacher: Tensor, labels: Tensor) -> Tensor:
        """Compute the loss of a batch.

        Args:
            maps: Stem maps, `(B, C, h, w)` float32.
            teacher: Teacher logits, `(B, K)`.
            labels: Labels, `(B,)` int64.
        """
        raise NotImplementedError

    def training_step(self, batch: tuple[Tensor, Tensor, Tensor], batch_idx: int) -> Tensor:
        """Return the loss.

        Raises:
            TTameError: If it is not finite.
        """
        maps, teacher, labels = batch
        loss = self.objective(maps.float(), teacher, labels)
        if not bool(loss.isfinite()):
            raise TTameError(
                f"the loss became {loss.item()} at step {self.global_step}; lower the learning "
                f"rate ({self.config.learning_rate})"
            )
        self.log("train/loss", loss.detach(), prog_bar=True)
        return loss

    def validation_step(self, batch: tuple[Tensor, Tensor, Tensor], batch_idx: int) -> None:
        """Log how often the most probable class is the teacher's and, if known, the label."""
        maps, teacher, labels = batch
        found = self.student(maps.float()).argmax(dim=1)
        known = {"agreement": teacher.argmax(dim=1)}
        if int(labels.min()) >= 0:
            known["top1"] = labels
        for name, wanted in known.items():
            share = 100 * (found == wanted).float().mean()
            self.log(f"val/{name}", share, batch_size=len(labels), prog_bar=True)

    def configure_optimizers(self) -> OptimizerLRSchedulerConfig:
        """Set up AdamW, without decay of vectors, class token and positions, and OneCycle."""
        named = [item for item in self.named_parameters() if item[1].requires_grad]
        free = {name for name, value in named if value.ndim < 2 or name.split(".")[-1] in _TOKENS}
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


class LabelModule(DistillationModule):
    """Train on labels and the teacher's logits, both mixed (`LabelConfig`)."""

    config: LabelConfig

    def objective(self, maps: Tensor, teacher: Tensor, labels: Tensor) -> Tensor:
        """Mix each photo with its mirror position in the batch and return the loss."""
        wanted = F.one_hot(labels, teacher.shape[1]).float()
        if self.config.mixup:
            alpha = torch.tensor(self.config.mixup)
            share = float(torch.distributions.Beta(alpha, alpha).sample())
            maps = share * maps + (1 - share) * maps.flip(0)
            wanted = share * wanted + (1 - share) * wanted.flip(0)
            # Mixed probabilities, as the teacher's own logits of a mixed photo are not known.
            soft = teacher.float().softmax(dim=1)
            teacher = (share * soft + (1 - share) * soft.flip(0)).clamp_min(1e-8).log()
        return distillation_loss(
            self.student(maps), teacher, wanted, self.config.temperature, self.config.label_share
        )
