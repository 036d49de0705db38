"""The range test and the snapshots: what they record, and that they change nothing."""

from __future__ import annotations

from pathlib import Path

import numpy as np
import pandas as pd
import pytest
import torch
from torch import Tensor

from ttame.data import PhotoList
from ttame.errors import TTameError
from ttame.explainer import Explainer
from ttame.training.config import TrainingConfig
from ttame.training.fit import fit
from ttame.training.learning_rate import find_learning_rate, suggest_rate
from ttame.training.snapshots import MapSnapshots


def quick(steps: int | None = None) -> TrainingConfig:
    return TrainingConfig.of(steps=steps, batch_size=4, workers=0, init="free")


def test_rates_grow_geometrically_and_losses_are_those_of_the_batches(
    explainer: Explainer, photos: PhotoList
) -> None:
    before = {name: value.clone() for name, value in explainer.state_dict().items()}
    table = find_learning_rate(explainer, photos, quick(), lowest=1e-6, highest=1e-3, steps=4)
    assert table["rate"].tolist() == pytest.approx([1e-6, 1e-5, 1e-4, 1e-3])
    assert bool(table.notna().all().all())
    low, high = table["loss"].min(), table["loss"].max()
    assert bool(table["smoothed"].between(low, high).all())
    assert all(torch.equal(value, before[name]) for name, value in explainer.state_dict().items())


def test_a_growing_loss_ends_the_test(explainer: Explainer, photos: PhotoList) -> None:
    table = find_learning_rate(explainer, photos, quick(), lowest=1e-3, highest=1e4, steps=60)
    assert len(table) < 60


def table(loss: np.ndarray) -> pd.DataFrame:
    """A range test over six decades whose losses scatter by a hundredth."""
    noise = np.random.default_rng(0).normal(scale=0.01, size=len(loss))
    rates = np.geomspace(1e-6, 1.0, len(loss))
    return pd.DataFrame({"rate": rates, "loss": loss + noise, "smoothed": loss})


def test_the_suggested_rate_is_where_the_loss_falls_most_steeply() -> None:
    """A logistic fall about 1e-3, then a climb that is steeper still."""
    decades = np.linspace(-6, 0, 61)
    loss = 1 - 1 / (1 + np.exp(-4 * (decades + 3))) + np.where(decades > -1, 9 * (decades + 1), 0)
    assert suggest_rate(table(loss)) == pytest.approx(1e-3, rel=0.01)


@pytest.mark.parametrize("slope", [0.0, 0.5])
def test_no_rate_is_suggested_where_the_loss_does_not_fall(slope: float) -> None:
    with pytest.raises(TTameError, match=r"falls at no rate from 1\.0e-06 to 1\.0e\+00"):
        suggest_rate(table(1 + slope * np.linspace(0, 1, 40)))


def test_a_range_without_extent_is_refused(explainer: Explainer, photos: PhotoList) -> None:
    with pytest.raises(TTameError, match="range test needs"):
        find_learning_rate(explainer, photos, quick(), lowest=1e-3, highest=1e-4)


def test_snapshots_show_the_start_and_every_few_steps(
    explainer: Explainer, photos: PhotoList, images: Tensor, tmp_path: Path
) -> None:
    snapshots = MapSnapshots(images, every=2)
    plain = fit(explainer, photos, quick(5), tmp_path / "plain", progress=False)
    watched = fit(
        explainer, photos, quick(5), tmp_path / "run", callbacks=[snapshots], progress=False
    )
    assert snapshots.steps == [0, 2, 4]
    assert all(maps.shape[:2] == (len(images), 1) for maps in snapshots.maps)
    assert not torch.equal(snapshots.maps[0], snapshots.maps[-1])
    for name, value in watched.mechanism.state_dict().items():  # watching leaves no trace
        torch.testing.assert_close(value, plain.mechanism.state_dict()[name])
    with pytest.raises(TTameError, match="every must be positive"):
        MapSnapshots(images, every=0)
