"""Methods side by side on the same photos: streamed, resumable, every sample recorded."""

from __future__ import annotations

import time
from collections.abc import Callable, Mapping, Sequence
from pathlib import Path
from typing import Any

import torch
from torch import Tensor, nn

from ttame.classifiers.folding import fold_batch_norm
from ttame.classifiers.outputs import probabilities
from ttame.classifiers.weights import weight_digest
from ttame.data import PhotoDataset, PhotoList
from ttame.errors import TTameError
from ttame.evaluation.confidence import PERCENTAGES, masked_probabilities
from ttame.evaluation.cost import count_passes
from ttame.evaluation.insertion import STEPS, insertion_deletion
from ttame.evaluation.road import road
from ttame.explainer import Explainer
from ttame.masking import degenerate
from ttame.methods import DEFAULT_METHODS, Method, build
from ttame.records import ResultsFile, provenance

Progress = Callable[[int, int], None]
METRICS = ("AD/IC", "ROAD", "insertion/deletion")


def evaluate(
    explainer: Explainer,
    photos: PhotoList,
    out: Path | str,
    *,
    methods: Sequence[str] | Mapping[str, Method] = DEFAULT_METHODS,
    metrics: Sequence[str] = ("AD/IC",),
    percentages: Sequence[int] = PERCENTAGES,
    steps: int = STEPS,
    curve_limit: int | None = None,
    batch_size: int = 16,
    seed: int = 0,
    skip_bad: bool = False,
    settings: Mapping[str, Mapping[str, Any]] | None = None,
    command: str | None = None,
    progress: Progress | None = None,
) -> Path:
    """Measure methods on photos and write one record per photo and method.

    The target is the classifier's own prediction, the most probable class. A run that was killed
    goes on where it stopped when it is started again with the same arguments, and ends with the
    same records.

    Methods given by name, and all metrics, work on a copy of the classifier with its batch norm
    folded: the same function up to rounding, in less time (`ttame.classifiers.folding`).

    Args:
        explainer: T-TAME's explainer; the other methods explain its classifier.
        photos: The photos, in the order they are measured.
        out: The results file, `.jsonl`.
        methods: Names in `ttame.methods.METHODS`, or bound methods of your own by name.
        metrics: Any of `METRICS`. AD/IC (with Average Gain) asks for one pass of the classifier per
            percentage, ROAD for 14 and as many imputations, insertion/deletion for 2·steps.
        percentages: Shares of pixels to keep, percent.
        steps: Steps of the insertion and deletion curves.
        curve_limit: Number of photos for ROAD and insertion/deletion, taken from the front and
            rounded up to whole batches; default: all.
        batch_size: Photos at a time.
        seed: Seed of tie-breaks and of ROAD's noise.
        skip_bad: Record a photo that cannot be read as skipped and go on, instead of stopping.
        settings: Settings of methods by name, `{"RISE": {"masks": 1000}}`; recorded, and
            compared on resuming.
        command: Recorded command; default: this process's.
        progress: Called with (photos done, photos in all).

    Returns:
        The path of the complete results file.

    Raises:
        TTameError: An unknown method or metric, a method that does not apply to the classifier
            (before anything is measured), an unreadable photo, a file of another run.
    """
    _check(methods, metrics, settings or {}, batch_size, steps)
    working = _folded(explainer)
    if isinstance(methods, Mapping):
        bound = dict(methods)
    else:
        bound = {name: build(name, working, (settings or {}).get(name)) for name in methods}
    spec = explainer.spec
    config = {
        "backbone": spec.name,
        "weights": spec.source,
        "space": spec.space,
        "layers": list(explainer.layers),
        "cam_layer": spec.cam_layer,
        "explainer": explainer.record.get("name", "untitled"),
        "digests": [weight_digest(explainer.classifier), weight_digest(explainer.mechanism)],
        "data": photos.name,
        "photos": list(photos.names),
        "methods": list(methods),
        "settings": dict(settings or {}),
        "metrics": list(metrics),
        "percentages": list(percentages),
        "steps": steps,
        "curve_limit": curve_limit,
        "batch_size": batch_size,  # rounding depends on it
        "seed": seed,
    }
    if spec.activation != "softmax":  # which files begun earlier do not name
        config["activation"] = spec.activation
    # Whole batches count as done, so that a resumed run forms the same batches.
    results = ResultsFile(out, config, provenance(seed, command), group=len(bound) * batch_size)
    dataset = PhotoDataset(photos, spec)
    for start in range(len(results.records) // len(bound), len(photos), batch_size):
        indices = range(start, min(start + batch_size, len(photos)))
        images, skipped = _read(dataset, indices, skip_bad, results.partial)
        rows: dict[int, list[dict[str, Any]]] = {
            index: [{"method": name, "skipped": reason} for name in bound]
            for index, reason in skipped.items()
        }
        if images:
            batch = torch.stack(list(images.values())).to(next(working.parameters()))
            curves = curve_limit is None or start < curve_limit
            wanted = [name for name in metrics if curves or name == "AD/IC"]
            found = _measure(
                working, explainer.classifier, bound, batch, wanted, percentages, steps, seed
            )
            rows |= dict(zip(images, found, strict=True))
        results.append({"photo": photos.names[i], **row} for i in indices for row in rows[i])
        if progress:
            progress(indices.stop, len(photos))
    return results.finish()


def _check(
    methods: Sequence[str] | Mapping[str, Method],
    metrics: Sequence[str],
    settings: Mapping[str, Mapping[str, Any]],
    batch_size: int,
    steps: int,
) -> None:
    """Refuse what cannot be measured, before anything is."""
    unknown = [name for name in metrics if name not in METRICS]
    if unknown or not metrics or not methods:
        raise TTameError(
            f"name at least one method and metrics among {METRICS}, got methods {list(methods)}, "
            f"metrics {list(metrics)}"
        )
    if batch_size < 1 or steps < 1:
        raise TTameError(
            f"batch_size and steps must be 1 or more, got batch_size={batch_size}, steps={steps}"
        )
    own = isinstance(methods, Mapping)
    stray = [name for name in settings if own or name not in methods]
    if stray:
        raise TTameError(f"settings for {stray}, which are not among the methods given by name")


def _folded(explainer: Explainer) -> Explainer:
    """Put the explainer on a faster copy of its classifier."""
    blank = next(explainer.parameters()).new_zeros(1, 3, *explainer.spec.input_size)
    tapped = (*explainer.layers, explainer.spec.cam_layer)
    classifier = fold_batch_norm(explainer.classifier, blank, tapped)
    classifier = classifier.to(memory_format=torch.channels_last)
    return explainer.replace(classifier=classifier).eval()


def _read(
    dataset: PhotoDataset, indices: Sequence[int], skip_bad: bool, kept: Path
) -> tuple[dict[int, Tensor], dict[int, str]]:
    """Read photos by position; return them, and why the others could not be read."""
    images, skipped = {}, {}
    for index in indices:
        try:
            images[index] = dataset[index][0]
        except TTameError as error:
            if not skip_bad:
                raise TTameError(
                    f"{error}. What was measured before it is kept in {str(kept)!r}: mend the "
                    "photo, or skip what cannot be read (--skip-bad), and start again to go on"
                ) from error
            skipped[index] = str(error).replace(f"{dataset.photos.root}/", "")
    return images, skipped


def _measure(
    explainer: Explainer,
    original_classifier: nn.Module,
    methods: Mapping[str, Method],
    images: Tensor,
    metrics: Sequence[str],
    percentages: Sequence[int],
    steps: int,
    seed: int,
) -> list[list[dict[str, Any]]]:
    """Measure one batch: per photo, one record per method."""
    classifier, spec = explainer.classifier, explainer.spec
    with torch.inference_mode():
        outputs = classifier(images)
        # Not the largest probability: those of several sure labels may all be rounded to 1.
        targets = outputs.argmax(dim=1)
        original = probabilities(outputs, spec.activation).gather(1, targets[:, None])[:, 0]
    original, targets = original.clone(), targets.clone()
    rows: list[list[dict[str, Any]]] = [[] for _ in images]
    for name, method in methods.items():
        # Methods of the caller's own are bound to the classifier as it was given.
        with count_passes(classifier, original_classifier) as passes:
            start = time.perf_counter()
            maps = method(images, targets)
            seconds = (time.perf_counter() - start) / len(images)
        flat = degenerate(maps)[:, 0]
        finite = maps.isfinite().all(dim=-1).all(dim=-1)[..., None, None]
        maps = torch.where(finite, maps, torch.zeros_like(maps))  # NaN explains nothing
        shown, columns = (classifier, spec, images, maps, targets), dict[str, Tensor]()
        if "AD/IC" in metrics:
            masked = masked_probabilities(*shown, percentages, seed)
            columns |= {f"masked_{share}": masked[:, i] for i, share in enumerate(percentages)}
        if "ROAD" in metrics:
            found = vars(road(*shown, seed=seed))
            columns |= {f"road_{column}": values for column, values in found.items()}
        if "insertion/deletion" in metrics:
            columns |= vars(insertion_deletion(*shown, steps=steps, seed=seed))
        for index, row in enumerate(rows):
            record = {
                "method": name,
                "target": int(targets[index]),
                "probability": float(original[index]),
                **{column: values[index].float().tolist() for column, values in columns.items()},
                "degenerate": bool(flat[index]),
                "seconds": seconds,
                "forward": passes.forward / len(images),
                "backward": passes.backward / len(images),
            }
            row.append(record)
    return rows
