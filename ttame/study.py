"""Studies: variants of training, each trained and measured alike, as data in one file.

A study's file is TOML: a table `budget` of what all runs share, and an array `variants` whose
entries are fields of `ttame.ablations.Variant`, plus `seeds` and `shown` where they differ from
the budget's. A run is a variant, a seed and the classes it is shown; each leaves one record.
"""

from __future__ import annotations

import re
import tomllib
from collections.abc import Sequence
from dataclasses import dataclass, field, fields, replace
from pathlib import Path
from typing import Any, Literal

import pandas as pd

from ttame.ablations import Variant, resized, study
from ttame.backbones import Backbone
from ttame.data import PhotoList
from ttame.errors import TTameError, suggest
from ttame.evaluation import evaluate
from ttame.explainer import Explainer
from ttame.methods import ttame_method
from ttame.metrics import PERCENTAGES
from ttame.recipes import architecture, open_recipe
from ttame.records import read_record, write_record
from ttame.results import read_results
from ttame.training import fit
from ttame.variants import build_variant, changed_config

FORMAT, VERSION = "ttame-study-run", 1
Shown = Literal["all", "even", "odd"]
_DIGITS = 6  # of probabilities in records


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
    training: dict[str, Any] = field(default_factory=dict)


@dataclass(frozen=True)
class Run:
    """One training and its measurement.

    Attributes:
        variant: What differs from the study's budget.
        seed: Of the training.
        shown: Which classes training shows.
    """

    variant: Variant
    seed: int
    shown: Shown

    @property
    def name(self) -> str:
        """A file name: axes share the run that changes nothing."""
        changes = re.sub(r"[^a-z0-9.]+", "-", self.variant.changes.lower()).strip("-")
        shown = "" if self.shown == "all" else f"_{self.shown}"
        return f"{changes}{shown}_seed{self.seed}"


@dataclass(frozen=True)
class Study:
    """A study as its file says it.

    Attributes:
        budget: What all runs share.
        variants: Its rows, in order.
        runs: What has to be run, without repetitions.
    """

    budget: Budget
    variants: tuple[Variant, ...]
    runs: tuple[Run, ...]


def read_study(path: Path | str) -> Study:
    """Read a study's file.

    Raises:
        TTameError: If the file is missing or no TOML, or has a field that does not exist, a row
            without axis or name, or rows that repeat each other.
    """
    path = Path(path)
    if not path.is_file():
        raise TTameError(f"study {str(path)!r} does not exist")
    try:
        found = tomllib.loads(path.read_text(encoding="utf-8"))
    except (tomllib.TOMLDecodeError, UnicodeDecodeError) as error:
        raise TTameError(f"study {str(path)!r} is not TOML: {error}") from error
    _known(found, ("title", "budget", "variants"), str(path))
    budget = found.get("budget", {})
    _known(budget, [item.name for item in fields(Budget)], f"{str(path)!r}, budget")
    if not {"backbone", "steps"} <= budget.keys():
        raise TTameError(f"{str(path)!r}, budget: backbone and steps are needed")
    values: dict[str, Any] = {
        key: tuple(value) if isinstance(value, list) else value for key, value in budget.items()
    }
    shared = Budget(**values)
    names = [item.name for item in fields(Variant)]
    variants: list[Variant] = []
    runs: dict[str, Run] = {}
    for entry in found.get("variants", []):
        label = f"{str(path)!r}, variant {entry.get('name', '?')!r}"
        _known(entry, [*names, "seeds", "shown"], label)
        if not {"axis", "name"} <= entry.keys():
            raise TTameError(f"{label}: axis and name are needed")
        variant = Variant(**{key: value for key, value in entry.items() if key in names})
        variants.append(variant)
        for seed in entry.get("seeds", shared.seeds):
            for shown in entry.get("shown", shared.shown):
                if shown not in ("all", "even", "odd"):
                    raise TTameError(f"{label}: shown must be 'all', 'even' or 'odd': {shown!r}")
                run = Run(variant, seed, shown)
                runs.setdefault(run.name, run)
    return Study(shared, study(variants), tuple(runs.values()))


