"""What the tests share: a small classifier with random weights, its explainer, random photos."""

from __future__ import annotations

from collections.abc import Callable
from pathlib import Path
from typing import Any

import pytest
import torch
import torch.nn.functional as F
from torch import Tensor, nn

import ttame
from ttame.companion.allocation import keep_freed_memory
from ttame.data import PhotoList, image_folder, imagenette
from ttame.errors import TTameError
from ttame.explainer import Explainer
from ttame.images import normalize

keep_freed_memory()

CLASSES = ("ant", "bee", "cat", "dog", "eel", "fox", "gnu", "hen", "ibis", "jay")
LAYERS = ("stages.0", "stages.1", "stages.2")
# A toy classifier does not state its normalisation.
IMAGENET: Any = {"mean": (0.485, 0.456, 0.406), "std": (0.229, 0.224, 0.225)}


def randomize_batch_norm(model: nn.Module) -> None:
    """Give every batch norm statistics that matter."""
    for module in model.modules():
        if isinstance(module, nn.BatchNorm2d):
            nn.init.uniform_(module.weight, 0.5, 1.5)
            nn.init.normal_(module.bias, std=0.2)
            assert module.running_mean is not None and module.running_var is not None
            module.running_mean.normal_(std=0.2)
            module.running_var.uniform_(0.5, 1.5)


def stage(inputs: int, outputs: int) -> nn.Sequential:
    convolution = nn.Conv2d(inputs, outputs, 3, stride=2, padding=1, bias=False)
    nn.init.kaiming_normal_(convolution.weight, nonlinearity="relu")
    return nn.Sequential(convolution, nn.BatchNorm2d(outputs), nn.ReLU(inplace=True))


class ToyClassifier(nn.Module):
    """Maps at 1/2, 1/4 and 1/8 of the input, average pooling, dropout and a linear head."""

    def __init__(self, classes: int = len(CLASSES)) -> None:
        super().__init__()
        self.stages = nn.Sequential(stage(3, 8), stage(8, 12), stage(12, 16))
        self.dropout = nn.Dropout(0.5)
        self.head = nn.Linear(16, classes)
        nn.init.normal_(self.head.weight, std=2)

    @torch.no_grad()
    def centre(self) -> None:
        """Move the bias so that different images are different classes."""
        mean = self.stages(torch.randn(16, 3, 4, 4).repeat_interleave(8, 2).repeat_interleave(8, 3))
        self.head.bias.copy_(-self.head.weight @ mean.mean(dim=(0, 2, 3)))

    def forward(self, images: Tensor) -> Tensor:
        logits: Tensor = self.head(self.dropout(self.stages(images).mean(dim=(2, 3))))
        return logits


@pytest.fixture(autouse=True)
def _seeded() -> None:
    torch.manual_seed(0)


@pytest.fixture
def make_toy() -> Callable[[int], nn.Module]:
    """Toy classifiers by seed: equal seeds, equal weights."""

    def make(seed: int) -> nn.Module:
        with torch.random.fork_rng():
            torch.manual_seed(seed)
            model = ToyClassifier()
            randomize_batch_norm(model)
            model.eval().centre()
        return model

    return make


@pytest.fixture
def toy(make_toy: Callable[[int], nn.Module]) -> nn.Module:
    return make_toy(0)


@pytest.fixture
def make_explainer() -> Callable[[nn.Module], Explainer]:
    """Attaches a mechanism with seeded weights and statistics to a toy classifier."""

    def make(model: nn.Module) -> Explainer:
        with torch.random.fork_rng():
            torch.manual_seed(1)
            explainer = ttame.attach(
                model, LAYERS, classes=CLASSES, input_size=(32, 32), head="head", **IMAGENET
            )
            randomize_batch_norm(explainer.mechanism)
        return explainer

    return make


@pytest.fixture
def explainer(make_explainer: Callable[[nn.Module], Explainer], toy: nn.Module) -> Explainer:
    return make_explainer(toy)


def smooth_images(count: int, height: int, width: int) -> Tensor:
    generator = torch.Generator().manual_seed(2)
    coarse = torch.rand(count, 3, 4, 4, generator=generator)
    return F.interpolate(coarse, size=(height, width), mode="bilinear")


@pytest.fixture
def raw_images() -> Tensor:
    """Six pictures in [0, 1], `(6, 3, 32, 32)`; the toy classifier sees several classes."""
    return smooth_images(6, 32, 32)


@pytest.fixture
def images(raw_images: Tensor, explainer: Explainer) -> Tensor:
    """The same, normalised."""
    return normalize(raw_images, explainer.spec)


def save_photos(folder: Path) -> PhotoList:
    from torchvision.transforms.v2.functional import to_pil_image

    folder.mkdir()
    for index, image in enumerate(smooth_images(12, 40, 48)):
        to_pil_image(image).save(folder / f"{index:02}.jpg")
    return image_folder(folder)


@pytest.fixture
def photos(tmp_path: Path) -> PhotoList:
    """Twelve JPEGs on disk, wider than high."""
    return save_photos(tmp_path / "photos")


@pytest.fixture
def imagenette_val() -> PhotoList:
    """Imagenette's validation photos; mark tests that use it with `data`."""
    try:
        return imagenette("val")
    except TTameError:
        pytest.skip("needs Imagenette: set TTAME_DATA to the folder that holds imagenette/")
