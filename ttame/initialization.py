"""Where the fusion starts: free rows as published, or rows taken from the classifier's own head.

A classifier that pools its last feature map linearly already holds one direction per class in
that map's channels. Starting there (class activation mapping) gives usable maps before the
first step, also for classes that training never sees.
"""

from __future__ import annotations

from typing import Literal

import torch
from torch import Tensor, nn

from ttame.attention import FeatureBranch
from ttame.errors import TTameError
from ttame.explainer import Explainer

Init = Literal["free", "classifier"]

# Standard deviation of the initial map, in logits of the mask: wide enough that the mask is no
# uniform grey, narrow enough that the sigmoid still passes gradients.
_SPREAD = 2.0


@torch.no_grad()
def initialize(explainer: Explainer, images: Tensor, init: Init = "free") -> None:
    """Set the starting point of an explainer's mechanism.

    `"free"` leaves torch's random initialisation, the papers' choice. `"classifier"` starts
    every branch as the activation of its feature map (`_pass_through`), copies the head's
    weights into the fusion rows of the layer that has the head's width, leaves zero for the
    others, and centres and scales the initial own-class map over `images` to mean 0 and
    standard deviation 2, so that masks start neither all-zero nor all-one.

    Args:
        explainer: Changed: its mechanism's parameters are set.
        images: Normalised photos that the scale is measured on, `(B, 3, H, W)`.
        init: Which start.

    Raises:
        TTameError: If the classifier's head cannot be used: none is named, no layer has its
            width, or the mechanism's branches change the width.
    """
    if init == "free":
        return
    if init != "classifier":
        raise TTameError(f"init must be 'free' or 'classifier', got {init!r}")
    mechanism = explainer.mechanism
    rows = _head_rows(explainer)
    for branch in mechanism.branches:
        if isinstance(branch, FeatureBranch):
            _pass_through(branch)
    mechanism.fusion.weight.copy_(rows[:, :, None, None])
    assert mechanism.fusion.bias is not None
    mechanism.fusion.bias.zero_()
    mode = mechanism.training
    explainer.eval()
    _, _, maps = explainer(images)
    gain = _SPREAD / maps.std().clamp_min(1e-6)
    mechanism.fusion.weight.mul_(gain)
    mechanism.fusion.bias.fill_(float(-maps.mean() * gain))
    explainer.train(mode)


def _pass_through(branch: FeatureBranch) -> None:
    """Start a branch as the activation of its feature map, whatever its architecture."""
    convolution, norm = branch.convolution, branch.norm
    assert convolution.bias is not None
    if branch.skip and isinstance(norm, nn.BatchNorm2d):
        norm.weight.zero_()
        return
    convolution.bias.zero_()
    if branch.skip:
        convolution.weight.zero_()
    else:
        nn.init.dirac_(convolution.weight)


def _head_rows(explainer: Explainer) -> Tensor:
    """The head's weights, placed in the columns of the layer that feeds it, `(K, ΣC_l)`."""
    mechanism, name = explainer.mechanism, explainer.spec.head
    modules = dict(explainer.classifier.named_modules())
    head = modules.get(name) if name else None
    if not isinstance(head, nn.Linear) or head.out_features != mechanism.classes:
        raise TTameError(
            f"init='classifier' needs the classifier's last linear layer; {name!r} is "
            f"{type(head).__name__}. Name it with head=..., or use init='free'"
        )
    fits = [i for i, width in enumerate(mechanism.widths) if width == head.in_features]
    if not fits or mechanism.widths != mechanism.channels:
        raise TTameError(
            f"init='classifier' needs a layer with the head's {head.in_features} channels; "
            f"{explainer.layers} have {mechanism.widths}. Add the layer before the pooling, or "
            "use init='free'"
        )
    rows = torch.zeros(mechanism.classes, sum(mechanism.widths))
    start = sum(mechanism.widths[: fits[-1]])
    rows[:, start : start + head.in_features] = head.weight
    return rows
