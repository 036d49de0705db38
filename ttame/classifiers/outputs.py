"""Outputs: what the numbers that a classifier returns mean, and how they become probabilities.

`"softmax"` takes them for the logits of classes that exclude each other, `"sigmoid"` for those of
labels that do not, each with a probability of its own, and `"none"` for probabilities already,
used as they are.

A binary classifier with one output answers with the probability of "yes" alone. Both answers are
explained, so it is made to return both: with `"sigmoid"` the logits `(-z, z)`, whose sigmoids are
1 - p and p, with `"none"` the probabilities `(1 - p, p)`.
"""

from __future__ import annotations

from dataclasses import dataclass
from typing import Literal

import torch
import torch.nn.functional as F
from torch import Tensor, nn

from ttame.errors import TTameError

Activation = Literal["softmax", "sigmoid", "none"]
ANSWERS = ("no", "yes")  # of a classifier with one output

ROUNDING = 1e-3  # by which probabilities may leave [0, 1], or their sum miss 1
VALUES = (
    "a value (regression) has no probability: explain a question about it, with a module that "
    "returns value - threshold as its one output and activation='sigmoid'"
)


def probabilities(outputs: Tensor, activation: Activation) -> Tensor:
    """Turn a classifier's outputs into probabilities.

    Args:
        outputs: `(B, K)`, any float dtype.
        activation: What they are.

    Returns:
        `(B, K)` in [0, 1], float32 (or float64, if the outputs are).

    Raises:
        TTameError: If they are to be used as they are and are no probabilities.
    """
    values = _precise(outputs)
    if activation == "softmax":
        return values.softmax(dim=1)
    if activation == "sigmoid":
        return values.sigmoid()
    if not in_range(values.detach()):
        raise TTameError(
            f"activation='none' takes outputs for probabilities in [0, 1], and they lie in "
            f"{value_range(values)}; for logits attach with 'softmax' or 'sigmoid'; {VALUES}"
        )
    return values.clamp(0, 1)


def log_probabilities(outputs: Tensor, activation: Activation) -> Tensor:
    """Take the logarithms of `probabilities`, finite where softmax or sigmoid round to 0.

    Args:
        outputs: `(B, K)`, any float dtype.
        activation: What they are. Of outputs that are used as they are, 0 counts as the smallest
            normal number.

    Returns:
        `(B, K)`, at most 0, float32 (or float64, if the outputs are).

    Raises:
        TTameError: As `probabilities`.
    """
    if activation == "softmax":
        return _precise(outputs).log_softmax(dim=1)
    if activation == "sigmoid":
        return F.logsigmoid(_precise(outputs))
    found = probabilities(outputs, activation)
    return found.clamp_min(torch.finfo(found.dtype).tiny).log()


@dataclass(frozen=True)
class BothAnswers:
    """A forward hook that gives a classifier with one output both answers, "no" and "yes".

    Attributes:
        activation: What the output is: `"sigmoid"` for a logit, `"none"` for a probability.
    """

    activation: Activation

    def __call__(self, model: nn.Module, _arguments: object, output: Tensor) -> Tensor:
        """Turn `(B, 1)` or `(B,)` into `(B, 2)`."""
        if not isinstance(output, Tensor) or output[0].numel() != 1:
            raise TTameError(
                f"{type(model).__name__} was attached as a classifier with one output, now it "
                f"returns {tuple(getattr(output, 'shape', ()))}"
            )
        yes = output.reshape(-1, 1)
        return torch.cat([-yes if self.activation == "sigmoid" else 1 - yes, yes], dim=1)


def answer_both(model: nn.Module, activation: Activation) -> None:
    """Make a classifier with one output return both answers; once is enough.

    A hook, so that the names of layers and weights, and their digest, stay as they are.

    Args:
        model: Changed.
        activation: `"sigmoid"` or `"none"`.
    """
    if both_answers(model) is None:
        model.register_forward_hook(BothAnswers(activation))


def both_answers(model: nn.Module) -> BothAnswers | None:
    """Return the hook of `answer_both`, if the model has it."""
    hooks = model._forward_hooks.values()
    return next((hook for hook in hooks if isinstance(hook, BothAnswers)), None)


def _precise(outputs: Tensor) -> Tensor:
    return outputs.to(torch.promote_types(outputs.dtype, torch.float32))


def in_range(values: Tensor) -> bool:
    """Return whether all values are probabilities, up to rounding."""
    return bool(((values >= -ROUNDING) & (values <= 1 + ROUNDING)).all())


def value_range(values: Tensor) -> str:
    """Describe the range of values, for messages."""
    low, high = values.min().item(), values.max().item()
    return f"[{low:.3g}, {high:.3g}]"
