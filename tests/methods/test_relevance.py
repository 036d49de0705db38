"""LibraGrad and AttnLRP against the transformer as its formula, with factors held constant."""

from __future__ import annotations

import math
from collections.abc import Callable
from typing import Any

import pytest
import timm
import torch
import torch.nn.functional as F
from torch import Tensor, nn

import ttame
from tests.conftest import IMAGENET
from tests.methods.test_transformer import (
    BUILDERS,
    SIZES,
    SMALL,
    TARGETS,
    block_parts,
    blocks_of,
    explain,
    patches,
    photos,
    randomize,
    slow_head,
    torchvision_vit,
    with_class_token,
)
from ttame.errors import TTameError
from ttame.evaluation.cost import count_passes
from ttame.explainer import Explainer
from ttame.methods import build
from ttame.methods.relevance import libra_grad

Factors = list[Tensor]


def first_tokens(kind: str, model: nn.Module) -> Tensor:
    """What enters the first block, `(2, N, D)` float64."""
    kept: list[Tensor] = []
    handle = blocks_of(model)[0].register_forward_pre_hook(
        lambda _module, args: kept.append(args[0].detach())
    )
    images = torch.randn(
        2, 3, *SIZES.get(kind, (32, 32)), generator=torch.Generator().manual_seed(5)
    )
    model(images.double())
    handle.remove()
    return kept[0]


class Frozen:
    """The logits as a function of the first tokens, with factors that stay as first computed.

    Attributes:
        factors: Probabilities, deviations and gates, in the order of the first pass.
    """

    def __init__(self, kind: str, model: Any) -> None:
        self.kind, self.model = kind, model
        self.factors: Factors = []
        self.replay = False
        self.place = 0

    def factor(self, value: Tensor) -> Tensor:
        if not self.replay:
            self.factors.append(value)
        self.place += 1
        return self.factors[self.place - 1]

    def norm(self, module: Any, x: Tensor) -> Tensor:
        if isinstance(module, nn.Identity):
            return x
        centred = x - x.mean(dim=-1, keepdim=True)
        deviation = self.factor((centred**2).mean(dim=-1, keepdim=True).add(module.eps).sqrt())
        return centred / deviation * module.weight + module.bias

    def block(self, block: nn.Module, x: Tensor) -> Tensor:
        norm1, weight, bias, proj, heads, norm2, mlp = block_parts(block)
        joint = self.norm(norm1, x) @ weight.T + bias
        query, key, value = (
            part.reshape(*x.shape[:2], heads, -1).transpose(1, 2)
            for part in joint.split(x.shape[-1], dim=-1)
        )
        scores = query @ key.transpose(-2, -1) / math.sqrt(query.shape[-1])
        mixed = self.factor(scores.softmax(dim=-1)) @ value
        x = x + proj(mixed.transpose(1, 2).reshape(x.shape))
        first, last = (mlp[0], mlp[3]) if isinstance(mlp, nn.Sequential) else (mlp.fc1, mlp.fc2)
        hidden = first(self.norm(norm2, x))
        gate = self.factor(0.5 * (1 + torch.erf(hidden / math.sqrt(2))))  # of GELU
        return x + last(hidden * gate)

    @torch.no_grad()
    def __call__(self, x: Tensor) -> Tensor:
        self.place = 0
        for block in blocks_of(self.model):
            x = self.block(block, x)
        model = self.model
        if self.kind == "torchvision":
            return model.heads(self.norm(model.encoder.ln, x)[:, 0])
        if self.kind == "registers":
            return model.head(self.norm(model.fc_norm, x[:, 2:].mean(dim=1)))
        x = self.norm(model.norm, x)
        if self.kind == "distilled":
            return (model.head(x[:, 0]) + model.head_dist(x[:, 1])) / 2
        return model.head(x[:, 0])


# LibraGrad


@pytest.mark.parametrize("kind", list(BUILDERS))
def test_libra_grad_is_what_the_logit_loses_without_a_token(kind: str) -> None:
    """The rest is affine: without a token the logit falls by just the token's relevance."""
    model = randomize(BUILDERS[kind]()).double()
    start = first_tokens(kind, model)
    frozen = Frozen(kind, model)
    whole = frozen(start)
    expected_logits = slow_head(kind, model, _through(model, start))
    assert torch.allclose(whole, expected_logits, atol=1e-9)
    frozen.replay = True
    before, h, w = patches(kind)
    expected = torch.zeros(2, start.shape[1], dtype=torch.float64)
    for token in range(start.shape[1]):
        without = start.clone()
        without[:, token] = 0
        expected[:, token] = (whole - frozen(without)).gather(1, TARGETS[:, None])[:, 0]
    # Complete: the relevances of all tokens, and what is left without any, are the logit.
    nothing = frozen(torch.zeros_like(start)).gather(1, TARGETS[:, None])[:, 0]
    logit = whole.gather(1, TARGETS[:, None])[:, 0]
    assert torch.allclose(expected.sum(dim=1) + nothing, logit, atol=1e-9)
    vit = explain(randomize(BUILDERS[kind]()), SIZES.get(kind, (32, 32)))
    found = libra_grad(vit)(photos(vit), TARGETS)
    assert found.dtype == torch.float32 and found.shape == (2, 1, h, w)
    wanted = expected[:, before:].reshape(2, 1, h, w)
    assert float(wanted.min()) < 0
    assert near(found, wanted)


def near(found: Tensor, wanted: Tensor) -> bool:
    """Compare relevances up to float32's rounding, relative to the largest."""
    return float((found.double() - wanted).abs().max() / wanted.abs().max()) < 2e-3


@torch.no_grad()
def _through(model: nn.Module, tokens: Tensor) -> Tensor:
    for block in blocks_of(model):
        tokens = block(tokens)
    return tokens


