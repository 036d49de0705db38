"""How an attention mechanism is trained, as one configuration object."""

from __future__ import annotations

from collections.abc import Mapping
from dataclasses import asdict, dataclass, field, fields, replace
from typing import Annotated, Any, Literal

from ttame.errors import AtLeastOne, Bounds, NotNegative, Positive, TTameError, unknown, validate
from ttame.training.objective import ObjectiveConfig

Init = Literal["free", "classifier", "surrogate"]
Precision = Literal["32-true", "bf16-mixed", "16-mixed"]
# Fields that decide where and how a run is carried out, not its result; a run may be resumed
# with others.
PLACEMENT = ("workers", "devices", "nodes", "checkpoint_every", "compile", "channels_last")
SCORE = "val/score"  # what the best checkpoint is chosen by


@dataclass(frozen=True)
class PhotoConfig:
    """Which photos a step sees, and which class it explains.

    Attributes:
        batch_size: Photos per step, over all devices and nodes.
        augment: Random crop and flip instead of the centre crop.
        crop_area: With `augment`, crops take at least this share of the photo's area and are
            enlarged; `None`, as published: crops of the input size. Small crops show parts and
            surroundings, which the classifier gives many more classes than the photos have.
        truth: The target class of a photo: the `"model"`'s prediction, as published, or its
            `"ground"` truth, the photos' labels.
        ranks: With the model truth, draw the target class at every step from the photo's top
            `ranks` classes, or from all where there are fewer; 1, as published, takes the
            predicted class: of labels that do not exclude each other, the most probable.
        mosaics: Share of each batch that are mosaics of four of its photos
            (`ttame.training.mosaics`), with a target class drawn from the mosaic's four most
            probable ones; 0, as published: none.
        skip_bad: Skip photos that cannot be read, with a warning, instead of stopping.
    """

    batch_size: AtLeastOne = 32
    augment: bool = True
    crop_area: Annotated[float, Bounds(0, 1, above=True)] | None = None
    truth: Literal["model", "ground"] = "model"
    ranks: AtLeastOne = 1
    mosaics: Annotated[float, Bounds(0, 1)] = 0.0
    skip_bad: bool = False

    def __post_init__(self) -> None:
        """Check the fields."""
        validate(self)
        if self.truth == "ground" and self.ranks > 1:
            raise TTameError(f"truth='ground' needs ranks=1, got ranks={self.ranks}")
        if self.truth == "ground" and self.mosaics:
            raise TTameError(f"truth='ground' needs mosaics=0, got mosaics={self.mosaics}")
        if self.crop_area is not None and not self.augment:
            raise TTameError(f"crop_area={self.crop_area} goes with augment=True")


@dataclass(frozen=True)
class StartConfig:
    """Where the mechanism starts, and which weights of its fusion learn.

    Attributes:
        init: Start of the fusion (`ttame.training.initialization`).
        fusion: `"free"`, as published: one row per class, which learns from photos of that class
            alone. `"shared"`: the rows keep their start, but for one learned row that is added
            to all. `"tied"`: rows that are one learned function of the classifier's own class
            vectors, or with `init="surrogate"` of the surrogate's (`ttame.training.tying`). With
            both, classes without photos learn with the others.
    """

    init: Init = "classifier"
    fusion: Literal["free", "shared", "tied"] = "free"

    def __post_init__(self) -> None:
        """Check the fields."""
        validate(self)


@dataclass(frozen=True)
class MaskConfig:
    """How a map masks the photo in training.

    Attributes:
        activation: From raw map to training mask: `"sigmoid"` (papers) or `"minmax"`, which is
            what display and metrics use.
        masked: What the mask multiplies: the `"image"` (papers), or the `"features"` of the only
            layer, as in L-CAM-Fm (`lcam`).
        fill: What takes the place of masked pixels: the classifier's `"constant"` (papers), its
            mean colour or black, or the photo's own `"blur"` (`ttame.masking.fill_blurred`), which
            keeps its colours; for `masked="image"`.
        retain: Shares of top pixels that the mask keeps, cycled through step by step; `(1.0,)`,
            the papers', keeps all.
        tried: Share of the photos of each batch that learn by trials of two masks
            (`ttame.training.trials`) instead of by gradients; 0, as published: none.
        tried_retain: Share of top pixels that those masks keep.
    """

    activation: Literal["sigmoid", "minmax"] = "minmax"
    masked: Literal["image", "features"] = "image"
    fill: Literal["constant", "blur"] = "constant"
    retain: tuple[float, ...] = (1.0, 0.5, 0.15)
    tried: Annotated[float, Bounds(0, 0.9)] = 0.0
    tried_retain: Annotated[float, Bounds(0, 1, above=True)] = 0.15

    def __post_init__(self) -> None:
        """Check the fields."""
        validate(self)
        object.__setattr__(self, "retain", tuple(self.retain))  # files hold lists
        if not self.retain or not all(0 < share <= 1 for share in self.retain):
            raise TTameError(f"retain must hold shares in (0, 1], got {self.retain}")
        if self.fill == "blur" and self.masked == "features":
            raise TTameError("fill='blur' is for masked='image'; a feature map has no blur")


