"""The file of a saved explainer: a mechanism's weights, and a header with all that it needs."""

from __future__ import annotations

import json
from collections.abc import Callable, Mapping
from dataclasses import asdict, fields, replace
from pathlib import Path
from typing import TYPE_CHECKING, Any

import torch
from safetensors import SafetensorError, safe_open
from safetensors.torch import save_file
from torch import Tensor, nn

from ttame.attention import AttentionConfig, AttentionMechanism
from ttame.classifiers.adoption import adopt, refuse_weights
from ttame.classifiers.advice import input_errors
from ttame.classifiers.auxiliary import Auxiliary, is_auxiliary, load_auxiliary
from ttame.classifiers.classes import imagenet_classes
from ttame.classifiers.huggingface import take_rgb
from ttame.classifiers.layers import probe_images
from ttame.classifiers.outputs import answer_both
from ttame.classifiers.registry import Backbone, freeze, load_backbone
from ttame.classifiers.specs import BackboneSpec
from ttame.classifiers.weights import check_weights, input_like, weight_digest
from ttame.errors import TTameError
from ttame.files import replacing

if TYPE_CHECKING:
    from ttame.explainer import Explainer

FORMAT, VERSION = "ttame-explainer", 1
# Of files with an auxiliary network, which readers of version 1 would take layers of the
# classifier for.
_PAIRED = 2
# What a header holds, and how its values look.
_HEADER: Mapping[str, Callable[[Any], bool]] = {
    "backbone": lambda value: isinstance(value, str),
    "backbone_digest": lambda value: isinstance(value, str),
    "layers": lambda value: _listed(value, str),
    "attention": lambda value: isinstance(value, dict),
    "channels": lambda value: _listed(value, int) and min(value) > 0,
    "class_count": lambda value: type(value) is int and value > 0,
    "spec": lambda value: isinstance(value, dict) and "input_size" in value,
    "classes": lambda value: value is None or _listed(value, str),
    "training": lambda value: isinstance(value, dict),
}
_FACTS = (
    "input_size", "resize", "mean", "std", "interpolation", "space", "head", "activation", "binary",
    "channel_order",
)  # fmt: skip


def write(explainer: Explainer, path: Path, dtype: torch.dtype) -> Path:
    """Write an explainer; see `Explainer.save`."""
    if path.suffix != ".safetensors":
        raise TTameError(f"an explainer's file ends in .safetensors, got {path.name!r}")
    mechanism, auxiliary = explainer.mechanism, explainer.auxiliary
    header = {
        "format": FORMAT,
        "version": VERSION if auxiliary is None else _PAIRED,
        "backbone": explainer.spec.name,
        "backbone_digest": weight_digest(explainer.classifier),
        "layers": explainer.layers,
        "attention": asdict(mechanism.config),
        "channels": mechanism.channels,
        "class_count": mechanism.classes,
        "spec": {name: getattr(explainer.spec, name) for name in _FACTS},
        # ImageNet's names need not be saved.
        "classes": None if explainer.classes == imagenet_classes() else explainer.classes,
        "training": explainer.record,
        **({} if auxiliary is None else {"auxiliary": auxiliary.facts()}),
    }
    tensors = {
        name: value.detach().cpu().contiguous()
        for name, value in _cast(mechanism.state_dict(), dtype).items()
    }
    with replacing(path) as temporary:
        save_file(tensors, temporary, metadata={FORMAT: json.dumps(header)})
    return path


def read(
    path: Path, model: nn.Module | None = None, weights: Path | str | None = None
) -> tuple[Backbone, AttentionMechanism, list[str], dict[str, Any], Auxiliary | None]:
    """Read the parts of an explainer, as its constructor takes them; see `Explainer.load`."""
    refuse_weights(model, weights)
    header, state = _content(path)
    if model is None:
        size = header["spec"]["input_size"]
        backbone = load_backbone(header["backbone"], weights, (size[0], size[1]))
    else:
        spec = BackboneSpec(header["backbone"], None, None, (), "", source="given module")
        order = header["spec"].get("channel_order", "rgb")
        backbone = freeze(spec, take_rgb(adopt(model), order))
    spec = _with_facts(backbone.spec, header)
    if model is not None:  # of which the file alone knows the channels
        images = probe_images(backbone.model, spec.input_size, spec.channels)[:1]
        with torch.no_grad(), input_errors(backbone.model, images):
            backbone.model(images)
    if spec.binary:
        answer_both(backbone.model, spec.activation)
    digest = weight_digest(backbone.model)
    if digest != header["backbone_digest"]:
        raise TTameError(
            f"{str(path)!r} was trained on {header['backbone']} with weights "
            f"{header['backbone_digest']}, the classifier at hand has {digest}; load the "
            "same weights or train an explainer for these"
        )
    mechanism = _mechanism(path, header, state).to(input_like(backbone.model).device)
    backbone, auxiliary = replace(backbone, spec=spec), None
    if header["version"] == _PAIRED:
        auxiliary = load_auxiliary(header["auxiliary"], backbone, repr(str(path)))
    return backbone, mechanism, header["layers"], header["training"], auxiliary


