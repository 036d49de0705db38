"""Counting what a method asks of the classifier: images forward, images backward."""

from __future__ import annotations

from collections.abc import Iterator
from contextlib import contextmanager
from dataclasses import dataclass

from torch import Tensor, nn


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
