"""Attention capture and the transformer-only methods, against loops and numerical gradients."""

from __future__ import annotations

import copy
from collections.abc import Callable
from functools import cache
from typing import Any

import pytest
import timm
import torch
import torchvision
from torch import Tensor, nn

import ttame
from tests.conftest import IMAGENET
from ttame.errors import TTameError
from ttame.evaluation.cost import count_passes
from ttame.explainer import Explainer
from ttame.methods.attention_weights import attention_blocks, read_attention, take_apart
from ttame.methods.relevance import libra_grad
from ttame.methods.transformer import (
    attention_rollout,
    head_row,
    legrad,
    read_out,
    transformer_attribution,
)

METHODS = {
    "rollout": attention_rollout,
    "attribution": transformer_attribution,
    "LeGrad": legrad,
    "LibraGrad": libra_grad,
}
CLASSES = 4
SMALL: dict[str, Any] = dict(
    patch_size=16, embed_dim=8, depth=2, num_heads=2, num_classes=CLASSES, pretrained=False
)


def with_class_token() -> nn.Module:
    return timm.create_model("vit_tiny_patch16_224", img_size=32, **SMALL)


def with_registers_only() -> nn.Module:
    """Two registers, no class token, average pooling, and photos that are wider than high."""
    return timm.create_model(
        "vit_tiny_patch16_224",
        img_size=(32, 48),
        class_token=False,
        reg_tokens=2,
        global_pool="avg",
        **SMALL,
    )


def distilled() -> nn.Module:
    return timm.create_model("deit_tiny_distilled_patch16_224", img_size=32, **SMALL)


def torchvision_vit() -> nn.Module:
    return torchvision.models.VisionTransformer(
        image_size=32,
        patch_size=16,
        num_layers=2,
        num_heads=2,
        hidden_dim=8,
        mlp_dim=16,
        num_classes=CLASSES,
    )


BUILDERS: dict[str, Callable[[], nn.Module]] = {
    "class token": with_class_token,
    "registers": with_registers_only,
    "distilled": distilled,
    "torchvision": torchvision_vit,
}
SIZES = {"registers": (32, 48)}


def randomize(model: nn.Module) -> nn.Module:
    """Weights that matter: initial ones attend evenly, and torchvision's head is zero."""
    with torch.random.fork_rng():
        torch.manual_seed(3)
        for parameter in model.parameters():
            nn.init.normal_(parameter, std=0.5)
    return model.eval()


def explain(model: nn.Module, size: tuple[int, int] = (32, 32)) -> Explainer:
    layer = "blocks.0" if hasattr(model, "blocks") else "encoder.layers.encoder_layer_0"
    return ttame.attach(model, [layer], input_size=size, **IMAGENET)


@pytest.fixture(params=list(BUILDERS))
def kind(request: pytest.FixtureRequest) -> str:
    return str(request.param)


@pytest.fixture
def vit(kind: str) -> Explainer:
    return explain(randomize(BUILDERS[kind]()), SIZES.get(kind, (32, 32)))


def photos(explainer: Explainer, count: int = 2) -> Tensor:
    generator = torch.Generator().manual_seed(5)
    return torch.randn(count, 3, *explainer.spec.input_size, generator=generator)


TARGETS = torch.tensor([2, 1])


# The model once more, as its formula: loops over blocks, heads and queries, float64.


def block_parts(block: nn.Module) -> tuple[Any, ...]:
    if hasattr(block, "self_attention"):  # torchvision
        inner = block.self_attention
        weight, bias = inner.in_proj_weight, inner.in_proj_bias
        return block.ln_1, weight, bias, inner.out_proj, inner.num_heads, block.ln_2, block.mlp
    inner = block.attn
    weight, bias = inner.qkv.weight, inner.qkv.bias
    return block.norm1, weight, bias, inner.proj, inner.num_heads, block.norm2, block.mlp


def blocks_of(model: nn.Module) -> list[nn.Module]:
    return list(model.blocks if hasattr(model, "blocks") else model.encoder.layers)


