"""The teacher in two parts: the frozen stem, and what follows it."""

from __future__ import annotations

from typing import Any

import torch
from torch import Tensor, nn

from ttame.classifiers.folding import fold_batch_norm
from ttame.classifiers.hybrid import dilated, take_stem
from ttame.classifiers.registry import Backbone


class Tail(nn.Module):
    """The teacher behind the stem, as a function of the stem's map.

    Args:
        teacher: An EfficientNet-Lite0, in `eval()`; shared, not copied.
        stages: Number of its stages in the stem.

    Attributes:
        classifier: The teacher's classifier, of features.
    """

    def __init__(self, teacher: Any, stages: int) -> None:
        super().__init__()
        self.layers = nn.Sequential(*teacher.blocks[stages:], teacher.conv_head, teacher.bn2)
        self.classifier: nn.Linear = teacher.classifier
        self.requires_grad_(False).eval()

    def train(self, mode: bool = True) -> Tail:
        """Stay in `eval()`."""
        return super().train(False)

    @torch.no_grad()
    def forward(self, maps: Tensor) -> Tensor:
        """Return the features at every place, float32; the classifier takes their mean.

        Args:
            maps: Maps of the stem `(B, C, h, w)`; of a dilated stem, every second row and column.

        Returns:
            Features `(B, 1280, h', w')`.
        """
        found: Tensor = self.layers(maps.contiguous(memory_format=torch.channels_last))
        return found.float()


def split(teacher: Backbone, stages: int) -> tuple[nn.Module, Tail]:
    """Take a teacher apart, into its stem and `Tail`, with folded batch norm."""
    blank = torch.zeros(1, 3, *teacher.spec.input_size)
    wide = dilated()
    wide.load_state_dict(teacher.model.state_dict())
    layers = [f"blocks.{index}" for index in range(7)]  # the stages
    stem, rest = (
        fold_batch_norm(model, blank, layers).to(memory_format=torch.channels_last)
        for model in (wide, teacher.model)
    )
    return take_stem(stem, stages), Tail(rest, stages)
