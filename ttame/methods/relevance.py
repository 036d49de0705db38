"""Relevance of a Vision Transformer's patches: parts that add up to the logit (LibraGrad).

The gradient of a transformer's logit says little of what the logit is made of: attention, layer
norm and gated activations are not affine where they are. Methods of this kind change how those are
differentiated, in a view of the classifier for one pass, and read the relevance of each patch
where its token enters the first block. AttnLRP, another, is in `ttame.methods.attnlrp`.
"""

from __future__ import annotations

from collections.abc import Callable
from functools import partial
from typing import TypeGuard

import torch
from torch import Tensor, nn

from ttame.classifiers.layers import probe_images
from ttame.classifiers.passes import private_view
from ttame.errors import TTameError
from ttame.explainer import Explainer
from ttame.features import TokenLayout, token_grid
from ttame.methods.attention_weights import (
    attention_blocks,
    explicit_attention,
    refuse_checkpointing,
)
from ttame.methods.method import Method
from ttame.methods.transformer import check_classes, check_targets, probe_attention

# Activations of the form x·g(x), by class and by the names of timm's own.
_GATED = (nn.GELU, nn.SiLU, nn.Mish, nn.Hardswish)
_GATED_NAMES = ("GELU", "GELUTanh", "QuickGELU", "QuickGELUActivation", "Swish", "Mish")
View = tuple[nn.Module, list[Tensor]]  # for one pass, and what enters its first block
_COMPLETE = 1e-3  # by which relevance and biases may miss the logit, relative to the largest one


def libra_grad(explainer: Explainer) -> Method:
    """LibraGrad (`libragrad`): input times gradient, with the gradient's imbalances pruned.

    Of each operation that is not locally affine, one factor counts as a constant in the backward
    pass: the attention probabilities beside the values, the standard deviation of a layer norm,
    and the gate g(x) of an activation x·g(x). The rest of the network is affine where it is, so
    that the relevances of all tokens, with those of the biases, sum to the logit of the target
    class (the paper's completeness), which is checked for each classifier.

    The reading taken: relevance is the product of a patch's token as it enters the first block,
    position embedding included, with that gradient, summed over channels; prefix tokens and
    biases are left out of the map, `(B, 1, h, w)`, which has both signs. The paper corrects a
    product of two data-dependent branches, as in gated MLPs, by halves; such networks are
    refused. One forward and one backward pass an image.

    Raises:
        TTameError: If the classifier has no attention over all tokens, or parts for which there
            is no rule, so that the relevances miss the logit.
    """
    probe_attention(explainer, "LibraGrad")
    _check_complete(explainer)
    return relevance_method(explainer, _libra_view)


def relevance_method(
    explainer: Explainer, view_of: Callable[[nn.Module, str], View], gradient: bool = True
) -> Method:
    """Make a method of views, in whose backward pass flow gradients, or else relevances."""
    classifier, name = explainer.classifier, explainer.spec.name

    def explain(images: Tensor, targets: Tensor) -> Tensor:
        check_targets(images, targets)
        with torch.inference_mode(False), torch.enable_grad():
            view, entering = view_of(classifier, name)
            logits = view(images.clone())
            check_classes(logits, targets)
            index = targets.clone().to(logits.device)[:, None]
            picked = logits.gather(1, index)
            start = torch.ones_like(picked) if gradient else picked.detach()
            (found,) = torch.autograd.grad(picked, entering[0], start)
        relevance = found * entering[0].detach() if gradient else found
        values = relevance.float().sum(dim=-1)  # (B, N)
        layout = TokenLayout.of(classifier)
        prefix, height, width = token_grid(values.shape[1], images.shape[-2:], layout)
        return values[:, prefix:].reshape(-1, 1, height, width)

    return explain


