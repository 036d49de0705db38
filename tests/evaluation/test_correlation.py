"""Rank correlation of maps: by hand, against scipy and against counting pairs."""

from __future__ import annotations

import pytest
import torch
from scipy.stats import spearmanr

from ttame.errors import TTameError
from ttame.evaluation.correlation import rank_correlation


def test_rank_correlation_by_hand() -> None:
    first = torch.tensor([1.0, 2.0, 3.0, 4.0]).view(1, 1, 2, 2)
    # 1 - 6 · Σd² / (n (n² - 1)) with d = (0, 1, 1, 0)
    other = torch.tensor([-9.0, 5.0, 1.0, 100.0]).view(1, 1, 2, 2)
    assert rank_correlation(first, other).tolist() == pytest.approx([1 - 6 * 2 / 60])
    assert rank_correlation(first, -first).tolist() == [-1.0]  # signed values, not magnitudes
    assert rank_correlation(first, first.exp()).tolist() == [1.0]


def test_rank_correlation_is_scipys() -> None:
    generator = torch.Generator().manual_seed(4)
    first = torch.randn(6, 1, 9, 5, generator=generator)
    second = first + torch.randn(6, 1, 9, 5, generator=generator)
    second[3:] = second[3:].clamp_min(0).mul(2).round()  # many ties
    first[4] = first[4].round()
    found = rank_correlation(first, second)
    assert found.shape == (6,) and found.dtype == torch.float64
    for index in range(6):
        expected = spearmanr(first[index].flatten(), second[index].flatten()).statistic
        assert float(found[index]) == pytest.approx(float(expected), abs=1e-12)
        alone = rank_correlation(first[index : index + 1], second[index : index + 1])
        assert float(alone[0]) == pytest.approx(float(found[index]), abs=1e-12)


def test_rank_correlation_against_counting() -> None:
    maps = torch.tensor([0.0, -0.0, 2.0, 2.0, 2.0, 7.0]).view(1, 1, 2, 3)
    other = torch.arange(6.0).view(1, 1, 2, 3)

    def ranks(values: list[float]) -> list[float]:
        return [
            sum(v < value for v in values) + (sum(v == value for v in values) + 1) / 2
            for value in values
        ]

    one, two = ranks(maps.flatten().tolist()), ranks(other.flatten().tolist())
    assert one == [1.5, 1.5, 4, 4, 4, 6]
    upper = sum((a - 3.5) * (b - 3.5) for a, b in zip(one, two, strict=True))
    lower = (sum((a - 3.5) ** 2 for a in one) * sum((b - 3.5) ** 2 for b in two)) ** 0.5
    assert float(rank_correlation(maps, other)[0]) == pytest.approx(upper / lower, abs=1e-12)


def test_constant_maps_count_as_zero() -> None:
    maps = torch.randn(3, 1, 4, 4)
    flat = maps.clone()
    flat[1] = 0.3
    assert rank_correlation(maps, flat).tolist() == pytest.approx([1, 0, 1])
    assert rank_correlation(flat, maps).tolist() == pytest.approx([1, 0, 1])


def test_maps_that_cannot_be_compared_are_refused() -> None:
    maps = torch.randn(2, 1, 4, 4)
    for other, message in (
        (torch.randn(2, 1, 4, 5), "one shape"),
        (maps * float("nan"), "NaN"),
        (maps * float("inf"), "infinite"),
    ):
        with pytest.raises(TTameError, match=message):
            rank_correlation(maps, other)
    with pytest.raises(TTameError, match="one shape"):
        rank_correlation(maps[:, 0], maps[:, 0])
