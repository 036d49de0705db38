"""Getting an explainer: load a trained one, or attach an untrained one to any classifier."""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import replace
from pathlib import Path
from typing import Any

import torch
from torch import nn

from ttame.attention import AttentionConfig, AttentionMechanism
from ttame.classifiers.adoption import adopt, probe
from ttame.classifiers.layers import choose_layers
from ttame.classifiers.registry import backbone_spec, freeze, load_backbone
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
    """Attach an untrained attention mechanism to a classifier.

    Args:
        model: Any `nn.Module` that maps images `(B, 3, H, W)` to logits `(B, K)`, of which a
            frozen copy is explained; or the name of a registered backbone, `timm/NAME` or
            `torchvision/NAME`.
        layers: Dotted module names, shallow to deep, or the name of one of the backbone's
            `alternatives`. `"auto"` takes the registered layers or chooses some by resolution
            (`ttame.classifiers.layers.list_layers`), `"deepest"` the last of these.
        config: Architecture of the mechanism.
        classes: Class names in index order.
        input_size: Height and width in pixels; required unless the model is named or timm's.
        mean: Per-channel mean of the normalisation; default: the model's own or ImageNet's.
        std: Per-channel standard deviation of the normalisation.
        space: Masking space; default: the registered one, otherwise `"raw"`.
        head: Dotted name of the classifier's last linear layer.
        weights: A local state dict, for a model given by name.
        pretrained: Load the weights of a model given by name; otherwise they are random.

    Raises:
        TTameError: If a layer does not exist or gives no spatial map, or the model gives no
            logits, cannot be copied or mixes the images of a batch.
    """
    if isinstance(model, str):
        backbone = load_backbone(model, weights, input_size, pretrained)
        given = {
            "classes": tuple(classes or ()), "mean": mean, "std": std, "space": space, "head": head,
        }  # fmt: skip
        facts: dict[str, Any] = {key: value for key, value in given.items() if value}
        spec = replace(backbone.spec, **facts)
    else:
        spec = derive_spec(
            model, (), classes=classes, input_size=input_size, mean=mean, std=std,
            space=space or "raw", head=head,
        )  # fmt: skip
        backbone = freeze(spec, adopt(model))
    spec = replace(spec, layers=_chosen_layers(layers, backbone.model, spec))
    config = config or AttentionConfig()
    channels, count = probe(backbone.model, spec.layers, spec.input_size, config.tokens)
    if classes is not None and len(classes) != count:
        raise TTameError(f"got names of {len(classes)} classes, the classifier has {count}")
    mechanism = AttentionMechanism(channels, count, config)
    parameter = next(backbone.model.parameters(), torch.zeros(()))
    mechanism = mechanism.to(parameter.device, parameter.dtype)
    return Explainer(replace(backbone, spec=spec), mechanism).eval()


def load(
    name: str | Path, model: nn.Module | None = None, weights: Path | str | None = None
) -> Explainer:
    """Load an explainer that ships with `ttame` by name, or any other by path.

    Args:
        name: Name of a shipped explainer (see `ttame.explainers()`), or a `.safetensors` path.
        model: The classifier, if it is not registered.
        weights: A local state dict of a registered classifier.

    Raises:
        TTameError: If there is no such explainer, or its file cannot be used.
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


def open_explainer(name: str | Path, backbone: str | None = None) -> tuple[Explainer, bool]:
    """Load the explainer to evaluate, or attach an untrained one to a backbone without.

    Args:
        name: As for `load`, or `"none"`.
        backbone: Name of a backbone; required for `"none"`, otherwise checked.

    Returns:
        The explainer, and whether it is trained.

    Raises:
        TTameError: If the explainer belongs to another backbone, or none is given.
    """
    if str(name) == "none":
        if backbone is None:
            raise TTameError("explainer 'none' needs a backbone (--backbone NAME)")
        with torch.random.fork_rng():  # reproducible, so that runs can be resumed
            torch.manual_seed(0)
            return attach(backbone), False
    explainer = load(name)
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
        found = spec.layers or choose_layers(model, spec.input_size)
        return found if single == "auto" else found[-1:]
    if single in spec.alternatives:
        return spec.alternatives[single]
    names = (layers,) if isinstance(layers, str) else tuple(layers)
    if not names:
        raise TTameError("name at least one layer; `ttame layers MODEL` lists them")
    return names
