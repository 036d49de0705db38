"""The loss against values worked out by hand and against plain loops."""

from __future__ import annotations

import math
from dataclasses import replace
from typing import Any

import pytest
import torch
from torch import Tensor

from ttame.errors import TTameError
from ttame.training.objective import (
    ObjectiveConfig,
    area,
    objective,
    own_maps,
    regularized_targets,
    relative_drop,
    variation,
)

CHECKERS = [[0.0, 1.0], [1.0, 0.0]]
STEPS = [[0.5, 0.2, 0.1], [0.0, 0.4, 1.0]]

Grid = list[list[float]]


def slow_area(grid: Grid, exponent: float = 0.3) -> float:
    cells = [value for row in grid for value in row]
    return sum(math.pow(value + 0.0005, exponent) for value in cells) / len(cells)


def slow_variation(grid: Grid) -> float:
    height, width = len(grid), len(grid[0])
    total = 0.0
    for y in range(height):
        for x in range(width):
            if x + 1 < width:
                total += (grid[y][x + 1] - grid[y][x]) ** 2
            if y + 1 < height:
                total += (grid[y + 1][x] - grid[y][x]) ** 2
            sides = (y == 0) + (y == height - 1) + (x == 0) + (x == width - 1)
            total += 0.3 * sides * grid[y][x] ** 2
    return total


def slow_cross_entropy(logits: Grid, labels: list[int]) -> float:
    losses = [
        math.log(sum(math.exp(value) for value in row)) - row[label]
        for row, label in zip(logits, labels, strict=True)
    ]
    return sum(losses) / len(losses)


LOGITS = [[2.0, 0.5, -1.0], [0.1, 0.2, 0.3]]
LABELS = [0, 2]
# (B, T, 2, 3): the first axis is the image, the second the label of the batch.
MAPS = [
    [STEPS, [[0.9, 0.1, 0.3], [0.2, 0.8, 0.6]]],
    [[[0.3, 0.3, 0.3], [0.7, 0.7, 0.7]], [[1.0, 0.0, 0.5], [0.25, 0.75, 0.05]]],
]


def tensors() -> tuple[Tensor, Tensor, Tensor]:
    return (
        torch.tensor(LOGITS, dtype=torch.float64),
        torch.tensor(LABELS),
        torch.tensor(MAPS, dtype=torch.float64),
    )


def test_variation_golden_values() -> None:
    # Checkers: 2 across, 2 down, four border lines of 1.
    assert float(variation(torch.tensor(CHECKERS))) == pytest.approx(2 + 2 + 0.3 * 4)
    # Steps: .09 + .01 + .16 + .36 across, .25 + .04 + .81 down, lines .30, 1.16, .25, 1.01.
    assert float(variation(torch.tensor(STEPS))) == pytest.approx(0.62 + 1.10 + 0.3 * 2.72)


def test_a_constant_map_varies_only_at_its_border_and_corners_count_twice() -> None:
    ones = torch.ones(4, 5)
    assert float(variation(ones)) == pytest.approx(0.3 * (2 * 4 + 2 * 5))
    corner, edge, centre = torch.zeros(3, 3, 3).unbind()
    corner[0, 0], edge[0, 1], centre[1, 1] = 1.0, 1.0, 1.0
    assert float(variation(corner)) == pytest.approx(2 + 0.3 * 2)
    assert float(variation(edge)) == pytest.approx(3 + 0.3)
    assert float(variation(centre)) == pytest.approx(4)


def test_area_golden_values() -> None:
    assert float(area(torch.tensor(CHECKERS), exponent=1.0)) == pytest.approx(0.5005)
    # .0005 ** .3 = exp(.3 ln .0005) = .10225, 1.0005 ** .3 = 1.00015
    assert float(area(torch.tensor(CHECKERS))) == pytest.approx((0.102250 + 1.000150) / 2, abs=1e-5)
    assert float(area(torch.tensor(STEPS))) == pytest.approx(slow_area(STEPS))


