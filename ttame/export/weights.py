"""Weights in fewer bits: stored as float16 or int8 and turned into float32 when a file is loaded.

Runtimes fold the conversion, which has constants alone for inputs, so the network computes as
before, in float32, at the same speed on every device; only its weights are rounded.
"""

from __future__ import annotations

from typing import TYPE_CHECKING, Literal

import numpy as np

if TYPE_CHECKING:
    from onnx import ModelProto

Storage = Literal["float32", "float16", "int8"]
_SMALLEST = 1024  # numbers; smaller tensors, such as biases, stay as they are
_LEVELS = 127


def compress(model: ModelProto, storage: Storage) -> ModelProto:
    """Return a copy of a model whose weights are stored in fewer bits.

    Args:
        model: In float32.
        storage: `"float16"` or `"int8"`, symmetric with one scale per row or column of a tensor,
            whichever rounds less; `"float32"` changes nothing.
    """
    import onnx
    from onnx import numpy_helper

    smaller = onnx.ModelProto()
    smaller.CopyFrom(model)
    if storage == "float32":
        return smaller
    graph, conversions, kept = smaller.graph, [], []
    for tensor in graph.initializer:
        if tensor.data_type != onnx.TensorProto.FLOAT or np.prod(tensor.dims) < _SMALLEST:
            kept.append(tensor)
            continue
        name, values = tensor.name, numpy_helper.to_array(tensor)
        if storage == "float16":
            kept.append(numpy_helper.from_array(to_half(values), f"{name}.stored"))
            conversions.append(
                onnx.helper.make_node("Cast", [f"{name}.stored"], [name], to=tensor.data_type)
            )
            continue
        levels, scale = quantize(values)
        kept.append(numpy_helper.from_array(levels, f"{name}.stored"))
        kept.append(numpy_helper.from_array(scale, f"{name}.scale"))
        conversions += [
            onnx.helper.make_node(
                "Cast", [f"{name}.stored"], [f"{name}.levels"], to=tensor.data_type
            ),
            onnx.helper.make_node("Mul", [f"{name}.levels", f"{name}.scale"], [name]),
        ]
    nodes = [*conversions, *graph.node]
    del graph.node[:], graph.initializer[:]
    graph.node.extend(nodes)
    graph.initializer.extend(kept)
    return smaller


def to_half(values: np.ndarray) -> np.ndarray:
    """Round to float16; what is beyond its range becomes its largest number."""
    top = np.finfo(np.float16).max
    return values.clip(-top, top).astype(np.float16)


def quantize(values: np.ndarray) -> tuple[np.ndarray, np.ndarray]:
    """Round to int8, along the first or the last axis.

    Args:
        values: Float32, of any shape.

    Returns:
        Levels in [-127, 127], int8, of the same shape, and their scale, float32, of length 1 on
        all axes but one; levels · scale is nearest to the values.
    """
    best: tuple[np.ndarray, np.ndarray] | None = None
    least = np.inf
    for axis in sorted({0, values.ndim - 1}):
        others = tuple(other for other in range(values.ndim) if other != axis)
        top = np.abs(values).max(axis=others, keepdims=True)
        scale = (np.where(top > 0, top, 1) / _LEVELS).astype(np.float32)
        levels = np.rint(values / scale).astype(np.int8)
        error = float(np.square(levels * scale - values).sum())
        if error < least:
            best, least = (levels, scale), error
    assert best is not None
    return best
