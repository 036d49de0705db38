"""Facts of a classifier's input: what a single module states, and what a person may."""

from __future__ import annotations

import math
from collections.abc import Mapping, Sequence
from functools import cache
from numbers import Integral, Real
from typing import Any

import torchvision
from torch import nn

from ttame.classifiers.huggingface import hub_model
from ttame.errors import TTameError

IMAGENET_MEAN = (0.485, 0.456, 0.406)
IMAGENET_STD = (0.229, 0.224, 0.225)
LONGEST = 16384  # height and width in pixels; a larger input fits into no memory


def stated_facts(
    module: nn.Module, outputs: int | None = None, input_size: tuple[int, int] | None = None
) -> dict[str, Any]:
    """Look up what one module itself says about its input; further libraries are added here.

    timm's models have a `pretrained_cfg` (`default_cfg` before 0.8). torchvision's do not say
    which weights they hold: with 1,000 outputs, the normalisation of an architecture's module is
    known where all weights that torchvision publishes for it agree (all but EfficientNet's do).
    Models of `transformers` have a config with the image size; their normalisation is known to
    the processor alone.

    Args:
        module: The model, or one inside it.
        outputs: Number of its logits, if known.
        input_size: Height and width, if not those it states.

    Returns:
        Any of the fields `input_size`, `resize`, `mean`, `std`, `interpolation` and `head` of
        `ttame.classifiers.specs.BackboneSpec`.
    """
    hub = hub_model(module)
    if hub is not None and not hasattr(hub.config, "pretrained_cfg"):
        return _hub_facts(hub, input_size)
    holder = module if hub is None else hub.config  # of a model of timm in transformers
    config = getattr(holder, "pretrained_cfg", None) or getattr(holder, "default_cfg", None)
    if config is not None:
        return timm_facts(config if isinstance(config, Mapping) else vars(config), input_size)
    published = _published(type(module).__module__) if outputs == 1000 else set()
    if len(published) == 1:
        ((mean, std),) = published
        return {"mean": mean, "std": std}
    return {}


def _hub_facts(model: nn.Module, input_size: tuple[int, int] | None) -> dict[str, Any]:
    """Return the input size that the config of a `transformers` model states, if it does."""
    stated: Any = getattr(model.config, "image_size", None)
    if stated is None:
        return {}
    size = input_size or ((stated, stated) if isinstance(stated, int) else tuple(stated))
    return {"input_size": size, "resize": resized(size)}


def timm_facts(
    config: Mapping[str, Any], input_size: tuple[int, int] | None = None
) -> dict[str, Any]:
    """Convert the facts that timm's configuration of a model states to those of a spec.

    Args:
        config: The configuration.
        input_size: Height and width, if not those it states.
    """
    facts: dict[str, Any] = {
        name: tuple(float(value) for value in config[name])
        for name in ("mean", "std")
        if config.get(name)
    }
    if config.get("interpolation"):
        facts["interpolation"] = config["interpolation"]
    size = input_size or tuple(int(side) for side in config.get("input_size") or ())[1:]
    if size:
        facts |= {"input_size": size, "resize": resized(size, config.get("crop_pct"))}
    if isinstance(config.get("classifier"), str):  # some have several heads
        facts["head"] = config["classifier"]
    return facts


def resized(size: Sequence[int], crop_share: float | None = None) -> int:
    """Return the shorter side before the centre crop, whose share is 0.875 unless stated."""
    return round(min(size) / float(crop_share or 0.875))


def rescaled(
    resize: int | tuple[int, int], old: tuple[int, int], new: tuple[int, int]
) -> int | tuple[int, int]:
    """Return the size before the centre crop for another input size, (H, W) in pixels."""
    if isinstance(resize, int):
        return round(resize * min(new) / min(old))
    height, width = (
        round(side * after / before) for side, before, after in zip(resize, old, new, strict=True)
    )
    return height, width


@cache
def _published(module: str) -> set[tuple[tuple[float, ...], tuple[float, ...]]]:
    """Collect mean and std of torchvision's ImageNet weights of the architectures in `module`."""
    found = set()
    for name in torchvision.models.list_models(module=torchvision.models):
        if torchvision.models.get_model_builder(name).__module__ == module:
            for weights in torchvision.models.get_model_weights(name):
                if len(weights.meta["categories"] or ()) == 1000:  # else features alone
                    recipe = weights.transforms()
                    found.add((tuple(recipe.mean), tuple(recipe.std)))
    return found


def checked_size(size: Sequence[int] | None) -> tuple[int, int] | None:
    """Return an input size as (H, W).

    Raises:
        TTameError: If it is not two whole numbers of pixels from 1 to `LONGEST`.
    """
    if size is None:
        return None
    sides = tuple(size) if isinstance(size, Sequence) else (size,)
    whole = all(isinstance(side, Integral) and 1 <= int(side) <= LONGEST for side in sides)
    if len(sides) != 2 or not whole:
        raise TTameError(
            f"input_size must be (height, width), whole pixels from 1 to {LONGEST}, got {size!r}"
        )
    return int(sides[0]), int(sides[1])


def per_channel(
    name: str, values: float | Sequence[float] | None, channels: int
) -> tuple[float, ...] | None:
    """Return one value of `"mean"` or `"std"` for each channel; `None` stays.

    Raises:
        TTameError: If there are not as many, or one is not finite, or not above 0 as a `"std"`.
    """
    if values is None:
        return None
    found = [values] * channels if isinstance(values, Real) else list(values)  # type: ignore[arg-type]
    if len(found) != channels or not all(
        isinstance(value, Real) and math.isfinite(float(value)) for value in found
    ):
        raise TTameError(
            f"{name} must be one finite number, or one for each of {channels} channels, "
            f"got {values!r}"
        )
    if name == "std" and min(found) <= 0:
        raise TTameError(f"std must be above 0 in every channel, got {values!r}")
    return tuple(float(value) for value in found)
