"""Variants: the rows of a study, each of which differs from another row in one thing."""

from __future__ import annotations

from collections.abc import Iterable, Mapping, Sequence
from dataclasses import dataclass, field, fields, replace
from typing import Any, Literal

import pandas as pd

from ttame.attention import AttentionConfig
from ttame.errors import TTameError, suggest, unknown
from ttame.objective import ObjectiveConfig
from ttame.recipes import TrainingConfig
from ttame.specs import Space

_MAPPINGS = {
    "attention": AttentionConfig,
    "objective": ObjectiveConfig,
    "training": TrainingConfig,
}


@dataclass(frozen=True)
class Variant:
    """One row of a study.

    Attributes:
        axis: What is varied: rows of an axis are compared with each other.
        name: What the row is called; unique in its axis.
        layers: How many of the backbone's layers, counted from the deepest; or layers by name, or
            the name of one of the backbone's alternatives; `None`: all.
        attention: Changed fields of `AttentionConfig`.
        objective: Changed fields of `ObjectiveConfig`.
        training: Changed fields of `TrainingConfig`.
        recipe: Another recipe of `ttame.recipes.RECIPES` than the study's.
        size: Height and width of the photos in training, pixels; measured is at the study's.
        photos: Photos to train on, drawn by the seed; `None`: the study's.
        space: Masking space in training; `None`: the backbone's.
        measured_space: Masking space of AD and IC; `None`: the backbone's.
        inference: The map that is measured: `"raw"`, as published, or its `"sigmoid"`; both are
            scaled to [0, 1] by their own minimum and maximum.
        base: Name of the row of the same axis that this one changes; `None`: the row that changes
            nothing.
        together: Why several fields are one change; without it they are refused.
        budget: Fields of `ttame.study.Budget` that the whole axis has otherwise than the study.
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
        """Refuse fields and values that do not exist.

        Raises:
            TTameError: Naming the variant, the field and near names.
        """
        for name, kind in _MAPPINGS.items():
            known = [item.name for item in fields(kind)]
            for key in getattr(self, name):
                if key not in known:
                    raise TTameError(
                        f"variant {self.name!r}: {kind.__name__} has no field {key!r}, known: "
                        f"{', '.join(known)}.{suggest(key, known)}"
                    )
        for name in ("space", "measured_space"):
            if getattr(self, name) not in (None, "raw", "normalized"):
                raise unknown(f"{name} of {self.name!r}", getattr(self, name),
                              ("raw", "normalized"))  # fmt: skip
        if self.inference not in (None, "raw", "sigmoid"):
            raise unknown(f"inference of {self.name!r}", self.inference, ("raw", "sigmoid"))

    @property
    def changed(self) -> dict[str, Any]:
        """What differs from the study's budget, by field."""
        found = {**self.attention, **self.objective, **self.training}
        for name in _PLAIN:
            if getattr(self, name) is not None:
                found[name] = getattr(self, name)
        return found

    @property
    def changes(self) -> str:
        """What differs from the study's budget, as text, and the axis's own budget."""
        text = ", ".join(f"{key}={value!r}" for key, value in self.changed.items()) or "nothing"
        own = ", ".join(f"{key}={value!r}" for key, value in self.budget.items())
        return f"{text} with {own}" if own else text


_PLAIN = ("layers", "recipe", "size", "photos", "space", "measured_space", "inference")


def study(variants: Iterable[Variant]) -> tuple[Variant, ...]:
    """Check that a study says what it means, and let every row name all that it changes.

    Args:
        variants: Its rows; each names what it changes of its `base`.

    Returns:
        The rows, in order, with what their bases change put into them.

    Raises:
        TTameError: If a name stands twice in an axis, a row changes several things at once, names
            a base that does not stand before it, or two rows of an axis change the same.
    """
    rows: list[Variant] = []
    named: dict[tuple[str, str], Variant] = {}
    for row in variants:
        if (row.axis, row.name) in named:
            raise TTameError(f"the study has two rows on axis {row.axis!r} named {row.name!r}")
        if len(row.changed) > 1 and not row.together:
            raise TTameError(
                f"variant {row.name!r} on axis {row.axis!r} changes {len(row.changed)} things at "
                f"once: {', '.join(row.changed)}; change one, name the row that it changes further "
                "as `base`, or say in `together` why they are one"
            )
        if row.base is not None and (row.axis, row.base) not in named:
            known = [name for axis, name in named if axis == row.axis]
            raise TTameError(
                f"variant {row.name!r}: no row {row.base!r} stands before it on axis "
                f"{row.axis!r}, only {', '.join(known)}.{suggest(row.base, known)}"
            )
        whole = row if row.base is None else _merge(named[row.axis, row.base], row)
        named[row.axis, row.name] = whole
        rows.append(whole)
    for row in rows:
        same = [other.name for other in rows
                if (other.axis, other.changes) == (row.axis, row.changes)]  # fmt: skip
        if len(same) > 1:
            raise TTameError(
                f"the study has two rows on axis {row.axis!r} that change {row.changes}: "
                f"{' and '.join(same)}"
            )
    return tuple(rows)


def _merge(base: Variant, row: Variant) -> Variant:
    """A row with the changes of its base, its own taking precedence."""
    merged: dict[str, Any] = {name: {**getattr(base, name), **getattr(row, name)}
                              for name in _MAPPINGS}  # fmt: skip
    for name in _PLAIN:
        if getattr(row, name) is None:
            merged[name] = getattr(base, name)
    return replace(row, **merged)


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


def changed_config(variant: Variant, config: TrainingConfig) -> TrainingConfig:
    """The training of a variant, where `config` is what all share."""
    objective = replace(config.objective, **variant.objective)
    return replace(config, **{"objective": objective, **variant.training})
