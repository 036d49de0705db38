"""The attention mechanism: from feature maps to explanation maps (T-TAME §III-B, `ttame`).

Every architectural ablation is a field of `AttentionConfig`; there is one mechanism.
"""

from __future__ import annotations

from collections.abc import Callable, Sequence
from dataclasses import dataclass
from typing import Literal

import torch
import torch.nn.functional as F
from torch import Tensor, nn

from ttame.errors import TTameError
from ttame.features import Tokens
from ttame.masking import upsample

_ACTIVATIONS: dict[str, Callable[[Tensor], Tensor]] = {
    "relu": F.relu,
    "sigmoid": torch.sigmoid,
    "identity": lambda maps: maps,
}

_HEAD = 64  # channels of an attention head, as in Vision Transformers
_FEW_PLACES = 8  # channels a place from which on a matrix product is faster, measured


@dataclass(frozen=True)
class AttentionConfig:
    """What the mechanism looks like; the defaults are the papers'.

    Attributes:
        branch: Whether each layer has a feature branch at all; without, feature maps go to the
            fusion as they are (a multi-layer L-CAM).
        mixing: What a branch learns: a 1×1 `"convolution"`, which mixes the channels of a place, or
            multi-head self-`"attention"` over all places, for the maps of transformers.
        skip: Add the branch's input to what it has learned, normalised.
        batch_norm: Normalise the output of the convolution or attention.
        activation: Last step of a branch: `"relu"`, `"sigmoid"` or `"identity"`.
        width: Channels that a branch puts out; `None` keeps each layer's own count.
        resolution: Maps are brought to the size of the `"largest"` or `"smallest"` layer.
        max_size: Upper bound of the map's height and width, cells.
        tokens: Transformers: `"drop"` prefix tokens, or multiply patches by the `"cls"` token.
    """

    branch: bool = True
    mixing: Literal["convolution", "attention"] = "convolution"
    skip: bool = True
    batch_norm: bool = True
    activation: Literal["relu", "sigmoid", "identity"] = "relu"
    width: int | None = None
    resolution: Literal["largest", "smallest"] = "largest"
    max_size: int = 56
    tokens: Tokens = "drop"

    def __post_init__(self) -> None:
        """Refuse combinations that have no meaning.

        Raises:
            TTameError: Naming the field, its value and what is possible.
        """
        allowed = {
            "mixing": ("convolution", "attention"),
            "activation": tuple(_ACTIVATIONS),
            "resolution": ("largest", "smallest"),
            "tokens": ("drop", "cls"),
        }
        for name, values in allowed.items():
            if getattr(self, name) not in values:
                raise TTameError(f"{name} must be one of {values}, got {getattr(self, name)!r}")
        if self.max_size < 1 or (self.width is not None and self.width < 1):
            raise TTameError(
                f"max_size and width must be positive, got {self.max_size} and {self.width}"
            )
        if self.width is not None and self.mixing == "attention":
            raise TTameError(
                f"width={self.width} is for mixing='convolution'; self-attention keeps the channels"
            )
        if self.width is not None and self.branch and self.skip:
            raise TTameError(
                f"width={self.width} changes the channel count, so the input cannot be added: "
                "pass skip=False with it"
            )


class FeatureBranch(nn.Module):
    """1×1 convolution or attention, batch norm, plus the input, ReLU; steps can be switched off."""

    def __init__(self, channels: int, config: AttentionConfig) -> None:
        super().__init__()
        width = config.width or channels
        self.skip, self.activation = config.skip, config.activation
        self.mixing = config.mixing
        if config.mixing == "attention":
            self.attention = SelfAttention(channels)
        else:
            self.convolution = PointwiseConvolution(channels, width, kernel_size=1)
        self.norm = nn.BatchNorm2d(width) if config.batch_norm else nn.Identity()

    def forward(self, maps: Tensor) -> Tensor:
        """`(B, C, h, w)` -> `(B, width, h, w)`."""
        mix = self.attention if self.mixing == "attention" else self.convolution
        hidden: Tensor = self.norm(mix(maps))
        if self.skip:
            hidden = hidden + maps
        return self.activate(hidden)

    def activate(self, maps: Tensor) -> Tensor:
        """Apply the branch's last step to `(B, C, h, w)`."""
        return _ACTIVATIONS[self.activation](maps)


class PointwiseConvolution(nn.Conv2d):
    """A 1×1 convolution, as a matrix product where there are few places and many channels.

    A convolution on CPUs first brings its weights into another layout, at every call. For the
    single small map of a deep layer that takes longer than the convolution.
    """

    def forward(self, maps: Tensor) -> Tensor:
        """`(B, C, h, w)` -> `(B, width, h, w)`."""
        if _FEW_PLACES * maps.shape[0] * maps.shape[2] * maps.shape[3] >= maps.shape[1]:
            return super().forward(maps)
        rows = maps.permute(0, 2, 3, 1)  # (B, h, w, C)
        return F.linear(rows, self.weight[:, :, 0, 0], self.bias).permute(0, 3, 1, 2)


class SelfAttention(nn.Module):
    """Multi-head self-attention over the places of a map, heads of 64 channels where they divide.

    Args:
        channels: C.
    """

    def __init__(self, channels: int) -> None:
        super().__init__()
        heads = channels // _HEAD if channels % _HEAD == 0 else 1
        self.heads = nn.MultiheadAttention(channels, heads, batch_first=True)

    def forward(self, maps: Tensor) -> Tensor:
        """`(B, C, h, w)` -> `(B, C, h, w)`."""
        places = maps.flatten(2).transpose(1, 2)  # (B, h·w, C)
        mixed: Tensor = self.heads(places, places, places, need_weights=False)[0]
        return mixed.transpose(1, 2).reshape(maps.shape)


