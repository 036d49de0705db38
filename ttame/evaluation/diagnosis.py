"""What each layer contributes to an explainer's maps, and what its branches have learned."""

from __future__ import annotations

from collections.abc import Sequence
from pathlib import Path
from typing import Any

import pandas as pd
import torch

from ttame.data import PhotoDataset, PhotoList
from ttame.errors import TTameError, suggest
from ttame.evaluation.comparison import paired_differences
from ttame.evaluation.evaluate import evaluate
from ttame.evaluation.tables import scores
from ttame.explainer import Explainer
from ttame.methods import ttame_method
from ttame.records import read_results

WHOLE = "all layers"


def keep_layers(explainer: Explainer, layers: Sequence[str]) -> Explainer:
    """Return the explainer with only some of its layers read.

    It is an ablation of reading, not of training: the mechanism was trained with all layers.

    Args:
        explainer: Not changed.
        layers: Names of the layers to keep.

    Raises:
        TTameError: If the explainer does not read such a layer.
    """
    for name in layers:
        if name not in explainer.layers:
            raise TTameError(
                f"the explainer reads {explainer.layers}, not {name!r}."
                f"{suggest(name, explainer.layers)}"
            )
    kept = [index for index, name in enumerate(explainer.layers) if name in layers]
    return explainer.replace(mechanism=explainer.mechanism.keep_layers(kept))


def layer_costs(
    explainer: Explainer, photos: PhotoList, out: Path | str, **settings: Any
) -> pd.DataFrame:
    """Measure what dropping each layer, or keeping it alone, costs in every metric.

    Args:
        explainer: In `eval()`.
        photos: Photos to measure on.
        out: Results file, `.jsonl`, one record per photo and reader; an interrupted measurement
            goes on there.
        **settings: Keyword arguments of `ttame.evaluation.evaluate.evaluate`, such as `metrics`.

    Returns:
        One row per score and reader (`"without blocks.2"`, `"only blocks.2"`): the mean paired
        difference, all layers minus this reader, its 95 % bootstrap interval, and the verdict on
        all layers: `"better"` where the layers left out earn their place, `"open"` where chance
        explains the difference, `"worse"` where the map is better without them.

    Raises:
        TTameError: If the explainer reads a single layer, or as `evaluate`.
    """
    if len(explainer.layers) < 2:
        raise TTameError(
            f"the explainer reads a single layer, {explainer.layers[0]!r}: none can be dropped; "
            "diagnose one that reads several"
        )
    readers = {WHOLE: explainer}
    for name in explainer.layers:
        others = [other for other in explainer.layers if other != name]
        readers |= {f"without {name}": keep_layers(explainer, others)}
        if len(others) > 1:
            readers |= {f"only {name}": keep_layers(explainer, [name])}
    methods = {name: ttame_method(reader) for name, reader in readers.items()}
    path = evaluate(explainer, photos, out, methods=methods, **settings)
    return paired_differences(scores(read_results(path)[1]), WHOLE)


def diagnose(
    explainer: Explainer, photos: PhotoList, out: Path | str, **settings: Any
) -> tuple[pd.DataFrame, pd.DataFrame]:
    """Measure `Explainer.layer_statistics` on the first 64 photos and `layer_costs` on all."""
    first = PhotoDataset(photos.select(range(min(64, len(photos)))), explainer.spec)
    images = torch.stack([first[i][0] for i in range(len(first))])
    statistics = pd.DataFrame(explainer.layer_statistics(images)).set_index("layer")
    return statistics, layer_costs(explainer, photos, out, **settings)
