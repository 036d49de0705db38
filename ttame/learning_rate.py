"""The learning-rate range test, by Lightning's tuner."""

from __future__ import annotations

import io
import tempfile
from contextlib import redirect_stderr

import lightning as L
import pandas as pd
from lightning.pytorch.tuner.tuning import Tuner

from ttame.data import PhotoList
from ttame.explainer import Explainer
from ttame.recipes import TrainingConfig
from ttame.training import ExplainerModule, loader, prepare


def find_learning_rate(
    explainer: Explainer,
    photos: PhotoList,
    config: TrainingConfig,
    *,
    lowest: float = 1e-6,
    highest: float = 1.0,
    steps: int = 100,
) -> pd.DataFrame:
    """The learning-rate range test: the loss while the rate grows geometrically.

    Lightning's tuner runs it on a copy; neither the explainer nor any file is changed. What the
    tuner reports is a running average with a memory of 50 steps (and its first half is biased
    low: it corrects for one step too many), so the losses themselves are recovered from it.

    Args:
        explainer: Classifier, layers and architecture.
        photos: Photos to train on.
        config: How to train; its rate is not used.
        lowest: First rate.
        highest: Last rate; the test ends early where the loss has grown fourfold.
        steps: Rates to try, one optimiser step each.

    Returns:
        Columns rate, loss and smoothed (average over a fifth of the steps, weighted by nearness).
    """
    L.seed_everything(config.seed, verbose=False)
    module = ExplainerModule(prepare(explainer, photos, config), config, steps)
    with tempfile.TemporaryDirectory() as folder, redirect_stderr(io.StringIO()):
        trainer = L.Trainer(
            max_steps=steps,
            precision=config.precision,
            logger=False,
            enable_checkpointing=False,
            enable_progress_bar=False,
            enable_model_summary=False,
            default_root_dir=folder,
        )
        found = Tuner(trainer).lr_find(
            module,
            train_dataloaders=loader(photos, explainer, config, train=True),
            min_lr=lowest,
            max_lr=highest,
            num_training=steps,
            update_attr=False,
        )
    assert found is not None
    table = pd.DataFrame({"rate": found.results["lr"], "loss": found.results["loss"]})
    memory = 0.98
    running = table["loss"] * (1 - memory ** (table.index + 2))
    table["loss"] = (running - memory * running.shift(fill_value=0.0)) / (1 - memory)
    width = max(steps // 5, 3)
    rolling = table["loss"].rolling(width, center=True, min_periods=1, win_type="gaussian")
    table["smoothed"] = rolling.mean(std=width / 4)
    return table
