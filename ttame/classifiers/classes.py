"""Class names and indices of ImageNet-1k and Imagenette, and the target classes users ask for."""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from functools import cache, lru_cache
from numbers import Integral
from typing import Any, TypeAlias

import numpy as np
import torch
from torch import Tensor

from ttame.errors import TTameError, suggest

ClassLike: TypeAlias = "int | str"
Targets: TypeAlias = (
    "ClassLike | Sequence[ClassLike] | Sequence[Sequence[ClassLike]] | Tensor | None"
)
# WordNet identifiers of Imagenette's ten classes, which are also its folder names.
IMAGENETTE = (
    "n01440764", "n02102040", "n02979186", "n03000684", "n03028079",
    "n03394916", "n03417042", "n03425413", "n03445777", "n03888257",
)  # fmt: skip


def _imagenet() -> Any:
    from timm.data.imagenet_info import ImageNetInfo

    return ImageNetInfo("imagenet-1k")


@cache
def imagenet_classes() -> tuple[str, ...]:
    """Return the 1,000 ImageNet-1k class names in index order, from timm's tables."""
    info = _imagenet()
    return tuple(info.index_to_description(index) for index in range(1000))


@cache
def imagenet_indices() -> Mapping[str, int]:
    """Return the indices of the 1,000 ImageNet-1k classes by WordNet identifier."""
    info = _imagenet()
    return {info.index_to_label_name(index): index for index in range(1000)}


@cache
def imagenette_indices() -> tuple[int, ...]:
    """Return the ImageNet-1k indices of Imagenette's classes, in the order of `IMAGENETTE`."""
    return tuple(imagenet_indices()[wnid] for wnid in IMAGENETTE)


@lru_cache(maxsize=8)
def _synonyms(classes: tuple[str, ...]) -> dict[str, tuple[int, ...]]:
    """Index classes by lower-case name, and names like `"cab, hack, taxi"` by each part too."""
    table: dict[str, list[int]] = {}
    for index, name in enumerate(classes):
        parts = {name.lower(), *(part.strip().lower() for part in name.split(","))}
        for part in parts:
            table.setdefault(part, []).append(index)
    return {part: tuple(indices) for part, indices in table.items()}


def short_name(name: str) -> str:
    """Return the first of an ImageNet class's synonyms, and any other name unchanged."""
    return name.split(",")[0] if name in _imagenet_names() else name


@cache
def _imagenet_names() -> frozenset[str]:
    return frozenset(imagenet_classes())


def class_names(classes: Sequence[str] | Mapping[int, str] | Mapping[str, str]) -> tuple[str, ...]:
    """Return class names in index order.

    Args:
        classes: The names, or names by index; the indices may be strings, as in JSON.

    Raises:
        TTameError: If the indices are not 0 to K - 1, or the names are one string.
    """
    if isinstance(classes, str):
        raise TTameError(f"classes must be several names, got the string {classes!r}")
    if not isinstance(classes, Mapping):
        return tuple(classes)
    named: dict[int, str] = {}
    for index, name in classes.items():
        whole = isinstance(index, Integral) or (isinstance(index, str) and index.isdecimal())
        if not whole:
            raise TTameError(
                f"classes must be names by index, like {{0: 'cat', 1: 'dog'}}, got the key "
                f"{index!r}; turn it round, or pass the names in index order"
            )
        named[int(index)] = name
    count = len(classes)
    missing = next((index for index in range(count) if index not in named), None)
    if missing is not None:
        raise TTameError(
            f"classes has {count} names but none for index {missing}; name every index from 0 to "
            f"{count - 1} once"
        )
    return tuple(named[index] for index in range(count))


def class_index(target: ClassLike, classes: tuple[str, ...]) -> int:
    """Find a class by index or by name.

    An integer is an index. A string is a name, or one of its synonyms; case matters only where
    names differ in nothing else. A string that names no class is read as an index, unless classes
    are named by numbers themselves.

    Args:
        target: An index, also as a string, or a name or any of its synonyms.
        classes: Class names in index order.

    Raises:
        TTameError: If no class, or more than one, matches; similar names are suggested.
    """
    if isinstance(target, bool) or not isinstance(target, (Integral, str)):
        raise TTameError(f"a class is an index or a name, got {target!r}")
    if not isinstance(target, str):
        return _checked(int(target), classes)
    name = target.strip()
    found = _synonyms(classes).get(name.lower(), ())
    if all(classes[index].lower() == name.lower() for index in found):  # none by a synonym
        found = tuple(index for index in found if classes[index] == name) or found
    if len(found) > 1:
        names = ", ".join(f"{index} ({classes[index]})" for index in found)
        raise TTameError(f"class {target!r} is ambiguous: {names}; give the index")
    if found:
        return found[0]
    if _is_number(name):
        if any(_is_number(known) for known in classes):
            raise TTameError(
                f"no class is named {name!r}, and the names are numbers themselves, such as "
                f"{next(known for known in classes if _is_number(known))!r}; give a name, or the "
                f"index as an integer"
            )
        return _checked(int(name), classes)
    hint = suggest(name.lower(), _synonyms(classes))
    shown = repr(target) if len(target) <= 80 else f"{target[:80]!r}..."
    raise TTameError(f"no class is named {shown} among {len(classes)}.{hint}")


