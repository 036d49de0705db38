"""Layers: find the modules of a classifier that give feature maps, and choose some of them.

A feature map has the shape of the image *and* its order: a change at one place of the image must
show at that place of the map. Both are measured in one forward pass, so no list of known
architectures is needed.
"""

from __future__ import annotations

import re
from collections import Counter
from collections.abc import Sequence
from dataclasses import dataclass, replace

import torch
import torch.nn.functional as F
from torch import Tensor, nn

from ttame.classifiers.advice import input_errors
from ttame.classifiers.weights import input_like
from ttame.errors import TTameError
from ttame.features import TokenLayout, observe, to_map

_NUMBERED = re.compile(r"(?:^|[._])\d+$")  # `blocks.7`, `encoder_layer_7`
# Centres of the changed places of the probe images, as shares of height and width; asymmetric,
# so that neither transposed nor mirrored maps pass.
_PLACES = ((0.25, 0.75), (0.75, 0.75))
_EXTENT = 0.25  # height and width of a changed place, as a share of the image's
_LARGER = 0.8  # minimum share of pairs of cells in which the inner one changes more
_NEAR = 0.75  # minimum share of the most changed cells that lie near the changed place
_SAME = 1.7  # maximum ratio of areas within one resolution; the next has about four times more
_CELLS = 28  # maximum height and width of the compared maps
_NOTHING = 1e-5  # relative change below which it is rounding


@dataclass(frozen=True)
class LayerInfo:
    """A module whose output can serve as a feature map.

    Attributes:
        name: Dotted module name.
        kind: Class of the module.
        channels: Number of channels C.
        size: Height and width (h, w) of the map.
        stride: Input height divided by map height.
        chosen: Whether the automatic choice takes this layer.
        in_place: Whether changes of the image show at the same place of the map; some networks
            reorder their tokens.
        runs: How often the module runs in a forward pass. One that runs several times, as a
            shared ReLU does, has no single map and is never chosen.
    """

    name: str
    kind: str
    channels: int
    size: tuple[int, int]
    stride: float
    chosen: bool = False
    in_place: bool = True
    runs: int = 1


@torch.no_grad()
def list_layers(
    model: nn.Module, input_size: Sequence[int], channels: int | None = None
) -> tuple[LayerInfo, ...]:
    """List the modules whose output is a feature map, and mark the automatic choice.

    The choice is the last module of each of the last three resolutions, or, for transformers,
    which have a single resolution, the three blocks before the last one: after the last block
    only the class token is read.

    Args:
        model: The classifier, in `eval()`.
        input_size: Height and width of the input, in pixels.
        channels: Channels of the input; default: what the first convolution takes, or 3 where
            there is none.

    Raises:
        TTameError: If the model cannot take images of this size.
    """
    images = probe_images(model, input_size, channels)
    modules, layout = dict(model.named_modules()), TokenLayout.of(model)
    found: dict[str, LayerInfo] = {}
    runs: Counter[str] = Counter()

    def see(name: str, output: object) -> None:
        runs[name] += 1
        found.pop(name, None)  # a module that runs again is moved to the end
        try:
            maps = to_map(output, name, images, layout)
        except TTameError:
            return
        _, count, height, width = maps.shape
        if height * width > 1 and maps.is_floating_point():
            kind, stride = type(modules[name]).__name__, input_size[0] / height
            found[name] = LayerInfo(
                name, kind, count, (height, width), stride, in_place=_in_place(maps)
            )

    # Judged on the fly: the outputs of all modules of a large network would fill the memory.
    with observe(model, [name for name in modules if name], see), input_errors(model, images):
        model(images)
    rows = [replace(row, runs=runs[row.name]) for row in found.values()]
    # One channel is a gate or a score, and what a wrapper makes of the image an image still.
    image = (images.shape[1], *images.shape[2:])
    features = [row for row in rows if row.channels > 1 and (row.channels, *row.size) != image]
    chosen = set(_choose([row for row in features if row.in_place and row.runs == 1]))
    return tuple(replace(row, chosen=row.name in chosen) for row in rows)


def choose_layers(
    model: nn.Module, input_size: Sequence[int], channels: int | None = None
) -> tuple[str, ...]:
    """Return the automatic choice of `list_layers`, shallow to deep.

    Raises:
        TTameError: If the model has no spatial feature map.
    """
    rows = list_layers(model, input_size, channels)
    chosen = tuple(row.name for row in rows if row.chosen)
    if not chosen:
        raise TTameError(
            f"{type(model).__name__} has no layer with a spatial feature map"
            f"{' in the order of the image' if rows else ''}; T-TAME needs one "
            "(convolutions or patch tokens before the pooling)"
        )
    return chosen


def outline(rows: Sequence[LayerInfo], keep: Sequence[str] = ()) -> tuple[LayerInfo, ...]:
    """Drop the layers inside numbered blocks, except chosen ones.

    Args:
        rows: Layers from `list_layers`.
        keep: Names of further layers to keep.
    """

    def outer(row: LayerInfo) -> bool:
        numbered = [bool(_NUMBERED.search(part)) for part in row.name.split(".")]
        return not any(numbered) or (sum(numbered) == 1 and numbered[-1])

    return tuple(row for row in rows if outer(row) or row.chosen or row.name in keep)


