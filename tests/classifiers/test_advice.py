"""Advice that fits the cause, for models that cannot take a batch of images."""

from __future__ import annotations

from collections.abc import Callable
from dataclasses import replace

import pytest
import torch
from torch import Tensor, nn

import ttame
from ttame.classifiers.advice import input_errors
from ttame.errors import TTameError
from ttame.methods import build

FACTS = {"input_size": (32, 32), "mean": 0, "std": 1, "channels": 3}


class Network(nn.Module):
    """Three convolutions with one ReLU module for all of them, and a head."""

    def __init__(self, channels: int = 3) -> None:
        super().__init__()
        self.a = nn.Conv2d(channels, 8, 3, 2, 1)
        self.b = nn.Conv2d(8, 12, 3, 2, 1)
        self.c = nn.Conv2d(12, 16, 3, 2, 1)
        self.relu = nn.ReLU()
        self.head = nn.Sequential(nn.Linear(16, 64), nn.ReLU(), nn.Linear(64, 5))

    def forward(self, x: Tensor) -> Tensor:
        maps = self.relu(self.c(self.relu(self.b(self.relu(self.a(x))))))
        logits: Tensor = self.head(maps.mean((2, 3)))
        return logits


class WithMetadata(Network):
    def forward(self, x: Tensor, metadata: Tensor) -> Tensor:  # type: ignore[override]
        return super().forward(x)


class TextFirst(Network):
    def forward(  # type: ignore[override]
        self, input_ids: Tensor | None = None, pixel_values: Tensor | None = None
    ) -> Tensor:
        if pixel_values is None:
            raise ValueError("You have to specify pixel_values")
        return super().forward(pixel_values)


class OneSize(Network):
    def forward(self, x: Tensor) -> Tensor:
        return self.head(super().forward(x).flatten()[:16].view(1, 16))


class Broken(Network):
    def forward(self, x: Tensor) -> Tensor:
        raise KeyError("image")


def exported() -> nn.Module:
    program = torch.export.export(Network().eval(), (torch.randn(1, 3, 32, 32),))
    return program.module()


def quantized() -> nn.Module:
    model: nn.Module = torch.ao.quantization.quantize_dynamic(
        Network().eval(), {nn.Linear}, dtype=torch.qint8
    )
    return model


@pytest.mark.filterwarnings("ignore::DeprecationWarning")
@pytest.mark.parametrize(
    ("make", "advice"),
    [
        (lambda: Network(4), "takes images of 4 channels and these have 3: pass channels=4"),
        (WithMetadata, r"forward takes 2 inputs \(x, metadata\).*not supported; pass a module"),
        (TextFirst, r"takes input_ids first and the images as pixel_values.*not supported"),
        (exported, "exported program.*pass the nn.Module that it was made from"),
        (quantized, "quantised layers scale by the batch: pass the float model"),
        (OneSize, "pass the input_size that it was built for"),
        (Broken, r"KeyError: 'image'\); the model itself fails on images"),
    ],
)
def test_each_cause_has_its_advice(make: Callable[[], nn.Module], advice: str) -> None:
    with pytest.raises(TTameError, match=advice) as caught:
        ttame.attach(make(), **FACTS)
    assert "\n" not in str(caught.value)


@pytest.mark.parametrize(
    ("error", "advice"),
    [
        (MemoryError(), "too little memory.*smaller input_size"),
        (RuntimeError("DefaultCPUAllocator: can't allocate memory"), "too little memory"),
        (RuntimeError("Input type (float) and bias type (half) should be the same"), "dtype"),
        (RuntimeError("expected x to have 8 channels, but got 6 channels"), "6 channels become 8"),
        (TTameError("ours"), "^ours$"),
    ],
)
def test_exceptions_are_told_apart(error: Exception, advice: str) -> None:
    with (
        pytest.raises(TTameError, match=advice),
        input_errors(Network(), torch.zeros(1, 3, 32, 32)),
    ):
        raise error


def test_an_exported_program_is_no_module() -> None:
    program = torch.export.export(Network().eval(), (torch.randn(1, 3, 32, 32),))
    with pytest.raises(TTameError, match=r"got a ExportedProgram; pass the nn\.Module that"):
        ttame.attach(program, **FACTS)


def test_a_module_that_runs_several_times_is_not_chosen_and_refused_by_name() -> None:
    explainer = ttame.attach(Network(), **FACTS)
    assert explainer.layers == ("a", "b", "c")
    image, target = torch.randn(1, 3, 32, 32), torch.tensor([1])
    for name in ("Ablation-CAM", "IIA", "Grad-CAM"):
        assert build(name, explainer)(image, target).isfinite().all()
    with pytest.raises(TTameError, match="'relu' runs 3 times in a forward pass"):
        ttame.attach(Network(), ["a", "relu"], **FACTS)
    explainer.spec = replace(explainer.spec, cam_layer="relu")
    for name in ("Ablation-CAM", "IIA", "Grad-CAM"):
        with pytest.raises(TTameError, match="'relu' runs 3 times in a forward pass"):
            build(name, explainer)


def test_methods_that_read_attention_name_what_to_take_instead() -> None:
    explainer = ttame.attach(Network(), **FACTS)
    with pytest.raises(TTameError, match=r"as timm \(`blocks`\) or torchvision.*such as Grad-CAM"):
        build("attention rollout", explainer)