def _checked(index: int, classes: tuple[str, ...]) -> int:
    if not 0 <= index < len(classes):
        shown = index if abs(index) < 10**9 else f"{index:.0e}"
        raise TTameError(f"class index {shown} is out of range 0..{len(classes) - 1}")
    return index


def _is_number(text: str) -> bool:
    return text.removeprefix("-").isdecimal() and len(text) < 100  # int() has a limit of 4,300


def index_targets(targets: Targets, classes: tuple[str, ...]) -> int | list[list[int]] | None:
    """Find the indices of target classes, before any image is read.

    Args:
        targets: `None` for the predicted class, one class for all images, or `(B,)` or `(B, T)`
            classes.
        classes: Class names in index order.

    Returns:
        `None`, one index for all images, or B rows of T indices.

    Raises:
        TTameError: If a class does not exist, or the rows differ in length.
    """
    if isinstance(targets, Tensor) and (
        targets.is_floating_point() or targets.is_complex() or targets.dtype == torch.bool
    ):
        raise TTameError(f"targets must be class indices, got dtype {targets.dtype}")
    if isinstance(targets, (np.ndarray, np.generic, Tensor)):
        targets = targets.tolist()
    if targets is None or isinstance(targets, (int, str)):
        return None if targets is None else class_index(targets, classes)
    if not isinstance(targets, Sequence):
        raise TTameError(f"targets must be classes, got {targets!r}")
    rows = [row if isinstance(row, (list, tuple)) else [row] for row in targets]
    if len({len(row) for row in rows}) > 1 or not all(rows):
        raise _misfit(targets, len(rows))
    return [[class_index(target, classes) for target in row] for row in rows]  # type: ignore[arg-type]


def check_bound(above: float | None) -> None:
    """Refuse a bound of probabilities that is not in [0, 1); `None` is none.

    Raises:
        TTameError: Naming the bound.
    """
    if above is not None and (isinstance(above, bool) or not 0 <= above < 1):
        raise TTameError(f"above must be a probability in [0, 1), got {above!r}")


def count_above(
    probabilities: Tensor, above: float, classes: tuple[str, ...], positions: Sequence[int]
) -> list[int]:
    """Count the classes of each photo whose probability is above a bound.

    Args:
        probabilities: `(B, K)`.
        above: The bound, in [0, 1).
        classes: K class names.
        positions: B positions of the photos, for messages.

    Raises:
        TTameError: If a photo has no such class.
    """
    counts: list[int] = (probabilities > above).sum(dim=1).tolist()
    if 0 in counts:
        photo = counts.index(0)
        value, index = probabilities[photo].max(dim=0)
        raise TTameError(
            f"photo {positions[photo]} has no class above {above:g}; the most probable is "
            f"{classes[int(index)]!r} with {float(value):.3g}: lower the bound, or use top_k"
        )
    return counts


def resolve_targets(
    targets: Targets, logits: Tensor, classes: tuple[str, ...], top_k: int | None = None
) -> Tensor:
    """Convert target classes to an index tensor `(B, T)`.

    Args:
        targets: `None` for the predicted class, one class for all images, or `(B,)` or `(B, T)`
            classes.
        logits: `(B, K)`.
        classes: K class names.
        top_k: Take the k most probable classes instead of `targets`.

    Returns:
        `(B, T)`, int64, on the device of `logits`.

    Raises:
        TTameError: If a class does not exist or the shape does not match the batch.
    """
    batch, count = logits.shape
    if top_k is not None:
        whole = isinstance(top_k, Integral) and not isinstance(top_k, bool)
        if targets is not None or not whole or not 1 <= top_k <= count:
            raise TTameError(f"top_k={top_k!r} must lie in 1..{count} and excludes targets")
        return logits.topk(int(top_k), dim=1).indices
    wanted = index_targets(targets, classes)
    if wanted is None:
        return logits.argmax(dim=1, keepdim=True)
    if isinstance(wanted, int):
        return torch.full((batch, 1), wanted, device=logits.device)
    if len(wanted) != batch:
        raise _misfit(targets, batch)
    return torch.tensor(wanted, device=logits.device)


def per_image(
    targets: int | list[list[int]] | None, positions: Sequence[int]
) -> int | list[list[int]] | None:
    """Take the targets of some images from those of all (`index_targets`).

    Raises:
        TTameError: If an image has none.
    """
    if not isinstance(targets, list):
        return targets
    if positions[-1] >= len(targets):
        raise _misfit(targets, positions[-1] + 1, "at least ")
    return [targets[position] for position in positions]


def check_count(targets: int | list[list[int]] | None, images: int) -> None:
    """Check that targets of each image are those of as many images.

    Raises:
        TTameError: If there are more or fewer.
    """
    if isinstance(targets, list) and len(targets) != images:
        raise _misfit(targets, images)


def _misfit(targets: object, images: int, least: str = "") -> TTameError:
    shown = repr(targets)
    return TTameError(
        f"targets must be one class, ({images},) or ({images}, T) classes for {least}{images} "
        f"images, got {shown if len(shown) < 200 else f'{shown[:200]}...'}"
    )
