"""Getting an explainer: a trained one by name or path, an untrained one on any classifier."""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import replace
from pathlib import Path

import torch
from torch import nn

from ttame.attention import AttentionConfig, AttentionMechanism
from ttame.classifiers.adoption import adopt, probe
from ttame.classifiers.layers import choose_layers
from ttame.classifiers.registry import Backbone, backbone_spec, freeze, load_backbone
from ttame.classifiers.specs import BackboneSpec, derive_spec
from ttame.errors import TTameError, suggest
from ttame.explainer import Explainer
from ttame.files import shipped
from ttame.masking import Space


def attach(
    model: nn.Module | str,
    layers: Sequence[str] | str = "auto",
    *,
    config: AttentionConfig | None = None,
    classes: Sequence[str] | None = None,
    input_size: tuple[int, int] | None = None,
    mean: tuple[float, float, float] | None = None,
    std: tuple[float, float, float] | None = None,
    space: Space | None = None,
    head: str = "",
    weights: Path | str | None = None,
    pretrained: bool = True,
) -> Explainer:
    """Put an untrained attention mechanism on a classifier.

    Args:
        model: Any `nn.Module` that maps images `(B, 3, H, W)` to logits `(B, K)`; a frozen copy
            of it is explained, so that it may be trained on. Or a name: a registered backbone's,
            or `timm/NAME` or `torchvision/NAME`.
        layers: Dotted module names, shallow to deep; or the name of one of the backbone's
            `alternatives`; `"auto"`: the registered ones, or a choice by resolution
            (`ttame.classifiers.layers.list_layers`).
        config: The mechanism's architecture.
        classes: Class names in index order.
        input_size: Height and width, pixels; named and timm models know theirs.
        mean: Mean of the normalisation, default timm's entry or ImageNet's.
        std: Its standard deviation.
        space: Masking space; default: the registered one, `"raw"` for any other.
        head: Name of the classifier's last linear layer, a fact for the spec.
        weights: A local state dict, for a backbone given by name.
        pretrained: Whether a backbone given by name loads weights; without, they are random.

    Raises:
        TTameError: If a layer does not exist or gives no spatial map, if the module gives no
            logits or cannot be copied, or if its answer depends on the other images of a batch.
    """
    if isinstance(model, str):
        backbone = load_backbone(model, weights, input_size, pretrained)
        spec = backbone.spec
        spec = replace(
            spec,
            classes=tuple(classes or spec.classes),
            mean=mean or spec.mean,
            std=std or spec.std,
            space=space or spec.space,
            head=head or spec.head,
        )
    else:
        spec = derive_spec(
            model, (), classes=classes, input_size=input_size, mean=mean, std=std,
            space=space or "raw", head=head,
        )  # fmt: skip
        backbone = freeze(spec, adopt(model))
    names = _names(layers, spec)
    if not names:
        names = choose_layers(backbone.model, spec.input_size)
    config = config or AttentionConfig()
    channels, count = probe(backbone.model, names, spec.input_size, config.tokens)
    if classes is not None and len(classes) != count:
        raise TTameError(f"got names of {len(classes)} classes, the classifier has {count}")
    mechanism = AttentionMechanism(channels, count, config)
    parameter = next(backbone.model.parameters(), torch.zeros(()))
    mechanism = mechanism.to(parameter.device, parameter.dtype)
    spec = replace(spec, layers=names)
    return Explainer(Backbone(spec, backbone.model), mechanism, names).eval()


def load(
    name: str | Path, model: nn.Module | None = None, weights: Path | str | None = None
) -> Explainer:
    """Load an explainer that ships with `ttame`, by name, or one of your own, by path.

    Args:
        name: A shipped explainer (`ttame.explainers()` lists them), or a `.safetensors` path.
        model: The classifier, for one that is not registered.
        weights: A local state dict for a registered classifier.

    Raises:
        TTameError: If there is no such explainer, or the file does not fit (`Explainer.load`).
    """
    if Path(name).suffix == ".safetensors":
        return Explainer.load(name, model, weights)
    if str(name) not in explainers():
        backbone_spec(str(name))  # an unknown backbone deserves its own message
        raise TTameError(
            f"no explainer named {str(name)!r} ships with ttame; there are "
            f"{', '.join(explainers())}.{suggest(str(name), explainers())} Train one with "
            f"`ttame train --backbone {name}`, or pass the path of a .safetensors file"
        )
    return Explainer.load(shipped("explainers") / f"{name}.safetensors", model, weights)


def open_explainer(name: str | Path, backbone: str | None = None) -> tuple[Explainer, bool]:
    """The explainer to evaluate, or an untrained one on a backbone that has none.

    Args:
        name: As for `load`, or `"none"`.
        backbone: Registered backbone; must be the explainer's where both are given.

    Returns:
        The explainer and whether it is trained.

    Raises:
        TTameError: If the two do not belong together, or neither says which classifier is meant.
    """
    if str(name) == "none":
        if backbone is None:
            raise TTameError("explainer 'none' needs a backbone (--backbone NAME)")
        with torch.random.fork_rng():  # the same each time, or no run could be resumed
            torch.manual_seed(0)
            return attach(backbone), False
    explainer = load(name)
    if backbone is not None and explainer.spec.name != backbone:
        raise TTameError(
            f"the explainer {str(name)!r} belongs to {explainer.spec.name}, not to {backbone!r}; "
            f"pass one that was trained on it, or 'none' to evaluate the other methods alone"
        )
    return explainer, True


def explainers() -> tuple[str, ...]:
    """Names of the explainers that ship with this installation."""
    return tuple(sorted(path.stem for path in shipped("explainers").glob("*.safetensors")))


def _names(layers: Sequence[str] | str, spec: BackboneSpec) -> tuple[str, ...]:
    """Layer names; the spec's own for `"auto"`, a named alternative's for its name."""
    if layers == "auto":
        return spec.layers
    single = layers if isinstance(layers, str) else layers[0] if len(layers) == 1 else ""
    if single in spec.alternatives:
        return spec.alternatives[single]
    names = (layers,) if isinstance(layers, str) else tuple(layers)
    if not names:
        raise TTameError("name at least one layer; `ttame layers MODEL` lists them")
    return names
