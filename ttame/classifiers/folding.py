"""Folding frozen batch norm into the convolutions before it: the same function, but faster.

Training evaluates the frozen classifier forward and backward on every masked photo; on CPUs
most of that time passes in batch-norm layers, which in `eval()` are a fixed scale and shift.
"""

from __future__ import annotations

import copy
import warnings
from collections.abc import Callable, Sequence

import torch
from torch import Tensor, nn
from torch.nn.utils.fusion import fuse_conv_bn_weights


@torch.no_grad()
def fold_batch_norm(
    model: nn.Module, image: Tensor, layers: Sequence[str] = (), tolerance: float = 1e-3
) -> nn.Module:
    """Copy a classifier and fold every batch norm that directly follows a convolution.

    Which pairs follow each other is observed in one forward pass, so any architecture works.

    Args:
        model: A classifier in `eval()`; not changed.
        image: An example input, `(1, 3, H, W)`.
        layers: Modules that are tapped: a convolution that ends one is not folded, or its
            output would be that of the batch norm behind it.
        tolerance: Largest accepted difference of the logits, relative to their range.

    Returns:
        A frozen copy with the same module names, so that the same layers can be tapped. If its
        logits differ by more than `tolerance`, a plain copy, with a warning.
    """
    plain = copy.deepcopy(model).eval().requires_grad_(False)
    folded = copy.deepcopy(plain)
    for conv_name, norm_name in _pairs(folded, image):
        if any(_within(conv_name, layer) and not _within(norm_name, layer) for layer in layers):
            continue
        conv, norm = folded.get_submodule(conv_name), folded.get_submodule(norm_name)
        assert isinstance(conv, nn.Conv2d) and isinstance(norm, nn.BatchNorm2d)
        assert norm.running_mean is not None and norm.running_var is not None
        weight, bias = fuse_conv_bn_weights(
            conv.weight, conv.bias, norm.running_mean, norm.running_var, norm.eps,
            norm.weight, norm.bias,
        )  # fmt: skip
        conv.weight = nn.Parameter(weight, requires_grad=False)
        conv.bias = nn.Parameter(bias, requires_grad=False)
        # timm's BatchNormAct2d carries the activation that follows; torch's BatchNorm2d nothing.
        folded.set_submodule(norm_name, getattr(norm, "act", nn.Identity()))
    before, after = plain(image), folded(image)
    difference = float((before - after).abs().max() / (before.max() - before.min()).clamp_min(1e-6))
    if difference > tolerance:
        warnings.warn(
            f"folding batch norm moves the logits of {type(model).__name__} by {difference:.2g} "
            "of their range; going on without it, slower",
            stacklevel=2,
        )
        return plain
    return folded


def _within(name: str, layer: str) -> bool:
    return f"{name}.".startswith(f"{layer}.")


def _pairs(model: nn.Module, image: Tensor) -> list[tuple[str, str]]:
    """Names of (convolution, batch norm) where the one's output is the other's input."""
    made: dict[int, str] = {}
    alive: list[Tensor] = []  # keeps the outputs, or their ids would be reused
    pairs: list[tuple[str, str]] = []
    calls: dict[str, int] = {}
    handles = []

    def record(name: str) -> Callable[..., None]:
        def after(_module: nn.Module, _args: object, output: Tensor) -> None:
            calls[name] = calls.get(name, 0) + 1
            made[id(output)] = name
            alive.append(output)

        return after

    def match(name: str) -> Callable[..., None]:
        def before(_module: nn.Module, args: tuple[Tensor, ...]) -> None:
            calls[name] = calls.get(name, 0) + 1
            if id(args[0]) in made:
                pairs.append((made[id(args[0])], name))

        return before

    for name, module in model.named_modules():
        if isinstance(module, nn.Conv2d):
            handles.append(module.register_forward_hook(record(name)))
        elif (
            isinstance(module, nn.BatchNorm2d)
            and (type(module) is nn.BatchNorm2d or hasattr(module, "act"))
            and module.running_mean is not None  # else its statistics are the batch's
        ):
            handles.append(module.register_forward_pre_hook(match(name)))
    try:
        model(image)
    finally:
        for handle in handles:
            handle.remove()
    # A module that runs twice (shared weights) must stay as it is.
    return [pair for pair in pairs if all(calls[name] == 1 for name in pair)]
