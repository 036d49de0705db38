"""Classes: the names and numbers of ImageNet-1k, and which of them Imagenette has."""

from __future__ import annotations

from collections.abc import Mapping
from functools import cache

# WordNet identifiers of Imagenette's ten classes, as its folders are called.
IMAGENETTE = (
    "n01440764", "n02102040", "n02979186", "n03000684", "n03028079",
    "n03394916", "n03417042", "n03425413", "n03445777", "n03888257",
)  # fmt: skip


@cache
def imagenet_classes() -> tuple[str, ...]:
    """The 1,000 ImageNet-1k class names in index order (from timm's label tables)."""
    from timm.data.imagenet_info import ImageNetInfo

    info = ImageNetInfo("imagenet-1k")
    return tuple(info.index_to_description(index) for index in range(1000))


@cache
def imagenet_indices() -> Mapping[str, int]:
    """Index by WordNet identifier of the 1,000 ImageNet-1k classes."""
    from timm.data.imagenet_info import ImageNetInfo

    info = ImageNetInfo("imagenet-1k")
    return {info.index_to_label_name(index): index for index in range(1000)}


@cache
def imagenette_indices() -> tuple[int, ...]:
    """ImageNet-1k indices of Imagenette's classes, in the order of `IMAGENETTE`."""
    return tuple(imagenet_indices()[wnid] for wnid in IMAGENETTE)
