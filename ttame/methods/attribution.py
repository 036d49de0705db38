"""Attribution methods from captum (`captum`), summed over colours to one map."""

from __future__ import annotations

from collections.abc import Callable

import torch
from torch import Tensor

from ttame.errors import require
from ttame.explainer import Explainer

_CHUNK = 16  # images that captum expands to at a time


def integrated_gradients(explainer: Explainer) -> Callable[[Tensor, Tensor], Tensor]:
    """Integrated Gradients, 50 steps from the black image; magnitudes summed over colours."""
    require("evaluate", "captum")
    from captum.attr import IntegratedGradients

    method = IntegratedGradients(explainer.classifier)

    def explain(images: Tensor, targets: Tensor) -> Tensor:
        black = (images.new_zeros(3) - images.new_tensor(explainer.spec.mean)) / images.new_tensor(
            explainer.spec.std
        )
        maps = []
        for image, target in zip(images.split(1), targets, strict=True):  # type: ignore[no-untyped-call]  # bounds the memory
            found = method.attribute(
                image.clone(),
                baselines=black.view(1, 3, 1, 1).expand_as(image),
                target=target[None].clone(),
                n_steps=50,
                internal_batch_size=_CHUNK,
            )
            maps.append(found.abs().sum(dim=1, keepdim=True).float().detach())
        return torch.cat(maps)

    return explain


def smooth_grad(explainer: Explainer) -> Callable[[Tensor, Tensor], Tensor]:
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
                spread = 0.15 * float(image.max() - image.min())
                found = method.attribute(
                    image[None].clone().requires_grad_(True),
                    nt_type="smoothgrad",
                    nt_samples=25,
                    nt_samples_batch_size=_CHUNK,
                    stdevs=spread,
                    target=target[None],
                )
            maps.append(found.abs().sum(dim=1, keepdim=True).float().detach())
        return torch.cat(maps)

    return explain


def occlusion(explainer: Explainer) -> Callable[[Tensor, Tensor], Tensor]:
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
