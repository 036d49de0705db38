"""Adoption: copy a user's classifier, check that it can be explained, and what it answers."""

from __future__ import annotations

from collections.abc import Sequence
from pathlib import Path
from typing import Any, get_args

import torch
from torch import Tensor, nn

from ttame.classifiers.advice import input_errors, is_quantized
from ttame.classifiers.auxiliary import Auxiliary, extractor
from ttame.classifiers.huggingface import return_logits
from ttame.classifiers.layers import probe_images
from ttame.classifiers.outputs import (
    ROUNDING,
    VALUES,
    Activation,
    both_answers,
    in_range,
    value_range,
)
from ttame.classifiers.passes import copy_module
from ttame.classifiers.weights import check_weights
from ttame.errors import TTameError, unknown
from ttame.features import Tokens

# Rounding differences between batch sizes, relative to the largest value, by dtype.
_TOLERANCE = {torch.float64: 1e-6, torch.float32: 1e-3, torch.float16: 5e-2, torch.bfloat16: 1e-1}
# Operations that move or convert values and leave them as they are, by the names of autograd.
_MOVES = {
    "Alias", "Clone", "ReshapeAlias", "Select", "Slice", "Squeeze", "ToCopy", "UnsafeView",
    "Unsqueeze", "View",
}  # fmt: skip
_TRAINED_FOR: dict[str, Activation] = {  # the problem types of Hugging Face
    "single_label_classification": "softmax",
    "multi_label_classification": "sigmoid",
}


def adopt(model: nn.Module) -> nn.Module:
    """Copy a user's classifier without wrappers, in `eval()`; the argument is not changed.

    `torch.compile` and data-parallel wrappers are removed, because compiled graphs skip the hooks
    that read feature maps. The model's own hooks are kept: they may be part of its function, like
    weight norm. Of the output object of a `transformers` model the copy returns the logits alone.

    Raises:
        TTameError: If it is not an `nn.Module`, is TorchScript, cannot be copied, or has
            parameters that are NaN or infinite.
    """
    model = _unwrap(model)
    if not isinstance(model, nn.Module):
        exported = isinstance(model, torch.export.ExportedProgram)
        raise TTameError(
            f"expected an nn.Module or a name, got a {type(model).__name__}; pass the "
            f"{'nn.Module that it was made from' if exported else 'classifier'}"
        )
    if isinstance(model, torch.jit.ScriptModule):
        raise TTameError(
            f"{type(model).__name__} is TorchScript, whose inner layers cannot be read; pass the "
            "nn.Module that it was made from"
        )
    try:
        copied = copy_module(model)
    except (RuntimeError, TypeError) as error:
        raise TTameError(
            f"{type(model).__name__} cannot be copied ({error}); before attaching, remove "
            "computed tensors from it, for example with torch.nn.utils.remove_weight_norm"
        ) from error
    check_weights(dict(copied.named_parameters()), type(model).__name__)
    for module in copied.modules():
        if getattr(module, "_compiled_call_impl", None) is not None:
            module._compiled_call_impl = None  # undoes nn.Module.compile
    return_logits(copied)
    return copied.eval()


def refuse_weights(model: nn.Module | None, weights: Path | str | None) -> None:
    """Refuse a weights file beside a module, which brings its own.

    Raises:
        TTameError: If both are given.
    """
    if model is not None and weights is not None:
        raise TTameError(
            f"got weights={str(weights)!r} and a {type(model).__name__}, which has weights; load "
            "them into it (load_state_dict), or pass the model's name in its place"
        )


def _unwrap(model: Any) -> Any:
    parallel = (nn.DataParallel, nn.parallel.DistributedDataParallel)
    while True:
        if isinstance(model, parallel):
            model = model.module
        elif hasattr(model, "_orig_mod"):  # torch.compile(model)
            model = model._orig_mod
        else:
            return model


@torch.inference_mode()
def probe(
    model: nn.Module,
    layers: Sequence[str],
    input_size: tuple[int, int],
    tokens: Tokens = "drop",
    channels: int | None = None,
    auxiliary: Auxiliary | None = None,
) -> tuple[list[int], int]:
    """Run a classifier once to check that its layers can be explained.

    Args:
        model: The classifier, in `eval()`.
        layers: Dotted module names, of the auxiliary network if there is one.
        input_size: Height and width in pixels.
        tokens: Handling of prefix tokens, as for `ttame.features.to_map`.
        channels: Channels of the input, as for `ttame.classifiers.layers.list_layers`.
        auxiliary: The network beside the classifier that gives the feature maps.

    Returns:
        Channels of each layer, and the number of classes.

    Raises:
        TTameError: If the logits are not `(B, K)`, a layer gives no feature map, or the logits or
            maps of an image depend on the rest of its batch.
    """
    extract = extractor(model, layers, tokens, auxiliary)
    images = probe_images(model, input_size, channels)
    with input_errors(model, images):
        alone, maps_alone = extract(images[:1])
        logits, maps = extract(images)
    remedy = "let every normalisation use running statistics"
    if is_quantized(model):
        remedy = "its quantised layers scale by the batch: pass the float model it was made from"
    compared = [("the logits", alone, logits, remedy)]
    for name, single, batch in zip(layers, maps_alone, maps, strict=True):
        compared.append((f"the map of layer {name!r}", single, batch, "choose another layer"))
    for what, single, batch, remedy in compared:
        if not _same(single, batch[:1]):
            raise TTameError(
                f"{what} of an image changes with the other images of its batch (batch axis not "
                f"first, or statistics of the batch); {remedy}"
            )
    return [found.shape[1] for found in maps], logits.shape[1]


