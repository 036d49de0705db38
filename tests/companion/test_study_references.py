"""References of studies, and what the chapters on ablations say in words, held against records."""

from __future__ import annotations

from functools import cache

import pandas as pd
import pytest

from ttame.companion.shipped import reference
from ttame.companion.studies.records import read_runs
from ttame.companion.studies.references import REFERENCES, read_references, top1
from ttame.companion.studies.study import read_study
from ttame.companion.studies.tables import run_scores
from ttame.companion.studies.verdicts import check_claims, ranking
from ttame.errors import TTameError
from ttame.files import shipped
from ttame.records import read_results

SIZE = "size128_val.jsonl"


@cache
def ablations() -> pd.DataFrame:
    return read_runs(shipped("results") / "ablations")


@cache
def ranked() -> pd.DataFrame:
    long = run_scores(ablations())
    study = read_study(shipped("studies") / "ablations.toml")
    table = ranking(long[long["percentage"] < 100], study, resamples=1000)
    return table.set_index(["axis", "variant"])


def test_references_saw_the_photos_of_the_study() -> None:
    photos = set(ablations()["photo"])
    found = read_references([SIZE], photos)
    assert list(dict.fromkeys(found["method"])) == list(REFERENCES)
    assert set(found["photo"]) == photos
    assert set(found["score"]) == {f"{name} {share}%" for name in ("AD", "IC")
                                   for share in (100, 50, 15)}  # fmt: skip
    ones = found[(found["method"] == "all ones") & (found["score"] == "AD 100%")]
    assert ones["value"].abs().max() == 0
    header = read_results(reference(SIZE))[0]
    assert header["config"]["size"] == [128, 128]
    one = next(iter(photos))
    assert set(read_references([SIZE], [one])["photo"]) == {one}
    with pytest.raises(TTameError, match=r"'Grad-CAM' was measured on 500 of the study's 501"):
        read_references([SIZE], photos | {"another"})


def test_top1_counts_predictions_of_the_folders_class() -> None:
    photos = pd.Series(["n01440764/a.JPEG", "n01440764/b.JPEG", "n03445777/c.JPEG"])
    assert top1(pd.Series([0, 1, 574]), photos) == pytest.approx(200 / 3)  # tench, goldfish, golf
    with pytest.raises(TTameError, match=r"'photos/x.jpg' lies in no folder"):
        top1(pd.Series([0]), pd.Series(["photos/x.jpg"]))


# Words of the chapters: axis, variant, and the verdict that the text speaks of.
WORDS = [
    ("architecture", "no skip connection", "better"),
    ("architecture", "no skip connection, no batch norm", "better"),
    ("architecture", "no skip connection, as wide as classes", "better"),
    ("architecture", "sigmoid in the branch", "better"),
    ("architecture", "no batch norm", "open"),
    ("layers", "one", "better"),
    ("layers", "three, one downsampling earlier", "worse"),
    ("layers", "three, right after downsampling", "worse"),
    ("resolution", "of the smallest map", "better"),
    ("inference map", "after the sigmoid", "better"),
    ("transformer layers", "outputs of three blocks", "worse"),
    ("transformer layers", "input norms of two blocks", "worse"),
    ("transformer layers", "input norm of one block", "worse"),
    ("transformer branches", "self-attention", "open"),
    ("class token", "multiplied", "worse"),
    ("loss terms", "no variation", "worse"),
    ("loss terms", "cross-entropy only", "worse"),
    ("loss terms", "no area", "open"),
    ("weight of the cross-entropy", "0.15", "worse"),
    ("weight of the cross-entropy", "15", "worse"),
    ("weight of the area", "20", "worse"),
    ("weight of the area", "0.2", "open"),
    ("weight of the variation", "0.1", "better"),
    ("area exponent", "0.5", "open"),
    ("area exponent", "1", "open"),
    ("regularised maps", "of the photo's own label", "worse"),
    ("labels", "ground truth", "open"),
    ("masking space", "trained normalised, measured raw", "worse"),
    ("masking space", "trained raw, measured raw", "worse"),
    ("masking space", "trained raw, measured normalised", "open"),
    ("start of the fusion", "free rows, from the classifier", "better"),
    ("start of the fusion", "tied rows, from the classifier", "better"),
    ("training length", "400 steps", "better"),
    ("training length", "25 steps", "worse"),
]


@pytest.mark.parametrize(("axis", "variant", "verdict"), WORDS)
def test_words_of_the_chapters_are_true(axis: str, variant: str, verdict: str) -> None:
    assert ranked().loc[(axis, variant), "verdict"] == verdict


def test_no_remark_is_confirmed() -> None:
    long = run_scores(ablations())
    study = read_study(shipped("studies") / "ablations.toml")
    found = check_claims(long[long["percentage"] < 100], study)
    assert set(found["verdict"]) == {"disagrees", "open"}


def test_largest_lever_and_flattening_gains() -> None:
    gains = ranked()["difference"]
    assert set(gains.nlargest(2).index.get_level_values("axis")) == {"start of the fusion"}
    steps = gains["training length"]
    assert steps["25 steps"] < steps["50 steps"] < 0 < steps["200 steps"] < steps["400 steps"]
    # Doubled again, the training gains less than before.
    assert steps["400 steps"] - steps["200 steps"] < steps["200 steps"]


def test_no_variant_is_ahead_of_gradcam() -> None:
    runs = ablations()
    small = run_scores(runs[~runs["changes"].str.contains("vit_imagenette")])
    camera = read_references([SIZE], set(runs["photo"]), ["Grad-CAM"]).groupby("score")["value"]
    for score in ("AD 50%", "IC 50%"):
        means = small[small["score"] == score].groupby("method")["value"].mean()
        best = means.min() if score.startswith("AD") else -means.max()
        assert best > (1 if score.startswith("AD") else -1) * camera.mean()[score]


def test_classifier_is_weaker_on_small_photos() -> None:
    run = ablations()[lambda table: table["run"] == "nothing_seed0"]
    large = read_results(reference("imagenette_val.jsonl"))[1]
    assert set(run["photo"]) == set(large["photo"])
    assert top1(run["target"], run["photo"]) < top1(large["target"], large["photo"]) - 10
