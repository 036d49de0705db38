"""Train and measure the runs of a study, and read the records that they leave."""

from __future__ import annotations

import re
import shutil
import time
from collections.abc import Iterable
from dataclasses import replace
from pathlib import Path
from typing import Any

import pandas as pd
import torch
from torch import Tensor

from ttame.attention import AttentionConfig
from ttame.companion.studies.study import Run, Shown, Study, Variant, changed_config
from ttame.data import PhotoList
from ttame.errors import TTameError
from ttame.evaluation.confidence import PERCENTAGES
from ttame.evaluation.evaluate import evaluate
from ttame.explainer import Explainer
from ttame.loading import attach
from ttame.masking import Space
from ttame.methods import Method, ttame_method
from ttame.records import read_record, read_results, write_record
from ttame.training.config import architecture, open_recipe
from ttame.training.fit import fit

FORMAT, VERSION = "ttame-study-run", 1
FAILED = "ttame-study-failure"
COMMAND = "ttame study"
_DIGITS = 6  # of probabilities in records


def carry_out(run: Run, train: PhotoList, held_out: PhotoList, out: Path, work: Path) -> Path:
    """Train and measure one run of a study, and write its record; a killed run goes on.

    A run that fails leaves its error in `RUN.failure` instead, and begins anew the next time.

    Args:
        run: Variant, seed, classes and budget.
        train: All photos that may be trained on, with labels.
        held_out: The photos that are measured; of them, as many as the budget says.
        out: Folder of the records.
        work: Folder of the training runs.

    Returns:
        The record's path.

    Raises:
        TTameError: If training or evaluation fails.
    """
    folder, failure = work / run.name, out / f"{run.name}.failure"
    if failure.is_file():
        shutil.rmtree(folder, ignore_errors=True)
    try:
        record = _measured(run, train, held_out, folder)
    except Exception as error:
        what = f"{type(error).__name__}: {error}"
        write_record(failure, FAILED, VERSION, run.seed,
                     changes=run.variant.changes, shown=run.shown, error=what)  # fmt: skip
        raise TTameError(f"run {run.name} failed: {error}") from error
    path = write_record(out / f"{run.name}.json", FORMAT, VERSION, run.seed, **record)
    failure.unlink(missing_ok=True)
    return path


def _measured(run: Run, train: PhotoList, held_out: PhotoList, folder: Path) -> dict[str, Any]:
    """Train, measure and return the content of a run's record."""
    variant, budget, start = run.variant, run.budget, time.perf_counter()
    recipe = variant.recipe or budget.recipe
    base = open_recipe(recipe).replace(
        **{"steps": budget.steps, "batch_size": budget.batch_size, "seed": run.seed,
           **budget.training},
    )  # fmt: skip
    config = changed_config(variant, base)
    photos = choose_classes(train, run.shown).sample(variant.photos, run.seed)
    full = build_variant(variant, budget.backbone, architecture(recipe), budget.size)
    seen = masked_in(resized(full, variant.size) if variant.size else full, variant.space)
    begun = (folder / "checkpoints" / "last.ckpt").is_file()
    trained = fit(seen, photos, config, folder, name="run", resume=begun, progress=False)
    at_size = masked_in(full, variant.measured_space)
    measured = at_size.replace(mechanism=trained.mechanism).eval()
    method = ttame_method(measured)
    if variant.inference == "sigmoid":
        method = _sigmoid(method)
    results = folder / "measured.jsonl"
    results.unlink(missing_ok=True)
    evaluate(measured, held_out.sample(budget.held_out), results, methods={"T-TAME": method},
             metrics=("AD/IC",), batch_size=20)  # fmt: skip
    header, records = read_results(results)
    columns = ["probability", *(f"masked_{share}" for share in PERCENTAGES)]
    facts = ("config", "attention", "layers", "data", "photos", "steps", "minutes")
    training = {key: trained.record[key] for key in facts}
    minutes: float | None = round((time.perf_counter() - start) / 60, 2)
    if begun:  # the minutes before the kill are not known
        training["minutes"] = minutes = None
    return {
        "changes": variant.changes,
        "shown": run.shown,
        "recipe": recipe,
        "backbone": budget.backbone,
        "weights": full.spec.source,
        "digests": header["config"]["digests"],
        "space": {"training": seen.spec.space, "measured": measured.spec.space},
        "inference": variant.inference or "raw",
        "size": list(full.spec.input_size),
        "parameters": sum(item.numel() for item in trained.mechanism.parameters()),
        "training": training,
        "minutes": minutes,
        "measured_on": held_out.name,
        "photos": list(records["photo"]),
        "targets": list(records["target"]),
        **{name: [round(value, _DIGITS) for value in records[name]] for name in columns},
    }


