"""Specs: the facts of each classifier, stated once, and how its images are masked."""

from __future__ import annotations

from collections.abc import Callable, Mapping, Sequence
from dataclasses import dataclass, field, replace
from typing import Any

import torch
from torch import Tensor, nn

from ttame.classifiers.classes import imagenet_classes
from ttame.classifiers.outputs import Activation, probabilities
from ttame.errors import TTameError
from ttame.masking import Space, apply_mask, keep_top, normalize_maps, upsample

IMAGENET_MEAN = (0.485, 0.456, 0.406)
IMAGENET_STD = (0.229, 0.224, 0.225)
PERCENTAGES = (100, 50, 15)  # retained pixels, in the tables of the T-TAME paper


@dataclass(frozen=True)
class BackboneSpec:
    """The facts of one image classifier.

    Attributes:
        name: Registry name; also written into saved explainers.
        build: Builds the architecture without weights.
        weights: Returns the default pretrained state dict, if any.
        layers: Dotted names of the modules that feed the attention mechanism, shallow to deep;
            if empty, they are chosen when the classifier is attached.
        head: Dotted name of the linear layer that outputs the logits.
        input_size: Height and width of the input, in pixels.
        resize: Shorter side before the centre crop, in pixels.
        mean: Per-channel mean of the normalisation, in [0, 1] units.
        std: Per-channel standard deviation of the normalisation.
        interpolation: Interpolation mode of the resize, by torchvision's name.
        space: Space in which masks multiply the image: masked pixels turn black (`"raw"`) or
            take the mean colour (`"normalized"`).
        activation: What turns the outputs into probabilities (`ttame.classifiers.outputs`).
        binary: Whether the classifier has a single output, of which both answers are explained.
        cam_layer: Layer that CAM methods explain; if empty, the deepest of `layers`.
        alternatives: Other named choices of layers, `{"block outputs": (...)}`.
        classes: Class names in index order.
        source: Origin of the default weights, for records and tables.
    """

    name: str
    build: Callable[[], nn.Module] | None
    weights: Callable[[], Mapping[str, Tensor]] | None
    layers: tuple[str, ...]
    head: str
    input_size: tuple[int, int] = (224, 224)
    resize: int = 256
    mean: tuple[float, float, float] = IMAGENET_MEAN
    std: tuple[float, float, float] = IMAGENET_STD
    interpolation: str = "bilinear"
    space: Space = "raw"
    activation: Activation = "softmax"
    binary: bool = False
    cam_layer: str = ""
    alternatives: Mapping[str, tuple[str, ...]] = field(default_factory=dict, repr=False)
    classes: tuple[str, ...] = field(default_factory=imagenet_classes, repr=False)
    source: str = "none"

    def mask(self, images: Tensor, masks: Tensor, share: float = 1.0, seed: int = 0) -> Tensor:
        """Upsample masks, keep their top share and multiply images by them (T-TAME §IV-A).

        Args:
            images: Normalised images, `(B, C, H, W)`.
            masks: Maps scaled to [0, 1], `(B, 1, h, w)`.
            share: Share of top pixels to keep, with their soft values, in (0, 1].
            seed: Tie-break seed, as for `ttame.masking.keep_top`.

        Returns:
            Normalised masked images, `(B, C, H, W)`, masked in the classifier's `space`.

        Raises:
            TTameError: If the batch sizes differ or `share` is outside (0, 1].
        """
        kept = keep_top(upsample(masks, images.shape[-2:]), share, seed)
        return apply_mask(images, kept, self.space, self.mean, self.std)


@torch.inference_mode()
def masked_probabilities(
    classifier: nn.Module,
    spec: BackboneSpec,
    images: Tensor,
    maps: Tensor,
    targets: Tensor,
    percentages: Sequence[int] = PERCENTAGES,
    seed: int = 0,
) -> Tensor:
    """Classify images that are masked by their maps, at several retained percentages.

    Args:
        classifier: The bare classifier, in `eval()`.
        spec: Its facts.
        images: Normalised images, `(B, 3, H, W)`.
        maps: Raw explanation maps, `(B, 1, h, w)`; scaled to [0, 1] at this resolution.
        targets: Target classes, `(B,)` int64.
        percentages: Shares of pixels to keep, percent.
        seed: Tie-break seed.

    Returns:
        Probabilities of the target classes, `(B, P)` float32.

    Raises:
        TTameError: If a map is not finite (`masking.degenerate` finds those), or images, maps
            and targets differ in number, or the outputs are no probabilities.
    """
    if targets.shape != images.shape[:1]:
        raise TTameError(
            f"images {tuple(images.shape)} and targets {tuple(targets.shape)} must agree in batch"
        )
    if not bool(maps.isfinite().all()):
        raise TTameError("an explanation map holds NaN or infinite values; it cannot be a mask")
    masks = normalize_maps(maps.float())
    columns = []
    for percentage in percentages:
        outputs = classifier(spec.mask(images, masks, percentage / 100, seed))
        found = probabilities(outputs, spec.activation)
        columns.append(found.gather(1, targets[:, None])[:, 0])
    return torch.stack(columns, dim=1)


def timm_facts(config: Mapping[str, Any]) -> dict[str, Any]:
    """Convert the facts that timm's configuration of a model states to those of a spec."""
    size = tuple(int(side) for side in config.get("input_size") or ())[1:]
    facts: dict[str, Any] = {
        "mean": tuple(config.get("mean") or IMAGENET_MEAN),
        "std": tuple(config.get("std") or IMAGENET_STD),
        "interpolation": config.get("interpolation") or "bilinear",
    }
    if size:
        facts |= {"input_size": size, "resize": round(min(size) / _crop_share(config))}
    if isinstance(config.get("classifier"), str):  # some have several heads
        facts["head"] = config["classifier"]
    return facts


def _crop_share(config: Mapping[str, Any]) -> float:
    return float(config.get("crop_pct") or 0.875)


def derive_spec(
    model: nn.Module,
    layers: Sequence[str],
    *,
    name: str | None = None,
    head: str = "",
    classes: Sequence[str] | None = None,
    input_size: tuple[int, int] | None = None,
    mean: tuple[float, float, float] | None = None,
    std: tuple[float, float, float] | None = None,
    space: Space = "raw",
) -> BackboneSpec:
    """Make the spec of a user's own module; timm models provide most facts themselves.

    Raises:
        TTameError: If the input size is neither given nor known from the model.
    """
    config = getattr(model, "pretrained_cfg", None) or {}
    facts = timm_facts(config)
    if input_size is not None:
        size = (int(input_size[0]), int(input_size[1]))
        facts |= {"input_size": size, "resize": round(min(size) / _crop_share(config))}
    if "input_size" not in facts:
        raise TTameError(
            f"the input size of {type(model).__name__} is not known; pass input_size=(H, W)"
        )
    given = {"head": head, "mean": mean, "std": std}
    facts |= {key: value for key, value in given.items() if value}
    spec = BackboneSpec(
        name=name or config.get("architecture") or type(model).__name__,
        build=None,
        weights=None,
        layers=tuple(layers),
        space=space,
        source="given module",
        **{"head": "", **facts},
    )
    return spec if classes is None else replace(spec, classes=tuple(classes))
