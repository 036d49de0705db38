"""Parts taken away: what their removal costs, and how well methods foretell it.

Drawings are drawn again without a part (`ttame.evaluation.drawings`), so every effect is exact.
Records hold effects and means of maps; `ttame.evaluation.parts` makes scores of them.
"""

from __future__ import annotations

import random
from collections.abc import Callable, Mapping, Sequence
from pathlib import Path
from typing import Any

import torch
from PIL import Image
from torch import Tensor, nn

from ttame.classifiers.drawn import PARTS, SIDE, class_names, nearest_classes
from ttame.classifiers.outputs import probabilities
from ttame.classifiers.weights import input_like
from ttame.errors import TTameError
from ttame.evaluation.drawings import CLUTTER, Drawing, drawing
from ttame.evaluation.localization import mask_energy, pointing_game
from ttame.evaluation.maps import bind, facts, make_maps
from ttame.evaluation.parts import PAIRS, region_means
from ttame.explainer import Explainer
from ttame.images import normalize, to_batch
from ttame.methods import Method
from ttame.records import ResultsFile, provenance

_VISIBLE = 20  # pixels of a piece of clutter that must show
_LAYERS = (*PARTS, *CLUTTER, "body")


@torch.inference_mode()
def removal_effects(
    explainer: Explainer, found: Drawing, target: int, other: int
) -> dict[str, Tensor]:
    """Measure what the removal of parts and clutter takes from the logits of a drawing.

    Args:
        explainer: Its classifier is asked.
        found: The drawing.
        target: Class whose logit counts.
        other: Class that it is held against.

    Returns:
        Drops of the target's logit: `importance` of the parts `(P,)`, `pairs` of parts `(10,)`,
        `clutter` `(C,)`, and all clutter at once, `background` `(1,)`. `contrast` `(P,)` is the
        drop of the target's logit minus the other's, by part.
    """
    pairs = [(PARTS[first], PARTS[second]) for first, second in PAIRS]
    removed = [(), *((name,) for name in PARTS), *pairs, *((name,) for name in CLUTTER), CLUTTER]
    images = _images(explainer, [found.render(names) for names in removed])
    logits = explainer.classifier(images).double().cpu()
    drops = logits[0, target] - logits[1:, target]
    importance, two, clutter, background = drops.split([len(PARTS), len(PAIRS), len(CLUTTER), 1])
    contrast = importance - (logits[0, other] - logits[1 : 1 + len(PARTS), other])
    return {
        "importance": importance, "pairs": two, "clutter": clutter, "background": background,
        "contrast": contrast,
    }  # fmt: skip


