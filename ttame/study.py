"""Studies: variants of training, each trained and measured alike, as data in one file.

A study's file is TOML: a table `budget` of what all runs share, tables `axes.NAME` of what an axis
has otherwise, and an array `variants` whose entries are fields of `ttame.variants.Variant`, plus
`seeds` and `shown` where they differ from the budget's. Entries of `claims` say which of two rows
others have found better. A run is a variant, a seed and the classes
it is shown; each leaves one record (`ttame.study_runs`).
"""

from __future__ import annotations

import re
import tomllib
from collections.abc import Iterable, Mapping
from dataclasses import dataclass, field, fields
from pathlib import Path
from typing import Any, Literal

from ttame.errors import TTameError, suggest
from ttame.variants import Variant, study

Shown = Literal["all", "even", "odd"]


@dataclass(frozen=True)
class Budget:
    """What all runs of a study share.

    Attributes:
        backbone: Name of the classifier.
        recipe: Of `ttame.recipes.RECIPES`.
        steps: Optimiser steps.
        batch_size: Photos a step.
        held_out: Validation photos that are measured, drawn by seed 0.
        size: Height and width of the photos, pixels; `None`: the classifier's.
        seeds: Each variant is trained once a seed.
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
class Run:
    """One training and its measurement.

    Attributes:
        variant: What differs from the budget.
        seed: Of the training.
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


def _budget(values: Mapping[str, Any], where: str) -> Budget:
    _known(values, [item.name for item in fields(Budget)], where)
    if not {"backbone", "steps"} <= values.keys():
        raise TTameError(f"{where}: backbone and steps are needed")
    return Budget(**{key: _frozen(value) for key, value in values.items()})


def _frozen(value: Any) -> Any:
    return tuple(value) if isinstance(value, list) else value


def _known(found: Mapping[str, Any], names: Iterable[str], where: str) -> None:
    known = list(names)
    for key in found:
        if key not in known:
            raise TTameError(
                f"{where}: unknown field {key!r}, known: {', '.join(known)}.{suggest(key, known)}"
            )
