"""The learning-rate range test: what the loss does while the rate grows geometrically."""

from __future__ import annotations

import tempfile
from typing import Any

import lightning as L
import numpy as np
import pandas as pd
from lightning.pytorch.callbacks import Callback

from ttame.data import PhotoList
from ttame.errors import TTameError
from ttame.explainer import Explainer
from ttame.training.config import TrainingConfig
from ttame.training.fit import prepare
from ttame.training.module import ExplainerModule
from ttame.training.sampling import train_loader

# Losses averaged before the test is ended, so that one odd batch does not end it.
_PATIENCE = 3


class RangeTest(Callback):
    """Raise the learning rate from step to step, and keep the rate and the loss of each.

    Lightning's own tuner reports a running average with a memory of 50 steps, which hides what
    a short test shows, and draws a progress bar that cannot be switched off.

    Args:
        lowest: First rate.
        highest: Last rate.
        steps: Rates to try.

    Attributes:
        rates: Learning rates tried so far.
        losses: The loss of the batch at each.

    Raises:
        TTameError: If there is no range, or no step within it.
    """

    def __init__(self, lowest: float, highest: float, steps: int) -> None:
        if not 0 < lowest < highest or steps < 2:
            raise TTameError(
                f"a range test needs 0 < lowest < highest and two steps, got {lowest}, {highest} "
                f"and {steps}"
            )
        self.lowest, self.highest, self.steps = lowest, highest, steps
        self.rates: list[float] = []
        self.losses: list[float] = []

    def on_train_batch_start(self, trainer: L.Trainer, *_: Any) -> None:
        """Lightning's hook: set the rate of the step that follows, over the schedule's."""
        share = len(self.rates) / (self.steps - 1)
        self.rates.append(self.lowest * (self.highest / self.lowest) ** share)
        for group in trainer.optimizers[0].param_groups:
            group["lr"] = self.rates[-1]

    def on_train_batch_end(
        self, trainer: L.Trainer, pl_module: L.LightningModule, outputs: Any, *_: Any
    ) -> None:
        """Lightning's hook: keep the loss; stop where it has grown fourfold."""
        self.losses.append(float(outputs["loss"]))
        means = pd.Series(self.losses).rolling(_PATIENCE).mean()
        if means.iloc[-1] > 4 * means.min():
            trainer.should_stop = True


def find_learning_rate(
    explainer: Explainer,
    photos: PhotoList,
    config: TrainingConfig,
    *,
    lowest: float = 1e-6,
    highest: float = 1.0,
    steps: int = 100,
) -> pd.DataFrame:
    """The loss at geometrically growing rates, one optimiser step each.

    A copy is trained; neither the explainer nor any file is changed.

    Args:
        explainer: Classifier, layers and architecture.
        photos: Photos to train on.
        config: How to train; its rate is not used.
        lowest: First rate.
        highest: Last rate; the test ends early where the loss has grown fourfold.
        steps: Rates to try.

    Returns:
        Columns rate, loss and smoothed (average over a fifth of the steps, weighted by nearness).

    Raises:
        TTameError: If there is no range, an unreadable photo, a loss that is not finite, or
            Shapley values are learned, at two rates.
    """
    if config.shapley.pairs:
        raise TTameError(
            f"pairs={config.shapley.pairs} learns at two rates, of the surrogate and of the "
            "mechanism, and a range test finds one; keep the recipe's, or set learning_rate and "
            "surrogate_rate"
        )
    test = RangeTest(lowest, highest, steps)
    # Of one share of pixels alone: losses differ more between shares than between rates.
    config = config.replace(retain=config.mask.retain[:1])
    L.seed_everything(config.run.seed, verbose=False)
    module = ExplainerModule(prepare(explainer, photos, config), config, steps, photos)
    with tempfile.TemporaryDirectory() as folder:
        trainer = L.Trainer(
            devices=1,
            max_steps=steps,
            max_epochs=-1,
            precision=config.run.precision,
            callbacks=[test],
            logger=False,
            enable_checkpointing=False,
            enable_progress_bar=False,
            enable_model_summary=False,
            default_root_dir=folder,
        )
        trainer.fit(module, train_loader(photos, explainer.spec, config, steps))
    table = pd.DataFrame({"rate": test.rates, "loss": test.losses})
    width = max(steps // 5, _PATIENCE)
    rolling = table["loss"].rolling(width, center=True, min_periods=1, win_type="gaussian")
    table["smoothed"] = rolling.mean(std=width / 4)
    return table


def suggest_rate(table: pd.DataFrame) -> float:
    """A maximum for the schedule: the rate at which the smoothed loss falls most steeply.

    The steepest fall over the logarithm of the rate, before the lowest point. (The papers' own
    finder leaves the choice to the eye.)

    Args:
        table: `find_learning_rate`.

    Raises:
        TTameError: If the loss does not fall beyond its scatter, so that there is no answer.
    """
    smoothed = table["smoothed"].to_numpy()
    bottom = int(smoothed.argmin())
    scatter = float((table["loss"] - table["smoothed"]).std())
    error = scatter / max(len(table) // 5, _PATIENCE) ** 0.5  # of a mean over the window
    if bottom < 2 or smoothed[: bottom + 1].max() - smoothed[bottom] < 2 * error:
        raise TTameError(
            f"the loss falls at no rate from {table['rate'].iloc[0]:.1e} to "
            f"{table['rate'].iloc[-1]:.1e} beyond its scatter, so none can be suggested; try more "
            "steps or another range, or keep the recipe's rate"
        )
    slopes = np.gradient(smoothed[: bottom + 1], np.log10(table["rate"].to_numpy()[: bottom + 1]))
    return float(table["rate"].iloc[int(slopes.argmin())])
