"""Grid pointing game (`coda_nets`): the share of a map on the photo of the class that it explains.

A map that does not follow the class has the same share in every cell whichever class is asked
for, so that its mean over the cells of a mosaic is chance exactly, 1/n², whatever it shows.
"""

from __future__ import annotations

from collections.abc import Callable, Mapping, Sequence
from pathlib import Path
from typing import Any

import torch
from torch import Tensor

from ttame.classifiers.outputs import probabilities
from ttame.classifiers.weights import input_like
from ttame.data import PhotoDataset, PhotoList
from ttame.evaluation.localization import mask_energy, pointing_game, positive_share
from ttame.evaluation.maps import bind, facts, make_maps
from ttame.evaluation.mosaics import THRESHOLD, Mosaic, cell_masks, compose, draw_mosaics
from ttame.explainer import Explainer
from ttame.methods import DEFAULT_METHODS, Method
from ttame.records import ResultsFile, provenance


def evaluate_mosaics(
    explainer: Explainer,
    photos: PhotoList,
    out: Path | str,
    *,
    methods: Sequence[str] | Mapping[str, Method] = DEFAULT_METHODS,
    grid: int = 2,
    count: int | None = None,
    threshold: float = THRESHOLD,
    batch_size: int = 16,
    seed: int = 0,
    settings: Mapping[str, Mapping[str, Any]] | None = None,
    command: str | None = None,
    progress: Callable[[int, int], None] | None = None,
) -> Path:
    """Play the grid pointing game and write one record per mosaic, class explained and method.

    Three scores, percent, per map and photo of its class, all with chance 100/n² on average over
    a mosaic: `grid_pointing`, the share of the raw map's positive part (the paper's); `energy`,
    the share of the map scaled to [0, 1], which does not depend on where a method puts its zero;
    `pointing`, whether the map's maximum lies there. The records of one mosaic are not independent
    of each other, which intervals over photos take them to be.

    A run that was killed goes on with the next mosaic when it is started again with the same
    arguments; photos are judged anew.

    Args:
        explainer: T-TAME's explainer; the other methods explain its classifier.
        photos: Photos to draw mosaics from (`draw_mosaics`), in their order.
        out: The results file, `.jsonl`; `photo` names the photo of the class explained.
        methods: As for `ttame.evaluation.evaluate.evaluate`.
        grid: n, photos to a side.
        count: Number of mosaics; default: as many as the photos give.
        threshold: Lowest probability that counts as sure.
        batch_size: Photos that are judged at a time.
        seed: Seed of tie-breaks of `pointing`.
        settings: Settings of methods by name.
        command: Recorded command; default: this process's.
        progress: Called with (mosaics done, mosaics in all).

    Returns:
        The path of the complete results file.

    Raises:
        TTameError: As `draw_mosaics`; an unknown method or one that does not apply; a file of
            another run.
    """
    working, bound = bind(explainer, methods, settings or {})
    mosaics = draw_mosaics(working, photos, grid, count, threshold, batch_size)
    config = {
        **facts(explainer),
        "data": f"{photos.name}, {grid}x{grid} mosaics",
        "mosaics": [[photos.names[place] for place in mosaic.photos] for mosaic in mosaics],
        "targets": [list(mosaic.targets) for mosaic in mosaics],
        "methods": list(methods),
        "settings": dict(settings or {}),
        "metrics": ["grid pointing"],
        "grid": grid,
        "count": count,
        "threshold": threshold,
        "seed": seed,
    }
    dataset, like = PhotoDataset(photos, explainer.spec), input_like(working.classifier)
    masks = cell_masks(explainer.spec.input_size, grid).to(like.device)
    group = len(bound) * len(masks)
    results = ResultsFile(out, config, provenance(seed, command), group=group)
    for number in range(len(results.records) // group, len(mosaics)):
        mosaic = mosaics[number]
        image = compose(torch.stack([dataset[place][0] for place in mosaic.photos]), grid).to(like)
        rows = _measure(working, explainer, bound, image, mosaic, masks, seed)
        results.append(
            {"photo": photos.names[place], "mosaic": number, "cell": cell, **record}
            for cell, place in enumerate(mosaic.photos)
            for record in rows[cell]
        )
        if progress:
            progress(number + 1, len(mosaics))
    return results.finish()


def _measure(
    working: Explainer,
    explainer: Explainer,
    methods: Mapping[str, Method],
    image: Tensor,
    mosaic: Mosaic,
    masks: Tensor,
    seed: int,
) -> list[list[dict[str, Any]]]:
    """Measure one mosaic: per cell, one record per method."""
    images = image.expand(len(masks), -1, -1, -1).contiguous()
    targets = torch.tensor(mosaic.targets, device=image.device)
    with torch.inference_mode():
        outputs = working.classifier(image[None])
        scores = probabilities(outputs, working.spec.activation)[0]
    rows: list[list[dict[str, Any]]] = [[] for _ in mosaic.targets]
    for name, maps, costs in make_maps(working, explainer.classifier, methods, images, targets):
        found = {
            "grid_pointing": positive_share(maps, masks),
            "energy": mask_energy(maps, masks),
            "pointing": pointing_game(maps, masks, tolerance=0, seed=seed),
        }
        for cell, row in enumerate(rows):
            target = mosaic.targets[cell]
            values = {column: float(value[cell]) for column, value in found.items()}
            probability = float(scores[target])
            row.append(
                {"method": name, "target": target, "probability": probability}
                | values
                | costs[cell]
            )
    return rows
