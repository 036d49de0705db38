"""Explanation methods for Vision Transformers only: they read attention probabilities."""

from __future__ import annotations

from collections.abc import Iterable

import torch
from torch import Tensor, nn

from ttame.classifiers.outputs import both_answers
from ttame.classifiers.weights import input_like
from ttame.errors import TTameError
from ttame.explainer import Explainer
from ttame.methods.attention_weights import AttentionPass, read_attention
from ttame.methods.method import Method


def attention_rollout(explainer: Explainer) -> Method:
    """Attention rollout (`rollout`): how much of each patch reaches the class token.

    A block's matrix is ½·A + ½·I, with A the mean over heads of its attention probabilities,
    each row scaled to sum 1. Of the product of all blocks' matrices, last block first, the row
    of the class token gives the map, `(B, 1, h, w)` in [0, 1]. A model whose head pools instead
    has the mean over the patch tokens' rows (`head_row`).

    Not class-specific: no gradient and no head is used, so all target classes share one map.

    Raises:
        TTameError: If the classifier has no attention over all tokens.
    """
    probe_attention(explainer, "attention rollout")

    def explain(images: Tensor, targets: Tensor) -> Tensor:
        check_targets(images, targets)
        seen = read_attention(explainer.classifier, images, gradients=False)
        with torch.inference_mode(False), torch.no_grad():
            steps = (_rollout_step(found) for found in reversed(seen.probabilities))
            return _map(seen, _flow(head_row(explainer.classifier, seen), steps))

    return explain


def transformer_attribution(explainer: Explainer) -> Method:
    """Gradient-weighted relevance of attention, the generic rule (`chefer_generic`).

    R starts as the identity. Each block, first to last, adds Ā·R, where Ā is the mean over heads
    of the positive part of ∇A ∘ A, and ∇A the gradient of the target class's logit with respect
    to the block's attention probabilities A. The row of the class token of the last R gives the
    map, `(B, 1, h, w)`, not negative; where the head pools, the mean over the patch tokens' rows
    (`head_row`).

    This is the rule of arXiv 2103.15679 for encoders of self-attention. It is not the earlier
    one of arXiv 2012.09838 (`chefer_attribution`), which propagates relevance by LRP through
    every layer and puts that in the place of A.

    Raises:
        TTameError: If the classifier has no attention over all tokens.
    """
    probe_attention(explainer, "Transformer attribution")

    def explain(images: Tensor, targets: Tensor) -> Tensor:
        check_targets(images, targets)
        with torch.inference_mode(False), torch.enable_grad():
            seen = read_attention(explainer.classifier, images)
            gradients = torch.autograd.grad(_score(seen.logits, targets), seen.probabilities)
        with torch.inference_mode(False), torch.no_grad():
            steps = map(_attribution_step, reversed(seen.probabilities), reversed(gradients))
            return _map(seen, _flow(head_row(explainer.classifier, seen), steps))

    return explain


def legrad(explainer: Explainer) -> Method:
    """LeGrad (`legrad`): where more attention would raise the class's score, over all blocks.

    Block l has a score of its own, sˡ: the target class's logit that the model's final norm,
    pooling and head give for the tokens after that block. Its map is the positive part of
    ∂sˡ/∂Aˡ, Aˡ being the block's attention probabilities, averaged over heads and over the
    queries: one value a key. The keys that are patches, averaged over the blocks, give the map,
    `(B, 1, h, w)`, not negative.

    The reading taken: the gradient alone, not multiplied by Aˡ; negative parts cut before any
    averaging; all queries count, prefix tokens included, but prefix keys are dropped; every
    block counts, and none is scaled before the mean. sˡ passes through the head as it is, its
    bias and any distillation head included.

    Raises:
        TTameError: If the classifier has no attention over all tokens, or its logits are not
            what its final norm and head make of the last block's tokens.
    """
    seen = probe_attention(explainer, "LeGrad")
    classifier = explainer.classifier
    with torch.inference_mode(False), torch.no_grad():
        again = read_out(classifier, seen.tokens[-1])
    if again.shape != seen.logits.shape or not torch.allclose(again, seen.logits, atol=1e-3):
        raise TTameError(
            f"LeGrad reads every block's tokens by the final norm and head, but those of "
            f"{explainer.spec.name} do not give its logits; use another method, such as "
            "Transformer attribution"
        )

    def explain(images: Tensor, targets: Tensor) -> Tensor:
        check_targets(images, targets)
        with torch.inference_mode(False), torch.enable_grad():
            seen = read_attention(classifier, images)
            keys = []
            for depth, found in enumerate(seen.probabilities, start=1):
                # The last block's read-out is the logits, there already.
                last = depth == len(seen.tokens)
                logits = seen.logits if last else read_out(classifier, seen.tokens[depth - 1])
                (gradient,) = torch.autograd.grad(_score(logits, targets), found)
                keys.append(gradient.float().relu().mean(dim=(1, 2)))  # (B, N)
            return _map(seen, torch.stack(keys).mean(dim=0))

    return explain