def carry_out(
    run: Run, budget: Budget, train: PhotoList, held_out: PhotoList, out: Path, work: Path
) -> Path:
    """Train and measure one run of a study, and write its record; a killed run goes on.

    Args:
        run: Variant, seed and classes.
        budget: What all runs share.
        train: All photos that may be trained on, with labels.
        held_out: The photos that are measured.
        out: Folder of the records.
        work: Folder of the training runs.

    Returns:
        The record's path.

    Raises:
        TTameError: If training or evaluation fails.
    """
    variant, recipe = run.variant, run.variant.recipe or budget.recipe
    base = replace(
        open_recipe(recipe),
        **{"steps": budget.steps, "batch_size": budget.batch_size, "seed": run.seed,
           **budget.training},
    )  # fmt: skip
    config = changed_config(variant, base)
    photos = choose_classes(train, run.shown).sample(variant.photos, run.seed)
    full = build_variant(variant, budget.backbone, architecture(recipe), budget.size)
    small = resized(full, variant.size) if variant.size else full
    folder = work / run.name
    begun = (folder / "checkpoints" / "last.ckpt").is_file()
    trained = fit(small, photos, config, folder, name="run", resume=begun, progress=False)
    at_size = Backbone(full.spec, full.classifier)
    measured = Explainer(at_size, trained.mechanism, full.layers).eval()
    results = folder / "measured.jsonl"
    results.unlink(missing_ok=True)
    evaluate(measured, held_out, results, methods={"T-TAME": ttame_method(measured)},
             metrics=("AD/IC",), batch_size=20)  # fmt: skip
    header, records = read_results(results)
    columns = ["probability", *(f"masked_{share}" for share in PERCENTAGES)]
    facts = ("config", "attention", "layers", "data", "photos", "steps", "minutes")
    training = {key: trained.record[key] for key in facts}
    if begun:
        training["minutes"] = None  # those before the kill are not known
    return write_record(
        out / f"{run.name}.json", FORMAT, VERSION, run.seed,
        changes=variant.changes, shown=run.shown, recipe=recipe,
        backbone=budget.backbone, weights=full.spec.source, digests=header["config"]["digests"],
        space=full.spec.space, size=list(full.spec.input_size),
        training=training,
        measured_on=held_out.name,
        photos=list(records["photo"]), targets=list(records["target"]),
        **{name: [round(value, _DIGITS) for value in records[name]] for name in columns},
    )  # fmt: skip


def choose_classes(photos: PhotoList, shown: Shown) -> PhotoList:
    """The photos of every class, or of those with an even or odd place in sorted order.

    Raises:
        TTameError: If the photos have no labels to choose by.
    """
    if shown == "all":
        return photos
    if photos.labels is None:
        raise TTameError(f"the photos of {photos.name} have no labels to choose classes by")
    chosen = sorted(set(photos.labels))[0 if shown == "even" else 1 :: 2]
    return photos.select([i for i, label in enumerate(photos.labels) if label in chosen])


def read_runs(folder: Path | str) -> pd.DataFrame:
    """All records of a study, a row a run and photo.

    Args:
        folder: With `*.json` files of `carry_out`.

    Returns:
        Columns run, changes, seed, shown, minutes, photo, target, probability, masked_100 and so
        on; to be read by `ttame.tables.per_sample` with a column `method`.

    Raises:
        TTameError: If there is no record, or one is damaged or of another format or version.
    """
    pieces = []
    for path in sorted(Path(folder).glob("*.json")):
        record = read_record(path, FORMAT, VERSION, "ttame study")
        columns = ["probability", *(name for name in record if name.startswith("masked_"))]
        piece = pd.DataFrame({"photo": record["photos"], "target": record["targets"],
                              **{name: record[name] for name in columns}})  # fmt: skip
        facts = {"run": path.stem, "changes": record["changes"], "seed": record["seed"],
                 "shown": record["shown"], "minutes": record["training"]["minutes"]}  # fmt: skip
        pieces.append(piece.assign(**facts))
    if not pieces:
        raise TTameError(f"no record of a study in {str(folder)!r}; `ttame study` writes them")
    return pd.concat(pieces, ignore_index=True)


def _known(found: dict[str, Any], names: Sequence[str], where: str) -> None:
    for key in found:
        if key not in names:
            raise TTameError(
                f"{where}: unknown field {key!r}, known: {', '.join(names)}.{suggest(key, names)}"
            )