def evaluate_parts(
    explainer: Explainer,
    out: Path | str,
    *,
    methods: Sequence[str] | Mapping[str, Method],
    limit: int = 200,
    batch_size: int = 20,
    seed: int = 0,
    settings: Mapping[str, Mapping[str, Any]] | None = None,
    command: str | None = None,
    progress: Callable[[int, int], None] | None = None,
) -> Path:
    """Measure methods on drawings of the split `"val"`; write one record per drawing and method.

    The target is the predicted class, held against one of those that share the most parts with
    it. Drawings that the classifier gets wrong are recorded as skipped. A killed run goes on where
    it stopped when it is started again with the same arguments.

    Args:
        explainer: On a classifier of the drawn creatures.
        out: The results file, `.jsonl`.
        methods: Names in `ttame.methods.METHODS`, or bound methods of your own by name.
        limit: Number of drawings, from the front.
        batch_size: Drawings at a time.
        seed: Seed of the other class and of tie-breaks.
        settings: Settings of methods by name.
        command: Recorded command; default: this process's.
        progress: Called with (drawings done, drawings in all).

    Returns:
        The path of the complete results file.

    Raises:
        TTameError: If the classifier is of other classes or another input size, a method is
            unknown or does not apply, a number is not positive, or the file is of another run.
    """
    spec = explainer.spec
    if spec.classes != class_names() or spec.input_size != (SIDE, SIDE):
        raise TTameError(
            f"{spec.name} has {len(spec.classes)} classes at {spec.input_size} px; expected a "
            f"classifier of the drawn creatures at {(SIDE, SIDE)} px, such as 'drawn_cnn'"
        )
    if min(limit, batch_size) < 1:
        raise TTameError(
            f"limit and batch_size must be 1 or more, got limit={limit}, batch_size={batch_size}"
        )
    working, bound = bind(explainer, methods, settings or {})
    config = {
        **facts(explainer), "data": "drawn/val", "photos": limit, "methods": list(methods),
        "settings": dict(settings or {}), "metrics": ["parts"], "batch_size": batch_size,
        "seed": seed,
    }  # fmt: skip
    results = ResultsFile(out, config, provenance(seed, command), group=len(bound) * batch_size)
    for start in range(len(results.records) // len(bound), limit, batch_size):
        indices = range(start, min(start + batch_size, limit))
        batch = [drawing("val", index) for index in indices]
        results.append(_measure(working, explainer.classifier, bound, batch, seed))
        if progress:
            progress(indices.stop, limit)
    return results.finish()


def _measure(
    explainer: Explainer,
    original_classifier: nn.Module,
    methods: Mapping[str, Method],
    batch: list[Drawing],
    seed: int,
) -> list[dict[str, Any]]:
    """Measure one batch: drawing by drawing, one record per method."""
    images = _images(explainer, [found.render() for found in batch])
    with torch.inference_mode():
        logits = explainer.classifier(images)
    scores = probabilities(logits, explainer.spec.activation).float().cpu()
    answers = scores.argmax(dim=1).tolist()
    right = [row for row, found in enumerate(batch) if answers[row] == found.label]
    rows: list[list[dict[str, Any]]] = [
        [] if row in right
        else [{"photo": found.name, "method": name,
               "skipped": f"classified as {explainer.classes[answers[row]]}"} for name in methods]
        for row, found in enumerate(batch)
    ]  # fmt: skip
    known, regions, others = [], [], []
    for row in right:
        found, target = batch[row], answers[row]
        other = random.Random(f"{seed}/{found.name}").choice(nearest_classes(target))
        covered = found.coverage()
        effects = removal_effects(explainer, found, target, other)
        known.append(
            {"target": target, "other": other, "probability": float(scores[row, target])}
            | {name: _short(values) for name, values in effects.items()}
            | {"areas": _short(torch.stack([covered[name].sum() for name in PARTS]))}
        )
        regions.append(torch.stack([covered[name] for name in _LAYERS]))
        others.append(other)
    if not right:
        return [record for some in rows for record in some]
    shown, where = images[right], torch.stack(regions)
    creature = [index for index, name in enumerate(_LAYERS) if name not in CLUTTER]
    masks = where[:, creature].sum(dim=1, keepdim=True) >= 0.5
    targets = torch.tensor([answers[row] for row in right], device=images.device)
    hidden = where[:, len(PARTS) : -1].sum(dim=(2, 3)) < _VISIBLE
    both = (
        make_maps(explainer, original_classifier, methods, shown, classes)
        for classes in (targets, torch.tensor(others, device=images.device))
    )
    for (name, maps, costs), (_, against, _) in zip(*both, strict=True):
        maps, against = maps.cpu(), against.cpu()
        means, their = region_means(maps, where), region_means(against, where)
        clutter = means[:, len(PARTS) : -1].masked_fill(hidden, torch.nan)
        pointed = pointing_game(maps, masks, tolerance=0, seed=seed).tolist()
        energy = mask_energy(maps, masks).tolist()
        for place, row in enumerate(right):
            rows[row].append(
                {"photo": batch[row].name, "method": name, **known[place],
                 "parts": _short(means[place, : len(PARTS)]),
                 "other_parts": _short(their[place, : len(PARTS)]),
                 "clutter_means": _short(clutter[place]), "pointing": pointed[place],
                 "energy": round(energy[place], 3), **costs[place]}
            )  # fmt: skip
    return [record for some in rows for record in some]


def _images(explainer: Explainer, images: list[Image.Image]) -> Tensor:
    """Prepare drawings for the explainer's classifier, `(B, 3, H, W)`."""
    spec = explainer.spec
    return normalize(to_batch(images, spec), spec).to(input_like(explainer.classifier))


def _short(values: Tensor) -> list[float | None]:
    """Five significant digits; None, which JSON can hold, for NaN."""
    return [None if value != value else float(f"{value:.5g}") for value in values.tolist()]
