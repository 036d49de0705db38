"""Variants and runs: what a training run of a study changes of what all runs share.

A variant is a row of a study and differs from another row in one thing. A run is a variant with a
seed and the classes it is shown; `ttame.companion.studies.runs` writes one record per run.
"""

from __future__ import annotations

import re
from collections.abc import Iterable, Mapping
from dataclasses import dataclass, field, fields, replace
from typing import Any, Literal

from ttame.attention import AttentionConfig
from ttame.errors import TTameError, suggest, validate
from ttame.masking import Space
from ttame.training.config import GROUP_OF, TrainingConfig
from ttame.training.objective import ObjectiveConfig

Shown = Literal["all", "even", "odd"]
_MAPPINGS = {
    "attention": (AttentionConfig, [item.name for item in fields(AttentionConfig)]),
    "objective": (ObjectiveConfig, [item.name for item in fields(ObjectiveConfig)]),
    "training": (TrainingConfig, list(GROUP_OF)),
}
_PLAIN = ("layers", "recipe", "size", "photos", "space", "measured_space", "inference")


@dataclass(frozen=True)
class Budget:
    """What all runs of a study share.

    Attributes:
        backbone: Name of the classifier.
        recipe: Name in `ttame.training.recipes.RECIPES`.
        steps: Optimiser steps.
        batch_size: Photos per step.
        held_out: Number of validation photos to measure, drawn with seed 0.
        size: Height and width of the photos, pixels; `None`: the classifier's.
        seeds: Training seeds, one run each.
        shown: Classes that training shows, one run each: `"all"`, or those with an `"even"` or
            `"odd"` place in sorted order.
        data: Photos, `"imagenette"` or `"photos"` (`ttame.data.many_kinds`).
        training: Fields of `TrainingConfig` that differ from the recipe's.
    """

    backbone: str
    steps: int
    recipe: str = "ttame"
    batch_size: int = 32
    held_out: int = 500
    size: int | None = None
    seeds: tuple[int, ...] = (0,)
    shown: tuple[Shown, ...] = ("all",)
    data: Literal["imagenette", "photos"] = "imagenette"
    training: Mapping[str, Any] = field(default_factory=dict)


@dataclass(frozen=True)
class Variant:
    """One row of a study.

    Attributes:
        axis: What is varied; rows of an axis are compared with each other.
        name: Name of the row, unique in its axis.
        layers: Number of the backbone's layers, counted from the deepest; or layers by name, or
            the name of one of the backbone's alternatives; `None`: all.
        attention: Changed fields of `AttentionConfig`.
        objective: Changed fields of `ObjectiveConfig`.
        training: Changed fields of `TrainingConfig`.
        recipe: Recipe in `ttame.training.recipes.RECIPES`; `None`: the study's.
        size: Height and width of the training photos, pixels; `None`: the study's, at which photos
            are always measured.
        photos: Number of training photos, drawn with the seed; `None`: the study's.
        space: Masking space in training; `None`: the backbone's.
        measured_space: Masking space of AD and IC; `None`: the backbone's.
        inference: Map to measure: `"raw"`, as published, or its `"sigmoid"`; both are scaled to
            [0, 1] by their own minimum and maximum.
        base: Name of the row of the same axis that this one changes; `None`: the default.
        together: Reason why several changed fields are one change, which are refused otherwise.
        budget: Fields of `Budget` that the axis overrides.
    """

    axis: str
    name: str
    layers: int | str | tuple[str, ...] | None = None
    attention: Mapping[str, Any] = field(default_factory=dict)
    objective: Mapping[str, Any] = field(default_factory=dict)
    training: Mapping[str, Any] = field(default_factory=dict)
    recipe: str | None = None
    size: int | None = None
    photos: int | None = None
    space: Space | None = None
    measured_space: Space | None = None
    inference: Literal["raw", "sigmoid"] | None = None
    base: str | None = None
    together: str | None = None
    budget: Mapping[str, Any] = field(default_factory=dict)

    def __post_init__(self) -> None:
        """Check the changed fields and their values.

        Raises:
            TTameError: If a field or value does not exist.
        """
        where = f"variant {self.name!r}"
        for name, (kind, known) in _MAPPINGS.items():
            check_keys(getattr(self, name), known, where, f"{kind.__name__} has no")
        try:
            validate(self)
        except TTameError as error:
            raise TTameError(f"{where}: {error}") from None

    @property
    def changed(self) -> dict[str, Any]:
        """What differs from the study's budget, by field."""
        plain = {name: getattr(self, name) for name in _PLAIN if getattr(self, name) is not None}
        return {**self.attention, **self.objective, **self.training, **plain}

    @property
    def changes(self) -> str:
        """What differs from the study's budget, as text, with the axis's own budget."""
        text = ", ".join(f"{key}={value!r}" for key, value in self.changed.items()) or "nothing"
        own = ", ".join(f"{key}={value!r}" for key, value in self.budget.items())
        return f"{text} with {own}" if own else text


@dataclass(frozen=True)
class Run:
    """One training and its measurement.

    Attributes:
        variant: What differs from the budget.
        seed: Training seed.
        shown: Classes that training shows.
        budget: The study's budget, with the axis's own fields.
    """

    variant: Variant
    seed: int
    shown: Shown
    budget: Budget

    @property
    def name(self) -> str:
        """Name of the record; the default of several axes is one run."""
        changes = re.sub(r"[^a-z0-9.]+", "-", self.variant.changes.lower()).strip("-")
        shown = "" if self.shown == "all" else f"_{self.shown}"
        return f"{changes}{shown}_seed{self.seed}"


def merge(base: Variant, row: Variant) -> Variant:
    """Add the changes of its base to a row, its own taking precedence."""
    merged: dict[str, Any] = {name: {**getattr(base, name), **getattr(row, name)}
                              for name in _MAPPINGS}  # fmt: skip
    for name in _PLAIN:
        if getattr(row, name) is None:
            merged[name] = getattr(base, name)
    return replace(row, **merged)


def changed_config(variant: Variant, config: TrainingConfig) -> TrainingConfig:
    """Apply a variant's changes to the training configuration that all runs share."""
    return config.replace(objective=variant.objective, **variant.training)


def check_keys(
    found: Mapping[str, Any], names: Iterable[str], where: str, what: str = "unknown"
) -> None:
    """Check that a table has no other keys than `names`.

    Args:
        found: The table.
        names: Names of the fields.
        where: Where the table stands, for the error message.
        what: What is wrong with another key, likewise.

    Raises:
        TTameError: If it has, with near names.
    """
    known = list(names)
    for key in found:
        if key not in known:
            raise TTameError(
                f"{where}: {what} field {key!r}, known: {', '.join(known)}.{suggest(key, known)}"
            )