@dataclass(frozen=True)
class ShapleyConfig:
    """Learning Shapley values in place of the objective (`ttame.training.shapley`).

    Attributes:
        pairs: Pairs of coalitions per photo and step; 0: the mechanism learns by the objective.
        surrogate: Share of the run's steps, the first, in which a copy of the classifier is
            fine-tuned on masked photos; the worth of a coalition is this surrogate's probability.
            With 0 it is the classifier's own, of photos that it was never trained on.
        surrogate_rate: Maximum learning rate of the surrogate.
        efficiency: Weight of the squared gap between the mean of a raw map and what all players
            are worth together. The loss itself leaves the level of a map open.
    """

    pairs: Annotated[int, Bounds(0)] = 0
    surrogate: Annotated[float, Bounds(0, 0.9)] = 0.5
    surrogate_rate: Positive = 1e-4
    efficiency: NotNegative = 0.1

    def __post_init__(self) -> None:
        """Check the fields."""
        validate(self)


# Parts of the mechanism that may learn at rates of their own; gains are batch-norm weights.
PARTS = ("branches", "gains", "fusion", "decoder")


@dataclass(frozen=True)
class OptimizationConfig:
    """How the weights are optimised, for how long, and which are kept.

    Attributes:
        epochs: Passes over the photos.
        steps: Optimiser steps, in place of epochs.
        optimizer: `"sgd"` (Nesterov, momentum 0.9) or `"adamw"`; both under OneCycle.
        learning_rate: Maximum of OneCycle.
        part_rates: Factors of the learning rate by part of the mechanism, of `PARTS`; parts
            that are not named learn at the full rate.
        weight_decay: Weight decay of everything but biases.
        gradient_clip: Largest norm of the gradient over all parameters; longer ones are scaled
            down to it. `None`, as published, leaves them: the papers' code asks for clipping
            without a value, which does nothing.
        validate_every: Steps between two validations; `None`: an epoch.
        patience: Validations without a better score (mean over percentages of IC - AD) before
            training stops early; `None`: never. The schedule is not shortened with it.
        keep: Weights that a run ends with: the `"last"`, as published, or the `"best"`.
    """

    epochs: AtLeastOne = 1
    steps: AtLeastOne | None = None
    optimizer: Literal["sgd", "adamw"] = "adamw"
    learning_rate: Positive = 2e-4
    part_rates: Mapping[str, float] = field(default_factory=dict)
    weight_decay: NotNegative = 5e-4
    gradient_clip: Positive | None = None
    validate_every: AtLeastOne | None = None
    patience: AtLeastOne | None = None
    keep: Literal["last", "best"] = "last"

    def __post_init__(self) -> None:
        """Check the fields."""
        validate(self)
        for part, factor in self.part_rates.items():
            if part not in PARTS:
                raise unknown("part of the mechanism", part, PARTS)
            if not factor >= 0:
                raise TTameError(f"part_rates: {part} must be at least 0, got {factor}")


@dataclass(frozen=True)
class RunConfig:
    """How and where a run is carried out.

    Attributes:
        precision: Precision, as Lightning names it.
        channels_last: Memory format of images and classifier; what convolutions read fastest on
            CPUs and, in mixed precision, on GPUs.
        compile: Compile the pass over masked photos by `torch.compile`, which takes minutes at
            the start. The first pass has hooks that come and go, and is not compiled.
        deterministic: Use deterministic algorithms where there are any; without them, two runs
            of the same seed drift apart by rounding, and so does a resumed run.
        checkpoint_every: Steps between two checkpoints, the most that a kill costs. The end of
            an epoch, a validation and the end of the run are always kept.
        seed: Seed of initialisation, order and augmentation.
        workers: Processes per device that read photos.
        devices: Processes per machine, one per GPU where there are any; they share a batch.
        nodes: Machines.
    """

    precision: Precision = "32-true"
    channels_last: bool = True
    compile: bool = False
    deterministic: bool = True
    checkpoint_every: AtLeastOne = 100
    seed: Annotated[int, Bounds(0, 2**32 - 1)] = 0
    workers: Annotated[int, Bounds(0)] = 1
    devices: AtLeastOne = 1
    nodes: AtLeastOne = 1

    def __post_init__(self) -> None:
        """Check the fields."""
        validate(self)


