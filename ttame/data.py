"""Photos on disk: finding, sampling and loading them."""

from __future__ import annotations

import json
import os
import random
import warnings
from collections import Counter
from collections.abc import Mapping, Sequence
from dataclasses import dataclass, field, replace
from pathlib import Path

import torch
from torch import Tensor
from torch.utils.data import Dataset

from ttame.classifiers.classes import IMAGENETTE, imagenet_indices
from ttame.classifiers.specs import BackboneSpec
from ttame.errors import TTameError
from ttame.files import (
    describe_left_out,
    find_images,
    is_litter,
    shipped,
)
from ttame.images import eval_transform, normalize, open_image, train_transform

_LEFT_OUT = {"background google", "faces easy"}  # of Caltech-101
_SPLITS = {
    "train": ("train", "training"),
    "val": ("val", "valid", "validation"),
    "test": ("test", "testing"),
}


@dataclass(frozen=True)
class PhotoList:
    """An ordered list of photos.

    Attributes:
        name: Name of the data in results, such as `"imagenette/val"`.
        root: Folder that `names` are relative to.
        names: POSIX file names, as recorded in results.
        labels: Ground-truth class indices, if known.
        left_out: Number of files that lay beside the photos and are not listed, by reason.
    """

    name: str
    root: Path
    names: tuple[str, ...]
    labels: tuple[int, ...] | None = None
    left_out: Mapping[str, int] = field(default_factory=dict, compare=False)

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
    """Normalised photos `(C, H, W)`, each with its position in the list.

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
        path = self.photos.root / self.photos.names[index]
        raw: Tensor = self.transform(open_image(path, channels=self.spec.channels))
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

    Labels are positions in the sorted top-level sub-folders that hold photos; there are none if
    any photo lies outside of them. Where all of these are splits (`split_folders`), the classes
    are the folders within. A warning counts what is left out (`ttame.files.find_images`, and
    sub-folders without photos).

    Raises:
        TTameError: If the folder is missing or contains no images, or has splits beside other
            folders of photos.
    """
    found = _listed(Path(folder), name)
    if found.left_out:
        warnings.warn(
            f"{str(folder)!r}: {len(found)} photos read; {describe_left_out(found.left_out)}",
            stacklevel=2,
        )
    return found


def _listed(folder: Path, name: str | None) -> PhotoList:
    """List a folder, without the warning."""
    files, left_out = find_images(folder)
    names = tuple(path.relative_to(folder).as_posix() for path in files)
    tops = {item.split("/")[0] for item in names if "/" in item}
    splits = {path.name for path in split_folders(folder).values()}
    if splits and tops - splits:
        raise TTameError(
            f"image folder {str(folder)!r} holds splits ({', '.join(sorted(splits))}) beside "
            f"other photos ({sorted(tops - splits)[0]}); name one of its folders"
        )
    for bare in sorted(set(_subfolders(folder)) - tops):
        left_out[f"folder without photos ({bare})"] = 1
    level, labels = int(bool(splits)), None
    if all(item.count("/") > level for item in names):
        classes = sorted({item.split("/")[level] for item in names})
        labels = tuple(classes.index(item.split("/")[level]) for item in names)
    return PhotoList(name or folder.name, folder, names, labels, left_out)


def split_folders(folder: Path | str) -> dict[str, Path]:
    """Find the splits of a folder: `train`, `val` and `test`, also by longer names.

    Sub-folders are splits if all have names of splits, or if training photos and others do; a
    class may be named `train` among other classes.

    Returns:
        Folders by split; none if the sub-folders are something else.

    Raises:
        TTameError: If a split has several folders, such as `val` and `valid`.
    """
    folders = _subfolders(Path(folder))
    of_split = {split: [name for name in folders if name.lower() in known]
                for split, known in _SPLITS.items()}  # fmt: skip
    named = [name for names in of_split.values() for name in names]
    several = of_split["train"] and len(named) > len(of_split["train"])
    if not several and len(named) < len(folders):
        return {}
    for split, names in of_split.items():
        if len(names) > 1:
            raise TTameError(
                f"{str(folder)!r} has several folders for the split {split!r}: "
                f"{', '.join(names)}; name the one that is meant"
            )
    return {split: Path(folder) / names[0] for split, names in of_split.items() if names}


def _subfolders(folder: Path) -> list[str]:
    """Name the visible folders in a folder, sorted."""
    return sorted(path.name for path in folder.iterdir() if path.is_dir() and not is_litter(path))


def samples() -> PhotoList:
    """List the photos that ship with `ttame` (public domain or CC0).

    Examples:
        >>> from ttame.data import samples
        >>> len(samples())
        18
        >>> samples().paths[2].name
        'cat.jpg'
    """
    return replace(_listed(shipped("samples"), name="samples"), labels=None, left_out={})


