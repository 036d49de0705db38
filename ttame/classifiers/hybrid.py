"""The project's own small Vision Transformer, on a frozen convolutional stem."""

from __future__ import annotations

from functools import partial
from typing import Any

import timm
from timm.layers import HybridEmbed  # type: ignore[attr-defined]
from timm.models.vision_transformer import VisionTransformer
from torch import nn

# The stem is EfficientNet-Lite0 up to 1/16 of the input: 80 channels. At 224 px its 14 x 14
# cells are the transformer's patches of 16 x 16 px.
STEM_END = "blocks.3"
_STAGES = 4
_WIDTH, _DEPTH, _HEADS = 192, 6, 3


def hybrid_vit(num_classes: int = 10) -> nn.Module:
    """Build the transformer, untrained: ViT-Tiny's width and heads {cite}`vit`, six blocks.

    As in the original hybrid variant, each patch is a cell of the stem's feature map
    {cite}`efficientnet`, projected to 192 channels, and a linear head reads the class token.

    Args:
        num_classes: Number of classes K.

    Returns:
        A timm `VisionTransformer` from `(B, 3, 224, 224)` to logits `(B, K)`; its
        `patch_embed.backbone` is the stem, frozen and in `eval()`.
    """
    stem = _stem(timm.create_model("tf_efficientnet_lite0"))
    model: nn.Module = VisionTransformer(
        img_size=224,
        patch_size=1,  # cells of the stem's map
        num_classes=num_classes,
        embed_dim=_WIDTH,
        depth=_DEPTH,
        num_heads=_HEADS,
        embed_layer=partial(HybridEmbed, backbone=stem),
    )
    return model


def copy_stem(model: nn.Module, classifier: nn.Module) -> None:
    """Copy the weights of the stem from an EfficientNet-Lite0 into `model`."""
    stem = model.get_submodule("patch_embed.backbone")
    stem.load_state_dict(_stem(classifier).state_dict())


def _stem(classifier: Any) -> nn.Sequential:
    """Return the modules of the stem, shared with the classifier."""
    parts = nn.Sequential(classifier.conv_stem, classifier.bn1, *classifier.blocks[:_STAGES])
    return parts.eval().requires_grad_(False)
