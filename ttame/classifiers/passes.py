"""Passes that share a classifier with other threads: copies, views, draws and precision.

The hooks that see the passes of their own thread alone are in `ttame.features`.
"""

from __future__ import annotations

import copy
from collections.abc import Iterator
from contextlib import contextmanager
from typing import Any, TypeVar

import torch
from torch import nn
from torch.utils._python_dispatch import TorchDispatchMode

from ttame.features import HOOKS, Hook

M = TypeVar("M", bound=nn.Module)


def copy_module(model: M) -> M:
    """Copy a module deeply, without the hooks of passes that run at this moment."""
    with HOOKS:
        copied = copy.deepcopy(model)
    for module in copied.modules():
        for hooks in (module._forward_hooks, module._forward_pre_hooks):
            for key in [key for key, hook in hooks.items() if isinstance(hook, Hook)]:
                del hooks[key]
    return copied


def private_view(model: nn.Module) -> nn.Module:
    """Copy a module's structure and share its parameters and buffers.

    What is changed in the view (an attribute, a method) is not seen by passes of the model. Hooks
    of this thread, such as those that count passes, act on the view as well.
    """
    shared = {id(tensor): tensor for tensor in (*model.parameters(), *model.buffers())}
    with HOOKS:
        return copy.deepcopy(model, shared)


class OwnDraws(TorchDispatchMode):  # type: ignore[no-untyped-call]
    """Draw random values in place from a seeded generator, inside the block and in this thread.

    The global CPU generator, which all threads share, is neither read nor changed. CPU only.

    Args:
        seed: Seed of the draws; the values are those of the global generator with this seed.
    """

    def __init__(self, seed: int) -> None:
        super().__init__()  # type: ignore[no-untyped-call]
        self.generator = torch.Generator().manual_seed(seed)

    def __torch_dispatch__(
        self, func: Any, types: Any, args: tuple[Any, ...] = (), kwargs: Any = None
    ) -> Any:
        drawn = any(argument.name == "generator" for argument in func._schema.arguments)
        own = {"generator": self.generator} if drawn else {}
        return func(*args, **{**own, **(kwargs or {})})


@contextmanager
def own_precision(device: torch.device) -> Iterator[None]:
    """Run the block in the precision of its tensors, whatever autocast is active around it.

    On GPUs convolutions would otherwise round their inputs to 10 bits (TensorFloat-32).
    """
    kept = torch.backends.cudnn.allow_tf32
    torch.backends.cudnn.allow_tf32 = kept and device.type != "cuda"
    try:
        with torch.autocast(device.type, enabled=False):
            yield
    finally:
        torch.backends.cudnn.allow_tf32 = kept
