"""Studies: variants of training, each trained and measured alike, as data in one file.

A study's file is TOML: a table `budget` of what all runs share, tables `axes.NAME` of what an axis
has otherwise, and an array `variants` whose entries are fields of `Variant`, plus `seeds` and
`shown` where they differ from the budget's. Entries of `claims` say which of two rows others have
found better. A variant is a row of a study and differs from another row in one thing. A run is a
variant, a seed and the classes it is shown; each leaves one record
(`ttame.companion.studies.runs`).
"""

from __future__ import annotations

import re
import tomllib
from collections.abc import Iterable, Mapping, Sequence
from dataclasses import dataclass, field, fields, replace
from pathlib import Path
from typing import Any, Literal

import pandas as pd

from ttame.attention import AttentionConfig
from ttame.errors import TTameError, suggest, unknown
from ttame.masking import Space
from ttame.training.config import GROUP_OF, TrainingConfig
from ttame.training.objective import ObjectiveConfig

Shown = Literal["all", "even", "odd"]
_MAPPINGS = {
    "attention": AttentionConfig,
    "objective": ObjectiveConfig,
    "training": TrainingConfig,
}
_PLAIN = ("layers", "recipe", "size", "photos", "space", "measured_space", "inference")


@dataclass(frozen=True)
class Budget:
    """What all runs of a study share.

    Attributes:
        backbone: Name of the classifier.
        recipe: Name in `ttame.training.config.RECIPES`.
        steps: Optimiser steps.
        batch_size: Photos per step.
        held_out: Validation photos that are measured, drawn by seed 0.
        size: Height and width of the photos, pixels; `None`: the classifier's.
        seeds: Each variant is trained once per seed.
        shown: Classes that training shows, each choice a run of its own: `"all"`, or those of
            `"even"` or `"odd"` place among the sorted classes of the data.
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
    training: Mapping[str, Any] = field(default_factory=dict)


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
        recipe: Another recipe of `ttame.training.config.RECIPES` than the study's.
        size: Height and width of the photos in training, pixels; measured is at the study's.
        photos: Photos to train on, drawn by the seed; `None`: the study's.
        space: Masking space in training; `None`: the backbone's.
        measured_space: Masking space of AD and IC; `None`: the backbone's.
        inference: The map that is measured: `"raw"`, as published, or its `"sigmoid"`; both are
            scaled to [0, 1] by their own minimum and maximum.
        base: Name of the row of the same axis that this one changes; `None`: the row that changes
            nothing.
        together: Why several fields are one change; without it they are refused.
        budget: Fields of `Budget` that the whole axis has otherwise than the study.
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
            known = (
                list(GROUP_OF) if kind is TrainingConfig else [item.name for item in fields(kind)]
            )
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


@dataclass(frozen=True)
class Run:
    """One training and its measurement.

    Attributes:
        variant: What differs from the budget.
        seed: Training seed.
        shown: Which classes training shows.
        budget: What all runs share, with what the axis has otherwise.
    """

    variant: Variant
    seed: int
    shown: Shown
    budget: Budget

    @property
    def name(self) -> str:
        """A file name: axes share the run that changes nothing."""
        changes = re.sub(r"[^a-z0-9.]+", "-", self.variant.changes.lower()).strip("-")
        shown = "" if self.shown == "all" else f"_{self.shown}"
        return f"{changes}{shown}_seed{self.seed}"


@dataclass(frozen=True)
class Claim:
    """What others say of two rows of an axis, to be compared with what is measured.

    Attributes:
        text: In words, with where it is said.
        axis: The axis.
        better: Name of the row that is said to be better.
        worse: Name of the other one.
        score: On which score, such as `"AD 15%"`; default: all together.
    """

    text: str
    axis: str
    better: str
    worse: str
    score: str = "IC - AD"


@dataclass(frozen=True)
class Study:
    """A study as its file says it.

    Attributes:
        budget: What all runs share.
        variants: Its rows, in order.
        runs: What has to be run, without repetitions.
        claims: What others say of the variants.
    """

    budget: Budget
    variants: tuple[Variant, ...]
    runs: tuple[Run, ...]
    claims: tuple[Claim, ...] = ()

    @property
    def axes(self) -> tuple[str, ...]:
        """The axes, in order."""
        return tuple(dict.fromkeys(variant.axis for variant in self.variants))

    def missing(self, folder: Path | str) -> tuple[Run, ...]:
        """The runs that have no record in a folder."""
        return tuple(run for run in self.runs if not (Path(folder) / f"{run.name}.json").is_file())


def read_study(path: Path | str) -> Study:
    """Read a study's file.

    Raises:
        TTameError: If the file is missing or no TOML, or has a field that does not exist, a row
            without axis or name, rows that repeat each other, or one that changes several things
            at once.
    """
    path = Path(path)
    if not path.is_file():
        raise TTameError(f"study {str(path)!r} does not exist")
    try:
        found = tomllib.loads(path.read_text(encoding="utf-8"))
    except (tomllib.TOMLDecodeError, UnicodeDecodeError) as error:
        raise TTameError(f"study {str(path)!r} is not TOML: {error}") from error
    _known(found, ("title", "budget", "axes", "variants", "claims"), str(path))
    shared = _budget(found.get("budget", {}), f"{str(path)!r}, budget")
    entries, axes = found.get("variants", []), found.get("axes", {})
    _known(axes, {str(entry.get("axis")) for entry in entries}, f"{str(path)!r}, axes")
    budgets = {
        axis: _budget({**vars(shared), **own}, f"{str(path)!r}, axis {axis!r}")
        for axis, own in axes.items()
    }
    names = [item.name for item in fields(Variant) if item.name != "budget"]
    rows: list[Variant] = []
    for entry in entries:
        label = f"{str(path)!r}, variant {entry.get('name', '?')!r}"
        _known(entry, [*names, "seeds", "shown"], label)
        if not {"axis", "name"} <= entry.keys():
            raise TTameError(f"{label}: axis and name are needed")
        # Seeds do not make another budget: with the same seed the run is the same.
        own = {key: value for key, value in axes.get(entry["axis"], {}).items()
               if key not in ("seeds", "shown")}  # fmt: skip
        given = {key: _frozen(value) for key, value in entry.items() if key in names}
        rows.append(Variant(**given, budget=own))
    variants = study(rows)
    runs: dict[str, Run] = {}
    for entry, variant in zip(entries, variants, strict=True):
        budget = budgets.get(variant.axis, shared)
        for seed in entry.get("seeds", budget.seeds):
            for shown in entry.get("shown", budget.shown):
                if shown not in ("all", "even", "odd"):
                    raise TTameError(
                        f"{str(path)!r}, variant {variant.name!r}: shown must be 'all', 'even' or "
                        f"'odd': {shown!r}"
                    )
                run = Run(variant, seed, shown, budget)
                runs.setdefault(run.name, run)
    claims = [_claim(entry, variants, str(path)) for entry in found.get("claims", [])]
    return Study(shared, variants, tuple(runs.values()), tuple(claims))


def _budget(values: Mapping[str, Any], where: str) -> Budget:
    _known(values, [item.name for item in fields(Budget)], where)
    if not {"backbone", "steps"} <= values.keys():
        raise TTameError(f"{where}: backbone and steps are needed")
    return Budget(**{key: _frozen(value) for key, value in values.items()})


def _claim(entry: Mapping[str, Any], variants: Iterable[Variant], path: str) -> Claim:
    label = f"{path!r}, claim {entry.get('text', '?')!r}"
    _known(entry, [item.name for item in fields(Claim)], label)
    if not {"text", "axis", "better", "worse"} <= entry.keys():
        raise TTameError(f"{label}: text, axis, better and worse are needed")
    names = [row.name for row in variants if row.axis == entry["axis"]]
    for name in (entry["better"], entry["worse"]):
        if name not in names:
            raise TTameError(
                f"{label}: axis {entry['axis']!r} has no row {name!r}.{suggest(name, names)}"
            )
    return Claim(**entry)


def _frozen(value: Any) -> Any:
    return tuple(value) if isinstance(value, list) else value


def _known(found: Mapping[str, Any], names: Iterable[str], where: str) -> None:
    known = list(names)
    for key in found:
        if key not in known:
            raise TTameError(
                f"{where}: unknown field {key!r}, known: {', '.join(known)}.{suggest(key, known)}"
            )


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


def changed_config(variant: Variant, config: TrainingConfig) -> TrainingConfig:
    """Apply a variant's changes to the training configuration that all runs share."""
    return config.replace(objective=variant.objective, **variant.training)


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
