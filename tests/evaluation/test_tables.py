"""Tables of results by hand: scores, curves, intervals, summaries, files read together."""

from __future__ import annotations

import random
from pathlib import Path
from typing import Any

import pandas as pd
import pytest

from ttame.errors import TTameError
from ttame.evaluation.confidence import higher_is_better
from ttame.evaluation.tables import (
    curves,
    intervals,
    measured,
    per_sample,
    read_together,
    scores,
    summary,
    write_table,
)
from ttame.records import ResultsFile, read_results

CONFIG = {
    "backbone": "toy", "space": "raw", "cam_layer": "", "data": "photos", "seed": 0,
    "metrics": ["AD/IC"], "percentages": [100, 50], "steps": 4, "digests": ["c", "m"],
}  # fmt: skip


def write(path: Path, records: list[dict[str, Any]], **changes: Any) -> Path:
    results = ResultsFile(path, {**CONFIG, **changes}, {})
    results.append(records)
    return results.finish()


@pytest.fixture
def small(tmp_path: Path) -> Path:
    """Two photos, two methods; every number below is worked out from these."""
    shared = {"target": 1, "degenerate": False}
    return write(
        tmp_path / "small.jsonl",
        [
            {"photo": "a", "method": "B", "probability": 0.8, "masked_100": 0.6,
             "masked_50": 0.9, "seconds": 0.010, **shared},
            {"photo": "a", "method": "A", "probability": 0.8, "masked_100": 0.8,
             "masked_50": 0.0, "seconds": 0.002, **shared},
            {"photo": "b", "method": "B", "probability": 0.5, "masked_100": 0.1,
             "masked_50": 0.6, "seconds": 0.030, **shared},
            {"photo": "b", "method": "A", "probability": 0.5, "masked_100": 0.51,
             "masked_50": 0.25, "seconds": 0.004, **shared, "degenerate": True},
        ],
    )  # fmt: skip


def degraded(photo: str = "a", method: str = "A", **changes: Any) -> dict[str, Any]:
    """A record with the curves of ROAD at 10, 20, 30, 40, 50, 70, 90 % and of four steps."""
    return {
        "photo": photo, "method": method, "target": 1, "probability": 0.8, "degenerate": False,
        "seconds": 0.01, "forward": 1.0, "backward": 0.0,
        "road_morf": [0.7, 0.5, 0.3, 0.3, 0.1, 0.0, 0.2],
        "road_lerf": [0.8, 0.8, 0.8, 0.8, 0.8, 0.4, 0.0],
        "road_morf_kept": [1.0, 1.0, 0.0, 0.0, 0.0, 0.0, 0.0],
        "road_lerf_kept": [1.0, 1.0, 1.0, 1.0, 1.0, 1.0, 0.0],
        "insertion": [0.1, 0.3, 0.7, 0.9, 0.8],
        "deletion": [0.8, 0.4, 0.2, 0.0, 0.2],
        **changes,
    }  # fmt: skip


def skipped(photo: str, method: str = "A") -> dict[str, Any]:
    return {"photo": photo, "method": method, "skipped": f"{photo} is empty"}


def values(long: pd.DataFrame) -> dict[tuple[str, str, str], float]:
    """Values of a long table by photo, method and score."""
    assert list(long.columns) == ["photo", "method", "score", "value"]
    return {(row.photo, row.method, row.score): row.value for row in long.itertuples()}


# Scores


