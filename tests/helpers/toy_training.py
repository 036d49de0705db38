"""A training run of the toy classifier as a program, for tests that kill it or start it twice.

Takes one JSON argument: photos (a folder), out, config (fields of `TrainingConfig`), and
optionally attention (fields of `AttentionConfig`), validation (photos held out), resume, and
kill: {step, rank, hook}.
"""

from __future__ import annotations

import json
import os
import signal
import sys
import warnings
from pathlib import Path
from typing import Any

import lightning as L
import torch
from lightning.pytorch.callbacks import Callback

import ttame
from tests.conftest import IMAGENET, ToyClassifier, randomize_batch_norm
from ttame.attention import AttentionConfig
from ttame.data import image_folder
from ttame.explainer import Explainer
from ttame.training.config import TrainingConfig
from ttame.training.fit import fit
from ttame.training.objective import ObjectiveConfig


class Kill(Callback):
    """SIGKILL to this process: nothing gets a chance to tidy up."""

    def __init__(self, step: int, rank: int, hook: str) -> None:
        self.step, self.rank = step, rank
        setattr(self, hook, self.kill)

    def kill(self, trainer: L.Trainer, *_arguments: Any) -> None:
        if trainer.global_step == self.step and trainer.global_rank == self.rank:
            os.kill(os.getpid(), signal.SIGKILL)


def toy_explainer(attention: AttentionConfig, seed: int = 0) -> Explainer:
    torch.manual_seed(seed)
    model = ToyClassifier()
    randomize_batch_norm(model)
    model.eval().centre()
    layers = ("stages.0", "stages.1", "stages.2")
    return ttame.attach(
        model, layers, config=attention, input_size=(32, 32), head="head", **IMAGENET
    )


def main(given: dict[str, Any]) -> None:
    warnings.simplefilter("ignore")
    photos = image_folder(Path(given["photos"]))
    held = given.get("validation", 0)
    config = dict(given["config"])
    if "objective" in config:
        config["objective"] = ObjectiveConfig(**config["objective"])
    fit(
        toy_explainer(AttentionConfig(**given.get("attention", {}))),
        photos,
        TrainingConfig.of(**config),
        given["out"],
        validation=photos.select(range(held)) if held else None,
        resume=given.get("resume", False),
        callbacks=[Kill(**given["kill"])] if "kill" in given else [],
        progress=False,
    )


if __name__ == "__main__":
    main(json.loads(sys.argv[1]))
