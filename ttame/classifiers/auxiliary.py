"""Auxiliary networks: feature maps for a classifier that is explained as a black box (`ptame`).

The classifier gives the logits, a second, frozen network the feature maps that the attention
mechanism reads. No layer of the classifier is looked at; gradients pass through it in training
alone, from its answers to masked photos.
"""

from __future__ import annotations

import warnings
from collections.abc import Mapping, Sequence
from dataclasses import replace
from typing import Any

import torch
from torch import Tensor, nn

from ttame.classifiers.registry import Backbone, load_backbone
from ttame.classifiers.specs import BackboneSpec
from ttame.classifiers.weights import input_like, weight_digest
from ttame.errors import TTameError
from ttame.features import FeatureExtractor, Tokens, check_logits
from ttame.masking import upsample

_FACTS = ("input_size", "mean", "std")
_SQUASHED = 0.01  # relative difference of height by width from which a resize distorts


class Auxiliary(nn.Module):
    """A frozen network beside a classifier, which sees the same photos as that.

    Args:
        backbone: The network and its facts.
        explained: Facts of the classifier; its images are converted from its normalisation to
            the network's, and resized by one factor where the input sizes differ.

    Raises:
        TTameError: If the two take images of other channels or another shape.
    """

    gain: Tensor
    shift: Tensor

    def __init__(self, backbone: Backbone, explained: BackboneSpec) -> None:
        super().__init__()
        spec = backbone.spec
        if spec.channels != explained.channels:
            raise TTameError(
                f"features={spec.name!r} takes images of {spec.channels} channels, "
                f"{explained.name} of {explained.channels}; name a network of as many"
            )
        (height, width), (rows, columns) = spec.input_size, explained.input_size
        self.scale = height / rows
        if abs(self.scale * columns / width - 1) > _SQUASHED:
            raise TTameError(
                f"features={spec.name!r} takes images of {height}x{width}, {explained.name} of "
                f"{rows}x{columns}, which a resize would distort; name a network for this shape"
            )
        self.spec, self.model = spec, backbone.model
        ours, theirs = (torch.tensor([facts.mean, facts.std])[..., None, None]
                        for facts in (spec, explained))  # fmt: skip
        self.register_buffer("gain", theirs[1] / ours[1], persistent=False)
        self.register_buffer("shift", (theirs[0] - ours[0]) / ours[1], persistent=False)

    def prepare(self, images: Tensor) -> Tensor:
        """Convert the classifier's images `(B, C, H, W)` to those that the network takes.

        Returns:
            `(B, C, H', W')`, in the network's normalisation, dtype and size. Values are not
            changed where both networks agree.
        """
        found = images.to(self.gain) * self.gain + self.shift
        if self.scale < 1:
            size = [round(side * self.scale) for side in found.shape[-2:]]
            found = nn.functional.interpolate(found, size=size, mode="bilinear", antialias=True)
        elif self.scale > 1:
            found = upsample(found, [round(side * self.scale) for side in found.shape[-2:]])
        return found.to(input_like(self.model))

    def facts(self) -> dict[str, Any]:
        """Return what files and records say of the network: name, digest and facts of the input."""
        own = {name: list(getattr(self.spec, name)) for name in _FACTS}
        return {"name": self.spec.name, "digest": weight_digest(self.model), **own}


class AuxiliaryExtractor:
    """Compute a classifier's logits and an auxiliary network's feature maps, one pass of each.

    It is called as `ttame.features.FeatureExtractor`.

    Args:
        model: The classifier.
        auxiliary: The network beside it.
        layers: Dotted module names of the network, shallow to deep.
        tokens: Handling of its prefix tokens, as for `ttame.features.to_map`.
    """

    def __init__(
        self, model: nn.Module, auxiliary: Auxiliary, layers: Sequence[str], tokens: Tokens
    ) -> None:
        self.model, self.auxiliary = model, auxiliary
        self.read = FeatureExtractor(auxiliary.model, layers, tokens)

    def __call__(self, images: Tensor) -> tuple[Tensor, list[Tensor]]:
        """Run both networks once, as `ttame.features.FeatureExtractor` runs one."""
        logits = check_logits(self.model, self.model(images))
        return logits, self.read(self.auxiliary.prepare(images))[1]


def extractor(
    model: nn.Module, layers: Sequence[str], tokens: Tokens, auxiliary: Auxiliary | None = None
) -> FeatureExtractor | AuxiliaryExtractor:
    """Make what reads a classifier's logits and feature maps, its own or an auxiliary network's."""
    if auxiliary is None:
        return FeatureExtractor(model, layers, tokens)
    return AuxiliaryExtractor(model, auxiliary, layers, tokens)


def open_auxiliary(name: str, explained: Backbone, pretrained: bool = True) -> Auxiliary:
    """Build the network called `name` and put it beside a classifier, on its device.

    A warning says so where images are resized for it.

    Args:
        name: A registered backbone, `timm/NAME` or `torchvision/NAME`.
        explained: The classifier.
        pretrained: Load its weights; otherwise they are random.

    Raises:
        TTameError: If there is no such network, its weights cannot be loaded, or it takes images
            of other channels or another shape.
    """
    if not isinstance(name, str):
        raise TTameError(
            f"features must be the name of a network, got a {type(name).__name__}; register your "
            "own with ttame.classifiers.registry.register_backbone"
        )
    found = Auxiliary(load_backbone(name, pretrained=pretrained), explained.spec)
    if found.scale != 1:
        own, theirs = found.spec.input_size, explained.spec.input_size
        warnings.warn(
            f"{name} reads {own[0]}x{own[1]} pixels: images of {explained.spec.name}, "
            f"{theirs[0]}x{theirs[1]}, are resized for it",
            stacklevel=3,
        )
    return found.to(input_like(explained.model).device)


def load_auxiliary(saved: Mapping[str, Any], explained: Backbone, origin: str) -> Auxiliary:
    """Rebuild the network that a saved explainer reads.

    Args:
        saved: `Auxiliary.facts()` as the file has them.
        explained: The classifier.
        origin: Name of the file, for messages.

    Raises:
        TTameError: If its weights are not those that the explainer was trained on.
    """
    backbone = load_backbone(saved["name"])
    facts: dict[str, Any] = {name: tuple(saved[name]) for name in _FACTS}
    found = Auxiliary(replace(backbone, spec=replace(backbone.spec, **facts)), explained.spec)
    digest = weight_digest(found.model)
    if digest != saved["digest"]:
        raise TTameError(
            f"{origin} reads feature maps of {saved['name']} with weights {saved['digest']}, the "
            f"network at hand has {digest}; install the version that it was trained with, or train "
            "an explainer for this one"
        )
    return found.to(input_like(explained.model).device)


def is_auxiliary(value: object) -> bool:
    """Return whether a value from a file looks like `Auxiliary.facts()`."""
    return (
        isinstance(value, dict)
        and all(isinstance(value.get(name), str) for name in ("name", "digest"))
        and all(isinstance(value.get(name), list) and value[name] for name in _FACTS)
    )