def slow_block(block: nn.Module, x: Tensor, bumps: Tensor | None = None) -> tuple[Tensor, Tensor]:
    """Tokens `(P, N, D)` after the block and its probabilities `(P, heads, N, N)`.

    P copies of one image, each with its own `bumps` added to the probabilities before use.
    """
    norm1, weight, bias, proj, heads, norm2, mlp = block_parts(block)
    copies, count, width = x.shape
    size = width // heads
    joint = norm1(x) @ weight.T + bias
    mixed, kept = torch.zeros_like(x), x.new_zeros(copies, heads, count, count)
    for head in range(heads):
        part = slice(head * size, (head + 1) * size)
        query, key, value = (joint[..., n * width : (n + 1) * width][..., part] for n in range(3))
        for i in range(count):
            powers = ((query[:, i : i + 1] * key).sum(dim=-1) / size**0.5).exp()  # (P, N)
            kept[:, head, i] = powers / powers.sum(dim=-1, keepdim=True)
            if bumps is not None:
                kept[:, head, i] += bumps[:, head, i]
            for j in range(count):
                mixed[:, i, part] += kept[:, head, i, j, None] * value[:, j]
    x = x + proj(mixed)
    return x + mlp(norm2(x)), kept


def slow_head(kind: str, model: Any, x: Tensor) -> Tensor:
    if kind == "torchvision":
        return model.heads(model.encoder.ln(x)[:, 0])
    if kind == "registers":
        return model.head(model.fc_norm(x[:, 2:].mean(dim=1)))
    if kind == "distilled":
        return (model.head(model.norm(x)[:, 0]) + model.head_dist(model.norm(x)[:, 1])) / 2
    return model.head(model.norm(x)[:, 0])


@torch.no_grad()
def slow_pass(
    kind: str, model: nn.Module, start: Tensor, depth: int = 0, bumps: Tensor | None = None
) -> tuple[list[Tensor], list[Tensor], list[Tensor]]:
    """Probabilities, tokens and read-out logits of every block; `bumps` at block `depth`."""
    probabilities, tokens, logits = [], [], []
    for index, block in enumerate(blocks_of(model)):
        start, kept = slow_block(block, start, bumps if index == depth else None)
        probabilities.append(kept)
        tokens.append(start)
        logits.append(slow_head(kind, model, start))
    return probabilities, tokens, logits


@cache
def reference(kind: str) -> tuple[nn.Module, list[Tensor], list[Any], list[Any]]:
    """The float64 model, first tokens, slow passes and numerical gradients, an image each.

    The gradients are two lists of `(heads, N, N)`, a block each: of the logit, and of the block's
    own read-out.
    """
    model = randomize(BUILDERS[kind]()).double()
    images = torch.randn(
        2, 3, *SIZES.get(kind, (32, 32)), generator=torch.Generator().manual_seed(5)
    )
    starts: list[Tensor] = []
    handle = blocks_of(model)[0].register_forward_pre_hook(
        lambda _module, args: starts.extend(args[0].detach())
    )
    model(images.double())
    handle.remove()
    passes = [slow_pass(kind, model, start[None]) for start in starts]
    passes = [tuple([value[0] for value in part] for part in found) for found in passes]
    gradients = []
    for start, (probabilities, _, _), target in zip(starts, passes, TARGETS, strict=True):
        last, own = [], []
        for depth, found in enumerate(probabilities):
            entries = found.numel()
            bumps = 1e-5 * torch.eye(entries, dtype=torch.float64).view(entries, *found.shape)
            copies = start.expand(entries, -1, -1)
            up = slow_pass(kind, model, copies, depth, bumps)[2]
            down = slow_pass(kind, model, copies, depth, -bumps)[2]
            for kept, index in ((last, -1), (own, depth)):
                slope = (up[index][:, target] - down[index][:, target]) / 2e-5
                kept.append(slope.view(found.shape))
        gradients.append((last, own))
    return model, starts, passes, gradients


def patches(kind: str) -> tuple[int, int, int]:
    """Prefix tokens, rows and columns."""
    return {"registers": (2, 2, 3), "distilled": (2, 2, 2)}.get(kind, (1, 2, 2))


def slow_row(kind: str, matrix: Tensor) -> Tensor:
    """What the head reads of an N×N matrix, on the patches."""
    before, h, w = patches(kind)
    rows = {"registers": range(2, 8), "distilled": range(2)}.get(kind, range(1))
    return torch.stack([matrix[i, before:] for i in rows]).mean(dim=0).reshape(1, h, w)


def close(found: Tensor, expected: list[Tensor]) -> bool:
    assert found.dtype == torch.float32 and not found.requires_grad
    return torch.allclose(found.double(), torch.stack(expected), rtol=1e-3, atol=1e-5)


