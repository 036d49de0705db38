"""Facts of a classifier's input: given, stated by a model through any wrapper, or asked for."""

from __future__ import annotations

import copy
from collections.abc import Iterator, Mapping, Sequence
from contextlib import ExitStack
from dataclasses import dataclass
from functools import partial
from numbers import Real
from typing import Any

import torch
from torch import Tensor, nn

from ttame.classifiers.facts import (
    IMAGENET_MEAN,
    IMAGENET_STD,
    checked_size,
    per_channel,
    rescaled,
    resized,
    stated_facts,
    timm_facts,
)
from ttame.classifiers.huggingface import hub_model, processor_facts
from ttame.classifiers.layers import input_channels, input_errors, probe_images
from ttame.errors import TTameError

# Misfit, relative to the spread, up to which a wrapper scales and shifts each channel.
_MISFIT = {torch.float16: 1e-2, torch.bfloat16: 5e-2}


def input_facts(
    model: nn.Module,
    *,
    input_size: Sequence[int] | None = None,
    channels: int | None = None,
    mean: float | Sequence[float] | None = None,
    std: float | Sequence[float] | None = None,
    processor: object = None,
) -> dict[str, Any]:
    """Collect the facts of a model's input: those given, and of the others those it states.

    A model inside a wrapper states facts of its own input. They are carried over to the wrapper's
    by one forward pass, which shows what the wrapper does with its images: nothing, or a scale and
    shift per channel (a normalisation). Where it does anything else, the facts do not carry over.

    Args:
        model: The classifier, in `eval()`.
        input_size: Height and width, in pixels.
        channels: Number of channels C; default: the length of `mean` or `std`, or else what the
            model states and takes, or what its first convolution takes.
        mean: Per-channel mean in [0, 1] units; one number for all channels.
        std: Per-channel standard deviation.
        processor: Image processor of `transformers`, whose facts come before the model's.

    Returns:
        Fields of `ttame.classifiers.specs.BackboneSpec`; `input_size`, `resize`, `mean` and `std`
        always.

    Raises:
        TTameError: If a fact is neither given nor known, or a given one is invalid.
    """
    if model.training:  # its pass must not move running statistics
        model = copy.deepcopy(model).eval()
    size = checked_size(input_size)
    count = _channels(model, channels, mean, std, size)
    given = {"mean": per_channel("mean", mean, count), "std": per_channel("std", std, count)}
    inner = list(_speakers(model))
    facts = stated_facts(model, input_size=size)
    if processor is not None:
        facts = {**facts, **_processed(processor, size)}
    elif not facts and inner:
        sizes = {stated_facts(module).get("input_size") for module in inner}
        tried = size or (sizes.pop() if len(sizes) == 1 else None)
        if tried is None:  # without it, no pass shows what else is known
            raise TTameError(
                f"the input size of {type(model).__name__} is not known; pass input_size=(H, W)"
            )
        facts = _carried(model, inner, probe_images(model, tried, count)[:1])
    if size is not None:
        facts = {"resize": resized(size), **facts, "input_size": size}
    facts |= {key: value for key, value in given.items() if value is not None}
    _ask(model, facts, count)
    return facts


def _processed(processor: object, size: tuple[int, int] | None) -> dict[str, Any]:
    """Return the facts of a processor, for another input size if one is given."""
    stated = getattr(processor, "data_config", None)  # of timm's models in transformers
    if stated is not None:
        return timm_facts(stated, size)
    facts = processor_facts(processor)
    if size is not None:
        facts["resize"] = rescaled(facts["resize"], facts["input_size"], size)
    return facts


def _ask(model: nn.Module, facts: Mapping[str, Any], channels: int) -> None:
    """Refuse facts that lack the input size or a mean and std of each channel."""
    wanted = [key for key in ("mean", "std") if len(facts.get(key, ())) != channels]
    words, advice = [], ""
    if "input_size" not in facts:
        words.append("input_size=(H, W)")
    if wanted:
        imagenet = f"mean={IMAGENET_MEAN}, std={IMAGENET_STD} for ImageNet's; " * (channels == 3)
        words.append(f"{' and '.join(wanted)} per channel ({channels}), for images in [0, 1]")
        advice = f": {imagenet}mean=0, std=1 for a model that normalises its input itself"
    if words:
        unknown = ["input size"] * (len(words) > bool(wanted)) + ["normalisation"] * bool(wanted)
        processed = "processor=AutoImageProcessor.from_pretrained(...), or "
        raise TTameError(
            f"the {' and '.join(unknown)} of {type(model).__name__} "
            f"{'are' if len(unknown) > 1 else 'is'} not known; pass "
            f"{processed if hub_model(model) is not None else ''}{', and '.join(words)}{advice}"
        )


