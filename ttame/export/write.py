"""Writing an explainer for other runtimes, and holding the file against PyTorch."""

from __future__ import annotations

import json
from collections.abc import Iterable
from pathlib import Path
from typing import TYPE_CHECKING

import torch

from ttame.data import samples
from ttame.errors import TTameError, require
from ttame.export.agreement import Agreement, compare
from ttame.export.metadata import KEY, facts
from ttame.export.program import INPUTS, OUTPUTS, portable, trace
from ttame.files import replacing
from ttame.images import ImageLike

if TYPE_CHECKING:
    from onnx import ModelProto
    from torch.export import ExportedProgram

    from ttame.explainer import Explainer

OPSET = 20  # the first that has GELU


def export(
    explainer: Explainer,
    path: Path | str,
    *,
    batch: int | None = None,
    licence: str = "not stated",
    photos: ImageLike | Iterable[ImageLike] | None = None,
) -> Agreement:
    """Write classifier and mechanism to one ONNX file; see `Explainer.export`."""
    path = Path(path)
    if path.suffix != ".onnx":
        raise TTameError(f"an exported explainer ends in .onnx, got {path.name!r}")
    require("export")
    explainer = portable(explainer)
    with replacing(path) as temporary:  # first of all, as tracing takes a while
        model = to_onnx(trace(explainer, batch))
        model.metadata_props.add(key=KEY, value=json.dumps(facts(explainer, licence)))
        temporary.write_bytes(model.SerializeToString())
        return compare(temporary, explainer, samples().paths if photos is None else photos, batch)


def to_onnx(program: ExportedProgram) -> ModelProto:
    """Translate a traced program to ONNX."""
    found = torch.onnx.export(
        program, input_names=INPUTS, output_names=OUTPUTS, opset_version=OPSET, verbose=False
    )
    assert found is not None
    model: ModelProto = found.model_proto
    _clean(model)
    return model


def _clean(model: ModelProto) -> None:
    """Take out notes on the trace, among them paths of this machine, and name the free axis."""
    graph = model.graph
    for item in (graph, *graph.node, *graph.input, *graph.output, *graph.initializer):
        del item.metadata_props[:]
        item.doc_string = ""
    del graph.value_info[:]
    for value in (*graph.input, *graph.output):
        first = value.type.tensor_type.shape.dim[0]
        if first.dim_param:
            first.dim_param = "batch"
