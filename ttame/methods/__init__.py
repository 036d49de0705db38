"""Explanation methods under one signature: `(images, targets) -> maps`.

A method takes normalised images `(B, 3, H, W)` and target classes `(B,)` and returns maps
`(B, 1, h, w)` at a resolution of its own. `build` makes one by name.
"""

from __future__ import annotations

from collections.abc import Callable
from typing import TypeAlias

from torch import Tensor

from ttame.errors import TTameError, suggest
from ttame.explainer import Explainer
from ttame.methods.attribution import integrated_gradients, occlusion, smooth_grad
from ttame.methods.baselines import all_ones, centre_gaussian, fake_cam, random_map
from ttame.methods.cam import cam_method
from ttame.methods.rise import rise_method

# Normalised images `(B, 3, H, W)` and classes `(B,)` -> maps `(B, 1, h, w)`.
Method: TypeAlias = Callable[[Tensor, Tensor], Tensor]


def ttame_method(explainer: Explainer) -> Method:
    """T-TAME itself: the raw maps of the target classes, from one forward pass."""

    def explain(images: Tensor, targets: Tensor) -> Tensor:
        maps: Tensor = explainer(images, targets[:, None])[2]
        return maps.detach()

    return explain


METHODS: dict[str, Callable[[Explainer], Method]] = {
    "T-TAME": ttame_method,
    "Grad-CAM": cam_method("GradCAM"),
    "Grad-CAM++": cam_method("GradCAMPlusPlus"),
    "XGrad-CAM": cam_method("XGradCAM"),
    "Layer-CAM": cam_method("LayerCAM"),
    "Eigen-CAM": cam_method("EigenCAM"),
    "Score-CAM": cam_method("ScoreCAM"),
    "Ablation-CAM": cam_method("AblationCAM"),
    "RISE": rise_method(),
    "Integrated Gradients": integrated_gradients,
    "SmoothGrad": smooth_grad,
    "Occlusion": occlusion,
    "random": lambda explainer: random_map,
    "all ones": lambda explainer: all_ones,
    "centre Gaussian": lambda explainer: centre_gaussian,
    "Fake-CAM": lambda explainer: fake_cam,
}

# What `ttame evaluate` measures unless told otherwise: seconds a photo, not minutes.
DEFAULT_METHODS = ("T-TAME", "Grad-CAM", "Grad-CAM++", "random", "all ones")


def build(name: str, explainer: Explainer) -> Method:
    """Bind the method called `name` to the explainer's classifier.

    Raises:
        TTameError: If there is no such method, or it does not apply to the classifier.
    """
    if name not in METHODS:
        raise TTameError(
            f"unknown method {name!r}; known are {', '.join(METHODS)}.{suggest(name, METHODS)}"
        )
    return METHODS[name](explainer)
