"""The headline tables on small tables, and every comparison that the book quotes from them."""

from __future__ import annotations

from dataclasses import replace
from functools import cache

import pandas as pd
import pytest

from ttame.companion.headline import (
    MEASURES,
    SCORES,
    SETS,
    Comparison,
    Photos,
    common_photos,
    headline,
    read_comparison,
    worth_showing,
)
from ttame.companion.shipped import reference
from ttame.errors import TTameError
from ttame.evaluation.agreement import BLIND, blind_margins, rank_agreement, unwinnable
from ttame.evaluation.comparison import paired_differences
from ttame.evaluation.tables import intervals, read_together, scores
from ttame.files import shipped
from ttame.records import read_results


@cache
def margins(photos: Photos) -> pd.DataFrame:
    return blind_margins(read_comparison(photos).complete())


@cache
def correlations(photos: Photos) -> pd.DataFrame:
    long = read_comparison(photos).complete()
    return rank_agreement(long[~long["method"].isin(BLIND)]).set_index(["first", "second"])


def records_of(name: str) -> pd.DataFrame:
    (path,) = (shipped("results") / "every_metric").glob(f"{name}*")  # perhaps compressed
    return read_results(path)[1]


def comparison(values: dict[str, dict[str, float]]) -> Comparison:
    rows = [
        {"photo": "0", "method": method, "score": score, "value": value}
        for method, scores in values.items()
        for score, value in scores.items()
    ]
    passes = pd.DataFrame({"forward": 1.0, "backward": 0.0}, index=list(values)[:-1])
    return Comparison({}, pd.DataFrame(rows), passes)


def test_methods_are_ordered_by_their_mean_rank_over_the_measures() -> None:
    found = comparison(
        {
            "T-TAME": {"SDS": 2.0, "SaCo": 1.0, "AD 100%": 0.0},
            "a": {"SDS": 3.0, "SaCo": 3.0, "AD 100%": 99.0},
            "b": {"SDS": 1.0, "SaCo": 2.0},
            "c": {"SDS": 0.0},
            "all ones": {"SDS": 9.0, "SaCo": 9.0},
            "on mosaics alone": {"SDS": 9.0},
        }
    )
    table = headline(found)
    # Places from 0 to 1, of four by SDS and three by SaCo: a 0, 0; T-TAME 1/3, 1; b 2/3, 1/2; c 1.
    assert list(table.index) == ["a", "b", "T-TAME", "c"]
    assert list(table) == ["SDS", "SaCo", "forward", "backward"]
    assert list(worth_showing(table).index) == ["a", "b", "T-TAME"]


def test_means_are_of_the_photos_that_all_methods_saw() -> None:
    values = {"T-TAME": {"SDS": 1.0}, "a": {"SDS": 2.0}, "all ones": {"SDS": 0.0}}
    found = comparison(values | {"on mosaics alone": {}})
    more = found.long[found.long["method"] == "a"].assign(photo="1", value=100.0)
    table = headline(replace(found, long=pd.concat([found.long, more])))
    assert table["SDS"].to_dict() == {"a": 2, "T-TAME": 1}


def test_what_is_complete_has_the_photos_of_the_blind_maps() -> None:
    photos = {"random": "01", "T-TAME": "012", "short": "0", "other photos": "12"}
    rows = [(photo, method, "SDS", 1.0) for method, seen in photos.items() for photo in seen]
    rows += [("0", "random", "SaCo", 2.0), ("0", "short", "SaCo", 2.0), ("0", "short", "AD", 2.0)]
    long = pd.DataFrame(rows, columns=["photo", "method", "score", "value"])
    kept = Comparison({}, long, pd.DataFrame()).complete()
    assert set(kept[["photo", "method", "score"]].itertuples(index=False, name=None)) == {
        *((photo, method, "SDS") for photo in "01" for method in ("random", "T-TAME")),
        ("0", "random", "SaCo"),
        ("0", "short", "SaCo"),
    }


