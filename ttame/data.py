"""Photos on disk: where they are found, which are taken, and in which order."""

from __future__ import annotations

import os
from collections.abc import Sequence
from dataclasses import dataclass, replace
from pathlib import Path

import torch
from torch import Tensor
from torch.utils.data import Dataset
from torchvision.transforms import v2

from ttame.classifiers.classes import IMAGENETTE, imagenet_indices
from ttame.classifiers.specs import BackboneSpec
from ttame.errors import TTameError
from ttame.files import shipped
from ttame.images import eval_transform, normalize, read_image, train_transform

_SUFFIXES = {".jpeg", ".jpg", ".png", ".webp", ".bmp", ".ppm"}


@dataclass(frozen=True)
class PhotoList:
    """A list of photos.

    Attributes:
        name: What results call this data, for example `"imagenette/val"`.
        root: Folder that the names are relative to.
        names: File names relative to `root`, POSIX style; results record these.
        labels: Ground-truth class indices, or `None` where there are none.
    """

    name: str
    root: Path
    names: tuple[str, ...]
    labels: tuple[int, ...] | None = None

    def __len__(self) -> int:
        """Number of photos."""
        return len(self.names)

    def select(self, indices: Sequence[int]) -> PhotoList:
        """The photos at these positions, in this order."""
        labels = None if self.labels is None else tuple(self.labels[i] for i in indices)
        return replace(self, names=tuple(self.names[i] for i in indices), labels=labels)

    def sample(self, limit: int | None, seed: int = 0) -> PhotoList:
        """At most `limit` photos, drawn without replacement by a seeded shuffle.

        The first n of a larger sample with the same seed are the sample of n.

        Raises:
            TTameError: If `limit` is not positive.
        """
        if limit is not None and limit < 1:
            raise TTameError(f"limit must be positive, got {limit}")
        generator = torch.Generator().manual_seed(seed)
        return self.select(torch.randperm(len(self), generator=generator)[:limit].tolist())

    @property
    def paths(self) -> list[Path]:
        """Full paths, in order."""
        return [self.root / name for name in self.names]


class PhotoDataset(Dataset[tuple[Tensor, int]]):
    """Normalised photos `(3, H, W)` with their position in the list.

    Args:
        photos: The list.
        spec: The classifier's facts.
        augment: Random crop and flip instead of the centre crop.
        crop_area: Of `ttame.images.train_transform`, with `augment`.
    """

    def __init__(
        self,
        photos: PhotoList,
        spec: BackboneSpec,
        augment: bool = False,
        crop_area: float | None = None,
    ) -> None:
        self.photos, self.spec = photos, spec
        transform = train_transform(spec, crop_area) if augment else eval_transform(spec)
        self.transform: v2.Compose = transform

    def __len__(self) -> int:
        return len(self.photos)

    def __getitem__(self, index: int) -> tuple[Tensor, int]:
        raw: Tensor = self.transform(read_image(self.photos.root / self.photos.names[index]))
        return normalize(raw[None], self.spec)[0], index


def data_root(folder: str) -> Path:
    """Find `folder` under `TTAME_DATA`, or under `data/` of the working folder or repository.

    Raises:
        TTameError: If it is in none of them; the message says how to get it.
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
    """Whether Imagenette is available without a download."""
    try:
        imagenette("val")
    except TTameError:
        return False
    return True


def imagenette(split: str = "val") -> PhotoList:
    """Imagenette's photos with their ImageNet class indices.

    Args:
        split: `"train"` (9,469 photos) or `"val"` (3,925).

    Raises:
        TTameError: If the folder is missing, or one of the ten classes is.
    """
    if split not in ("train", "val"):
        raise TTameError(f"split must be 'train' or 'val', got {split!r}")
    folder = data_root("imagenette") / split
    found = image_folder(folder, name=f"imagenette/{split}")
    present = {name.split("/")[0] for name in found.names}
    missing = [wnid for wnid in IMAGENETTE if wnid not in present]
    if missing:
        raise TTameError(
            f"{str(folder)!r} lacks photos of {len(missing)} of the 10 classes "
            f"({', '.join(missing[:3])}...); it is only half there: fetch it again"
        )
    keep = [i for i, name in enumerate(found.names) if name.split("/")[0] in IMAGENETTE]
    indices = imagenet_indices()
    chosen = found.select(keep)
    return replace(chosen, labels=tuple(indices[name.split("/")[0]] for name in chosen.names))


def image_folder(folder: Path | str, name: str | None = None) -> PhotoList:
    """All photos below a folder, sorted; sub-folders, if any, are the classes in sorted order.

    Raises:
        TTameError: If the folder is missing or holds no image.
    """
    folder = Path(folder)
    if not folder.is_dir():
        raise TTameError(f"image folder {str(folder)!r} does not exist")
    files = sorted(path for path in folder.rglob("*") if path.suffix.lower() in _SUFFIXES)
    if not files:
        raise TTameError(
            f"image folder {str(folder)!r} holds no image ({', '.join(sorted(_SUFFIXES))})"
        )
    names = tuple(path.relative_to(folder).as_posix() for path in files)
    tops = sorted({item.split("/")[0] for item in names if "/" in item})
    labels = None
    if tops and all("/" in item for item in names):
        labels = tuple(tops.index(item.split("/")[0]) for item in names)
    return PhotoList(name or folder.name, folder, names, labels)


def samples() -> PhotoList:
    """The photos that ship with `ttame`; public domain or CC0, see `data/samples/README.md`."""
    return replace(image_folder(shipped("samples"), name="samples"), labels=None)


def open_photos(name: str, split: str = "val") -> PhotoList:
    """Photos by the name of a data set, or of a folder.

    Args:
        name: `"imagenette"`, `"samples"`, or the path of an image folder.
        split: Of Imagenette.

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
    """Fetch Imagenette (320 px edition) into `TTAME_DATA` or `data/`, checksum verified.

    Returns:
        The folder `imagenette`.

    Raises:
        TTameError: If the network is missing or the archive is damaged.
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
