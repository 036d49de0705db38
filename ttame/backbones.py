"""Image classifiers: how each is loaded, fed and tapped.

A `BackboneSpec` states the facts of one classifier once (layers, input size, normalisation,
masking space); everything else in `ttame` reads them from there.
"""

from __future__ import annotations

import hashlib
from collections.abc import Callable, Mapping, Sequence
from dataclasses import dataclass, field, replace
from functools import cache
from pathlib import Path
from typing import Any, Literal

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
        layers: Dotted module names whose outputs feed the attention mechanism, shallow to deep;
            empty to have them chosen when the classifier is attached.
        head: Dotted name of the linear layer that makes the logits.
        input_size: Height and width of the input, pixels.
        resize: Shorter side before the centre crop, pixels.
        mean: Per-channel mean of the normalisation, in [0, 1] units.
        std: Per-channel standard deviation of the normalisation.
        interpolation: Resampling of the resize, as torchvision names it.
        space: Space in which masks multiply the image: `"raw"` (masked pixels become black)
            or `"normalized"` (they become the mean colour).
        cam_layer: Layer that CAM methods explain; empty for the deepest of `layers`.
        alternatives: Other choices of layers that have a name, `{"block outputs": (...)}`.
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
    alternatives: Mapping[str, tuple[str, ...]] = field(default_factory=dict, repr=False)
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

    Args:
        name: A registered name, or `timm/NAME` or `torchvision/NAME` for any classifier of those.

    Raises:
        TTameError: If it is unknown; the message suggests near names.
    """
    if name in BACKBONES:
        return BACKBONES[name]
    if name.startswith(ttame.zoo.PREFIXES):
        return ttame.zoo.library_spec(name)
    raise TTameError(
        f"unknown backbone {name!r}; known are {', '.join(BACKBONES)}, and any timm/NAME or "
        f"torchvision/NAME.{suggest(name, BACKBONES)} For a network of your own use "
        "ttame.attach(model, ...)"
    )


def build_backbone(
    name: str,
    state: Mapping[str, Tensor] | None = None,
    input_size: tuple[int, int] | None = None,
    origin: str = "given",
) -> Backbone:
    """Build a classifier by name and freeze it, without its weights unless they are given.

    Args:
        name: As for `backbone_spec`.
        state: Its weights; `None` leaves the random ones, which are enough to see its structure.
        input_size: Height and width instead of the usual ones, pixels. Transformers of timm that
            are built for one size are fitted to it, their positions resampled.
        origin: Where the weights come from, for the message if they do not fit.

    Raises:
        TTameError: Unknown name, weights of another architecture, a size that does not fit.
    """
    spec = backbone_spec(name)
    if spec.build is None:
        raise TTameError(f"backbone {name!r} has no loader; pass its module to ttame.attach")
    model = spec.build()
    if state is not None:
        try:
            model.load_state_dict(dict(state))
        except (RuntimeError, TypeError, AttributeError) as error:  # the last two: no state dict
            first = str(error).split("\n")[1].strip() if "\n" in str(error) else str(error)
            raise TTameError(
                f"the weights {origin} do not fit {name}: {first[:200]}; "
                "pass the state dict of this very architecture"
            ) from error
    if input_size is not None and tuple(input_size) != spec.input_size:
        resize = round(spec.resize * min(input_size) / min(spec.input_size))
        spec = replace(spec, input_size=(input_size[0], input_size[1]), resize=resize)
        fit_input = getattr(model, "set_input_size", None)
        if fit_input is not None:
            try:
                fit_input(img_size=spec.input_size)
            except (AssertionError, ValueError, RuntimeError, TypeError) as error:
                raise TTameError(
                    f"{name} cannot take images of {input_size[0]}x{input_size[1]} ({error}); "
                    "choose multiples of its patch and window"
                ) from error
    return freeze(spec, model)


def load_backbone(
    name: str,
    weights: Path | str | None = None,
    input_size: tuple[int, int] | None = None,
    pretrained: bool = True,
) -> Backbone:
    """Build a classifier by name, load its weights, freeze it and put it in `eval()`.

    Args:
        name: As for `backbone_spec`.
        weights: A local state dict (`.safetensors`, or `.pth` read without unpickling code)
            instead of the default weights.
        input_size: As for `build_backbone`.
        pretrained: Whether to load weights at all; without, they are random, which is enough for
            the structure and its cost.

    Raises:
        TTameError: Unknown name, weights that cannot be fetched or read, or that belong to
            another architecture.
    """
    if not pretrained:
        found = build_backbone(name, None, input_size)
        return replace(found, spec=replace(found.spec, source="random weights"))
    spec = backbone_spec(name)
    if spec.build is None or spec.weights is None:
        raise TTameError(f"backbone {name!r} has no loader; pass its module to ttame.attach")
    state = spec.weights() if weights is None else read_state(Path(weights))
    return build_backbone(name, state, input_size, str(weights or spec.source))


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


def timm_facts(config: Mapping[str, Any]) -> dict[str, Any]:
    """Facts for a `BackboneSpec` from timm's configuration of a model; those that it states."""
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
    """State the facts of a user's own module; timm models bring most of theirs along.

    Raises:
        TTameError: If a fact is neither given nor known from the model.
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


def read_state(path: Path) -> Mapping[str, Tensor]:
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


# The entries need the names above, and whoever imports this module means to find them.
import ttame.zoo  # noqa: E402
