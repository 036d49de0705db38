"""Charts and pictures: figures that notebooks show by themselves, with what was asked for."""

from __future__ import annotations

from itertools import combinations
from pathlib import Path

import numpy as np
import pandas as pd
import pytest
import torch
from matplotlib.figure import Figure
from matplotlib.lines import Line2D
from matplotlib.text import Text

from benchmarks.records import write_benchmark
from ttame.companion.figures.curves import (
    plot_drops,
    plot_insertion,
    plot_metrics,
    plot_probabilities,
    plot_road,
)
from ttame.companion.figures.panels import caption, panels
from ttame.companion.figures.scores import plot_costs, plot_differences, plot_randomization
from ttame.companion.figures.training import plot_bars, plot_curves, plot_learning_rates
from ttame.companion.shipped import read_benchmark
from ttame.errors import TTameError
from ttame.evaluation.tables import curves, per_sample
from ttame.plotting import PAGE_WIDTH, plot_grid

MANY = ["T-TAME", "random", *(f"method {index}" for index in range(10))]


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
    shown, _ = figure._repr_mimebundle_()  # type: ignore[attr-defined]
    assert "<svg" in shown["image/svg+xml"]
    assert [axis.get_title() for axis in figure.axes] == ["map", "photo", ""]  # the colour bar


def test_signed_maps_are_centred_on_zero() -> None:
    figure = plot_grid([[("difference", torch.tensor([[-3.0, 1.0]]))]], signed=True)
    assert figure.axes[0].images[0].get_clim() == (-3.0, 3.0)


def test_charts_of_scores_name_methods_and_percentages(records: pd.DataFrame) -> None:
    long = per_sample(records)
    metrics = plot_metrics(long)
    assert [len(axis.patches) > 0 for axis in metrics.axes] == [True, True]
    assert [axis.get_legend() for axis in metrics.axes] == [None, None]
    assert legend(metrics) == ["T-TAME", "random"]  # one for both panels
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


# Curves of many methods


@pytest.fixture
def many() -> pd.DataFrame:
    """Two photos and 12 methods; each method's curves are flat, at a height of its own."""
    rows = []
    for rank, method in enumerate(MANY):
        height = rank / 100
        for photo in range(2):
            row = {"photo": f"{photo}.jpg", "method": method, "probability": 0.5}
            row |= {"masked_100": 0.5 - height, "masked_50": 0.5}
            row |= {"road_morf": [height] * 7, "road_lerf": [1 - height] * 7}
            row |= {"road_morf_kept": [float(photo)] * 7, "road_lerf_kept": [1.0] * 7}
            rows.append(row | {"insertion": [height] * 5, "deletion": [1 - height] * 5})
    return pd.DataFrame(rows)


def lines(figure: Figure, panel: int) -> list[Line2D]:
    return [line for line in figure.axes[panel].lines if len(line.get_xdata()) > 1]


def greys(found: list[Line2D]) -> int:
    return sum(line.get_color() == "0.78" for line in found)


def legend(figure: Figure) -> list[str]:
    return [" ".join(text.get_text().split()) for text in figure.legends[0].get_texts()]


def test_bars_carry_names_and_values() -> None:
    table = pd.DataFrame(
        {"a step": [36.8, 6.65], "floor": [38.1, 7.63]}, index=["lite0", "resnet50"]
    )
    figure = plot_bars(table, "photos per second")
    assert [axis.get_title() for axis in figure.axes] == ["a step", "floor"]
    for axis, column in zip(figure.axes, table, strict=True):
        assert [bar.get_width() for bar in axis.patches] == table[column].tolist()
        assert [text.get_text() for text in axis.texts] == [f"{x:.3g}" for x in table[column]]
    assert [label.get_text() for label in figure.axes[0].get_yticklabels()] == list(table.index)
    low, high = figure.axes[0].get_ylim()
    assert low > high, "the first row is at the top"
    assert figure.alt == (  # type: ignore[attr-defined]
        "Bars, photos per second. a step: lite0 36.8, resnet50 6.65. floor: lite0 38.1, "
        "resnet50 7.63."
    )


