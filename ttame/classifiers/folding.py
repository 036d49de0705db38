"""Folding frozen batch norm into the preceding convolutions: the same function, but faster.

Training runs the frozen classifier forward and backward on every masked photo. On CPUs most of
that time is spent in batch-norm layers, which in `eval()` are a fixed scale and shift.
"""

from __future__ import annotations

import copy
import warnings
from collections import Counter
from collections.abc import Sequence
from contextlib import ExitStack
from functools import partial

import torch
from torch import Tensor, nn
from torch.nn.utils.fusion import fuse_conv_bn_weights

from ttame.classifiers.passes import copy_module
from ttame.classifiers.weights import input_like, is_half


@torch.no_grad()
def fold_batch_norm(
    model: nn.Module, image: Tensor, layers: Sequence[str] = (), tolerance: float = 1e-3
) -> nn.Module:
    """Copy a classifier and fold each batch norm that directly follows a convolution.

    The pairs are observed in a forward pass, so any architecture works. A classifier in half
    precision is copied in float32: folding would lose digits, and gradients through it vanish.

    Args:
        model: A classifier in `eval()`; not changed.
        image: An example input, `(1, C, H, W)`, on the device of the classifier.
        layers: Names of layers whose outputs are needed: a convolution that ends one is not
            folded, because its output would become that of the batch norm.
        tolerance: Maximum difference of the logits, relative to their range.

    Returns:
        A frozen copy with the same module names; if its logits differ by more than `tolerance`,
        a copy without folding, with a warning.
    """
    plain = copy_module(model).eval().requires_grad_(False)
    if is_half(plain):
        plain = plain.float()
    image = image.to(input_like(plain))
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
        # timm's BatchNormAct2d contains the activation, which must stay.
        folded.set_submodule(norm_name, getattr(norm, "act", nn.Identity()))
    before, after = plain(image), folded(image)
    difference = float((before - after).abs().max() / (before.max() - before.min()).clamp_min(1e-6))
    if difference > tolerance:
        warnings.warn(
            f"folding batch norm moves the logits of {type(model).__name__} by {difference:.2g} "
            "of their range; continuing without it, which is slower",
            stacklevel=2,
        )
        return plain
    return folded


def _within(name: str, layer: str) -> bool:
    return f"{name}.".startswith(f"{layer}.")


def _pairs(model: nn.Module, image: Tensor) -> list[tuple[str, str]]:
    """Find the (convolution, batch norm) pairs where one's output is the other's input."""
    made: dict[int, tuple[str, Tensor]] = {}  # holds the outputs, or their ids would be reused
    pairs: list[tuple[str, str]] = []
    calls: Counter[str] = Counter()

    def after(name: str, _module: nn.Module, _args: object, output: Tensor) -> None:
        calls[name] += 1
        made[id(output)] = name, output

    def before(name: str, _module: nn.Module, args: tuple[Tensor, ...]) -> None:
        calls[name] += 1
        if id(args[0]) in made:
            pairs.append((made[id(args[0])][0], name))

    with ExitStack() as hooks:
        for name, module in model.named_modules():
            if isinstance(module, nn.Conv2d):
                hooks.enter_context(module.register_forward_hook(partial(after, name)))
            elif (
                isinstance(module, nn.BatchNorm2d)
                and (type(module) is nn.BatchNorm2d or hasattr(module, "act"))
                and module.running_mean is not None  # otherwise it uses the batch's statistics
            ):
                hooks.enter_context(module.register_forward_pre_hook(partial(before, name)))
        model(image)
    # A module that runs twice (shared weights) is left unchanged.
    return [pair for pair in pairs if all(calls[name] == 1 for name in pair)]
