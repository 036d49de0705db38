"""Ablations of an explainer: other layers, other sizes, another architecture."""

from __future__ import annotations

import copy
from collections.abc import Sequence
from dataclasses import replace

import torch

from ttame.attention import AttentionConfig
from ttame.backbones import Backbone
from ttame.errors import TTameError, suggest
from ttame.explainer import Explainer
from ttame.loading import attach
from ttame.specs import Space
from ttame.variants import Variant


def build_variant(variant: Variant, backbone: str, config: AttentionConfig | None = None,
                  size: int | None = None) -> Explainer:  # fmt: skip
    """The untrained explainer of a variant.

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
    """The same explainer, its photos masked in another space; `None`: in its own."""
    spec = replace(explainer.spec, space=space or explainer.spec.space)
    return Explainer(
        Backbone(spec, explainer.classifier), explainer.mechanism, explainer.layers
    ).eval()


def resized(explainer: Explainer, size: int) -> Explainer:
    """The same classifier and layers at another input size, for runs that have to be cheap.

    Args:
        explainer: Not changed; classifier and mechanism are shared.
        size: Height and width of the input, pixels.
    """
    spec = explainer.spec
    smaller = replace(
        spec,
        input_size=(size, size),
        resize=round(size * spec.resize / min(spec.input_size)),
    )
    return Explainer(
        Backbone(smaller, explainer.classifier), explainer.mechanism, explainer.layers
    ).eval()


def keep_layers(explainer: Explainer, layers: Sequence[str]) -> Explainer:
    """The same explainer, reading only some of its layers: the fusion rows of others are zero.

    The map is a sum over layers, so what this leaves is exactly their contribution. It is an
    ablation of reading, not of training: the mechanism was trained with all layers.

    Args:
        explainer: Not changed.
        layers: Those that are kept.

    Raises:
        TTameError: If the explainer does not read such a layer.
    """
    for name in layers:
        if name not in explainer.layers:
            raise TTameError(
                f"the explainer reads {explainer.layers}, not {name!r}."
                f"{suggest(name, explainer.layers)}"
            )
    mechanism = copy.deepcopy(explainer.mechanism)
    start = 0
    with torch.no_grad():
        for name, width in zip(explainer.layers, mechanism.widths, strict=True):
            if name not in layers:
                mechanism.fusion.weight[:, start : start + width] = 0
            start += width
    return Explainer(
        Backbone(explainer.spec, explainer.classifier), mechanism, explainer.layers
    ).eval()


def at_layer(explainer: Explainer, layer: str) -> Explainer:
    """The same explainer, with CAM methods bound to another layer.

    Args:
        explainer: Not changed.
        layer: Where `ttame.methods` takes feature maps for CAM methods.
    """
    spec = replace(explainer.spec, cam_layer=layer)
    return Explainer(
        Backbone(spec, explainer.classifier), explainer.mechanism, explainer.layers
    ).eval()
