"""Opti-CAM: weights of the feature maps that raise the logit of the masked image (`opticam`)."""

from __future__ import annotations

from collections.abc import Callable

import torch
from torch import Tensor

from ttame.errors import TTameError
from ttame.explainer import Explainer
from ttame.features import FeatureExtractor
from ttame.masking import normalize_maps, upsample
from ttame.methods.cam import cam_layer_module
from ttame.methods.method import Method

_CHUNK = 16  # images optimised at a time


def opticam_method(
    iterations: int = 50, learning_rate: float = 0.1
) -> Callable[[Explainer], Method]:
    """Make a factory for Opti-CAM on the backbone's `cam_layer`.

    For every image, weights u of the layer's feature maps A_k, at first all equal, are
    optimised by Adam to raise the logit of the target class of the masked image x ∘ n(S),
    S = upsample(Σ_k softmax(u)_k A_k), n scaling to [0, 1] by minimum and maximum. The result
    is n(S) `(B, 1, H, W)` after the last step, so the very mask that was optimised. Where the
    feature maps are zero everywhere, it is constant.

    The mask multiplies in the masking space of the backbone's spec, as everywhere in this
    library; the authors' code masks before the normalisation, our space `"raw"`. As there,
    feature maps pass a ReLU first, which changes only those of layers without one. Our
    defaults are those of its script, 50 iterations at a learning rate of 0.1 (100 in the
    method itself); its early stop is left out, as it depends on the other images of a batch.

    An image costs 1 + `iterations` forward and `iterations` backward passes.

    Args:
        iterations: Steps of Adam.
        learning_rate: Learning rate of Adam.

    Raises:
        TTameError: If a parameter is out of range; from the factory, if the `cam_layer` has
            no spatial map.
    """
    if iterations < 1:
        raise TTameError(f"Opti-CAM: optimise for at least 1 iteration, got {iterations!r}")
    if not 0 < learning_rate < float("inf"):
        raise TTameError(f"Opti-CAM: the learning rate must be above 0, got {learning_rate!r}")

    def bind(explainer: Explainer) -> Method:
        layer, _ = cam_layer_module(explainer, "Opti-CAM")
        classifier = explainer.classifier
        extract = FeatureExtractor(classifier, [layer])

        def optimise(images: Tensor, targets: Tensor) -> Tensor:
            with torch.no_grad():
                maps = extract(images)[1][0].float().relu()  # (B, C, h, w)

            def mask() -> Tensor:
                combined = (weights.softmax(dim=1) * maps).sum(dim=1, keepdim=True)
                return normalize_maps(upsample(combined, images.shape[-2:]))

            weights = maps.new_zeros(*maps.shape[:2], 1, 1).requires_grad_(True)
            # Adam works weight by weight: images optimised together do not meet.
            optimiser = torch.optim.Adam([weights], lr=learning_rate)
            for _ in range(iterations):
                masked = explainer.spec.mask(images, mask().to(images.dtype))
                score = classifier(masked).gather(1, targets[:, None]).float().sum()
                (gradient,) = torch.autograd.grad(score, weights)
                weights.grad = -gradient
                optimiser.step()
            return mask().detach()

        def explain(images: Tensor, targets: Tensor) -> Tensor:
            with torch.inference_mode(False), torch.enable_grad():
                # Copies: what was made under inference mode cannot be part of a graph.
                images, targets = images.clone(), targets.clone()
                starts = range(0, len(images), _CHUNK)
                return torch.cat(
                    [optimise(images[s : s + _CHUNK], targets[s : s + _CHUNK]) for s in starts]
                )

        return explain

    return bind
