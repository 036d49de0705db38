"""Training recipes: how an attention mechanism is trained, as one configuration object."""

from __future__ import annotations

from collections.abc import Callable
from dataclasses import dataclass, field, replace
from functools import partial
from typing import Any, Literal, get_args

from ttame.attention import AttentionConfig
from ttame.errors import TTameError, unknown
from ttame.training.objective import ObjectiveConfig

Init = Literal["free", "classifier"]
# The branches of our recipe keep the sign of feature maps; the papers' end in a ReLU, which loses
# half of what a layer such as a linear bottleneck says.
SIGNED = AttentionConfig(activation="identity")
Precision = Literal["32-true", "bf16-mixed", "16-mixed"]
# Fields that say where and how a run is carried out, not what comes out of it; a run may be
# resumed with others.
PLACEMENT = ("workers", "devices", "nodes", "checkpoint_every", "compile", "channels_last")
SCORE = "val/score"  # what the best checkpoint is chosen by


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
        init: Start of the fusion (`ttame.training.initialization`).
        fusion: `"free"`, as published: a row a class, which learns from photos of that class
            alone. `"shared"`: the rows stay as they began but for one learned row that is added
            to all. `"tied"`: rows that are one learned function of the classifier's own class
            vectors (`ttame.training.tying`). With both, classes without photos learn with the
            others.
        truth: The target class of a photo: what the `"model"` answers, as published, or its
            `"ground"` truth, the photos' labels.
        ranks: With the model truth, the target class of a photo is its most probable one (1, as
            published), or is drawn at every step from its so many most probable ones.
        activation: From raw map to training mask: `"sigmoid"` (papers) or `"minmax"`, which is
            what display and metrics use.
        masked: What the mask multiplies in training: the `"image"` (papers), or the
            `"features"` of the only layer, as in L-CAM-Fm (`lcam`).
        retain: Shares of top pixels that the training mask keeps, one after the other from
            step to step; `(1.0,)`, the papers', keeps all.
        objective: The loss.
        augment: Random crop and flip instead of the centre crop.
        crop_area: With `augment`, crops take at least this share of the photo's area and are
            enlarged; `None`, as published: crops of the input size. Small crops show parts and
            surroundings, which the classifier gives many more classes than the photos have.
        precision: As Lightning names it.
        gradient_clip: Largest norm of the gradient over all parameters; longer ones are scaled
            down to it. `None`, as published, leaves them: the papers' code asks for clipping
            without a value, which does nothing.
        channels_last: Memory format of images and classifier; what convolutions read fastest on
            CPUs and, in mixed precision, on GPUs.
        compile: Compile the pass over masked photos by `torch.compile`, which takes minutes at
            the start. The first pass has hooks that come and go, and is not compiled.
        deterministic: Use algorithms that give the same result every time, where there are any;
            without, a run on the same seed drifts by rounding, and a resumed run from the other.
        validate_every: Steps between two validations; `None`: an epoch.
        patience: Validations without a better score (mean over percentages of IC - AD) before
            training stops early; `None`: never. The schedule is not shortened with it.
        keep: Which weights a run ends with: the `"last"`, as published, or the `"best"`.
        checkpoint_every: Steps between two checkpoints; a kill costs at most so many. The end of
            an epoch, a validation and the end of the run are always kept.
        skip_bad: Skip photos that cannot be read, with a warning, instead of stopping.
        seed: Of initialisation, order and augmentation.
        workers: Processes that read photos.
        devices: Processes on this machine, one a GPU where there are any; they share a batch.
        nodes: Machines, each with so many.
    """

    epochs: int = 1
    steps: int | None = None
    batch_size: int = 32
    optimizer: Literal["sgd", "adamw"] = "adamw"
    learning_rate: float = 2e-4
    weight_decay: float = 5e-4
    init: Init = "classifier"
    fusion: Literal["free", "shared", "tied"] = "free"
    truth: Literal["model", "ground"] = "model"
    ranks: int = 1
    activation: Literal["sigmoid", "minmax"] = "minmax"
    masked: Literal["image", "features"] = "image"
    retain: tuple[float, ...] = (1.0, 0.5, 0.15)
    objective: ObjectiveConfig = field(
        default_factory=lambda: ObjectiveConfig(
            cross_entropy=0, drop=5, labels="own", reduction="mean", variation=0.001
        )
    )
    augment: bool = True
    crop_area: float | None = None
    precision: Precision = "32-true"
    gradient_clip: float | None = None
    channels_last: bool = True
    compile: bool = False
    deterministic: bool = True
    validate_every: int | None = None
    patience: int | None = None
    keep: Literal["last", "best"] = "last"
    checkpoint_every: int = 100
    skip_bad: bool = False
    seed: int = 0
    workers: int = 1
    devices: int = 1
    nodes: int = 1

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
        if self.fusion not in ("free", "shared", "tied"):
            raise TTameError(f"fusion must be 'free', 'shared' or 'tied', got {self.fusion!r}")
        if self.truth not in ("model", "ground") or (self.truth == "ground" and self.ranks > 1):
            raise TTameError(
                f"truth must be 'model', or 'ground' with ranks=1, got {self.truth!r} with "
                f"ranks={self.ranks}"
            )
        if self.masked not in ("image", "features"):
            raise TTameError(f"masked must be 'image' or 'features', got {self.masked!r}")
        for name in ("gradient_clip", "validate_every", "patience", "checkpoint_every",
                     "devices", "nodes", "ranks"):  # fmt: skip
            value = getattr(self, name)
            if value is not None and value <= 0:
                raise TTameError(f"{name} must be positive, got {value}")
        if self.precision not in get_args(Precision):
            raise TTameError(
                f"precision must be one of {get_args(Precision)}, got {self.precision!r}"
            )
        if self.keep not in ("last", "best"):
            raise TTameError(f"keep must be 'last' or 'best', got {self.keep!r}")
        if self.workers < 0 or not 0 <= self.seed < 2**32:
            raise TTameError(
                f"workers must not be negative and seed lie in [0, 2^32), got {self.workers} and "
                f"{self.seed}"
            )
        if self.compile and self.masked == "features":
            raise TTameError("compile=True is for masked='image'; masking features needs a hook")
        if self.crop_area is not None and not (0 < self.crop_area <= 1 and self.augment):
            raise TTameError(
                f"crop_area={self.crop_area} must lie in (0, 1] and goes with augment=True"
            )
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


RECIPES: dict[str, Callable[[], TrainingConfig]] = {
    "ttame": TrainingConfig,
    "published": published,
    "lcam-img": partial(lcam, "img"),
    "lcam-fm": partial(lcam, "fm"),
}


def open_recipe(name: str) -> TrainingConfig:
    """The training of a recipe: `"ttame"` (ours), `"published"`, `"lcam-img"` or `"lcam-fm"`.

    Raises:
        TTameError: If there is no such recipe.
    """
    if name not in RECIPES:
        raise unknown("recipe", name, RECIPES)
    return RECIPES[name]()


def architecture(recipe: str) -> AttentionConfig:
    """The mechanism that a recipe trains; one without branches for L-CAM, on one layer."""
    if recipe.startswith("lcam"):
        return AttentionConfig(branch=False)
    return AttentionConfig() if recipe == "published" else SIGNED
