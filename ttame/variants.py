"""Variants of a study as explainers: untrained, and trained."""

from __future__ import annotations

from dataclasses import replace
from pathlib import Path

from ttame.ablations import Variant, resized
from ttame.attention import AttentionConfig
from ttame.data import PhotoList
from ttame.errors import TTameError
from ttame.explainer import Explainer
from ttame.loading import attach
from ttame.recipes import TrainingConfig
from ttame.training import fit


def build_variant(variant: Variant, backbone: str, config: AttentionConfig | None = None,
                  size: int | None = None) -> Explainer:  # fmt: skip
    """The untrained explainer of a variant.

    Args:
        variant: Its layers and architecture.
        backbone: Name of the classifier.
        config: The architecture that the variant changes; default: the papers'.
        size: Height and width of the input, pixels; default: the classifier's.

    Raises:
        TTameError: If the backbone has fewer layers than the variant asks for.
    """
    plain = attach(backbone)
    count = variant.layers or len(plain.layers)
    if not 1 <= count <= len(plain.layers):
        raise TTameError(
            f"variant {variant.name!r} asks for {count} layers, {backbone} has {plain.layers}"
        )
    changed = replace(config or AttentionConfig(), **variant.attention)
    explainer = attach(backbone, plain.layers[-count:], config=changed)
    return resized(explainer, size) if size else explainer


def changed_config(variant: Variant, config: TrainingConfig) -> TrainingConfig:
    """The training of a variant, where `config` is what all share."""
    objective = replace(config.objective, **variant.objective)
    return replace(config, **{"objective": objective, **variant.training})


def run_variant(
    variant: Variant,
    backbone: str,
    photos: PhotoList,
    config: TrainingConfig,
    out: Path | str,
    *,
    size: int | None = None,
) -> Explainer:
    """Train one variant of the papers' architecture.

    Args:
        variant: What differs from the default.
        backbone: Name of the classifier.
        photos: Photos to train on.
        config: Training that all variants share.
        out: Folder of the run.
        size: Height and width of the input, pixels; default: the classifier's.

    Returns:
        The trained explainer, in `eval()`.

    Raises:
        TTameError: If the training fails (`ttame.training.fit`).
    """
    explainer = build_variant(variant, backbone, size=size)
    changed = changed_config(variant, config)
    return fit(explainer, photos, changed, out, name=variant.name, progress=False)
