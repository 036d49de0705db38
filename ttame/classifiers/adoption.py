"""Adoption: turning whatever module a user has into a frozen classifier that can be explained."""

from __future__ import annotations

import copy
from collections.abc import Sequence
from typing import Any

import torch
from torch import Tensor, nn

from ttame.classifiers.layers import input_errors, probe_images
from ttame.errors import TTameError
from ttame.features import FeatureExtractor, Tokens

# Of the largest value: rounding of another batch size, in the type of the maps.
_TOLERANCE = {torch.float64: 1e-6, torch.float32: 1e-3, torch.float16: 5e-2, torch.bfloat16: 1e-1}


def adopt(model: nn.Module) -> nn.Module:
    """Copy a user's classifier as plain modules in `eval()`; the argument is not changed.

    `torch.compile` and data-parallel wrappers are taken off the copy, because feature maps are
    read by hooks, which compiled graphs skip. Hooks of the model's own are kept: they may be
    part of what it computes (weight norm is one).

    Raises:
        TTameError: A module that runs no Python modules (TorchScript), or cannot be copied.
    """
    model = _unwrap(model)
    if not isinstance(model, nn.Module):
        raise TTameError(
            f"expected an nn.Module or a name, got a {type(model).__name__}; pass the classifier"
        )
    if isinstance(model, torch.jit.ScriptModule):
        raise TTameError(
            f"{type(model).__name__} is TorchScript, whose inner layers cannot be read; pass the "
            "nn.Module that it was made from"
        )
    try:
        copied = copy.deepcopy(model)
    except (RuntimeError, TypeError) as error:
        raise TTameError(
            f"{type(model).__name__} cannot be copied ({error}); before attaching remove what "
            "keeps computed tensors on it, such as torch.nn.utils.remove_weight_norm does"
        ) from error
    for module in copied.modules():
        if getattr(module, "_compiled_call_impl", None) is not None:
            module._compiled_call_impl = None  # nn.Module.compile, in place
    return copied.eval()


def _unwrap(model: Any) -> Any:
    parallel = (nn.DataParallel, nn.parallel.DistributedDataParallel)
    while True:
        if isinstance(model, parallel):
            model = model.module
        elif hasattr(model, "_orig_mod"):  # torch.compile(model)
            model = model._orig_mod
        else:
            return model


@torch.inference_mode()
def probe(
    model: nn.Module, layers: Sequence[str], input_size: tuple[int, int], tokens: Tokens = "drop"
) -> tuple[list[int], int]:
    """Run a classifier and see that its layers can be explained.

    Args:
        model: In `eval()`.
        layers: Dotted module names.
        input_size: Height and width, pixels.
        tokens: How prefix tokens are handled.

    Returns:
        Channels of every layer, and the number of classes.

    Raises:
        TTameError: If the logits are no tensor `(B, K)`, if a layer gives no feature map, or if
            an image's logits or maps change with the other images of its batch.
    """
    extract = FeatureExtractor(model, layers, tokens)
    images = probe_images(model, input_size)
    with input_errors(model, images):
        alone, maps_alone = extract(images[:1])
        logits, maps = extract(images)
    compared = {
        "the logits": (alone, logits),
        **dict(zip(layers, zip(maps_alone, maps, strict=True), strict=True)),
    }
    for name, (single, batch) in compared.items():
        if not _same(single, batch[:1]):
            what = name if name == "the logits" else f"the map of layer {name!r}"
            raise TTameError(
                f"{what} of an image changes with the other images of its batch (batch axis not "
                "first, or statistics of the batch); "
                + (
                    "let every normalisation use running statistics"
                    if name == "the logits"
                    else "choose another layer"
                )
            )
    return [found.shape[1] for found in maps], logits.shape[1]


def _same(a: Tensor, b: Tensor) -> bool:
    """Equal up to rounding; NaN of random weights counts as equal."""
    if a.shape != b.shape:
        return False
    bound = _TOLERANCE.get(a.dtype, 1e-3) * float(b.float().abs().nan_to_num().max())
    return bool(((a.float() - b.float()).abs().nan_to_num() <= bound + 1e-12).all())
