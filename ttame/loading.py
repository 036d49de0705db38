"""Getting an explainer: load a trained one, or attach an untrained one to any classifier."""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from dataclasses import replace
from pathlib import Path
from typing import Any

import torch
from torch import nn

from ttame.attention import AttentionConfig, AttentionMechanism
from ttame.classifiers.adoption import adopt, find_activation, probe, refuse_weights
from ttame.classifiers.auxiliary import open_auxiliary
from ttame.classifiers.classes import class_names
from ttame.classifiers.facts import checked_size, per_channel
from ttame.classifiers.huggingface import take_rgb
from ttame.classifiers.layers import choose_layers
from ttame.classifiers.outputs import ANSWERS, Activation, answer_both
from ttame.classifiers.registry import backbone_spec, freeze, load_backbone
from ttame.classifiers.specs import BackboneSpec, derive_spec
from ttame.classifiers.weights import input_like
from ttame.errors import TTameError, suggest
from ttame.explainer import Explainer
from ttame.files import shipped
from ttame.masking import Space


def attach(
    model: nn.Module | str,
    layers: Sequence[str] | str = "auto",
    *,
    features: str | None = None,
    config: AttentionConfig | None = None,
    classes: Sequence[str] | Mapping[int, str] | Mapping[str, str] | None = None,
    input_size: tuple[int, int] | None = None,
    channels: int | None = None,
    mean: float | Sequence[float] | None = None,
    std: float | Sequence[float] | None = None,
    space: Space | None = None,
    head: str = "",
    activation: Activation | None = None,
    processor: object = None,
    weights: Path | str | None = None,
    pretrained: bool = True,
) -> Explainer:
    """Attach an untrained attention mechanism to a classifier.

    What the classifier expects of its images is known for named models; for modules of timm, which
    state it; and, input size apart, for modules of torchvision with 1,000 classes, whose published
    weights share ImageNet's normalisation (EfficientNet's do not). It is looked up through
    wrappers: one that normalises, such as `nn.Sequential(normalise, model)`, is measured by a
    forward pass, and a model inside one that changes its images otherwise is not relied on. What
    remains unknown is asked for by name, never assumed. Photos are resized, keeping their shape,
    until the central share that the model states, or else 0.875, covers the input size, which is
    then cut out of their centre.

    The mechanism computes in float32 whatever the dtype of the classifier, on the same device.

    Args:
        model: Any `nn.Module` that maps images `(B, C, H, W)` to logits `(B, K)`, of which a
            frozen copy is explained; an image classifier of `transformers`, also under PEFT; or
            the name of a registered backbone, `timm/NAME` or `torchvision/NAME`.
        layers: Dotted module names, shallow to deep, or the name of one of the backbone's
            `alternatives`. `"auto"` takes the registered layers or chooses some by resolution
            (`ttame.classifiers.layers.list_layers`), `"deepest"` the last of these. With
            `features`, layers of that network.
        features: Name of an auxiliary network that gives the feature maps in the classifier's
            place, as in P-TAME (`ptame`): `"tf_efficientnet_lite0"`, another registered backbone,
            `timm/NAME` or `torchvision/NAME`. The classifier is then a black box, of any kind.
            Its images are converted to the network's normalisation, and resized, with a warning,
            where the input sizes differ; an explanation takes one pass of each.
        config: Architecture of the mechanism.
        classes: Class names in index order, or by index as in `{0: "cat", 1: "dog"}`.
        input_size: Height and width in pixels; default: what the processor or model states.
        channels: Number of input channels C; default: the length of `mean`, or else what the
            model states and takes, or what its first convolution takes.
        mean: Mean of the normalisation of images in [0, 1], one number for each channel or one
            for all; default: what the model states. ImageNet's is (0.485, 0.456, 0.406); a model
            that normalises its input itself has `mean=0, std=1`.
        std: Standard deviation of the normalisation, as for `mean`; ImageNet's is
            (0.229, 0.224, 0.225).
        space: Masking space; default: the registered one, otherwise `"raw"`.
        head: Dotted name of the classifier's last linear layer.
        activation: What the outputs are: `"softmax"` for the logits of classes of which one is
            right, `"sigmoid"` for those of labels that may hold together, or for a binary
            classifier's one logit, `"none"` for probabilities already. Default: the registered
            one, or as found (`ttame.classifiers.adoption.find_activation`).
        processor: The image processor of `transformers` that prepares the model's images. Size,
            crop, interpolation, normalisation and the order of the channels are taken from it.
        weights: A local state dict or training checkpoint, for a model given by name; a head with
            another number of classes is built as the weights have it.
        pretrained: Load the weights of networks given by name; otherwise they are random.

    Raises:
        TTameError: If the input size, channels or normalisation are neither given nor known, a
            layer does not exist or gives no spatial map, or the model gives no logits, cannot be
            copied or mixes the images of a batch, or its outputs do not fit the activation, need
            one to be chosen, or are values or features; or the auxiliary network is unknown, or
            takes images of other channels or another shape.

    Examples:
        Attach to a network of timm, with names for its two classes:

        >>> import timm
        >>> import ttame
        >>> model = timm.create_model("resnet18", num_classes=2)
        >>> explainer = ttame.attach(model, classes=["cat", "dog"])
        >>> explainer.layers
        ('layer2', 'layer3', 'layer4')
        >>> explainer.spec.input_size
        (224, 224)

        A module that does not state what it expects of its images is told:

        >>> from torch import nn
        >>> model = nn.Sequential(
        ...     nn.Conv2d(1, 8, 3), nn.ReLU(), nn.AdaptiveAvgPool2d(1), nn.Flatten()
        ... )
        >>> facts = {"input_size": (64, 96), "channels": 1, "mean": 0.5, "std": 0.25}
        >>> ttame.attach(model, layers=["1"], **facts).spec.input_size  # height, width
        (64, 96)
    """
    names = None if classes is None else class_names(classes)
    if isinstance(model, str):
        if processor is not None:
            raise TTameError(
                f"processor belongs to a module, and {model!r} is a name, whose preprocessing is "
                "known; leave it out"
            )
        backbone = load_backbone(model, weights, checked_size(input_size), pretrained)
        known = backbone.spec
        if channels not in (None, known.channels):
            raise TTameError(
                f"{known.name} takes {known.channels} channels, got channels={channels!r}; build a "
                "network of as many channels yourself and pass the module"
            )
        given = {
            "classes": names,
            "mean": per_channel("mean", mean, known.channels),
            "std": per_channel("std", std, known.channels),
            "space": space,
            "head": head or None,
        }
        facts: dict[str, Any] = {key: value for key, value in given.items() if value is not None}
        spec = replace(known, **facts)
    else:
        refuse_weights(model, weights)
        module = adopt(model)
        spec = derive_spec(
            module, (), classes=names, input_size=input_size, channels=channels, mean=mean,
            std=std, space=space or "raw", head=head, processor=processor,
        )  # fmt: skip
        backbone = freeze(spec, take_rgb(module, spec.channel_order))
    classifier, size = backbone.model, spec.input_size
    stated = activation or (spec.activation if spec.activation != "softmax" else None)
    meaning, binary = find_activation(classifier, size, stated, spec.channels)
    if binary:
        answer_both(classifier, meaning)
    described = replace(backbone, spec=spec)
    auxiliary = None if features is None else open_auxiliary(features, described, pretrained)
    read = described if auxiliary is None else auxiliary
    chosen = _chosen_layers(layers, read.model, read.spec)
    spec = replace(spec, layers=chosen, activation=meaning, binary=binary)
    config = config or AttentionConfig()
    widths, count = probe(classifier, spec.layers, size, config.tokens, spec.channels, auxiliary)
    if names is not None and len(names) != count:
        both = f", the two answers of its one output, such as {ANSWERS}" if binary else ""
        found = f"{len(names)} class name{'' if len(names) == 1 else 's'}"
        raise TTameError(f"got {found}, but the classifier has {count} classes{both}")
    mechanism = AttentionMechanism(widths, count, config).to(input_like(classifier).device)
    return Explainer(replace(backbone, spec=spec), mechanism, auxiliary=auxiliary).eval()