def test_terms_of_a_batch_are_those_of_its_maps() -> None:
    maps = torch.tensor(MAPS)
    assert area(maps).shape == variation(maps).shape == (2, 2)
    for i in range(2):
        for t in range(2):
            assert float(area(maps)[i, t]) == pytest.approx(slow_area(MAPS[i][t]), rel=1e-5)
            assert float(variation(maps)[i, t]) == pytest.approx(
                slow_variation(MAPS[i][t]), rel=1e-5
            )


def test_published_objective() -> None:
    logits, labels, maps = tensors()
    parts = objective(torch.zeros_like(logits), logits, labels, maps, ObjectiveConfig())
    entropy = slow_cross_entropy(LOGITS, LABELS)
    areas = [slow_area(MAPS[i][t]) for i in range(2) for t in range(2)]
    rough = sum(slow_variation(MAPS[i][t]) for i in range(2) for t in range(2)) / (2 * 2)
    assert float(parts.cross_entropy) == pytest.approx(entropy)
    assert float(parts.area) == pytest.approx(sum(areas) / 4)
    assert float(parts.variation) == pytest.approx(rough)
    total = 1.5 * entropy + 2 * sum(areas) / 4 + 0.01 * rough
    assert float(parts.total) == pytest.approx(total)


# Softmax (3/4, 1/4) and (1/4, 3/4) whole, (1/2, 1/2) and (1/10, 9/10) masked.
WHOLE = [[math.log(3), 0.0], [5.0, 5.0 + math.log(3)]]
MASKED = [[7.0, 7.0], [0.0, math.log(9)]]


def test_the_drop_is_the_lost_share_of_the_probability() -> None:
    whole, masked = torch.tensor(WHOLE), torch.tensor(MASKED)
    # 1 - (1/2) / (3/4); 1 - (9/10) / (3/4), a rise; of the other classes 1 - (1/2) / (1/4) and
    # 1 - (1/10) / (1/4).
    found = relative_drop(whole, masked, torch.tensor([0, 1]))
    assert found.tolist() == pytest.approx([1 / 3, -1 / 5], abs=1e-6)
    found = relative_drop(whole, masked, torch.tensor([1, 0]))
    assert found.tolist() == pytest.approx([-1, 3 / 5], abs=1e-6)
    assert relative_drop(whole, whole, torch.tensor([0, 1])).tolist() == [0, 0]


def test_the_drop_is_that_of_average_drop_where_it_drops() -> None:
    whole, masked, labels = torch.randn(50, 4), torch.randn(50, 4), torch.arange(50) % 4
    drops = relative_drop(whole, masked, labels).tolist()
    for index, drop in enumerate(drops):
        p, q = (
            math.exp(row[labels[index]]) / sum(math.exp(value) for value in row)
            for row in (whole[index].tolist(), masked[index].tolist())
        )
        assert drop == pytest.approx((p - q) / p, abs=1e-4)
    assert min(drops) < 0 < max(drops) <= 1


def test_the_drop_of_a_photo_that_is_lost_is_bounded() -> None:
    masked = torch.tensor([[-1000.0, 1000.0]], requires_grad=True)
    drop = relative_drop(torch.tensor([[1000.0, -1000.0]]), masked, torch.tensor([0]))
    (gradient,) = torch.autograd.grad(drop.sum(), masked)
    assert drop.tolist() == [1] and gradient.tolist() == [[0, 0]]  # cross-entropy would be 2000


def test_gradients_of_the_drop() -> None:
    masked = torch.tensor(MASKED, dtype=torch.float64, requires_grad=True)
    whole = torch.tensor(WHOLE, dtype=torch.float64, requires_grad=True)
    labels = torch.tensor([0, 1])
    (gradient,) = torch.autograd.grad(relative_drop(whole, masked, labels).sum(), masked)
    # -q/p · (1 - q) for the label, q/p · q' for the other class.
    expected = [[-2 / 3 * 1 / 2, 2 / 3 * 1 / 2], [6 / 5 * 1 / 10, -6 / 5 * 1 / 10]]
    assert gradient.tolist() == [pytest.approx(row) for row in expected]
    assert torch.autograd.gradcheck(lambda w, m: relative_drop(w, m, labels), (whole, masked))


