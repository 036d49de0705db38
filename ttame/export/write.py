"""Writing an explainer for other runtimes, and holding the file against PyTorch."""

from __future__ import annotations

import json
import warnings
from collections.abc import Iterable
from pathlib import Path
from typing import TYPE_CHECKING, Any, get_args

import numpy as np
import torch

from ttame.data import samples
from ttame.errors import TTameError, require, unknown
from ttame.export.agreement import Agreement, compare
from ttame.export.graph import open_graph, to_onnx
from ttame.export.metadata import KEY, facts
from ttame.export.preprocessing import prepend, preprocessing
from ttame.export.program import portable, trace
from ttame.export.weights import Storage, compress
from ttame.files import replacing
from ttame.images import ImageLike

if TYPE_CHECKING:
    from ttame.explainer import Explainer

_LARGEST = 2**31 - 1  # bytes that protobuf holds


def export(
    explainer: Explainer,
    path: Path | str,
    *,
    storage: Storage = "float32",
    preprocess: bool = False,
    batch: int | None = None,
    any_size: bool = False,
    licence: str = "not stated",
    photos: ImageLike | Iterable[ImageLike] | None = None,
) -> Agreement:
    """Write classifier and mechanism to one file; see `Explainer.export`."""
    path, plain = Path(path), storage == "float32" and not preprocess
    if path.suffix not in (".onnx", ".pt2"):
        raise TTameError(
            f"an exported explainer ends in .onnx, or .pt2 for torch.export, got {path.name!r}"
        )
    if storage not in get_args(Storage):
        raise unknown("storage of weights", str(storage), get_args(Storage))
    if batch is not None and (type(batch) is not int or batch < 1):
        raise TTameError(f"batch must be None for any number or at least 1, got {batch!r}")
    if path.suffix == ".pt2" and not plain:
        raise TTameError(
            f"{path.name!r} holds float32 weights and no preprocessing; end it in .onnx, or leave "
            "storage and preprocess out"
        )
    if any_size and preprocess:
        raise TTameError(
            f"preprocessing in the file crops every photo to {explainer.spec.input_size}; leave "
            "any_size or preprocess out"
        )
    write = _write_program if path.suffix == ".pt2" else _write_onnx
    if write is _write_onnx:
        require("export")
    explainer = portable(explainer)
    notes = facts(explainer, licence, storage=storage, preprocess=preprocess, batch=batch,
                  any_size=any_size)  # fmt: skip
    with replacing(path) as temporary:  # first of all, as tracing takes a while
        return write(explainer, temporary, notes, samples().paths if photos is None else photos)


def _write_onnx(explainer: Explainer, path: Path, notes: dict[str, Any], photos: Any) -> Agreement:
    """Write an ONNX file and compare it."""
    program = trace(explainer, notes["batch"], any_size=notes["any_size"])
    model, prepare = to_onnx(program, explainer.spec.name), None
    model = compress(model, notes["storage"])
    if notes["preprocessing"]:
        before = preprocessing(explainer.spec, model)
        prepare, model = open_graph(before.SerializeToString()), prepend(before, model)
    model.metadata_props.add(key=KEY, value=json.dumps(notes))
    if (size := model.ByteSize()) > _LARGEST:
        raise TTameError(
            f"{explainer.spec.name} takes {size / 1e9:.1f} GB, and one ONNX file holds "
            "2.1 GB; pass storage='float16' or 'int8'"
        )
    path.write_bytes(model.SerializeToString())
    return compare(
        open_graph(path), explainer, photos, batch=notes["batch"], storage=notes["storage"],
        prepare=prepare, any_size=notes["any_size"],
    )  # fmt: skip


def _write_program(
    explainer: Explainer, path: Path, notes: dict[str, Any], photos: Any
) -> Agreement:
    """Write a program of `torch.export` and compare it."""
    program = trace(explainer, notes["batch"], any_size=notes["any_size"])
    with warnings.catch_warnings():
        warnings.simplefilter("ignore")  # about weights that share memory on a GPU
        torch.export.save(program, path, extra_files={KEY: json.dumps(notes)})
    loaded = torch.export.load(path).module()

    def run(images: np.ndarray, targets: np.ndarray) -> list[np.ndarray]:
        with torch.inference_mode():
            found = loaded(torch.from_numpy(images), torch.from_numpy(targets))
        return [part.numpy() for part in found]

    return compare(run, explainer, photos, batch=notes["batch"], any_size=notes["any_size"])
