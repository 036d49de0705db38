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
    """Settings of the training.

    Attributes:
        epochs: Passes over the photos; each draws one of a photo's crops.
        crops: Augmented crops per photo, computed beforehand.
        batch_size: Photos per step.
        learning_rate: Maximum learning rate of OneCycle, under AdamW.
        weight_decay: Weight decay of matrices; biases, norms, class token and positions have
            none.
        temperature: Temperature T of the softened probabilities (`distillation`).
        label_share: Weight of the cross-entropy with the label; the teacher has the rest.
        mixup: Parameter α of the Beta distribution that mixes pairs of photos; 0 for none.
        seed: Seed of initialisation, crops and order.
        workers: Number of processes that read photos.
    """

    epochs: int = 8
    crops: int = 3
    batch_size: int = 64
    learning_rate: float = 1e-3
    weight_decay: float = 0.05
    temperature: float = 2.0
    label_share: float = 0.3
    mixup: float = 0.2
    seed: int = 0
    workers: int = 1

    def __post_init__(self) -> None:
        """Check the settings.

        Raises:
            TTameError: If a setting is out of range.
        """
        if min(self.epochs, self.crops, self.batch_size) < 1 or self.learning_rate <= 0:
            raise TTameError("epochs, crops, batch_size and learning_rate must be positive")
        if not 0 <= self.label_share <= 1 or self.temperature <= 0 or self.mixup < 0:
            raise TTameError(
                "label_share must lie in [0, 1], temperature above 0 and mixup not below 0, got "
                f"{self.label_share}, {self.temperature} and {self.mixup}"
            )


def distillation_loss(
    logits: Tensor, teacher: Tensor, labels: Tensor, temperature: float, label_share: float
) -> Tensor:
    """Compute s·CE(labels) + (1-s)·T²·KL(teacher ‖ student) at temperature T (`distillation`).

    Args:
        logits: Student logits, `(B, K)`.
        teacher: Teacher logits, `(B, K)`.
        labels: Label probabilities, `(B, K)`; one-hot unless mixed.
        temperature: Temperature T.
        label_share: Weight s.

    Returns:
        Mean over the batch, a scalar.
    """
    student = F.log_softmax(logits.float() / temperature, dim=1)
    wanted = F.log_softmax(teacher.float() / temperature, dim=1)
    soft = F.kl_div(student, wanted, reduction="batchmean", log_target=True) * temperature**2
    return label_share * F.cross_entropy(logits.float(), labels) + (1 - label_share) * soft


class DistillationModule(L.LightningModule):
    """Train the transformer on cached stem maps.

    Args:
        student: The transformer, with `nn.Identity` in place of its stem.
        config: Settings.
        total_steps: Number of steps in the schedule.
    """

    def __init__(self, student: nn.Module, config: DistillationConfig, total_steps: int) -> None:
        super().__init__()
        self.student, self.config, self.total_steps = student, config, total_steps

    def training_step(self, batch: tuple[Tensor, Tensor, Tensor], batch_idx: int) -> Tensor:
        """Mix each photo with its mirror position in the batch and return the loss."""
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
        """Log the top-1 accuracy, percent."""
        maps, _teacher, labels = batch
        hits = (self.student(maps.float()).argmax(dim=1) == labels).float().mean()
        self.log("val/top1", 100 * hits, batch_size=len(labels), prog_bar=True)

    def configure_optimizers(self) -> OptimizerLRSchedulerConfig:
        """Set up AdamW, without decay of vectors, class token and positions, and OneCycle."""
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
