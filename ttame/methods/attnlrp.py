"""AttnLRP: layer-wise relevance propagation through a Vision Transformer's attention."""

from __future__ import annotations

from functools import partial
from typing import Any

import torch
from torch import Tensor, nn

from ttame.classifiers.layers import probe_images
from ttame.classifiers.outputs import both_answers
from ttame.classifiers.passes import private_view
from ttame.errors import TTameError, require
from ttame.explainer import Explainer
from ttame.methods.attention_weights import attention_blocks
from ttame.methods.method import Method
from ttame.methods.relevance import View, entering_tokens, is_gated, is_norm, relevance_method
from ttame.methods.transformer import probe_attention


def attn_lrp(explainer: Explainer) -> Method:
    """AttnLRP (`attnlrp`) by the rules of the authors' package `lxt`.

    Layer-wise relevance propagation that also passes through the attention probabilities:
    products of two branches share relevance evenly, the softmax has its Taylor rule, layer norm
    and activations pass relevance on as it is, linear layers and sums have the ε-rule. It starts
    with the logit of the target class. The map is the relevance of each patch's token where it
    enters the first block, summed over channels, `(B, 1, h, w)`, of both signs. One forward and
    one backward pass an image.

    The γ-rule for linear layers, which the authors tune for each Vision Transformer, is not used:
    a value that was not tuned would mean nothing. `lxt` is an optional package; its README says
    that the technique is patented, and free for personal and scientific use.

    Raises:
        TTameError: If `lxt` is not installed, or the classifier is no plain Vision Transformer of
            timm or torchvision that reads logits from its class token.
    """
    require("lrp", "lxt")
    seen = probe_attention(explainer, "AttnLRP")
    model, spec = explainer.classifier, explainer.spec
    wrong = "its blocks or head are built otherwise"
    if spec.activation == "none" or both_answers(model) is not None:
        wrong = "it has no logit per class"
    elif _reads_class_token(model, seen.prefix) and all(
        _is_plain(*pair) for pair in attention_blocks(model, spec.name)
    ):
        image = probe_images(model, spec.input_size, spec.channels)[:1]
        with torch.inference_mode(False), torch.no_grad():
            found, expected = _lrp_view(model, spec.name)[0](image), model(image)
        if torch.allclose(found, expected, atol=1e-3, rtol=1e-3):
            wrong = ""
    if wrong:
        raise TTameError(
            "AttnLRP applies to plain blocks of timm and torchvision (norm, attention, norm, MLP) "
            f"and a head that reads logits from the class token, not to {spec.name}: {wrong}; "
            "take another method, such as LeGrad"
        )
    return relevance_method(explainer, _lrp_view, gradient=False)


def _is_plain(block: nn.Module, attention: nn.Module) -> bool:
    """Return whether a block has the parts that `_lrp_block` runs."""
    wanted = [(block, "norm1"), (block, "norm2"), (attention, "qkv"), (attention, "proj")]
    if isinstance(attention, nn.MultiheadAttention):
        wanted = [(block, "ln_1"), (block, "ln_2")]
    found = [getattr(holder, name, None) for holder, name in (*wanted, (block, "mlp"))]
    return all(isinstance(part, nn.Module) for part in found)


def _lrp_view(model: nn.Module, name: str) -> View:
    from lxt.explicit import functional, rules  # its other half fails beside transformers 5

    view = private_view(model)
    for module in view.modules():
        if is_norm(module):
            vars(module)["forward"] = partial(
                functional.layer_norm, weight=module.weight, bias=module.bias,
                variance_epsilon=module.eps,
            )  # fmt: skip
        elif isinstance(module, nn.Linear):
            vars(module)["forward"] = partial(
                functional.linear_epsilon, weight=module.weight, bias=module.bias
            )
        elif is_gated(module) or isinstance(module, nn.ReLU | nn.Tanh):
            vars(module)["forward"] = partial(rules.identity, module.forward)
    for block, attention in attention_blocks(view, name):
        vars(block)["forward"] = partial(_lrp_block, functional, block, attention)
    return view, entering_tokens(view, name)


def _lrp_block(functional: Any, block: Any, attention: Any, tokens: Tensor) -> Tensor:
    """A block of timm (`norm1`, `norm2`) or torchvision (`ln_1`, `ln_2`) by the package's rules."""
    first, second = (
        (block.ln_1, block.ln_2) if hasattr(block, "ln_1") else (block.norm1, block.norm2)
    )
    mixed = _lrp_attention(functional, attention, first(tokens))
    tokens = functional.add2(mixed, tokens)
    found: Tensor = functional.add2(block.mlp(second(tokens)), tokens)
    return found


def _lrp_attention(functional: Any, attention: Any, tokens: Tensor) -> Tensor:
    if isinstance(attention, nn.MultiheadAttention):
        weight, bias = attention.in_proj_weight, attention.in_proj_bias
        joint, outlet = functional.linear_epsilon(tokens, weight, bias), attention.out_proj
    else:
        joint, outlet = attention.qkv(tokens), attention.proj
    batch, count, _ = tokens.shape
    split = joint.view(batch, count, 3, attention.num_heads, -1).permute(2, 0, 3, 1, 4)
    queries, keys, values = split  # each (B, heads, N, D/heads)
    scores = functional.matmul(queries, keys.transpose(-2, -1))
    scores = functional.mul2(scores, queries.shape[-1] ** -0.5)
    mixed = functional.matmul(functional.softmax(scores, dim=-1), values)
    found: Tensor = outlet(mixed.transpose(1, 2).reshape(batch, count, -1))
    return found


def _reads_class_token(model: nn.Module, prefix: int) -> bool:
    """Return whether the head reads one token, as far as attributes of timm and torchvision say."""
    pooled = getattr(model, "global_pool", "token") != "token"
    return prefix > 0 and not pooled and not hasattr(model, "head_dist")