def test_road_shows_both_orders_of_both_quantities(many: pd.DataFrame) -> None:
    figure = plot_road(curves(many, "ROAD"), ["T-TAME", "random"])
    # Rows: kept, probability. Columns: MoRF, LeRF. Coloured lines come last.
    for panel, percent in enumerate((50, 100, 0, 100)):
        found = lines(figure, panel)
        assert len(found) == 12
        assert greys(found) == 10
        assert list(found[-2].get_xdata()) == [10, 20, 30, 40, 50, 70, 90]
        assert found[-2].get_ydata() == pytest.approx(np.full(7, percent))
    assert lines(figure, 3)[-1].get_ydata() == pytest.approx(np.full(7, 99.0))  # random
    assert "lower" in figure.axes[0].get_title()
    assert "higher" in figure.axes[1].get_title()


def test_no_curve_is_cut_off(many: pd.DataFrame) -> None:
    figure = plot_road(curves(many, "ROAD"), ["T-TAME"])
    for panel, axis in enumerate(figure.axes):
        assert axis.get_ylim()[0] == 0
        highest = max(max(line.get_ydata()) for line in lines(figure, panel))
        assert highest <= axis.get_ylim()[1]


def test_every_method_is_in_the_legend(many: pd.DataFrame) -> None:
    names = legend(plot_insertion(curves(many, "insertion/deletion"), ["random", "T-TAME"]))
    assert names[:2] == ["random", "T-TAME"]
    assert names[2] == "others: " + ", ".join(MANY[2:])
    few = many[many["method"].isin(MANY[:3])]
    assert legend(plot_insertion(curves(few, "insertion/deletion"))) == MANY[:3]


def test_highlighted_methods_have_colours_and_markers_of_their_own(many: pd.DataFrame) -> None:
    found = lines(plot_insertion(curves(many, "insertion/deletion"), MANY[:9]), 0)[-9:]
    assert len({line.get_color() for line in found}) == 9
    assert len({line.get_marker() for line in found}) == 9
    assert list(found[0].get_xdata()) == [0, 25, 50, 75, 100]
    assert found[1].get_ydata() == pytest.approx(np.full(5, 1.0))


def test_drops_are_cumulated(many: pd.DataFrame) -> None:
    figure = plot_drops(per_sample(many), ["T-TAME", "method 9"])
    assert [axis.get_title() for axis in figure.axes] == ["100 % retained", "50 % retained"]
    assert greys(lines(figure, 0)) == 10
    last = lines(figure, 0)[-1]  # a drop of 0.11 of 0.5 on both photos
    assert list(last.get_xdata())[1:] == pytest.approx([22, 22])
    assert list(last.get_ydata()) == [0, 50, 100]


def test_highlights_that_cannot_be_drawn_are_refused(many: pd.DataFrame) -> None:
    with pytest.raises(TTameError, match=r"at most 9 of T-TAME, .*got method 11"):
        plot_road(curves(many, "ROAD"), ["T-TAME", "method 11"])
    with pytest.raises(TTameError, match=r"at most 9 of .*method 7$"):
        plot_drops(per_sample(many), MANY[:10])


# Cost against quality


def places(figure: Figure, panel: int = 0) -> dict[float, float]:
    return {
        float(line.get_xdata()[0]): float(line.get_ydata()[0]) for line in figure.axes[panel].lines
    }