def test_per_sample_by_hand(small: Path) -> None:
    long = per_sample(read_results(small)[1])
    assert list(long.columns) == ["photo", "method", "percentage", "metric", "value"]
    found = {
        (row.photo, row.method, row.percentage, row.metric): row.value for row in long.itertuples()
    }
    assert found == {
        ("a", "B", 100, "AD"): pytest.approx(25), ("a", "B", 100, "IC"): 0,
        ("a", "A", 100, "AD"): 0, ("a", "A", 100, "IC"): 0,  # equal is no increase
        ("b", "B", 100, "AD"): pytest.approx(80), ("b", "B", 100, "IC"): 0,
        ("b", "A", 100, "AD"): 0, ("b", "A", 100, "IC"): 100,
        ("a", "B", 50, "AD"): 0, ("a", "B", 50, "IC"): 100,
        ("a", "A", 50, "AD"): 100, ("a", "A", 50, "IC"): 0,
        ("b", "B", 50, "AD"): 0, ("b", "B", 50, "IC"): 100,
        ("b", "A", 50, "AD"): pytest.approx(50), ("b", "A", 50, "IC"): 0,
        # Of what is missing to certainty, .2 and .5, masked photos gain a share.
        ("a", "B", 100, "AG"): 0, ("a", "A", 100, "AG"): 0,
        ("b", "B", 100, "AG"): 0, ("b", "A", 100, "AG"): pytest.approx(2),
        ("a", "B", 50, "AG"): pytest.approx(50), ("a", "A", 50, "AG"): 0,
        ("b", "B", 50, "AG"): pytest.approx(20), ("b", "A", 50, "AG"): 0,
    }  # fmt: skip
    assert len(long) == 24


def test_scores_name_metric_and_percentage(small: Path) -> None:
    records = read_results(small)[1]
    found = values(scores(records))
    assert len(found) == 24
    for row in per_sample(records).itertuples():
        assert found[row.photo, row.method, f"{row.metric} {row.percentage}%"] == row.value


def test_areas_by_hand() -> None:
    # ROAD's levels lie 10, 10, 10, 10, 20 and 20 apart, 80 in all; trapezoids by hand.
    found = values(scores(pd.DataFrame([degraded()])))
    morf = (10 * (0.6 + 0.4 + 0.3 + 0.2) + 20 * (0.05 + 0.1)) / 80
    lerf = (10 * (0.8 * 4) + 20 * (0.6 + 0.2)) / 80
    morf_kept = (10 * (1 + 0.5)) / 80
    lerf_kept = (10 * 4 + 20 * (1 + 0.5)) / 80
    # Four steps of a quarter.
    insertion = (0.2 + 0.5 + 0.8 + 0.85) / 4
    deletion = (0.6 + 0.3 + 0.1 + 0.1) / 4
    assert found == {
        ("a", "A", "ROAD MoRF"): pytest.approx(100 * morf_kept),
        ("a", "A", "ROAD LeRF"): pytest.approx(100 * lerf_kept),
        ("a", "A", "ROAD MoRF probability"): pytest.approx(100 * morf),
        ("a", "A", "ROAD LeRF probability"): pytest.approx(100 * lerf),
        ("a", "A", "insertion"): pytest.approx(100 * insertion),
        ("a", "A", "deletion"): pytest.approx(100 * deletion),
    }


def test_areas_of_flat_curves_are_their_height() -> None:
    flat = {
        name: [0.25] * (5 if name in ("insertion", "deletion") else 7)
        for name in degraded() if name.startswith(("road", "insertion", "deletion"))
    }  # fmt: skip
    long = scores(pd.DataFrame([degraded(**flat), degraded(photo="b")]))
    assert long[long["photo"] == "a"]["value"].tolist() == pytest.approx([25] * 6)


def test_all_kinds_of_scores_stand_together() -> None:
    records = pd.DataFrame([degraded(masked_100=0.6), degraded(photo="b", masked_100=0.8)])
    before = records.copy(deep=True)
    long = scores(records)
    assert list(dict.fromkeys(long["score"])) == [
        "AD 100%", "IC 100%", "AG 100%", "ROAD MoRF", "ROAD LeRF", "ROAD MoRF probability",
        "ROAD LeRF probability", "insertion", "deletion",
    ]  # fmt: skip
    assert values(long)["a", "A", "AD 100%"] == pytest.approx(25)
    assert len(long) == 18 and long["value"].dtype == float
    pd.testing.assert_frame_equal(records, before)


