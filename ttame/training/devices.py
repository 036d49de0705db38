"""What a training run asks of its device: algorithms, batch norm over processes, memory."""

from __future__ import annotations

import warnings
from collections.abc import Callable, Iterator
from contextlib import contextmanager
from typing import Any

import torch
from torch import nn

from ttame.classifiers.advice import is_out_of_memory


def synchronize_batch_norm(mechanism: nn.Module, world: int, device: torch.device) -> None:
    """Let the mechanism's batch norm see the whole batch, where the backend can.

    The frozen classifier is left alone: its batch norm takes no statistics, and converting would
    lose the activations that timm builds into it.

    Args:
        mechanism: Changed on GPUs; on CPUs a warning says that nothing is synchronised.
        world: Number of processes.
        device: Where this one trains.
    """
    normed = any(isinstance(module, nn.BatchNorm2d) for module in mechanism.modules())
    if world == 1 or not normed:
        return
    if device.type == "cuda":
        nn.SyncBatchNorm.convert_sync_batchnorm(mechanism)  # type: ignore[no-untyped-call]
    else:
        warnings.warn(
            "batch norm cannot be synchronised on CPUs: each process normalises by its own share "
            f"of the batch, 1/{world} of it",
            stacklevel=3,
        )


@contextmanager
def algorithms_kept() -> Iterator[None]:
    """Give the process its choice of algorithms back, which Lightning's trainer sets for good.

    Inside, deterministic algorithms do not come with filled memory: torch would write NaN into
    every new buffer, which is to reveal reads of uninitialised memory and changes no result.
    """
    before = torch.are_deterministic_algorithms_enabled()
    warned = torch.is_deterministic_algorithms_warn_only_enabled()
    benchmark = torch.backends.cudnn.benchmark
    memory: Any = torch.utils.deterministic  # its attribute is unknown to type checkers
    filled = memory.fill_uninitialized_memory
    memory.fill_uninitialized_memory = False
    try:
        yield
    finally:
        torch.use_deterministic_algorithms(before, warn_only=warned)
        torch.backends.cudnn.benchmark = benchmark
        memory.fill_uninitialized_memory = filled


def largest_batch(step: Callable[[int], object], failed: int) -> int:
    """The largest batch that fits, found by trying, to an eighth of itself.

    Args:
        step: Works on a batch of a given size.
        failed: A size that did not fit.

    Returns:
        A size that did fit; 0 if not even one image does.
    """
    fits = 0
    while failed - fits > max(failed // 8, 1):
        # First by halves: memory that is far exceeded is not asked for again.
        size = (fits + failed) // 2
        try:
            step(size)
            fits = size
        except (RuntimeError, MemoryError) as error:
            if not is_out_of_memory(error):
                raise
            failed = size
        torch.cuda.empty_cache()  # does nothing without a GPU
    return fits
