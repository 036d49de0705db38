"""Graphs: from a traced program to ONNX, and from ONNX to a function."""

from __future__ import annotations

import re
from collections.abc import Callable, Sequence
from pathlib import Path
from typing import TYPE_CHECKING

import numpy as np
import torch
from torch import Tensor

from ttame.errors import TTameError
from ttame.export.program import INPUTS, OUTPUTS

if TYPE_CHECKING:
    from onnx import ModelProto
    from torch.export import ExportedProgram

OPSET = 20  # the first that has GELU
_ATTENTION = torch.ops.aten.scaled_dot_product_attention.default
# What torch's messages say of a node without a translation.
_OPERATION = re.compile(r"OpOverload\(op='([\w.]+)'")
_NODE = re.compile(r"translating node %(\w+)")


def to_onnx(program: ExportedProgram, name: str) -> ModelProto:
    """Translate a traced program.

    Args:
        program: As `ttame.export.program.trace` makes it.
        name: Name of the network, for messages.

    Raises:
        TTameError: If ONNX has no such operation, naming it and its module.
    """
    from onnxscript import optimizer

    calls = [node for node in program.graph.nodes if node.target is _ATTENTION]
    if any(node.args[0].meta["val"].dim() != 4 for node in calls):
        # ONNX's translation knows one dimension of heads, attention within windows has two.
        program = program.run_decompositions({_ATTENTION: attention})
    try:
        # Runtimes search for patterns themselves when they load a file; here it takes minutes.
        found = torch.onnx.export(
            program, input_names=INPUTS, output_names=OUTPUTS, opset_version=OPSET, verbose=False,
            optimize=False,
        )  # fmt: skip
    except torch.onnx.OnnxExporterError as error:
        operation, where = _culprit(program, error)
        raise TTameError(
            f"{name} cannot be exported: ONNX has nothing for {operation} in module {where!r}; "
            "exchange that module for one of other operations, or write a program of torch.export "
            "(.pt2)"
        ) from error
    assert found is not None
    optimizer.fold_constants(found.model)
    optimizer.remove_unused_nodes(found.model)
    model: ModelProto = found.model_proto
    _clean(model)
    return model


def attention(
    query: Tensor,
    key: Tensor,
    value: Tensor,
    attn_mask: Tensor | None = None,
    dropout_p: float = 0.0,
    is_causal: bool = False,
    scale: float | None = None,
    enable_gqa: bool = False,
) -> Tensor:
    """Scaled dot-product attention in plain operations, as `torch.nn.functional` defines it.

    Args:
        query: `(..., N, D)`, with any number of leading dimensions.
        key: `(..., M, D)`.
        value: `(..., M, E)`.
        attn_mask: What is added to the products, or where they count (bool), `(..., N, M)`.
        dropout_p: 0, as in `eval()`.
        is_causal: Let each place see none that come after it.
        scale: Factor of the products; default: 1/√D.
        enable_gqa: Not supported.

    Returns:
        `(..., N, E)`.

    Raises:
        TTameError: If a network asks for dropout or grouped heads here.
    """
    if dropout_p or enable_gqa:
        raise TTameError(
            f"attention of {query.dim()} dimensions cannot be exported with dropout_p={dropout_p}, "
            f"enable_gqa={enable_gqa}; only without both"
        )
    scores = (query * (query.shape[-1] ** -0.5 if scale is None else scale)) @ key.mT
    if is_causal:
        attn_mask = torch.ones_like(scores, dtype=torch.bool).tril()
    if attn_mask is not None and attn_mask.dtype == torch.bool:
        scores = scores.masked_fill(~attn_mask, -torch.inf)
    elif attn_mask is not None:
        scores = scores + attn_mask
    return scores.softmax(dim=-1) @ value


def _culprit(program: ExportedProgram, error: BaseException) -> tuple[str, str]:
    """Find the operation and the module of a node that was not translated."""
    causes = [error]
    while (cause := causes[-1].__cause__) is not None:
        causes.append(cause)
    text = " ".join(str(cause) for cause in causes)
    operation, node = _OPERATION.search(text), _NODE.search(text)
    name = node[1] if node else ""
    where = ""
    for graph in (program.graph, program.run_decompositions().graph):
        for found in graph.nodes:
            if found.name == name and (stack := found.meta.get("nn_module_stack")):
                where = list(stack.values())[-1][0]
    return (
        operation[1] if operation else name or str(causes[-1])[:120],
        where.removeprefix("explainer.classifier."),
    )


def _clean(model: ModelProto) -> None:
    """Take out notes on the trace, among them paths of this machine, and name the open axes."""
    graph = model.graph
    for item in (graph, *graph.node, *graph.input, *graph.output, *graph.initializer):
        del item.metadata_props[:]
        item.doc_string = ""
    del graph.value_info[:]
    for value in (*graph.input, *graph.output):
        for axis, name in zip(value.type.tensor_type.shape.dim, ("batch", "", "height", "width"),
                              strict=False):  # fmt: skip
            if axis.dim_param:
                axis.dim_param = (
                    name if value.name == INPUTS[0] or name == "batch" else f"map {name}"
                )


def open_graph(file: Path | bytes) -> Callable[..., Sequence[np.ndarray]]:
    """Open an ONNX file, or its bytes, in onnxruntime, with as many threads as torch.

    Returns:
        A function of the inputs, in order.
    """
    import onnxruntime

    options = onnxruntime.SessionOptions()
    options.intra_op_num_threads = torch.get_num_threads()  # more would wait for each other
    session = onnxruntime.InferenceSession(file, options, providers=["CPUExecutionProvider"])
    names = [entry.name for entry in session.get_inputs()]

    def run(*arrays: np.ndarray) -> Sequence[np.ndarray]:
        found: Sequence[np.ndarray] = session.run(None, dict(zip(names, arrays, strict=True)))
        return found

    return run
