"""One explainer and its exported files, which the tests of this folder only read."""

from __future__ import annotations

from pathlib import Path

import pytest
import torch

import ttame
from tests.conftest import CLASSES, IMAGENET, LAYERS, ToyClassifier, randomize_batch_norm
from ttame.explainer import Explainer

pytest.importorskip("onnxruntime", reason="needs ttame[export]")


@pytest.fixture(scope="session")
def fixed() -> Explainer:
    """An explainer of a toy classifier that answers differently for different photos."""
    with torch.random.fork_rng():
        torch.manual_seed(0)
        model = ToyClassifier()
        randomize_batch_norm(model)
        model.eval().centre()
        explainer = ttame.attach(
            model, LAYERS, classes=CLASSES, input_size=(32, 32), head="head", **IMAGENET
        )
        randomize_batch_norm(explainer.mechanism)
    return explainer


@pytest.fixture(scope="session")
def exported(fixed: Explainer, tmp_path_factory: pytest.TempPathFactory) -> Path:
    path = tmp_path_factory.mktemp("exported") / "toy.onnx"
    fixed.export(path, licence="CC0-1.0")
    return path
