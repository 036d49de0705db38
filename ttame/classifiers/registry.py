"""Backbones: build, load and freeze classifiers by name."""

from __future__ import annotations

from collections.abc import Mapping
from dataclasses import dataclass, replace
from pathlib import Path

import torch
from torch import Tensor, nn

from ttame.classifiers.facts import checked_size
from ttame.classifiers.specs import BackboneSpec
from ttame.classifiers.weights import class_count, load_state, match_state, read_state
from ttame.classifiers.zoo import PREFIXES, library_spec, registered
from ttame.errors import TTameError, suggest


@dataclass(frozen=True)
class Backbone:
    """A frozen classifier in evaluation mode, with its facts."""

    spec: BackboneSpec
    model: nn.Module


BACKBONES: dict[str, BackboneSpec] = {spec.name: spec for spec in registered()}


def register_backbone(spec: BackboneSpec) -> BackboneSpec:
    """Add `spec` to the registry.

    Raises:
        TTameError: If its name is taken.
    """
    if spec.name in BACKBONES:
        raise TTameError(f"backbone {spec.name!r} is registered already; choose another name")
    BACKBONES[spec.name] = spec
    return spec


def backbone_spec(name: str) -> BackboneSpec:
    """Look up the facts of a backbone by name.

    Args:
        name: A registered name, or `timm/NAME` or `torchvision/NAME`.

    Raises:
        TTameError: If it is unknown; similar names are suggested.
    """
    if name in BACKBONES:
        return BACKBONES[name]
    if name.startswith(PREFIXES):
        return library_spec(name)
    raise TTameError(
        f"unknown backbone {name!r}; known are {', '.join(BACKBONES)}, and any timm/NAME or "
        f"torchvision/NAME.{suggest(name, BACKBONES)} For your own network use "
        "ttame.attach(model, ...)"
    )


def build_backbone(
    name: str,
    state: Mapping[str, Tensor] | None = None,
    input_size: tuple[int, int] | None = None,
    origin: str = "given",
) -> Backbone:
    """Build a classifier by name and freeze it.

    Args:
        name: As for `backbone_spec`.
        state: Its weights; `None` keeps random ones, enough to inspect the structure. Prefixes
            of wrappers are removed from the names, and a head with another number of classes
            than the default is built as the weights have it.
        input_size: Height and width in pixels, if not the default. Position embeddings of timm's
            transformers are resampled.
        origin: Where the weights come from, for error messages.

    Raises:
        TTameError: If the name is unknown, or weights or size do not fit the architecture.
    """
    spec = backbone_spec(name)
    if spec.build is None:
        raise TTameError(f"backbone {name!r} has no loader; pass its module to ttame.attach")
    model = spec.build()
    if state is not None:
        state = match_state(state, model)
        count = class_count(state, model, len(spec.classes))
        if count is not None:
            model = _with_head(spec, count)
            spec = replace(spec, classes=tuple(f"class {index}" for index in range(count)))
        load_state(model, state, origin, name)
    if input_size is not None and checked_size(input_size) != spec.input_size:
        spec = spec.at_size(input_size)
        fit_input = getattr(model, "set_input_size", None)
        if fit_input is not None:
            try:
                fit_input(img_size=spec.input_size)
            except (AssertionError, ValueError, RuntimeError, TypeError) as error:
                raise TTameError(
                    f"{name} cannot take images of {input_size[0]}x{input_size[1]} ({error}); "
                    "choose multiples of its patch and window"
                ) from error
    return freeze(spec, model)


def _with_head(spec: BackboneSpec, count: int) -> nn.Module:
    assert spec.build is not None  # checked before
    try:
        return spec.build(num_classes=count)
    except TypeError as error:
        raise TTameError(
            f"the weights have {count} classes, {spec.name} has {len(spec.classes)}, and its "
            f"`build` takes no num_classes ({error}); let it, or pass the module to ttame.attach"
        ) from error


def load_backbone(
    name: str,
    weights: Path | str | None = None,
    input_size: tuple[int, int] | None = None,
    pretrained: bool = True,
) -> Backbone:
    """Build a classifier by name, load its weights and freeze it.

    Args:
        name: As for `backbone_spec`.
        weights: A local state dict or training checkpoint (`.safetensors`, or `.pth`, `.pt`,
            `.ckpt`, read without running code) instead of the default weights.
        input_size: As for `build_backbone`.
        pretrained: Load weights; otherwise they are random, enough to measure structure and cost.

    Raises:
        TTameError: If the name is unknown, or weights cannot be fetched or read, or do not fit.
    """
    if not pretrained:
        if weights is not None:
            raise TTameError(
                f"got weights={str(weights)!r} and pretrained=False, which means random weights; "
                "leave one of them out"
            )
        found = build_backbone(name, None, input_size)
        return replace(found, spec=replace(found.spec, source="random weights"))
    spec = backbone_spec(name)
    if spec.build is None or spec.weights is None:
        raise TTameError(f"backbone {name!r} has no loader; pass its module to ttame.attach")
    state = spec.weights() if weights is None else read_state(Path(weights))
    return build_backbone(name, state, input_size, str(weights or spec.source))


def freeze(spec: BackboneSpec, model: nn.Module) -> Backbone:
    """Put `model` in evaluation mode and disable its gradients.

    Convolutions get the channels-last memory format: twice as fast on CPUs, same values.
    """
    model = model.eval().requires_grad_(False)
    return Backbone(spec, model.to(memory_format=torch.channels_last))
