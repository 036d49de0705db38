"""Specs: the facts of each classifier, stated once, and how its images are masked."""

from __future__ import annotations

import math
from collections.abc import Callable, Mapping, Sequence
from dataclasses import dataclass, field, replace
from numbers import Real
from typing import Literal

import torch
from torch import Tensor, nn

from ttame.classifiers.classes import class_names, imagenet_classes
from ttame.classifiers.facts import IMAGENET_MEAN, IMAGENET_STD, LONGEST, checked_size, rescaled
from ttame.classifiers.huggingface import ChannelOrder, label_names
from ttame.classifiers.inputs import input_facts
from ttame.classifiers.outputs import Activation, probabilities
from ttame.errors import TTameError, validate
from ttame.masking import Space, apply_mask, keep_top, normalize_maps, upsample

Interpolation = Literal[
    "nearest", "nearest-exact", "bilinear", "bicubic", "box", "hamming", "lanczos"
]
PERCENTAGES = (100, 50, 15)  # retained pixels, in the tables of the T-TAME paper


@dataclass(frozen=True)
class BackboneSpec:
    """The facts of one image classifier.

    Attributes:
        name: Registry name; also written into saved explainers.
        build: Builds the architecture without weights; with `num_classes=K`, for K classes.
        weights: Returns the default pretrained state dict, if any.
        layers: Dotted names of the modules that feed the attention mechanism, shallow to deep;
            if empty, they are chosen when the classifier is attached.
        head: Dotted name of the linear layer that outputs the logits.
        input_size: Height and width of the input, in pixels.
        resize: Size before the centre crop, in pixels: that of the side whose `input_size` is the
            smaller one; the other side has the same ratio. Or height and width, to which photos are
            stretched.
        mean: Mean of the normalisation for each of C channels, in [0, 1] units; default:
            ImageNet's.
        std: Standard deviation of the normalisation for each channel; default: ImageNet's.
        interpolation: Interpolation mode of the resize, by torchvision's name.
        space: Space in which masks multiply the image: masked pixels turn black (`"raw"`) or
            take the colour that is 0 after the normalisation, the mean colour (`"normalized"`).
        activation: What turns the outputs into probabilities (`ttame.classifiers.outputs`).
        binary: Whether the classifier has a single output, of which both answers are explained.
        cam_layer: Layer that CAM methods explain; if empty, the deepest of `layers`.
        alternatives: Other named choices of layers, `{"block outputs": (...)}`.
        classes: Class names in index order.
        source: Origin of the default weights, for records and tables.
        channel_order: The order of the channels that the classifier was built for. Its adopted
            copy takes RGB in any case.
    """

    name: str
    build: Callable[..., nn.Module] | None
    weights: Callable[[], Mapping[str, Tensor]] | None
    layers: tuple[str, ...]
    head: str
    input_size: tuple[int, int] = (224, 224)
    resize: int | tuple[int, int] = 256
    mean: tuple[float, ...] = IMAGENET_MEAN
    std: tuple[float, ...] = IMAGENET_STD
    interpolation: Interpolation = "bilinear"
    space: Space = "raw"
    activation: Activation = "softmax"
    binary: bool = False
    cam_layer: str = ""
    alternatives: Mapping[str, tuple[str, ...]] = field(default_factory=dict, repr=False)
    classes: tuple[str, ...] = field(default_factory=imagenet_classes, repr=False)
    source: str = "none"
    channel_order: ChannelOrder = "rgb"

    def at_size(self, size: tuple[int, int]) -> BackboneSpec:
        """Return the spec for inputs `(H, W)`, with the resize scaled along."""
        resize = rescaled(self.resize, self.input_size, size)
        return replace(self, input_size=(int(size[0]), int(size[1])), resize=resize)

    def __post_init__(self) -> None:
        """Check the facts that images are prepared by, which files and users state.

        Raises:
            TTameError: If mean or std is no list of numbers, a std is not above 0, a size is no
                whole number of pixels, or the space or interpolation does not exist.
        """
        validate(self)
        for name, values, above in (("mean", self.mean, -math.inf), ("std", self.std, 0)):
            if not _numbers(values) or not all(above < value < math.inf for value in values):
                raise TTameError(
                    f"{name} of {self.name} must be one finite number per channel"
                    f"{', above 0' if name == 'std' else ''}, got {values!r}"
                )
        if len(self.mean) != len(self.std):
            raise TTameError(
                f"mean and std of {self.name} must have one number per channel each, got "
                f"{len(self.mean)} and {len(self.std)}"
            )
        checked_size(self.input_size)
        sides = self.resize if isinstance(self.resize, tuple) else (self.resize,)
        if not all(type(side) is int and 1 <= side <= 2 * LONGEST for side in sides):
            raise TTameError(f"resize must be whole pixels above 0, got {self.resize!r}")

    @property
    def channels(self) -> int:
        """Number of input channels C."""
        return len(self.mean)

    def mask(self, images: Tensor, masks: Tensor, share: float = 1.0, seed: int = 0) -> Tensor:
        """Upsample masks, keep their top share and multiply images by them (T-TAME §IV-A).

        Args:
            images: Normalised images, `(B, C, H, W)`.
            masks: Maps scaled to [0, 1], `(B, 1, h, w)`.
            share: Share of top pixels to keep, with their soft values, in (0, 1].
            seed: Tie-break seed, as for `ttame.masking.keep_top`.

        Returns:
            Normalised masked images, `(B, C, H, W)`, masked in the classifier's `space`; of the
            images' dtype.

        Raises:
            TTameError: If the batch sizes differ or `share` is outside (0, 1].
        """
        kept = keep_top(upsample(masks, images.shape[-2:]), share, seed)
        return apply_mask(images, kept, self.space, self.mean, self.std).to(images.dtype)


def _numbers(values: object) -> bool:
    """Return whether a value is a non-empty list of real numbers."""
    return (
        isinstance(values, (tuple, list))
        and len(values) > 0
        and all(isinstance(value, Real) and not isinstance(value, bool) for value in values)
    )


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
        images: Normalised images, `(B, C, H, W)`.
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


def derive_spec(
    model: nn.Module,
    layers: Sequence[str],
    *,
    name: str | None = None,
    head: str = "",
    classes: Sequence[str] | Mapping[int, str] | Mapping[str, str] | None = None,
    input_size: tuple[int, int] | None = None,
    channels: int | None = None,
    mean: float | Sequence[float] | None = None,
    std: float | Sequence[float] | None = None,
    space: Space = "raw",
    processor: object = None,
) -> BackboneSpec:
    """Make the spec of a user's own module from the facts given and those the module states.

    What is looked up, and where, says `ttame.classifiers.inputs.input_facts`. Class names that are
    not given are those of a `transformers` model.

    Raises:
        TTameError: If the input size, channels, mean or std are neither given nor known.
    """
    facts = input_facts(
        model, input_size=input_size, channels=channels, mean=mean, std=std, processor=processor
    )
    config = getattr(model, "pretrained_cfg", None) or {}
    spec = BackboneSpec(
        name=name or config.get("architecture") or type(model).__name__,
        build=None,
        weights=None,
        layers=tuple(layers),
        space=space,
        source="given module",
        **{"head": "", **facts, **({"head": head} if head else {})},
    )
    names = label_names(model) if classes is None else class_names(classes)
    return spec if names is None else replace(spec, classes=names)
