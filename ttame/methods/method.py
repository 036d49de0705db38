"""The signature of a method."""

from __future__ import annotations

from collections.abc import Callable
from dataclasses import dataclass
from typing import TypeAlias

import torch
from torch import Tensor, nn

# Normalised images `(B, C, H, W)` and classes `(B,)` -> maps `(B, 1, h, w)`.
Method: TypeAlias = Callable[[Tensor, Tensor], Tensor]


@dataclass(frozen=True)
class PairedMethod:
    """A method that runs a network beside the classifier, whose passes count as well.

    Attributes:
        method: The method.
        network: The other network.
    """

    method: Method
    network: nn.Module

    def __call__(self, images: Tensor, targets: Tensor) -> Tensor:
        """Make maps by the method."""
        return self.method(images, targets)


def wrapped(function: Method, method: Method) -> Method:
    """Return `function`, which runs `method`, with the network that the method runs, if any."""
    return PairedMethod(function, method.network) if isinstance(method, PairedMethod) else function


def networks_beside(method: Method) -> tuple[nn.Module, ...]:
    """Return the networks that a method runs beside the classifier."""
    return (method.network,) if isinstance(method, PairedMethod) else ()


def one_by_one(method: Method) -> Method:
    """Give a method one image at a time, which bounds its memory; maps are float32."""

    def explain(images: Tensor, targets: Tensor) -> Tensor:
        pairs = zip(torch.split(images, 1), torch.split(targets, 1), strict=True)
        return torch.cat([method(image, target).detach().float() for image, target in pairs])

    return explain
