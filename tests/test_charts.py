"""Charts and pictures: figures that notebooks show by themselves, with what was asked for."""

from __future__ import annotations

import pandas as pd
import pytest
import torch

from ttame.charts import (
    plot_curves,
    plot_drops,
    plot_learning_rates,
    plot_metrics,
    plot_probabilities,
)
from ttame.evaluation import per_sample
from ttame.plotting import plot_grid


@pytest.fixture
def records() -> pd.DataFrame:
    rows = [
        {"photo": f"{index}.jpg", "method": method, "probability": 0.5, "masked_100": 0.5 + shift,
         "masked_50": 0.25, "masked_15": 0.1}
        for index in range(3)
        for method, shift in (("T-TAME", 0.1), ("random", -0.1))
    ]  # fmt: skip
    return pd.DataFrame(rows)


def test_figures_show_themselves_without_pyplot() -> None:
    figure = plot_grid([[("map", torch.rand(4, 4)), ("photo", torch.rand(3, 4, 4))]])
    shown = figure._repr_png_()  # type: ignore[attr-defined]
    assert shown.startswith(b"\x89PNG")
    assert [axis.get_title() for axis in figure.axes] == ["map", "photo"]


def test_signed_maps_are_centred_on_zero() -> None:
    figure = plot_grid([[("difference", torch.tensor([[-3.0, 1.0]]))]], signed=True)
    assert figure.axes[0].images[0].get_clim() == (-3.0, 3.0)


def test_charts_of_scores_name_methods_and_percentages(records: pd.DataFrame) -> None:
    long = per_sample(records)
    assert [len(axis.patches) > 0 for axis in plot_metrics(long).axes] == [True, True]
    titles = [axis.get_title() for axis in plot_drops(long).axes]
    assert titles == [f"{share} % retained" for share in (100, 50, 15)]
    panels = plot_probabilities(records, 50).axes
    assert [axis.get_title() for axis in panels] == ["T-TAME", "random"]
    assert panels[0].collections[0].get_offsets().shape == (3, 2)


def test_curves_keep_single_values_beside_their_mean() -> None:
    curves = pd.DataFrame({"step": range(20), "loss": [0.0, 2.0] * 10})
    axis = plot_curves(curves, {"loss": "total"}, window=4).axes[0]
    assert axis.collections[0].get_offsets().shape == (20, 2)
    assert set(axis.lines[0].get_ydata()[2:-2]) == {1.0}


def test_chosen_rate_is_marked() -> None:
    table = pd.DataFrame({"rate": [1e-4, 1e-3], "loss": [2.0, 1.0], "smoothed": [2.0, 1.0]})
    axis = plot_learning_rates(table, 1e-3).axes[0]
    assert axis.get_xscale() == "log"
    assert any(set(line.get_xdata()) == {1e-3} for line in axis.lines)
