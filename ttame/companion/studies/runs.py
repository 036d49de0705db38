"""Train and measure the runs of a study, one record per run."""

from __future__ import annotations

import shutil
import time
from dataclasses import replace
from pathlib import Path
from typing import Any

import torch
from torch import Tensor

from ttame.attention import AttentionConfig
from ttame.classifiers.registry import backbone_spec
from ttame.companion.studies.records import FAILED, FORMAT, VERSION
from ttame.companion.studies.variants import Run, Shown, Variant, changed_config
from ttame.data import PhotoList
from ttame.errors import TTameError
from ttame.evaluation.confidence import PERCENTAGES
from ttame.evaluation.evaluate import evaluate
from ttame.explainer import Explainer
from ttame.loading import attach
from ttame.masking import Space
from ttame.methods import ttame_method
from ttame.records import read_results, write_record
from ttame.training.fit import fit
from ttame.training.recipes import architecture, layers, open_recipe

_DIGITS = 6  # of probabilities in records


def carry_out(
    run: Run,
    train: PhotoList,
    held_out: PhotoList,
    out: Path,
    work: Path,
    device: torch.device | None = None,
) -> Path:
    """Train and measure one run of a study, and write its record; a killed run is resumed.

    A run that fails leaves its error in `RUN.failure` instead, and starts anew the next time.

    Args:
        run: The run.
        train: Labelled photos to train on; the variant may take some of them.
        held_out: Photos to measure; the budget may take some of them.
        out: Folder of the records.
        work: Folder of the training runs.
        device: Where the classifier is; default: the CPU. Training goes where Lightning trains.

    Returns:
        Path of the record.

    Raises:
        TTameError: If training or evaluation fails.
    """
    folder, failure = work / run.name, out / f"{run.name}.failure"
    if failure.is_file():
        shutil.rmtree(folder, ignore_errors=True)
    try:
        record = _measured(run, train, held_out, folder, device)
    except Exception as error:
        what = f"{type(error).__name__}: {error}"
        write_record(failure, FAILED, VERSION, run.seed,
                     changes=run.variant.changes, shown=run.shown, error=what)  # fmt: skip
        raise TTameError(f"run {run.name} failed: {error}") from error
    path = write_record(out / f"{run.name}.json", FORMAT, VERSION, run.seed, **record)
    failure.unlink(missing_ok=True)
    return path


def _measured(
    run: Run, train: PhotoList, held_out: PhotoList, folder: Path, device: torch.device | None
) -> dict[str, Any]:
    """Train and measure a run, and return the content of its record."""
    variant, budget, start = run.variant, run.budget, time.perf_counter()
    recipe = variant.recipe or budget.recipe
    base = open_recipe(recipe).replace(
        **{"steps": budget.steps, "batch_size": budget.batch_size, "seed": run.seed,
           **budget.training},
    )  # fmt: skip
    config = changed_config(variant, base)
    photos = choose_classes(train, run.shown).sample(variant.photos, run.seed)
    chosen = layers(recipe, backbone_spec(budget.backbone))
    full = build_variant(variant, budget.backbone, architecture(recipe), budget.size, chosen)
    full.to(device or torch.device("cpu"))
    seen = masked_in(resized(full, variant.size) if variant.size else full, variant.space)
    begun = (folder / "checkpoints" / "last.ckpt").is_file()
    trained = fit(seen, photos, config, folder, name="run", resume=begun, progress=False)
    at_size = masked_in(full, variant.measured_space)
    measured = at_size.replace(mechanism=trained.mechanism).eval()
    raw = ttame_method(measured)

    def method(images: Tensor, targets: Tensor) -> Tensor:
        maps = raw(images, targets)
        return maps.sigmoid() if variant.inference == "sigmoid" else maps

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


def choose_classes(photos: PhotoList, shown: Shown) -> PhotoList:
    """Select the photos of all classes, or of those with an even or odd place in sorted order.

    Raises:
        TTameError: If the photos have no labels.
    """
    if shown == "all":
        return photos
    if photos.labels is None:
        raise TTameError(f"the photos of {photos.name} have no labels to choose classes by")
    chosen = sorted(set(photos.labels))[0 if shown == "even" else 1 :: 2]
    return photos.select([i for i, label in enumerate(photos.labels) if label in chosen])


def build_variant(variant: Variant, backbone: str, config: AttentionConfig | None = None,
                  size: int | None = None, chosen: str = "auto") -> Explainer:  # fmt: skip
    """Build the untrained explainer of a variant.

    Args:
        variant: Variant, of which layers and architecture count.
        backbone: Name of the classifier.
        config: Architecture that the variant changes; default: the papers'.
        size: Height and width of the input, pixels; default: the classifier's.
        chosen: Layers of a variant that names none, as for `ttame.attach`.

    Raises:
        TTameError: If the backbone has no such layers, or fewer than the variant asks for.
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
        explainer = attach(backbone, variant.layers or chosen, config=changed)
    return resized(explainer, size) if size else explainer


def masked_in(explainer: Explainer, space: Space | None) -> Explainer:
    """Replace the masking space of an explainer; `None`: keep the classifier's."""
    spec = replace(explainer.spec, space=space or explainer.spec.space)
    return explainer.replace(spec=spec)


def resized(explainer: Explainer, size: int) -> Explainer:
    """Replace the input size of an explainer, for cheap runs.

    Args:
        explainer: Explainer, which is left unchanged and shares classifier and mechanism.
        size: Height and width of the input, pixels.
    """
    return explainer.replace(spec=explainer.spec.at_size((size, size)))


def at_layer(explainer: Explainer, layer: str) -> Explainer:
    """Replace the layer that CAM methods read.

    Args:
        explainer: Explainer, which is left unchanged.
        layer: Name of the layer.
    """
    return explainer.replace(spec=replace(explainer.spec, cam_layer=layer))