def _sigmoid(method: Method) -> Method:
    def maps(images: Tensor, targets: Tensor) -> Tensor:
        return torch.sigmoid(method(images, targets))

    return maps


def choose_classes(photos: PhotoList, shown: Shown) -> PhotoList:
    """Select the photos of every class, or of those with an even or odd place in sorted order.

    Raises:
        TTameError: If the photos have no labels to choose by.
    """
    if shown == "all":
        return photos
    if photos.labels is None:
        raise TTameError(f"the photos of {photos.name} have no labels to choose classes by")
    chosen = sorted(set(photos.labels))[0 if shown == "even" else 1 :: 2]
    return photos.select([i for i, label in enumerate(photos.labels) if label in chosen])


def build_variant(variant: Variant, backbone: str, config: AttentionConfig | None = None,
                  size: int | None = None) -> Explainer:  # fmt: skip
    """Build the untrained explainer of a variant.

    Args:
        variant: Its layers and architecture.
        backbone: Name of the classifier.
        config: The architecture that the variant changes; default: the papers'.
        size: Height and width of the input, pixels; default: the classifier's.

    Raises:
        TTameError: If the backbone has fewer layers than the variant asks for, or none of a name.
    """
    changed = replace(config or AttentionConfig(), **variant.attention)
    if isinstance(variant.layers, int):
        plain = attach(backbone)
        if not 1 <= variant.layers <= len(plain.layers):
            raise TTameError(
                f"variant {variant.name!r} asks for {variant.layers} layers, {backbone} has "
                f"{plain.layers}"
            )
        explainer = attach(backbone, plain.layers[-variant.layers :], config=changed)
    else:
        explainer = attach(backbone, variant.layers or "auto", config=changed)
    return resized(explainer, size) if size else explainer


def masked_in(explainer: Explainer, space: Space | None) -> Explainer:
    """Mask photos in another space; `None`: in the classifier's own."""
    spec = replace(explainer.spec, space=space or explainer.spec.space)
    return explainer.replace(spec=spec)


def resized(explainer: Explainer, size: int) -> Explainer:
    """Change the input size, for runs that have to be cheap.

    Args:
        explainer: Not changed; classifier and mechanism are shared.
        size: Height and width of the input, pixels.
    """
    spec = explainer.spec
    resize = round(size * spec.resize / min(spec.input_size))
    return explainer.replace(spec=replace(spec, input_size=(size, size), resize=resize))


def at_layer(explainer: Explainer, layer: str) -> Explainer:
    """Bind CAM methods to another layer.

    Args:
        explainer: Not changed.
        layer: Where `ttame.methods` takes feature maps for CAM methods.
    """
    return explainer.replace(spec=replace(explainer.spec, cam_layer=layer))


def read_runs(folder: Path | str) -> pd.DataFrame:
    """Read all records of a study, one row per run and photo.

    Args:
        folder: With `*.json` files of `carry_out`.

    Returns:
        Columns run, changes, seed, shown, minutes (of training), photo, target, probability,
        masked_100 and so on; to be read by `ttame.evaluation.tables.per_sample` with a column
        `method`.

    Raises:
        TTameError: If there is no record, or one is damaged or of another format or version.
    """
    pieces = []
    for run, record in _records(folder).items():
        columns = ["probability", *(name for name in record if name.startswith("masked_"))]
        piece = pd.DataFrame({"photo": record["photos"], "target": record["targets"],
                              **{name: record[name] for name in columns}})  # fmt: skip
        facts = {"run": run, "changes": record["changes"], "seed": record["seed"],
                 "shown": record["shown"], "minutes": record["training"]["minutes"]}  # fmt: skip
        pieces.append(piece.assign(**facts))
    return pd.concat(pieces, ignore_index=True)


