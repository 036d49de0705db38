"""Ablations: a study is data, variants that each differ from the default in one thing."""

from __future__ import annotations

import copy
from collections.abc import Iterable, Mapping, Sequence
from dataclasses import dataclass, field, fields, replace
from typing import Any

import pandas as pd
import torch

from ttame.attention import AttentionConfig
from ttame.backbones import Backbone
from ttame.errors import TTameError, suggest
from ttame.explainer import Explainer
from ttame.objective import ObjectiveConfig
from ttame.recipes import TrainingConfig


@dataclass(frozen=True)
class Variant:
    """One row of a study.

    Attributes:
        axis: What is varied: rows of an axis are compared with each other.
        name: What the row is called; unique in its axis.
        layers: How many of the backbone's layers, counted from the deepest; `None`: all.
        attention: Changed fields of `AttentionConfig`.
        objective: Changed fields of `ObjectiveConfig`.
        training: Changed fields of `TrainingConfig`.
        recipe: Another recipe of `ttame.recipes.RECIPES` than the study's.
        size: Height and width of the photos in training, pixels; measured is at the study's.
        photos: Photos to train on, drawn by the seed; `None`: the study's.
    """

    axis: str
    name: str
    layers: int | None = None
    attention: Mapping[str, Any] = field(default_factory=dict)
    objective: Mapping[str, Any] = field(default_factory=dict)
    training: Mapping[str, Any] = field(default_factory=dict)
    recipe: str | None = None
    size: int | None = None
    photos: int | None = None

    def __post_init__(self) -> None:
        """Refuse fields that do not exist.

        Raises:
            TTameError: Naming the variant, the field and near names.
        """
        for changes, kind in (
            (self.attention, AttentionConfig),
            (self.objective, ObjectiveConfig),
            (self.training, TrainingConfig),
        ):
            known = [item.name for item in fields(kind)]
            for key in changes:
                if key not in known:
                    raise TTameError(
                        f"variant {self.name!r}: {kind.__name__} has no field {key!r}, known: "
                        f"{', '.join(known)}.{suggest(key, known)}"
                    )

    @property
    def changes(self) -> str:
        """What differs from the default, as text."""
        fields = {**self.attention, **self.objective, **self.training}
        for name in ("layers", "recipe", "size", "photos"):
            if getattr(self, name) is not None:
                fields[name] = getattr(self, name)
        return ", ".join(f"{key}={value!r}" for key, value in fields.items()) or "nothing"


# The papers' axes (T-TAME §IV, `ttame`; TAME §IV, `tame`), and where the fusion starts: every row
# changes one thing.
STUDY = (
    Variant("architecture", "full"),
    Variant("architecture", "no skip connection", attention={"skip": False}),
    Variant("architecture", "no batch norm", attention={"batch_norm": False}),
    Variant("architecture", "sigmoid in the branch", attention={"activation": "sigmoid"}),
    Variant("architecture", "no branch", attention={"branch": False}),
    Variant("layers", "three"),
    Variant("layers", "two", layers=2),
    Variant("layers", "one", layers=1),
    Variant("loss terms", "all terms"),
    Variant("loss terms", "no variation", objective={"variation": 0.0}),
    Variant("loss terms", "no area", objective={"area": 0.0}),
    Variant("loss terms", "cross-entropy only", objective={"variation": 0.0, "area": 0.0}),
    Variant("start", "free, as published"),
    Variant("start", "from the classifier", training={"init": "classifier"}),
)


def study(variants: Iterable[Variant] = STUDY) -> tuple[Variant, ...]:
    """Check that a study says what it means.

    Args:
        variants: Its rows.

    Returns:
        The rows.

    Raises:
        TTameError: If a name stands twice in an axis, or two rows of an axis change the same.
    """
    rows = tuple(variants)
    for kind, keys in (
        ("is named", [(row.axis, row.name) for row in rows]),
        ("changes", [(row.axis, row.changes) for row in rows]),
    ):
        for key in keys:
            if keys.count(key) > 1:
                raise TTameError(
                    f"the study has two rows on axis {key[0]!r} that {kind} {key[1]!r}"
                )
    return rows


def study_table(variants: Sequence[Variant]) -> pd.DataFrame:
    """A study as a table: axis, name and what differs from the default."""
    rows = [(row.axis, row.name, row.changes) for row in variants]
    return pd.DataFrame(rows, columns=["axis", "variant", "what differs"]).set_index("axis")


def select_axis(table: pd.DataFrame, variants: Sequence[Variant], axis: str) -> pd.DataFrame:
    """The rows of a table that belong to one axis.

    Args:
        table: With a column `method` that holds the variants' `changes`.
        variants: The study.
        axis: One of its axes.

    Returns:
        Those rows in the study's order, `method` being the variants' names.

    Raises:
        TTameError: If the study has no such axis.
    """
    names = {row.changes: row.name for row in variants if row.axis == axis}
    if not names:
        axes = dict.fromkeys(row.axis for row in variants)
        raise TTameError(f"the study has no axis {axis!r}, only {', '.join(axes)}")
    pieces = [
        table[table["method"] == changes].assign(method=name) for changes, name in names.items()
    ]
    return pd.concat(pieces, ignore_index=True)


def resized(explainer: Explainer, size: int) -> Explainer:
    """The same classifier and layers at another input size, for runs that have to be cheap.

    Args:
        explainer: Not changed; classifier and mechanism are shared.
        size: Height and width of the input, pixels.
    """
    spec = explainer.spec
    smaller = replace(
        spec,
        input_size=(size, size),
        resize=round(size * spec.resize / min(spec.input_size)),
    )
    return Explainer(
        Backbone(smaller, explainer.classifier), explainer.mechanism, explainer.layers
    ).eval()


def keep_layers(explainer: Explainer, layers: Sequence[str]) -> Explainer:
    """The same explainer, reading only some of its layers: the fusion rows of others are zero.

    The map is a sum over layers, so what this leaves is exactly their contribution. It is an
    ablation of reading, not of training: the mechanism was trained with all layers.

    Args:
        explainer: Not changed.
        layers: Those that are kept.

    Raises:
        TTameError: If the explainer does not read such a layer.
    """
    for name in layers:
        if name not in explainer.layers:
            raise TTameError(
                f"the explainer reads {explainer.layers}, not {name!r}."
                f"{suggest(name, explainer.layers)}"
            )
    mechanism = copy.deepcopy(explainer.mechanism)
    start = 0
    with torch.no_grad():
        for name, width in zip(explainer.layers, mechanism.widths, strict=True):
            if name not in layers:
                mechanism.fusion.weight[:, start : start + width] = 0
            start += width
    return Explainer(
        Backbone(explainer.spec, explainer.classifier), mechanism, explainer.layers
    ).eval()


def at_layer(explainer: Explainer, layer: str) -> Explainer:
    """The same explainer, with CAM methods bound to another layer.

    Args:
        explainer: Not changed.
        layer: Where `ttame.methods` takes feature maps for CAM methods.
    """
    spec = replace(explainer.spec, cam_layer=layer)
    return Explainer(
        Backbone(spec, explainer.classifier), explainer.mechanism, explainer.layers
    ).eval()
