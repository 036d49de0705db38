"""Advice: turn what a classifier raises on a probe image into its cause and what to do about it."""

from __future__ import annotations

import inspect
import re
from collections.abc import Iterator
from contextlib import contextmanager

import torch
from torch import Tensor, nn

from ttame.errors import TTameError

_CHANNELS = re.compile(r"to have (\d+) channels, but got (\d+) channels")
# What the messages of torch and timm have in common where only the size is wrong.
_SIZES = re.compile(
    r"shape|size|dimension|height|width|divisible|match|length|resolution|broadcast|expand", re.I
)


@contextmanager
def input_errors(model: nn.Module, images: Tensor) -> Iterator[None]:
    """Turn any exception that `model` raises inside the block into its cause and a remedy.

    Raises:
        TTameError: Instead of any exception of the model.
    """
    try:
        yield
    except TTameError:
        raise
    except Exception as error:
        what = f"{type(error).__name__}: {' '.join(str(error).split())[:200]}"
        raise TTameError(
            f"{type(model).__name__} cannot take images {tuple(images.shape)}, {images.dtype} "
            f"({what}); {_remedy(model, images, error)}"
        ) from error


def is_out_of_memory(error: BaseException) -> bool:
    """Return whether an error of torch says that memory did not suffice, on whatever device."""
    if isinstance(error, torch.OutOfMemoryError | MemoryError):
        return True
    words = ("out of memory", "not enough memory", "can't allocate memory")
    return isinstance(error, RuntimeError) and any(some in str(error).lower() for some in words)


def is_quantized(model: nn.Module) -> bool:
    """Return whether a module of the model computes with integers."""
    return any(".quantized" in type(module).__module__ for module in model.modules())


def _remedy(model: nn.Module, images: Tensor, error: Exception) -> str:
    """Say what to do about an exception that a model raised on images."""
    message, count = str(error), images.shape[1]
    if is_out_of_memory(error):
        return "there is too little memory for images of this size; choose a smaller input_size"
    if other := _other_inputs(model):
        return (
            f"its forward takes {other}, and models with inputs other than one batch of images "
            "are not supported; pass a module around it whose forward takes the images alone"
        )
    if "Guard failed" in message or "_guards_fn" in dict(model.named_modules()):
        return (
            "it is an exported program, fixed to the batch size that it was exported with; pass "
            "the nn.Module that it was made from"
        )
    if found := _CHANNELS.search(message):
        wanted = found[1]
        if int(found[2]) == count:
            return (
                f"it takes images of {wanted} channels and these have {count}: pass channels="
                f"{wanted} with a mean and std of each, or a module around it that makes {wanted} "
                f"channels of {count}"
            )
        return f"between two of its layers {found[2]} channels become {wanted}: mend the model"
    if is_quantized(model):
        return "it is quantised; pass the float model that it was made from"
    if "same dtype" in message or "Input type" in message or "scalar type" in message:
        return "its layers differ in dtype or device; convert all of it first, model.float().cpu()"
    if isinstance(error, (RuntimeError, ValueError, AssertionError)) and _SIZES.search(message):
        return "pass the input_size that it was built for"
    return (
        "the model itself fails on images; call it once on such a tensor, and mend it or pass a "
        "module around it that takes images and returns logits"
    )


def _other_inputs(model: nn.Module) -> str:
    """Name the inputs of a model's forward if a batch of images alone is not enough, else `""`."""
    try:
        parameters = inspect.signature(model.forward).parameters.values()
    except (TypeError, ValueError):
        return ""
    kinds = (inspect.Parameter.POSITIONAL_ONLY, inspect.Parameter.POSITIONAL_OR_KEYWORD)
    given = [parameter for parameter in parameters if parameter.kind in kinds]
    required = [p.name for p in given if p.default is p.empty]
    required += [p.name for p in parameters if p.kind is p.KEYWORD_ONLY and p.default is p.empty]
    if len(required) > 1:
        return f"{len(required)} inputs ({', '.join(required[:4])})"
    names = [parameter.name for parameter in given]
    if "pixel_values" in names[1:]:  # CLIP and its kin begin with the text
        return f"{names[0]} first and the images as pixel_values"
    return ""
