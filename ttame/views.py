"""Views: what a frozen stem and its network say of every photo, computed once for a few crops."""

from __future__ import annotations

from collections.abc import Callable

import torch
from torch import Tensor
from torch.utils.data import DataLoader, Dataset
from torchvision.transforms import v2

from ttame.backbones import Backbone
from ttame.data import PhotoDataset, PhotoList
from ttame.errors import TTameError
from ttame.features import FeatureExtractor
from ttame.folding import fold_batch_norm
from ttame.hybrid import STEM_END
from ttame.specs import BackboneSpec


class CachedViews(Dataset[tuple[Tensor, Tensor, Tensor]]):
    """Stem maps, teacher logits and labels of every photo, a random view at each reading.

    Args:
        maps: `(V, N, C, h, w)`, half precision.
        teacher: `(V, N, K)`.
        labels: `(N,)`, int64.
    """

    def __init__(self, maps: Tensor, teacher: Tensor, labels: Tensor) -> None:
        self.maps, self.teacher, self.labels = maps, teacher, labels

    def __len__(self) -> int:
        return len(self.labels)

    def __getitem__(self, index: int) -> tuple[Tensor, Tensor, Tensor]:
        view = int(torch.randint(len(self.maps), ()))
        return self.maps[view, index], self.teacher[view, index], self.labels[index]


class _Augmented(PhotoDataset):
    """As `PhotoDataset`, with random resized crops, flips and colours."""

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
def cache_views(
    teacher: Backbone,
    photos: PhotoList,
    classes: tuple[int, ...],
    *,
    augmented: int = 0,
    batch_size: int = 64,
    workers: int = 0,
    progress: Callable[[int, int], None] | None = None,
) -> CachedViews:
    """Run the teacher once over every view: the stem's maps and the logits of `classes`.

    Args:
        teacher: An EfficientNet-Lite0.
        photos: Photos with labels among `classes`.
        classes: The teacher's indices of the student's classes, in order.
        augmented: Random views of a photo; 0 for its centre crop alone.
        batch_size: Photos at a time.
        workers: Processes that read photos.
        progress: Called with (photos done, photos in all).

    Raises:
        TTameError: If the photos have no labels, or others.
    """
    if photos.labels is None or not set(photos.labels) <= set(classes):
        raise TTameError(f"{photos.name} has no labels among the classes {classes}")
    views = augmented or 1
    blank = torch.zeros(1, 3, *teacher.spec.input_size)
    folded = fold_batch_norm(teacher.model, blank, [STEM_END])
    extract = FeatureExtractor(folded.to(memory_format=torch.channels_last), [STEM_END])
    dataset = (_Augmented if augmented else PhotoDataset)(photos, teacher.spec)
    maps: list[Tensor] = []
    answers: list[Tensor] = []
    done, total = 0, views * len(photos)
    for _ in range(views):
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
    return CachedViews(torch.stack(maps), torch.stack(answers), labels)