_GROUPS = {
    "photos": PhotoConfig,
    "start": StartConfig,
    "mask": MaskConfig,
    "objective": ObjectiveConfig,
    "shapley": ShapleyConfig,
    "optimization": OptimizationConfig,
    "run": RunConfig,
}
# The group of every field; each name is unique over the groups.
GROUP_OF = {item.name: group for group, kind in _GROUPS.items() for item in fields(kind)}


@dataclass(frozen=True)
class TrainingConfig:
    """How a mechanism is trained, in groups by what they decide (`ttame.training.recipes`).

    Make one by the flat names of the groups' fields: `TrainingConfig.of(epochs=2, workers=4)`.

    Attributes:
        photos: Which photos a step sees, and which class it explains.
        start: Where the mechanism starts.
        mask: How a map masks the photo.
        objective: The loss.
        shapley: Shapley values in its place.
        optimization: How the weights are optimised, and which are kept.
        run: How and where the run is carried out.
    """

    photos: PhotoConfig = field(default_factory=PhotoConfig)
    start: StartConfig = field(default_factory=StartConfig)
    mask: MaskConfig = field(default_factory=MaskConfig)
    objective: ObjectiveConfig = field(
        default_factory=lambda: ObjectiveConfig(
            cross_entropy=0, drop=5, labels="own", reduction="mean", variation=0.001
        )
    )
    shapley: ShapleyConfig = field(default_factory=ShapleyConfig)
    optimization: OptimizationConfig = field(default_factory=OptimizationConfig)
    run: RunConfig = field(default_factory=RunConfig)

    def __post_init__(self) -> None:
        """Check what concerns several groups."""
        if self.run.compile and self.mask.masked == "features":
            raise TTameError("compile=True is for masked='image'; masking features needs a hook")
        if self.mask.tried and (self.mask.masked != "image" or self.objective.labels != "own"):
            raise TTameError(
                f"tried={self.mask.tried} needs masked='image' and labels='own', got "
                f"{self.mask.masked!r} and {self.objective.labels!r}"
            )

        if self.shapley.pairs:
            self._check_shapley()

    def _check_shapley(self) -> None:
        """Refuse what Shapley values leave no place for, so that nothing is ignored."""
        loss, run = self.objective, self.run
        others = {
            "objective weights": any((loss.cross_entropy, loss.drop, loss.trials, loss.area,
                                      loss.variation)),
            f"masked={self.mask.masked!r}": self.mask.masked != "image",
            f"fill={self.mask.fill!r}": self.mask.fill != "constant",
            f"tried={self.mask.tried}": self.mask.tried > 0,
            "compile=True": run.compile,
            f"{run.devices * run.nodes} processes": run.devices * run.nodes > 1,
        }  # fmt: skip
        found = [name for name, there in others.items() if there]
        if found:
            raise TTameError(
                f"pairs={self.shapley.pairs} learns Shapley values, without {', '.join(found)}; "
                "begin with ttame.training.recipes.shapley() (--recipe shapley), on one device"
            )

    @classmethod
    def of(cls, **settings: Any) -> TrainingConfig:
        """Make a configuration of the defaults, changed as in `replace`.

        It reads the `config` of training records as well: `TrainingConfig.of(**record["config"])`.
        """
        return cls().replace(**settings)

    def replace(self, **settings: Any) -> TrainingConfig:
        """Return a configuration with some settings exchanged.

        Args:
            settings: Fields by their flat names (`learning_rate=1e-3`), groups as objects
                (`objective=ObjectiveConfig()`) or as mappings of some of their fields.

        Raises:
            TTameError: If there is no such field, or a value is not possible.
        """
        whole = {name: value for name, value in settings.items()
                 if name in _GROUPS and not isinstance(value, Mapping)}  # fmt: skip
        parts: dict[str, dict[str, Any]] = {}
        for name, value in settings.items():
            if name in whole:
                continue
            for key, setting in (value if name in _GROUPS else {name: value}).items():
                group = GROUP_OF.get(key)
                if group is None or (name in _GROUPS and group != name):
                    raise unknown("training setting", key, GROUP_OF)
                parts.setdefault(group, {})[key] = setting
        changed = replace(self, **whole)
        return replace(
            changed, **{name: replace(getattr(changed, name), **part)
                        for name, part in parts.items()}
        )  # fmt: skip

    def flat(self) -> dict[str, Any]:
        """Return every field by its flat name, the objective as one mapping; as records hold it."""
        groups = asdict(self)
        loss = groups.pop("objective")
        return {key: value for group in groups.values() for key, value in group.items()} | {
            "objective": loss
        }
