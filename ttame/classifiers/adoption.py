"""Adoption: copy a user's classifier and check that it can be explained."""

from __future__ import annotations

import copy
from collections.abc import Sequence
from typing import Any

import torch
from torch import Tensor, nn

from ttame.classifiers.layers import input_errors, probe_images
from ttame.errors import TTameError
from ttame.features import FeatureExtractor, Tokens

# Rounding differences between batch sizes, relative to the largest value, by dtype.
_TOLERANCE = {torch.float64: 1e-6, torch.float32: 1e-3, torch.float16: 5e-2, torch.bfloat16: 1e-1}


def adopt(model: nn.Module) -> nn.Module:
    """Copy a user's classifier without wrappers, in `eval()`; the argument is not changed.

    `torch.compile` and data-parallel wrappers are removed, because compiled graphs skip the hooks
    that read feature maps. The model's own hooks are kept: they may be part of its function, like
    weight norm.

    Raises:
        TTameError: If it is not an `nn.Module`, is TorchScript, or cannot be copied.
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
            f"{type(model).__name__} cannot be copied ({error}); before attaching, remove "
            "computed tensors from it, for example with torch.nn.utils.remove_weight_norm"
        ) from error
    for module in copied.modules():
        if getattr(module, "_compiled_call_impl", None) is not None:
            module._compiled_call_impl = None  # undoes nn.Module.compile
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
    """Run a classifier once to check that its layers can be explained.

    Args:
        model: The classifier, in `eval()`.
        layers: Dotted module names.
        input_size: Height and width in pixels.
        tokens: Handling of prefix tokens, as for `ttame.features.to_map`.

    Returns:
        Channels of each layer, and the number of classes.

    Raises:
        TTameError: If the logits are not `(B, K)`, a layer gives no feature map, or the logits or
            maps of an image depend on the rest of its batch.
    """
    extract = FeatureExtractor(model, layers, tokens)
    images = probe_images(model, input_size)
    with input_errors(model, images):
        alone, maps_alone = extract(images[:1])
        logits, maps = extract(images)
    remedy = "let every normalisation use running statistics"
    compared = [("the logits", alone, logits, remedy)]
    for name, single, batch in zip(layers, maps_alone, maps, strict=True):
        compared.append((f"the map of layer {name!r}", single, batch, "choose another layer"))
    for what, single, batch, remedy in compared:
        if not _same(single, batch[:1]):
            raise TTameError(
                f"{what} of an image changes with the other images of its batch (batch axis not "
                f"first, or statistics of the batch); {remedy}"
            )
    return [found.shape[1] for found in maps], logits.shape[1]


def _same(a: Tensor, b: Tensor) -> bool:
    """Compare up to rounding; NaN, which random weights may give, counts as equal."""
    if a.shape != b.shape:
        return False
    bound = _TOLERANCE.get(a.dtype, 1e-3) * float(b.float().abs().nan_to_num().max())
    return bool(((a.float() - b.float()).abs().nan_to_num() <= bound + 1e-12).all())