def test_costs_of_a_benchmark_are_drawn_where_they_are(tmp_path: Path) -> None:
    timed = [{"method": "T-TAME", "ratio": 1.2}, {"method": "RISE", "ratio": 4000}]
    path = write_benchmark(tmp_path / "benchmark.json", "explaining", methods=timed)
    costs = pd.DataFrame(read_benchmark(path)["methods"]).set_index("method")
    table = pd.DataFrame({"AD 50%": {"T-TAME": 10.0, "RISE": 20.0, "not timed": 5.0}})
    table["time"] = costs["ratio"]
    figure = plot_costs(table, "time", {"AD 50%": "AD"}, "passes")
    assert places(figure) == {1.2: 10.0, 4000.0: 20.0}
    axis = figure.axes[0]
    assert axis.get_xscale() == "log"
    assert axis.get_ylabel() == "AD (lower is better)"
    assert {text.get_text() for text in axis.texts} == {"T-TAME", "RISE"}
    weights = {text.get_text(): text.get_fontweight() for text in axis.texts}
    assert weights == {"T-TAME": "bold", "RISE": "normal"}


def test_a_cost_of_zero_has_a_place_left_of_all_others() -> None:
    table = pd.DataFrame({"passes": [0, 1, 100], "gap": [5, 50, 40]}, ["random", "T-TAME", "IIA"])
    figure = plot_costs(table, "passes", {"gap": "gap"}, "passes", controls=["random"])
    axis = figure.axes[0]
    labels = [text.get_text() for text in axis.get_xticklabels()]
    where = dict(zip(labels, axis.get_xticks(), strict=True))
    assert list(where) == ["0", "1", "10", "100"]
    assert places(figure) == {where["0"]: 5, where["1"]: 50, where["100"]: 40}
    assert 0 == where["0"] < where["1"]
    assert [line.get_markerfacecolor() == "white" for line in axis.lines] == [True, False, False]


def test_labels_cover_neither_each_other_nor_the_marks() -> None:
    generator = np.random.default_rng(0)
    crowded = {
        "passes": np.repeat([0, 1, 2, 2000], [4, 3, 10, 5]),
        "AD 50%": np.concatenate([[50, 50], 20 + generator.random(20)]),  # two in one place
        "gap": 10 * generator.random(22),
    }
    table = pd.DataFrame(crowded, [*MANY, *(f"another {index}" for index in range(10))])
    figure = plot_costs(table, "passes", {"AD 50%": "AD", "gap": "gap"}, "passes")
    figure.draw_without_rendering()
    for axis in figure.axes:
        # An annotation's own box would include its leader line.
        boxes = [Text.get_window_extent(text) for text in axis.texts]
        assert len(boxes) == 22
        for first, second in combinations(boxes, 2):
            assert not first.overlaps(second)
        assert all(axis.bbox.containsx(x) for box in boxes for x in (box.x0, box.x1))
        for line in axis.lines:
            mark = axis.transData.transform((line.get_xdata()[0], line.get_ydata()[0]))
            assert not any(box.contains(*mark) for box in boxes)


@pytest.mark.parametrize("costs", [[-1.0, 1.0], [float("nan"), float("nan")]])
def test_costs_that_cannot_be_drawn_are_refused(costs: list[float]) -> None:
    table = pd.DataFrame({"passes": costs, "gap": [1.0, 2.0]}, ["a", "b"])
    with pytest.raises(TTameError, match="'passes' against 'gap'"):
        plot_costs(table, "passes", {"gap": "gap"}, "passes")


# Differences and the sanity check


@pytest.fixture
def differences() -> pd.DataFrame:
    columns = ["score", "against", "difference", "low", "high", "verdict"]
    rows = [
        ("AD 50%", "Grad-CAM", -4.0, -5.0, -2.0, "better"),
        ("AD 50%", "random", 3.0, 1.0, 4.0, "worse"),
        ("insertion", "Grad-CAM", 6.0, 5.0, 8.0, "better"),
        ("insertion", "random", -1.0, -3.0, 1.0, "open"),
    ]
    return pd.DataFrame(rows, columns=columns)


