"""Getting an explainer: a trained one by name or path, an untrained one on any classifier."""

from __future__ import annotations

import copy
from collections.abc import Sequence
from pathlib import Path

import torch
from torch import nn

from ttame.attention import AttentionConfig, AttentionMechanism
from ttame.backbones import Space, backbone_spec, derive_spec, freeze, load_backbone
from ttame.errors import TTameError, suggest
from ttame.explainer import Explainer
from ttame.features import FeatureExtractor, choose_layers
from ttame.files import shipped


def attach(
    model: nn.Module | str,
    layers: Sequence[str] | str = "auto",
    *,
    config: AttentionConfig | None = None,
    classes: Sequence[str] | None = None,
    input_size: tuple[int, int] | None = None,
    mean: tuple[float, float, float] | None = None,
    std: tuple[float, float, float] | None = None,
    space: Space = "raw",
    head: str = "",
    weights: Path | str | None = None,
) -> Explainer:
    """Put an untrained attention mechanism on a classifier.

    Args:
        model: Any `nn.Module` that maps images `(B, 3, H, W)` to logits `(B, K)`; a frozen copy
            of it is explained, so that it may be trained on. Or a registered backbone's name.
        layers: Dotted module names, shallow to deep; `"auto"`: the registered ones, or a choice
            by resolution (`ttame.features.list_layers`).
        config: The mechanism's architecture.
        classes: Class names in index order.
        input_size: Height and width, pixels; timm models know theirs.
        mean: Mean of the normalisation, default timm's entry or ImageNet's.
        std: Its standard deviation.
        space: Masking space.
        head: Name of the classifier's last linear layer, a fact for the spec.
        weights: A local state dict, for a registered backbone.

    Raises:
        TTameError: If a layer does not exist or gives no spatial map.
    """
    if isinstance(model, str):
        backbone = load_backbone(model, weights)
        names = backbone.spec.layers if layers == "auto" else _names(layers)
    else:
        probe = derive_spec(model, (), input_size=input_size)
        model = copy.deepcopy(model).eval()
        names = choose_layers(model, probe.input_size) if layers == "auto" else _names(layers)
        spec = derive_spec(
            model, names, classes=classes, input_size=input_size, mean=mean, std=std,
            space=space, head=head,
        )  # fmt: skip
        backbone = freeze(spec, model)
    config = config or AttentionConfig()
    parameter = next(backbone.model.parameters(), torch.zeros(()))
    image = torch.zeros(
        1, 3, *backbone.spec.input_size, device=parameter.device, dtype=parameter.dtype
    )
    with torch.inference_mode():
        logits, maps = FeatureExtractor(backbone.model, names, config.tokens)(image)
    mechanism = AttentionMechanism([found.shape[1] for found in maps], logits.shape[1], config)
    mechanism = mechanism.to(parameter.device, parameter.dtype)
    return Explainer(backbone, mechanism, names).eval()


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


def _names(layers: Sequence[str] | str) -> tuple[str, ...]:
    return (layers,) if isinstance(layers, str) else tuple(layers)
