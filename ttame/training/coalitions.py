"""The Shapley game of a photo: coalitions of its cells, drawn, and the loss that values them.

The players are the cells of the explanation map. A coalition shows its cells and masks the others;
its worth is a class's probability. Shapley values are the weighted least-squares fit of additive
values to the worth of all coalitions, under the Shapley kernel {cite}`fastshap`; drawn from that
kernel, coalitions count the same.
"""

from __future__ import annotations

from collections.abc import Sequence

import torch
import torch.nn.functional as F
from torch import Tensor

from ttame.errors import TTameError
from ttame.training.sampling import mixed_seed


def kernel_sizes(players: int) -> Tensor:
    """Return the probability of each size of coalition under the Shapley kernel.

    It is proportional to 1 / (k·(N - k)); none and all of the players are no question of the fit.

    Args:
        players: Number of players N.

    Returns:
        `(N + 1,)` float64, summing to 1.

    Raises:
        TTameError: If there are fewer than two players.
    """
    if players < 2:
        raise TTameError(
            f"a map of {players} cell has nothing to divide among its cells; choose layers whose "
            "feature maps are larger than 1×1"
        )
    size = torch.arange(1, players, dtype=torch.float64)
    return F.pad(1 / (size * (players - size)), (1, 1)) / (1 / (size * (players - size))).sum()


def even_sizes(players: int) -> Tensor:
    """Return equal probabilities of all sizes from none to all players, `(N + 1,)` float64."""
    return torch.full((players + 1,), 1 / (players + 1), dtype=torch.float64)


def draw_coalitions(
    seed: int, step: int, photos: Sequence[int], count: int, sizes: Tensor
) -> Tensor:
    """Draw coalitions for each photo, from (seed, step, photo) alone.

    Args:
        seed: Seed of the run.
        step: Number of the step.
        photos: Positions of B photos in their list.
        count: Coalitions M per photo.
        sizes: Probability of each size, `(N + 1,)`; coalitions of one size are equally likely.

    Returns:
        1 for the players that take part and 0 for the others, `(B, M, N)` float32 on the CPU.
    """
    drawn = []
    for photo in photos:
        generator = torch.Generator().manual_seed(mixed_seed(seed, step, photo))
        taken = torch.multinomial(sizes, count, replacement=True, generator=generator)
        places = torch.rand(count, len(sizes) - 1, generator=generator).argsort(dim=1)
        # A permutation is as random as its inverse, so places are ranks.
        drawn.append((places < taken[:, None]).float())
    return torch.stack(drawn)


def with_complements(coalitions: Tensor) -> Tensor:
    """Pair each coalition `(B, M, N)` with its complement, `(B, 2·M, N)`: less variance."""
    return torch.cat([coalitions, 1 - coalitions], dim=1)


def coalition_masks(coalitions: Tensor, grid: Sequence[int], size: Sequence[int]) -> Tensor:
    """Draw coalitions `(B, M, N)` as masks `(B·M, 1, H, W)` of whole cells.

    Args:
        coalitions: 1 for the players that take part.
        grid: Height and width of the map, in cells; h·w = N.
        size: Height and width of the photo.
    """
    return F.interpolate(coalitions.flatten(0, 1).view(-1, 1, *grid), size=tuple(size))


def shapley_values(maps: Tensor, total: Tensor) -> Tensor:
    """Read raw maps as the values of their cells that sum to what all players are worth.

    A raw map holds N times the values, so that its mean is the total whatever the number of cells.
    What is missing to the total is spread evenly (additive efficient normalisation); that moves the
    level of a map, and neither its order nor its contrasts.

    Args:
        maps: Raw maps, `(B, T, h, w)`.
        total: Worth of all players over that of none, `(B, T)`.

    Returns:
        `(B, T, N)`.
    """
    flat = maps.flatten(2)
    return (flat + (total - flat.mean(dim=2))[..., None]) / flat.shape[2]


def shapley_loss(values: Tensor, coalitions: Tensor, worth: Tensor, empty: Tensor) -> Tensor:
    """Mean squared difference between the worth of coalitions and the sum of their values.

    Args:
        values: `(B, T, N)`.
        coalitions: Drawn from the Shapley kernel, `(B, M, N)`.
        worth: `(B, M, T)`.
        empty: Worth of no player, `(T,)` or `(B, T)`.

    Returns:
        Scalar.
    """
    predicted = coalitions @ values.transpose(1, 2)  # (B, M, T)
    return (worth - empty.expand(len(worth), -1)[:, None] - predicted).square().mean()