def _same(a: Tensor, b: Tensor) -> bool:
    """Compare up to rounding; NaN, which random weights may give, counts as equal."""
    if a.shape != b.shape:
        return False
    bound = _TOLERANCE.get(a.dtype, 1e-3) * float(b.float().abs().nan_to_num().max())
    return bool(((a.float() - b.float()).abs().nan_to_num() <= bound + 1e-12).all())


def find_activation(
    model: nn.Module,
    input_size: tuple[int, int],
    given: str | None = None,
    channels: int | None = None,
) -> tuple[Activation, bool]:
    """Find out, or check, what a classifier's outputs mean, by a pass of three images of noise.

    Outputs are probabilities already if a softmax or sigmoid made them, or if they are not
    negative and sum to 1. Otherwise the `problem_type` in the configuration of a Hugging Face
    model counts, and without one several outputs are the logits of classes that exclude each
    other. One output can mean several things, so that it must be said which.

    Args:
        model: The classifier, in `eval()`.
        input_size: Height and width in pixels.
        given: The user's choice, which is checked; `None` to find out.
        channels: Channels of the input, as for `ttame.classifiers.layers.list_layers`.

    Returns:
        The activation, and whether the classifier has one output, of which both answers are to be
        explained (`answer_both`).

    Raises:
        TTameError: If the choice contradicts the outputs, has to be made by the user, or the
            outputs are values or features.
    """
    if given is not None and given not in get_args(Activation):
        raise unknown("activation", given, get_args(Activation))
    name, outputs, made = _look(model, input_size, channels)
    if not isinstance(outputs, Tensor) or outputs.ndim not in (1, 2):
        return _as_activation(given or "softmax"), False  # `probe` says what is wrong
    seen = outputs.detach().reshape(len(outputs), -1)
    if hook := both_answers(model):  # the classifier of another explainer
        if given not in (None, hook.activation):
            raise TTameError(
                f"{name} was attached with activation={hook.activation!r} already, got {given!r}"
            )
        return hook.activation, True
    _refuse_features(model, name, seen)
    one = seen.shape[1] == 1
    if one and (given == "softmax" or made == "Softmax"):
        without = "pass the network without it, and " if made == "Softmax" else ""
        raise TTameError(f"{name} has one output, whose softmax is always 1; {without}{_choices()}")
    if reason := _probable(seen, made):
        if given not in (None, "none"):
            raise TTameError(
                f"the outputs of {name} are probabilities already ({reason}), and would pass a "
                f"{given} on top; leave activation={given!r} out, or pass the network without its "
                "last step"
            )
        return "none", one
    if given is not None:
        if given == "none" and not in_range(seen):
            raise TTameError(
                f"activation='none' takes outputs for probabilities in [0, 1], and those of {name} "
                f"lie in {value_range(seen)}; for logits choose 'softmax' or 'sigmoid'; {VALUES}"
            )
        return _as_activation(given), one
    kind = problem_type(model)
    if kind == "regression":
        raise TTameError(f"{name} was made for regression (config.problem_type); {VALUES}")
    if one and _TRAINED_FOR.get(kind) != "sigmoid":
        raise TTameError(f"{name} has one output, which can mean several things; {_choices()}")
    return _TRAINED_FOR.get(kind, "softmax"), one


def problem_type(model: nn.Module) -> str:
    """Return the `problem_type` of a Hugging Face model, wrapped or not; `""` for none."""
    found = (getattr(module, "config", None) for module in model.modules())
    kinds = (getattr(config, "problem_type", None) for config in found)
    return next((kind for kind in kinds if isinstance(kind, str)), "")


def _look(
    model: nn.Module, input_size: tuple[int, int], channels: int | None
) -> tuple[str, object, str]:
    """Run the model once: its name, its outputs, and the operation that made them."""
    with torch.inference_mode(False), torch.enable_grad():
        images = probe_images(model, input_size, channels)
        with input_errors(model, images):
            # With gradients, outputs know what made them. A copy: a step in place must not
            # write into a leaf.
            outputs = model(images.requires_grad_(True).clone())
    made = _last_operation(outputs) if isinstance(outputs, Tensor) else ""
    return type(model).__name__, outputs, made


def _last_operation(outputs: Tensor) -> str:
    """Name the operation that made a tensor, whatever only moved it since; `""` if not known."""
    node = outputs.grad_fn
    while node is not None:
        kind = node.name().partition("Backward")[0]
        if kind not in _MOVES:
            return kind
        node = next((found for found, _ in node.next_functions if found is not None), None)
    return ""


def _probable(outputs: Tensor, made: str) -> str:
    """Say why outputs `(B, K)` are probabilities; `""` where nothing says so."""
    if made in ("Softmax", "Sigmoid"):
        return f"a {made.lower()} comes last"
    sums = outputs.float().sum(dim=1)
    if outputs.shape[1] > 1 and in_range(outputs) and bool(((sums - 1).abs() <= ROUNDING).all()):
        return "they sum to 1"
    return ""


def _refuse_features(model: nn.Module, name: str, outputs: Tensor) -> None:
    """Refuse a network of timm without its head, whose outputs are features."""
    features = getattr(model, "head_hidden_size", None) or getattr(model, "num_features", None)
    if getattr(model, "num_classes", None) == 0 and outputs.shape[1] == features:
        raise TTameError(
            f"{name} has no head (num_classes=0): its {features} outputs are features, not "
            "classes; create it with its head (leave num_classes=0 out), or attach the classifier "
            "that you built on it"
        )


def _choices() -> str:
    return (
        "choose activation='sigmoid' for a binary classifier's logit of \"yes\" or 'none' for its "
        "probability (both answers are then explained, classes 0 and 1: classes=('no', 'yes')); "
        f"{VALUES}"
    )


def _as_activation(name: str) -> Activation:
    return next(known for known in get_args(Activation) if known == name)
