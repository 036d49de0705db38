"""One step of training and of validation, as the module that Lightning drives (T-TAME §III-C)."""

from __future__ import annotations

from collections.abc import Callable, Sequence
from dataclasses import replace
from typing import Any

import lightning as L
import torch
from lightning.pytorch.utilities.types import OptimizerLRSchedulerConfig
from torch import Tensor, nn
from torchmetrics import MetricCollection

from ttame.classifiers.outputs import probabilities
from ttame.classifiers.weights import input_like
from ttame.data import PhotoList
from ttame.errors import TTameError
from ttame.evaluation.confidence import (
    PERCENTAGES,
    AverageDrop,
    IncreaseInConfidence,
    SampleMetric,
    masked_probabilities,
)
from ttame.explainer import Explainer
from ttame.features import masked_features
from ttame.masking import fill_blurred, keep_top, normalize_maps, upsample
from ttame.training.config import SCORE, Precision, TrainingConfig
from ttame.training.mosaics import PHOTOS, mosaic_places, with_mosaics
from ttame.training.objective import (
    ObjectiveParts,
    Parts,
    objective,
    own_maps,
    regularized_targets,
    remaining,
)
from ttame.training.sampling import draw_ranks, unreadable
from ttame.training.trials import draw_noise, reward, smooth_noise, trial_loss, trial_maps


