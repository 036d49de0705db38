"""A classifier that knows plain colours exactly, its explainer, and photos of one colour."""

from __future__ import annotations

from collections.abc import Sequence
from pathlib import Path

import torch
from PIL import Image
from torch import Tensor, nn

import ttame
from ttame.classifiers.outputs import Activation
from ttame.data import PhotoList, image_folder
from ttame.explainer import Explainer

COLOURS = ("red", "green", "blue", "yellow", "cyan", "magenta", "white")
_RGB = ((1, 0, 0), (0, 1, 0), (0, 0, 1), (1, 1, 0), (0, 1, 1), (1, 0, 1), (1, 1, 1))


class ColourClassifier(nn.Module):
    """Logit k is `scale` times the share of the image in colour k; black is of no colour."""

    def __init__(self, scale: float = 40) -> None:
        super().__init__()
        self.colours = nn.Sequential(nn.Conv2d(3, len(COLOURS), 1), nn.ReLU())
        corners = torch.tensor(_RGB, dtype=torch.float32)
        convolution = self.colours[0]
        with torch.no_grad():
            # 1 at the corner itself, 0 or less at every other corner of the cube of colours.
            convolution.weight.copy_((2 * corners - 1)[..., None, None])
            convolution.bias.copy_(1 - corners.sum(dim=1))
        self.scale = scale

    def forward(self, images: Tensor) -> Tensor:
        shares: Tensor = self.colours(images).mean(dim=(2, 3))
        return self.scale * shares


def colour_explainer(activation: Activation = "softmax") -> Explainer:
    """An untrained explainer of 32x32 inputs; images are not normalised."""
    return ttame.attach(
        ColourClassifier().eval(), ("colours",), classes=COLOURS, input_size=(32, 32),
        mean=(0, 0, 0), std=(1, 1, 1), activation=activation,
    )  # fmt: skip


def save_colours(folder: Path, colours: Sequence[str]) -> PhotoList:
    """One photo of each colour, in this order; what is no colour above, such as grey, is unsure."""
    folder.mkdir(exist_ok=True)
    for index, colour in enumerate(colours):
        # Pillow's "green" is half as bright.
        Image.new("RGB", (40, 40), "lime" if colour == "green" else colour).save(
            folder / f"{index:02}.png"
        )
    return image_folder(folder)
