"""The front page's claims: every comparison in words, computed anew from the records."""

from __future__ import annotations

import gzip
import json
import re
from pathlib import Path
from statistics import fmean
from typing import Any

import pandas as pd
import torch
import yaml

import ttame
from ttame.companion.claims import claims
from ttame.companion.shipped import reference
from ttame.companion.studies.records import read_runs
from ttame.companion.studies.study import read_study
from ttame.companion.studies.tables import axis_runs, mean_scores, run_scores
from ttame.data import samples
from ttame.evaluation.comparison import paired_differences
from ttame.evaluation.diagnosis import WHOLE
from ttame.evaluation.tables import scores
from ttame.files import shipped
from ttame.images import normalize
from ttame.masking import normalize_maps
from ttame.records import read_results

ROOT = Path(__file__).resolve().parents[2]


def rows(name: str, method: str) -> dict[str, dict[str, Any]]:
    """The records of one method by photo, read without the library."""
    path = reference(name)
    with gzip.open(path, "rt", encoding="utf-8") if path.suffix == ".gz" else path.open() as lines:
        found = [json.loads(line) for line in lines]
    return {row["photo"]: row for row in found if row.get("method") == method}


def drop(row: dict[str, Any]) -> float:
    return 100 * max(row["probability"] - row["masked_15"], 0) / row["probability"]


def ahead(score: str, winner: str, *files: str, other: str) -> bool:
    """Whether the interval of the paired difference leaves zero out."""
    found = [
        pd.DataFrame([row for method in (winner, other) for row in rows(file, method).values()])
        for file in files
    ]
    long = scores(pd.concat(found, ignore_index=True))
    table = paired_differences(long, winner, resamples=500).set_index("score")
    return bool(table.loc[score, "verdict"] == "better")


def test_one_pass_against_hundreds() -> None:
    own, slow = rows("imagenette_val.jsonl", "T-TAME"), []
    assert {(row["forward"], row["backward"]) for row in own.values()} == {(1, 0)}
    for name, kind in (("Score-CAM", "score"), ("RISE", "rise")):
        found = rows(f"imagenette_val_{kind}.jsonl", name).values()
        slow.append(round(fmean(row["forward"] + row["backward"] for row in found)))
    assert f"takes 1 forward pass of the classifier, the one that makes the prediction. Score-CAM "\
        f"takes {slow[0]}, RISE {slow[1]}." in claims()  # fmt: skip
    assert min(slow) > 100


def test_less_of_the_probability_is_lost_than_by_grad_cam_on_known_and_new_kinds() -> None:
    pairs = [
        (rows(f"{data}.jsonl", "T-TAME"), rows(f"{data}_cam.jsonl", "Grad-CAM"))
        for data in ("imagenette_val", "kinds_val")
    ]
    for own, other in pairs:
        assert own.keys() == other.keys()
    means = [fmean(map(drop, found.values())) for pair in pairs for found in pair]
    text = claims()
    for mean in means:
        assert f"{mean:.1f}" in text.split("\n")[1]
    assert f"({len(pairs[0][0])} photos of Imagenette)" in text
    for data in ("imagenette_val", "kinds_val"):
        files = (f"{data}.jsonl", f"{data}_cam.jsonl")
        assert ahead("AD 15%", "T-TAME", *files, other="Grad-CAM")


def test_our_recipe_is_behind_in_mosaics_and_the_published_one_ahead() -> None:
    file = "every_metric/mosaics_imagenette.jsonl"
    names = ("T-TAME (published)", "Grad-CAM", "T-TAME")
    means = [fmean(row["grid_pointing"] for row in rows(file, name).values()) for name in names]
    scale = 1 if max(means) > 1 else 100
    found = re.findall(r"(\d+) %", claims().split("\n")[2])
    assert found == [f"{scale * mean:.0f}" for mean in means]
    assert ahead("grid pointing", names[0], file, other=names[1])
    assert ahead("grid pointing", names[1], file, other=names[2])


def test_every_claim_links_to_a_proof_that_exists() -> None:
    config = yaml.safe_load((ROOT / "_config.yml").read_text(encoding="utf-8"))
    # Without it the page's links to chapters are left as they stand, and lead nowhere.
    assert config["sphinx"]["config"]["nb_render_markdown_format"] == "myst"
    online = f"{config['repository']['url']}/blob/{config['repository']['branch']}/"
    for line in claims().split("\n"):
        (link,) = re.findall(r"\[Proof: [^]]+\]\(([^)]+)\)", line)
        name = link.removeprefix(online) if link.startswith("http") else f"notebooks/{link}"
        assert (ROOT / name).is_file(), link


@torch.inference_mode()
def test_what_the_caption_says_of_the_three_photos_is_so() -> None:
    path = {path.stem: path for path in samples().paths}
    explainer = ttame.load("tf_efficientnet_lite0")
    found = explainer.explain(
        [path[n] for n in ("german_shepherd", "giant_panda", "scarlet_macaw")]
    )
    masked = explainer.spec.mask(
        normalize(found.images, explainer.spec), normalize_maps(found.maps), 0.15
    )
    answers = explainer.classifier(masked)
    assert (answers.argmax(dim=1) == found.targets[:, 0]).tolist() == [True, True, False]


def test_the_deepest_layer_makes_the_map() -> None:
    """What the chapter on the mechanism says of the layers of the published explainer."""
    _, records = read_results(reference("diagnosis_published.jsonl"))
    table = paired_differences(scores(records), WHOLE, resamples=1000)
    verdicts = table.set_index(["against", "score"])["verdict"]
    drops = [f"AD {share}%" for share in (100, 50, 15)]
    assert set(verdicts["without blocks.6"][drops]) == {"better"}
    for shallow in ("blocks.2", "blocks.4"):
        assert set(verdicts[f"without {shallow}"][drops]) == {"open"}
        assert set(verdicts[f"only {shallow}"][drops]) == {"better"}
    assert verdicts["only blocks.6", "AD 100%"] == "better"


def test_a_hundred_photos_do_as_well_as_thousands() -> None:
    """And what else the chapter on little data says in words."""
    study = read_study(shipped("studies") / "little_data.toml")
    long = run_scores(read_runs(shipped("results") / "little_data"))
    photos = paired_differences(
        axis_runs(long[long["seed"] == 0], study.variants, "photos"), "9,469 photos", resamples=1000
    )
    assert set(photos["verdict"]) == {"open"}
    means = mean_scores(long)
    rates = means.loc[["learning_rate=0.001", "learning_rate=5e-05"]] - means.loc["nothing"]
    averaged = means.loc["reduction='paper'"] - means.loc["nothing"]
    assert rates.abs().max().max() > 2 * averaged.abs().max()


def test_one_layer_is_enough() -> None:
    """The deepest layer alone is not told apart from three in any AD or IC by much."""
    for one, three in (
        ("imagenette_val", "recipe_layers"), ("kinds_val", "recipe_layers_kinds"),
    ):  # fmt: skip
        found = [
            scores(records[records["method"] == "T-TAME"]).assign(method=name)
            for name in (one, three)
            for records in [read_results(reference(f"{name}.jsonl"))[1]]
        ]
        table = paired_differences(pd.concat(found), one, resamples=1000)
        masked = table[table["score"].str.startswith(("AD", "IC"))]
        assert "worse" not in set(masked["verdict"])