class ExplainerModule(L.LightningModule):
    """One training step: explain, mask, classify again, compare with the model truth.

    Args:
        explainer: The classifier (frozen, in `eval()` throughout) with its mechanism.
        config: How to train.
        total_steps: Length of the learning-rate schedule.
        photos: The photos that batches give positions of; their names stand in messages, their
            labels are the targets where the config says so.

    Raises:
        TTameError: If labels are asked for that are not there, or not the classifier's, or
            feature maps are to be masked that are not the classifier's own.
    """

    def __init__(
        self,
        explainer: Explainer,
        config: TrainingConfig,
        total_steps: int,
        photos: PhotoList | None = None,
    ) -> None:
        super().__init__()
        if config.mask.masked == "features" and explainer.auxiliary is not None:
            raise TTameError(
                f"masked='features' masks a feature map of {explainer.spec.name}, and those read "
                f"are of {explainer.auxiliary.spec.name}; use masked='image'"
            )
        self.explainer, self.config, self.total_steps = explainer, config, total_steps
        self.names = photos.names if photos else ()
        self.truth = _ground_truth(photos, explainer) if config.photos.truth == "ground" else None
        classifier = explainer.classifier
        # Not `classifier.forward`, which skips the classifier's own hooks.
        compiled = torch.compile(lambda images: classifier(images)) if config.run.compile else None
        self.compiled: Callable[[Tensor], Tensor] | None = compiled
        # Where there are fewer classes, all are drawn from.
        self.ranks = min(config.photos.ranks, explainer.mechanism.classes)
        self.mosaic_ranks = min(PHOTOS, explainer.mechanism.classes)
        self.learning_rate = (
            config.optimization.learning_rate
        )  # the name that Lightning's finder sets
        self.scores = MetricCollection(
            {
                f"val/{name} {percentage}%": kind()
                for percentage in PERCENTAGES
                for name, kind in (("AD", AverageDrop), ("IC", IncreaseInConfidence))
            },
            compute_groups=False,
        )
        self.strict_loading = False  # checkpoints leave frozen networks out

    def parts(
        self,
        images: Tensor,
        retain: float = 1.0,
        ranks: Tensor | None = None,
        truth: Tensor | None = None,
        noise: Tensor | None = None,
    ) -> ObjectiveParts:
        """The objective of one batch.

        Args:
            images: Normalised photos, `(B, C, H, W)`.
            retain: Share of top pixels that the mask keeps.
            ranks: Place of every photo's target class among its most probable ones, `(B,)` int64
                from 0; default: the most probable.
            truth: Target classes `(B,)` instead of the model's.
            noise: For trials of the last N photos, coarse, `(N, 1, 7, 7)`
                (`ttame.training.trials.draw_noise`).
        """
        config, seed = self.config, self.config.run.seed
        laid_out = self.laid_out
        images = images.to(input_like(self.explainer.classifier))
        with torch.no_grad():
            logits, features = self.explainer.features(laid_out(images))
        if truth is not None:
            labels = truth
        elif ranks is None:
            labels = logits.argmax(dim=1)  # the model truth
        else:
            ordered = logits.topk(int(ranks.max()) + 1, dim=1).indices
            labels = ordered.gather(1, ranks[:, None])[:, 0]
        raw = self.explainer.mechanism(features, regularized_targets(labels, config.objective))
        raw = raw.float()  # half precision would rank most pixels as ties
        trial = None
        if noise is not None:
            whole, split = images, len(images) - len(noise)
            trial = self._try(whole[split:], logits[split:], labels[split:], raw[split:], noise)
            images, logits, labels, raw = (part[:split] for part in (whole, logits, labels, raw))
        maps = torch.sigmoid(raw) if config.mask.activation == "sigmoid" else normalize_maps(raw)
        classifier, layer = self.explainer.classifier, self.explainer.layers[-1]
        if config.mask.masked == "features":
            with masked_features(classifier, layer, keep_top(own_maps(maps), retain, seed)):
                answer = classifier(laid_out(images))
        else:
            masked = laid_out(self._mask(images, own_maps(maps), retain))
            answer = self.compiled(masked) if self.compiled else classifier(masked)
        activation = self.explainer.spec.activation
        parts = objective(logits, answer, labels, maps, config.objective, activation)
        if weight := config.objective.complement:
            rest = laid_out(self._mask(images, 1 - own_maps(maps), 1.0))
            left = remaining(logits, classifier(rest), labels, activation).mean()
            parts = replace(parts, total=parts.total + weight * left, complement=left)
        if trial is None:
            return parts
        return replace(parts, total=parts.total + config.objective.trials * trial, trials=trial)

    def laid_out(self, images: Tensor) -> Tensor:
        """Images `(B, C, H, W)` in the memory format of the run."""
        return channels_last(images) if self.config.run.channels_last else images.contiguous()

    def _mask(self, images: Tensor, maps: Tensor, share: float) -> Tensor:
        """Mask photos by maps `(B, 1, h, w)` in [0, 1], of which a share of the pixels stays."""
        seed = self.config.run.seed
        if self.config.mask.fill == "constant":
            return self.explainer.spec.mask(images, maps, share, seed)
        return fill_blurred(images, keep_top(upsample(maps, images.shape[-2:]), share, seed))

    def _try(
        self, images: Tensor, logits: Tensor, labels: Tensor, raw: Tensor, noise: Tensor
    ) -> Tensor:
        """Move raw maps `(N, 1, h, w)` by noise both ways and push them towards the better."""
        config = self.config
        noise = smooth_noise(noise, raw.shape[-2:])
        odds = raw if self.explainer.mechanism.decoder is None else torch.logit(raw, eps=1e-6)
        with torch.no_grad():
            moved = trial_maps(odds, noise)
            if self.explainer.mechanism.decoder is not None:
                moved = torch.sigmoid(moved)
            masked = self._mask(
                images.repeat(2, 1, 1, 1), normalize_maps(moved), config.mask.tried_retain
            )
            answer = self.explainer.classifier(self.laid_out(masked))
            limit, activation = config.objective.gain_limit, self.explainer.spec.activation
            rewards = reward(logits, answer, labels, limit, activation)
        return trial_loss(odds, noise, rewards)

    def on_before_batch_transfer(
        self, batch: Sequence[Tensor] | TTameError, dataloader_idx: int
    ) -> Sequence[Tensor]:
        """Lightning's hook: a photo that could not be read arrives as its error."""
        if isinstance(batch, TTameError):
            raise unreadable(batch) from batch
        return batch

    def step_parts(self, images: Tensor, positions: Tensor, step: int) -> Parts:
        """What one step minimises, with all that is drawn from (seed, step, photo).

        Args:
            images: Normalised photos, `(B, C, H, W)`.
            positions: Their positions in the list of photos, `(B,)` int64.
            step: Number of the step, from 0.
        """
        retain = self.config.mask.retain[step % len(self.config.mask.retain)]
        truth = None if self.truth is None else self.truth.to(positions.device)[positions]
        ranks, seed, numbers = None, self.config.run.seed, positions.tolist()
        places = mosaic_places(len(images), self.config.photos.mosaics)
        if self.ranks > 1 or places:
            drawn = draw_ranks(seed, step, numbers, self.ranks)
            of_mosaics = draw_ranks(seed, step, numbers, self.mosaic_ranks)
            ranks = torch.tensor(
                [of_mosaics[i] if i in places else rank for i, rank in enumerate(drawn)],
                device=positions.device,
            )
            images = with_mosaics(images, places)
        noise = None
        # One photo at least learns by gradients.
        if tried := min(round(self.config.mask.tried * len(images)), len(images) - 1):
            noise = draw_noise(seed, step, numbers[-tried:])
            noise = noise.to(images.device)
        return self.parts(images, retain, ranks, truth, noise)

    def training_step(self, batch: Sequence[Tensor], batch_idx: int) -> Tensor:
        """Lightning's hook; logs the parts of the objective."""
        images, positions = batch
        parts = self.step_parts(images, positions, batch_idx)
        if not bool(parts.total.isfinite()):
            photos = [self.names[i] for i in positions.tolist()] if self.names else []
            raise TTameError(
                f"the loss became {parts.total.item()} at step {self.global_step}"
                f"{' on the photos ' if photos else ''}{', '.join(photos)}; lower the learning "
                f"rate ({self.config.optimization.learning_rate}), or clip the gradients "
                "(gradient_clip)"
            )
        logged = {
            f"train/{name}": value.detach() for name, value in vars(parts).items()
            if value is not None
        }  # fmt: skip
        # Equal shares of a batch: the mean over processes is the batch's.
        self.log_dict(logged, batch_size=len(images), sync_dist=self.trainer.world_size > 1)
        self.log("loss", parts.total.detach(), prog_bar=True, logger=False)
        return parts.total

    def validation_step(self, batch: Sequence[Tensor], batch_idx: int) -> None:
        """AD and IC of held-out photos: what the maps are for, not the unmasked loss."""
        images = batch[0]
        logits, targets, maps = self.explainer(images)
        original = probabilities(logits, self.explainer.spec.activation).gather(1, targets)[:, 0]
        masked = masked_probabilities(
            self.explainer.classifier, self.explainer.spec, images, maps, targets[:, 0]
        )
        for column, percentage in enumerate(PERCENTAGES):
            for name in ("AD", "IC"):
                metric = self.scores[f"val/{name} {percentage}%"]
                assert isinstance(metric, SampleMetric)
                metric.update(original.clone(), masked[:, column].clone())

    def on_validation_epoch_end(self) -> None:
        """Log the means and one score, IC - AD averaged over percentages; start afresh."""
        found = dict(self.scores.compute())
        signs = [value if "/IC" in name else -value for name, value in found.items()]
        self.log_dict({**found, SCORE: torch.stack(signs).sum() / len(PERCENTAGES)})
        self.scores.reset()

    def parameter_groups(self) -> list[dict[str, Any]]:
        """The papers' groups, for each rate: no decay on biases."""
        rate, settings = self.learning_rate, self.config.optimization
        grouped: dict[tuple[float, bool], list[nn.Parameter]] = {}
        for name, value in self.explainer.mechanism.named_parameters():
            factor = settings.part_rates.get(part_of(name), 1.0)
            grouped.setdefault((factor, "bias" in name), []).append(value)
        return [
            {
                "params": values,
                "lr": rate * factor,
                "weight_decay": 0.0 if bias else settings.weight_decay,
            }
            for (factor, bias), values in grouped.items()
        ]

    def schedule(self, optimizer: torch.optim.Optimizer) -> torch.optim.lr_scheduler.LRScheduler:
        """OneCycle over the whole run."""
        return torch.optim.lr_scheduler.OneCycleLR(
            optimizer,
            max_lr=[group["lr"] for group in optimizer.param_groups],
            total_steps=self.total_steps,
        )

    def configure_optimizers(self) -> OptimizerLRSchedulerConfig:
        """Lightning's hook: the schedule is stepped every batch."""
        rate, groups = self.learning_rate, self.parameter_groups()
        optimizer: torch.optim.Optimizer
        if self.config.optimization.optimizer == "sgd":
            optimizer = torch.optim.SGD(groups, lr=rate, momentum=0.9, nesterov=True)
        else:
            # One pass over weights and moments instead of one an operation. In mixed precision
            # Lightning refuses to clip the gradients of such an optimiser.
            optimizer = torch.optim.AdamW(
                groups, lr=rate, fused=self.config.run.precision == "32-true"
            )
        return {
            "optimizer": optimizer,
            "lr_scheduler": {"scheduler": self.schedule(optimizer), "interval": "step"},
        }

    def on_save_checkpoint(self, checkpoint: dict[str, Any]) -> None:
        """Leave frozen networks out of checkpoints."""
        state = checkpoint["state_dict"]
        frozen = ("explainer.classifier.", "explainer.auxiliary.")
        for name in [name for name in state if name.startswith(frozen)]:
            del state[name]


