"""Coalitions: sizes and draws against the kernel, the loss's minimum against exact values."""

from __future__ import annotations

import math
from itertools import combinations

import pytest
import torch
from torch import Tensor

from ttame.errors import TTameError
from ttame.training.coalitions import (
    coalition_masks,
    draw_coalitions,
    even_sizes,
    kernel_sizes,
    shapley_loss,
    shapley_values,
    with_complements,
)


def all_coalitions(players: int) -> Tensor:
    """Every coalition, `(2^N, N)`, the empty one first and the whole one last."""
    numbers = torch.arange(2**players)
    return (numbers[:, None] >> torch.arange(players) & 1).float()


def exact_values(worth: Tensor) -> Tensor:
    """Shapley values by their definition: mean marginal worth, `(2^N, T)` -> `(N, T)`."""
    players = int(math.log2(len(worth)))
    values = []
    for player in range(players):
        others = [other for other in range(players) if other != player]
        total = torch.zeros(worth.shape[1], dtype=torch.float64)
        for size in range(players):
            share = 1 / (players * math.comb(players - 1, size))
            for members in combinations(others, size):
                number = sum(2**member for member in members)
                total += share * (worth[number + 2**player] - worth[number]).double()
        values.append(total)
    return torch.stack(values)


def kernel_weights(coalitions: Tensor) -> Tensor:
    """The probability of each coalition under the kernel, by its formula; 0 for none and all."""
    players = coalitions.shape[1]
    weights = [
        0.0
        if size in (0, players)
        else (players - 1) / (math.comb(players, size) * size * (players - size))
        for size in coalitions.sum(dim=1).int().tolist()
    ]
    return torch.tensor(weights, dtype=torch.float64) / sum(weights)


def test_sizes_are_those_of_the_kernel() -> None:
    # 1/(1·3), 1/(2·2), 1/(3·1): 4, 3 and 4 of 11
    assert kernel_sizes(4).tolist() == pytest.approx([0, 4 / 11, 3 / 11, 4 / 11, 0])
    coalitions = all_coalitions(5)
    sizes = coalitions.sum(dim=1).long()
    by_size = torch.zeros(6, dtype=torch.float64).index_add(0, sizes, kernel_weights(coalitions))
    assert torch.allclose(by_size, kernel_sizes(5))
    assert even_sizes(4).tolist() == pytest.approx([0.2] * 5)


def test_one_cell_is_refused() -> None:
    with pytest.raises(TTameError, match=r"a map of 1 cell .* larger than 1×1"):
        kernel_sizes(1)


def test_coalitions_are_drawn_as_often_as_the_kernel_says() -> None:
    drawn = draw_coalitions(0, 0, [0], 40_000, kernel_sizes(4))[0]
    numbers = (drawn @ (2.0 ** torch.arange(4))).long()
    found = torch.bincount(numbers, minlength=16) / len(drawn)
    assert torch.allclose(found.double(), kernel_weights(all_coalitions(4)), atol=0.008)


def test_draws_depend_on_seed_step_and_photo_alone() -> None:
    drawn = draw_coalitions(0, 3, [5, 9], 2, kernel_sizes(9))
    assert drawn.shape == (2, 2, 9)
    assert torch.equal(drawn[1], draw_coalitions(0, 3, [9], 2, kernel_sizes(9))[0])
    for seed, step, photo in ((1, 3, 9), (0, 4, 9), (0, 3, 8)):
        other = draw_coalitions(seed, step, [photo], 2, kernel_sizes(9))
        assert not torch.equal(drawn[1:], other)
    paired = with_complements(drawn)
    assert torch.equal(paired[:, :2] + paired[:, 2:], torch.ones(2, 2, 9))


def test_masks_show_whole_cells() -> None:
    coalitions = torch.tensor([[[1.0, 0, 0, 1, 0, 1]]])
    masks = coalition_masks(coalitions, (2, 3), (4, 6))
    rows = [[1, 1, 0, 0, 0, 0], [1, 1, 0, 0, 1, 1]]
    assert masks.shape == (1, 1, 4, 6)
    assert masks[0, 0].tolist() == [rows[0], rows[0], [1, 1, 0, 0, 1, 1], [1, 1, 0, 0, 1, 1]]


def test_values_sum_to_the_total() -> None:
    maps = torch.tensor([[[[1.0, 2.0], [3.0, 6.0]]]])
    values = shapley_values(maps, torch.tensor([[0.8]]))
    # a mean of 3 instead of 0.8: 2.2 less for each, then a quarter
    assert values.flatten().tolist() == pytest.approx([-0.3, -0.05, 0.2, 0.95])
    assert float(values.sum()) == pytest.approx(0.8)


def test_the_loss_by_hand() -> None:
    values = torch.tensor([[[0.1, 0.2, 0.4]]])
    coalitions = torch.tensor([[[1.0, 0, 1], [0, 1, 0]]])
    worth = torch.tensor([[[0.9], [0.2]]])
    # 0.9 - 0.1 - 0.5 and 0.2 - 0.1 - 0.2
    expected = (0.3**2 + 0.1**2) / 2
    assert float(shapley_loss(values, coalitions, worth, torch.tensor([0.1]))) == pytest.approx(
        expected
    )


@pytest.mark.parametrize("players", [(1, 2), (2, 2), (2, 3)])
def test_the_minimum_of_the_loss_is_the_exact_shapley_values(players: tuple[int, int]) -> None:
    """Least squares over all coalitions, weighed by the kernel, of two games at once."""
    count = players[0] * players[1]
    coalitions = all_coalitions(count)
    worth = torch.rand(2**count, 2, generator=torch.Generator().manual_seed(3))
    exact = exact_values(worth)
    assert torch.allclose(exact.sum(dim=0), (worth[-1] - worth[0]).double())
    total, weights = (worth[-1] - worth[0])[None], kernel_weights(coalitions)

    def expected_loss(maps: Tensor) -> Tensor:
        values = shapley_values(maps, total)
        parts = [shapley_loss(values, coalitions[None, i : i + 1], worth[None, i : i + 1], worth[0])
                 for i in range(len(coalitions))]  # fmt: skip
        return (torch.stack(parts) * weights).sum()

    maps = torch.zeros(1, 2, *players, requires_grad=True)
    optimizer = torch.optim.LBFGS(
        [maps], max_iter=200, tolerance_grad=1e-10, line_search_fn="strong_wolfe"
    )

    def closure() -> Tensor:
        optimizer.zero_grad()
        loss = expected_loss(maps)
        loss.backward()  # type: ignore[no-untyped-call]
        return loss

    optimizer.step(closure)  # type: ignore[no-untyped-call]
    found = shapley_values(maps.detach(), total)[0]
    assert torch.allclose(found.T.double(), exact, atol=1e-4)
