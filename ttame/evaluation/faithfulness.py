"""Faithfulness: do the regions that a map values most matter most to the classifier?

Both measures change one region of the photo at a time, so that effects do not pile up, and hold
what the classifier then answers against the map's salience there. The single deletion score
(`sds`) takes the cells of a grid, the same for every map; the salience-guided faithfulness
coefficient (`saco`) takes groups of pixels of like salience. A map that ranks nothing scores 0 in
both, and so does every map where no region matters more than another.
"""

from __future__ import annotations

from collections.abc import Callable, Iterable
from dataclasses import dataclass
from itertools import pairwise

import torch
import torch.nn.functional as F
from torch import Tensor, nn

from ttame.classifiers.outputs import probabilities
from ttame.classifiers.specs import BackboneSpec
from ttame.errors import TTameError
from ttame.evaluation.correlation import rank_correlation
from ttame.masking import enlarge, normalize_maps, rank_pixels

GRID = 4  # cells to a side of the single deletion score
GROUPS = 10  # of the faithfulness coefficient


@torch.inference_mode()
def delete_cells(
    classifier: nn.Module, images: Tensor, targets: Tensor, grid: int = GRID
) -> Tensor:
    """Classify photos with one cell of a grid deleted at a time (`sds`).

    A deleted cell takes the mean colour, 0 in the normalised space, whatever the classifier's
    `space`. No map is involved: the answers serve all methods.

    Args:
        classifier: The bare classifier, in `eval()`; called once per cell.
        images: Normalised photos, `(B, C, H, W)`.
        targets: Target classes, `(B,)` int64.
        grid: Cells to a side.

    Returns:
        The target class's output before the activation, `(B, grid²)` float32, cells row by row:
        logits, or probabilities where the classifier returns those.

    Raises:
        TTameError: If the grid does not divide the images into equal cells, images and targets
            differ in number, or the classifier has a single output.
    """
    size = images.shape[-2:]
    check_grid(size, grid)
    cells = torch.eye(grid**2, dtype=torch.bool, device=images.device).view(-1, 1, 1, grid, grid)
    down, across = (side // grid for side in size)
    regions = cells.repeat_interleave(down, dim=-2).repeat_interleave(across, dim=-1)
    blank = torch.zeros_like(images[:1])
    return _answers(classifier, images, targets, regions, blank, lambda outputs: outputs.float())


def cell_salience(maps: Tensor, size: tuple[int, int] | torch.Size, grid: int = GRID) -> Tensor:
    """Average each map over the cells of a grid.

    Maps are scaled to [0, 1] and enlarged first; cells of one size make means rank as sums do.

    Args:
        maps: Raw explanation maps, `(B, 1, h, w)`, finite.
        size: Height and width of the image, pixels.
        grid: Cells to a side.

    Returns:
        `(B, grid²)` float32 in [0, 1], cells row by row; of a constant map, ones.

    Raises:
        TTameError: If the grid does not divide the image into equal cells, or a map has a single
            cell or is not finite.
    """
    check_grid(size, grid)
    _check_maps(maps)
    large = enlarge(normalize_maps(maps.float()), size)
    return F.avg_pool2d(large, (size[0] // grid, size[1] // grid)).flatten(1)


def single_deletion_score(outputs: Tensor, salience: Tensor) -> Tensor:
    """Single deletion score: whether cells of more salience cost the class more (`sds`).

    Spearman's rank correlation of the drops of the target's output with the map's salience per
    cell. A drop is measured from the whole photo's output, which moves no rank and so is not
    needed. Equal salience in all cells, or equal drops, score 0.

    Args:
        outputs: From `delete_cells`, `(B, N)`.
        salience: From `cell_salience`, `(B, N)`.

    Returns:
        `(B,)` float64 in [-1, 1]; chance is 0.

    Raises:
        TTameError: If the shapes differ or a value is not finite.
    """
    return rank_correlation(-outputs[:, None, None], salience[:, None, None])


def check_grid(size: tuple[int, int] | torch.Size, grid: int) -> None:
    """Refuse a grid that does not divide an image of (H, W) pixels into equal cells."""
    height, width = size
    if grid < 2 or height % grid or width % grid:
        whole = [n for n in range(2, min(size) + 1) if height % n == width % n == 0]
        fits = ", ".join(map(str, whole[:6])) or "none: resize the input"
        raise TTameError(
            f"the single deletion score needs equal cells, and a grid of {grid}x{grid} does not "
            f"divide images of {height}x{width} pixels; grids that do: {fits}"
        )


def check_groups(size: tuple[int, int] | torch.Size, groups: int) -> None:
    """Refuse groups that cannot be compared, or more than an image of (H, W) has pixels."""
    pixels = size[0] * size[1]
    if not 2 <= groups <= pixels:
        raise TTameError(
            f"the faithfulness coefficient compares 2 to {pixels} groups of pixels, got {groups}"
        )


@dataclass(frozen=True)
class SalienceGroups:
    """Groups of a map's pixels, and what the classifier answers without each.

    Attributes:
        salience: Mean salience of each group, most salient first, `(B, K)` float32 in [0, 1].
        probability: Probability of the target class with that group hidden, `(B, K)` float32.
    """

    salience: Tensor
    probability: Tensor


@torch.inference_mode()
def hide_groups(
    classifier: nn.Module,
    spec: BackboneSpec,
    images: Tensor,
    maps: Tensor,
    targets: Tensor,
    groups: int = GROUPS,
    seed: int = 0,
) -> SalienceGroups:
    """Divide each map's pixels into groups by salience and classify without each (`saco`).

    Maps are scaled to [0, 1] and enlarged, pixels sorted with ties broken by a seeded shuffle
    (`masking.rank_pixels`), and cut into groups whose sizes differ by one pixel at most. Hidden
    pixels take the photo's own mean colour, as in the paper.

    Args:
        classifier: The bare classifier, in `eval()`; called once per group.
        spec: Its facts.
        images: Normalised photos, `(B, C, H, W)`.
        maps: Raw explanation maps, `(B, 1, h, w)`, finite.
        targets: Target classes, `(B,)` int64.
        groups: K, the number of groups.
        seed: Seed of tie-breaks.

    Raises:
        TTameError: If there are fewer than two groups or more than pixels, images, maps and
            targets differ in number, a map has a single cell or is not finite, or the classifier
            has a single output.
    """
    check_groups(images.shape[-2:], groups)
    _check_maps(maps)
    if len(maps) != len(images):
        raise TTameError(f"{len(images)} images need as many maps, got {len(maps)}")
    large = enlarge(normalize_maps(maps.float()), images.shape[-2:])
    order = rank_pixels(large, seed)[:, 0]  # (B, HW)
    pixels = order.shape[-1]
    edges = [round(group * pixels / groups) for group in range(groups + 1)]
    members = [order[:, low:high] for low, high in pairwise(edges)]
    values = large.flatten(1)
    salience = torch.stack([values.gather(1, group).mean(dim=1) for group in members], dim=1)
    hidden = torch.zeros_like(order, dtype=torch.bool)
    regions = (hidden.scatter(1, group, True).view_as(large) for group in members)
    mean = images.mean(dim=(-2, -1), keepdim=True)
    probability = _answers(
        classifier, images, targets, regions, mean,
        lambda outputs: probabilities(outputs, spec.activation),
    )  # fmt: skip
    return SalienceGroups(salience, probability)


def faithfulness_coefficient(salience: Tensor, probability: Tensor) -> Tensor:
    """Salience-guided faithfulness coefficient of each map (`saco`).

    Over all pairs of groups i < j, the weight s_i - s_j counts for the map where hiding i costs
    the class more than hiding j, against it where it costs less; the sum is divided by that of
    the weights. A pair of equal effects counts 0 here, in the paper for the map, which would
    praise every map wherever the classifier is too sure to answer differently. Mean salience
    takes the place of the paper's sum, equal for groups of one size. Without weights, which is
    a constant map, the coefficient is 0.

    Args:
        salience: s, most salient first, `(B, K)`.
        probability: Of the target class with each group hidden, `(B, K)`.

    Returns:
        `(B,)` in [-1, 1], of the arguments' dtype; chance is 0.

    Raises:
        TTameError: If the shapes differ or a value is not finite.
    """
    if salience.shape != probability.shape or salience.ndim != 2:
        raise TTameError(
            f"salience {tuple(salience.shape)} and probability {tuple(probability.shape)} must "
            "be (B, K), one value per group"
        )
    if not bool((salience.isfinite() & probability.isfinite()).all()):
        raise TTameError("salience or probability holds NaN or infinite values")
    first, second = torch.triu_indices(salience.shape[1], salience.shape[1], offset=1)
    weight = salience[:, first] - salience[:, second]
    # The whole photo's probability cancels: less is left where hiding costs more.
    agrees = (probability[:, second] - probability[:, first]).sign()
    total = weight.abs().sum(dim=1)
    return (weight * agrees).sum(dim=1) / torch.where(total > 0, total, torch.ones_like(total))


def _answers(
    classifier: nn.Module,
    images: Tensor,
    targets: Tensor,
    regions: Iterable[Tensor],
    fill: Tensor,
    read: Callable[[Tensor], Tensor],
) -> Tensor:
    """Classify images with each region filled, `(B, R)`; `read` turns outputs into answers."""
    if targets.shape != images.shape[:1]:
        raise TTameError(
            f"images {tuple(images.shape)} and targets {tuple(targets.shape)} must agree in batch"
        )
    found = []
    for region in regions:
        outputs = classifier(torch.where(region, fill, images))
        if outputs.shape[1] < 2:
            raise TTameError(
                "the classifier has a single output: it tells no class from another, and no "
                "region can matter to its choice; measure a classifier of two or more classes"
            )
        found.append(read(outputs).gather(1, targets[:, None])[:, 0])
    return torch.stack(found, dim=1)


def _check_maps(maps: Tensor) -> None:
    if maps.ndim != 4 or maps.shape[1] != 1 or maps.shape[-2] * maps.shape[-1] < 2:
        raise TTameError(
            f"maps must be (B, 1, h, w) of two cells or more, got {tuple(maps.shape)}; a map of "
            "one cell ranks nothing: explain a layer with larger feature maps"
        )
    if not bool(maps.isfinite().all()):
        raise TTameError("an explanation map holds NaN or infinite values; it cannot be ranked")