def test_coefficients_and_places_by_hand() -> None:
    record = {
        "photo": "a", "method": "A", "target": 1, "probability": 0.8, "degenerate": False,
        "seconds": 0.01,
        # The drops are in the order of the salience but for the last two: 1 - 6 · 2 / (4 · 15).
        "sds_output": [9.0, 8.0, 6.0, 7.0], "sds_salience": [0.1, 0.2, 0.3, 0.4],
        # Weights 1, 3 and 2; the first pair disagrees.
        "saco_salience": [3.0, 2.0, 0.0], "saco_probability": [0.2, 0.1, 0.3],
        "grid_pointing": 60.0, "energy": 40.0, "pointing": 100.0,
    }  # fmt: skip
    expected = {
        "SDS": 80, "SaCo": 100 * 4 / 6, "grid pointing": 60, "energy": 40, "pointing": 100,
    }  # fmt: skip
    found = values(scores(pd.DataFrame([record])))
    assert found == {("a", "A", name): pytest.approx(value) for name, value in expected.items()}
    table = summary(pd.DataFrame([record]))
    assert list(table.columns[:5]) == list(expected)
    # Where only the first photos were measured.
    later = {k: v for k, v in record.items() if not k.startswith(("sds", "saco"))}
    long = scores(pd.DataFrame([record, {**later, "photo": "b"}]))
    assert set(long[long["score"].isin(["SDS", "SaCo"])]["photo"]) == {"a"}


@pytest.mark.parametrize(
    ("score", "expected"),
    [
        ("SDS", True), ("SaCo", True), ("grid pointing", True), ("energy", True),
        ("pointing", True),
        ("AD 100%", False), ("AD 15%", False), ("IC 50%", True), ("AG 50%", True),
        ("ROAD MoRF", False), ("ROAD MoRF probability", False), ("ROAD LeRF", True),
        ("ROAD LeRF probability", True), ("insertion", True), ("deletion", False),
    ],
)  # fmt: skip
def test_which_way_is_better(score: str, expected: bool) -> None:
    assert higher_is_better(score) is expected


# Photos that could not be read


def test_skipped_photos_have_no_score() -> None:
    records = pd.DataFrame([skipped("x"), degraded(masked_100=0.6), skipped("y")])
    assert list(measured(records)["photo"]) == ["a"]
    assert "skipped" not in measured(records)
    assert set(scores(records)["photo"]) == set(per_sample(records)["photo"]) == {"a"}
    assert set(curves(records, "ROAD")["photo"]) == {"a"}
    assert intervals(records)["photos"].tolist() == [1] * 9
    whole = pd.DataFrame([degraded()])
    assert measured(whole).equals(whole)


def test_the_summary_counts_skipped_photos_by_method() -> None:
    records = pd.DataFrame(
        [
            skipped("x"), degraded(degenerate=True), skipped("y"), degraded(photo="b"),
            degraded(method="B"), degraded(photo="b", method="B", degenerate=True),
        ]
    )  # fmt: skip
    table = summary(records)
    assert table["photos"].to_dict() == {"A": 2, "B": 2}
    assert table["skipped"].to_dict() == {"A": 2, "B": 0}  # from another file, say
    assert table["degenerate"].to_dict() == {"A": 1, "B": 1}
    assert "True" not in table.to_string()  # a count, also where it is one
    assert "skipped" not in summary(records[records["skipped"].isna()])


def test_photos_of_which_none_can_be_read_are_refused() -> None:
    records = pd.DataFrame([skipped(photo, method) for photo in "xy" for method in "AB"])
    for function in (scores, summary, intervals, per_sample):
        with pytest.raises(TTameError, match=r"none of the 2 photos could be read.*x is empty"):
            function(records)


# Curves


