"""Methods side by side on the same photos: streamed, resumable, every sample recorded."""

from __future__ import annotations

from collections.abc import Callable, Mapping, Sequence
from functools import partial
from pathlib import Path
from typing import Any

import torch
from torch import Tensor, nn

from ttame.classifiers.outputs import probabilities
from ttame.classifiers.passes import own_precision
from ttame.classifiers.weights import input_like
from ttame.data import PhotoDataset, PhotoList
from ttame.errors import TTameError
from ttame.evaluation.confidence import PERCENTAGES, masked_probabilities
from ttame.evaluation.faithfulness import (
    GRID,
    GROUPS,
    cell_salience,
    check_grid,
    check_groups,
    delete_cells,
    hide_groups,
)
from ttame.evaluation.insertion import STEPS, insertion_deletion
from ttame.evaluation.maps import bind, facts, make_maps
from ttame.evaluation.road import road
from ttame.evaluation.workers import in_order
from ttame.explainer import Explainer
from ttame.methods import DEFAULT_METHODS, Method
from ttame.records import ResultsFile, provenance

Progress = Callable[[int, int], None]
METRICS = ("AD/IC", "ROAD", "insertion/deletion", "SDS", "SaCo")


def evaluate(
    explainer: Explainer,
    photos: PhotoList,
    out: Path | str,
    *,
    methods: Sequence[str] | Mapping[str, Method] = DEFAULT_METHODS,
    metrics: Sequence[str] = ("AD/IC",),
    percentages: Sequence[int] = PERCENTAGES,
    steps: int = STEPS,
    grid: int = GRID,
    groups: int = GROUPS,
    curve_limit: int | None = None,
    batch_size: int = 16,
    seed: int = 0,
    skip_bad: bool = False,
    settings: Mapping[str, Mapping[str, Any]] | None = None,
    workers: int = 1,
    command: str | None = None,
    progress: Progress | None = None,
) -> Path:
    """Measure methods on photos and write one record per photo and method.

    The target is the classifier's own prediction, the most probable class. A run that was killed
    goes on where it stopped when it is started again with the same arguments, and ends with the
    same records.

    Methods given by name, and all metrics, work on a copy of the classifier with its batch norm
    folded: the same function up to rounding, in less time (`ttame.classifiers.folding`). The copy
    of a classifier in half precision is in float32. Other threads may use the classifier meanwhile;
    passes are counted in this thread alone, so a method of your own that starts threads is recorded
    with the passes of this one.

    Args:
        explainer: T-TAME's explainer; the other methods explain its classifier.
        photos: The photos, in the order they are measured.
        out: The results file, `.jsonl`.
        methods: Names in `ttame.methods.METHODS`, or bound methods of your own by name.
        metrics: Any of `METRICS`. AD/IC (with Average Gain) asks for one pass of the classifier per
            percentage, ROAD for 14 and as many imputations, insertion/deletion for 2·steps, SaCo
            for one per group; SDS for grid² per photo, which all methods share.
        percentages: Shares of pixels to keep, percent.
        steps: Steps of the insertion and deletion curves.
        grid: Cells to a side of SDS, the single deletion score.
        groups: Groups of pixels of SaCo, the salience-guided faithfulness coefficient.
        curve_limit: Number of photos for all metrics but AD/IC, taken from the front and rounded
            up to whole batches; default: all.
        batch_size: Photos at a time.
        seed: Seed of tie-breaks and of ROAD's noise.
        skip_bad: Record a photo that cannot be read as skipped and go on, instead of stopping.
        settings: Settings of methods by name, `{"RISE": {"masks": 1000}}`; recorded, and
            compared on resuming.
        workers: Number of processes that measure batches; results do not depend on it. Each works
            with as many threads as this process (`OMP_NUM_THREADS`).
        command: Recorded command; default: this process's.
        progress: Called with (photos done, photos in all).

    Returns:
        The path of the complete results file.

    Raises:
        TTameError: An unknown method or metric, a method or metric that does not apply to the
            classifier (before anything is measured), an unreadable photo, a file of another run,
            what cannot be sent to worker processes.

    Examples:
        >>> import ttame
        >>> from ttame.data import samples
        >>> from ttame.evaluation.evaluate import evaluate
        >>> from ttame.evaluation.tables import summary
        >>> explainer, photos = ttame.load("drawn_cnn"), samples().sample(4)
        >>> path = evaluate(explainer, photos, "four.jsonl", methods=["T-TAME", "random"])
        >>> list(summary(path).loc["T-TAME"].filter(like="AD").index)
        ['AD 100%', 'AD 50%', 'AD 15%']
    """
    _check(metrics, batch_size, steps, workers)
    if "SDS" in metrics:
        check_grid(explainer.spec.input_size, grid)
    if "SaCo" in metrics:
        check_groups(explainer.spec.input_size, groups)
    config = {
        **facts(explainer),
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
        # Only where they matter: files begun before these metrics came are resumed.
        **({"grid": grid} if "SDS" in metrics else {}),
        **({"groups": groups} if "SaCo" in metrics else {}),
    }
    make = partial(_Batches, explainer, photos, methods, config, skip_bad, f"{out}.partial")
    measure = make()  # refuses methods before anything is written
    # Whole batches count as done, so that a resumed run forms the same batches.
    results = ResultsFile(
        out, config, provenance(seed, command), group=len(measure.bound) * batch_size
    )
    starts = range(len(results.records) // len(measure.bound), len(photos), batch_size)
    found = map(measure, starts) if workers == 1 else in_order(make, starts, workers)
    for start, records in zip(starts, found, strict=True):
        results.append(records)
        if progress:
            progress(min(start + batch_size, len(photos)), len(photos))
    return results.finish()


class _Batches:
    """What measures one batch of photos, given its first; made once per process.

    Args:
        explainer: As for `evaluate`.
        photos: As for `evaluate`.
        methods: As for `evaluate`.
        config: The configuration that the results file records.
        skip_bad: As for `evaluate`.
        kept: Where earlier batches are, for messages.
    """

    def __init__(
        self,
        explainer: Explainer,
        photos: PhotoList,
        methods: Sequence[str] | Mapping[str, Method],
        config: Mapping[str, Any],
        skip_bad: bool,
        kept: str,
    ) -> None:
        self.original_classifier, self.config = explainer.classifier, config
        self.working, self.bound = bind(explainer, methods, config["settings"])
        self.dataset = PhotoDataset(photos, explainer.spec)
        self.skip_bad, self.kept = skip_bad, kept

    def __call__(self, start: int) -> list[dict[str, Any]]:
        """Return the records of the batch, photo by photo, method by method."""
        names = self.dataset.photos.names
        indices = range(start, min(start + self.config["batch_size"], len(names)))
        images, skipped = _read(self.dataset, indices, self.skip_bad, self.kept)
        rows: dict[int, list[dict[str, Any]]] = {
            index: [{"method": name, "skipped": reason} for name in self.bound]
            for index, reason in skipped.items()
        }
        if images:
            batch = torch.stack(list(images.values())).to(input_like(self.working.classifier))
            limit = self.config["curve_limit"]
            curves = limit is None or start < limit
            wanted = [name for name in self.config["metrics"] if curves or name == "AD/IC"]
            with own_precision(batch.device):
                found = _measure(
                    self.working, self.original_classifier, self.bound, batch, wanted, self.config
                )
            rows |= dict(zip(images, found, strict=True))
        return [{"photo": names[i], **row} for i in indices for row in rows[i]]


def _check(metrics: Sequence[str], batch_size: int, steps: int, workers: int) -> None:
    """Refuse what cannot be measured, before anything is."""
    unknown = [name for name in metrics if name not in METRICS]
    if unknown or not metrics:
        raise TTameError(f"name at least one of the metrics {METRICS}, got {list(metrics)}")
    if min(batch_size, steps, workers) < 1:
        raise TTameError(
            f"batch_size, steps and workers must be 1 or more, got batch_size={batch_size}, "
            f"steps={steps}, workers={workers}"
        )


def _read(
    dataset: PhotoDataset, indices: Sequence[int], skip_bad: bool, kept: str
) -> tuple[dict[int, Tensor], dict[int, str]]:
    """Read photos by position; return them, and why the others could not be read."""
    images, skipped = {}, {}
    for index in indices:
        try:
            images[index] = dataset[index][0]
        except TTameError as error:
            if not skip_bad:
                raise TTameError(
                    f"{error}. What was measured before it is kept in {kept!r}: mend the "
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
    config: Mapping[str, Any],
) -> list[list[dict[str, Any]]]:
    """Measure one batch as the configuration says: per photo, one record per method."""
    classifier, spec, seed = explainer.classifier, explainer.spec, config["seed"]
    with torch.inference_mode():
        outputs = classifier(images)
        # Not the largest probability: those of several sure labels may all be rounded to 1.
        targets = outputs.argmax(dim=1)
        original = probabilities(outputs, spec.activation).gather(1, targets[:, None])[:, 0]
    original, targets = original.clone(), targets.clone()
    if "SDS" in metrics:
        deleted = delete_cells(classifier, images, targets, config["grid"])
    rows: list[list[dict[str, Any]]] = [[] for _ in images]
    for name, maps, costs in make_maps(explainer, original_classifier, methods, images, targets):
        shown, columns = (classifier, spec, images, maps, targets), dict[str, Tensor]()
        if "AD/IC" in metrics:
            shares = config["percentages"]
            masked = masked_probabilities(*shown, shares, seed)
            columns |= {f"masked_{share}": masked[:, i] for i, share in enumerate(shares)}
        if "ROAD" in metrics:
            found = vars(road(*shown, seed=seed))
            columns |= {f"road_{column}": values for column, values in found.items()}
        if "insertion/deletion" in metrics:
            columns |= vars(insertion_deletion(*shown, steps=config["steps"], seed=seed))
        if "SDS" in metrics:
            salience = cell_salience(maps, images.shape[-2:], config["grid"])
            columns |= {"sds_output": deleted, "sds_salience": salience}
        if "SaCo" in metrics:
            found = vars(hide_groups(*shown, groups=config["groups"], seed=seed))
            columns |= {f"saco_{column}": values for column, values in found.items()}
        for index, row in enumerate(rows):
            record = {
                "method": name,
                "target": int(targets[index]),
                "probability": float(original[index]),
                **{column: values[index].float().tolist() for column, values in columns.items()},
                **costs[index],
            }
            row.append(record)
    return rows