def test_an_activation_at_zero_has_a_gate() -> None:
    model = with_class_token()
    nn.init.zeros_(model.blocks[0].mlp.fc1.weight)
    nn.init.zeros_(model.blocks[0].mlp.fc1.bias)
    vit = explain(model.eval())
    assert bool(build("LibraGrad", vit)(photos(vit), TARGETS).isfinite().all())


@pytest.mark.parametrize(
    "name", ["beit_base_patch16_224", "eva02_tiny_patch14_224", "vit_base_patch16_siglip_224"]
)
def test_what_is_not_affine_is_refused(name: str) -> None:
    """No `qkv` module, gated MLPs, a head that attends."""
    settings = {key: value for key, value in SMALL.items() if key != "num_heads"}
    model = timm.create_model(name, img_size=32, num_heads=2, **settings)
    vit = explain(randomize(model))
    with pytest.raises(TTameError, match=r"relevances miss the logit by .*not locally affine"):
        libra_grad(vit)


def test_checkpointed_gradients_are_refused() -> None:
    model = with_class_token()
    vit = explain(randomize(model))
    vit.classifier.set_grad_checkpointing(True)  # type: ignore[operator]
    with pytest.raises(TTameError, match=r"set_grad_checkpointing\(False\)"):
        libra_grad(vit)


# AttnLRP


def lrp_relevance(kind: str, model: Any, start: Tensor) -> Tensor:
    """AttnLRP of all tokens as input times gradient: deviations and gates constant, and the
    gradients of queries and keys divided by 4, of values by 2."""

    def share(value: Tensor, parts: int) -> Tensor:
        return value / parts + (value - value / parts).detach()

    class Shared(Frozen):
        def factor(self, value: Tensor) -> Tensor:
            return value.detach()

        def block(self, block: nn.Module, x: Tensor) -> Tensor:
            norm1, weight, bias, proj, heads, norm2, mlp = block_parts(block)
            joint = self.norm(norm1, x) @ weight.T + bias
            query, key, value = (
                share(part, by).reshape(*x.shape[:2], heads, -1).transpose(1, 2)
                for part, by in zip(joint.split(x.shape[-1], dim=-1), (4, 4, 2), strict=True)
            )
            scores = query @ key.transpose(-2, -1) / math.sqrt(query.shape[-1])
            mixed = scores.softmax(dim=-1) @ value
            x = x + proj(mixed.transpose(1, 2).reshape(x.shape))
            first, last = (mlp[0], mlp[3]) if isinstance(mlp, nn.Sequential) else (mlp.fc1, mlp.fc2)
            hidden = first(self.norm(norm2, x))
            return x + last(hidden * self.factor(F.gelu(hidden) / hidden))

    tokens = start.clone().requires_grad_(True)
    with torch.enable_grad():
        logits = Shared.__call__.__wrapped__(Shared(kind, model), tokens)  # type: ignore[attr-defined]
        score = logits.gather(1, TARGETS[:, None]).sum()
    (gradient,) = torch.autograd.grad(score, tokens)
    return (gradient * start).sum(dim=-1)


@pytest.mark.parametrize("kind", ["class token", "torchvision"])
def test_attn_lrp_is_its_rules_as_input_times_gradient(kind: str) -> None:
    pytest.importorskip("lxt", reason="the extra lrp is not installed")
    model = randomize(BUILDERS[kind]()).double()
    relevance = lrp_relevance(kind, model, first_tokens(kind, model))
    before, h, w = patches(kind)
    vit = explain(randomize(BUILDERS[kind]()))
    method = build("AttnLRP", vit)
    with count_passes(vit.classifier) as passes:
        found = method(photos(vit), TARGETS)
    assert (passes.forward, passes.backward) == (2, 2)
    assert found.shape == (2, 1, h, w) and found.dtype == torch.float32
    wanted = relevance[:, before:].reshape(2, 1, h, w)
    assert near(found, wanted)
    assert not near(build("LibraGrad", vit)(photos(vit), TARGETS), wanted)


def with_scale() -> nn.Module:
    return timm.create_model("vit_tiny_patch16_224", img_size=32, init_values=0.5, **SMALL)


def binary() -> nn.Module:
    return timm.create_model("vit_tiny_patch16_224", img_size=32, **{**SMALL, "num_classes": 1})


@pytest.mark.parametrize(
    ("model", "options", "why"),
    [
        (BUILDERS["registers"], {"input_size": (32, 48)}, "are built otherwise"),
        (BUILDERS["distilled"], {}, "are built otherwise"),
        (with_scale, {}, "are built otherwise"),
        (binary, {"activation": "sigmoid"}, "has no logit per class"),
    ],
)
def test_attn_lrp_is_refused_where_it_does_not_apply(
    model: Callable[[], nn.Module], options: dict[str, Any], why: str
) -> None:
    pytest.importorskip("lxt", reason="the extra lrp is not installed")
    vit = ttame.attach(
        randomize(model()), ["blocks.0"], **{"input_size": (32, 32), **options}, **IMAGENET
    )
    with pytest.raises(TTameError, match=f"the class token, not to .*: it.* {why}; take"):
        build("AttnLRP", vit)


def test_attn_lrp_refuses_a_cnn(explainer: Explainer) -> None:
    pytest.importorskip("lxt", reason="the extra lrp is not installed")
    with pytest.raises(TTameError, match=r"AttnLRP reads attention prob.*; ToyClassifier has"):
        build("AttnLRP", explainer)


def test_a_missing_package_is_named(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr("ttame.errors.find_spec", lambda _name: None)
    vit = explain(randomize(torchvision_vit()))
    with pytest.raises(TTameError, match=r"lxt is not installed; pip install 'ttame\[lrp\]'"):
        build("AttnLRP", vit)
