"""Training recipes: how an attention mechanism is trained, as one configuration object."""

from __future__ import annotations

from dataclasses import dataclass, field, replace
from typing import Any, Literal

from ttame.attention import AttentionConfig
from ttame.errors import TTameError
from ttame.initialization import Init
from ttame.objective import ObjectiveConfig

# The branches of our recipe keep the sign of feature maps; the papers' end in a ReLU, which loses
# half of what a layer such as a linear bottleneck says.
SIGNED = AttentionConfig(activation="identity")


@dataclass(frozen=True)
class TrainingConfig:
    """How a mechanism is trained. `published()` gives the papers' settings.

    Attributes:
        epochs: Passes over the photos.
        steps: Optimiser steps instead of epochs.
        batch_size: Photos a step.
        optimizer: `"sgd"` (Nesterov, momentum 0.9) or `"adamw"`; both under OneCycle.
        learning_rate: Its maximum.
        weight_decay: On everything but biases.
        init: Start of the fusion (`ttame.initialization`).
        activation: From raw map to training mask: `"sigmoid"` (papers) or `"minmax"`, which is
            what display and metrics use.
        masked: What the mask multiplies in training: the `"image"` (papers), or the
            `"features"` of the only layer, as in L-CAM-Fm (`lcam`).
        retain: Shares of top pixels that the training mask keeps, one after the other from
            step to step; `(1.0,)`, the papers', keeps all.
        objective: The loss.
        augment: Random crop and flip instead of the centre crop.
        precision: As Lightning names it.
        seed: Of initialisation, order and augmentation.
        workers: Processes that read photos.
    """

    epochs: int = 1
    steps: int | None = None
    batch_size: int = 32
    optimizer: Literal["sgd", "adamw"] = "adamw"
    learning_rate: float = 2e-4
    weight_decay: float = 5e-4
    init: Init = "classifier"
    activation: Literal["sigmoid", "minmax"] = "minmax"
    masked: Literal["image", "features"] = "image"
    retain: tuple[float, ...] = (1.0, 0.5, 0.15)
    objective: ObjectiveConfig = field(
        default_factory=lambda: ObjectiveConfig(
            cross_entropy=0, drop=5, labels="own", reduction="mean", variation=0.001
        )
    )
    augment: bool = True
    precision: Literal["32-true", "bf16-mixed", "16-mixed"] = "32-true"
    seed: int = 0
    workers: int = 1

    def __post_init__(self) -> None:
        """Refuse settings without meaning.

        Raises:
            TTameError: Naming the field, its value and what is possible.
        """
        steps = 1 if self.steps is None else self.steps
        if min(self.epochs, self.batch_size, steps) < 1 or self.learning_rate <= 0:
            raise TTameError("epochs, steps, batch_size and learning_rate must be positive")
        if self.optimizer not in ("sgd", "adamw") or self.activation not in ("sigmoid", "minmax"):
            raise TTameError(
                f"optimizer must be 'sgd' or 'adamw' and activation 'sigmoid' or 'minmax', got "
                f"{self.optimizer!r} and {self.activation!r}"
            )
        if self.masked not in ("image", "features"):
            raise TTameError(f"masked must be 'image' or 'features', got {self.masked!r}")
        if not self.retain or not all(0 < share <= 1 for share in self.retain):
            raise TTameError(f"retain must hold shares in (0, 1], got {self.retain}")


def published(**changes: Any) -> TrainingConfig:
    """The papers' training (paper: SGD, 8 epochs, batch 32, maximum rate 1e-3), with `changes`."""
    papers = TrainingConfig(
        epochs=8,
        optimizer="sgd",
        learning_rate=1e-3,
        init="free",
        activation="sigmoid",
        retain=(1.0,),
        objective=ObjectiveConfig(),
    )
    return replace(papers, **changes)


def lcam(kind: Literal["img", "fm"], **changes: Any) -> TrainingConfig:
    """The predecessors' objective, masking the image or the feature map (`lcam`), with `changes`.

    Few photos take the place of ImageNet here, so AdamW takes the place of the papers' SGD.
    """
    masked: Literal["image", "features"] = "image" if kind == "img" else "features"
    choices: dict[str, Any] = {"optimizer": "adamw", "epochs": 1, "learning_rate": 1e-3}
    return published(**{**choices, "masked": masked, **changes})
