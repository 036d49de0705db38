"""Where the fusion starts: free rows as published, or rows read from the classifier itself.

A classifier already says in which direction each channel of its last feature map moves each
class: by its gradient. The mean gradient over photos makes a class activation map of every
class before the first step, also of classes that training never sees. A black box, explained on
the feature maps of an auxiliary network, has no such gradient; there a linear surrogate, fitted to
its logits, takes its place.
"""

from __future__ import annotations

import torch
from torch import Tensor, nn

from ttame.attention import FeatureBranch
from ttame.errors import TTameError
from ttame.explainer import Explainer
from ttame.features import TokenLayout, hooked, to_map
from ttame.training.config import Init

# Standard deviation of the initial map, in logits of the mask: wide enough that the mask is no
# uniform grey, narrow enough that the sigmoid still passes gradients.
SPREAD = 2.0
_GRADIENT_PHOTOS = 48  # one backward pass per class, from the deepest layer on
_CHUNK = 32
_RIDGE = 1.0  # penalty of the surrogate, relative to the mean square of the centred channels


@torch.no_grad()
def initialize(
    explainer: Explainer, images: Tensor, init: Init = "free", spread: float = SPREAD
) -> Tensor | None:
    """Set the starting point of an explainer's mechanism.

    `"free"` leaves torch's random initialisation, the papers' choice. `"classifier"` starts
    every branch as the activation of its feature map (`_pass_through`), puts into the fusion the
    mean gradient of every class's logit with respect to the deepest layer's feature map, leaves
    zero for the other layers, and centres and scales the initial own-class map over `images` to
    mean 0 and standard deviation `spread`, so that masks start neither all-zero nor all-one; a
    decoder does so for each photo. Where only average pooling and a linear layer follow the
    feature map, that is class activation mapping; elsewhere it is Grad-CAM with weights that are
    the same for all photos. `"surrogate"` puts the weights of a linear surrogate
    (`surrogate_rows`) in the place of those gradients.

    Args:
        explainer: Changed: its mechanism's parameters are set.
        images: Normalised photos that gradients and scale are measured on, `(B, C, H, W)`.
        init: Which start.
        spread: Standard deviation of the initial map; not of one that a decoder standardises.

    Returns:
        The gradients or weights that the start was made from, `(K, C)`; `None` for `"free"`.

    Raises:
        TTameError: If the start cannot be made: the mechanism's branches change the width, the
            logits do not depend on the deepest layer, or it is one of an auxiliary network.
    """
    if init == "free":
        return None
    if init not in ("classifier", "surrogate"):
        raise TTameError(f"init must be 'free', 'classifier' or 'surrogate', got {init!r}")
    mechanism = explainer.mechanism
    if mechanism.widths != mechanism.channels:
        raise TTameError(
            f"init={init!r} needs branches that keep the channels {mechanism.channels}, these "
            f"have {mechanism.widths}; leave width out, or use init='free'"
        )
    read = class_gradients if init == "classifier" else surrogate_rows
    gradients = read(explainer, images)
    for branch in mechanism.branches:
        if isinstance(branch, FeatureBranch):
            _pass_through(branch)
    mechanism.fusion.weight.zero_()
    mechanism.fusion.weight[:, -gradients.shape[1] :, 0, 0] = gradients
    assert mechanism.fusion.bias is not None
    mechanism.fusion.bias.zero_()
    if mechanism.decoder is not None:
        # It standardises the map of each photo. To a mean length of 1, a step of the optimiser
        # moves rows of any classifier about as far, relative to their length.
        mechanism.fusion.weight.div_(gradients.norm(dim=1).mean().clamp_min(1e-12))
        return gradients
    mode = mechanism.training
    explainer.eval()
    maps = torch.cat([explainer(part)[2] for part in images.split(_CHUNK)])  # type: ignore[no-untyped-call]
    gain = spread / maps.std().clamp_min(1e-12)
    mechanism.fusion.weight.mul_(gain)
    mechanism.fusion.bias.fill_(float(-maps.mean() * gain))
    explainer.train(mode)
    return gradients


