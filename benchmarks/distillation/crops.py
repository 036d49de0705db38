"""Crops of photos with what the frozen stem and the teacher say of them, computed once."""

from __future__ import annotations

import hashlib
import json
from collections.abc import Callable
from pathlib import Path
from typing import Any

import numpy as np
import torch
from torch import Tensor
from torch.utils.data import DataLoader, Dataset
from torchvision.transforms import v2

from benchmarks.distillation.teacher import split
from ttame.classifiers.hybrid import own_cells
from ttame.classifiers.registry import Backbone
from ttame.classifiers.specs import BackboneSpec
from ttame.classifiers.weights import weight_digest
from ttame.data import PhotoDataset, PhotoList
from ttame.errors import TTameError
from ttame.files import replacing
from ttame.records import provenance


class CachedCrops(Dataset[tuple[Tensor, Tensor, Tensor]]):
    """Stem maps, teacher logits and label of each photo, of a random crop per access.

    Args:
        maps: Stem maps, `(A, N, C, h, w)` in half precision.
        teacher: Teacher logits, `(A, N, K)`.
        labels: Labels, `(N,)` int64; -1 where there is none.
        made: How the crops were made, with the provenance of the run that made them.
    """

    def __init__(
        self, maps: Tensor, teacher: Tensor, labels: Tensor, made: dict[str, Any] | None = None
    ) -> None:
        self.maps, self.teacher, self.labels, self.made = maps, teacher, labels, made or {}

    def __len__(self) -> int:
        return len(self.labels)

    def __getitem__(self, index: int) -> tuple[Tensor, Tensor, Tensor]:
        crop = int(torch.randint(len(self.maps), ()))
        return self.maps[crop, index], self.teacher[crop, index], self.labels[index]


class _Augmented(PhotoDataset):
    """A `PhotoDataset` with random resized crops, flips and colours."""

    def __init__(self, photos: PhotoList, spec: BackboneSpec) -> None:
        super().__init__(photos, spec)
        interpolation = v2.InterpolationMode(spec.interpolation)
        self.transform = v2.Compose(
            [
                v2.RandomResizedCrop(
                    list(spec.input_size), scale=(0.35, 1.0), interpolation=interpolation
                ),
                v2.RandomHorizontalFlip(),
                v2.ColorJitter(0.3, 0.3, 0.3),
                v2.PILToTensor(),
                v2.ToDtype(torch.float32, scale=True),
            ]
        )


def cache_crops(
    teacher: Backbone,
    photos: PhotoList,
    stages: int,
    folder: Path,
    *,
    augmented: int = 0,
    seed: int = 0,
    batch_size: int = 64,
    workers: int = 0,
    progress: Callable[[int, int], None] | None = None,
) -> CachedCrops:
    """Run the teacher once over every crop, or open the memory-mapped files of an earlier run.

    Args:
        teacher: An EfficientNet-Lite0.
        photos: Photos, with or without labels.
        stages: Number of the teacher's stages in the stem, whose maps `(C, h, w)` are kept.
        folder: Folder for `maps.npy`, `logits.npy` and, once they are complete, `crops.json`.
        augmented: Random crops per photo; 0 for the centre crop alone.
        seed: Seed of the crops.
        batch_size: Photos per batch.
        workers: Number of processes that read photos.
        progress: Called with the number of crops done and their total.

    Raises:
        TTameError: If the folder holds other crops.
    """
    wanted = {
        "photos": photos.name,
        "names": hashlib.sha256("\n".join(photos.names).encode()).hexdigest()[:16],
        "teacher": weight_digest(teacher.model),
        "stages": stages,
        "augmented": augmented,
        "crops_seed": seed,
    }
    notes = folder / "crops.json"
    if notes.is_file():
        made = json.loads(notes.read_text("utf-8"))
        other = next((key for key in wanted if made.get(key) != wanted[key]), None)
        if other:
            raise TTameError(
                f"{str(folder)!r} holds crops with {other}={made.get(other)!r}, wanted is "
                f"{wanted[other]!r}; choose another folder, or remove this one"
            )
    else:
        made = provenance(seed) | wanted
        dataset = (_Augmented if augmented else PhotoDataset)(photos, teacher.spec)
        loader = DataLoader(dataset, batch_size, num_workers=workers)
        with torch.random.fork_rng(devices=[]):
            torch.manual_seed(seed)
            _write(teacher, loader, stages, folder, augmented or 1, progress)
        with replacing(notes) as temporary:
            temporary.write_text(json.dumps(made, indent=1) + "\n", encoding="utf-8")
    # Copy-on-write: nothing writes to the files, and torch wants writable memory.
    maps, logits = (
        torch.from_numpy(np.load(folder / f"{name}.npy", mmap_mode="c"))
        for name in ("maps", "logits")
    )
    labels = torch.tensor(photos.labels or [-1] * len(photos))
    return CachedCrops(maps, logits, labels, made)


def choose_classes(crops: CachedCrops, classes: tuple[int, ...]) -> CachedCrops:
    """Keep the logits of some of the teacher's classes, and count labels among them.

    Args:
        crops: Crops with all logits, and labels that are the teacher's indices.
        classes: The teacher's index of each class to keep.

    Raises:
        TTameError: If a photo has no label, or one outside `classes`.
    """
    if not set(crops.labels.tolist()) <= set(classes):
        raise TTameError(f"the photos have no labels among the classes {classes}")
    labels = torch.tensor([classes.index(label) for label in crops.labels.tolist()])
    return CachedCrops(crops.maps, crops.teacher[..., list(classes)], labels, crops.made)


@torch.inference_mode()
def _write(
    teacher: Backbone,
    loader: DataLoader[Any],
    stages: int,
    folder: Path,
    crops: int,
    progress: Callable[[int, int], None] | None,
) -> None:
    """Fill `maps.npy` and `logits.npy` with so many crops of each photo; uses a GPU if any."""
    folder.mkdir(parents=True, exist_ok=True)
    blank = torch.zeros(1, 3, *teacher.spec.input_size)
    device = torch.device("cuda" if torch.cuda.is_available() else "cpu")
    stem, tail = split(teacher, stages)
    stem.to(device)
    tail.to(device)
    maps = stem(blank.to(device))
    logits = tail.classifier(tail(own_cells(maps, stages)).mean(dim=(2, 3)))
    count = len(loader.dataset)  # type: ignore[arg-type]
    files = [
        np.lib.format.open_memmap(
            folder / f"{name}.npy", "w+", dtype, (crops, count, *found.shape[1:])
        )
        for name, dtype, found in (("maps", np.float16, maps), ("logits", np.float32, logits))
    ]
    done = 0
    for crop in range(crops):
        for images, index in loader:
            maps = stem(images.to(device).contiguous(memory_format=torch.channels_last))
            logits = tail.classifier(tail(own_cells(maps, stages)).mean(dim=(2, 3)))
            places = slice(int(index[0]), int(index[-1]) + 1)  # in order
            files[0][crop, places], files[1][crop, places] = (
                maps.half().cpu().numpy(),
                logits.cpu().numpy(),
            )
            done += len(images)
            if progress:
                progress(done, crops * count)
    for file in files:
        file.flush()