def test_the_drop_counts_by_its_weight() -> None:
    maps, labels = torch.rand(2, 1, 2, 3), torch.tensor([0, 1])
    whole, masked = torch.tensor(WHOLE), torch.tensor(MASKED)
    only = ObjectiveConfig(cross_entropy=0, drop=5, area=0, variation=0, labels="own")
    parts = objective(whole, masked, labels, maps, only)
    assert float(parts.drop) == pytest.approx((1 / 3 - 1 / 5) / 2, abs=1e-6)
    assert float(parts.total) == pytest.approx(5 * (1 / 3 - 1 / 5) / 2, abs=1e-6)
    papers = ObjectiveConfig(labels="own")
    with_drop = objective(whole, masked, labels, maps, replace(papers, drop=2))
    without = objective(whole, masked, labels, maps, papers)
    difference = float(with_drop.total - without.total)
    assert difference == pytest.approx(2 * (1 / 3 - 1 / 5) / 2, abs=1e-5)


def test_own_labels_regularize_one_map_an_image() -> None:
    logits, labels, maps = tensors()
    parts = objective(
        torch.zeros_like(logits), logits, labels, own_maps(maps), ObjectiveConfig(labels="own")
    )
    own = [MAPS[0][0], MAPS[1][1]]
    assert float(parts.area) == pytest.approx(sum(map(slow_area, own)) / 2)
    assert float(parts.variation) == pytest.approx(sum(map(slow_variation, own)) / (2 * 2))


@pytest.mark.parametrize("labels", ["batch", "own"])
def test_mean_reduction_by_hand(labels: Any) -> None:
    logits, targets, maps = tensors()
    chosen = own_maps(maps) if labels == "own" else maps
    config = ObjectiveConfig(labels=labels, reduction="mean")
    parts = objective(torch.zeros_like(logits), logits, targets, chosen, config)
    grids = chosen.flatten(0, 1).tolist()
    per_cell = sum(map(slow_variation, grids)) / len(grids) / 6
    assert float(parts.variation) == pytest.approx(32 / 2 * 28 * 28 * per_cell)
    assert float(parts.area) == pytest.approx(sum(map(slow_area, grids)) / len(grids))


def test_reductions_agree_at_the_papers_batch_and_map_size() -> None:
    maps, labels = torch.rand(32, 32, 28, 28), torch.arange(32) % 5
    logits = torch.randn(32, 5)
    paper = objective(
        torch.zeros_like(logits), logits, labels, maps, ObjectiveConfig(reduction="paper")
    )
    mean = objective(
        torch.zeros_like(logits), logits, labels, maps, ObjectiveConfig(reduction="mean")
    )
    assert torch.allclose(paper.variation, mean.variation, rtol=1e-4)
    assert torch.allclose(paper.total, mean.total, rtol=1e-4)
    smaller = maps[:8, :8]
    apart = [
        objective(
            logits[:8], logits[:8], labels[:8], smaller, ObjectiveConfig(reduction=reduction)
        ).variation
        for reduction in ("paper", "mean")
    ]
    assert float(apart[1] / apart[0]) == pytest.approx(4, rel=1e-4)  # 32 / 8