def test_curves_by_hand() -> None:
    records = pd.DataFrame([degraded(), degraded(photo="b", road_morf=[0.5] * 7)])
    long = curves(records, "ROAD")
    assert list(long.columns) == ["photo", "method", "curve", "share", "probability", "kept"]
    assert len(long) == 2 * 2 * 7
    morf = long[(long["photo"] == "a") & (long["curve"] == "MoRF")]
    assert morf["share"].tolist() == [10, 20, 30, 40, 50, 70, 90]
    assert morf["probability"].tolist() == pytest.approx([70, 50, 30, 30, 10, 0, 20])
    assert morf["kept"].tolist() == [100, 100, 0, 0, 0, 0, 0]
    lerf = long[(long["photo"] == "b") & (long["curve"] == "LeRF")]
    assert lerf["probability"].tolist() == pytest.approx([80, 80, 80, 80, 80, 40, 0])
    assert lerf["kept"].tolist() == [100] * 6 + [0]

    long = curves(records, "insertion/deletion")
    assert list(long.columns) == ["photo", "method", "curve", "share", "probability"]
    insertion = long[(long["photo"] == "b") & (long["curve"] == "insertion")]
    assert insertion["share"].tolist() == [0, 25, 50, 75, 100]
    assert insertion["probability"].tolist() == pytest.approx([10, 30, 70, 90, 80])
    assert set(long["curve"]) == {"insertion", "deletion"}


def test_curves_that_were_not_measured_are_refused(small: Path) -> None:
    records = read_results(small)[1]
    with pytest.raises(TTameError, match=r"no ROAD; measure with metrics=\('AD/IC', 'ROAD'\)"):
        curves(records, "ROAD")
    with pytest.raises(TTameError, match="no insertion/deletion"):
        curves(records, "insertion/deletion")
    with pytest.raises(TTameError, match="'road'; expected one of ROAD, insertion/deletion"):
        curves(records, "road")


# Intervals


def drops(method: str, masked: list[float]) -> list[dict[str, Any]]:
    """Records whose drops are 100 - 100·masked percent."""
    return [
        {"photo": str(i), "method": method, "probability": 1.0, "masked_100": value}
        for i, value in enumerate(masked)
    ]


def test_intervals_of_equal_photos_have_no_width() -> None:
    table = intervals(pd.DataFrame(drops("A", [0.25] * 5))).set_index("score")
    assert list(table.columns) == ["method", "mean", "low", "high", "photos"]
    assert list(table.index) == ["AD 100%", "IC 100%", "AG 100%"]
    for name in ("mean", "low", "high"):
        assert table.loc["AD 100%", name] == pytest.approx(75)
        assert table.loc["IC 100%", name] == 0
    assert table["photos"].tolist() == [5] * 3


def test_intervals_are_those_of_a_bootstrap_over_photos() -> None:
    draw = random.Random(0)
    masked = [draw.random() for _ in range(50)]
    row = intervals(pd.DataFrame(drops("A", masked)), resamples=4000).iloc[0]
    means = sorted(
        sum(100 - 100 * value for value in draw.choices(masked, k=50)) / 50 for _ in range(4000)
    )
    assert row["mean"] == pytest.approx(100 - 100 * sum(masked) / 50)
    # The standard error is about 4; bounds of two such bootstraps differ by about 0.25.
    assert row["low"] == pytest.approx(means[100], abs=1)
    assert row["high"] == pytest.approx(means[3900], abs=1)
    assert 2 * 3 < row["high"] - row["low"] < 2 * 12


def test_intervals_of_one_seed_are_the_same() -> None:
    records = pd.DataFrame(drops("A", [0.1, 0.5, 0.7]) + drops("B", [0.2, 0.3, 0.9]))
    first = intervals(records, resamples=50)
    pd.testing.assert_frame_equal(first, intervals(records, resamples=50))
    assert not first.equals(intervals(records, resamples=50, seed=1))
    assert list(zip(first["method"], first["score"], strict=True))[:4] == [
        ("A", "AD 100%"), ("B", "AD 100%"), ("A", "IC 100%"), ("B", "IC 100%"),
    ]  # fmt: skip


# Summaries


def test_summary_by_hand(small: Path) -> None:
    table = summary(small)
    assert list(table.index) == ["B", "A"]  # as measured, not by the alphabet
    assert list(table.columns) == [
        "AD 100%", "AD 50%", "IC 100%", "IC 50%", "photos", "degenerate", "ms",
    ]  # fmt: skip
    assert table.loc["B"].tolist() == pytest.approx([52.5, 0, 0, 100, 2, 0, 20])
    assert table.loc["A"].tolist() == pytest.approx([0, 75, 50, 0, 2, 1, 3])
    pd.testing.assert_frame_equal(summary(read_results(small)[1]), table)


