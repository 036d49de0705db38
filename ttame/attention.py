"""The attention mechanism: from feature maps to explanation maps (T-TAME §III-B).

There is one mechanism; every architectural variant is a field of `AttentionConfig`.
"""

from __future__ import annotations

import copy
from collections.abc import Callable, Sequence
from dataclasses import dataclass
from typing import Literal

import torch
import torch.nn.functional as F
from torch import Tensor, nn

from ttame.errors import AtLeastOne, TTameError, validate
from ttame.features import Tokens
from ttame.masking import upsample

_ACTIVATIONS: dict[str, Callable[[Tensor], Tensor]] = {
    "relu": F.relu,
    "sigmoid": torch.sigmoid,
    "identity": lambda maps: maps,
}

_HEAD = 64  # channels of an attention head, as in Vision Transformers
_HIDDEN = 32  # channels within the decoder
_FEW_PLACES = 8  # channels per place above which a matrix product is faster, measured


@dataclass(frozen=True)
class AttentionConfig:
    """Architecture of the attention mechanism; the defaults are the papers'.

    Attributes:
        branch: Give each layer a feature branch; otherwise feature maps are fused directly
            (a multi-layer L-CAM).
        mixing: What a branch learns: a 1×1 `"convolution"` over the channels of each place, or
            multi-head self-`"attention"` over all places, meant for transformers.
        skip: Add the branch's input to its normalised output.
        batch_norm: Normalise the output of the convolution or attention.
        activation: Last step of a branch.
        width: Output channels of a branch; `None` keeps each layer's own.
        resolution: Resize all maps to the size of the largest or the smallest one.
        max_size: Maximum height and width of the explanation map, in cells.
        tokens: For transformers: `"drop"` the prefix tokens, or multiply the patch tokens by
            the `"cls"` token.
        decoder: Channels that a `MapDecoder`, shared by all classes, reads from each layer to
            refine the fused map; `None`, as published, has none.

    Raises:
        TTameError: If a field has an invalid value, or two fields contradict each other.
    """

    branch: bool = True
    mixing: Literal["convolution", "attention"] = "convolution"
    skip: bool = True
    batch_norm: bool = True
    activation: Literal["relu", "sigmoid", "identity"] = "relu"
    width: AtLeastOne | None = None
    resolution: Literal["largest", "smallest"] = "largest"
    max_size: AtLeastOne = 56
    tokens: Tokens = "drop"
    decoder: AtLeastOne | None = None

    def __post_init__(self) -> None:
        """Validate each field, then the combinations that `width` rules out."""
        validate(self)
        if self.width is not None and self.mixing == "attention":
            raise TTameError(
                f"width={self.width} needs mixing='convolution'; self-attention keeps the channels"
            )
        if self.width is not None and self.branch and self.skip:
            raise TTameError(
                f"width={self.width} changes the number of channels, so the input cannot be added; "
                "pass skip=False as well"
            )


class FeatureBranch(nn.Module):
    """Convolution or self-attention, batch norm, skip connection and activation for one layer.

    Args:
        channels: Channels C of the layer's feature map.
        config: Architecture; decides which of the steps take place.
    """

    def __init__(self, channels: int, config: AttentionConfig) -> None:
        super().__init__()
        width = config.width or channels
        self.skip, self.mixing, self.activation = config.skip, config.mixing, config.activation
        if config.mixing == "attention":
            self.attention = SelfAttention(channels)
        else:
            self.convolution = PointwiseConvolution(channels, width, kernel_size=1)
        self.norm = nn.BatchNorm2d(width) if config.batch_norm else nn.Identity()

    def forward(self, maps: Tensor) -> Tensor:
        """Map `(B, C, h, w)` to `(B, width, h, w)`."""
        mix = self.attention if self.mixing == "attention" else self.convolution
        hidden: Tensor = self.norm(mix(maps))
        if self.skip:
            hidden = hidden + maps
        return self.activate(hidden)

    def activate(self, maps: Tensor) -> Tensor:
        """Apply the branch's last step to `(B, C, h, w)`."""
        return _ACTIVATIONS[self.activation](maps)


