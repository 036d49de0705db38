"""The signature of a method."""

from __future__ import annotations

from collections.abc import Callable
from typing import TypeAlias

import torch
from torch import Tensor

# Normalised images `(B, C, H, W)` and classes `(B,)` -> maps `(B, 1, h, w)`.
Method: TypeAlias = Callable[[Tensor, Tensor], Tensor]


def one_by_one(method: Method) -> Method:
    """Give a method one image at a time, which bounds its memory; maps are float32."""

    def explain(images: Tensor, targets: Tensor) -> Tensor:
        pairs = zip(torch.split(images, 1), torch.split(targets, 1), strict=True)
        return torch.cat([method(image, target).detach().float() for image, target in pairs])

    return explain
