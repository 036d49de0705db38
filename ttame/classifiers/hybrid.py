"""The project's own small Vision Transformers, on a frozen convolutional stem."""

from __future__ import annotations

from functools import partial
from typing import Any

import timm
from timm.layers import HybridEmbed  # type: ignore[attr-defined]
from timm.models.vision_transformer import VisionTransformer
from torch import Tensor, nn

from ttame.errors import TTameError

# Channels of EfficientNet-Lite0 after so many of its stages, at 1/16 of the input: at 224 px the
# 14 x 14 cells are the transformer's patches of 16 x 16 px.
CHANNELS = {4: 80, 5: 112, 6: 192, 7: 320}
STEM = "patch_embed.backbone"
_WIDTH, _HEADS = 192, 3


def hybrid_vit(num_classes: int = 10, stages: int = 4, depth: int = 6) -> nn.Module:
    """Build the transformer, untrained, of ViT-Tiny's width and heads {cite}`vit`.

    As in the original hybrid variant, each patch is a cell of the stem's feature map
    {cite}`efficientnet`, projected to 192 channels, and a linear head reads the class token.

    Args:
        num_classes: Number of classes K.
        stages: Number of EfficientNet-Lite0's stages in the stem, 4 to 7. From the sixth on, its
            convolutions are dilated instead of strided (`own_cells`).
        depth: Number of blocks.

    Returns:
        A timm `VisionTransformer` from `(B, 3, 224, 224)` to logits `(B, K)`; its
        `patch_embed.backbone` is the stem, frozen and in `eval()`.

    Raises:
        TTameError: If the stem's cells would not be 16 x 16 px.
    """
    model: nn.Module = VisionTransformer(
        img_size=224,
        patch_size=1,  # cells of the stem's map
        num_classes=num_classes,
        embed_dim=_WIDTH,
        depth=depth,
        num_heads=_HEADS,
        embed_layer=partial(HybridEmbed, backbone=take_stem(dilated(), stages)),
    )
    return model


def dilated() -> nn.Module:
    """Build EfficientNet-Lite0, untrained, with maps of 1/16 of the input where it has 1/32.

    It takes the weights of the plain network, which has every second row and column of its maps.
    """
    model: nn.Module = timm.create_model("tf_efficientnet_lite0", output_stride=16)
    return model.eval()


def take_stem(classifier: Any, stages: int) -> nn.Sequential:
    """Return the modules of the stem, frozen, shared with the classifier.

    Args:
        classifier: An EfficientNet-Lite0, `dilated` if there are more than five stages.
        stages: Number of its stages, 4 to 7.

    Raises:
        TTameError: If the stem's cells would not be 16 x 16 px.
    """
    if stages not in CHANNELS:
        raise TTameError(
            f"a stem of {stages} stages has no cells of 16 x 16 px; choose stages from "
            f"{sorted(CHANNELS)}"
        )
    parts = nn.Sequential(classifier.conv_stem, classifier.bn1, *classifier.blocks[:stages])
    return parts.eval().requires_grad_(False)


def copy_stem(model: nn.Module, classifier: nn.Module) -> None:
    """Copy the weights of the stem from an EfficientNet-Lite0 into `model`."""
    stem: Any = model.get_submodule(STEM)
    stem.load_state_dict(take_stem(classifier, len(stem) - 2).state_dict())


def own_cells(maps: Tensor, stages: int) -> Tensor:
    """Return the cells of a stem's maps `(B, C, h, w)` that the plain network has too."""
    return maps[:, :, 1::2, 1::2] if stages > 5 else maps