class PointwiseConvolution(nn.Conv2d):
    """A 1×1 convolution that runs as a matrix product for few places and many channels.

    On CPUs a convolution reorders its weights at every call, which for one small, deep map takes
    longer than the convolution itself.
    """

    def forward(self, maps: Tensor) -> Tensor:
        """Map `(B, C, h, w)` to `(B, width, h, w)`."""
        # An exported program takes any number of photos, and other libraries choose for themselves.
        if torch.compiler.is_compiling():
            return super().forward(maps)
        if _FEW_PLACES * maps.shape[0] * maps.shape[2] * maps.shape[3] >= maps.shape[1]:
            return super().forward(maps)
        rows = maps.permute(0, 2, 3, 1)  # (B, h, w, C)
        return F.linear(rows, self.weight[:, :, 0, 0], self.bias).permute(0, 3, 1, 2)


class SelfAttention(nn.Module):
    """Multi-head self-attention over the places of a feature map.

    Args:
        channels: Channels C; split into heads of 64 if divisible, otherwise a single head.
    """

    def __init__(self, channels: int) -> None:
        super().__init__()
        heads = channels // _HEAD if channels % _HEAD == 0 else 1
        self.heads = nn.MultiheadAttention(channels, heads, batch_first=True)

    def forward(self, maps: Tensor) -> Tensor:
        """Map `(B, C, h, w)` to the same shape."""
        places = maps.flatten(2).transpose(1, 2)  # (B, h·w, C)
        mixed: Tensor = self.heads(places, places, places, need_weights=False)[0]
        return mixed.transpose(1, 2).reshape(maps.shape)


class MapDecoder(nn.Module):
    """Refine the fused map of any class by what each layer shows in each place (not in `ttame`).

    A fusion is linear in the branches, so it can weigh layers but not let one decide how another
    is read. Here the fused map, standardised per photo, meets a few channels of each layer in a
    small convolutional network. Its weights are shared by all classes: what it learns on some
    classes holds for all. It starts as sigmoid(2·map + 1), whatever the layers.

    Args:
        channels: Channels C_l of each layer.
        width: Channels that are read from each layer.
    """

    def __init__(self, channels: Sequence[int], width: int) -> None:
        super().__init__()
        self.readers = nn.ModuleList(nn.Conv2d(count, width, 1, bias=False) for count in channels)
        self.norms = nn.ModuleList(nn.BatchNorm2d(width) for _ in channels)
        read = width * len(channels)
        self.inlet = nn.Conv2d(2 * read + 1, _HIDDEN, 1)
        self.blocks = nn.ModuleList(_residual_block() for _ in range(2))
        self.outlet = nn.Conv2d(_HIDDEN, 1, 1, bias=False)
        self.scale = nn.Linear(_HIDDEN, 2)  # gain and shift of the fused map
        for last in (self.outlet, self.scale):
            nn.init.zeros_(last.weight)
        with torch.no_grad():
            self.scale.bias.copy_(torch.tensor([2.0, 1.0]))

    def forward(self, maps: Sequence[Tensor], fused: Tensor) -> Tensor:
        """Refine maps.

        Args:
            maps: Feature maps, `(B, C_l, h_l, w_l)` each.
            fused: Fused maps of T classes, `(B, T, h, w)`.

        Returns:
            `(B, T, h, w)` in (0, 1).
        """
        batch, classes, height, width = fused.shape
        size = (height, width)
        read = torch.cat(
            [resize(norm(reader(found)), size)
             for reader, norm, found in zip(self.readers, self.norms, maps, strict=True)], dim=1
        )  # fmt: skip
        read = read.repeat_interleave(classes, dim=0)  # (B·T, L·width, h, w)
        own = standardize(fused).reshape(batch * classes, 1, *size)
        hidden = F.gelu(self.inlet(torch.cat([read, own, read * own], dim=1)))
        for block in self.blocks:
            hidden = hidden + block(hidden)
        gain, shift = self.scale(hidden.mean(dim=(2, 3)))[..., None, None].split(1, dim=1)
        refined: Tensor = torch.sigmoid(gain * own + shift + self.outlet(hidden))
        return refined.reshape(fused.shape)


