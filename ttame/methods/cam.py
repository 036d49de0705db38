"""Class activation mapping from pytorch-grad-cam (`gildenblat`), one signature for all of it."""

from __future__ import annotations

from collections.abc import Callable, Sequence
from contextlib import ExitStack
from functools import partial
from typing import Any

import numpy as np
import torch
import torch.nn.functional as F
from torch import Tensor, nn

from ttame.attention import standardize
from ttame.classifiers.layers import choose_layers
from ttame.classifiers.outputs import Activation, probabilities
from ttame.classifiers.registry import BACKBONES
from ttame.classifiers.weights import input_like
from ttame.errors import TTameError, require
from ttame.explainer import Explainer
from ttame.features import TokenLayout, hooked, observe, several_runs, to_map
from ttame.methods.method import Method

_TINY = 1e-9  # as in pytorch-grad-cam
_INTRUSIVE = ("AblationCAM", "FullGrad")
_CHUNK = 16  # masked images a forward pass of Score-CAM


def cam_layer_module(
    explainer: Explainer, method: str, layer: str | None = None
) -> tuple[str, nn.Module]:
    """Find the layer that CAM methods explain, checked by one forward pass of a blank image.

    It is the spec's `cam_layer`, or else the deepest of the explainer's layers.

    Args:
        explainer: Whose classifier is to be explained.
        method: Name of the method, for messages.
        layer: Another layer of the classifier.

    Returns:
        The layer's dotted name and the module.

    Raises:
        TTameError: If the classifier has no such layer (those of an auxiliary network are not its
            own), does not run it, or its output is no spatial feature map: not of the form
            `(B, C, h, w)`, `(B, h, w, C)` or tokens `(B, N, C)`, or of one cell only.
    """
    classifier, own = explainer.classifier, layer or explainer.spec.cam_layer
    layer = own or explainer.layers[-1]
    height, width = explainer.spec.input_size
    blank = input_like(classifier).new_zeros(1, explainer.spec.channels, height, width)
    refused = f"{method} does not apply to {explainer.spec.name}"
    advice = "set cam_layer to a layer with a spatial feature map; `ttame layers` lists them"
    if explainer.auxiliary is not None and not own:
        raise TTameError(
            f"{refused}: it is explained on feature maps of {explainer.auxiliary.spec.name}, and "
            f"no layer of its own is known; {advice}"
        )
    try:
        # No inference mode: a classifier that keeps a tensor of its first pass (position
        # embeddings, say) could have no gradient through it later.
        found: list[object] = []
        seen = observe(classifier, [layer], lambda _name, output: found.append(output))
        with torch.inference_mode(False), torch.no_grad(), seen:
            classifier(blank)
        if not found:
            raise TTameError(f"layer {layer!r} did not run in a forward pass")
        if len(found) > 1:
            raise several_runs(layer, len(found))
        maps = to_map(found[0], layer, blank, TokenLayout.of(classifier))
    except TTameError as error:
        raise TTameError(f"{refused}: {error}; {advice}") from error
    if maps.shape[-2:].numel() == 1:
        raise TTameError(
            f"{refused}: layer {layer!r} returns {tuple(found[0].shape)} "  # type: ignore[attr-defined]
            f"for one {height}x{width} image, a map of a single cell; {advice}"
        )
    return layer, classifier.get_submodule(layer)


def cam_method(kind: str) -> Callable[[Explainer], Method]:
    """Make a factory for one of pytorch-grad-cam's classes, on the backbone's `cam_layer`.

    The factory raises `TTameError` where that layer has no spatial map (`cam_layer_module`).

    Args:
        kind: Class name in `pytorch_grad_cam`, for example `"GradCAM"`.

    Raises:
        TTameError: For a class that changes the classifier, which others may run meanwhile.
    """
    if kind in _INTRUSIVE:
        raise TTameError(
            f"the library's {kind} exchanges or hooks modules all over the classifier, which other "
            'calls may run at the same time; take "Ablation-CAM" or another of ttame.methods'
        )

    def bind(explainer: Explainer) -> Method:
        require("evaluate", "pytorch_grad_cam")
        from pytorch_grad_cam.utils.model_targets import ClassifierOutputTarget

        return _library_method(kind, explainer, ClassifierOutputTarget)

    return bind


def refine_cam(explainer: Explainer) -> Method:
    """RefineCAM (`refinecam`) from pytorch-grad-cam: the product of Grad-CAM++ over layers.

    The layers are those that the registry lists for the classifier, or else the automatic choice
    (`ttame.classifiers.layers.list_layers`), whatever the explainer reads. Each map is scaled to
    [0, 1] and enlarged before the product. One forward and one backward pass per layer and image.

    Raises:
        TTameError: If there is no layer with a spatial map.
    """
    spec, known = explainer.spec, BACKBONES.get(explainer.spec.name)
    try:
        layers = known.layers if known is not None else choose_layers(
            explainer.classifier, spec.input_size, spec.channels
        )  # fmt: skip
    except TTameError as error:
        raise TTameError(f"RefineCAM does not apply to {spec.name}: {error}") from error
    from pytorch_grad_cam.utils.model_targets import ClassifierOutputTarget

    return _library_method("RefineCAM", explainer, ClassifierOutputTarget, layers)


def saturated(method: Callable[[Explainer], Method]) -> Callable[[Explainer], Method]:
    """Give a method's maps the values with which our decoder starts, sigmoid(2·map + 1).

    The maps are standardised before. Ranks stay; what changes is how much of the photo a map lets
    through, which AD and IC at 100 and 50 % reward. It shows which part of a difference is due to
    values alone.
    """

    def bind(explainer: Explainer) -> Method:
        plain = method(explainer)

        def explain(images: Tensor, targets: Tensor) -> Tensor:
            return torch.sigmoid(2 * standardize(plain(images, targets)) + 1)

        return explain

    return bind


