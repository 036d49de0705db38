"""The attention mechanism as a drawn figure, with what one photo makes of every part."""

from __future__ import annotations

import torch
from matplotlib.axes import Axes
from matplotlib.figure import Figure
from matplotlib.patches import ConnectionPatch
from torch import Tensor

from ttame.classifiers.classes import short_name
from ttame.classifiers.outputs import probabilities
from ttame.errors import TTameError
from ttame.explainer import Explainer
from ttame.images import ImageLike, denormalize, normalize, to_batch
from ttame.masking import normalize_maps
from ttame.plotting import LETTERING, MAP_COLORS, PAGE_WIDTH, SIGNED_COLORS, Picture

_COLUMNS = 6  # photo, feature maps, branches, parts, map, masked photo


@torch.inference_mode()
def plot_architecture(explainer: Explainer, photo: ImageLike, percentage: int = 100) -> Figure:
    """Draw a mechanism as a diagram of real pictures: photo, layers, branches, map, masked photo.

    A row per layer. Of a layer and its branch the channel is shown that adds most to the predicted
    class; shapes are those of the whole tensors. Parts and their sum are red for the class and blue
    against it.

    Args:
        explainer: Explainer whose mechanism has no decoder.
        photo: The photo.
        percentage: Percentage of retained pixels of the masked photo.

    Raises:
        TTameError: If the mechanism has a decoder, which this figure has no place for, or the photo
            cannot be read.
    """
    mechanism, spec = explainer.mechanism, explainer.spec
    if mechanism.decoder is not None:
        raise TTameError(
            "the architecture is drawn of a mechanism without a decoder, and this one has one; "
            "take one that was trained as published"
        )
    image = normalize(to_batch([photo], spec), spec)
    logits, maps = explainer.extract(image)
    whole, target = (found[0] for found in probabilities(logits, spec.activation).max(dim=1))
    one = target.view(1, 1)
    hidden, parts = mechanism.branch_outputs(maps), mechanism.layer_parts(maps, one)
    explanation = mechanism(maps, one)
    masked = spec.mask(image, normalize_maps(explanation.float()), percentage / 100)
    left = probabilities(explainer.classifier(masked), spec.activation)[0, target]

    name = short_name(explainer.classes[int(target)])
    alt = (
        f"The attention mechanism on a photo of the predicted class {name}. Layers "
        + "; ".join(
            f"{layer}, {_shape(found)}" for layer, found in zip(explainer.layers, maps, strict=True)
        )
        + f". Each goes through a branch and the fusion; the parts add up to the map, "
        f"{_shape(explanation)}. The probability is {100 * whole:.0f} % on the photo and "
        f"{100 * left:.0f} % on the masked one with {percentage} % of the pixels."
    )
    rows = len(maps)
    figure = Picture(figsize=(PAGE_WIDTH, 1.45 * rows + 0.3), layout="constrained", alt=alt)
    grid = figure.add_gridspec(rows, _COLUMNS)
    start, total, end = (figure.add_subplot(grid[:, at]) for at in (0, 4, 5))
    _photo(
        start,
        denormalize(image, spec)[0],
        f"photo\n{_shape(image)}",
        f"p = {100 * whole:.0f}\u00a0%",
    )
    _signed(total, explanation[0, 0], f"sum: map\n{_shape(explanation)}", name)
    title = f"masked photo\n{percentage} % retained"
    _photo(end, denormalize(masked, spec)[0], title, f"p' = {100 * left:.0f}\u00a0%")
    begin = 0
    for row, layer in enumerate(explainer.layers):
        first, second, third = (figure.add_subplot(grid[row, at]) for at in (1, 2, 3))
        width = hidden[row].shape[1]
        weights = mechanism.fusion.weight[target].flatten()[begin : begin + width]
        begin += width
        channel = int((weights * hidden[row][0].float().mean(dim=(-2, -1))).argmax())
        _heat(first, maps[row][0, channel], f"{layer}\n{_shape(maps[row])}")
        _heat(second, hidden[row][0, channel], f"branch\n{_shape(hidden[row])}")
        _signed(third, parts[row][0, 0], f"its part\n{_shape(parts[row])}")
        for left_axis, right_axis in (
            (start, first),
            (first, second),
            (second, third),
            (third, total),
        ):
            _arrow(figure, left_axis, right_axis)
    _arrow(figure, total, end)
    return figure


def _shape(values: Tensor) -> str:
    return "×".join(map(str, values.shape[1:]))


def _bare(axis: Axes, title: str, below: str) -> None:
    axis.set(xticks=[], yticks=[])
    axis.spines[:].set_visible(False)
    axis.set_title(title, fontsize=LETTERING)
    axis.set_xlabel(below, fontsize=LETTERING)


def _photo(axis: Axes, picture: Tensor, title: str, below: str) -> None:
    axis.imshow(picture.float().permute(1, 2, 0).clamp(0, 1).cpu().numpy())
    _bare(axis, title, below)


def _heat(axis: Axes, values: Tensor, title: str) -> None:
    axis.imshow(values.float().cpu().numpy(), cmap=MAP_COLORS, interpolation="nearest")
    _bare(axis, title, "")


def _signed(axis: Axes, values: Tensor, title: str, below: str = "") -> None:
    limit = float(values.abs().max())
    shown = axis.imshow(values.float().cpu().numpy(), cmap=SIGNED_COLORS, interpolation="nearest")
    shown.set_clim(-limit, limit)
    _bare(axis, title, below)


def _arrow(figure: Figure, start: Axes, end: Axes) -> None:
    """Draw an arrow from the right edge of one picture to the left edge of another."""
    figure.add_artist(
        ConnectionPatch(
            xyA=(1.02, 0.5), xyB=(-0.02, 0.5), coordsA="axes fraction", coordsB="axes fraction",
            axesA=start, axesB=end, arrowstyle="-|>", color="0.4", linewidth=0.8,
            mutation_scale=7, shrinkA=0, shrinkB=0,
        )
    )  # fmt: skip
