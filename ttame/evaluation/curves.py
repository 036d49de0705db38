"""Areas under degradation curves, per image, as `torchmetrics.Metric`.

ROAD (`road`) and insertion and deletion (`rise`) give every photo a curve. Every sample's curve
is kept; nothing is averaged by batch or by process.
"""

from __future__ import annotations

from collections.abc import Sequence
from typing import Literal, get_args

import torch
from torch import Tensor
from torchmetrics import Metric
from torchmetrics.utilities import dim_zero_cat

from ttame.errors import TTameError
from ttame.evaluation.insertion import STEPS, InsertionScores
from ttame.evaluation.road import LEVELS, RoadScores, area_under_curve

Order = Literal["MoRF", "LeRF"]
Score = Literal["accuracy", "probability"]
Kind = Literal["insertion", "deletion"]


class CurveMetric(Metric):
    """The mean area under curves; keeps every sample's curve and joins them over processes.

    Args:
        levels: Where the curves were measured, L ascending percentages or fractions.
        rising: Whether a higher curve is the better one.

    Raises:
        TTameError: If the levels are fewer than two or do not ascend.
    """

    full_state_update = False
    values: list[Tensor]

    def __init__(self, levels: Sequence[float], *, rising: bool) -> None:
        super().__init__()
        self.levels = tuple(levels)
        self._rising = rising
        area_under_curve(torch.zeros(len(self.levels)), self.levels)  # refuses bad levels now
        self.add_state("values", default=[], dist_reduce_fx="cat")

    @property
    def higher_is_better(self) -> bool:  # type: ignore[override]
        """Whether a larger area is better."""
        return self._rising

    def update(self, values: Tensor) -> None:
        """Add the curves of a batch.

        Args:
            values: `(B, L)` in [0, 1], or booleans.

        Raises:
            TTameError: If the shape is another, or a value is outside [0, 1] (NaN included).
        """
        if values.ndim != 2 or values.shape[1] != len(self.levels):
            raise TTameError(
                f"expected curves of shape (B, {len(self.levels)}), a value for each of the "
                f"levels {self.levels}, got {tuple(values.shape)}"
            )
        outside = ~((values >= 0) & (values <= 1))
        if bool(outside.any()):
            raise TTameError(
                "curves must be probabilities or shares in [0, 1], not percent, got "
                f"{values[outside].tolist()[:4]}"
            )
        # Flat, for a process without samples joins in with a vector of length 0.
        self.values.append(values.detach().to(torch.float32, copy=True).flatten())

    def compute(self) -> Tensor:
        """Mean over all samples seen of the area under the curve, percent."""
        return self.per_sample().mean()

    def per_sample(self) -> Tensor:
        """All samples' areas in the order they came, `(N,)`, percent of the largest possible."""
        return 100 * area_under_curve(self._curves(), self.levels)

    def curve(self) -> Tensor:
        """Mean curve, `(L,)` in [0, 1]."""
        return self._curves().mean(dim=0)

    def _curves(self) -> Tensor:
        return dim_zero_cat(self.values).view(-1, len(self.levels))


class ROAD(CurveMetric):
    """Mean area under ROAD's curve; lower is better for MoRF, higher for LeRF (`road`).

    Args:
        order: `"MoRF"`: most relevant pixels removed first; `"LeRF"`: least relevant first.
        score: `"accuracy"`: the share of photos that keep their class; `"probability"`: the
            probability of the target class.
        levels: Percent of pixels removed, as given to `road.road`.

    Raises:
        TTameError: If the order or the score is unknown, or the levels are bad.
    """

    def __init__(
        self, order: Order, score: Score = "accuracy", levels: Sequence[int] = LEVELS
    ) -> None:
        _known("order", order, get_args(Order))
        _known("score", score, get_args(Score))
        super().__init__(levels, rising=order == "LeRF")
        self.order, self.score = order, score

    def update(self, values: RoadScores | Tensor) -> None:
        """Add a batch: what `road.road` returned, or the curves themselves, `(B, L)`.

        Raises:
            TTameError: As `CurveMetric.update`.
        """
        if isinstance(values, RoadScores):
            probability, kept = (
                (values.morf, values.morf_kept)
                if self.order == "MoRF"
                else (values.lerf, values.lerf_kept)
            )
            values = kept if self.score == "accuracy" else probability
        super().update(values)


class InsertionDeletion(CurveMetric):
    """Mean area under the insertion curve, higher is better, or deletion's, lower (`rise`).

    Args:
        kind: `"insertion"` or `"deletion"`.
        steps: As given to `insertion.insertion_deletion`.

    Raises:
        TTameError: If the kind is unknown, or there is no step.
    """

    def __init__(self, kind: Kind, steps: int = STEPS) -> None:
        _known("kind", kind, get_args(Kind))
        if steps < 1:
            raise TTameError(f"steps must be 1 or more, got {steps!r}")
        fractions = [step / steps for step in range(steps + 1)]
        super().__init__(fractions, rising=kind == "insertion")
        self.kind = kind

    def update(self, values: InsertionScores | Tensor) -> None:
        """Add a batch: what `insertion_deletion` returned, or its curves, `(B, steps + 1)`.

        Raises:
            TTameError: As `CurveMetric.update`.
        """
        if isinstance(values, InsertionScores):
            values = values.insertion if self.kind == "insertion" else values.deletion
        super().update(values)


def _known(name: str, value: str, choices: Sequence[str]) -> None:
    if value not in choices:
        raise TTameError(f"unknown {name} {value!r}; expected {' or '.join(map(repr, choices))}")