def finer_cam(alpha: float = 1.0, similar: int = 3) -> Callable[[Explainer], Method]:
    """Make a factory for Finer-CAM (`finercam`): Grad-CAM of a class against similar ones.

    With the logits y, the probabilities p and the similar classes K, those whose logits lie
    nearest to that of the target class t, it is Grad-CAM of
    Σ p_k (y_t - α y_k) / Σ p_k over the k of K, as pytorch-grad-cam defines it for a softmax: the
    weights p have gradients too; here they follow the classifier's activation. One forward and
    one backward pass an image.

    The library chooses K only for one class for the whole batch; here every image has its own
    target class. Of equal logits the class of lower index counts as nearer.

    Args:
        alpha: Strength of the comparison, at least 0; 0 is Grad-CAM but for the weights.
        similar: Number of classes to compare with; fewer where the classifier has fewer.

    Raises:
        TTameError: If a parameter is out of range; from the factory, if the classifier has a
            single class or its `cam_layer` no spatial map.
    """
    if not 0 <= alpha < float("inf"):
        raise TTameError(f"Finer-CAM: alpha must be a number of at least 0, got {alpha!r}")
    if similar < 1:
        raise TTameError(f"Finer-CAM: compare with at least 1 similar class, got {similar!r}")

    def bind(explainer: Explainer) -> Method:
        if explainer.mechanism.classes < 2:
            raise TTameError(
                f"Finer-CAM does not apply to {explainer.spec.name}: it compares classes, and "
                "there is only one; take Grad-CAM"
            )
        activation = explainer.spec.activation
        score = partial(_comparison, alpha=alpha, similar=similar, activation=activation)
        return _library_method("FinerCAM", explainer, score)

    return bind


def _comparison(
    target: int, alpha: float, similar: int, activation: Activation = "softmax"
) -> Callable[[Tensor], Tensor]:
    """Finer-CAM's score of one image, from its logits `(K,)`."""

    def score(logits: Tensor) -> Tensor:
        distance = (logits.detach() - logits.detach()[target]).abs()
        nearest = distance.argsort(stable=True).tolist()
        # By name, not as the first: another class may have the very same logit.
        nearest.remove(target)
        others = nearest[:similar]
        weights = probabilities(logits[None], activation)[0, others]
        return (weights * (logits[target] - alpha * logits[others])).sum() / (weights.sum() + _TINY)

    return score


def _library_method(
    kind: str,
    explainer: Explainer,
    score: Callable[[int], Callable[[Tensor], Tensor]],
    layers: Sequence[str] | None = None,
) -> Method:
    """Bind the method of the library's class `kind`, explaining the score of each target class."""
    require("evaluate", "pytorch_grad_cam")
    import pytorch_grad_cam

    found = [cam_layer_module(explainer, kind, layer) for layer in layers or (None,)]
    names = ", ".join(name for name, _ in found)

    def explain(images: Tensor, targets: Tensor) -> Tensor:
        def reshape(output: Tensor) -> Tensor:
            # Some methods send masked copies through, more images than there were.
            like = images[:1].expand(len(output), -1, -1, -1)
            return to_map(output, names, like, TokenLayout.of(explainer.classifier))

        # The library's hooks see every pass of their module, so they get ones of this call alone,
        # through which the layers' outputs are led.
        taps = [nn.Identity() for _ in found]
        with torch.inference_mode(False), torch.enable_grad(), ExitStack() as hooks:
            for tap, (_, module) in zip(taps, found, strict=True):
                hooks.enter_context(hooked(module, partial(_lead, tap)))
            cam = getattr(pytorch_grad_cam, kind)(
                model=explainer.classifier, target_layers=taps, reshape_transform=reshape
            )
            if kind == "ScoreCAM":
                cam.get_cam_weights = partial(_score_weights, explainer.classifier)
            # The classifier is frozen: gradients start at the image, or nowhere.
            tracked = images.clone().requires_grad_(True)
            maps = cam(input_tensor=tracked, targets=[score(int(target)) for target in targets])
        return torch.from_numpy(maps)[:, None].to(images.device)

    return explain


def _lead(tap: nn.Module, _module: nn.Module, _args: object, output: Tensor) -> Tensor:
    led: Tensor = tap(output)
    return led


def _score_weights(
    classifier: nn.Module,
    images: Tensor,
    _layer: nn.Module,
    scores: Sequence[Callable[[Tensor], Tensor]],
    activations: np.ndarray[Any, np.dtype[np.float32]],
    _gradients: object,
) -> np.ndarray[Any, np.dtype[np.float32]]:
    """Score-CAM's weights `(B, C)`, as the library computes them but without its progress bars."""
    maps = torch.from_numpy(activations).to(images.device)  # (B, C, h, w)
    maps = F.interpolate(maps, images.shape[-2:], mode="bilinear", align_corners=True)
    low, high = maps.amin(dim=(-2, -1), keepdim=True), maps.amax(dim=(-2, -1), keepdim=True)
    masks = (maps - low) / (high - low + 1e-8)
    rows = []
    with torch.no_grad():
        for image, own, score in zip(images, masks, scores, strict=True):
            parts = [classifier(image * part[:, None]) for part in own.split(_CHUNK)]
            rows.append(torch.stack([score(logits) for logits in torch.cat(parts)]))
    return torch.stack(rows).softmax(dim=-1).cpu().numpy()
