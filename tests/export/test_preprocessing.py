"""Preprocessing inside the file, against the library's own transform."""

from __future__ import annotations

from dataclasses import replace
from types import SimpleNamespace
from typing import Any

import numpy as np
import pytest
from PIL import Image

pytest.importorskip("onnxruntime", reason="needs ttame[export]")

import onnx

from ttame.classifiers.registry import backbone_spec
from ttame.classifiers.specs import BackboneSpec
from ttame.data import samples
from ttame.errors import TTameError
from ttame.export.graph import open_graph
from ttame.export.preprocessing import preprocessing
from ttame.images import normalize, read_image, to_batch

SPEC = backbone_spec("tf_efficientnet_lite0")
FOLLOWING: Any = SimpleNamespace(ir_version=10, opset_import=[SimpleNamespace(version=20)])


def noise(height: int, width: int) -> Image.Image:
    """The hardest photo: every pixel another value, so that each rounding shows."""
    rng = np.random.default_rng(height * width)
    return Image.fromarray(rng.integers(0, 256, (height, width, 3), dtype=np.uint8))


def grey_levels_apart(spec: BackboneSpec, images: list[Image.Image]) -> float:
    model = preprocessing(spec, FOLLOWING)
    onnx.checker.check_model(model, full_check=True)
    run = open_graph(model.SerializeToString())
    worst = 0.0
    for image in images:
        pixels = np.asarray(image).reshape(1, image.height, image.width, spec.channels)
        expected = normalize(to_batch(image, spec), spec).numpy()
        found = run(pixels)[0]
        assert found.shape == expected.shape
        apart = np.abs(found - expected) * np.reshape(spec.std, (1, -1, 1, 1)) * 255
        worst = max(worst, float(apart.max()))
    return worst


@pytest.mark.parametrize(
    "changes",
    [
        {},
        {"interpolation": "bilinear"},
        {"input_size": (160, 224), "resize": 180},
        {"input_size": (96, 96), "resize": 96, "interpolation": "bilinear"},
    ],
)
def test_photos_of_any_shape_are_within_two_grey_levels(changes: dict[str, Any]) -> None:
    shapes = ((50, 900), (900, 50), (33, 33), (224, 224), (641, 479), (1, 7))
    images = [read_image(path) for path in samples().paths[:6]]
    assert grey_levels_apart(replace(SPEC, **changes), images + [noise(*s) for s in shapes]) < 2.01


def test_photos_that_are_stretched() -> None:
    spec = replace(SPEC, input_size=(160, 224), resize=(200, 300), interpolation="bilinear")
    images = [read_image(path) for path in samples().paths[:6]]
    assert grey_levels_apart(spec, images) < 2.01


def test_greyscale() -> None:
    spec = replace(SPEC, mean=(0.5,), std=(0.25,))
    assert grey_levels_apart(spec, [read_image(samples().paths[0]).convert("L")]) < 2.01


@pytest.mark.parametrize(
    ("changes", "message"),
    [
        ({"interpolation": "lanczos"}, "resizes by 'lanczos', which ONNX does not have"),
        ({"resize": 200}, "resizes to 200x200 and pads to 224x224"),
    ],
)
def test_what_has_no_counterpart_is_refused(changes: dict[str, Any], message: str) -> None:
    with pytest.raises(TTameError, match=message):
        preprocessing(replace(SPEC, **changes), FOLLOWING)
