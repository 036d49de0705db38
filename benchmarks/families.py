"""Families: whether the method works on a small member of every model family of timm.

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
from pathlib import Path
from typing import Any

import timm
import torch
from torch import Tensor, nn

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
_SIZES: Mapping[str, int] = {"deepseek_vit": 112}  # where the patches ask for another
# A small member of each family; of families that are not listed, the first by name.
MEMBERS: Mapping[str, str] = tomllib.loads(
    Path(__file__).with_suffix(".toml").read_text(encoding="utf-8")
)


@cache
def families() -> Mapping[str, tuple[str, ...]]:
    """The model families of timm, that is its modules of models, with the names of their models."""
    found: dict[str, list[str]] = defaultdict(list)
    for name in timm.list_models():
        found[timm.models.model_entrypoint(name).__module__.rpartition(".")[2]].append(name)
    return {family: tuple(found[family]) for family in sorted(found)}


def member(family: str) -> str:
    """The model that stands for a family.

    Raises:
        TTameError: If timm has no such family.
    """
    if family not in families():
        raise TTameError(f"timm has no model family {family!r}.{suggest(family, families())}")
    return MEMBERS.get(family, families()[family][0])


def build_member(family: str) -> tuple[nn.Module, tuple[int, int]]:
    """A family's member with random weights and ten classes, and the input size for it."""
    torch.manual_seed(0)
    model: nn.Module = timm.create_model(member(family), num_classes=_CLASSES)
    config: Mapping[str, Any] = model.pretrained_cfg  # type: ignore[assignment]
    height, width = config["input_size"][1:]
    if not config.get("fixed_input_size") and not hasattr(model, "set_input_size"):
        least = (config.get("min_input_size") or (0, 0, 0))[1:]
        height, width = (max(side, _SIZES.get(family, _SMALL)) for side in least)
    return model.eval(), (int(height), int(width))


def check_family(family: str) -> dict[str, Any]:
    """Attach, explain, train a step, save and load a family's member.

    Args:
        family: A timm family.

    Returns:
        A record: family, model, input_size, parameters, layers with their channels and sizes,
        `passed`, and where it did not pass the `reason`: the step and the message.
    """
    start = time.perf_counter()
    record: dict[str, Any] = {"family": family, "model": member(family)}
    step = "build"
    try:
        model, size = build_member(family)
        record |= {
            "input_size": list(size),
            "parameters": sum(value.numel() for value in model.parameters()),
        }
        step = "attach"
        explainer = attach(model, input_size=size)
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
        names: Families; default: all that timm has.
        progress: Called with every record.
    """
    rows = []
    for family in names or families():
        rows.append(check_family(family))
        if progress:
            progress(rows[-1])
    return rows
