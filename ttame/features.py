"""Feature maps: one forward pass of a classifier gives its logits and the maps of chosen layers."""

from __future__ import annotations

import math
import re
from collections.abc import Callable, Iterator, Sequence
from contextlib import contextmanager
from dataclasses import dataclass
from typing import Literal

import torch
from torch import Tensor, nn

from ttame.errors import TTameError, suggest

Tokens = Literal["drop", "cls"]

_NUMBERED = re.compile(r"(?:^|[._])\d+$")  # `blocks.7`, `encoder_layer_7`


@dataclass(frozen=True)
class LayerInfo:
    """One row of `ttame layers`: a module whose output can serve as a feature map.

    Attributes:
        name: Dotted module name.
        kind: Class of the module.
        channels: Channel count C.
        size: Height and width (h, w) of the map.
        stride: Input height over map height.
        chosen: Whether the automatic choice takes it.
    """

    name: str
    kind: str
    channels: int
    size: tuple[int, int]
    stride: float
    chosen: bool = False


@contextmanager
def capture(model: nn.Module, layers: Sequence[str]) -> Iterator[dict[str, object]]:
    """Record the outputs of `layers` during the forward passes inside the block.

    The hooks are gone afterwards, also after an exception; the model is not changed.

    Raises:
        TTameError: A name that does not exist (near names are suggested), or one given twice.
    """
    modules = {name: _submodule(model, name) for name in layers}
    if len(modules) != len(layers):
        twice = next(name for name in layers if list(layers).count(name) > 1)
        raise TTameError(f"layer {twice!r} is given twice; name every layer once")
    outputs: dict[str, object] = {}

    def recorder(name: str) -> Callable[..., None]:
        def hook(_module: nn.Module, _args: object, output: object) -> None:
            # A copy: a ReLU in place behind the layer would write into its output.
            outputs[name] = output.clone() if isinstance(output, Tensor) else output

        return hook

    handles = [modules[name].register_forward_hook(recorder(name)) for name in layers]
    try:
        yield outputs
    finally:
        for handle in handles:
            handle.remove()


@contextmanager
def masked_features(model: nn.Module, layer: str, masks: Tensor) -> Iterator[None]:
    """Multiply a layer's feature map by masks in the forward passes inside the block.

    Args:
        model: The classifier.
        layer: Dotted name.
        masks: `(B, 1, h, w)`, of the feature map's size.

    Raises:
        TTameError: If the layer's output is no feature map `(B, C, h, w)` of the masks' size.
    """

    def hook(_module: nn.Module, _args: object, output: Tensor) -> Tensor:
        if output.ndim != 4 or output.shape[-2:] != masks.shape[-2:]:
            raise TTameError(
                f"the output of layer {layer!r}, {tuple(output.shape)}, cannot be multiplied by "
                f"masks {tuple(masks.shape)}; choose one layer with a map (B, C, h, w)"
            )
        return output * masks

    handle = _submodule(model, layer).register_forward_hook(hook)
    try:
        yield
    finally:
        handle.remove()


def prefix_tokens(model: nn.Module) -> int | None:
    """How many tokens before the patch tokens a transformer has; `None` if it does not say."""
    count = getattr(model, "num_prefix_tokens", None)  # timm
    if count is None and hasattr(model, "class_token"):  # torchvision
        count = 1
    return None if count is None else int(count)


def token_grid(tokens: int, size: Sequence[int], prefix: int | None) -> tuple[int, int, int]:
    """Find (prefix, h, w) such that prefix + h·w = tokens and the grid has the image's shape.

    Args:
        tokens: Length of the token sequence.
        size: Height and width of the input image, pixels.
        prefix: Number of leading tokens that are not patches, or `None` to try 0 to 8.

    Raises:
        TTameError: If no grid fits.
    """
    height, width = size
    # Where the count is known, a layer may still lie before the prefix tokens join (CaiT).
    for before in range(9) if prefix is None else (prefix, 0):
        patches = tokens - before
        if patches < 1:
            continue
        # Non-square inputs may round the patch count; accept the grid nearest in aspect ratio.
        rows = math.isqrt(round(patches * height / width)) or 1
        for h in (rows, rows + 1):
            if patches % h == 0 and abs(math.log((h * width) / (patches / h * height))) < 0.1:
                return before, h, patches // h
    raise TTameError(
        f"{tokens} tokens with {'an unknown number of' if prefix is None else prefix} prefix "
        f"tokens form no grid of the shape of a {height}x{width} image; choose a layer whose "
        "tokens are the image's patches"
    )


def to_map(
    output: object, name: str, image: Tensor, prefix: int | None = None, tokens: Tokens = "drop"
) -> Tensor:
    """Bring a layer's output into the form of a feature map.

    Args:
        output: What the layer returned: `(B, C, h, w)`, `(B, h, w, C)` or tokens `(B, N, C)`.
        name: The layer's name, for messages.
        image: The input, `(B, 3, H, W)`.
        prefix: Number of prefix tokens, if known.
        tokens: `"drop"`: leave prefix tokens out; `"cls"`: multiply the patch tokens by the
            first one (T-TAME's alternative, ablated in the book).

    Returns:
        `(B, C, h, w)`.

    Raises:
        TTameError: If the output is no tensor, of another batch size, or has no spatial shape.
    """
    if not isinstance(output, Tensor):
        raise TTameError(
            f"layer {name!r} returns a {type(output).__name__}, not a tensor; "
            "choose a layer inside it"
        )
    batch, (height, width) = image.shape[0], image.shape[-2:]
    if output.ndim not in (3, 4) or output.shape[0] != batch:
        raise TTameError(
            f"layer {name!r} returns {tuple(output.shape)} for {batch} images, which is no "
            "feature map (B, C, h, w) and no token sequence (B, N, C); choose another layer"
        )
    if output.ndim == 4:
        _, a, b, c = output.shape
        last = abs(math.log((a * width) / (b * height)))  # misfit if channels come last
        first = abs(math.log((b * width) / (c * height)))
        return output if first <= last + 1e-9 else output.permute(0, 3, 1, 2)
    before, h, w = token_grid(output.shape[1], (height, width), prefix)
    patches = output[:, before:]  # (B, h·w, C)
    if tokens == "cls":
        if before == 0:
            raise TTameError(f"tokens='cls' needs a class token, layer {name!r} has none")
        patches = patches * output[:, :1]
    return patches.transpose(1, 2).reshape(batch, -1, h, w)  # (B, C, h, w)


