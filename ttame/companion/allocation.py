"""Settings of the C library's allocator, to keep large buffers instead of returning them."""

from __future__ import annotations

import ctypes
import sys

_TRIM_THRESHOLD, _MMAP_THRESHOLD = -1, -3  # names of mallopt's parameters, from malloc.h
_LARGE = 2**30  # bytes; larger than any feature map


def keep_freed_memory() -> bool:
    """Make the allocator reuse freed buffers in this process.

    By default glibc maps every large buffer anew and unmaps it when freed, so that each layer of a
    network faults in all its pages again, which on a CPU can take longer than the layer itself. In
    return the process keeps its peak memory. Programs call this once, at their start; the library
    leaves the allocator of its host alone.

    Returns:
        Whether the allocator accepted the settings; only glibc on Linux does.
    """
    if not sys.platform.startswith("linux"):
        return False
    try:
        mallopt = ctypes.CDLL(None).mallopt
    except (OSError, AttributeError):  # another C library
        return False
    return bool(mallopt(_MMAP_THRESHOLD, _LARGE)) and bool(mallopt(_TRIM_THRESHOLD, 2**31 - 1))
