"""Tables of studies, recomputed by hand on two photos."""

from __future__ import annotations

import pandas as pd
import pytest

from ttame.companion.studies.tables import (
    axis_runs,
    mean_scores,
    run_scores,
    sight_gap,
    split_by_sight,
)
from ttame.companion.studies.variants import Variant
from ttame.errors import TTameError


def runs() -> pd.DataFrame:
    """A variant shown either half; photo a/1 belongs to the even class, b/2 to the odd one."""
    rows = [
        ("nothing_even", "nothing", "even", "a/1", 0.5, 0.5),  # seen: no drop
        ("nothing_even", "nothing", "even", "b/2", 0.8, 0.4),  # unseen: half
        ("nothing_odd", "nothing", "odd", "a/1", 0.5, 0.25),  # unseen: half
        ("nothing_odd", "nothing", "odd", "b/2", 0.8, 0.9),  # seen: rises
        ("size-64_even", "size=64", "even", "a/1", 0.5, 0.0),
        ("size-64_even", "size=64", "even", "b/2", 0.8, 0.0),
        ("size-64_odd", "size=64", "odd", "a/1", 0.5, 0.0),
        ("size-64_odd", "size=64", "odd", "b/2", 0.8, 0.0),
    ]
    table = pd.DataFrame(
        rows, columns=["run", "changes", "shown", "photo", "probability", "masked_100"]
    )
    both = table.assign(masked_50=table["masked_100"], masked_15=0.0)
    return both.assign(seed=0, minutes=1.0, target=3)


def test_scores_of_runs_and_photos() -> None:
    long = run_scores(runs())
    assert len(long) == 8 * 2 * 3 and set(long["metric"]) == {"AD", "IC"}
    means = mean_scores(long)
    assert list(means.index) == ["nothing", "size=64"] and list(means["runs"]) == [2, 2]
    assert means.loc["nothing", "AD 100%"] == pytest.approx((0 + 50 + 50 + 0) / 4)
    assert means.loc["nothing", "IC 100%"] == pytest.approx(25)
    assert means.loc["size=64", "AD 15%"] == pytest.approx(100)


def test_an_axis_has_the_names_of_its_variants() -> None:
    long = run_scores(runs())
    study = [Variant("size", "whole"), Variant("size", "not run", size=9),
             Variant("other", "x", layers=1)]  # fmt: skip
    assert set(axis_runs(long, study, "size")["method"]) == {"whole"}
    with pytest.raises(TTameError, match="no axis 'depth'"):
        axis_runs(long, study, "depth")
    with pytest.raises(TTameError, match="no run of the axis 'other'"):
        axis_runs(long, study, "other")


def test_every_photo_is_seen_once_and_unseen_once() -> None:
    split = split_by_sight(run_scores(runs()))
    chosen = split[(split["method"] == "nothing") & (split["score"] == "AD 100%")]
    found = chosen.set_index(["photo", "sight"])["value"].to_dict()
    assert found == {("a/1", "seen"): pytest.approx(0, abs=1e-4),
                     ("a/1", "unseen"): pytest.approx(50), ("b/2", "seen"): pytest.approx(0),
                     ("b/2", "unseen"): pytest.approx(50)}  # fmt: skip
    gap = sight_gap(split).set_index(["against", "score"])
    row = gap.loc[("nothing", "AD 100%")]
    assert (row["seen"], row["unseen"]) == (pytest.approx(0, abs=1e-4), pytest.approx(50))
    assert row["difference"] == pytest.approx(50) and row["verdict"] == "worse"
    assert gap.loc[("size=64", "AD 50%"), "difference"] == 0
    one_half = runs()[lambda table: table["run"] != "size-64_odd"]
    assert set(split_by_sight(run_scores(one_half))["method"]) == {"nothing"}
    with pytest.raises(TTameError, match="half of them"):
        split_by_sight(run_scores(runs().assign(shown="all")))
