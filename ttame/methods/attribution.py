"""Attribution methods from captum (`captum`), summed over colours to one map."""

from __future__ import annotations

import torch
from torch import Tensor

from ttame.errors import require
from ttame.explainer import Explainer
from ttame.images import normalize
from ttame.methods.baselines import Method

_CHUNK = 16  # images that captum expands to at a time


def integrated_gradients(explainer: Explainer) -> Method:
    """Integrated Gradients, 50 steps from the black image; magnitudes summed over colours."""
    require("evaluate", "captum")
    from captum.attr import IntegratedGradients

    method = IntegratedGradients(explainer.classifier)

    def explain(images: Tensor, targets: Tensor) -> Tensor:
        black = normalize(torch.zeros_like(images[:1]), explainer.spec)
        maps = []
        for image, target in zip(images.split(1), targets, strict=True):  # type: ignore[no-untyped-call]  # bounds the memory
            found = method.attribute(
                image.clone(),
                baselines=black,
                target=target[None].clone(),
                n_steps=50,
                internal_batch_size=_CHUNK,
            )
            maps.append(found.abs().sum(dim=1, keepdim=True).float().detach())
        return torch.cat(maps)

    return explain


def smooth_grad(explainer: Explainer) -> Method:
    """SmoothGrad: mean gradient magnitude over 25 noisy copies of the image."""
    require("evaluate", "captum")
    from captum.attr import NoiseTunnel, Saliency

    method = NoiseTunnel(Saliency(explainer.classifier))

    def explain(images: Tensor, targets: Tensor) -> Tensor:
        maps = []
        for image, target in zip(images, targets, strict=True):
            # Seeded per image: the result must not depend on what was explained before.
            with torch.random.fork_rng(devices=[]):
                torch.manual_seed(0)
                found = method.attribute(
                    image[None].clone().requires_grad_(True),
                    nt_type="smoothgrad",
                    nt_samples=25,
                    nt_samples_batch_size=_CHUNK,
                    stdevs=0.15 * float(image.max() - image.min()),
                    target=target[None],
                )
            maps.append(found.abs().sum(dim=1, keepdim=True).float().detach())
        return torch.cat(maps)

    return explain


def occlusion(explainer: Explainer) -> Method:
    """Occlusion: the drop of the logit under a sliding square of the mean colour."""
    require("evaluate", "captum")
    from captum.attr import Occlusion

    method = Occlusion(explainer.classifier)

    def explain(images: Tensor, targets: Tensor) -> Tensor:
        side, stride = images.shape[-1] // 7, images.shape[-1] // 14
        with torch.inference_mode():
            maps = [
                method.attribute(
                    image,
                    sliding_window_shapes=(3, side, side),
                    strides=(3, stride, stride),
                    target=target[None],
                    baselines=0,  # the mean colour, as inputs are normalised
                    perturbations_per_eval=_CHUNK,
                ).mean(dim=1, keepdim=True)
                for image, target in zip(images.split(1), targets, strict=True)  # type: ignore[no-untyped-call]
            ]
        return torch.cat(maps).float()

    return explain
