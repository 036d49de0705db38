"""Families: whether the method works on a small member of every model family of timm.

The networks have random weights: what is checked is that feature maps are found and lie in place,
that an explanation takes one forward pass, that a training step changes the mechanism alone, and
that a saved explainer comes back with the same maps. How good the maps are is another question.
"""

from __future__ import annotations

import tempfile
import time
from collections import defaultdict
from collections.abc import Callable, Mapping, Sequence
from functools import cache
from pathlib import Path
from typing import Any

import timm
import torch
from torch import Tensor, nn

from ttame.classifiers.weights import weight_digest
from ttame.cost import count_passes
from ttame.errors import TTameError, suggest
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
MEMBERS: Mapping[str, str] = {
    "beit": "beit_base_patch16_224",
    "byoanet": "halonet26t",
    "byobnet": "mobileone_s0",
    "cait": "cait_xxs24_224",
    "coat": "coat_tiny",
    "convit": "convit_tiny",
    "convmixer": "convmixer_768_32",
    "convnext": "convnext_atto",
    "cpubone": "cpubone_nano",
    "crossvit": "crossvit_9_240",
    "csatv2": "csatv2",
    "cspnet": "cs3darknet_s",
    "cspnext": "cspnext_tiny",
    "davit": "davit_tiny",
    "deepseek_vit": "deepseek_vit_412m",
    "deit": "deit_tiny_distilled_patch16_224",
    "densenet": "densenet121",
    "dla": "dla46_c",
    "dpn": "dpn68",
    "edgenext": "edgenext_xx_small",
    "efficientformer": "efficientformer_l1",
    "efficientformer_v2": "efficientformerv2_s0",
    "efficientnet": "efficientnet_b0",
    "efficientvim": "efficientvim_m1",
    "efficientvit_mit": "efficientvit_b0",
    "efficientvit_msra": "efficientvit_m0",
    "eva": "eva02_tiny_patch14_224",
    "fasternet": "fasternet_t0",
    "fastvit": "fastvit_t8",
    "focalnet": "focalnet_tiny_srf",
    "gcvit": "gcvit_xxtiny",
    "gemma4_vit": "gemma4_vit_167m",
    "ghostnet": "ghostnet_050",
    "hardcorenas": "hardcorenas_a",
    "hgnet": "hgnetv2_b0",
    "hiera": "hiera_tiny_224",
    "hieradet_sam2": "sam2_hiera_tiny",
    "hrnet": "hrnet_w18_small",
    "iformer": "iformer_t",
    "inception_next": "inception_next_atto",
    "lcnetv2": "lcnetv2_small",
    "levit": "levit_128s",
    "lowformer": "lowformer_b0",
    "mambaout": "mambaout_femto",
    "maxxvit": "maxvit_pico_rw_256",
    "metaformer": "poolformer_s12",
    "mlp_mixer": "gmlp_ti16_224",
    "mobilenetv3": "mobilenetv3_small_050",
    "mobilenetv5": "mobilenetv5_base",
    "mobilevit": "mobilevit_xxs",
    "mvitv2": "mvitv2_tiny",
    "naflexvit": "naflexvit_base_patch16_gap",
    "nest": "nest_tiny",
    "nextvit": "nextvit_small",
    "nfnet": "nf_regnet_b0",
    "pit": "pit_ti_224",
    "pvt_v2": "pvt_v2_b0",
    "qwen3_vit": "qwen3_vit_88m",
    "rdnet": "rdnet_tiny",
    "regnet": "regnetx_002",
    "repghost": "repghostnet_050",
    "repvit": "repvit_m0_9",
    "res2net": "res2net50_48w_2s",
    "resnest": "resnest14d",
    "resnet": "resnet18",
    "resnetv2": "resnetv2_18",
    "rexnet": "rexnet_100",
    "selecsls": "selecsls42",
    "senet": "legacy_seresnet18",
    "sequencer": "sequencer2d_s",
    "shvit": "shvit_s1",
    "sknet": "skresnet18",
    "starnet": "starnet_s050",
    "swiftformer": "swiftformer_xs",
    "swin_transformer": "swin_tiny_patch4_window7_224",
    "swin_transformer_v2": "swinv2_tiny_window8_256",
    "swin_transformer_v2_cr": "swinv2_cr_tiny_ns_224",
    "tiny_vit": "tiny_vit_5m_224",
    "tnt": "tnt_s_patch16_224",
    "tresnet": "tresnet_m",
    "twins": "twins_svt_small",
    "vgg": "vgg11_bn",
    "visformer": "visformer_tiny",
    "vision_transformer": "vit_tiny_patch16_224",
    "vision_transformer_hybrid": "vit_tiny_r_s16_p8_224",
    "vision_transformer_relpos": "vit_relpos_small_patch16_224",
    "vision_transformer_sam": "samvit_base_patch16_224",
    "vitamin": "vitamin_small_224",
    "volo": "volo_d1_224",
    "vovnet": "ese_vovnet19b_slim_dw",
    "xception_aligned": "xception41",
    "xcit": "xcit_nano_12_p16_224",
}


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
