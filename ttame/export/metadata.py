"""Metadata: the facts that travel in an exported file."""

from __future__ import annotations

from typing import TYPE_CHECKING, Any

from ttame.classifiers.weights import weight_digest
from ttame.export.weights import Storage

if TYPE_CHECKING:
    from ttame.explainer import Explainer

KEY, FORMAT, VERSION = "ttame", "ttame-export", 1


def facts(
    explainer: Explainer,
    licence: str,
    *,
    storage: Storage,
    preprocess: bool,
    batch: int | None,
    any_size: bool = False,
) -> dict[str, Any]:
    """Describe an explainer for those who run it elsewhere: all that JSON can hold.

    Args:
        explainer: What is exported.
        licence: Licence of the classifier's weights, in the user's words.
        storage: How the weights are stored.
        preprocess: Whether the file takes the pixels of photos.
        batch: Number of images per call; `None` for any number.
        any_size: Whether height and width of the images are open.
    """
    spec = explainer.spec
    return {
        "format": FORMAT,
        "version": VERSION,
        "name": spec.name,
        "source": spec.source,
        "licence": licence,
        "classes": list(explainer.classes),
        "channels": spec.channels,
        "channel_order": "rgb",  # an adopted classifier takes RGB in any case
        "input_size": list(spec.input_size),
        "resize": list(spec.resize) if isinstance(spec.resize, tuple) else spec.resize,
        "interpolation": spec.interpolation,
        "mean": list(spec.mean),
        "std": list(spec.std),
        "activation": spec.activation,
        "binary": spec.binary,
        "space": spec.space,
        "storage": storage,
        "preprocessing": preprocess,
        "batch": batch,
        "any_size": any_size,
        "layers": list(explainer.layers),
        "digests": {name: weight_digest(part) for name, part in explainer.named_children()},
    }
