"""Which photos a training step sees: a function of seed and step, not of what ran before.

Order and augmentation are drawn from (seed, epoch, photo). So they depend neither on the number
of processes that read photos, nor on that of devices, nor on where a run was interrupted.
"""

from __future__ import annotations

import warnings
from collections.abc import Iterator, Sequence
from typing import Any, NamedTuple, cast

import numpy as np
import torch
from torch import Tensor
from torch.utils.data import DataLoader, Dataset, Sampler, default_collate

from ttame.classifiers.specs import BackboneSpec
from ttame.data import PhotoDataset, PhotoList
from ttame.errors import TTameError
from ttame.images import open_image
from ttame.training.config import TrainingConfig

Batch = list[Tensor]  # images (B, C, H, W) and positions (B,) in the list of photos


class Draw(NamedTuple):
    """One reading of one photo: the epoch, and the photo's position in the list."""

    epoch: int
    photo: int


class StepSampler(Sampler[list[Draw]]):
    """The draws of every step from `start` on; each epoch is a shuffle of its own.

    A last batch that is not full is left out (the label mode pairs the photos of a batch, and
    one photo has no pair); a list shorter than a batch is one batch.

    Args:
        photos: Length of the list.
        batch_size: Photos per step, over all processes.
        steps: Steps in all.
        seed: Seed of the order.
        rank: This process's number; it takes every `world`-th photo of a batch.
        world: Number of processes.

    Attributes:
        share: Photos per step of one process.
        start: The first step; later than 0 in a resumed run.

    Raises:
        TTameError: If the processes cannot share a batch evenly.
    """

    def __init__(
        self, photos: int, batch_size: int, steps: int, seed: int, rank: int = 0, world: int = 1
    ) -> None:
        self.photos, self.steps, self.seed = photos, steps, seed
        self.batch_size = min(batch_size, photos)
        self.rank, self.world, self.start = rank, world, 0
        self.share = self.batch_size // world
        if self.batch_size % world:
            raise TTameError(
                f"a batch of {self.batch_size} photos cannot be shared evenly by {world} "
                f"processes; choose a batch size that is a multiple of {world}"
            )

    def __len__(self) -> int:
        """Steps in all, also where some are done already."""
        return self.steps

    def __iter__(self) -> Iterator[list[Draw]]:
        """The draws of this process, step by step."""
        shuffled, order = -1, []
        for step in range(self.start, self.steps):
            epoch, place = divmod(step, epoch_steps(self.photos, self.batch_size))
            if epoch != shuffled:
                generator = torch.Generator().manual_seed(mixed_seed(self.seed, epoch))
                order = torch.randperm(self.photos, generator=generator).tolist()
                shuffled = epoch
            batch = order[place * self.batch_size : (place + 1) * self.batch_size]
            yield [Draw(epoch, index) for index in batch[self.rank :: self.world]]


class DrawnPhotos(Dataset[tuple[Tensor, int] | TTameError]):
    """Normalised photos `(C, H, W)` with their position, by draw.

    A photo that cannot be read is returned as its error, which crosses the border between
    processes whole; `collate` and the training module pass it on.

    Args:
        photos: The list.
        spec: The classifier's facts.
        config: Augmentation's switch and seed, and whether to skip bad photos: the next one that
            can be read takes the place, so that batches keep their size.
        augment: Whether these photos are augmented at all.
    """

    def __init__(
        self, photos: PhotoList, spec: BackboneSpec, config: TrainingConfig, augment: bool
    ) -> None:
        augment = augment and config.photos.augment
        self.dataset = PhotoDataset(photos, spec, augment, config.photos.crop_area)
        self.seed, self.skip_bad = config.run.seed, config.photos.skip_bad

    def __len__(self) -> int:
        return len(self.dataset)

    def __getitem__(self, draw: Draw) -> tuple[Tensor, int] | TTameError:
        with torch.random.fork_rng(devices=[]):
            torch.default_generator.manual_seed(mixed_seed(self.seed, draw.epoch, draw.photo + 1))
            for further in range(len(self)):
                try:
                    return self.dataset[(draw.photo + further) % len(self)]
                except TTameError as error:
                    if not self.skip_bad:
                        return error
                    if further == 0:
                        warnings.warn(f"skipped: {error}", stacklevel=2)
        return TTameError(f"none of the {len(self)} photos of {self.dataset.photos.name} is read")