def study_provenance(folder: Path | str) -> pd.DataFrame:
    """Where the records of a study come from: models, data, commands, commits, dates, machines.

    Args:
        folder: The records.

    Returns:
        One column, one fact per row; facts that differ between records are listed.

    Raises:
        TTameError: As `read_runs`.
    """
    records = list(_records(folder).values())
    facts = {
        "runs": [len(records)],
        "classifier": [record["backbone"] for record in records],
        "weights": [record["weights"] for record in records],
        "trained on": [record["training"]["data"] for record in records],
        "measured on": [f"{len(record['photos'])} photos of {record['measured_on']}"
                        for record in records],
        "a run's command": [re.sub(r"(?: --only \S+)+", " --only RUN", record["command"])
                            for record in records],
        "commit": [record["commit"] for record in records],
        "date": [record["date"][:10] for record in records],
        "minutes of all runs": [total_minutes(_minutes(record) for record in records)],
        "seeds": [record["seed"] for record in records],
        "machine": [record["hardware"] for record in records],
        "ttame": [record["versions"]["ttame"] for record in records],
        "torch": [record["versions"]["torch"] for record in records],
    }  # fmt: skip
    shown = {key: ", ".join(map(str, sorted(set(values)))) for key, values in facts.items()}
    return pd.DataFrame({"provenance": shown})


def _records(folder: Path | str) -> dict[str, dict[str, Any]]:
    """Read all records of a study by run."""
    paths = sorted(Path(folder).glob("*.json"))
    if not paths:
        raise TTameError(f"no record of a study in {str(folder)!r}; `{COMMAND}` writes them")
    return {path.stem: read_record(path, FORMAT, VERSION, COMMAND) for path in paths}


def unfinished(study: Study, folder: Path | str) -> pd.DataFrame:
    """List the runs of a study that have no record, and why.

    Args:
        study: What there should be.
        folder: What there is.

    Returns:
        Columns axis, variant, seed and state: `"not run"`, or the error that it failed with.

    Raises:
        TTameError: If a failure's file is damaged or of another format or version.
    """
    rows = []
    for run in study.missing(folder):
        path, state = Path(folder) / f"{run.name}.failure", "not run"
        if path.is_file():
            state = f"failed: {read_record(path, FAILED, VERSION, COMMAND)['error']}"
        rows.append((run.variant.axis, run.variant.name, run.seed, state))
    return pd.DataFrame(rows, columns=["axis", "variant", "seed", "state"]).set_index("axis")


def minutes_left(runs: Iterable[Run], folder: Path | str) -> float | None:
    """Estimate how long runs take, by the pace of finished ones on the same classifier and size.

    Args:
        runs: Those that are missing.
        folder: The records.

    Returns:
        Minutes, one run after the other; `None` where nothing like one of them has finished.
    """
    paces: dict[tuple[str, int], list[float]] = {}
    for path in Path(folder).glob("*.json"):
        record = read_record(path, FORMAT, VERSION, COMMAND)
        if (minutes := _minutes(record)) is not None:
            kind = (record["backbone"], record["size"][0])
            paces.setdefault(kind, []).append(minutes / record["training"]["steps"])
    total = 0.0
    sizes = {backbone: size for backbone, size in paces}
    for run in runs:
        kind = (run.budget.backbone, run.budget.size or sizes.get(run.budget.backbone, 0))
        if kind not in paces:
            return None
        steps = run.variant.training.get("steps", run.budget.steps)
        total += steps * sum(paces[kind]) / len(paces[kind])
    return total


def total_minutes(minutes: Iterable[float | None]) -> str:
    """Sum the minutes of runs, and say of how many they are unknown."""
    known = pd.Series(minutes, dtype=float)
    missing = known.isna().sum()
    rest = f" and those of {missing} runs, not recorded" if missing else ""
    return f"{known.sum():.0f}{rest}"


def _minutes(record: dict[str, Any]) -> float | None:
    """Return the minutes of a run, its measurement included if timed; `None` if it was killed."""
    minutes: float | None = record.get("minutes") or record["training"]["minutes"]
    return minutes
