"""Studies: variants of training, each trained and measured alike, as data in one file.

A study's file is TOML: a table `budget` that all runs share, tables `axes.NAME` that override it
for an axis, and an array `variants` whose entries are fields of `Variant`, with `seeds` and `shown`
where they differ from the budget's. Entries of `claims` state which of two rows others have found
better.
"""

from __future__ import annotations

import tomllib
from collections.abc import Iterable, Mapping
from dataclasses import MISSING, dataclass, fields
from pathlib import Path
from typing import Any, TypeVar, get_args

from ttame.companion.studies.variants import Budget, Run, Shown, Variant, check_keys, merge
from ttame.errors import TTameError, suggest

T = TypeVar("T")


@dataclass(frozen=True)
class Claim:
    """What others found of two rows of an axis, to compare with what is measured.

    Attributes:
        text: The claim in words, with its source.
        axis: Name of the axis.
        better: Name of the row that is said to be better.
        worse: Name of the other row.
        score: Score on which it is better, such as `"AD 15%"`; default: all combined.
    """

    text: str
    axis: str
    better: str
    worse: str
    score: str = "IC - AD"


@dataclass(frozen=True)
class Study:
    """A study, as its file describes it.

    Attributes:
        budget: What all runs share.
        variants: Rows, in order.
        runs: Runs, without repetitions.
        claims: What others found of the variants.
    """

    budget: Budget
    variants: tuple[Variant, ...]
    runs: tuple[Run, ...]
    claims: tuple[Claim, ...] = ()

    @property
    def axes(self) -> tuple[str, ...]:
        """Names of the axes, in order."""
        return tuple(dict.fromkeys(variant.axis for variant in self.variants))

    def missing(self, folder: Path | str) -> tuple[Run, ...]:
        """Return the runs that have no record in a folder."""
        return tuple(run for run in self.runs if not (Path(folder) / f"{run.name}.json").is_file())


def read_study(path: Path | str) -> Study:
    """Read a study's file.

    Raises:
        TTameError: If the file is missing or not TOML, or has an unknown field, a row without axis
            or name, rows that repeat each other, or one that changes several things at once.
    """
    path = Path(path)
    if not path.is_file():
        raise TTameError(f"study {str(path)!r} does not exist")
    try:
        found = tomllib.loads(path.read_text(encoding="utf-8"))
    except (tomllib.TOMLDecodeError, UnicodeDecodeError) as error:
        raise TTameError(f"study {str(path)!r} is not TOML: {error}") from error
    try:
        return _parse(found, path)
    except (TypeError, AttributeError, KeyError) as error:
        raise TTameError(
            f"study {str(path)!r} holds a value of another kind than is needed ({error}); "
            "budget and each of [axes.NAME], [[variants]] and [[claims]] are tables"
        ) from error


def _parse(found: Mapping[str, Any], path: Path) -> Study:
    where = repr(str(path))
    check_keys(found, ("title", "budget", "axes", "variants", "claims"), str(path))
    shared = _fill(Budget, found.get("budget", {}), f"{where}, budget")
    entries, axes = found.get("variants", []), found.get("axes", {})
    check_keys(axes, {str(entry.get("axis")) for entry in entries}, f"{where}, axes")
    budgets = {
        axis: _fill(Budget, {**vars(shared), **own}, f"{where}, axis {axis!r}")
        for axis, own in axes.items()
    }
    labels = [f"{where}, variant {entry.get('name', '?')!r}" for entry in entries]
    rows = []
    for entry, label in zip(entries, labels, strict=True):
        # Seeds do not make another budget: with the same seed the run is the same.
        own = {key: value for key, value in axes.get(entry.get("axis"), {}).items()
               if key not in ("seeds", "shown")}  # fmt: skip
        rows.append(_fill(Variant, entry, label, ("seeds", "shown"), budget=own))
    variants = study(rows)
    runs: dict[str, Run] = {}
    for entry, label, variant in zip(entries, labels, variants, strict=True):
        budget = budgets.get(variant.axis, shared)
        for seed in entry.get("seeds", budget.seeds):
            for shown in entry.get("shown", budget.shown):
                if shown not in get_args(Shown):
                    raise TTameError(f"{label}: shown must be 'all', 'even' or 'odd': {shown!r}")
                run = Run(variant, seed, shown, budget)
                runs.setdefault(run.name, run)
    claims = [_claim(entry, variants, where) for entry in found.get("claims", [])]
    return Study(shared, variants, tuple(runs.values()), tuple(claims))


def _claim(entry: Mapping[str, Any], variants: Iterable[Variant], where: str) -> Claim:
    label = f"{where}, claim {entry.get('text', '?')!r}"
    claim = _fill(Claim, entry, label)
    names = [row.name for row in variants if row.axis == claim.axis]
    for name in (claim.better, claim.worse):
        if name not in names:
            raise TTameError(
                f"{label}: axis {claim.axis!r} has no row {name!r}.{suggest(name, names)}"
            )
    return claim


def _fill(
    kind: type[T], entry: Mapping[str, Any], where: str, extra: tuple[str, ...] = (), **given: Any
) -> T:
    """Make a dataclass of a table of the file and the fields `given`; `extra` keys are ignored."""
    own = [item for item in fields(kind) if item.name not in given]  # type: ignore[arg-type]
    check_keys(entry, [*(item.name for item in own), *extra], where)
    needed = [item.name for item in own if item.default is item.default_factory is MISSING]
    if not set(needed) <= entry.keys():
        raise TTameError(f"{where}: {', '.join(needed[:-1])} and {needed[-1]} are needed")
    values = {key: tuple(value) if isinstance(value, list) else value
              for key, value in entry.items() if key not in extra}  # fmt: skip
    return kind(**values, **given)


def study(variants: Iterable[Variant]) -> tuple[Variant, ...]:
    """Check the rows of a study, and merge the changes of each row's base into it.

    Args:
        variants: Rows; each names what it changes of its `base`.

    Returns:
        The rows in order, each with all that it changes.

    Raises:
        TTameError: If two rows of an axis share a name or change the same, or a row changes several
            things at once or names a base that does not come before it.
    """
    named: dict[tuple[str, str], Variant] = {}
    changed: dict[tuple[str, str], Variant] = {}
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
        whole = row if row.base is None else merge(named[row.axis, row.base], row)
        named[row.axis, row.name] = whole
        same = changed.setdefault((row.axis, whole.changes), whole)
        if same is not whole:
            raise TTameError(
                f"the study has two rows on axis {row.axis!r} that change {whole.changes}: "
                f"{same.name} and {row.name}"
            )
    return tuple(named.values())