def test_capture_shows_what_the_loops_compute(kind: str, vit: Explainer) -> None:
    images = photos(vit)
    with torch.no_grad():
        untouched = vit.classifier(images)
    _, _, passes, _ = reference(kind)
    seen = read_attention(vit.classifier, images)
    assert torch.allclose(seen.logits, untouched, atol=1e-4)
    assert (seen.prefix, *seen.grid) == patches(kind)
    assert len(seen.probabilities) == len(seen.tokens) == 2
    for index, (probabilities, tokens, logits) in enumerate(passes):
        for depth in range(2):
            found = seen.probabilities[depth][index].double()
            assert torch.allclose(found, probabilities[depth], atol=1e-4)
            assert torch.allclose(seen.tokens[depth][index].double(), tokens[depth], atol=1e-4)
            found = read_out(vit.classifier, seen.tokens[depth])[index].double()
            assert torch.allclose(found, logits[depth], atol=1e-4)
        assert torch.allclose(seen.logits[index].double(), logits[-1], atol=1e-4)


def test_gradients_are_those_of_perturbed_probabilities(kind: str) -> None:
    model, _, _, gradients = reference(kind)
    images = torch.randn(
        2, 3, *SIZES.get(kind, (32, 32)), generator=torch.Generator().manual_seed(5)
    )
    seen = read_attention(model, images.double())
    score = seen.logits[0, TARGETS[0]] + seen.logits[1, TARGETS[1]]
    for depth, found in enumerate(torch.autograd.grad(score, seen.probabilities)):
        expected = torch.stack([last[depth] for last, _ in gradients])
        assert float(expected.abs().max()) > 1e-3
        assert torch.allclose(found, expected, rtol=1e-4, atol=1e-6)


def test_rollout_is_the_product_of_its_blocks(kind: str, vit: Explainer) -> None:
    expected = []
    for probabilities, _, _ in reference(kind)[2]:
        count = probabilities[0].shape[-1]
        product = torch.eye(count, dtype=torch.float64)
        for found in probabilities:
            step = sum(found[head] for head in range(len(found))) / len(found)
            step = 0.5 * step + 0.5 * torch.eye(count, dtype=torch.float64)
            product = torch.stack([row / row.sum() for row in step]) @ product
        expected.append(slow_row(kind, product))
    assert close(attention_rollout(vit)(photos(vit), TARGETS), expected)


def test_attribution_is_its_rule(kind: str, vit: Explainer) -> None:
    _, _, passes, gradients = reference(kind)
    expected = []
    for (probabilities, _, _), (last, _) in zip(passes, gradients, strict=True):
        relevance = torch.eye(probabilities[0].shape[-1], dtype=torch.float64)
        for found, gradient in zip(probabilities, last, strict=True):
            heads = [(found[head] * gradient[head]).clamp_min(0) for head in range(len(found))]
            relevance = relevance + sum(heads) / len(heads) @ relevance
        expected.append(slow_row(kind, relevance))
    assert close(transformer_attribution(vit)(photos(vit), TARGETS), expected)


def test_legrad_is_the_mean_positive_gradient_of_its_keys(kind: str, vit: Explainer) -> None:
    before, h, w = patches(kind)
    expected = []
    for _, own in reference(kind)[3]:
        total = torch.zeros(h * w, dtype=torch.float64)
        for gradient in own:
            heads, count, _ = gradient.shape
            for head in range(heads):
                for query in range(count):
                    total += gradient[head, query, before:].clamp_min(0) / (heads * count)
        expected.append((total / len(own)).reshape(1, h, w))
    assert close(legrad(vit)(photos(vit), TARGETS), expected)


