"""Fusion rows tied to the classifier: what is learned for some classes holds for all (`ttame`).

The published fusion has a free row for every class, so a class that training never shows keeps
the row it began with. Two constraints share what is learned. Shared: the rows keep their start, and
one row that is added to all of them is learned. Tied: the rows are W = V·P; V holds a frozen vector
for every class, read from the classifier, and the projection P, which all classes share, is
learned. They constrain training alone: W is written out as plain rows when training ends.
"""

from __future__ import annotations

import torch
from torch import Tensor, nn
from torch.nn.utils import parametrize

from ttame.attention import AttentionMechanism
from ttame.errors import TTameError
from ttame.explainer import Explainer


class TiedRows(nn.Module):
    """The fusion's weight `(K, C, 1, 1)` as V·P.

    Args:
        vectors: V, one row per class, `(K, D)`; frozen.
    """

    vectors: Tensor

    def __init__(self, vectors: Tensor) -> None:
        super().__init__()
        # Made anew from the classifier when a run is resumed, so no checkpoint holds it.
        self.register_buffer("vectors", vectors, persistent=False)

    def forward(self, projection: Tensor) -> Tensor:
        """P `(D, C)` -> the weight."""
        rows: Tensor = self.vectors @ projection
        return rows[..., None, None]

    def right_inverse(self, weight: Tensor) -> Tensor:
        """The P whose rows V·P come nearest to a weight."""
        inverse = torch.linalg.pinv(self.vectors.double())
        nearest: Tensor = inverse @ weight[:, :, 0, 0].double()
        return nearest.to(weight)


class SharedRow(nn.Module):
    """The fusion's weight `(K, C, 1, 1)` as a frozen start plus one row for all classes.

    Args:
        start: `(K, C, 1, 1)`.
    """

    start: Tensor

    def __init__(self, start: Tensor) -> None:
        super().__init__()
        self.register_buffer("start", start, persistent=False)  # as above

    def forward(self, row: Tensor) -> Tensor:
        """`(C,)` -> the weight."""
        return self.start + row[None, :, None, None]

    def right_inverse(self, weight: Tensor) -> Tensor:
        """The row that brings the start nearest to a weight."""
        return (weight - self.start).mean(dim=(0, 2, 3))


class SharedBias(nn.Module):
    """The fusion's bias `(K,)` as one number.

    Args:
        classes: Number of classes K.
    """

    def __init__(self, classes: int) -> None:
        super().__init__()
        self.classes = classes

    def forward(self, bias: Tensor) -> Tensor:
        """`(1,)` -> `(K,)`."""
        return bias.expand(self.classes)

    def right_inverse(self, bias: Tensor) -> Tensor:
        """The mean over classes."""
        return bias.mean().reshape(1)


def share(explainer: Explainer) -> None:
    """Let an explainer's fusion learn one row for all classes, on top of the rows it has.

    Args:
        explainer: Changed: its mechanism's fusion is parametrised.
    """
    start = explainer.mechanism.fusion.weight.detach().clone()
    _constrain(explainer, SharedRow(start))


def tie(explainer: Explainer, gradients: Tensor) -> None:
    """Constrain an explainer's fusion rows to a linear function of class vectors.

    The vector of a class is the mean gradient of its logit with respect to the deepest layer's
    channels: what the classifier has learned about the class, whatever its head.

    Args:
        explainer: Changed: its mechanism's fusion is parametrised. The rows begin where they were,
            as near as V·P comes; rows that `init="classifier"` made, exactly.
        gradients: `ttame.training.initialization.class_gradients` or `surrogate_rows`, `(K, C)`.

    Raises:
        TTameError: If the classifier's logits do not depend on the deepest layer.
    """
    length = gradients.norm(dim=1).mean()
    if not length > 0:
        raise TTameError(
            "fusion='tied': the logits do not depend on the deepest layer "
            f"{explainer.layers[-1]!r}; choose other layers, or fusion='free'"
        )
    # To a mean length of 1: a step of P then moves a row about as far as a step of free rows.
    _constrain(explainer, TiedRows(gradients / length))


def _constrain(explainer: Explainer, rows: nn.Module) -> None:
    fusion = explainer.mechanism.fusion
    parametrize.register_parametrization(fusion, "weight", rows)
    parametrize.register_parametrization(fusion, "bias", SharedBias(explainer.mechanism.classes))


@torch.no_grad()
def dense_state(mechanism: AttentionMechanism) -> dict[str, Tensor]:
    """The state of a mechanism with plain fusion rows, tied or not.

    Returns:
        Tensors by the names that an untied mechanism of the same architecture has.
    """
    prefix = "fusion.parametrizations."
    state = {key: value for key, value in mechanism.state_dict().items()
             if not key.startswith(prefix)}  # fmt: skip
    assert mechanism.fusion.bias is not None
    state["fusion.weight"] = mechanism.fusion.weight.detach().clone()
    state["fusion.bias"] = mechanism.fusion.bias.detach().clone()
    return state
