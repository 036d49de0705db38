"""The bootstrap: against brute force, against scipy along one axis, and the verdicts."""

from __future__ import annotations

import numpy as np
import pytest
from scipy import stats

from ttame.evaluation.intervals import Interval, bootstrap, verdict


def test_interval_agrees_with_scipy_over_photos() -> None:
    values = np.random.default_rng(1).gamma(2, 10, size=200)
    found = bootstrap(values, resamples=20_000, seed=0)
    expected = stats.bootstrap(
        (values,), np.mean, n_resamples=20_000, method="percentile", rng=np.random.default_rng(0)
    ).confidence_interval
    spread = expected.high - expected.low
    assert found.mean == pytest.approx(values.mean())
    assert found.low == pytest.approx(expected.low, abs=0.05 * spread)
    assert found.high == pytest.approx(expected.high, abs=0.05 * spread)


def test_interval_over_photos_and_seeds_agrees_with_drawing_one_by_one() -> None:
    values = np.random.default_rng(2).normal([0.0, 1.0, 2.0], size=(30, 3))
    generator = np.random.default_rng(5)
    means = []
    for _ in range(4000):
        rows = generator.integers(30, size=30)
        columns = generator.integers(3, size=3)
        means.append(values[rows][:, columns].mean())
    low, high = np.percentile(means, [2.5, 97.5])
    found = bootstrap(values, resamples=4000, seed=0)
    assert found.low == pytest.approx(low, abs=0.1)
    assert found.high == pytest.approx(high, abs=0.1)


def test_equal_values_have_no_width_and_the_seed_decides() -> None:
    assert bootstrap(np.full(7, 3.0)) == pytest.approx((3.0, 3.0, 3.0))
    values = np.arange(20.0)
    assert bootstrap(values, seed=1) == bootstrap(values, seed=1)
    assert bootstrap(values, seed=1) != bootstrap(values, seed=2)


@pytest.mark.parametrize(
    ("score", "low", "high", "expected"),
    [
        ("IC 50%", 0.1, 2.0, "better"),
        ("IC 50%", -2.0, -0.1, "worse"),
        ("AD 50%", -2.0, -0.1, "better"),
        ("AD 50%", 0.1, 2.0, "worse"),
        ("AD 50%", -0.1, 2.0, "open"),
        ("AD 50%", 0.0, 0.0, "open"),
    ],
)
def test_verdict_follows_the_direction_of_the_score(
    score: str, low: float, high: float, expected: str
) -> None:
    assert verdict(score, Interval((low + high) / 2, low, high)) == expected