@pytest.mark.parametrize("method", list(METHODS))
def test_no_map_depends_on_the_batch_or_the_gradient_mode(method: str, vit: Explainer) -> None:
    images = photos(vit, 3)
    targets, before, run = torch.tensor([0, 1, 3]), images.clone(), METHODS[method](vit)
    together = run(images, targets)
    assert together.shape == (3, 1, vit.spec.input_size[0] // 16, vit.spec.input_size[1] // 16)
    assert torch.equal(images, before)
    assert not torch.allclose(together[0], together[1], atol=1e-4)
    for index in range(3):
        alone = run(images[index : index + 1], targets[index : index + 1])
        assert torch.allclose(together[index : index + 1], alone, atol=1e-4)
    with torch.inference_mode():
        assert torch.allclose(run(images.clone(), targets.clone()), together, atol=1e-6)
    with torch.no_grad():
        assert torch.allclose(METHODS[method](vit)(images, targets), together, atol=1e-6)


def test_only_rollout_ignores_the_target_class(vit: Explainer) -> None:
    images = photos(vit)
    for name, factory in METHODS.items():
        run = factory(vit)
        first, second = run(images, torch.tensor([0, 0])), run(images, torch.tensor([3, 3]))
        assert torch.equal(first, second) == (name == "rollout"), name


def test_passes_are_counted(vit: Explainer) -> None:
    found = {}
    for name, factory in METHODS.items():
        run = factory(vit)
        with count_passes(vit.classifier) as passes:
            run(photos(vit), TARGETS)
        found[name] = (passes.forward, passes.backward)
    assert found == {
        "rollout": (2, 0), "attribution": (2, 2), "LeGrad": (2, 2), "LibraGrad": (2, 2)
    }  # fmt: skip


def traces(model: nn.Module) -> list[tuple[object, ...]]:
    return [
        (
            name,
            len(module._forward_hooks),
            len(module._forward_pre_hooks),
            getattr(module, "fused_attn", None),
            vars(module).get("forward"),
        )
        for name, module in model.named_modules()
    ]


def test_nothing_is_left_behind_also_after_an_error(vit: Explainer) -> None:
    model = vit.classifier
    before = traces(model)
    for factory in METHODS.values():
        run = factory(vit)
        run(photos(vit), TARGETS)
        assert traces(model) == before

        def fail(_module: nn.Module, _args: object) -> None:
            raise RuntimeError("broken")

        handle = blocks_of(model)[1].register_forward_pre_hook(fail)
        with pytest.raises(RuntimeError, match="broken"):
            run(photos(vit), TARGETS)
        handle.remove()
        assert traces(model) == before
    assert all(value.grad is None for value in model.parameters())
    assert not any(value.requires_grad for value in model.parameters())


def test_a_view_is_taken_apart_and_the_model_is_not() -> None:
    for model in (randomize(with_class_token()), randomize(torchvision_vit())):
        before = traces(model)
        view, probabilities, tokens = take_apart(model)
        assert traces(model) == before
        assert [id(own) for own in view.parameters()] == [id(own) for own in model.parameters()]
        with torch.no_grad():
            model(torch.zeros(1, 3, 32, 32))
            assert probabilities == tokens == []
            view(torch.zeros(1, 3, 32, 32))
        assert len(probabilities) == len(tokens) == len(blocks_of(model))


def test_rollout_of_even_attention_by_hand() -> None:
    """A = J/N: a block is (J/N + I)/2, two are (3J/N + I)/4, so patches get 3/(4N) = 0.15."""
    model = randomize(with_class_token())
    for block in model.blocks:
        nn.init.zeros_(block.attn.qkv.weight)
        nn.init.zeros_(block.attn.qkv.bias)
    vit = explain(model)
    maps = attention_rollout(vit)(photos(vit), TARGETS)
    assert torch.allclose(maps, torch.full((2, 1, 2, 2), 0.15), atol=1e-6)


def test_head_row_by_hand() -> None:
    def row(model: nn.Module, size: tuple[int, int] = (32, 32)) -> list[float]:
        seen = read_attention(model.eval(), torch.zeros(1, 3, *size), gradients=False)
        assert not seen.probabilities[0].requires_grad
        return [round(weight, 4) for weight in head_row(model, seen).tolist()]

    assert row(with_class_token()) == [1, 0, 0, 0, 0]
    assert row(torchvision_vit()) == [1, 0, 0, 0, 0]
    assert row(distilled()) == [0.5, 0.5, 0, 0, 0, 0]
    assert row(with_registers_only(), (32, 48)) == [0, 0] + [0.1667] * 6
    pooled = timm.create_model("vit_tiny_patch16_224", img_size=32, global_pool="avg", **SMALL)
    assert row(pooled) == [0, 0.25, 0.25, 0.25, 0.25]  # its class token is not read


@pytest.mark.parametrize("name", ["beit_base_patch16_224", "eva02_tiny_patch14_224"])
def test_timm_relatives_are_read_too(name: str) -> None:
    model = timm.create_model(name, img_size=32, **SMALL)
    model = randomize(model)
    images = torch.randn(2, 3, 32, 32)
    seen = read_attention(model, images)
    with torch.no_grad():
        assert torch.allclose(seen.logits, model(images), atol=1e-4)
    assert torch.allclose(read_out(model, seen.tokens[-1]), seen.logits, atol=1e-4)
    for factory in (attention_rollout, transformer_attribution, legrad):
        assert bool(factory(explain(model))(images, TARGETS).isfinite().all())


@pytest.mark.parametrize("method", list(METHODS))
def test_a_cnn_is_refused_with_the_reason(method: str, explainer: Explainer) -> None:
    with pytest.raises(
        TTameError, match=r"reads attention probabilities; ToyClassifier has none.*Vision Transf"
    ):
        METHODS[method](explainer)


def test_windowed_and_other_attention_is_refused() -> None:
    window: dict[str, Any] = dict(img_size=32, patch_size=2, window_size=4, pretrained=False)
    swin = timm.create_model("swin_tiny_patch4_window7_224", embed_dim=12, depths=(1, 1), **window)
    swin_torchvision = torchvision.models.SwinTransformer([4, 4], 12, [1, 1], [3, 3], [4, 4])
    for model in (swin, swin_torchvision):
        with pytest.raises(TTameError, match=r"within windows only.*N varies by windows"):
            read_attention(model.eval(), torch.zeros(1, 3, 32, 32))
    local = timm.create_model("samvit_base_patch16", img_size=64, window_size=2, **SMALL)
    with pytest.raises(TTameError, match="within windows only"):
        read_attention(local.eval(), torch.zeros(1, 3, 64, 64))
    twice = with_class_token()
    twice.blocks[0].more = copy.deepcopy(twice.blocks[0].attn)
    with pytest.raises(TTameError, match="2 attentions in one block"):
        read_attention(twice, torch.zeros(1, 3, 32, 32))
    mixed = with_class_token()
    mixed.blocks[1] = nn.Identity()
    with pytest.raises(TTameError, match="attention in 1 of 2 blocks"):
        read_attention(mixed, torch.zeros(1, 3, 32, 32))
    assert (
        len(attention_blocks(with_class_token())) == len(attention_blocks(torchvision_vit())) == 2
    )
    with pytest.raises(TTameError, match="none in readable self-attention blocks"):
        attention_blocks(nn.Linear(2, 2))


def test_rows_that_are_no_distribution_are_refused() -> None:
    model = with_class_token().eval()
    model.blocks[1].attn.attn_drop = nn.Hardtanh(0, 0.01)
    with pytest.raises(TTameError, match="do not sum to 1"):
        read_attention(model, torch.zeros(1, 3, 32, 32))
    assert not model.blocks[1].attn.attn_drop._forward_hooks


def test_checkpointing_is_refused_where_gradients_are_needed() -> None:
    model = with_class_token().eval()
    model.set_grad_checkpointing(True)
    image = torch.zeros(1, 3, 32, 32)
    with pytest.raises(TTameError, match=r"set_grad_checkpointing\(False\)"):
        read_attention(model, image)
    read_attention(model, image, gradients=False)


def test_masked_attention_is_refused() -> None:
    model = torchvision_vit().eval()
    view, probabilities, _ = take_apart(model)
    inner, x = view.encoder.layers[0].self_attention, torch.zeros(1, 5, 8)
    _, weights = inner(x, x, x)
    assert torch.allclose(weights, torch.full((1, 5, 5), 0.2))  # heads averaged, as in torch
    assert inner(x, x, x, average_attn_weights=False)[1].shape == (1, 2, 5, 5)
    with pytest.raises(TTameError, match="without masks"):
        inner(x, x, x, attn_mask=torch.zeros(5, 5))
    with pytest.raises(TTameError, match="plain self-attention"):
        inner(x, x + 1, x)
    assert len(probabilities) == 2


def test_legrad_needs_a_head_that_gives_the_logits() -> None:
    class Scaled(timm.models.vision_transformer.VisionTransformer):
        def forward(self, x: Tensor) -> Tensor:
            return 2 * super().forward(x)

    shape = {key: value for key, value in SMALL.items() if key != "pretrained"}
    scaled = explain(randomize(Scaled(img_size=32, **shape)))
    with pytest.raises(TTameError, match="do not give its logits"):
        legrad(scaled)
    transformer_attribution(scaled)
    bare = randomize(with_class_token())
    with pytest.raises(TTameError, match="forward_head"):
        read_out(nn.Sequential(bare), torch.zeros(1, 5, 8))


@pytest.mark.parametrize("method", list(METHODS))
def test_bad_targets_are_refused(method: str) -> None:
    vit = explain(randomize(with_class_token()))
    run = METHODS[method](vit)
    with pytest.raises(TTameError, match=r"one target class for each of 2 images.*\(3,\)"):
        run(photos(vit), torch.tensor([0, 1, 2]))
    with pytest.raises(TTameError, match="int64"):
        run(photos(vit), torch.tensor([0.0, 1.0]))
    if method != "rollout":
        for wrong in (-1, CLASSES):
            with pytest.raises(TTameError, match=f"0 to 3, got .0, {wrong}"):
                run(photos(vit), torch.tensor([0, wrong]))
