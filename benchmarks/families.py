"""Families: whether the method works on a small member of every family of model libraries.

Those are the families of timm and of torchvision, that is their modules of models, and families
of `transformers`, whose members have few channels.

The networks have random weights: what is checked is that feature maps are found and lie in place,
that an explanation takes one forward pass, that a training step changes the mechanism alone, and
that a saved explainer comes back with the same maps. How good the maps are is another question.
"""

from __future__ import annotations

import tempfile
import time
import tomllib
from collections import defaultdict
from collections.abc import Callable, Mapping, Sequence
from functools import cache
from importlib.util import find_spec
from pathlib import Path
from typing import Any

import timm
import torch
import torchvision
from torch import Tensor, nn

from ttame.classifiers.facts import IMAGENET_MEAN, IMAGENET_STD
from ttame.classifiers.weights import weight_digest
from ttame.errors import TTameError, suggest
from ttame.evaluation.cost import count_passes
from ttame.explainer import Explainer
from ttame.images import normalize
from ttame.loading import attach, load
from ttame.training.config import TrainingConfig
from ttame.training.initialization import initialize
from ttame.training.module import ExplainerModule

_CLASSES = 10
_SMALL = 128  # pixels; networks that take any size are fed this
# Where a network asks for another.
_SIZES: Mapping[str, int] = {
    "timm/deepseek_vit": 112,
    "torchvision/maxvit": 224,
    "torchvision/vision_transformer": 224,
    "transformers/resnet": 64,
}
# A small member of each family, by library; of families that are not listed, the first by name.
MEMBERS: Mapping[str, Mapping[str, Any]] = tomllib.loads(
    Path(__file__).with_suffix(".toml").read_text(encoding="utf-8")
)


@cache
def families() -> Mapping[str, tuple[str, ...]]:
    """Return the families, such as `"timm/resnet"`, with the names of their models."""
    found: dict[str, list[str]] = defaultdict(list)
    for name in timm.list_models():
        found[f"timm/{_module(timm.models.model_entrypoint(name))}"].append(name)
    for name in torchvision.models.list_models(module=torchvision.models):
        found[f"torchvision/{_module(torchvision.models.get_model_builder(name))}"].append(name)
    for family, settings in MEMBERS["transformers"].items():
        found[f"transformers/{family}"].append(settings["model"])
    return {family: tuple(found[family]) for family in sorted(found)}


def _module(builder: Callable[..., Any]) -> str:
    return builder.__module__.rpartition(".")[2]


def member(family: str) -> str:
    """Return the model that stands for a family.

    Raises:
        TTameError: If there is no such family.
    """
    if family not in families():
        raise TTameError(f"there is no model family {family!r}.{suggest(family, families())}")
    library, _, name = family.partition("/")
    listed = MEMBERS[library].get(name, families()[family][0])
    return str(listed["model"] if library == "transformers" else listed)


def build_member(family: str) -> tuple[nn.Module, dict[str, Any]]:
    """Build a family's member with random weights and ten classes.

    Returns:
        The model, in `eval()`, and the facts that `ttame.attach` needs for it.

    Raises:
        TTameError: If there is no such family, or `transformers` is not installed.
    """
    torch.manual_seed(0)
    library, name = family.partition("/")[0], member(family)
    if library == "timm":
        return _timm_member(family, name)
    facts: dict[str, Any] = {"mean": IMAGENET_MEAN, "std": IMAGENET_STD}
    if library == "torchvision":
        # These two take minutes to initialise otherwise.
        options = {"init_weights": False} if name in ("googlenet", "inception_v3") else {}
        model: nn.Module = torchvision.models.get_model(name, num_classes=_CLASSES, **options)
        side = _SIZES.get(family, _SMALL)
        return model.eval(), facts | {"input_size": (side, side)}
    return build_hub_member(family.partition("/")[2]), facts | _hub_size(family)


def _timm_member(family: str, name: str) -> tuple[nn.Module, dict[str, Any]]:
    model: nn.Module = timm.create_model(name, num_classes=_CLASSES)
    config: Mapping[str, Any] = model.pretrained_cfg  # type: ignore[assignment]
    height, width = config["input_size"][1:]
    if not config.get("fixed_input_size") and not hasattr(model, "set_input_size"):
        least = (config.get("min_input_size") or (0, 0, 0))[1:]
        height, width = (max(side, _SIZES.get(family, _SMALL)) for side in least)
    return model.eval(), {"input_size": (int(height), int(width))}


