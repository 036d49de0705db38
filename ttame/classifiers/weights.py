"""Weights: read a state dict without running code, and fingerprint a model's state."""

from __future__ import annotations

import hashlib
from collections.abc import Mapping
from pathlib import Path

import torch
from torch import Tensor, nn

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


def weight_digest(model: nn.Module) -> str:
    """Fingerprint a model: SHA-256 of names, shapes and float32 values, 16 hex digits."""
    digest = hashlib.sha256()
    for name, value in model.state_dict().items():
        digest.update(f"{name}{tuple(value.shape)}".encode())
        digest.update(value.detach().to("cpu", torch.float32).contiguous().numpy().tobytes())
    return digest.hexdigest()[:16]
