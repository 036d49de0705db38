"""Attention probabilities: one forward pass of a Vision Transformer gives those of every block.

It reads timm's transformers (`blocks`, each with one self-attention) and torchvision's
(`encoder.layers`, each with one `nn.MultiheadAttention`). Both compute their attention in one
fused step that never shows the probabilities; a view of the model for one pass takes it apart.
"""

from __future__ import annotations

import math
from collections.abc import Callable
from dataclasses import dataclass
from typing import Any

import torch
import torch.nn.functional as F
from torch import Tensor, nn

from ttame.classifiers.huggingface import hub_model
from ttame.classifiers.passes import private_view
from ttame.errors import TTameError
from ttame.features import TokenLayout, token_grid


@dataclass(frozen=True)
class AttentionPass:
    """What one forward pass of a Vision Transformer with L blocks shows.

    Attributes:
        logits: `(B, K)`.
        probabilities: After the softmax, L times `(B, heads, N, N)`: queries, then keys. With
            gradients, the very tensors that the logits were computed from.
        tokens: Output of each block, L times `(B, N, D)`.
        prefix: Number of tokens before the patch tokens (class, distillation, registers).
        grid: Rows and columns (h, w) of the patch tokens, N = prefix + h·w.
    """

    logits: Tensor
    probabilities: tuple[Tensor, ...]
    tokens: tuple[Tensor, ...]
    prefix: int
    grid: tuple[int, int]


def attention_blocks(model: nn.Module, name: str = "") -> tuple[tuple[nn.Module, nn.Module], ...]:
    """List the blocks of a Vision Transformer in order, each with its self-attention module.

    Args:
        model: The classifier; it is not run.
        name: What to call it in messages; default: its class.

    Raises:
        TTameError: If there is no list of blocks with one attention each, if attention is
            windowed, or if the model is one of `transformers`.
    """
    name = name or type(model).__name__
    if hub_model(model) is not None:
        raise TTameError(
            f"{name} is a classifier of transformers, and attention is read from networks of timm "
            "and torchvision only; take its counterpart there, or a method for any network, such "
            "as Grad-CAM"
        )
    kinds = {type(module).__name__ for module in model.modules()}
    windowed = min((kind for kind in kinds if "Window" in kind), default="")
    if windowed:
        raise _windowed(name, windowed)
    pairs, blocks = [], _block_list(model)
    for block in blocks:
        found = [module for module in block.modules() if _is_attention(module)]
        if len(found) > 1:
            raise _refused(name, f"has {len(found)} attentions in one block, of no single order")
        pairs += [(block, module) for module in found]
    if not pairs:
        raise _refused(name, "has none in readable self-attention blocks")
    if len(pairs) != len(blocks):
        seen = f"{len(pairs)} of {len(blocks)} blocks"
        raise _refused(name, f"has attention in {seen}, the others mix tokens unseen")
    return tuple(pairs)


def take_apart(model: nn.Module, name: str = "") -> tuple[nn.Module, list[Tensor], list[Tensor]]:
    """Make a view of a transformer that records its attention probabilities and tokens.

    The view shares the model's parameters; the model itself is not changed, so that others may run
    it at the same time. Nothing is cloned: what is recorded lies on the autograd graph of the
    output.

    Args:
        model: The transformer, in `eval()`.
        name: What to call it in messages; default: its class.

    Returns:
        The view, for one forward pass, and two lists that it fills: probabilities
        `(B, heads, N, N)` and tokens `(B, N, D)`.

    Raises:
        TTameError: As `attention_blocks`.
    """
    view = private_view(model)
    probabilities: list[Tensor] = []
    tokens: list[Tensor] = []
    for block, attention in attention_blocks(view, name or type(model).__name__):
        if isinstance(attention, nn.MultiheadAttention):
            vars(attention)["forward"] = explicit_attention(attention, probabilities.append)
        else:  # timm: without the fused step, the dropout's output is what multiplies the values
            vars(attention)["fused_attn"] = False
            drop = attention.get_submodule("attn_drop")
            drop.register_forward_hook(lambda _m, _a, out: probabilities.append(out))
        block.register_forward_hook(lambda _m, _a, out: tokens.append(out))
    return view, probabilities, tokens


def read_attention(
    model: nn.Module, images: Tensor, gradients: bool = True, name: str = ""
) -> AttentionPass:
    """Run a Vision Transformer once and return its attention with its logits.

    Works inside `torch.no_grad()` and `torch.inference_mode()` too.

    Args:
        model: The transformer, in `eval()`; frozen or not.
        images: Normalised images, `(B, C, H, W)`; not changed.
        gradients: Whether to keep the graph from the probabilities to the logits.
        name: What to call the model in messages; default: its class.

    Raises:
        TTameError: If the model has no attention over all tokens at once, or hides it.
    """
    name = name or type(model).__name__
    if gradients:
        refuse_checkpointing(model, name)
    with torch.inference_mode(False), torch.set_grad_enabled(gradients):
        # The classifier is frozen: the graph starts at the image, or nowhere.
        tracked = images.detach().clone().requires_grad_(gradients)
        view, probabilities, tokens = take_apart(model, name)
        logits = view(tracked)
    _check(model, name, len(images), probabilities, tokens)
    prefix, h, w = token_grid(tokens[-1].shape[1], images.shape[-2:], TokenLayout.of(model))
    return AttentionPass(logits, tuple(probabilities), tuple(tokens), prefix, (h, w))


