"""Weights: read a state dict as training left it; a model's fingerprint, dtype and device."""

from __future__ import annotations

import argparse
import hashlib
import re
import warnings
from collections import Counter
from collections.abc import Iterator, Mapping, Sequence
from itertools import chain
from pathlib import Path
from typing import Any

import torch
from torch import Tensor, nn

from ttame.classifiers.passes import copy_module
from ttame.errors import TTameError

_SHOWN = 3  # names in a message
_COUNTERS = "num_batches_tracked"  # torch fills these in where an old file lacks them


def read_state(path: Path) -> Mapping[str, Tensor]:
    """Read a local state dict, also from inside a training checkpoint; no code of it is run.

    Raises:
        TTameError: If the file is missing, not a state dict, or holds several.
    """
    if not path.is_file():
        raise TTameError(f"weights file {str(path)!r} does not exist")
    try:
        if path.suffix == ".safetensors":
            from safetensors.torch import load_file

            return load_file(path)
        # The settings of a run, which many scripts save along; a plain container of values.
        with torch.serialization.safe_globals([argparse.Namespace]):
            content = torch.load(path, map_location="cpu", weights_only=True)
    except Exception as error:  # any parser error means the same to the user
        named = re.search(r"GLOBAL ([\w.]+)", str(error))
        reason = (
            f"it holds a {named[1]}, and code in files is not run; save the weights alone: "
            "torch.save(model.state_dict(), PATH)"
            if named
            else f"{type(error).__name__}: {str(error).splitlines()[0] if str(error) else ''}"
        )
        raise TTameError(f"{str(path)!r} is not a readable state dict: {reason}") from error
    found = dict(_state_dicts(content))
    if len(found) == 1:
        return next(iter(found.values()))
    if found:
        raise TTameError(
            f"{str(path)!r} holds several state dicts: {', '.join(found)}; save the one that is "
            f"meant to a file of its own"
        )
    kind = type(content).__name__
    inside = f" with {_listed(list(content))}" if isinstance(content, dict) and content else ""
    raise TTameError(
        f"{str(path)!r} is not a state dict: it holds a {kind}{inside}, and names with tensors "
        "were expected; save model.state_dict()"
    )


def _state_dicts(content: Any, path: str = "") -> Iterator[tuple[str, Mapping[str, Tensor]]]:
    """Find the state dicts in a checkpoint, with the keys that lead to them."""
    if not isinstance(content, Mapping) or not all(isinstance(key, str) for key in content):
        return  # optimisers number their states
    if content and all(isinstance(value, Tensor) for value in content.values()):
        if any(value.ndim > 1 for value in content.values()):  # else scores or counters
            yield path, content
        return
    for key, value in content.items():
        yield from _state_dicts(value, f"{path}.{key}" if path else key)


def match_state(state: Mapping[str, Tensor], model: nn.Module) -> dict[str, Tensor]:
    """Rename the tensors of a state dict as the model names them.

    What wrappers put before the names is removed: `module.`, `model.`, `backbone.`,
    `_orig_mod.` or any other prefix that leads to the model's names. Tensors elsewhere, as of a
    loss with parameters, are left out with a warning.
    """
    wanted = model.state_dict().keys()
    state = {key.replace("_orig_mod.", ""): value for key, value in state.items()}
    prefixes: Counter[str] = Counter()
    for key in state:
        starts = [0, *(match.end() for match in re.finditer(r"\.", key))]
        prefixes.update(key[:start] for start in starts if key[start:] in wanted)
    prefix = max(prefixes, key=lambda found: (prefixes[found], -len(found)), default="")
    if 2 * prefixes[prefix] < len(wanted):
        prefix = ""  # a likeness by chance, of another architecture
    outside = [key for key in state if not key.startswith(prefix)]
    if outside:
        warnings.warn(
            f"{len(outside)} tensors outside {prefix!r} are left out: {_listed(outside)}",
            stacklevel=2,
        )
    return {key[len(prefix) :]: state[key] for key in state if key.startswith(prefix)}


