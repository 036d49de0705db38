"""Photos on disk: finding, sampling and loading them."""

from __future__ import annotations

import os
from collections.abc import Sequence
from dataclasses import dataclass, replace
from pathlib import Path

import torch
from torch import Tensor
from torch.utils.data import Dataset

from ttame.classifiers.classes import IMAGENETTE, imagenet_indices
from ttame.classifiers.specs import BackboneSpec
from ttame.errors import TTameError
from ttame.files import shipped
from ttame.images import eval_transform, normalize, read_image, train_transform

_SUFFIXES = {".jpeg", ".jpg", ".png", ".webp", ".bmp", ".ppm"}


@dataclass(frozen=True)
class PhotoList:
    """An ordered list of photos.

    Attributes:
        name: Name of the data in results, such as `"imagenette/val"`.
        root: Folder that `names` are relative to.
        names: POSIX file names, as recorded in results.
        labels: Ground-truth class indices, if known.
    """

    name: str
    root: Path
    names: tuple[str, ...]
    labels: tuple[int, ...] | None = None

    def __len__(self) -> int:
        """Return the number of photos."""
        return len(self.names)

    def select(self, indices: Sequence[int]) -> PhotoList:
        """Return the photos at these positions, in this order."""
        labels = None if self.labels is None else tuple(self.labels[i] for i in indices)
        return replace(self, names=tuple(self.names[i] for i in indices), labels=labels)

    def sample(self, limit: int | None, seed: int = 0) -> PhotoList:
        """Draw at most `limit` photos without replacement, by a seeded shuffle.

        With the same seed, a smaller sample is the beginning of a larger one.

        Raises:
            TTameError: If `limit` is not positive.
        """
        if limit is not None and limit < 1:
            raise TTameError(f"limit must be positive, got {limit}")
        generator = torch.Generator().manual_seed(seed)
        return self.select(torch.randperm(len(self), generator=generator)[:limit].tolist())

    @property
    def paths(self) -> list[Path]:
        """Full paths, in order of `names`."""
        return [self.root / name for name in self.names]


class PhotoDataset(Dataset[tuple[Tensor, int]]):
    """Normalised photos `(3, H, W)`, each with its position in the list.

    Args:
        photos: Photos to load.
        spec: Facts of the classifier.
        augment: Use a random crop and flip instead of the centre crop.
        crop_area: With `augment`, as for `ttame.images.train_transform`.
    """

    def __init__(
        self,
        photos: PhotoList,
        spec: BackboneSpec,
        augment: bool = False,
        crop_area: float | None = None,
    ) -> None:
        self.photos, self.spec = photos, spec
        self.transform = train_transform(spec, crop_area) if augment else eval_transform(spec)

    def __len__(self) -> int:
        return len(self.photos)

    def __getitem__(self, index: int) -> tuple[Tensor, int]:
        raw: Tensor = self.transform(read_image(self.photos.root / self.photos.names[index]))
        return normalize(raw[None], self.spec)[0], index


def data_root(folder: str) -> Path:
    """Find `folder` in `TTAME_DATA`, or else in `data/` of the working folder or repository.

    Raises:
        TTameError: If it is in none of them, saying how to fetch it.
    """
    setting = os.environ.get("TTAME_DATA")
    repository = Path(__file__).resolve().parent.parent / "data"
    places = [Path(setting)] if setting else [Path("data"), repository]
    for place in places:
        if (place / folder).is_dir():
            return place / folder
    where = f"TTAME_DATA={setting!r}" if setting else "data/ (TTAME_DATA is not set)"
    raise TTameError(
        f"no folder {folder!r} in {where}; set TTAME_DATA to the folder that holds {folder}/, "
        f"or fetch it with `ttame data {folder}`"
    )


def has_imagenette() -> bool:
    """Return whether Imagenette is available without a download."""
    try:
        imagenette("val")
    except TTameError:
        return False
    return True


