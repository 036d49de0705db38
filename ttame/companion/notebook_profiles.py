"""Profiles of notebooks: the scale at which they run, and the photos that they run on."""

from __future__ import annotations

import logging
import warnings
from dataclasses import dataclass
from typing import TypeVar

from ttame.companion.allocation import keep_freed_memory
from ttame.data import PhotoList, data_root, image_folder, imagenette, samples
from ttame.errors import TTameError, unknown

T = TypeVar("T")

# Registered backbone by profile.
_BACKBONES = {
    "quick": "tf_efficientnet_lite0",
    "imagenette": "tf_efficientnet_lite0",
    "imagenet": "resnet50",
}
# Number of samples held out for `quick`, where the samples serve for training as well.
_HELD_OUT = 6


@dataclass(frozen=True)
class Profile:
    """The scale of a notebook's run.

    Attributes:
        name: `"quick"`, `"imagenette"` or `"imagenet"`.
        backbone: Name of the registered classifier.
    """

    name: str
    backbone: str

    def pick(self, quick: T, imagenette: T, imagenet: T) -> T:
        """Return the value for this profile."""
        return {"quick": quick, "imagenette": imagenette, "imagenet": imagenet}[self.name]

    def photos(self, split: str = "val") -> PhotoList:
        """Return the photos of a split; for `quick`, the samples, so that every build is the same.

        Args:
            split: `"train"` or `"val"`; the samples have no splits.

        Raises:
            TTameError: If the profile's data set is missing.
        """
        if self.name == "imagenet":
            return _imagenet(split)
        if self.name == "quick":
            return samples()
        return imagenette(split)

    def divide(self, train: int, held_out: int, seed: int = 0) -> tuple[PhotoList, PhotoList]:
        """Draw photos to train on and to hold out, by a seeded shuffle.

        Args:
            train: Maximum number of photos to train on.
            held_out: Maximum number of photos to hold out.
            seed: Shuffle seed.

        Returns:
            Two disjoint lists; for `quick` both are drawn from the samples.
        """
        if self.name != "quick":
            return (
                self.photos("train").sample(train, seed),
                self.photos("val").sample(held_out, seed),
            )
        shuffled = samples().sample(None, seed)
        kept = min(held_out, _HELD_OUT)
        return (
            shuffled.select(range(kept, len(shuffled))).sample(train, seed),
            shuffled.select(range(kept)),
        )


def open_profile(name: str) -> Profile:
    """Open a profile, check for its data set and set up this process's allocator.

    Raises:
        TTameError: If the profile does not exist, or its data set is missing.
    """
    profile = Profile(name, profile_backbone(name))
    keep_freed_memory()
    profile.photos("val")
    return profile


def profile_backbone(name: str) -> str:
    """Return the name of a profile's registered classifier.

    Raises:
        TTameError: If the profile does not exist.
    """
    if name not in _BACKBONES:
        raise unknown("profile", name, _BACKBONES)
    return _BACKBONES[name]


def quiet() -> None:
    """Silence Lightning's banners, tips and warnings in a notebook; errors still show."""
    for name in ("lightning", "lightning.pytorch", "lightning.fabric"):
        logging.getLogger(name).setLevel(logging.ERROR)
    warnings.filterwarnings("ignore", module=r"lightning\.")


def _imagenet(split: str) -> PhotoList:
    try:
        root = data_root("imagenet")
    except TTameError as error:
        raise TTameError(
            f"profile 'imagenet' needs the photos of ImageNet-1k in imagenet/{split}/<wnid>/ of "
            "the folder that TTAME_DATA names, and there are none; they cannot be fetched for you: "
            "obtain them from https://image-net.org, or choose another profile"
        ) from error
    return image_folder(root / split, name=f"imagenet/{split}")