def refuse_checkpointing(model: nn.Module, name: str) -> None:
    """Refuse a model that checkpoints its gradients.

    Raises:
        TTameError: If it does: the first run of its blocks, which is recorded, lies on no graph.
    """
    if getattr(model, "grad_checkpointing", False):
        raise TTameError(
            f"{name} checkpoints its gradients, which hides its attention from them; switch it "
            "off: model.set_grad_checkpointing(False)"
        )


def _block_list(model: nn.Module) -> list[nn.Module]:
    """List the modules of `blocks` (timm) or `encoder.layers` (torchvision), in order."""
    for holder, name in ((model, "blocks"), (getattr(model, "encoder", None), "layers")):
        found = getattr(holder, name, None)
        if isinstance(found, nn.Sequential | nn.ModuleList):
            return list(found)
    return []


def _is_attention(module: nn.Module) -> bool:
    """Torch's attention, or one in timm's manner: fused at will, dropout on the probabilities."""
    return isinstance(module, nn.MultiheadAttention) or (
        hasattr(module, "fused_attn") and isinstance(getattr(module, "attn_drop", None), nn.Module)
    )


def explicit_attention(
    module: nn.MultiheadAttention,
    see: Callable[[Tensor], None] = lambda probabilities: None,
    change: Callable[[Tensor], Tensor] = lambda joint: joint,
) -> Callable[..., Any]:
    """Make a forward of `nn.MultiheadAttention` by its formula: torch's hides its weights.

    Args:
        module: The attention.
        see: Called with the probabilities `(B, heads, N, N)`, which lie on the graph of the output.
        change: Changes queries, keys and values, `(B, N, 3·D)` one beside the other.
    """

    def forward(
        query: Tensor,
        key: Tensor,
        value: Tensor,
        key_padding_mask: Tensor | None = None,
        need_weights: bool = True,
        attn_mask: Tensor | None = None,
        average_attn_weights: bool = True,
        is_causal: bool = False,
    ) -> tuple[Tensor, Tensor | None]:
        masked = key_padding_mask is not None or attn_mask is not None or is_causal
        plain = module.in_proj_weight is not None and module.bias_k is None and module.batch_first
        if masked or not plain or module.add_zero_attn or not (query is key is value):
            raise TTameError(
                "attention probabilities are read from plain self-attention, batch first and "
                "without masks; this nn.MultiheadAttention is called in another way"
            )
        batch, count, width = query.shape
        joint = change(F.linear(query, module.in_proj_weight, module.in_proj_bias))
        split = joint.view(batch, count, 3, module.num_heads, module.head_dim)
        queries, keys, values = split.permute(2, 0, 3, 1, 4)  # each (B, heads, N, D/heads)
        scores = queries @ keys.transpose(-2, -1) / math.sqrt(module.head_dim)
        weights = F.dropout(scores.softmax(dim=-1), module.dropout, module.training)
        see(weights)
        mixed = (weights @ values).transpose(1, 2).reshape(batch, count, width)
        output = F.linear(mixed, module.out_proj.weight, module.out_proj.bias)
        if not need_weights:
            return output, None
        return output, weights.mean(dim=1) if average_attn_weights else weights

    return forward


def _check(
    model: nn.Module, name: str, batch: int, probabilities: list[Tensor], tokens: list[Tensor]
) -> None:
    """Refuse what was recorded unless it is one distribution over all tokens a head and query."""
    blocks = attention_blocks(model, name)
    if not len(probabilities) == len(tokens) == len(blocks):
        shown = f"showed {len(probabilities)} attentions in one pass"
        raise _refused(name, f"has {len(blocks)} blocks, but {shown}")
    for (_, attention), found, after in zip(blocks, probabilities, tokens, strict=True):
        kind = type(attention).__name__
        if found.shape[0] != batch:
            raise _windowed(name, kind)
        heads = getattr(attention, "num_heads", found.shape[1])
        if after.ndim != 3 or found.shape != (batch, heads, after.shape[1], after.shape[1]):
            shown = f"{kind} shows {tuple(found.shape)} for tokens {tuple(after.shape)}"
            raise _refused(name, f"has attention of another kind: {shown}, not (B, heads, N, N)")
        if not bool(((found.detach().float().sum(dim=-1) - 1).abs() < 1e-2).all()):
            raise _refused(name, f"has attention of another kind: rows of {kind} do not sum to 1")
    if len({after.shape for after in tokens}) != 1:
        raise _refused(name, "changes its number of tokens between blocks")


def _refused(name: str, why: str) -> TTameError:
    return TTameError(
        f"{name} {why}; attention is read in the blocks of a Vision Transformer as timm (`blocks`) "
        "or torchvision (`encoder.layers`) builds it: for this network take another method, such "
        "as Grad-CAM"
    )


def _windowed(name: str, kind: str) -> TTameError:
    return TTameError(
        f"{name} has attention within windows only ({kind}): N varies by windows and no block "
        "relates all patches; for this network take another method, such as Grad-CAM"
    )