def _channels(
    model: nn.Module,
    channels: int | None,
    mean: float | Sequence[float] | None,
    std: float | Sequence[float] | None,
    size: tuple[int, int] | None,
) -> int:
    """Return the number of input channels, given or found."""
    if channels is None:
        channels = _length(mean) or _length(std) or _stated_channels(model, size)
    if channels is None:
        channels = input_channels(model)
    if channels is None:
        raise TTameError(
            f"the input channels of {type(model).__name__} are not known; pass channels=C"
        )
    if isinstance(channels, bool) or not isinstance(channels, int) or channels < 1:
        raise TTameError(f"channels must be a positive whole number, got {channels!r}")
    return channels


def _stated_channels(model: nn.Module, size: tuple[int, int] | None) -> int | None:
    """Return the number of channels that a model states a mean for, if it takes as many.

    Some have no convolution, or one that reads blocks of pixels as channels; and some were made
    for other channels than their configuration says.
    """
    facts = stated_facts(model, input_size=size)
    count = len(facts.get("mean", ()))
    if not count or "input_size" not in facts:
        return None
    if count == input_channels(model):
        return count
    try:
        with torch.no_grad():
            model(probe_images(model, facts["input_size"], count)[:1])
    except Exception:  # whatever a network of any make raises at other channels
        return None
    return count


@dataclass
class _Seen:
    """First input and output of a module in a forward pass, and the number of its passes."""

    images: Tensor | None = None
    output: object = None
    passes: int = 0


def _carried(model: nn.Module, inner: Sequence[nn.Module], images: Tensor) -> dict[str, Any]:
    """Carry the facts that modules state over to the input of the model around them."""
    seen = [_Seen() for _ in inner]
    with ExitStack() as hooks:
        for module, record in zip(inner, seen, strict=True):
            hook = module.register_forward_hook(partial(_record, record), with_kwargs=True)
            hooks.enter_context(hook)
        with torch.no_grad(), input_errors(model, images):
            model(images)
    carried = []
    for module, record in zip(inner, seen, strict=True):
        output = record.output
        logits = output.shape[1] if isinstance(output, Tensor) and output.ndim == 2 else None
        facts = stated_facts(module, logits, (images.shape[-2], images.shape[-1]))
        if record.passes != 1 or record.images is None:
            return {}
        if not torch.equal(record.images, images):
            change = _scale_and_shift(images, record.images)
            if change is None:
                return {}
            if "mean" in facts and "std" in facts:
                facts |= _before(facts["mean"], facts["std"], *change)
        place = next(name for name, found in model.named_modules() if found is module)
        if place and "head" in facts:
            facts["head"] = f"{place}.{facts['head']}"
        carried.append(facts)
    # Several models side by side: what they agree on.
    first = carried[0]
    return {key: value for key, value in first.items()
            if all(other.get(key) == value for other in carried)}  # fmt: skip


def _record(
    record: _Seen, _module: nn.Module, args: Sequence[Any], kwargs: Mapping[str, Any], output: Any
) -> None:
    record.passes += 1
    tensors = (value for value in (*args, *kwargs.values()) if isinstance(value, Tensor))
    record.images, record.output = next(tensors, None), output


def _scale_and_shift(images: Tensor, seen: Tensor) -> tuple[list[float], list[float]] | None:
    """Fit seen = scale·images + shift per channel; `None` where it does not fit."""
    if seen.shape != images.shape:
        return None
    x, z = (found[0].double().flatten(1) for found in (images, seen))  # (C, H·W)
    centred = x - x.mean(dim=1, keepdim=True)
    scale = (centred * z).sum(dim=1) / centred.square().sum(dim=1)
    shift = z.mean(dim=1) - scale * x.mean(dim=1)
    misfit = (scale[:, None] * x + shift[:, None] - z).abs().amax(dim=1)
    bound = _MISFIT.get(images.dtype, 1e-4) * z.abs().amax(dim=1)
    if not bool(((misfit <= bound) & (scale > 0)).all()):  # also NaN
        return None
    return scale.tolist(), shift.tolist()


def _before(
    mean: Sequence[float], std: Sequence[float], scale: Sequence[float], shift: Sequence[float]
) -> dict[str, Any]:
    """Return the normalisation that, followed by a scale and shift, is that of mean and std.

    (x - mean)/std = scale·(x - m)/s + shift has m = mean + shift·std and s = scale·std.
    """
    if len(mean) != len(scale):
        return {"mean": tuple(mean), "std": tuple(std)}  # refused by the caller, for their number
    before = [(m + b * s, a * s) for m, s, a, b in zip(mean, std, scale, shift, strict=True)]
    # The digits that a fit of float32 values holds.
    return {
        "mean": tuple(round(m, 6) + 0.0 for m, _ in before),
        "std": tuple(float(f"{s:.6g}") for _, s in before),
    }


def _speakers(model: nn.Module) -> Iterator[nn.Module]:
    """Find the outermost modules that state facts."""
    if stated_facts(model, 1000):
        yield model
        return
    for child in model.children():
        yield from _speakers(child)


def _length(values: float | Sequence[float] | None) -> int | None:
    return None if values is None or isinstance(values, Real) else len(values)  # type: ignore[arg-type]