def _mechanism(path: Path, header: dict[str, Any], state: dict[str, Tensor]) -> AttentionMechanism:
    """Build the mechanism that a header describes, and give it the weights of the file."""
    mechanism = AttentionMechanism(
        header["channels"], header["class_count"], AttentionConfig(**header["attention"])
    )
    expected = {name: tuple(value.shape) for name, value in mechanism.state_dict().items()}
    found = {name: tuple(value.shape) for name, value in state.items()}
    for name in sorted(expected.keys() | found.keys()):
        if expected.get(name) != found.get(name):
            raise TTameError(
                f"{str(path)!r}: tensor {name!r} has shape {found.get(name)}, its header "
                f"asks for {expected.get(name)}; the file is inconsistent"
            )
    check_weights(state, f"{str(path)!r}")
    mechanism.load_state_dict(_cast(state, torch.float32))
    return mechanism


def _cast(state: Mapping[str, Tensor], dtype: torch.dtype) -> dict[str, Tensor]:
    """Convert the floating-point tensors of a state to `dtype`."""
    return {
        k: value.to(dtype) if value.is_floating_point() else value for k, value in state.items()
    }


def _with_facts(spec: BackboneSpec, header: dict[str, Any]) -> BackboneSpec:
    """Restore the facts saved in training, so that later registry changes do not move masks."""
    facts: dict[str, Any] = {
        name: tuple(value) if isinstance(value, list) else value
        for name, value in header["spec"].items()
    }
    if header["classes"] is not None:
        facts["classes"] = tuple(header["classes"])
    found = replace(spec, layers=tuple(header["layers"]), **facts)
    if spec.build is not None and len(found.mean) != len(spec.mean):
        raise TTameError(
            f"mean has {len(found.mean)} numbers, {spec.name} takes images of {len(spec.mean)} "
            "channels"
        )
    return found


def _content(path: Path) -> tuple[dict[str, Any], dict[str, Tensor]]:
    """Read the header and tensors of a saved explainer."""
    if not path.is_file():
        raise TTameError(f"explainer file {str(path)!r} does not exist")
    try:
        with safe_open(path, framework="pt") as handle:
            header = json.loads((handle.metadata() or {}).get(FORMAT, "null"))
            state = {name: handle.get_tensor(name) for name in handle.keys()}  # noqa: SIM118
    except (SafetensorError, OSError, json.JSONDecodeError, UnicodeDecodeError) as error:
        raise TTameError(
            f"{str(path)!r} is truncated or not a safetensors file ({error})"
        ) from error
    if not isinstance(header, dict) or header.get("format") != FORMAT:
        raise TTameError(f"{str(path)!r} is a safetensors file, but not a saved explainer")
    version = header.get("version")
    if version not in (VERSION, _PAIRED):
        raise TTameError(
            f"{str(path)!r} has explainer format {version}, this ttame reads "
            f"{VERSION} and {_PAIRED}; save it again with a matching version"
        )
    known = {item.name for item in fields(AttentionConfig)}
    expected = _HEADER if version == VERSION else {**_HEADER, "auxiliary": is_auxiliary}
    wrong = [key for key, holds in expected.items() if key not in header or not holds(header[key])]
    wrong = wrong or sorted(header["attention"].keys() - known)
    wrong = wrong or sorted(header["spec"].keys() - set(_FACTS))
    if wrong:
        raise TTameError(f"{str(path)!r} is damaged: its header lacks or misplaces {wrong[0]!r}")
    try:
        _with_facts(BackboneSpec(header["backbone"], None, None, (), ""), header)
        AttentionConfig(**header["attention"])
    except TTameError as error:
        raise TTameError(f"{str(path)!r} is damaged: {error}") from error
    return header, state


def _listed(value: object, kind: type) -> bool:
    """Return whether a value is a non-empty list of a kind."""
    return isinstance(value, list) and bool(value) and all(type(item) is kind for item in value)
