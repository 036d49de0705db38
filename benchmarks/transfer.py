"""Do refined maps explain, or do they fool? Masks of one classifier, scored by others.

A mask that fools a classifier works on that classifier alone. One that shows what an object is
known by keeps its class for other classifiers, too.
"""

from __future__ import annotations

from collections.abc import Sequence
from typing import Any

import torch
from torch import Tensor, nn

from ttame.classifiers.outputs import probabilities
from ttame.classifiers.registry import Backbone
from ttame.classifiers.specs import BackboneSpec, masked_probabilities
from ttame.classifiers.weights import input_like
from ttame.data import PhotoDataset, PhotoList
from ttame.errors import TTameError
from ttame.evaluation.confidence import PERCENTAGES, average_drop, increase_in_confidence
from ttame.evaluation.intervals import bootstrap, verdict
from ttame.explainer import Explainer
from ttame.methods import build

_BATCH = 20
_PLAIN, _REFINED = "T-TAME", "T-TAME (refined)"


def measure_transfer(
    explainer: Explainer, scorers: Sequence[Backbone], photos: PhotoList, steps: int = 4
) -> list[dict[str, Any]]:
    """Score plain and refined maps of the explainer's predicted classes by other classifiers.

    Args:
        explainer: Its maps, plain and after `steps` gradient steps.
        scorers: Classifiers of the same classes, each at its own input size.
        photos: Photos.
        steps: As for `ttame.refinement`.

    Returns:
        One row per scorer and score: means of both kinds of maps in percent, the paired difference
        refined minus plain with its 95 % bootstrap interval, and the verdict on refined ones.

    Raises:
        TTameError: If a scorer has other classes.
    """
    for scorer in scorers:
        if scorer.spec.classes != explainer.spec.classes:
            raise TTameError(f"{scorer.spec.name} has other classes than {explainer.spec.name}")
    methods = {
        _PLAIN: build(_PLAIN, explainer),
        _REFINED: build(_REFINED, explainer, {"steps": steps}),
    }
    found: dict[tuple[str, str, str], list[Tensor]] = {}
    for first in range(0, len(photos), _BATCH):
        part = photos.select(range(first, min(first + _BATCH, len(photos))))
        images = _images(part, explainer.spec, explainer.classifier)
        with torch.inference_mode():
            targets = explainer.classifier(images).argmax(dim=1)
        maps = {name: method(images, targets) for name, method in methods.items()}
        for scorer in scorers:
            theirs = _images(part, scorer.spec, scorer.model)
            with torch.inference_mode():
                outputs = probabilities(scorer.model(theirs), scorer.spec.activation)
                whole = outputs.gather(1, targets[:, None])[:, 0]
            for name, found_maps in maps.items():
                kept = masked_probabilities(
                    scorer.model, scorer.spec, theirs, found_maps, targets
                )  # fmt: skip
                for column, share in enumerate(PERCENTAGES):
                    for score, measure in (
                        ("AD", average_drop), ("IC", increase_in_confidence),
                    ):  # fmt: skip
                        key = (scorer.spec.name, f"{score} {share}%", name)
                        found.setdefault(key, []).append(measure(whole, kept[:, column]))
    rows = []
    for name, score, method in found:
        if method == _REFINED:
            continue
        plain, refined = (
            torch.cat(found[name, score, kind]).double().cpu().numpy()
            for kind in (_PLAIN, _REFINED)
        )
        difference = bootstrap(refined - plain)
        rows.append(
            {"classifier": name, "score": score, "plain": plain.mean(), "refined": refined.mean(),
             "difference": difference.mean, "low": difference.low, "high": difference.high,
             "verdict": verdict(score, difference), "photos": len(plain)}
        )  # fmt: skip
    return [
        {key: round(float(value), 3) if isinstance(value, float) else value
         for key, value in row.items()} for row in rows
    ]  # fmt: skip


def _images(photos: PhotoList, spec: BackboneSpec, classifier: nn.Module) -> Tensor:
    dataset = PhotoDataset(photos, spec)
    images = torch.stack([dataset[index][0] for index in range(len(dataset))])
    return images.to(input_like(classifier))