class AttentionMechanism(nn.Module):
    """Feature maps of L layers -> one explanation map a target class, before the sigmoid.

    Args:
        channels: C_l of every layer, in the order of the feature maps.
        classes: Number of classes K.
        config: The architecture.
    """

    def __init__(
        self, channels: Sequence[int], classes: int, config: AttentionConfig | None = None
    ) -> None:
        super().__init__()
        if not channels or classes < 1:
            raise TTameError(f"need layers and classes, got {list(channels)} and {classes}")
        self.config = config or AttentionConfig()
        self.channels, self.classes = tuple(channels), classes
        branches = [
            FeatureBranch(count, self.config) if self.config.branch else nn.Identity()
            for count in channels
        ]
        self.branches = nn.ModuleList(branches)
        self.widths = tuple(
            (self.config.width or count) if self.config.branch else count for count in channels
        )
        self.fusion = nn.Conv2d(sum(self.widths), classes, kernel_size=1)

    def output_size(self, maps: Sequence[Tensor]) -> tuple[int, int]:
        """Height and width of the explanation map for these feature maps, cells."""
        pick = max if self.config.resolution == "largest" else min
        height, width = pick((tuple(found.shape[-2:]) for found in maps), key=lambda s: s[0] * s[1])
        return min(height, self.config.max_size), min(width, self.config.max_size)

    def branch_outputs(self, maps: Sequence[Tensor]) -> list[Tensor]:
        """The output of every feature branch at its own resolution, `(B, width_l, h_l, w_l)`.

        Raises:
            TTameError: If the number of maps, or of their channels, is not the mechanism's.
        """
        found = tuple(item.shape[1] for item in maps)
        if found != self.channels:
            raise TTameError(
                f"the mechanism was built for maps of {self.channels} channels, got {found}; "
                "use the layers it was trained on"
            )
        return [branch(item) for branch, item in zip(self.branches, maps, strict=True)]

    def forward(self, maps: Sequence[Tensor], targets: Tensor | None = None) -> Tensor:
        """Explanation maps of the target classes, fused before upsampling.

        Upsampling and the 1×1 fusion are linear and act on different axes, so they commute
        (the weights of bilinear interpolation sum to one, so the bias does too): each branch
        is fused at its own resolution for the wanted classes only, and the T resulting
        channels are resized instead of all ΣC_l.

        Args:
            maps: Feature maps, `(B, C_l, h_l, w_l)` each.
            targets: Class indices `(B, T)`, int64; `None` for all K classes.

        Returns:
            Raw maps before the sigmoid, `(B, T, h, w)`; T = K without targets.

        Raises:
            TTameError: If maps or targets are not those of this mechanism and batch.
        """
        parts = self.layer_parts(maps, targets)
        bias = self.fusion.bias
        assert bias is not None
        chosen = bias.expand(maps[0].shape[0], -1) if targets is None else bias[targets]
        total = chosen[..., None, None] + parts[0]
        for part in parts[1:]:
            total = total + part
        return total

    def layer_parts(self, maps: Sequence[Tensor], targets: Tensor | None = None) -> list[Tensor]:
        """What each layer adds to the explanation maps; with the bias, their sum is the map.

        Args:
            maps: Feature maps, `(B, C_l, h_l, w_l)` each.
            targets: Class indices `(B, T)`, int64; `None` for all K classes.

        Returns:
            Raw parts at the map's resolution, `(B, T, h, w)` for each layer.

        Raises:
            TTameError: As `forward`.
        """
        if targets is not None and (targets.ndim != 2 or len(targets) != len(maps[0])):
            raise TTameError(
                f"targets must be (B, T) for the {len(maps[0])} images, got {tuple(targets.shape)}"
            )
        size = self.output_size(maps)
        weight = self.fusion.weight.flatten(1)  # (K, ΣC_l)
        # Chosen once for all layers: the gradient of a choice is as large as all K rows.
        chosen_rows = weight[None] if targets is None else weight[targets]  # (1 or B, T, ΣC_l)
        parts = []
        split = torch.split(chosen_rows, list(self.widths), dim=2)
        for hidden, rows in zip(self.branch_outputs(maps), split, strict=True):
            # Places before channels: so the gradient has the memory format of channels-last maps.
            places = hidden.flatten(2).transpose(1, 2)  # (B, h_l·w_l, C_l)
            fused = (places @ rows.transpose(1, 2)).transpose(1, 2)
            parts.append(resize(fused.reshape(*fused.shape[:2], *hidden.shape[-2:]), size))
        return parts

    def textbook(self, maps: Sequence[Tensor]) -> Tensor:
        """The papers' order of operations: upsample everything, concatenate, fuse to K maps.

        The same function as `forward(maps)`, at a many times higher cost; for teaching and
        checking.

        Returns:
            Raw maps of all classes, `(B, K, h, w)`.
        """
        size = self.output_size(maps)
        upsampled = [resize(hidden, size) for hidden in self.branch_outputs(maps)]
        every: Tensor = self.fusion(torch.cat(upsampled, dim=1))
        return every


def resize(maps: Tensor, size: tuple[int, int]) -> Tensor:
    """Bring `(B, C, h, w)` to `size`: bilinear where it grows, average pooling where it shrinks."""
    if maps.shape[-2] >= size[0] and maps.shape[-1] >= size[1]:
        return maps if tuple(maps.shape[-2:]) == size else F.adaptive_avg_pool2d(maps, size)
    return upsample(maps, size)