def input_channels(model: nn.Module) -> int | None:
    """Return the input channels of a model's first convolution; `None` without one."""
    convolutions = (module for module in model.modules() if isinstance(module, nn.Conv2d))
    first = next(convolutions, None)
    return None if first is None else first.in_channels


def probe_images(
    model: nn.Module, input_size: Sequence[int], channels: int | None = None
) -> Tensor:
    """Make a noise image and two copies, each changed at one place, `(3, C, H, W)`.

    The noise is always the same; dtype and device are those of the model.
    """
    if channels is None:
        channels = input_channels(model) or 3
    generator = torch.Generator().manual_seed(0)
    images = torch.randn(1, channels, *input_size, generator=generator).repeat(3, 1, 1, 1)
    for image, (y, x) in zip(images[1:], _PLACES, strict=True):
        rows, columns = _span(y, input_size[0]), _span(x, input_size[1])
        # Shifted noise: another draw of the same strength.
        image[:, rows, columns] = images[0, :, rows, columns].roll((7, 5), (1, 2)) + 1
    return images.to(input_like(model))


def _span(centre: float, length: int) -> slice:
    start = round((centre - _EXTENT / 2) * length)
    return slice(start, max(round((centre + _EXTENT / 2) * length), start + 1))


def _in_place(maps: Tensor) -> bool:
    """Return whether each change of the probe shows at its own place of the map `(3, C, h, w)`.

    Its cells must change more than the others (deep cells see most of the image, so all may
    change), or the most changed cells lie near (strided networks may be half a cell off). A map
    that does not change at all, as after zero-initialised modules, passes.
    """
    maps = maps.float()
    changes = (maps[1:] - maps[:1]).abs().sum(dim=1)  # (2, h, w)
    scale = float(maps[:1].abs().sum(dim=1).max())
    height, width = (min(cells, _CELLS) for cells in changes.shape[-2:])
    changes = F.adaptive_avg_pool2d(changes, (height, width))  # bounds the pairs of cells below
    rows = (torch.arange(height, device=maps.device) + 0.5) / height
    columns = (torch.arange(width, device=maps.device) + 0.5) / width
    reach = _EXTENT / 2
    for change, (y, x) in zip(changes, _PLACES, strict=True):
        if not float(change.max()) > _NOTHING * scale:  # also NaN, which proves nothing
            continue
        down, across = (rows - y).abs()[:, None], (columns - x).abs()[None]
        half_h, half_w = 0.5 / height + 1e-6, 0.5 / width + 1e-6  # half a cell
        inside = (down <= max(reach, half_h)) & (across <= max(reach, half_w))
        near_h, near_w = (reach + max(2 * half, 0.125) for half in (half_h, half_w))
        near = (down <= near_h) & (across <= near_w)
        here, there = change[inside], change[~inside]
        larger = (here[:, None] > there[None]).float() + 0.5 * (here[:, None] == there[None])
        most = change.flatten().topk(int(inside.sum())).indices
        if float(larger.mean()) < _LARGER and float(near.flatten()[most].float().mean()) < _NEAR:
            return False
    return True


def _choose(rows: Sequence[LayerInfo]) -> list[str]:
    blocks = [row for row in _unwrapped(rows) if _NUMBERED.search(row.name)]
    depth = min((_depth(row) for row in blocks), default=0)
    top = [row for row in blocks if _depth(row) == depth]
    # Blocks repeated at one resolution make a transformer.
    if len(top) >= 4 and len({row.size for row in top}) == 1:
        return [row.name for row in top[-4:-1]]
    # Large to small, that is shallow to deep.
    return [_end(stage) for stage in reversed(_resolutions(rows)[:3])]


def _unwrapped(rows: Sequence[LayerInfo]) -> list[LayerInfo]:
    """Return the rows inside the modules that hold all others, as wrappers do."""
    prefix = ""
    while True:
        inner = [row for row in rows if row.name.startswith(prefix)]
        parts = [row.name.removeprefix(prefix).split(".") for row in inner]
        holders = {first for first, *rest in parts if rest}
        if len(holders) != 1:
            return inner
        prefix += f"{holders.pop()}."


def _resolutions(rows: Sequence[LayerInfo]) -> list[list[LayerInfo]]:
    """Group rows by resolution, small to large; sizes that differ only by padding are equal."""
    areas = [row.size[0] * row.size[1] for row in rows]
    bases: list[int] = []  # the smallest area of each resolution
    for area in sorted(set(areas)):
        if not bases or area > _SAME * bases[-1]:
            bases.append(area)
    place = [sum(base <= area for base in bases) - 1 for area in areas]
    return [
        [row for row, of in zip(rows, place, strict=True) if of == index]
        for index in range(len(bases))
    ]


def _end(stage: Sequence[LayerInfo]) -> str:
    """Return the module that ends a resolution: the last of the outermost ones, the whole stage.

    If it runs before most others, like the dropout after a patch embedding, it begins the
    resolution, and the next depth is considered.
    """
    for depth in sorted({_depth(row) for row in stage}):
        last = max(index for index, row in enumerate(stage) if _depth(row) == depth)
        if 2 * (last + 1) >= len(stage):
            return stage[last].name
    return stage[-1].name


def _depth(row: LayerInfo) -> int:
    return row.name.count(".")