def build_hub_member(name: str, **settings: Any) -> nn.Module:
    """Build the member of a family of `transformers`, with the same random weights each time.

    Args:
        name: The family, without the library's prefix.
        settings: Further settings of its config.

    Raises:
        TTameError: If `transformers` is not installed.
    """
    if find_spec("transformers") is None:
        raise TTameError("transformers is not installed; pip install transformers")
    import transformers

    torch.manual_seed(0)
    own = dict(MEMBERS["transformers"][name])
    kind = getattr(transformers, own.pop("model"))
    model: nn.Module = kind(kind.config_class(**{"num_labels": _CLASSES, **own, **settings}))
    return model.eval()


def _hub_size(family: str) -> dict[str, Any]:
    """Return the input size of a family of `transformers` whose config states none."""
    side = _SIZES.get(family)
    return {} if side is None else {"input_size": (side, side)}


def check_family(family: str) -> dict[str, Any]:
    """Attach, explain, train a step, save and load a family's member.

    Args:
        family: In `families`.

    Returns:
        A record: family, model, input_size, parameters, layers with their channels and sizes,
        `passed`, and where it did not pass the `reason`: the step and the message.
    """
    start = time.perf_counter()
    record: dict[str, Any] = {"family": family, "model": member(family)}
    step = "build"
    try:
        model, facts = build_member(family)
        record["parameters"] = sum(value.numel() for value in model.parameters())
        step = "attach"
        explainer = attach(model, **facts)
        size = explainer.spec.input_size
        record["input_size"] = list(size)
        raw = torch.rand(2, 3, *size, generator=torch.Generator().manual_seed(1))
        images = normalize(raw, explainer.spec)
        with torch.inference_mode():
            maps = explainer.extract(images[:1])[1]
        record["layers"] = [
            {"name": name, "channels": found.shape[1], "size": list(found.shape[-2:])}
            for name, found in zip(explainer.layers, maps, strict=True)
        ]
        step = "explain"
        first = _explain(explainer, raw)
        step = "train"
        _train(explainer, images)
        step = "save and load"
        trained = _explain(explainer, raw)
        if torch.equal(trained, first):
            raise TTameError("the maps are the same after a training step")
        with tempfile.TemporaryDirectory() as folder:
            path = explainer.save(Path(folder) / "explainer.safetensors")
            again = _explain(load(path, model=model), raw)
        if not torch.equal(trained, again):
            raise TTameError("the loaded explainer gives other maps")
    except Exception as error:  # whatever a family raises belongs into its row
        message = str(error).strip().splitlines()
        record["reason"] = f"{step}: {type(error).__name__}: {(message or [''])[0][:240]}"
    record["passed"] = "reason" not in record
    record["seconds"] = round(time.perf_counter() - start, 2)
    return record


def _explain(explainer: Explainer, raw: Tensor) -> Tensor:
    """Maps of the predicted classes, from one forward pass and finite, or an error."""
    with count_passes(explainer.classifier) as passes:
        maps = explainer.explain(raw).maps
    if passes.forward != len(raw):
        raise TTameError(f"{passes.forward} forward passes for {len(raw)} images")
    if not bool(maps.isfinite().all()):
        raise TTameError("the maps are not finite")
    return maps


def _train(explainer: Explainer, images: Tensor) -> None:
    """One step of the default recipe on the explainer's mechanism, in place."""
    before = weight_digest(explainer.classifier)
    initialize(explainer, images, "classifier")
    module = ExplainerModule(explainer, TrainingConfig.of(learning_rate=1e-3), total_steps=2)
    optimizer = module.configure_optimizers()["optimizer"]
    assert isinstance(optimizer, torch.optim.Optimizer)
    explainer.train()
    parts = module.parts(images)
    parts.total.backward()  # type: ignore[no-untyped-call]
    optimizer.step()
    explainer.eval()
    if not bool(parts.total.isfinite()):
        raise TTameError(f"the loss is {float(parts.total)}")
    if weight_digest(explainer.classifier) != before:
        raise TTameError("the training step changed the classifier")


def check_families(
    names: Sequence[str] | None = None,
    progress: Callable[[dict[str, Any]], None] | None = None,
) -> list[dict[str, Any]]:
    """Check families one after the other.

    Args:
        names: In `families`; default: all.
        progress: Called with every record.
    """
    rows = []
    for family in names or families():
        rows.append(check_family(family))
        if progress:
            progress(rows[-1])
    return rows