def load(
    name: str | Path, model: nn.Module | None = None, weights: Path | str | None = None
) -> Explainer:
    """Load an explainer that ships with `ttame` by name, or any other by path.

    Args:
        name: Name of a shipped explainer (see `ttame.explainers()`), or a `.safetensors` path.
        model: The classifier, if it is not registered.
        weights: A local state dict or checkpoint of a classifier that is known by name.

    Raises:
        TTameError: If there is no such explainer, or its file cannot be used.

    Examples:
        >>> import ttame
        >>> from ttame.data import samples
        >>> explainer = ttame.load("tf_efficientnet_lite0")
        >>> explainer.explain(samples().paths[2]).names()  # of the predicted class
        [['Egyptian cat']]
    """
    if Path(name).suffix == ".safetensors":
        return Explainer.load(name, model, weights)
    if str(name) not in explainers():
        backbone_spec(str(name))  # has its own message for an unknown backbone
        raise TTameError(
            f"no explainer named {str(name)!r} ships with ttame; there are "
            f"{', '.join(explainers())}.{suggest(str(name), explainers())} Train one with "
            f"`ttame train --backbone {name}`, or pass the path of a .safetensors file"
        )
    return Explainer.load(shipped("explainers") / f"{name}.safetensors", model, weights)


def open_explainer(
    name: str | Path,
    backbone: str | None = None,
    weights: Path | str | None = None,
    size: int | None = None,
) -> tuple[Explainer, bool]:
    """Load the explainer to evaluate, or attach an untrained one to a backbone that has none.

    Args:
        name: As for `load`, or `"none"`.
        backbone: Name of a backbone; required for `"none"`, otherwise checked.
        weights: A local state dict or checkpoint of the backbone.
        size: Height and width of the images, pixels, for `"none"`; default: the classifier's.

    Returns:
        The explainer, and whether it is trained.

    Raises:
        TTameError: If the explainer belongs to another backbone, or none is given; or if a size
            is given with a trained explainer, or one that the classifier cannot take.
    """
    if str(name) == "none":
        if backbone is None:
            raise TTameError("explainer 'none' needs a backbone (--backbone NAME)")
        with torch.random.fork_rng():  # reproducible, so that runs can be resumed
            torch.manual_seed(0)
            input_size = None if size is None else (size, size)
            return attach(backbone, input_size=input_size, weights=weights), False
    if size is not None:
        raise TTameError(
            f"size {size} was given with the explainer {str(name)!r}, which is measured at the "
            "size it was trained at; leave it out, or measure other methods with explainer 'none'"
        )
    explainer = load(name, weights=weights)
    if backbone is not None and explainer.spec.name != backbone:
        raise TTameError(
            f"the explainer {str(name)!r} belongs to {explainer.spec.name}, not to {backbone!r}; "
            f"pass one that was trained on it, or 'none' to evaluate only the other methods"
        )
    return explainer, True


def explainers() -> tuple[str, ...]:
    """Return the names of the explainers that ship with `ttame`."""
    return tuple(sorted(path.stem for path in shipped("explainers").glob("*.safetensors")))


def _chosen_layers(
    layers: Sequence[str] | str, model: nn.Module, spec: BackboneSpec
) -> tuple[str, ...]:
    """Resolve the `layers` argument of `attach`."""
    single = layers if isinstance(layers, str) else layers[0] if len(layers) == 1 else ""
    if single in ("auto", "deepest"):
        found = spec.layers or choose_layers(model, spec.input_size, spec.channels)
        return found if single == "auto" else found[-1:]
    if single in spec.alternatives:
        return spec.alternatives[single]
    names = (layers,) if isinstance(layers, str) else tuple(layers)
    if not names:
        raise TTameError("name at least one layer; `ttame layers MODEL` lists them")
    return names
