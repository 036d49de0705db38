"""Attribution methods from captum (`captum`), summed over colours to one map."""

from __future__ import annotations

import torch
from torch import Tensor

from ttame.errors import require
from ttame.explainer import Explainer
from ttame.images import normalize
from ttame.methods.method import Method, one_by_one

_CHUNK = 16  # images that captum expands to at a time
_NOISY = (16, 9)  # noisy copies, pass by pass


def integrated_gradients(explainer: Explainer) -> Method:
    """Integrated Gradients, 50 steps from the black image; magnitudes summed over colours."""
    require("evaluate", "captum")
    from captum.attr import IntegratedGradients

    method = IntegratedGradients(explainer.classifier)

    @one_by_one
    def explain(image: Tensor, target: Tensor) -> Tensor:
        found: Tensor = method.attribute(
            image.clone(),
            baselines=normalize(torch.zeros_like(image), explainer.spec),  # black
            target=target.clone(),
            n_steps=50,
            internal_batch_size=_CHUNK,
        )
        return found.abs().sum(dim=1, keepdim=True)

    return explain


def smooth_grad(explainer: Explainer) -> Method:
    """SmoothGrad: mean gradient magnitude over 25 noisy copies of the image."""

    @one_by_one
    def explain(image: Tensor, target: Tensor) -> Tensor:
        # A generator of its own: captum draws from the one that all threads share.
        generator = torch.Generator(image.device).manual_seed(0)
        spread, total = 0.15 * (image.max() - image.min()), torch.zeros_like(image)
        with torch.inference_mode(False), torch.enable_grad():
            for count in _NOISY:
                copies = image.clone().repeat(count, 1, 1, 1)
                noise = torch.normal(
                    0.0, spread.clone().expand_as(copies).contiguous(), generator=generator
                )
                noisy = (copies + noise).requires_grad_(True)
                score = explainer.classifier(noisy)[:, int(target)].sum()
                (gradient,) = torch.autograd.grad(score, noisy)
                total += gradient.abs().sum(dim=0)
        return total.sum(dim=1, keepdim=True) / sum(_NOISY)

    return explain


def occlusion(explainer: Explainer) -> Method:
    """Occlusion: the drop of the logit under a sliding window of the mean colour.

    It is a seventh of the image high and wide, and moves by half of that.
    """
    require("evaluate", "captum")
    from captum.attr import Occlusion

    method = Occlusion(explainer.classifier)

    @one_by_one
    @torch.inference_mode()
    def explain(image: Tensor, target: Tensor) -> Tensor:
        channels, height, width = image.shape[1:]
        found: Tensor = method.attribute(
            image,
            sliding_window_shapes=(channels, max(height // 7, 1), max(width // 7, 1)),
            strides=(channels, max(height // 14, 1), max(width // 14, 1)),
            target=target,
            baselines=0,  # the mean colour, as inputs are normalised
            perturbations_per_eval=_CHUNK,
        )
        return found.mean(dim=1, keepdim=True)

    return explain
