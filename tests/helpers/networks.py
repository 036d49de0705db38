"""A network with layers of every kind that cannot be explained, and a count of hooks."""

from __future__ import annotations

import torch
from torch import Tensor, nn


def count_hooks(model: nn.Module) -> int:
    return sum(
        len(module._forward_hooks) + len(module._forward_pre_hooks) for module in model.modules()
    )


class Awkward(nn.Module):
    """A network with every kind of layer that cannot be explained."""

    def __init__(self, fails: bool = False) -> None:
        super().__init__()
        self.convolution = nn.Conv2d(3, 4, 3, stride=4, padding=1)
        self.activation = nn.ReLU(inplace=True)
        self.pair = Pair()
        self.windows = Windows()
        self.pool = nn.AdaptiveAvgPool2d(1)
        self.head = nn.Linear(4, 5)
        self.unused = nn.Conv2d(3, 3, 1)
        self.fails = fails

    def forward(self, images: Tensor) -> Tensor:
        maps = self.activation(self.convolution(images))
        self.windows(self.pair(maps)[0])
        if self.fails:
            raise RuntimeError("out of luck")
        logits: Tensor = self.head(self.pool(maps).flatten(1))
        return logits


class Pair(nn.Module):
    def forward(self, maps: Tensor) -> tuple[Tensor, Tensor]:
        return maps, maps


class Windows(nn.Module):
    """Cuts every map into four windows that travel in the batch axis."""

    def forward(self, maps: Tensor) -> Tensor:
        return torch.cat([maps[..., ::2, ::2]] * 4)
