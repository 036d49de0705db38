"""Crops of photos with what the frozen stem and the teacher say of them, computed once."""

from __future__ import annotations

from collections.abc import Callable

import torch
from torch import Tensor
from torch.utils.data import DataLoader, Dataset
from torchvision.transforms import v2

from ttame.classifiers.folding import fold_batch_norm
from ttame.classifiers.hybrid import STEM_END
from ttame.classifiers.registry import Backbone
from ttame.classifiers.specs import BackboneSpec
from ttame.data import PhotoDataset, PhotoList
from ttame.errors import TTameError
from ttame.features import FeatureExtractor


class CachedCrops(Dataset[tuple[Tensor, Tensor, Tensor]]):
    """Stem maps, teacher logits and label of each photo, of a random crop per access.

    Args:
        maps: Stem maps, `(A, N, C, h, w)` in half precision.
        teacher: Teacher logits, `(A, N, K)`.
        labels: Labels, `(N,)` int64.
    """

    def __init__(self, maps: Tensor, teacher: Tensor, labels: Tensor) -> None:
        self.maps, self.teacher, self.labels = maps, teacher, labels

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


@torch.inference_mode()
def cache_crops(
    teacher: Backbone,
    photos: PhotoList,
    classes: tuple[int, ...],
    *,
    augmented: int = 0,
    batch_size: int = 64,
    workers: int = 0,
    progress: Callable[[int, int], None] | None = None,
) -> CachedCrops:
    """Run the teacher once over every crop: the stem's maps and the logits of `classes`.

    Args:
        teacher: An EfficientNet-Lite0.
        photos: Photos with labels among `classes`.
        classes: The teacher's index of each of the student's classes.
        augmented: Random crops per photo; 0 for the centre crop alone.
        batch_size: Photos per batch.
        workers: Number of processes that read photos.
        progress: Called with the number of crops done and their total.

    Raises:
        TTameError: If the photos have no labels, or labels outside `classes`.
    """
    if photos.labels is None or not set(photos.labels) <= set(classes):
        raise TTameError(f"{photos.name} has no labels among the classes {classes}")
    crops = augmented or 1
    blank = torch.zeros(1, 3, *teacher.spec.input_size)
    folded = fold_batch_norm(teacher.model, blank, [STEM_END])
    extract = FeatureExtractor(folded.to(memory_format=torch.channels_last), [STEM_END])
    dataset = (_Augmented if augmented else PhotoDataset)(photos, teacher.spec)
    maps: list[Tensor] = []
    answers: list[Tensor] = []
    done, total = 0, crops * len(photos)
    for _ in range(crops):
        loader = DataLoader(dataset, batch_size, num_workers=workers)
        found_maps, found = [], []
        for images, _index in loader:
            logits, (stem,) = extract(images.contiguous(memory_format=torch.channels_last))
            found_maps.append(stem.half().contiguous())
            found.append(logits[:, list(classes)])
            done += len(images)
            if progress:
                progress(done, total)
        maps.append(torch.cat(found_maps))
        answers.append(torch.cat(found))
    labels = torch.tensor([classes.index(label) for label in photos.labels])
    return CachedCrops(torch.stack(maps), torch.stack(answers), labels)
