"""What a computation costs: the classifier's passes, seconds, peak memory."""

from __future__ import annotations

import resource
import sys
import time
from collections.abc import Callable, Iterator, Sequence
from contextlib import contextmanager, suppress
from dataclasses import dataclass
from pathlib import Path

import torch
from torch import Tensor, nn

_PROCESS = Path("/proc/self")


@dataclass
class Passes:
    """Images sent through a classifier.

    Attributes:
        forward: Images classified.
        backward: Images whose gradient was asked for.
    """

    forward: int = 0
    backward: int = 0


@contextmanager
def count_passes(*classifiers: nn.Module) -> Iterator[Passes]:
    """Count the passes of `classifiers` inside the block; an image is one pass, not a batch."""
    passes = Passes()

    def after(_module: nn.Module, _args: object, logits: Tensor) -> None:
        passes.forward += len(logits)
        if logits.requires_grad:
            logits.register_hook(backward)  # type: ignore[no-untyped-call]

    def backward(gradient: Tensor) -> None:
        passes.backward += len(gradient)

    handles = [classifier.register_forward_hook(after) for classifier in classifiers]
    try:
        yield passes
    finally:
        for handle in handles:
            handle.remove()


def clock(function: Callable[[], object], device: torch.device) -> float:
    """Seconds that a call takes, with what it left running on the device."""
    if device.type == "cuda":
        torch.cuda.synchronize(device)
    start = time.perf_counter()
    function()
    if device.type == "cuda":
        torch.cuda.synchronize(device)
    return time.perf_counter() - start


def alternate(
    functions: Sequence[Callable[[], object]],
    repeats: int,
    device: torch.device,
    warm_up: int = 0,
) -> list[list[float]]:
    """Time functions turn by turn.

    Args:
        functions: What is compared.
        repeats: Timed turns.
        device: Where they work.
        warm_up: Turns before, which do not count.

    Returns:
        For every function the seconds of its turns.
    """
    times: list[list[float]] = [[] for _ in functions]
    for turn in range(repeats + warm_up):
        # Swapping who goes first keeps the caches' favour even.
        order = range(len(functions))
        for index in order if turn % 2 else reversed(order):
            seconds = clock(functions[index], device)
            if turn >= warm_up:
                times[index].append(seconds)
    return times


def peak_memory(function: Callable[[], object], device: torch.device) -> int:
    """The most memory that is in use while a function runs, bytes.

    On a GPU that is what torch has allocated. On a CPU it is the resident memory of the whole
    process, with the interpreter and whatever else it holds; on systems other than Linux its
    highest value since the process began.

    Args:
        function: What to run.
        device: Where it works.
    """
    if device.type == "cuda":
        torch.cuda.reset_peak_memory_stats(device)
        function()
        return torch.cuda.max_memory_allocated(device)
    with suppress(OSError):
        (_PROCESS / "clear_refs").write_text("5")  # forget the peak so far (Linux)
    function()
    with suppress(OSError):
        for line in (_PROCESS / "status").read_text().splitlines():
            if line.startswith("VmHWM:"):
                return 1024 * int(line.split()[1])
    peak = resource.getrusage(resource.RUSAGE_SELF).ru_maxrss
    return peak if sys.platform == "darwin" else 1024 * peak