def test_summary_of_curves() -> None:
    table = summary(pd.DataFrame([degraded(), degraded(photo="b", forward=3.0, seconds=0.03)]))
    assert list(table.columns) == [
        "ROAD MoRF", "ROAD LeRF", "insertion", "deletion", "photos", "degenerate", "ms",
        "forward", "backward",
    ]  # fmt: skip
    expected = [100 * 15 / 80, 100 * 70 / 80, 58.75, 27.5, 2, 0, 20, 2, 0]
    assert table.loc["A"].tolist() == pytest.approx(expected)


def test_tables_are_written_whole(tmp_path: Path) -> None:
    table = pd.DataFrame({"method": ["A"], "mean": [1.5]})
    assert write_table(table, tmp_path / "t.csv") == tmp_path / "t.csv"
    assert (tmp_path / "t.csv").read_text() == "method,mean\nA,1.5\n"
    assert [path.name for path in tmp_path.iterdir()] == ["t.csv"]


# Several files


def test_files_of_the_same_configuration_are_joined(tmp_path: Path) -> None:
    first = write(tmp_path / "a.jsonl", drops("A", [0.1, 0.2]), batch_size=16, methods=["A"])
    second = write(
        tmp_path / "b.jsonl", drops("B", [0.3, 0.4]), batch_size=8, methods=["B"],
        digests=["c", "another mechanism"], settings={"B": {"masks": 4}},
    )  # fmt: skip
    headers, records = read_together(first, second)
    assert [header["config"]["methods"] for header in headers] == [["A"], ["B"]]
    assert list(records["method"]) == ["A", "A", "B", "B"] and list(records.index) == [0, 1, 2, 3]
    drop = intervals(records).query("score == 'AD 100%'")
    assert drop["mean"].tolist() == pytest.approx([85, 65])
    headers, records = read_together(first)
    assert len(headers) == 1 and len(records) == 2


def test_files_of_different_photos_are_joined(tmp_path: Path) -> None:
    first = write(tmp_path / "a.jsonl", drops("A", [0.1, 0.2]))
    second = write(tmp_path / "b.jsonl", [{**drops("A", [0.3])[0], "photo": "z"}])
    assert list(read_together(first, second)[1]["photo"]) == ["0", "1", "z"]


@pytest.mark.parametrize(
    ("key", "value"),
    [
        ("backbone", "other"), ("space", "normalized"), ("cam_layer", "features"),
        ("data", "samples"), ("metrics", ["AD/IC", "ROAD"]), ("percentages", [100]),
        ("steps", 5), ("seed", 1), ("size", [128, 128]),
    ],
)  # fmt: skip
def test_files_of_another_configuration_are_refused(tmp_path: Path, key: str, value: Any) -> None:
    first = write(tmp_path / "a.jsonl", drops("A", [0.1]))
    second = write(tmp_path / "b.jsonl", drops("B", [0.1]), **{key: value})
    with pytest.raises(TTameError, match=rf"b\.jsonl' has {key}=.*a\.jsonl' has .*cannot be mixed"):
        read_together(first, second)


def test_files_of_another_classifier_or_the_same_method_are_refused(tmp_path: Path) -> None:
    first = write(tmp_path / "a.jsonl", drops("A", [0.1]))
    other = write(tmp_path / "b.jsonl", drops("B", [0.1]), digests=["other", "m"])
    with pytest.raises(TTameError, match=r"b\.jsonl.*a\.jsonl.*different classifiers"):
        read_together(first, other)
    again = write(tmp_path / "c.jsonl", drops("B", [0.1]) + drops("A", [0.2]))
    with pytest.raises(TTameError, match="'A' is in more than one"):
        read_together(first, again)
    with pytest.raises(TTameError, match=r"none\.jsonl.*does not exist"):
        read_together(first, tmp_path / "none.jsonl")