def test_unknown_photos_are_named() -> None:
    with pytest.raises(TTameError, match="unknown photos 'nowhere'; expected one of Imagenette"):
        read_comparison("nowhere")  # type: ignore[arg-type]


@pytest.mark.parametrize("photos", SETS)
def test_every_method_was_measured_on_the_photos_that_its_header_lists(photos: Photos) -> None:
    found = read_comparison(photos)
    assert set(found.long["score"]) | {"grid pointing"} == set(SCORES)
    for name, header in found.headers.items():
        records = records_of(name)
        if "photos" in header["config"]:
            assert list(records["photo"].unique()) == header["config"]["photos"]
            assert set(records["method"]) == set(header["config"]["methods"])
    assert common_photos(found) == (120 if photos == "transformer" else 160)


# What the README, the first page and chapter 6 say, computed anew.


def test_no_blind_map_wins_or_ties_a_measure_of_the_headline() -> None:
    safe = unwinnable(*map(margins, SETS))
    assert set(MEASURES) <= set(safe)
    assert {"AD 50%", "AD 15%", "IC 50%", "IC 15%", "ROAD MoRF"} <= set(safe)
    assert not {"AD 100%", "IC 100%", "ROAD LeRF", "deletion"} & set(safe)
    for photos in ("Imagenette", "other kinds"):  # "safe for EfficientNet-Lite0"
        assert (margins(photos).loc[["AD 50%", "AD 15%", "IC 50%", "IC 15%"], "behind"] <= 2).all()


@pytest.mark.parametrize("photos", SETS)
def test_all_ones_wins_average_drop_everywhere(photos: Photos) -> None:
    row = margins(photos).loc["AD 100%"]
    assert (row["blind"], row["rank"], row["verdict"]) == ("all ones", 1, "better")


def test_what_blind_maps_win_or_may_win() -> None:
    for photos in ("Imagenette", "other kinds"):
        table = margins(photos)
        assert table.loc["IC 100%", "blind"] == "Fake-CAM"
        assert table.loc["IC 100%", "behind"] == table.loc["IC 100%", "looking"] - 1
        assert tuple(table.loc["ROAD LeRF", ["blind", "rank"]]) == ("all ones", 1)
    kinds, vit = margins("other kinds"), margins("transformer")
    assert tuple(kinds.loc["deletion", ["blind", "verdict"]]) == ("Fake-CAM", "open")
    assert vit.loc["IC 100%", "behind"] == vit.loc["IC 100%", "looking"]
    for score in ("AD 50%", "AD 15%", "IC 50%", "IC 15%"):
        assert vit.loc[score, "blind"] == "centre Gaussian"
        assert vit.loc[score, "behind"] > vit.loc[score, "looking"] / 2


def test_what_agrees_with_what() -> None:
    table = correlations("Imagenette")
    assert table.loc[("AD 50%", "ROAD gap"), "correlation"] > 0.9
    for photos in SETS:
        assert correlations(photos).loc[("SDS", "SaCo"), "correlation"] > 0.8
        for share in (100, 50, 15):  # "say little of AD": less than of each other
            pair = correlations(photos).loc[[(f"AD {share}%", "SDS"), (f"AD {share}%", "SaCo")]]
            assert (pair["correlation"] < 0.65).all()
    pointing = table[table.index.get_level_values("second") == "grid pointing"]
    assert (pointing["low"] <= 0).all()  # "agrees with none of the others"


def test_what_is_said_of_t_tame_and_its_rivals() -> None:
    for photos in SETS:
        table = headline(read_comparison(photos))
        measures = [name for name in MEASURES if name in table]
        assert "T-TAME" not in set(table[measures].idxmax())
    mosaics = records_of("mosaics_imagenette.jsonl")
    assert mosaics["mosaic"].nunique() == 24
    found = intervals(mosaics).set_index(["method", "score"])["mean"]
    ours, published = found["T-TAME"], found["T-TAME (published)"]
    assert ours["grid pointing"] < 35 and ours["pointing"] > 95 and ours["energy"] > 45
    assert published["grid pointing"] > 90 and published["energy"] < 50
    for photos in ("Imagenette", "other kinds"):
        table = headline(read_comparison(photos))
        assert set(table[["SDS", "SaCo"]].idxmax()) == {"Occlusion"}