def entering_tokens(view: nn.Module, name: str) -> list[Tensor]:
    """Return a list that a pass of the view fills with the tokens of its first block, as leaves."""
    refuse_checkpointing(view, name)
    entering: list[Tensor] = []

    def cut(_module: nn.Module, args: tuple[Tensor, ...]) -> tuple[Tensor, ...]:
        entering.append(args[0].detach().requires_grad_(True))
        return (entering[0], *args[1:])

    attention_blocks(view, name)[0][0].register_forward_pre_hook(cut)
    return entering


def _libra_view(model: nn.Module, name: str) -> View:
    view = private_view(model)
    for module in view.modules():
        if is_norm(module):
            vars(module)["forward"] = partial(_balanced_norm, module)
        elif is_gated(module):
            vars(module)["forward"] = partial(_balanced_gate, module.forward)
    for _, attention in attention_blocks(view, name):
        if isinstance(attention, nn.MultiheadAttention):
            vars(attention)["forward"] = explicit_attention(attention, change=_values_alone)
        elif isinstance(joint := getattr(attention, "qkv", None), nn.Linear):
            joint.register_forward_hook(lambda _module, _args, output: _values_alone(output))
    return view, entering_tokens(view, name)


def is_norm(module: nn.Module) -> TypeGuard[nn.LayerNorm]:
    """Return whether a module normalises over its last axis."""
    return isinstance(module, nn.LayerNorm) and not type(module).__name__.endswith("2d")


def is_gated(module: nn.Module) -> bool:
    """Return whether a module is an activation of the form x·g(x)."""
    return isinstance(module, _GATED) or type(module).__name__ in _GATED_NAMES


def _balanced_norm(module: nn.LayerNorm, tokens: Tensor) -> Tensor:
    """Layer norm whose standard deviation is a constant of the backward pass."""
    centred = tokens - tokens.mean(dim=-1, keepdim=True)
    deviation = (centred.square().mean(dim=-1, keepdim=True) + module.eps).sqrt().detach()
    scaled = centred / deviation
    if module.weight is not None:
        scaled = scaled * module.weight
    return scaled if module.bias is None else scaled + module.bias


def _balanced_gate(activation: Callable[[Tensor], Tensor], values: Tensor) -> Tensor:
    """x·g(x) whose gate is a constant of the backward pass."""
    values = values.clone()  # an activation in place would overwrite it
    with torch.no_grad():
        # g(0) cannot be read off; ½ is that of GELU and SiLU.
        gate = torch.where(values == 0, 0.5, activation(values.clone()) / values)
    return values * gate


def _values_alone(joint: Tensor) -> Tensor:
    """Stop the gradient at queries and keys, of `(B, N, 3·D)`: what makes the probabilities."""
    queries, keys, values = joint.chunk(3, dim=-1)
    return torch.cat([queries.detach(), keys.detach(), values], dim=-1)


def _check_complete(explainer: Explainer) -> None:
    """Refuse a classifier whose logit is not the sum of the relevances of tokens and biases."""
    model, spec = explainer.classifier, explainer.spec
    with torch.inference_mode(False), torch.enable_grad():
        view, entering = _libra_view(model, spec.name)
        biases = []
        for module in view.modules():
            for key, value in list(module.named_parameters(recurse=False)):
                if key.endswith("bias"):  # the view's own, so that they may have gradients
                    biases.append(nn.Parameter(value.detach().clone()))
                    setattr(module, key, biases[-1])
        image = probe_images(model, spec.input_size, spec.channels)[:1]
        logits = view(image)
        top = logits[0].argmax()
        leaves = [entering[0], *biases]  # biases before the first block get no gradient
        found = torch.autograd.grad(logits[0, top], leaves, allow_unused=True)
    parts = [value * slope for value, slope in zip(leaves, found, strict=True) if slope is not None]
    missing = float((logits[0, top] - sum(part.sum() for part in parts)).detach().abs())
    if missing > _COMPLETE * max(float(logits.detach().abs().max()), 1e-6):
        raise TTameError(
            f"LibraGrad does not apply to {spec.name}: the relevances miss the logit by "
            f"{missing:.2g}, so it has parts besides attention (`qkv`), layer norm and gated "
            "activations that are not locally affine; take another method, such as LeGrad"
        )