def head_row(model: nn.Module, seen: AttentionPass) -> Tensor:
    """Measure how much the head reads of each token: weights `(N,)`, float32, sum 1.

    The class token alone where the head reads it; class and distillation token in equal parts in
    a distilled DeiT; otherwise (global average pooling, with or without a class token) the mean
    of what is pooled, mostly the patch tokens. For maximum and attention pooling the mean over
    the patch tokens is an approximation.
    """
    row = torch.zeros(seen.tokens[-1].shape[1], device=seen.logits.device)
    if seen.prefix and getattr(model, "global_pool", "token") == "token":
        row[: 2 if hasattr(model, "head_dist") else 1] = 1
    else:
        row[0 if getattr(model, "pool_include_prefix", False) else seen.prefix :] = 1
    return row / row.sum()


def read_out(model: nn.Module, tokens: Tensor) -> Tensor:
    """Logits that the model's own final norm, pooling and head give for any block's tokens.

    Args:
        model: The transformer.
        tokens: `(B, N, D)`; those of the last block give the model's logits.

    Returns:
        `(B, K)`.

    Raises:
        TTameError: If the model has neither timm's nor torchvision's parts for it.
    """
    norm, forward_head = getattr(model, "norm", None), getattr(model, "forward_head", None)
    if isinstance(norm, nn.Module) and callable(forward_head):  # timm
        return _answered(model, forward_head(norm(tokens)))
    encoder, heads = getattr(model, "encoder", None), getattr(model, "heads", None)
    norm = getattr(encoder, "ln", None)
    if isinstance(norm, nn.Module) and isinstance(heads, nn.Module):  # torchvision
        return _answered(model, heads(norm(tokens)[:, 0]))
    raise TTameError(
        f"LeGrad reads logits from every block's tokens, but {type(model).__name__} has no `norm` "
        "and `forward_head` (timm) and no `encoder.ln` and `heads` (torchvision) for it; use "
        "another method, such as Transformer attribution"
    )


def _answered(model: nn.Module, logits: Tensor) -> Tensor:
    """Give the head of a classifier with one output both answers, as the classifier does."""
    hook = both_answers(model)
    return logits if hook is None else hook(model, (), logits)


def probe_attention(explainer: Explainer, method: str) -> AttentionPass:
    """One pass of zeros: refuse a classifier now, not at the first image."""
    classifier, spec = explainer.classifier, explainer.spec
    image = input_like(classifier).new_zeros(1, spec.channels, *spec.input_size)
    try:
        return read_attention(classifier, image, gradients=False, name=spec.name)
    except TTameError as error:
        raise TTameError(f"{method} reads attention probabilities; {error}") from error


def check_targets(images: Tensor, targets: Tensor) -> None:
    """Refuse targets that are not one class `(B,)` int64 for each image."""
    if targets.shape != images.shape[:1] or targets.dtype != torch.int64:
        raise TTameError(
            f"expected one target class for each of {len(images)} images, int64 "
            f"({len(images)},), got {targets.dtype} {tuple(targets.shape)}"
        )


def check_classes(logits: Tensor, targets: Tensor) -> None:
    """Refuse targets that are no classes of logits `(B, K)`."""
    count = logits.shape[1]
    if bool(((targets < 0) | (targets >= count)).any()):
        raise TTameError(f"target classes must lie in 0 to {count - 1}, got {targets.tolist()[:8]}")


def _score(logits: Tensor, targets: Tensor) -> Tensor:
    """Sum over images of the target logits: each image's gradient is that of its own logit."""
    check_classes(logits, targets)
    # A copy: autograd keeps no tensor of inference mode.
    return logits.gather(1, targets.clone().to(logits.device)[:, None]).sum()


def _rollout_step(probabilities: Tensor) -> Tensor:
    """½·A + ½·I with rows that sum to 1, `(B, N, N)`."""
    mean = probabilities.float().mean(dim=1)
    mixed = 0.5 * mean + 0.5 * torch.eye(mean.shape[-1], device=mean.device)
    return mixed / mixed.sum(dim=-1, keepdim=True)


def _attribution_step(probabilities: Tensor, gradient: Tensor) -> Tensor:
    """I + Ā, `(B, N, N)`: R + Ā·R = (I + Ā)·R."""
    mean = (gradient.float() * probabilities.float()).relu().mean(dim=1)
    return mean + torch.eye(mean.shape[-1], device=mean.device)


def _flow(row: Tensor, matrices: Iterable[Tensor]) -> Tensor:
    """Multiply a row `(N,)` by matrices `(B, N, N)`, last block first, one by one: `(B, N)`."""
    flow = row[None, None]  # (1, 1, N), then (B, 1, N)
    for matrix in matrices:
        flow = flow @ matrix
    return flow[:, 0]


def _map(seen: AttentionPass, values: Tensor) -> Tensor:
    """Values of all tokens `(B, N)` as a map of the patches `(B, 1, h, w)`, float32."""
    return values[:, seen.prefix :].detach().float().reshape(-1, 1, *seen.grid)
