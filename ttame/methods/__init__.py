"""Explanation methods under one signature: `(images, targets) -> maps`.

A method takes normalised images `(B, C, H, W)` and target classes `(B,)` and returns maps
`(B, 1, h, w)` at a resolution of its own. `build` makes one by name.
"""

from __future__ import annotations

from collections.abc import Callable, Mapping
from typing import Any

from ttame.classifiers.weights import in_single_precision, is_half
from ttame.errors import TTameError, unknown
from ttame.explainer import Explainer
from ttame.methods.ablation_cam import ablation_cam
from ttame.methods.attnlrp import attn_lrp
from ttame.methods.attribution import integrated_gradients, occlusion, smooth_grad
from ttame.methods.baselines import all_ones, centre_gaussian, fake_cam, random_map
from ttame.methods.cam import cam_method, finer_cam, refine_cam, saturated
from ttame.methods.iia import iia_method
from ttame.methods.method import Method as Method
from ttame.methods.method import wrapped
from ttame.methods.opticam import opticam_method
from ttame.methods.relevance import libra_grad
from ttame.methods.rise import rise_method
from ttame.methods.trained import refined_method, trained_method
from ttame.methods.trained import ttame_method as ttame_method
from ttame.methods.transformer import attention_rollout, legrad, transformer_attribution

METHODS: dict[str, Callable[[Explainer], Method]] = {
    "T-TAME": ttame_method,
    "T-TAME (refined)": refined_method(),
    "T-TAME (published)": trained_method("published"),
    "T-TAME (published with tied rows)": trained_method("published_tied"),
    "P-TAME": trained_method("ptame"),
    "Grad-CAM": cam_method("GradCAM"),
    "Grad-CAM (saturated)": saturated(cam_method("GradCAM")),
    "Grad-CAM++": cam_method("GradCAMPlusPlus"),
    "XGrad-CAM": cam_method("XGradCAM"),
    "Layer-CAM": cam_method("LayerCAM"),
    "Eigen-CAM": cam_method("EigenCAM"),
    "Score-CAM": cam_method("ScoreCAM"),
    "Ablation-CAM": ablation_cam,
    "Finer-CAM": finer_cam(),
    "RefineCAM": refine_cam,
    "Opti-CAM": opticam_method(),
    "IIA": iia_method(),
    "L-CAM-Img": trained_method("lcam-img"),
    "L-CAM-Fm": trained_method("lcam-fm"),
    "amortised Shapley": trained_method("shapley"),
    "attention rollout": attention_rollout,
    "Transformer attribution": transformer_attribution,
    "LeGrad": legrad,
    "LibraGrad": libra_grad,
    "AttnLRP": attn_lrp,
    "RISE": rise_method(),
    "Integrated Gradients": integrated_gradients,
    "SmoothGrad": smooth_grad,
    "Occlusion": occlusion,
    "random": lambda explainer: random_map,
    "all ones": lambda explainer: all_ones,
    "centre Gaussian": lambda explainer: centre_gaussian,
    "Fake-CAM": lambda explainer: fake_cam,
}

# Methods with settings: a call with them gives the factory.
CONFIGURABLE: dict[str, Callable[..., Callable[[Explainer], Method]]] = {
    "Opti-CAM": opticam_method,
    "RISE": rise_method,
    "T-TAME (refined)": refined_method,
}

# What `ttame evaluate` measures unless told otherwise: seconds per photo, not minutes.
DEFAULT_METHODS = ("T-TAME", "Grad-CAM", "Grad-CAM++", "random", "all ones")


def build(name: str, explainer: Explainer, settings: Mapping[str, Any] | None = None) -> Method:
    """Bind the method called `name` to the explainer's classifier.

    Methods compute in float32 at least: a classifier in half precision is copied for that.

    Args:
        name: In `METHODS`.
        explainer: Its classifier is explained.
        settings: Settings of the method, if it has any: `{"masks": 1000}` for RISE.

    Raises:
        TTameError: If there is no such method, it does not apply to the classifier, or has no
            such setting.

    Examples:
        >>> import ttame
        >>> from ttame.data import samples
        >>> from ttame.images import normalize, to_batch
        >>> from ttame.methods import build
        >>> explainer = ttame.load("drawn_cnn")
        >>> grad_cam = build("Grad-CAM", explainer)
        >>> images = normalize(to_batch(samples().paths[:2], explainer.spec), explainer.spec)
        >>> targets = explainer.classifier(images).argmax(1)
        >>> grad_cam(images, targets).shape
        torch.Size([2, 1, 96, 96])
    """
    if name not in METHODS:
        raise unknown("method", name, METHODS)
    if is_half(explainer.classifier):
        single = explainer.replace(classifier=in_single_precision(explainer.classifier)).eval()
        method = build(name, single, settings)
        return wrapped(lambda images, targets: method(images.float(), targets), method)
    if not settings:
        return METHODS[name](explainer)
    if name not in CONFIGURABLE:
        raise TTameError(f"{name} has no settings, got {dict(settings)}")
    try:
        return CONFIGURABLE[name](**settings)(explainer)
    except TypeError as error:
        raise TTameError(f"{name}: {error}") from error


def select(
    wanted: str, explainer: Explainer, trained: bool = True
) -> tuple[list[str], dict[str, str]]:
    """Turn a choice of methods into names, refusing what does not apply before any work.

    Args:
        wanted: `"default"`, `"all"` (those that apply), or names with commas.
        explainer: Its classifier is explained.
        trained: Whether its mechanism is; if not, T-TAME is left out of the groups.

    Returns:
        The names, and of the groups' methods those left out with the reason.

    Raises:
        TTameError: A method that is asked for by name is unknown or does not apply.
    """
    groups = {"default": list(DEFAULT_METHODS), "all": list(METHODS)}
    if wanted not in groups:
        names = [name.strip() for name in wanted.split(",")]
        for name in names:
            build(name, explainer)
        return names, {}
    left_out = {}
    for name in groups[wanted]:
        try:
            build(name, explainer)
        except TTameError as error:
            left_out[name] = str(error)
    if not trained:
        for name in ("T-TAME", "T-TAME (refined)"):
            left_out[name] = "the explainer is not trained"
    return [name for name in groups[wanted] if name not in left_out], left_out