def class_gradients(explainer: Explainer, images: Tensor) -> Tensor:
    """Mean gradient of every class's logit with respect to the deepest layer's channels.

    Args:
        explainer: Its classifier and layers.
        images: Normalised photos, `(B, C, H, W)`; the first 48 are used.

    Returns:
        `(K, C)`, means over photos and positions. Where patch tokens are multiplied by the class
        token t (`tokens="cls"`), scaled channel by channel by E[t]/E[t²], which brings w·t nearest
        to the gradient in the mean square over photos.

    Raises:
        TTameError: If the logits do not depend on that layer, or it is one of an auxiliary network.
    """
    if explainer.auxiliary is not None:
        raise TTameError(
            f"init='classifier' and fusion='tied' read gradients of {explainer.spec.name} at its "
            f"own layers, and the feature maps are those of {explainer.auxiliary.spec.name}; use "
            "init='surrogate' (recipe 'ptame'), or init='free' and fusion='free' (recipe "
            "'published')"
        )
    images = images[:_GRADIENT_PHOTOS]
    classifier, layer = explainer.classifier, explainer.layers[-1]
    leaves: list[Tensor] = []

    def cut(_module: nn.Module, _args: object, output: Tensor) -> Tensor:
        leaves.append(output.detach().requires_grad_(True))
        return leaves[-1].clone()  # a ReLU in place must not write into the leaf

    with (
        hooked(classifier.get_submodule(layer), cut),
        torch.inference_mode(False),
        torch.enable_grad(),
    ):
        logits = classifier(images.clone())
    if len(leaves) != 1 or not logits.requires_grad:
        raise TTameError(
            f"init='classifier': layer {layer!r} ran {len(leaves)} times, and the logits "
            f"{'' if logits.requires_grad else 'do not '}depend on it; use init='free'"
        )
    gradients, layout = torch.empty(0), TokenLayout.of(classifier)
    for index in range(logits.shape[1]):
        with torch.enable_grad():
            (gradient,) = torch.autograd.grad(
                logits[:, index].sum(), leaves[0], retain_graph=index + 1 < logits.shape[1]
            )
        maps = to_map(gradient, layer, images, layout)
        means = maps.float().mean(dim=(0, 2, 3))
        if index == 0:
            # Rows that are kept one by one, between large buffers that are freed, would spread the
            # heap over gigabytes.
            gradients = means.new_empty(logits.shape[1], len(means))
        gradients[index] = means
    if explainer.mechanism.config.tokens == "cls":
        class_token = leaves[0].detach()[:, 0].float()  # (B, C)
        gradients = gradients * class_token.mean(0) / class_token.square().mean(0).clamp_min(1e-12)
    return gradients


@torch.no_grad()
def surrogate_rows(explainer: Explainer, images: Tensor) -> Tensor:
    """Fit a linear surrogate: ridge regression of the logits on the deepest map's mean channels.

    Its weights make a class activation map of the surrogate. Forward passes alone are needed, so
    it applies to a classifier that is explained on the feature maps of another network.

    Args:
        explainer: Its classifier, layers and auxiliary network.
        images: Normalised photos to fit it to, `(B, C, H, W)`.

    Returns:
        Its weights `(K, C)`, float32.

    Raises:
        TTameError: If the feature maps of the photos do not differ.
    """
    channels, logits = [], []
    for part in images.split(_CHUNK):  # type: ignore[no-untyped-call]
        outputs, maps = explainer.features(part)
        logits.append(outputs.double())
        channels.append(maps[-1].double().mean(dim=(2, 3)))
    seen, answers = torch.cat(channels), torch.cat(logits)
    seen, answers = seen - seen.mean(dim=0), answers - answers.mean(dim=0)
    products = seen @ seen.T  # (B, B): fewer photos than channels
    mean = products.diagonal().mean()
    if not mean > 0:
        raise TTameError(
            f"init='surrogate' fits the logits to feature maps of {len(images)} photos, and those "
            f"of layer {explainer.layers[-1]!r} do not differ; give other photos or layers, or use "
            "init='free'"
        )
    penalty = _RIDGE * mean * torch.eye(len(seen), dtype=seen.dtype, device=seen.device)
    weights: Tensor = seen.T @ torch.linalg.solve(products + penalty, answers)  # (C, K)
    return weights.T.float()


def _pass_through(branch: FeatureBranch) -> None:
    """Start a branch as the activation of its feature map, whatever its architecture."""
    if branch.skip and isinstance(branch.norm, nn.BatchNorm2d):
        branch.norm.weight.zero_()
        return
    if branch.mixing == "attention":
        if not branch.skip:
            raise TTameError(
                "feature maps cannot pass through self-attention without a skip connection; use "
                "skip=True, or init='free'"
            )
        branch.attention.heads.out_proj.weight.zero_()
        branch.attention.heads.out_proj.bias.zero_()
        return
    convolution = branch.convolution
    assert convolution.bias is not None
    convolution.bias.zero_()
    if branch.skip:
        convolution.weight.zero_()
    else:
        nn.init.dirac_(convolution.weight)
