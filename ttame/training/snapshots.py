"""Snapshots of explanation maps while a mechanism trains."""

from __future__ import annotations

from typing import Any

import lightning as L
import torch
from lightning.pytorch.callbacks import Callback
from torch import Tensor

from ttame.errors import TTameError
from ttame.training.module import ExplainerModule


class MapSnapshots(Callback):
    """Keep the maps of some photos at the start of training and every few steps.

    Args:
        images: Normalised photos, `(B, C, H, W)`.
        every: Steps between two snapshots.

    Attributes:
        steps: Number of optimiser steps before each snapshot.
        maps: One tensor per snapshot: raw maps of the predicted classes, `(B, 1, h, w)`.

    Raises:
        TTameError: If `every` is not positive.
    """

    def __init__(self, images: Tensor, every: int) -> None:
        if every < 1:
            raise TTameError(f"every must be positive, got {every}")
        self.images, self.every = images, every
        self.steps: list[int] = []
        self.maps: list[Tensor] = []

    def on_train_start(self, trainer: L.Trainer, pl_module: L.LightningModule) -> None:
        """Lightning's hook: the start, before the first step."""
        self._keep(pl_module, 0)

    def on_train_batch_end(self, trainer: L.Trainer, pl_module: L.LightningModule, *_: Any) -> None:
        """Lightning's hook: after a step."""
        if trainer.global_step % self.every == 0:
            self._keep(pl_module, trainer.global_step)

    @torch.no_grad()
    def _keep(self, module: L.LightningModule, step: int) -> None:
        assert isinstance(module, ExplainerModule)
        explainer = module.explainer
        mode = explainer.training
        explainer.eval()  # batch norm must neither use nor keep the statistics of these photos
        _, _, maps = explainer(self.images.to(module.device))
        explainer.train(mode)
        self.steps.append(step)
        self.maps.append(maps.cpu())
