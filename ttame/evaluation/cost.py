"""The cost of a computation: passes of the classifier, seconds, peak memory."""

from __future__ import annotations

import resource
import sys
import time
from collections.abc import Callable, Iterator, Sequence
from contextlib import ExitStack, contextmanager, suppress
from dataclasses import dataclass
from pathlib import Path

import torch
from torch import Tensor, nn

from ttame.features import hooked

_PROCESS = Path("/proc/self")


@dataclass
class Passes:
    """Number of images sent through a classifier.

    Attributes:
        forward: Images classified.
        backward: Images for which gradients were computed.
    """

    forward: int = 0
    backward: int = 0


@contextmanager
def count_passes(*classifiers: nn.Module) -> Iterator[Passes]:
    """Count this thread's passes of `classifiers` inside the block, per image and not per batch."""
    passes = Passes()

    def after(_module: nn.Module, _args: object, logits: Tensor) -> None:
        passes.forward += len(logits)
        if logits.requires_grad:
            logits.register_hook(backward)  # type: ignore[no-untyped-call]

    def backward(gradient: Tensor) -> None:
        passes.backward += len(gradient)

    with ExitStack() as hooks:
        for classifier in classifiers:
            hooks.enter_context(hooked(classifier, after))
        yield passes


def clock(function: Callable[[], object], device: torch.device) -> float:
    """Time one call in seconds, including the work it leaves queued on `device`."""
    if device.type == "cuda":
        torch.cuda.synchronize(device)
    start = time.perf_counter()
    function()
    if device.type == "cuda":
        torch.cuda.synchronize(device)
    return time.perf_counter() - start


def alternate(
    functions: Sequence[Callable[[], object]], repeats: int, device: torch.device, warm_up: int = 0
) -> list[list[float]]:
    """Time several functions in turns.

    Args:
        functions: Functions to compare.
        repeats: Timed turns.
        device: Device on which they run.
        warm_up: Untimed turns beforehand.

    Returns:
        Seconds per turn, one list per function.
    """
    times: list[list[float]] = [[] for _ in functions]
    for turn in range(repeats + warm_up):
        # Alternating the order shares the advantage of warm caches evenly.
        order = range(len(functions))
        for index in order if turn % 2 else reversed(order):
            seconds = clock(functions[index], device)
            if turn >= warm_up:
                times[index].append(seconds)
    return times


def peak_memory(function: Callable[[], object], device: torch.device) -> int:
    """Measure the peak memory while a function runs, in bytes.

    On a GPU this is the memory that torch allocates. On a CPU it is the resident memory of the
    whole process, interpreter included; outside Linux, its peak since the process began.

    Args:
        function: Function to run.
        device: Device on which it runs.
    """
    if device.type == "cuda":
        torch.cuda.reset_peak_memory_stats(device)
        function()
        return torch.cuda.max_memory_allocated(device)
    with suppress(OSError):
        (_PROCESS / "clear_refs").write_text("5")  # resets the peak (Linux)
    function()
    with suppress(OSError):
        for line in (_PROCESS / "status").read_text().splitlines():
            if line.startswith("VmHWM:"):
                return 1024 * int(line.split()[1])
    peak = resource.getrusage(resource.RUSAGE_SELF).ru_maxrss
    return peak if sys.platform == "darwin" else 1024 * peak