def imagenette(split: str = "val") -> PhotoList:
    """List Imagenette's photos, labelled by ImageNet class indices.

    Args:
        split: `"train"` (9,469 photos) or `"val"` (3,925 photos).

    Raises:
        TTameError: If the folder or one of the ten classes is missing.
    """
    if split not in ("train", "val"):
        raise TTameError(f"split must be 'train' or 'val', got {split!r}")
    folder = data_root("imagenette") / split
    found = image_folder(folder, name=f"imagenette/{split}")
    wnids = [name.split("/")[0] for name in found.names]
    missing = [wnid for wnid in IMAGENETTE if wnid not in wnids]
    if missing:
        raise TTameError(
            f"{str(folder)!r} lacks photos of {len(missing)} of the 10 classes "
            f"({', '.join(missing[:3])}...); the download is incomplete: fetch it again"
        )
    indices = imagenet_indices()
    labelled = replace(found, labels=tuple(indices.get(wnid, -1) for wnid in wnids))
    return labelled.select([i for i, wnid in enumerate(wnids) if wnid in IMAGENETTE])


def image_folder(folder: Path | str, name: str | None = None) -> PhotoList:
    """List all photos below a folder, sorted by name, with sub-folders as classes.

    Labels are positions in the sorted top-level sub-folders; there are none if any photo lies
    outside of them.

    Raises:
        TTameError: If the folder is missing or contains no images.
    """
    folder = Path(folder)
    if not folder.is_dir():
        raise TTameError(f"image folder {str(folder)!r} does not exist")
    files = sorted(path for path in folder.rglob("*") if path.suffix.lower() in _SUFFIXES)
    if not files:
        raise TTameError(
            f"image folder {str(folder)!r} contains no images ({', '.join(sorted(_SUFFIXES))})"
        )
    names = tuple(path.relative_to(folder).as_posix() for path in files)
    labels = None
    if all("/" in item for item in names):
        classes = sorted({item.split("/")[0] for item in names})
        labels = tuple(classes.index(item.split("/")[0]) for item in names)
    return PhotoList(name or folder.name, folder, names, labels)


def samples() -> PhotoList:
    """List the photos that ship with `ttame` (public domain or CC0)."""
    return replace(image_folder(shipped("samples"), name="samples"), labels=None)


def open_photos(name: str, split: str = "val") -> PhotoList:
    """List the photos of a data set or folder.

    Args:
        name: `"imagenette"`, `"samples"`, or the path of an image folder.
        split: Split of Imagenette.

    Raises:
        TTameError: If there is no such data set or folder.
    """
    if name == "imagenette":
        return imagenette(split)
    if name == "samples":
        return samples()
    if not Path(name).is_dir():
        raise TTameError(
            f"no data set or folder {name!r}; expected 'imagenette', 'samples' or a folder of "
            "photos"
        )
    return image_folder(name)


def download_imagenette() -> Path:
    """Download Imagenette (320 px) into `TTAME_DATA` or `data/` and verify its checksum.

    Returns:
        The folder `imagenette`.

    Raises:
        TTameError: If it exists already, the network fails or the archive is damaged.
    """
    from torchvision.datasets import Imagenette

    root = Path(os.environ.get("TTAME_DATA", "data"))
    final = root / "imagenette"
    if final.exists():
        raise TTameError(f"{str(final)!r} exists already; remove it to fetch it again")
    try:
        root.mkdir(parents=True, exist_ok=True)
        for split in ("train", "val"):
            Imagenette(root, split=split, size="320px", download=split == "train")
    except Exception as error:  # urllib, hashlib and tarfile raise families of their own
        raise TTameError(
            f"Imagenette could not be fetched into {str(root)!r} ({type(error).__name__}: "
            f"{error}); check the network, or copy the folder there by hand"
        ) from error
    (root / "imagenette2-320").rename(final)
    return final