class StepLoader(DataLoader[Any]):
    """A loader that Lightning can resume: it counts the batches it has handed out."""

    done = 0

    def __iter__(self) -> Iterator[Any]:  # type: ignore[override]
        """Batches from the next step on."""
        for batch in super().__iter__():
            self.done += 1  # before the batch is trained on: a checkpoint comes after that
            yield batch

    def state_dict(self) -> dict[str, int]:
        """What a checkpoint keeps."""
        return {"done": self.done}

    def load_state_dict(self, state: dict[str, int]) -> None:
        """Go on after the batches that a checkpoint's run had seen."""
        self.done = state["done"]
        assert isinstance(self.batch_sampler, StepSampler)
        self.batch_sampler.start = self.done


def train_loader(
    photos: PhotoList,
    spec: BackboneSpec,
    config: TrainingConfig,
    steps: int,
    rank: int = 0,
    world: int = 1,
) -> StepLoader:
    """All batches of a training run, one per step.

    Args:
        photos: Photos to train on.
        spec: The classifier's facts.
        config: Batch size, seed, augmentation, workers.
        steps: Length of the run.
        rank: This process's number.
        world: Number of processes.
    """
    batch_size, seed = config.photos.batch_size, config.run.seed
    return StepLoader(
        DrawnPhotos(photos, spec, config, augment=True),
        batch_sampler=StepSampler(len(photos), batch_size, steps, seed, rank, world),
        collate_fn=collate,
        num_workers=config.run.workers,
    )


def validation_loader(
    photos: PhotoList, spec: BackboneSpec, config: TrainingConfig, rank: int = 0, world: int = 1
) -> DataLoader[Any]:
    """Held-out photos in order, this process's share of them.

    Raises:
        TTameError: If there are fewer photos than processes.
    """
    if len(photos) < world:
        raise TTameError(
            f"{len(photos)} held-out photos cannot be shared by {world} processes; hold out more"
        )
    draws = [Draw(0, index) for index in range(rank, len(photos), world)]
    return DataLoader(
        DrawnPhotos(photos, spec, config, augment=False),
        batch_size=max(config.photos.batch_size // world, 1),
        sampler=draws,
        collate_fn=collate,
        num_workers=config.run.workers,
        persistent_workers=config.run.workers > 0,
    )


def collate(items: Sequence[tuple[Tensor, int] | TTameError]) -> Batch | TTameError:
    """A batch, or the error of its first photo that cannot be read."""
    error = next((item for item in items if isinstance(item, TTameError)), None)
    return error or cast(Batch, default_collate(list(items)))


def unreadable(error: TTameError) -> TTameError:
    """Make the error that ends a run at a photo, from what reading it raised."""
    return TTameError(
        f"{error}. Mend or remove the photo, or skip what cannot be read (--skip-bad, or "
        "skip_bad=True in the configuration)"
    )


def readable(photos: PhotoList, channels: int) -> PhotoList:
    """The photos that can be read as images of C channels; a warning names each of the others.

    Raises:
        TTameError: If none can be read.
    """
    kept = []
    for index, path in enumerate(photos.paths):
        try:
            open_image(path, channels=channels)
            kept.append(index)
        except TTameError as error:
            warnings.warn(f"skipped: {error}", stacklevel=2)
    if not kept:
        raise TTameError(f"none of the {len(photos)} photos of {photos.name} can be read")
    return photos.select(kept)


def epoch_steps(photos: int, batch_size: int) -> int:
    """Steps of one pass over the photos."""
    return max(photos // batch_size, 1)


def total_steps(photos: int, config: TrainingConfig) -> int:
    """Steps of a whole run."""
    length = config.optimization
    return length.steps or length.epochs * epoch_steps(photos, config.photos.batch_size)


def draw_ranks(seed: int, step: int, photos: Sequence[int], count: int) -> list[int]:
    """Draw which of a photo's `count` most probable classes a step explains, from 0.

    Drawn evenly from (seed, step, photo), like everything that a step sees.
    """
    return [mixed_seed(seed, step, photo, count) % count for photo in photos]


def mixed_seed(*numbers: int) -> int:
    """One seed from several numbers, so that neighbours have nothing in common."""
    return int(np.random.SeedSequence(numbers).generate_state(1, np.uint64)[0] >> np.uint64(1))