def test_weights_scale_their_own_term() -> None:
    logits, labels, maps = tensors()
    one = objective(
        torch.zeros_like(logits),
        logits,
        labels,
        maps,
        ObjectiveConfig(cross_entropy=1, area=0, variation=0),
    )
    assert float(one.total) == pytest.approx(slow_cross_entropy(LOGITS, LABELS))
    zero = objective(
        torch.zeros_like(logits),
        logits,
        labels,
        maps,
        ObjectiveConfig(cross_entropy=0, area=0, variation=0),
    )
    assert float(zero.total) == 0
    two = objective(
        torch.zeros_like(logits),
        logits,
        labels,
        maps,
        ObjectiveConfig(cross_entropy=0, area=3, variation=0),
    )
    assert float(two.total) == pytest.approx(3 * float(two.area))
    three = objective(
        torch.zeros_like(logits),
        logits,
        labels,
        maps,
        ObjectiveConfig(cross_entropy=0, area=0, variation=5),
    )
    assert float(three.total) == pytest.approx(5 * float(three.variation))
    linear = objective(
        torch.zeros_like(logits), logits, labels, maps, ObjectiveConfig(area_exponent=1.0)
    )
    assert float(linear.area) == pytest.approx(float(maps.mean()) + 0.0005)


@pytest.mark.parametrize("reduction", ["paper", "mean"])
def test_an_equal_share_is_the_published_weighting(reduction: Any) -> None:
    maps, labels, logits = torch.rand(4, 4, 3, 3), torch.tensor([0, 1, 2, 1]), torch.randn(4, 3)
    published = objective(
        torch.zeros_like(logits), logits, labels, maps, ObjectiveConfig(reduction=reduction)
    )
    shared = objective(
        torch.zeros_like(logits),
        logits,
        labels,
        maps,
        ObjectiveConfig(reduction=reduction, own_share=1 / 4),
    )
    for name in ("total", "area", "variation"):
        assert torch.allclose(getattr(published, name), getattr(shared, name), rtol=1e-5)


def test_own_share_moves_the_regularizers_to_the_own_map() -> None:
    logits, labels, maps = tensors()
    own = (slow_area(MAPS[0][0]) + slow_area(MAPS[1][1])) / 2
    others = (slow_area(MAPS[0][1]) + slow_area(MAPS[1][0])) / 2
    for share in (0.0, 0.25, 1.0):
        parts = objective(
            torch.zeros_like(logits), logits, labels, maps, ObjectiveConfig(own_share=share)
        )
        assert float(parts.area) == pytest.approx(share * own + (1 - share) * others)
    whole = objective(
        torch.zeros_like(logits), logits, labels, maps, ObjectiveConfig(own_share=1.0)
    )
    rough = (slow_variation(MAPS[0][0]) + slow_variation(MAPS[1][1])) / 2
    assert float(whole.variation) == pytest.approx(rough * 4 / (2 * 2))  # a mean times B²/2B


def test_own_share_of_a_single_photo_is_everything() -> None:
    maps, labels, logits = torch.rand(1, 1, 3, 3), torch.tensor([1]), torch.randn(1, 2)
    parts = objective(
        torch.zeros_like(logits), logits, labels, maps, ObjectiveConfig(own_share=0.0)
    )
    assert float(parts.area) == pytest.approx(float(area(maps)))


@pytest.mark.parametrize(
    "config",
    [
        ObjectiveConfig(),
        ObjectiveConfig(reduction="mean", own_share=0.7),
        ObjectiveConfig(labels="own"),
        ObjectiveConfig(labels="own", reduction="mean", area_exponent=1.3),
        ObjectiveConfig(labels="own", reduction="mean", cross_entropy=0, drop=5),
    ],
    ids=["paper", "mean-share", "own", "own-mean", "drop"],
)
def test_gradients(config: ObjectiveConfig) -> None:
    labels = torch.tensor([0, 2, 1])
    count = 1 if config.labels == "own" else 3
    maps = (torch.rand(3, count, 2, 3, dtype=torch.float64) * 0.8 + 0.1).requires_grad_(True)
    logits = torch.randn(3, 3, dtype=torch.float64, requires_grad=True)

    def total(logits: Tensor, maps: Tensor) -> Tensor:
        return objective(torch.zeros_like(logits), logits, labels, maps, config).total

    assert torch.autograd.gradcheck(total, (logits, maps))


