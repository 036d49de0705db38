"""Weights in fewer bits, against values worked out by hand and the definition of rounding."""

from __future__ import annotations

import numpy as np
import pytest

pytest.importorskip("onnx", reason="needs ttame[export]")

import onnx
import onnxruntime
from onnx import numpy_helper

from ttame.export.weights import compress, quantize, to_half


def test_int8_by_hand() -> None:
    # One scale per row loses nothing here: 0.01 and 1.
    values = np.array([[1.27, -0.64, 0.0], [127.0, -64.0, 1.0]], np.float32)
    levels, scale = quantize(values)
    assert levels.dtype == np.int8 and scale.shape == (2, 1)
    assert levels.tolist() == [[127, -64, 0], [127, -64, 1]]
    np.testing.assert_allclose(scale[:, 0], [0.01, 1], rtol=1e-6)


def test_int8_takes_the_axis_that_rounds_less() -> None:
    values = np.array([[1.27, -0.64, 0.0], [127.0, -64.0, 1.0]], np.float32).T
    levels, scale = quantize(np.ascontiguousarray(values))
    assert scale.shape == (1, 2)
    assert levels.T.tolist() == [[127, -64, 0], [127, -64, 1]]


def test_int8_of_zeros_and_of_any_shape() -> None:
    values = np.zeros((4, 3, 2, 2), np.float32)
    values[1] = 5
    levels, scale = quantize(values)
    np.testing.assert_array_equal(levels * scale, values)
    rows = np.random.default_rng(0).normal(size=(7, 5, 3, 3)).astype(np.float32)
    levels, scale = quantize(rows)
    assert np.all(np.abs(levels * scale - rows) <= scale / 2 + 1e-7)


def test_float16_does_not_become_infinite() -> None:
    values = np.array([1e6, -1e6, 1.0, 1e-9], np.float32)
    assert to_half(values).tolist() == [65504.0, -65504.0, 1.0, 0.0]


def _product(weight: np.ndarray) -> onnx.ModelProto:
    graph = onnx.helper.make_graph(
        [onnx.helper.make_node("MatMul", ["x", "weight"], ["y"])],
        "product",
        [onnx.helper.make_tensor_value_info("x", onnx.TensorProto.FLOAT, [1, weight.shape[0]])],
        [onnx.helper.make_tensor_value_info("y", onnx.TensorProto.FLOAT, [1, weight.shape[1]])],
        [numpy_helper.from_array(weight, "weight")],
    )
    opset = [onnx.helper.make_opsetid("", 20)]
    return onnx.helper.make_model(graph, opset_imports=opset, ir_version=10)


@pytest.mark.parametrize(("storage", "bytes_each"), [("float16", 2), ("int8", 1)])
def test_a_compressed_network_computes_with_the_rounded_weights(
    storage: str, bytes_each: int
) -> None:
    rng = np.random.default_rng(0)
    weight = rng.normal(size=(64, 32)).astype(np.float32)
    model = _product(weight)
    before = model.SerializeToString()
    smaller = compress(model, storage)  # type: ignore[arg-type]
    assert model.SerializeToString() == before  # the argument is as it was
    onnx.checker.check_model(smaller, full_check=True)
    assert weight.size * bytes_each < smaller.ByteSize() < weight.size * bytes_each + 600
    x = rng.normal(size=(1, 64)).astype(np.float32)
    session = onnxruntime.InferenceSession(smaller.SerializeToString())
    levels, scale = quantize(weight)
    rounded = levels * scale if storage == "int8" else weight.astype(np.float16)
    np.testing.assert_allclose(
        session.run(None, {"x": x})[0], x @ rounded.astype(np.float32), rtol=1e-4, atol=1e-5
    )


def test_small_tensors_stay_exact() -> None:
    weight = np.full((8, 8), 1 / 3, np.float32)
    tensors = compress(_product(weight), "int8").graph.initializer
    assert [tensor.name for tensor in tensors] == ["weight"]
    np.testing.assert_array_equal(numpy_helper.to_array(tensors[0]), weight)
