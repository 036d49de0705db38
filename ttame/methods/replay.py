"""Running a classifier on from one of its layers, at the cost of what comes after that layer."""

from __future__ import annotations

import copy
from collections.abc import Iterator
from contextlib import contextmanager

import torch
from torch import Tensor, nn

from ttame.classifiers.weights import input_like
from ttame.features import capture, hooked

_SHORT = 32  # pixels; enough for the strides of common networks


@contextmanager
def replaced(module: nn.Module, output: Tensor) -> Iterator[None]:
    """Let the module return `output`, whatever comes in, inside the block, in this thread."""
    # A copy: a ReLU in place behind the layer must not write into a leaf of the graph.
    with hooked(module, lambda _module, _args, _output: output.clone()):
        yield


def replay_size(
    classifier: nn.Module, layer: str, size: tuple[int, int], channels: int
) -> tuple[int, int]:
    """Find the image size that suffices where a layer's output is replaced.

    What lies before the layer then runs for nothing, so it may as well run on a corner of the
    image. Whether that holds is tried on one image of noise: not where a transformer insists on
    its size, a connection leads past the layer, or the classifier adapts itself to the last size
    that it saw (Swin of `transformers`). It is tried on a copy for that reason.

    Args:
        classifier: In `eval()`.
        layer: Dotted name of the layer whose output will be replaced.
        size: Height and width of the images.
        channels: Channels of the images.

    Returns:
        A small size if the logits stay the same with it, else `size`.
    """
    generator = torch.Generator().manual_seed(0)
    noise = torch.randn(1, channels, *size, generator=generator).to(input_like(classifier))
    short = min(size[0], _SHORT), min(size[1], _SHORT)
    with torch.inference_mode(False), torch.no_grad():
        trial = copy.deepcopy(classifier)
        with capture(trial, [layer]) as outputs:
            logits = trial(noise)
        output = outputs[layer]
        if not isinstance(output, Tensor):
            return size
        try:
            with replaced(trial.get_submodule(layer), output):
                again = trial(noise[..., : short[0], : short[1]])
            after = trial(noise)
        except Exception:  # whatever a network of any make raises at a size it does not take
            return size
    same = all(
        found.shape == logits.shape and torch.allclose(found, logits, rtol=1e-4, atol=1e-5)
        for found in (again, after)
    )
    return short if same else size