def test_right_of_zero_is_better_whatever_the_score(differences: pd.DataFrame) -> None:
    figure = plot_differences(differences)
    found = {}
    for axis in figure.axes:
        assert axis.yaxis_inverted()  # the first method is at the top
        for line in axis.lines:
            for x, y in zip(line.get_xdata(), line.get_ydata(), strict=True):
                if not line.get_label().startswith("_"):
                    found[axis.get_title(), int(y)] = (float(x), line.get_label())
    assert found == {
        ("AD 50%", 0): (4.0, "T-TAME better"),
        ("AD 50%", 1): (-3.0, "T-TAME worse"),
        ("insertion", 0): (6.0, "T-TAME better"),
        ("insertion", 1): (-1.0, "no difference shown"),
    }
    labels = [text.get_text() for text in figure.axes[0].get_yticklabels()]
    assert labels == ["Grad-CAM", "random"]
    segments = figure.axes[0].collections[0].get_segments()
    assert np.array(segments).tolist() == [[[2.0, 0.0], [5.0, 0.0]]]


def test_differences_of_chosen_scores_in_their_order(differences: pd.DataFrame) -> None:
    figure = plot_differences(differences, scores=["insertion", "AD 50%"])
    assert [axis.get_title() for axis in figure.axes] == ["insertion", "AD 50%"]
    with pytest.raises(TTameError, match="no differences of ROAD LeRF; the table has AD 50%, ins"):
        plot_differences(differences, scores=["ROAD LeRF"])


def test_sanity_check_is_drawn_stage_by_stage() -> None:
    rows = [
        {"method": method, "photo": photo, "stage": stage, "layer": layer, "randomized": share,
         "correlation": value + shift}
        for method, shift in (("Grad-CAM", 0.0), ("T-TAME", 0.2))
        for stage, layer, share, value in ((1, "head", 25.0, 0.5), (9, "stem", 100.0, 0.1))
        for photo in range(2)
    ]  # fmt: skip
    figure = plot_randomization(pd.DataFrame(rows))
    axis = figure.axes[0]
    drawn = [line for line in axis.lines if line.get_marker() not in ("None", "")]
    means = [line.get_ydata().tolist() for line in drawn if len(line.get_xdata()) == 2]
    assert means[:2] == [pytest.approx([0.5, 0.1]), pytest.approx([0.7, 0.3])]
    labels = [text.get_text() for text in axis.get_xticklabels()]
    assert labels == ["head\n25 %", "stem\n100 %"]
    legend_ = axis.get_legend()
    assert legend_ is not None
    assert [text.get_text() for text in legend_.get_texts()] == ["Grad-CAM", "T-TAME"]


# Width of the page


def test_no_figure_is_wider_than_the_page_and_titles_are_wrapped_to_their_picture() -> None:
    row = [(f"a title of many words, number {index}", torch.rand(3, 4, 4)) for index in range(8)]
    figure = plot_grid([row])
    assert figure.get_figwidth() == PAGE_WIDTH
    figure.draw_without_rendering()
    boxes = [axis.title.get_window_extent() for axis in figure.axes]
    for first, second in combinations(boxes, 2):
        assert not first.overlaps(second)
    for axis in figure.axes:
        assert axis.title.get_fontsize() * 96 / 72 >= 9  # pixels


def test_panels_that_do_not_fit_go_to_further_lines() -> None:
    figure, axes = panels(5, (13, 2), "Five.", columns=5)
    assert figure.get_figwidth() == PAGE_WIDTH
    assert len(axes) == 5
    assert figure.get_figheight() == 4  # 2.6 inches each: three a line, and two lines of 2
    assert len({axis.get_subplotspec().colspan.start for axis in axes}) == 3
    caption(axes[0], "Title", "x", "y")
    for text in (axes[0].title, axes[0].xaxis.label, *axes[0].get_xticklabels()):
        assert 9 <= text.get_fontsize() * 96 / 72 <= 12  # pixels
    narrow, _ = panels(2, (5, 2), "Two.")
    assert tuple(narrow.get_size_inches()) == (5, 2)