def many_kinds(split: str = "val") -> PhotoList:
    """List photos of many kinds, without labels: the target is what the classifier answers.

    Caltech-101 and photos of ImageNet's detection categories, divided by category, so that no
    kind of thing in `"val"` was seen in `"train"`; Imagenette's training photos join `"train"`.
    The division is written down in `data/splits/photos.json` (`split_categories`).

    Args:
        split: `"train"` or `"val"` (at most five photos per category).

    Returns:
        The photos, named relative to the folder that holds `photos/` and `imagenette/`.

    Raises:
        TTameError: If a source is missing, which the message names; if a category stands in both
            splits; if a validation photo is missing.
    """
    if split not in ("train", "val"):
        raise TTameError(f"split must be 'train' or 'val', got {split!r}")
    division = read_division(shipped("splits") / "photos.json")
    root = data_root("photos").parent
    if split == "val":
        names = tuple(division["val_photos"])
        lost = [name for name in names if not (root / name).is_file()]
        if lost:
            raise TTameError(
                f"{len(lost)} of {len(names)} validation photos are missing below {str(root)!r}, "
                f"the first is {lost[0]!r}; fetch Caltech-101 with `ttame data caltech101`"
            )
        return PhotoList("photos/val", root, names)
    found = categories(root)
    stray = sorted(found.keys() - set(division["train"]) - set(division["val"]))
    if stray:
        raise TTameError(
            f"category {stray[0]!r} is in neither split of photos.json ({len(stray)} such); "
            "remove its folder, or add it to one split"
        )
    names = tuple(name for category in division["train"] for name in found.get(category, ()))
    more = tuple(path.relative_to(root).as_posix() for path in imagenette("train").paths)
    return PhotoList("photos/train", root, names + more)


def drawn(split: str = "val") -> PhotoList:
    """List the drawn creatures that `ttame data drawn` has drawn, labelled by class.

    Args:
        split: `"train"` or `"val"`.

    Raises:
        TTameError: If the folder is missing.
    """
    if split not in ("train", "val"):
        raise TTameError(f"split must be 'train' or 'val', got {split!r}")
    found = image_folder(data_root("drawn") / split, name=f"drawn/{split}")
    return replace(found, labels=tuple(int(name.split("/")[0]) for name in found.names))


def sources(photos: PhotoList) -> dict[str, int]:
    """Count the photos of a list by source; a list that is not joined from several has one."""
    if not photos.name.startswith("photos/"):
        return {photos.name: len(photos)}
    return dict(Counter(name.removeprefix("photos/").split("/")[0] for name in photos.names))


def categories(root: Path) -> dict[str, list[str]]:
    """List the photos of `photos/caltech101` and `photos/imagenet_det` by category, sorted.

    A category is a name in lower case; both sources may have it. Left out are Caltech's background
    category, which is no kind of thing, and `Faces_easy`, which are crops of `Faces`.

    Args:
        root: Folder that holds `photos/`.

    Raises:
        TTameError: If one of the two is missing.
    """
    found: dict[str, list[str]] = {}
    for source in ("caltech101", "imagenet_det"):
        folder = root / "photos" / source
        if not folder.is_dir():
            how = "`ttame data caltech101`" if source == "caltech101" else "data/README.md"
            raise TTameError(f"the data set 'photos' lacks {str(folder)!r}; see {how}")
        for path in sorted(folder.rglob("*.jpg")):
            # caltech101/CATEGORY/image_0001.jpg, or imagenet_det/WNID_ID_CATEGORY.jpg
            own = path.parent != folder
            raw = path.parent.name if own else path.stem.split("_", 2)[-1]
            category = raw.lower().replace("_", " ").replace("-", " ")
            if category not in _LEFT_OUT:
                found.setdefault(category, []).append(path.relative_to(root).as_posix())
    return found


def split_categories(
    found: Mapping[str, Sequence[str]], share: float = 0.4, each: int = 5, seed: int = 0
) -> dict[str, list[str]]:
    """Divide categories into training and validation, and draw the validation photos.

    Args:
        found: Photos by category (`categories`).
        share: Share of the categories for validation.
        each: Validation photos per category, at most.
        seed: Seed of both draws.

    Returns:
        `train` and `val`, names of categories, and `val_photos`.
    """
    generator = random.Random(seed)
    names = sorted(found)
    val = sorted(generator.sample(names, round(share * len(names))))
    drawn = [generator.sample(sorted(found[name]), min(each, len(found[name]))) for name in val]
    train = [name for name in names if name not in set(val)]
    return {"train": train, "val": val, "val_photos": [x for some in drawn for x in sorted(some)]}


def read_division(path: Path) -> dict[str, list[str]]:
    """Read a written division of categories.

    Raises:
        TTameError: If a category stands in both splits.
    """
    division: dict[str, list[str]] = json.loads(path.read_text(encoding="utf-8"))
    both = sorted(set(division["train"]) & set(division["val"]))
    if both:
        raise TTameError(
            f"{path.name}: category {both[0]!r} is in both splits ({len(both)} such); "
            "remove it from one of them"
        )
    return division


def open_photos(name: str, split: str = "val") -> PhotoList:
    """List the photos of a data set or folder.

    Args:
        name: `"imagenette"`, `"photos"` (`many_kinds`), `"drawn"`, `"samples"`, or an image
            folder's path.
        split: `"train"` or `"val"`, of Imagenette, `"photos"`, `"drawn"` and folders that have
            splits (`split_folders`), where `test` stands in for a missing `val`.

    Raises:
        TTameError: If there is no such data set, folder or split.
    """
    divided = {"imagenette": imagenette, "photos": many_kinds, "drawn": drawn}
    if name in divided:
        return divided[name](split)
    if name == "samples":
        return samples()
    if not Path(name).is_dir():
        raise TTameError(
            f"no data set or folder {name!r}; expected 'imagenette', 'photos', 'drawn', 'samples' "
            "or a folder of photos"
        )
    splits = split_folders(name)
    if not splits:
        return image_folder(name)
    chosen = splits.get(split) or (splits.get("test") if split == "val" else None)
    if chosen is None:
        raise TTameError(
            f"{name!r} has the splits {', '.join(path.name for path in splits.values())}, but none "
            f"for {split!r}; name the folder that is meant"
        )
    return image_folder(chosen, name=f"{Path(name).name}/{chosen.name}")
