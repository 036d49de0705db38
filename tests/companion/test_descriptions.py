"""Descriptions of figures: the numbers that are read out, by hand."""

from __future__ import annotations

import pandas as pd

from ttame.companion.figures.curves import (
    describe_drops,
    describe_metrics,
    describe_probabilities,
    describe_shares,
)
from ttame.companion.figures.scores import (
    describe_costs,
    describe_differences,
    describe_randomization,
)
from ttame.companion.figures.studies import describe_axis, describe_ranking
from ttame.companion.figures.training import describe_curves, describe_rates


def test_metrics_are_read_out_by_method() -> None:
    long = pd.DataFrame(
        {
            "metric": ["AD", "AD", "AD", "IC"],
            "percentage": [50, 50, 100, 50],
            "method": ["T-TAME", "T-TAME", "random", "T-TAME"],
            "value": [10.0, 20.0, 40.0, 100.0],
        }
    )
    assert describe_metrics(long) == (
        "Bars of Average Drop and Increase in Confidence, percent. AD with 100 % retained: random "
        "40.0. AD with 50 % retained: T-TAME 15.0. IC with 50 % retained: T-TAME 100.0."
    )


def test_curves_are_read_out_from_end_to_end() -> None:
    curves = pd.DataFrame({"step": [0, 5, 9], "a": [2.0, None, 0.5], "b": [None, None, None]})
    assert describe_curves(curves, {"a": "total", "b": "area"}, "loss") == (
        "Over training steps, loss: total from 2 at step 0 to 0.5 at step 9; area: nothing logged."
    )
    assert describe_curves(curves, {"a": "loss"}, "").startswith("Over training steps: loss from 2")


def test_the_lowest_loss_is_read_out() -> None:
    table = pd.DataFrame({"rate": [1e-4, 1e-3, 1e-2], "smoothed": [2.0, 1.0, 3.0]})
    text = describe_rates(table, 5e-4)
    assert "from 1.0e-04 to 1.0e-02" in text
    assert "lowest at 1.0e-03, with 1.00. Marked: the chosen rate, 5.0e-04." in text


def test_rises_are_counted() -> None:
    records = pd.DataFrame(
        {"method": ["a", "a", "b"], "probability": [0.5, 0.5, 0.5], "masked_50": [0.6, 0.5, 0.4]}
    )
    assert describe_probabilities(records, 50).endswith("where it rises: a 50.0, b 0.0.")


def test_median_drops_of_coloured_lines_are_read_out() -> None:
    drops = pd.DataFrame(
        {"percentage": 50, "method": ["a", "a", "a", "b"], "value": [0.0, 10.0, 80.0, 5.0]}
    )
    assert describe_drops(drops, ["a"]) == (
        "Share of photos whose drop is at most x, in colour a; in grey 1 others. Median "
        "with 50 % retained: a 10.0."
    )


def test_heights_of_curves_are_read_out() -> None:
    curves = pd.DataFrame(
        {"curve": "MoRF", "method": ["a", "a"], "share": [10, 90], "kept": [100.0, 50.0]}
    )
    text = describe_shares(curves, {"MoRF": "most relevant first"}, {"kept": "kept, %"}, ["a"])
    assert text.endswith("Mean height, most relevant first, kept, %: a 75.0.")


def test_the_best_of_each_score_and_its_cost_are_read_out() -> None:
    panel = pd.DataFrame({"x": [1.0, 30.0], "y": [20.0, 10.0]}, index=["T-TAME", "RISE"])
    panels = {"AD 50%": panel, "IC 50%": panel}
    assert describe_costs(panels, {"AD 50%": "AD", "IC 50%": "IC"}, "passes") == (
        "2 methods by cost, passes, and by score. AD: best RISE, 10.0, at a cost of 30. "
        "IC: best T-TAME, 20.0, at a cost of 1."
    )


def test_verdicts_are_counted() -> None:
    table = pd.DataFrame(
        {"score": ["AD", "AD", "IC"], "against": ["a", "b", "a"],
         "verdict": ["better", "open", "worse"]}
    )  # fmt: skip
    text = describe_differences(table, "T-TAME", ["AD", "IC"])
    assert "between T-TAME and 2 others" in text
    assert text.endswith("AD: better 1, worse 0, open 1; IC: better 0, worse 1, open 0.")


def test_the_last_stage_is_read_out() -> None:
    table = pd.DataFrame(
        {"stage": [0, 1, 1], "method": ["a", "a", "a"], "correlation": [1.0, 0.25, 0.75]}
    )
    assert describe_randomization(table).endswith("after the last: a 0.50.")


def test_variants_of_an_axis_are_read_out() -> None:
    table = pd.DataFrame(
        {"method": ["a", "b", "a"], "score": ["AD 50%", "AD 50%", "IC 50%"],
         "mean": [10.0, 20.0, 33.33]}
    )  # fmt: skip
    alone = describe_axis(table, pd.DataFrame())
    assert alone.endswith("percent. AD 50%: a 10.0, b 20.0. IC 50%: a 33.3.")
    lines = pd.DataFrame({"AD 50%": [31.0], "IC 50%": [20.0]}, index=["Grad-CAM"])
    beside = describe_axis(table, lines)
    assert beside.endswith(
        "AD 50%: a 10.0, b 20.0; lines: Grad-CAM 31.0. IC 50%: a 33.3; lines: Grad-CAM 20.0."
    )


def test_ranked_variants_are_read_out() -> None:
    table = pd.DataFrame(
        {"axis": ["loss", "layers"], "variant": ["none", "one"], "difference": [1.25, -3.0],
         "verdict": ["open", "worse"]}
    )  # fmt: skip
    text = describe_ranking(table)
    assert text.startswith("2 variants")
    assert text.endswith("best first: loss: none +1.2 (open); layers: one -3.0 (worse).")