def class_count(state: Mapping[str, Tensor], model: nn.Module, classes: int) -> int | None:
    """Return the number of classes of a state dict, if that is all in which it does not fit.

    Args:
        state: From `match_state`.
        model: The model with its default head.
        classes: The number of its classes.

    Returns:
        The number of rows that all tensors of another shape have where the model has `classes`;
        `None` if they fit, or differ in something else.
    """
    counts = set()
    for own, given in _misfits(state, model).values():
        if not (own and given and own[0] == classes and own[1:] == given[1:]):
            return None
        counts.add(given[0])
    return counts.pop() if len(counts) == 1 else None


def load_state(model: nn.Module, state: Mapping[str, Tensor], origin: str, name: str) -> None:
    """Load all tensors of a state dict into a model, each into its place.

    Args:
        model: Changed.
        state: From `match_state`.
        origin: Where the weights come from, for error messages.
        name: The model's name, for error messages.

    Raises:
        TTameError: If tensors are missing, unexpected or of another shape, naming them.
    """
    wanted = model.state_dict().keys()
    shapes = [
        f"{key} has shape {given}, the model's {own}"
        for key, (own, given) in _misfits(state, model).items()
    ]
    missing = [key for key in wanted if key not in state and not key.endswith(_COUNTERS)]
    unexpected = [key for key in state if key not in wanted]
    problems = [
        f"{title}{_listed(found)}"
        for title, found in (("", shapes), ("missing ", missing), ("unexpected ", unexpected))
        if found
    ]
    if problems:
        raise TTameError(
            f"the weights {origin} do not fit {name}: {'; '.join(problems)}; pass the state dict "
            "of this very architecture"
        )
    model.load_state_dict(dict(state))


def _misfits(
    state: Mapping[str, Tensor], model: nn.Module
) -> dict[str, tuple[tuple[int, ...], tuple[int, ...]]]:
    """Return the shapes, the model's and the state's, of tensors in which they differ."""
    return {
        key: (tuple(own.shape), tuple(state[key].shape))
        for key, own in model.state_dict().items()
        if key in state and own.shape != state[key].shape
    }


def _listed(names: Sequence[str]) -> str:
    more = len(names) - _SHOWN
    return ", ".join(names[:_SHOWN]) + (f" and {more} more" if more > 0 else "")


def check_weights(state: Mapping[str, Tensor], origin: str) -> None:
    """Refuse weights that are not finite numbers.

    Args:
        state: Tensors by name.
        origin: What holds them, for the message.

    Raises:
        TTameError: If a tensor holds NaN or infinite values, naming the first.
    """
    for name, value in state.items():
        if value.is_floating_point() and not bool(value.isfinite().all()):
            raise TTameError(
                f"{origin}: tensor {name!r} holds NaN or infinite values, with which nothing can "
                "be explained; the training that wrote it diverged or the file is damaged: take "
                "an earlier checkpoint, or train again at a lower learning rate"
            )


def weight_digest(model: nn.Module) -> str:
    """Fingerprint a model: SHA-256 of names, shapes and float32 values, 16 hex digits."""
    digest = hashlib.sha256()
    for name, value in model.state_dict().items():
        digest.update(f"{name}{tuple(value.shape)}".encode())
        digest.update(value.detach().to("cpu", torch.float32).contiguous().numpy().tobytes())
    return digest.hexdigest()[:16]


def input_like(model: nn.Module) -> Tensor:
    """Return an empty tensor of the dtype and device that a model's input must have.

    They are those of its first floating-point parameter or buffer; without one, float32 on the
    device of the first tensor there is, or the CPU.
    """
    device = None
    for tensor in chain(model.parameters(), model.buffers()):
        if tensor.is_floating_point():
            return tensor.new_empty(0)
        device = device or tensor.device
    return torch.empty(0, device=device)


def in_single_precision(model: nn.Module) -> nn.Module:
    """Return a float32 copy of a model in half precision, and any other model as it is."""
    return copy_module(model).float() if is_half(model) else model


def is_half(model: nn.Module) -> bool:
    """Return whether a model takes images in half precision, float16 or bfloat16."""
    return input_like(model).dtype in (torch.float16, torch.bfloat16)
