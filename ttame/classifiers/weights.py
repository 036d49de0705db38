"""Weights: read a state dict without running code; a model's fingerprint, dtype and device."""

from __future__ import annotations

import hashlib
from collections.abc import Mapping
from itertools import chain
from pathlib import Path

import torch
from torch import Tensor, nn

from ttame.classifiers.passes import copy_module
from ttame.errors import TTameError


def read_state(path: Path) -> Mapping[str, Tensor]:
    """Read a local state dict; code in the file is never run.

    Raises:
        TTameError: If the file is missing or not a state dict.
    """
    if not path.is_file():
        raise TTameError(f"weights file {str(path)!r} does not exist")
    try:
        if path.suffix == ".safetensors":
            from safetensors.torch import load_file

            return load_file(path)
        state: Mapping[str, Tensor] = torch.load(path, map_location="cpu", weights_only=True)
        return state
    except Exception as error:  # any parser error means the same to the user
        raise TTameError(
            f"{str(path)!r} is not a readable state dict ({type(error).__name__}: {error})"
        ) from error


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
