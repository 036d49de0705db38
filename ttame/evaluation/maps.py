"""Maps to be measured: methods on one classifier, their maps, and what those cost."""

from __future__ import annotations

import time
from collections.abc import Iterator, Mapping, Sequence
from functools import partial
from typing import Any

import torch
from torch import Tensor, nn

from ttame.classifiers.folding import fold_batch_norm
from ttame.classifiers.registry import BACKBONES
from ttame.classifiers.weights import input_like, weight_digest
from ttame.errors import TTameError
from ttame.evaluation.cost import count_passes
from ttame.explainer import Explainer
from ttame.masking import degenerate
from ttame.methods import Method, build
from ttame.methods.method import networks_beside, wrapped


def bind(
    explainer: Explainer,
    methods: Sequence[str] | Mapping[str, Method],
    settings: Mapping[str, Mapping[str, Any]],
) -> tuple[Explainer, dict[str, Method]]:
    """Put the explainer on a faster copy of its classifier, and methods given by name with it.

    The copy of a classifier in half precision is in float32.

    Args:
        explainer: Not changed.
        methods: Names, or bound methods of the caller's own by name.
        settings: Settings of methods by name.

    Returns:
        The explainer on the copy, in `eval()`, and the methods by name.

    Raises:
        TTameError: If there is no method, one is unknown or does not apply, or settings are for
            none of them.
    """
    own = isinstance(methods, Mapping)
    if not methods:
        raise TTameError(f"name at least one method, got {list(methods)}")
    stray = [name for name in settings if own or name not in methods]
    if stray:
        raise TTameError(f"settings for {stray}, which are not among the methods given by name")
    spec, like = explainer.spec, input_like(explainer.classifier)
    blank = like.new_zeros(1, spec.channels, *spec.input_size)
    tapped = (*explainer.layers, spec.cam_layer)
    classifier = fold_batch_norm(explainer.classifier, blank, tapped)
    classifier = classifier.to(memory_format=torch.channels_last)
    working = explainer.replace(classifier=classifier).eval()
    if isinstance(methods, Mapping):
        # Bound to the classifier as it was given, which may be in half precision.
        return working, {
            name: wrapped(partial(_called, found, like), found) for name, found in methods.items()
        }
    return working, {name: build(name, working, settings.get(name)) for name in methods}


def _called(method: Method, like: Tensor, images: Tensor, targets: Tensor) -> Tensor:
    """Call a method with images of the dtype and device of `like`."""
    return method(images.to(like), targets)


def facts(explainer: Explainer) -> dict[str, Any]:
    """Return what a results file's header says of the explainer and its classifier."""
    spec = explainer.spec
    known = BACKBONES.get(spec.name)
    usual = known is None or known.input_size == spec.input_size
    return {
        "backbone": spec.name,
        "weights": spec.source,
        "space": spec.space,
        "layers": list(explainer.layers),
        "cam_layer": spec.cam_layer,
        "explainer": explainer.record.get("name", "untitled"),
        "digests": [weight_digest(explainer.classifier), weight_digest(explainer.mechanism)],
        # A registered classifier's own size is not named, as files begun earlier do not name it.
        **({} if usual else {"size": list(spec.input_size)}),
        # Softmax is not named, as files begun before there were others do not name it.
        **({} if spec.activation == "softmax" else {"activation": spec.activation}),
        **({} if explainer.auxiliary is None else {"auxiliary": explainer.auxiliary.facts()}),
    }


def make_maps(
    explainer: Explainer,
    original_classifier: nn.Module,
    methods: Mapping[str, Method],
    images: Tensor,
    targets: Tensor,
) -> Iterator[tuple[str, Tensor, list[dict[str, Any]]]]:
    """Make the maps of one batch by each method, and count what they cost.

    Args:
        explainer: From `bind`; its classifier's passes are counted.
        original_classifier: The classifier that it was copied from, to which methods of the
            caller's own are bound; its passes are counted, too, and those of networks that a
            method runs beside it.
        methods: From `bind`.
        images: Normalised photos, `(B, C, H, W)`.
        targets: Target classes, `(B,)`.

    Yields:
        The method's name; its raw maps `(B, 1, h, w)`, zeros in the place of one that is not
        finite, since NaN explains nothing; and per image, for its record: degenerate, seconds,
        forward and backward (passes).
    """
    for name, method in methods.items():
        networks = (explainer.classifier, original_classifier, *networks_beside(method))
        with count_passes(*networks) as passes:
            start = time.perf_counter()
            maps = method(images, targets)
            seconds = (time.perf_counter() - start) / len(images)
        maps = maps.float()
        cost = {
            "seconds": seconds,
            "forward": passes.forward / len(images),
            "backward": passes.backward / len(images),
        }
        costs = [{"degenerate": bool(flat), **cost} for flat in degenerate(maps)[:, 0]]
        finite = maps.isfinite().all(dim=-1).all(dim=-1)[..., None, None]
        yield name, torch.where(finite, maps, torch.zeros_like(maps)), costs