def test_the_gradient_is_finite_where_masks_saturate() -> None:
    maps = torch.tensor([[[[0.0, 1.0], [1.0, 0.0]]]], requires_grad=True)
    parts = objective(
        torch.zeros(1, 2), torch.zeros(1, 2), torch.tensor([0]), maps, ObjectiveConfig()
    )
    (gradient,) = torch.autograd.grad(parts.total, maps)
    assert bool(gradient.isfinite().all())


def test_own_maps_lie_where_regularized_targets_put_the_own_label() -> None:
    labels = torch.tensor([7, 3, 7, 5])
    batch = regularized_targets(labels, ObjectiveConfig())
    assert batch.tolist() == [[7, 3, 7, 5]] * 4
    assert regularized_targets(labels, ObjectiveConfig(labels="own")).tolist() == [
        [7],
        [3],
        [7],
        [5],
    ]
    maps = batch[..., None, None].float().expand(4, 4, 2, 2)
    assert own_maps(maps)[:, 0, 0, 0].tolist() == [7.0, 3.0, 7.0, 5.0]
    numbered = torch.arange(16.0).view(4, 4, 1, 1)
    assert own_maps(numbered).flatten().tolist() == [0.0, 5.0, 10.0, 15.0]
    assert torch.equal(own_maps(numbered[:, :1]), numbered[:, :1])


@pytest.mark.parametrize(
    ("fields", "message"),
    [
        ({"labels": "all"}, "'all'"),
        ({"reduction": "sum"}, "'sum'"),
        ({"area": -1.0}, "negative"),
        ({"cross_entropy": -0.1}, "negative"),
        ({"drop": -0.1}, "negative"),
        ({"variation": -0.1}, "negative"),
        ({"area_exponent": 0.0}, "exponent"),
        ({"own_share": 1.5}, "own_share=1.5"),
        ({"own_share": -0.5}, "own_share=-0.5"),
        ({"own_share": 0.5, "labels": "own"}, "labels='batch'"),
    ],
    ids=str,
)
def test_settings_without_meaning_are_refused(fields: dict[str, Any], message: str) -> None:
    with pytest.raises(TTameError, match=message):
        ObjectiveConfig(**fields)


@pytest.mark.parametrize(
    ("labels", "maps", "logits"),
    [
        ("batch", (4, 1, 3, 3), (4, 5)),
        ("batch", (4, 3, 3, 3), (4, 5)),
        ("batch", (3, 3, 3, 3), (4, 5)),
        ("own", (4, 4, 3, 3), (4, 5)),
        ("own", (3, 1, 3, 3), (4, 5)),
        ("own", (4, 1, 3, 3), (3, 5)),
    ],
    ids=str,
)
def test_maps_of_another_shape_are_refused(
    labels: Any, maps: tuple[int, ...], logits: tuple[int, ...]
) -> None:
    with pytest.raises(TTameError, match="needs maps of shape"):
        objective(
            torch.randn(4, 5), torch.randn(logits), torch.tensor([0, 1, 2, 3]), torch.rand(maps),
            ObjectiveConfig(labels=labels),
        )  # fmt: skip


def test_a_rise_counts_up_to_its_limit() -> None:
    """Drops 0.5 and -3 of two photos: limited to -1, their mean is -0.25."""
    whole = torch.tensor([[0.8, 0.2], [0.2, 0.8]]).log()
    masked = torch.tensor([[0.4, 0.6], [0.8, 0.2]]).log()
    labels, maps = torch.tensor([0, 0]), torch.zeros(2, 1, 2, 2)
    for limit, expected in ((None, -1.25), (1.0, -0.25), (0.0, 0.25)):
        config = ObjectiveConfig(labels="own", drop=1.0, gain_limit=limit)
        found = objective(whole, masked, labels, maps, config)
        assert float(found.drop) == pytest.approx(expected, abs=1e-6)
    with pytest.raises(TTameError, match=r"gain_limit must not be negative, got -0\.1"):
        ObjectiveConfig(gain_limit=-0.1)