def _residual_block() -> nn.Sequential:
    """A depthwise and two pointwise convolutions that add nothing at the start."""
    last = nn.Conv2d(_HIDDEN, _HIDDEN, 1)
    nn.init.zeros_(last.weight)
    return nn.Sequential(
        nn.Conv2d(_HIDDEN, _HIDDEN, 5, padding=2, groups=_HIDDEN),
        nn.BatchNorm2d(_HIDDEN),
        nn.Conv2d(_HIDDEN, _HIDDEN, 1),
        nn.GELU(),
        last,
    )


def standardize(maps: Tensor) -> Tensor:
    """Shift and scale each map `(..., h, w)` to mean 0 and standard deviation 1."""
    centred = maps - maps.mean(dim=(-2, -1), keepdim=True)
    # Within the root, where a constant map has a gradient, too.
    return centred / (centred.square().mean(dim=(-2, -1), keepdim=True) + 1e-12).sqrt()


class AttentionMechanism(nn.Module):
    """Turn the feature maps of L layers into one explanation map per target class.

    Args:
        channels: Channels C_l of each layer, in the order of the feature maps.
        classes: Number of classes K.
        config: Architecture; default: the papers'.

    Raises:
        TTameError: If there are no layers or no classes.
    """

    def __init__(
        self, channels: Sequence[int], classes: int, config: AttentionConfig | None = None
    ) -> None:
        super().__init__()
        if not channels or classes < 1:
            raise TTameError(f"need layers and classes, got {list(channels)} and {classes}")
        self.config = config or AttentionConfig()
        self.channels, self.classes = tuple(channels), classes
        if self.config.branch:
            self.branches = nn.ModuleList(FeatureBranch(count, self.config) for count in channels)
            self.widths = tuple(self.config.width or count for count in channels)
        else:
            self.branches = nn.ModuleList(nn.Identity() for _ in channels)
            self.widths = self.channels
        self.fusion = nn.Conv2d(sum(self.widths), classes, kernel_size=1)
        width = self.config.decoder
        self.decoder = None if width is None else MapDecoder(self.channels, width)

    def output_size(self, maps: Sequence[Tensor]) -> tuple[int, int]:
        """Return the height and width of the explanation map for these feature maps."""
        pick = max if self.config.resolution == "largest" else min
        height, width = pick((tuple(found.shape[-2:]) for found in maps), key=lambda s: s[0] * s[1])
        return min(height, self.config.max_size), min(width, self.config.max_size)

    def branch_outputs(self, maps: Sequence[Tensor]) -> list[Tensor]:
        """Apply each feature branch, at its own resolution: `(B, width_l, h_l, w_l)` per layer.

        Raises:
            TTameError: If the number of maps or their channels do not match the mechanism.
        """
        found = tuple(item.shape[1] for item in maps)
        if found != self.channels:
            raise TTameError(
                f"the mechanism was built for maps of {self.channels} channels, got {found}; "
                "use the layers it was trained on"
            )
        return [branch(item) for branch, item in zip(self.branches, maps, strict=True)]

    def forward(self, maps: Sequence[Tensor], targets: Tensor | None = None) -> Tensor:
        """Compute the explanation maps of the target classes, fusing before upsampling.

        Upsampling and the 1×1 fusion are linear and act on different axes, so they commute
        (bilinear weights sum to one, so the bias commutes too). Each branch is fused at its own
        resolution for the target classes only, and T channels are resized instead of all ΣC_l.

        Args:
            maps: Feature maps, `(B, C_l, h_l, w_l)` per layer.
            targets: Class indices `(B, T)`, int64; `None` for all K classes.

        Returns:
            Raw maps, `(B, T, h, w)`; T = K without targets. Before the sigmoid, or in (0, 1) where
            there is a decoder.

        Raises:
            TTameError: If the maps or targets do not match the mechanism or the batch.
        """
        parts = self.layer_parts(maps, targets)
        bias = self.fusion.bias
        assert bias is not None
        chosen = bias.expand(maps[0].shape[0], -1) if targets is None else bias[targets]
        total = parts[0]
        for part in parts[1:]:
            total = total + part
        return self.decode(maps, total + chosen[..., None, None])

    def decode(self, maps: Sequence[Tensor], fused: Tensor) -> Tensor:
        """Refine fused maps `(B, T, h, w)` by the decoder, if there is one."""
        if self.decoder is None:
            return fused
        refined: Tensor = self.decoder(maps, fused)
        return refined

    def keep_layers(self, kept: Sequence[int]) -> AttentionMechanism:
        """Return a copy that reads only some layers: nothing of the others reaches the map.

        Args:
            kept: Positions of the layers to keep.
        """
        mechanism = copy.deepcopy(self)
        rows = torch.split(mechanism.fusion.weight.detach(), list(self.widths), dim=1)
        with torch.no_grad():
            for index, row in enumerate(rows):
                if index in kept:
                    continue
                row.zero_()
                if mechanism.decoder is not None:
                    norm = mechanism.decoder.norms[index]
                    assert isinstance(norm, nn.BatchNorm2d)
                    norm.weight.zero_()
                    norm.bias.zero_()
        return mechanism

    def layer_parts(self, maps: Sequence[Tensor], targets: Tensor | None = None) -> list[Tensor]:
        """Compute what each layer adds to the fused maps; with the bias, the parts sum to them.

        Args:
            maps: Feature maps, `(B, C_l, h_l, w_l)` each.
            targets: Class indices `(B, T)`, int64; `None` for all K classes.

        Returns:
            Raw parts at the map's resolution, `(B, T, h, w)` for each layer.

        Raises:
            TTameError: As `forward`.
        """
        # Not len(), which would fix the batch size of an exported program.
        batch = maps[0].shape[0]
        if targets is not None and (targets.ndim != 2 or targets.shape[0] != batch):
            raise TTameError(
                f"targets must be (B, T) for the {batch} images, got {tuple(targets.shape)}"
            )
        size = self.output_size(maps)
        weight = self.fusion.weight.flatten(1)  # (K, ΣC_l)
        # Indexed once for all layers: the gradient of indexing is as large as all K rows.
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
        """Compute `forward(maps)` in the papers' order: upsample, concatenate, fuse to K maps.

        Many times slower; for teaching and for testing `forward`.

        Returns:
            Raw maps of all classes, `(B, K, h, w)`.
        """
        size = self.output_size(maps)
        upsampled = [resize(hidden, size) for hidden in self.branch_outputs(maps)]
        return self.decode(maps, self.fusion(torch.cat(upsampled, dim=1)))