def _ground_truth(photos: PhotoList | None, explainer: Explainer) -> Tensor:
    """The photos' labels, `(N,)`."""
    if photos is None or photos.labels is None:
        raise TTameError(
            "truth='ground' needs photos with labels; use one folder per class, a list file, or "
            "truth='model'"
        )
    classes = explainer.mechanism.classes
    wrong = [label for label in photos.labels if not 0 <= label < classes]
    if wrong:
        raise TTameError(
            f"truth='ground': {photos.name} has label {wrong[0]}, the classifier has {classes} "
            "classes; give labels in its numbering"
        )
    return torch.tensor(photos.labels)


def part_of(parameter: str) -> str:
    """Return which of `ttame.training.config.PARTS` a parameter of the mechanism belongs to."""
    part = parameter.split(".")[0]
    return "gains" if part == "branches" and parameter.endswith("norm.weight") else part


def channels_last(images: Tensor) -> Tensor:
    """Images `(B, C, H, W)` in the channels-last memory format, their gradient in the plain one.

    A mask is one plane an image. Multiplying it, and summing its gradient over the channels,
    takes several times longer where the channels lie innermost than changing the format does.
    """
    if images.requires_grad:
        images.register_hook(Tensor.contiguous)  # type: ignore[no-untyped-call]
    return images.contiguous(memory_format=torch.channels_last)


def autocast(precision: Precision, device: torch.device) -> torch.autocast:
    """Make the context in which Lightning runs a step of this precision."""
    dtype = torch.float16 if precision == "16-mixed" else torch.bfloat16
    return torch.autocast(device.type, dtype, enabled=precision != "32-true")