def _submodule(model: nn.Module, name: str) -> nn.Module:
    """Look a layer up by its path; listing all modules at every pass would cost as much as one."""
    try:
        if name:
            return model.get_submodule(name)
    except AttributeError:
        pass
    hint = suggest(name, [known for known, _ in model.named_modules()])
    raise TTameError(
        f"{type(model).__name__} has no layer {name!r};{hint} "
        "`ttame layers MODEL` lists those that can be used"
    )


class FeatureExtractor:
    """One pass of a classifier: `(logits, feature maps)`.

    Args:
        model: The classifier.
        layers: Dotted module names, shallow to deep.
        tokens: How prefix tokens of transformers are handled (`to_map`).
    """

    def __init__(self, model: nn.Module, layers: Sequence[str], tokens: Tokens = "drop") -> None:
        if not layers:
            raise TTameError("name at least one layer; `ttame layers MODEL` lists them")
        self.model, self.layers, self.tokens = model, tuple(layers), tokens
        with capture(model, layers):
            pass  # refuse bad names now, not at the first image

    def __call__(self, images: Tensor) -> tuple[Tensor, list[Tensor]]:
        """Run the classifier once.

        Args:
            images: Normalised images, `(B, 3, H, W)`.

        Returns:
            Logits `(B, K)` and one map `(B, C_l, h_l, w_l)` a layer, in the order of `layers`.

        Raises:
            TTameError: If a layer was not reached, or its output is no feature map.
        """
        with capture(self.model, self.layers) as outputs:
            logits = self.model(images)
        prefix = prefix_tokens(self.model)
        maps = []
        for name in self.layers:
            if name not in outputs:
                raise TTameError(
                    f"layer {name!r} takes no part in the forward pass; choose another"
                )
            maps.append(to_map(outputs[name], name, images, prefix, self.tokens))
        return logits, maps


@torch.no_grad()
def list_layers(
    model: nn.Module, input_size: Sequence[int], channels: int = 3
) -> tuple[LayerInfo, ...]:
    """List the modules whose output is a feature map, and mark the automatic choice.

    The choice (design §6): for networks that narrow, the last module of each of the last three
    resolutions; for networks of one resolution (transformers), the ends of three of the last
    four blocks.

    Args:
        model: The classifier, in `eval()`.
        input_size: Height and width of the input, pixels.
        channels: Channels of the input.
    """
    parameter = next(model.parameters(), torch.zeros(()))
    image = torch.zeros(1, channels, *input_size, device=parameter.device, dtype=parameter.dtype)
    names = [name for name, _ in model.named_modules() if name]
    # Hooks fire when a module ends, so insertion order is the order of execution.
    with capture(model, names) as outputs:
        model(image)
    modules, prefix, rows = dict(model.named_modules()), prefix_tokens(model), []
    for name, output in outputs.items():
        try:
            found = to_map(output, name, image, prefix)
        except TTameError:
            continue
        height, width = found.shape[-2:]
        if height * width > 1:
            rows.append(
                LayerInfo(
                    name,
                    type(modules[name]).__name__,
                    found.shape[1],
                    (height, width),
                    input_size[0] / height,
                )
            )
    chosen = set(_choose(rows))
    return tuple(LayerInfo(**{**vars(row), "chosen": row.name in chosen}) for row in rows)


def choose_layers(model: nn.Module, input_size: Sequence[int]) -> tuple[str, ...]:
    """The automatic choice of `list_layers`, shallow to deep.

    Raises:
        TTameError: If the model has no spatial feature map.
    """
    chosen = tuple(row.name for row in list_layers(model, input_size) if row.chosen)
    if not chosen:
        raise TTameError(
            f"{type(model).__name__} has no layer with a spatial feature map; T-TAME needs one "
            "(convolutions or patch tokens before the pooling)"
        )
    return chosen


def _choose(rows: Sequence[LayerInfo]) -> list[str]:
    blocks = [row for row in rows if _NUMBERED.search(row.name)]
    depth = min((row.name.count(".") for row in blocks), default=0)
    top = [row for row in blocks if row.name.count(".") == depth]
    sizes = sorted({row.size for row in rows}, key=lambda size: size[0] * size[1])[:3]
    # Repeated blocks at one resolution: a transformer (whose attention matrices look like maps).
    if len(top) >= 4 and len({row.size for row in top}) == 1:
        return [row.name for row in top[-4:-1]]
    chosen = []
    for size in reversed(sizes):  # large to small, that is shallow to deep
        stage = [row for row in rows if row.size == size]
        outer = min(row.name.count(".") for row in stage)
        # The outermost module that ends last is the whole stage, not a piece of the next one.
        chosen.append([row.name for row in stage if row.name.count(".") == outer][-1])
    return chosen
