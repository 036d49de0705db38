"""Work spread over processes: the same results in the same order as in one process."""

from __future__ import annotations

import pickle
from collections.abc import Callable, Iterable, Iterator
from concurrent.futures import ProcessPoolExecutor
from concurrent.futures.process import BrokenProcessPool
from functools import cache
from typing import Any, TypeVar, cast

import torch

from ttame.errors import TTameError

T = TypeVar("T")
R = TypeVar("R")


def in_order(make: Callable[[], Callable[[T], R]], items: Iterable[T], workers: int) -> Iterator[R]:
    """Yield what a function returns for each item, computed by several processes, in order.

    Each process makes the function for itself, and works with as many threads as this one: on
    another number of threads, sums are rounded otherwise. The processes are started afresh
    ("spawn"), so a script that calls this needs `if __name__ == "__main__":`.

    Args:
        make: Returns the function; sent to the processes by pickle.
        items: Arguments of the function, one each.
        workers: Number of processes, at least 1.

    Yields:
        One result per item; errors of the function are raised in the place of their item.

    Raises:
        TTameError: If `make` cannot be sent, or a process ends before it is done.
    """
    try:
        sent = pickle.dumps(make)
    except Exception as error:  # pickle raises what the objects' own methods do
        raise TTameError(
            f"workers={workers}: the explainer or a method of your own cannot be sent to another "
            f"process ({error}); use workers=1, or define its classes and functions in a module"
        ) from error
    pool = ProcessPoolExecutor(
        workers,
        mp_context=torch.multiprocessing.get_context("spawn"),
        initializer=_begin,
        initargs=(sent, torch.get_num_threads()),
    )
    try:
        for future in [pool.submit(_call, item) for item in items]:
            yield future.result()
    except BrokenProcessPool as error:
        raise TTameError(
            f"workers={workers}: a process ended before it was done, as happens for want of "
            'memory, or where a script lacks `if __name__ == "__main__":`; use fewer workers, '
            "and start again to go on"
        ) from error
    finally:
        pool.shutdown(cancel_futures=True)


_sent: list[bytes] = []  # of a worker process, which serves one call of `in_order` alone


def _begin(sent: bytes, threads: int) -> None:
    """Set up a worker process; errors here would be lost, so the function is made at first use."""
    torch.set_num_threads(threads)
    _sent.append(sent)


@cache
def _made() -> Callable[[Any], Any]:
    # Bytes that the parent process made of its own objects; nothing is read from a file. As plain
    # bytes, since tensors sent as such take a file descriptor and shared memory each.
    return cast(Callable[[Any], Any], pickle.loads(_sent[0])())


def _call(item: Any) -> Any:
    return _made()(item)