@pytest.mark.parametrize("photos", ["Imagenette", "other kinds"])
def test_t_tame_is_behind_no_class_activation_map_by_the_order_of_pixels(photos: Photos) -> None:
    """On all 500 photos, as the README says."""
    found = read_comparison(photos).long
    table = paired_differences(
        found[found["score"].isin(["ROAD MoRF", "ROAD LeRF", "insertion", "deletion"])]
    )
    whole = table[table["photos"] == 500]
    assert {
        "Grad-CAM", "Grad-CAM++", "XGrad-CAM", "Layer-CAM", "Eigen-CAM", "Finer-CAM",
        "Ablation-CAM", "L-CAM-Img", "L-CAM-Fm",
    } == set(whole["against"])  # fmt: skip
    assert "worse" not in set(whole["verdict"])
    assert (whole["verdict"] == "better").mean() > 0.5  # "ahead in most"


# What chapters 6 and 7 say of the transformer and of AD and IC.


def verdicts(*names: str) -> pd.DataFrame:
    long = scores(read_together(*(reference(f"{name}.jsonl") for name in names))[1])
    asked = [f"{score} {share}%" for score in ("AD", "IC") for share in (50, 15)]
    table = paired_differences(long[long["score"].isin(asked)])
    return table.pivot(index="against", columns="score", values="verdict")


def test_t_tame_leads_where_it_is_trained_and_not_elsewhere() -> None:
    home = verdicts("kinds_val", "kinds_val_published", "kinds_val_cam")
    others = home.drop(["T-TAME (refined)", "Grad-CAM (saturated)"])
    assert (others[["AD 50%", "AD 15%", "IC 50%"]] == "better").all(axis=None)
    found = read_comparison("other kinds")
    kept = found.long["score"].isin(["SDS", "SaCo"]) & ~found.long["method"].isin(BLIND)
    away = paired_differences(found.long[kept])
    for score in ("SDS", "SaCo"):
        assert (away.loc[away["score"] == score, "verdict"] == "worse").any()


def test_noise_hides_less_of_a_photo_from_a_transformer_than_gradcam_does() -> None:
    long = scores(read_results(reference("vit_imagenette_val.jsonl"))[1])
    means = long[long["score"] == "AD 50%"].groupby("method")["value"].mean()
    assert means["random"] < means["Grad-CAM"]


def test_transformer_is_led_by_attribution_where_t_tame_is_not_trained() -> None:
    found = read_comparison("transformer")
    kept = found.long["score"].isin(MEASURES) & ~found.long["method"].isin(BLIND)
    table = paired_differences(found.long[kept]).set_index(["against", "score"])["verdict"]
    assert set(table["Transformer attribution"]) == {"worse"}
    assert table["LeGrad", "SDS"] == table["LeGrad", "SaCo"] == "worse"
    home = verdicts(*(f"vit_imagenette_val{part}" for part in ("", "_ttame", "_rise")))
    assert set(home.loc["Transformer attribution"]) == {"better"}


def test_dropping_the_class_token_is_better() -> None:
    kept = read_results(reference("vit_imagenette_val_ttame.jsonl"))[1]
    multiplied = read_results(reference("vit_imagenette_val_cls.jsonl"))[1]
    both = pd.concat([kept[kept["method"] == "T-TAME"], multiplied.assign(method="multiplied")])
    long = scores(both)
    table = paired_differences(long[long["score"].isin(["AD 50%", "AD 15%", "IC 50%", "IC 15%"])])
    assert set(table["verdict"]) == {"better"}
