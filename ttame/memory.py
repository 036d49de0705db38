"""Memory of a computation: its peak, and what to do where it was not enough."""

from __future__ import annotations

import resource
import sys
from collections.abc import Callable
from contextlib import suppress
from pathlib import Path

import torch

_PROCESS = Path("/proc/self")


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


def is_out_of_memory(error: BaseException) -> bool:
    """Whether an error of torch says that memory did not suffice, on whatever device."""
    if isinstance(error, torch.OutOfMemoryError | MemoryError):
        return True
    message = str(error).lower()
    return isinstance(error, RuntimeError) and (
        "out of memory" in message or "can't allocate memory" in message
    )


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
        if _succeeds(step, size):
            fits = size
        else:
            failed = size
    return fits


def _succeeds(step: Callable[[int], object], size: int) -> bool:
    try:
        step(size)
    except (RuntimeError, MemoryError) as error:
        if not is_out_of_memory(error):
            raise
        return False
    finally:
        if torch.cuda.is_available():
            torch.cuda.empty_cache()
    return True
