"""The project's own Vision Transformer: a small one that reads a frozen convolutional stem."""

from __future__ import annotations

from functools import partial
from typing import Any

from torch import nn

# The stem is the part of EfficientNet-Lite0 that ends at 1/16 of the input: 80 channels. Its
# 14 x 14 cells at 224 px are the transformer's patches of 16 x 16 px.
STEM_END = "blocks.3"
_STAGES = 4
_WIDTH, _DEPTH, _HEADS = 192, 6, 3


def hybrid_vit(classes: int = 10) -> nn.Module:
    """Build the transformer without weights: ViT-Tiny's width and heads {cite}`vit`, six blocks.

    Each of its patches is a cell of the stem's feature map {cite}`efficientnet`, projected to 192
    channels; a class token, learned positions and a linear head on the class token follow, as in
    the original transformer, whose hybrid variant this is.

    Args:
        classes: Number of classes.

    Returns:
        A timm `VisionTransformer` that maps `(B, 3, 224, 224)` to logits `(B, classes)`; the stem
        is its `patch_embed.backbone`, frozen and in `eval()`.
    """
    import timm
    from timm.layers import HybridEmbed  # type: ignore[attr-defined]
    from timm.models.vision_transformer import VisionTransformer

    model: nn.Module = VisionTransformer(
        img_size=224,
        patch_size=1,  # cells of the stem's map
        num_classes=classes,
        embed_dim=_WIDTH,
        depth=_DEPTH,
        num_heads=_HEADS,
        embed_layer=partial(
            HybridEmbed, backbone=_stem(timm.create_model("tf_efficientnet_lite0"))
        ),
    )
    return model


def copy_stem(model: nn.Module, classifier: nn.Module) -> None:
    """Copy the stem's weights from an EfficientNet-Lite0 into `model`, in place."""
    stem = model.get_submodule("patch_embed.backbone")
    stem.load_state_dict(_stem(classifier).state_dict())


def _stem(classifier: Any) -> nn.Sequential:
    """The stem's modules; they stay those of the classifier."""
    parts = nn.Sequential(classifier.conv_stem, classifier.bn1, *classifier.blocks[:_STAGES])
    return parts.eval().requires_grad_(False)
