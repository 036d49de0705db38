"""Layers: which modules of a classifier give feature maps, and which of them to read.

A module's output is a feature map if it has the image's shape *and* its order: a change of one
place of the image must show at that place of the map. Both are measured in one forward pass, so
the choice needs no list of known networks.
"""

from __future__ import annotations

import re
from collections.abc import Iterator, Sequence
from contextlib import contextmanager
from dataclasses import dataclass, replace

import torch
import torch.nn.functional as F
from torch import Tensor, nn

from ttame.errors import TTameError
from ttame.features import observe, prefix_tokens, to_map

_NUMBERED = re.compile(r"(?:^|[._])\d+$")  # `blocks.7`, `encoder_layer_7`
# Where the probe images are changed, in shares of height and width: off both diagonals' centre,
# so that neither a transposed nor a mirrored map passes.
_PLACES = ((0.25, 0.75), (0.75, 0.75))
_EXTENT = 0.25
_LARGER = 0.8  # share of pairs in which a cell of the changed place changes more than another
_NEAR = 0.75  # share of the cells that change most, as many as the place has, that are near it
_SAME = 1.7  # of a resolution's smallest area; the next resolution has about four times that
_CELLS = 28  # a side, at most, for this comparison
_NOTHING = 1e-5  # of the map's size: rounding


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
        in_place: Whether a change of the image shows at its own place of the map; some networks
            travel through their tokens in another order.
    """

    name: str
    kind: str
    channels: int
    size: tuple[int, int]
    stride: float
    chosen: bool = False
    in_place: bool = True


@torch.no_grad()
def list_layers(
    model: nn.Module, input_size: Sequence[int], channels: int = 3
) -> tuple[LayerInfo, ...]:
    """List the modules whose output is a feature map, and mark the automatic choice.

    The choice (design §6): for networks that narrow, the last module of each of the last three
    resolutions; for networks of one resolution (transformers), the ends of three of the last
    four blocks. The very last block is left out: behind it only the class token is read.

    Args:
        model: The classifier, in `eval()`.
        input_size: Height and width of the input, pixels.
        channels: Channels of the input.

    Raises:
        TTameError: If the model cannot take images of this size.
    """
    images = probe_images(model, input_size, channels)
    modules, prefix = dict(model.named_modules()), prefix_tokens(model)
    found: dict[str, LayerInfo] = {}

    def see(name: str, output: object) -> None:
        found.pop(name, None)  # a module that runs again moves to the end
        try:
            maps = to_map(output, name, images, prefix)
        except TTameError:
            return
        height, width = maps.shape[-2:]
        if height * width > 1 and maps.is_floating_point():
            found[name] = LayerInfo(
                name,
                type(modules[name]).__name__,
                maps.shape[1],
                (height, width),
                input_size[0] / height,
                in_place=_in_place(maps),
            )

    # Judged as they run: the outputs of all modules of a large network would fill the memory.
    with observe(model, [name for name in modules if name], see), input_errors(model, images):
        model(images)
    rows = list(found.values())
    # One channel is a gate or a score, not a feature map.
    chosen = set(_choose([row for row in rows if row.in_place and row.channels > 1]))
    return tuple(replace(row, chosen=row.name in chosen) for row in rows)


def choose_layers(model: nn.Module, input_size: Sequence[int]) -> tuple[str, ...]:
    """The automatic choice of `list_layers`, shallow to deep.

    Raises:
        TTameError: If the model has no spatial feature map.
    """
    rows = list_layers(model, input_size)
    chosen = tuple(row.name for row in rows if row.chosen)
    if not chosen:
        raise TTameError(
            f"{type(model).__name__} has no layer with a spatial feature map"
            f"{' in the order of the image' if rows else ''}; T-TAME needs one "
            "(convolutions or patch tokens before the pooling)"
        )
    return chosen


def outline(rows: Sequence[LayerInfo], keep: Sequence[str] = ()) -> tuple[LayerInfo, ...]:
    """Leave out what lies inside blocks: of a name, at most one numbered part below the stage.

    Args:
        rows: From `list_layers`.
        keep: Names that stay anyway, beside the chosen ones.
    """

    def outer(row: LayerInfo) -> bool:
        numbered = [bool(_NUMBERED.search(part)) for part in row.name.split(".")]
        return not any(numbered) or (sum(numbered) == 1 and numbered[-1])

    return tuple(row for row in rows if outer(row) or row.chosen or row.name in keep)


def probe_images(model: nn.Module, input_size: Sequence[int], channels: int = 3) -> Tensor:
    """A noise image, and the same one changed at two places, `(3, C, H, W)`.

    Of the model's device and dtype; the same noise each time.
    """
    parameter = next(model.parameters(), torch.zeros(()))
    generator = torch.Generator().manual_seed(0)
    images = torch.randn(1, channels, *input_size, generator=generator).repeat(3, 1, 1, 1)
    height, width = input_size
    for index, (y, x) in enumerate(_PLACES, start=1):
        rows = _span(y, height)
        columns = _span(x, width)
        # Of the noise's own size, but another draw.
        images[index, :, rows, columns] = images[0, :, rows, columns].roll((7, 5), (1, 2)) + 1
    dtype = parameter.dtype if parameter.is_floating_point() else torch.float32
    return images.to(parameter.device, dtype)


@contextmanager
def input_errors(model: nn.Module, images: Tensor) -> Iterator[None]:
    """Say what to do where `model` raises inside the block because it cannot take `images`.

    Raises:
        TTameError: In the place of whatever the module raises.
    """
    try:
        yield
    except TTameError:
        raise
    except Exception as error:
        raise TTameError(
            f"{type(model).__name__} cannot take images {tuple(images.shape)}, {images.dtype} "
            f"({type(error).__name__}: {str(error)[:200]}); pass the input_size that it was "
            "built for"
        ) from error


def _span(centre: float, length: int) -> slice:
    start = round((centre - _EXTENT / 2) * length)
    return slice(start, max(round((centre + _EXTENT / 2) * length), start + 1))


def _in_place(maps: Tensor) -> bool:
    """Whether each change of the probe shows at its own place of the map `(3, C, h, w)`.

    It does if the cells of that place change more than the others (a deep cell sees most of the
    image, so all may change), or if those that change most are near it (a strided network may be
    half a cell off). A map that does not change at all, as behind the zeros that some networks
    start from, is given the benefit of the doubt.
    """
    maps = maps.float()
    changes = (maps[1:] - maps[:1]).abs().sum(dim=1)  # (2, h, w)
    scale = float(maps[:1].abs().sum(dim=1).max())
    height, width = (min(cells, _CELLS) for cells in changes.shape[-2:])
    changes = F.adaptive_avg_pool2d(changes, (height, width))  # every cell meets every other below
    rows = (torch.arange(height, device=maps.device) + 0.5) / height
    columns = (torch.arange(width, device=maps.device) + 0.5) / width
    for change, (y, x) in zip(changes, _PLACES, strict=True):
        if not float(change.max()) > _NOTHING * scale:  # or NaN, of which nothing can be said
            continue
        off = (rows - y).abs()[:, None], (columns - x).abs()[None]
        cells = 0.5 / height + 1e-6, 0.5 / width + 1e-6
        inside = (off[0] <= max(_EXTENT / 2, cells[0])) & (off[1] <= max(_EXTENT / 2, cells[1]))
        near = (off[0] <= _EXTENT / 2 + max(2 * cells[0], 0.125)) & (
            off[1] <= _EXTENT / 2 + max(2 * cells[1], 0.125)
        )
        here, there = change[inside], change[~inside]
        larger = (here[:, None] > there[None]).float() + 0.5 * (here[:, None] == there[None])
        most = change.flatten().topk(int(inside.sum())).indices
        if float(larger.mean()) < _LARGER and float(near.flatten()[most].float().mean()) < _NEAR:
            return False
    return True


def _choose(rows: Sequence[LayerInfo]) -> list[str]:
    blocks = [row for row in rows if _NUMBERED.search(row.name)]
    depth = min((_depth(row) for row in blocks), default=0)
    top = [row for row in blocks if _depth(row) == depth]
    # Repeated blocks at one resolution: a transformer.
    if len(top) >= 4 and len({row.size for row in top}) == 1:
        return [row.name for row in top[-4:-1]]
    stages = _resolutions(rows)[:3]
    return [_end(stage) for stage in reversed(stages)]  # large to small, that is shallow to deep


def _resolutions(rows: Sequence[LayerInfo]) -> list[list[LayerInfo]]:
    """Rows by resolution, small to large; sizes that padding sets apart are one resolution."""
    stages: list[list[LayerInfo]] = []
    base = 0.0
    for size in sorted({row.size for row in rows}, key=lambda size: size[0] * size[1]):
        area = size[0] * size[1]
        if area > _SAME * base:
            stages.append([])
            base = area
        stages[-1] += [row for row in rows if row.size == size]
    place = {row.name: index for index, row in enumerate(rows)}
    return [sorted(stage, key=lambda row: place[row.name]) for stage in stages]


def _end(stage: Sequence[LayerInfo]) -> str:
    """The module that ends a resolution.

    That is the outermost one that ends last: the whole stage, and not a piece of the next stage
    that works at the old resolution still. An outermost module before most of the others, such as
    the dropout behind a patch embedding, begins the resolution rather than ending it.
    """
    for depth in sorted({_depth(row) for row in stage}):
        last = max(index for index, row in enumerate(stage) if _depth(row) == depth)
        if 2 * (last + 1) >= len(stage):
            return stage[last].name
    return stage[-1].name


def _depth(row: LayerInfo) -> int:
    return row.name.count(".")