def resize(maps: Tensor, size: tuple[int, int]) -> Tensor:
    """Resize `(B, C, h, w)`: average pooling to shrink, bilinear interpolation to grow."""
    if maps.shape[-2] >= size[0] and maps.shape[-1] >= size[1]:
        return maps if tuple(maps.shape[-2:]) == size else F.adaptive_avg_pool2d(maps, size)
    return upsample(maps, size)


def branch_change(branch: nn.Module, maps: Tensor) -> tuple[float, float]:
    """Measure what a branch has learned.

    Args:
        branch: A feature branch, or the identity in its place.
        maps: The layer's feature maps, `(B, C, h, w)`.

    Returns:
        How far its output is from the feature map passed through the last activation,
        ‖branch(f) - act(f)‖ / ‖act(f)‖: 0 for a branch that has learned nothing, NaN without a
        branch or where it changes the channel count; and the mean absolute gain of its batch
        norm, NaN without one.
    """
    moved = gain = float("nan")
    if isinstance(branch, FeatureBranch):
        output, start = branch(maps), branch.activate(maps)
        if output.shape == start.shape:
            moved = float((output - start).norm() / start.norm().clamp_min(1e-12))
        if isinstance(branch.norm, nn.BatchNorm2d):
            gain = float(branch.norm.weight.abs().mean())
    return moved, gain
