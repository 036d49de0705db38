"""The command line as a user meets it: real classifier, real photos, exit codes, no leftovers."""

from __future__ import annotations

import re
import shutil
import subprocess
import sys
from pathlib import Path
from typing import Any

import pandas as pd
import pytest
import timm
import torch
from PIL import Image
from typer.testing import CliRunner

import ttame
from ttame.cli.main import DEFAULT, app, main
from ttame.data import PhotoList, open_photos, samples
from ttame.errors import TTameError
from ttame.explainer import Explainer
from ttame.files import replacing, shipped
from ttame.methods import METHODS, Method
from ttame.records import read_results

CAT = shipped("samples") / "cat.jpg"


def run(*arguments: str) -> str:
    result = CliRunner().invoke(app, list(arguments), catch_exceptions=False)
    assert result.exit_code == 0, result.output
    return result.output


def test_explain_names_classes_and_writes_overlays(tmp_path: Path) -> None:
    output = run("explain", str(CAT), "--out", str(tmp_path / "out"), "--top-k", "2")
    assert "Egyptian cat" in output and "%" in output
    written = sorted(path.name for path in (tmp_path / "out").iterdir())
    assert len(written) == 2 and "cat.egyptian_cat.png" in written
    with Image.open(tmp_path / "out" / "cat.egyptian_cat.png") as picture:
        assert picture.size == (224, 224) and picture.mode == "RGB"


def write_photos(*paths: Path) -> None:
    """Copy different sample photos to these paths."""
    for path, source in zip(paths, samples().paths, strict=False):
        path.parent.mkdir(parents=True, exist_ok=True)
        shutil.copy(source, path)


def test_photos_of_one_name_keep_their_pictures(tmp_path: Path) -> None:
    write_photos(tmp_path / "pets" / "cat.jpg", tmp_path / "zoo" / "cat.jpg", tmp_path / "a.jpg")
    output = run(
        "explain", str(tmp_path / "zoo"), str(tmp_path / "pets" / "*.jpg"),
        str(tmp_path / "a.jpg"), "--out", str(tmp_path / "out"), "--target", "134", "--target",
        "517",
    )  # fmt: skip
    assert sorted(path.name for path in (tmp_path / "out").iterdir()) == [
        f"{photo}.crane-{index}.png" for photo in ("a", "pets_cat", "zoo_cat")
        for index in (134, 517)
    ]  # fmt: skip
    assert "pets_cat.jpg" in output and "zoo_cat.jpg" in output


def test_overlays_of_whole_photos(tmp_path: Path) -> None:
    write_photos(tmp_path / "a.jpg")
    run("explain", str(tmp_path / "a.jpg"), "--out", str(tmp_path / "out"), "--on-photo")
    sizes = {Image.open(path).size for path in (tmp_path / "out").iterdir()}
    assert sizes == {Image.open(tmp_path / "a.jpg").size}


def test_a_large_job_is_written_as_it_goes(tmp_path: Path) -> None:
    write_photos(*(tmp_path / "in" / f"{index}.jpg" for index in range(5)))
    bad = tmp_path / "in" / "3.jpg"
    bad.write_bytes(bad.read_bytes()[:3000])
    arguments = [
        "explain", str(tmp_path / "in"), "--out", str(tmp_path / "out"), "--top-k", "1",
        "--batch-size", "2",
    ]  # fmt: skip
    result = CliRunner().invoke(app, arguments)
    assert isinstance(result.exception, TTameError)
    assert re.search(
        r"3\.jpg.*damaged.*overlays of 2 of 5 photos are in.*--skip-bad", str(result.exception)
    )
    written = sorted(path.name[0] for path in (tmp_path / "out").iterdir())
    assert written == ["0", "1"]
    assert "0.jpg" in result.output and "1.jpg" in result.output  # the table of what is done
    with pytest.warns(UserWarning, match=r"skipped: .*3\.jpg"):
        run(*arguments, "--skip-bad")
    written = sorted(path.name[0] for path in (tmp_path / "out").iterdir())
    assert written == ["0", "1", "2", "4"]


def test_what_is_left_out_is_one_line(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch, capsys: pytest.CaptureFixture[str]
) -> None:
    write_photos(tmp_path / "in" / "a.jpg", tmp_path / "in" / ".ipynb_checkpoints" / "b.jpg")
    (tmp_path / "in" / "notes.txt").write_text("no photo")
    arguments = ["explain", str(tmp_path / "in"), "--out", str(tmp_path / "out")]
    monkeypatch.setattr(sys, "argv", ["ttame", *arguments])
    with pytest.raises(SystemExit) as caught:
        main()
    assert caught.value.code == 0
    assert capsys.readouterr().err.splitlines() == [
        f"note: {str(tmp_path / 'in')!r}: 1 photos read; left out: 1 .txt, 1 in .ipynb_checkpoints"
    ]


def test_any_class_on_request_by_name_or_index(tmp_path: Path) -> None:
    output = run(
        "explain", str(CAT), "--out", str(tmp_path), "--target", "tabby", "--target", "217"
    )
    assert "tabby" in output and "English springer" in output
    assert len(list(tmp_path.iterdir())) == 2


def test_photos_of_a_page_are_explained_once(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    calls, explain = [], Explainer.explain

    def counted(self: Explainer, images: Any, *rest: Any, **named: Any) -> Any:
        calls.extend(images)
        return explain(self, images, *rest, **named)

    monkeypatch.setattr(Explainer, "explain", counted)
    photos = [CAT, shipped("samples") / "coffee.jpg"]
    page, out = tmp_path / "page.html", tmp_path / "out"
    output = run("explain", *map(str, photos), "--out", str(out), "--html", str(page))
    assert calls == photos and page.is_file()
    assert len(list(out.glob("cat.*.png"))) == len(list(out.glob("coffee.*.png"))) == 3
    assert "Egyptian cat" in output and "interactive page" in output


def test_layers_lists_and_marks(tmp_path: Path) -> None:
    output = run("layers")
    assert "blocks.4" in output and "14x14" in output
    assert "2x4" in run("layers", "timm/resnet10t", "--height", "64", "--width", "128")
    # One side gives a square: 96 / 32 cells.
    assert "3x3" in run("layers", "timm/resnet10t", "--width", "96")


@pytest.mark.parametrize(
    ("arguments", "reason"),
    [
        (["explain", "none.jpg"], "none.jpg"),
        (["explain", str(CAT), "--target", "tabbby"], "tabby"),
        (["explain", str(CAT), "--target", "1000"], "0..999"),
        (["explain", str(CAT), "--explainer", "tf_efficientnet_lite9"], "tf_efficientnet_lite0"),
        (["explain", str(CAT), "--explainer", "none.safetensors"], "does not exist"),
        (["layers", "resnet51"], "resnet50"),
        (["train", "--out", "run", "--recipe", "best"], "published"),
        (["train", "--out", "run", "--layer", "blocks.44"], "blocks.4"),
        (["train", "--out", "run", "--recipe", "ptame"], "needs an auxiliary network: --features"),
        (["train", "--out", "run", "--features", "resnet51"], "resnet50"),
        (
            [
                "train",
                "--out",
                "run",
                "--backbone",
                "vit_imagenette",
                "--recipe",
                "linear",
                "--features",
                DEFAULT,
                "--data",
                "imagenette",
                "--validation",
                "0",
            ],
            "feature maps are those of tf_efficientnet_lite0; use init='surrogate'",
        ),
        (["evaluate", "--out", "r.jsonl", "--methods", "Grad-CAMM", "--limit", "1"], "Grad-CAM"),
        (["evaluate", "--out", "r.jsonl", "--metrics", "AD", "--limit", "1"], "AD/IC"),
        (["evaluate", "--out", "r.jsonl", "--batch-size", "0", "--limit", "1"], "batch_size=0"),
        (
            ["evaluate", "--out", "r.jsonl", "--metrics", "SDS", "--grid", "5", "--limit", "1"],
            "5x5 does not divide images of 224x224",
        ),
        (["mosaics", "--out", "r.jsonl", "--methods", "all ones", "--limit", "1"], "of 1 photos"),
        (["mosaics", "--out", "r.jsonl", "--threshold", "2", "--limit", "1"], "(0, 1], got 2"),
        (["evaluate", "--out", "r.jsonl", "--limit", "0"], "limit must be positive"),
        (["evaluate", "--out", "r.jsonl", "--data", "nowhere"], "'nowhere'"),
        (["evaluate", "--out", "r.jsonl", "--explainer", "none"], "--backbone"),
        (["evaluate", "--out", "r.jsonl", "--size", "128"], "size 128 was given with"),
        (
            [
                "evaluate",
                "--out",
                "r.jsonl",
                "--explainer",
                "tf_efficientnet_lite0",
                "--backbone",
                "resnet50",
            ],
            "belongs to tf_efficientnet_lite0, not to 'resnet50'",
        ),
        (["explain", str(CAT), "none.jpg"], "'none.jpg' does not exist"),
        (["explain", str(CAT), "none/*.jpg"], "'none/*.jpg'"),
        (["explain", str(CAT), "--batch-size", "0"], "batch_size must be at least 1"),
        (["explain", str(CAT), "--html", "x.html", "--skip-bad"], "does not go with --html"),
        (["data", "cifar"], "imagenette"),
    ],
)
def test_bad_input_is_one_clear_error(
    arguments: list[str],
    reason: str,
    tmp_path: Path,
    monkeypatch: pytest.MonkeyPatch,
    capsys: pytest.CaptureFixture[str],
) -> None:
    from tests.helpers.photos import photo
    from ttame.classifiers.classes import IMAGENETTE

    for split in ("train", "val"):
        for wnid in IMAGENETTE:
            photo(tmp_path / "photos" / "imagenette" / split / wnid / "1.png")
    monkeypatch.setenv("TTAME_DATA", str(tmp_path / "photos"))
    (tmp_path / "here").mkdir()
    monkeypatch.chdir(tmp_path / "here")
    monkeypatch.setattr(sys, "argv", ["ttame", *arguments])
    with pytest.raises(SystemExit) as caught:
        main()
    assert caught.value.code == 2
    error = " ".join(capsys.readouterr().err.split())
    assert error.startswith("error:") and reason in error
    assert "Traceback" not in error
    assert list((tmp_path / "here").iterdir()) == []


@pytest.fixture
def folder(tmp_path: Path) -> Path:
    """Three photos, the last in order of measuring cut short, and a note."""
    folder = tmp_path / "my photos"
    folder.mkdir()
    for name in ("cat", "crab", "hens"):
        shutil.copy(shipped("samples") / f"{name}.jpg", folder)
    (folder / "notes.txt").write_text("not a photo")
    last = open_photos(str(folder)).sample(None).paths[-1]
    last.write_bytes(last.read_bytes()[:3000])
    return folder


def no_method(explainer: Explainer) -> Method:
    raise TTameError(f"it is not for {explainer.spec.name}")


def test_evaluating_a_backbone_without_an_explainer(
    folder: Path, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    some = {name: METHODS[name] for name in ("T-TAME", "Grad-CAM", "all ones")}
    monkeypatch.setattr("ttame.methods.METHODS", {**some, "strange": no_method})
    out = tmp_path / "out" / "r.jsonl"
    arguments = [
        "evaluate", "--out", str(out), "--explainer", "none", "--backbone", DEFAULT,
        "--methods", "all", "--data", str(folder), "--batch-size", "2",
    ]  # fmt: skip
    bad = open_photos(str(folder)).sample(None).names[-1]
    with pytest.raises(TTameError, match=f"{bad}.*--skip-bad"):
        run(*arguments)
    assert [path.name for path in out.parent.iterdir()] == ["r.jsonl.partial"]
    kept = out.with_name("r.jsonl.partial").read_text(encoding="utf-8")

    output = " ".join(run(*arguments, "--skip-bad").split())
    assert f"left out: strange (it is not for {DEFAULT})" in output
    assert "left out: T-TAME (the explainer is not trained)" in output
    assert "skipped" in output and "AD 50%" in output and "Grad-CAM" in output
    assert sorted(path.name for path in out.parent.iterdir()) == ["r.jsonl", "r.summary.csv"]
    assert out.read_text(encoding="utf-8").startswith(kept)  # it went on
    header, records = read_results(out)
    assert header["config"]["data"] == "my photos" and header["config"]["backbone"] == DEFAULT
    assert list(records["method"]) == ["Grad-CAM", "all ones"] * 3
    assert records["skipped"].notna().tolist() == [False] * 4 + [True] * 2
    written = pd.read_csv(out.with_name("r.summary.csv"))
    assert list(written.columns) == ["method", "score", "mean", "low", "high", "photos"]
    assert set(written["method"]) == {"Grad-CAM", "all ones"}
    assert set(written["score"]) >= {"AD 100%", "IC 50%", "AG 15%"}
    assert (written["photos"] == 2).all()
    ones = written.set_index(["method", "score"]).loc[("all ones", "AD 100%")]
    assert ones[["mean", "low", "high"]].tolist() == [0, 0, 0]

    before = out.read_bytes()
    with pytest.raises(TTameError, match="exists already"):
        run(*arguments, "--skip-bad")
    assert out.read_bytes() == before


def test_evaluating_with_all_metrics_and_masks(
    explainer: Explainer, photos: PhotoList, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    opened: list[tuple[str, str | None]] = []

    def toy(name: str, backbone: str | None, _: None, __: None) -> tuple[Explainer, bool]:
        opened.append((name, backbone))
        return explainer, True

    monkeypatch.setattr("ttame.loading.open_explainer", toy)
    out = tmp_path / "r.jsonl"
    arguments = ["evaluate", "--out", str(out), "--data", str(photos.root), "--limit", "2"]
    output = run(*arguments, "--methods", "RISE, random", "--metrics", "all", "--rise-masks", "6")
    assert opened == [(DEFAULT, None)]
    assert "left out" not in output and "skipped" not in output
    for column in ("AD 100%", "ROAD MoRF", "insertion", "deletion", "SDS", "SaCo", "forward"):
        assert column in output
    header, records = read_results(out)
    every = ["AD/IC", "ROAD", "insertion/deletion", "SDS", "SaCo"]
    assert header["config"]["metrics"] == every
    assert header["config"]["settings"] == {"RISE": {"masks": 6}}
    assert list(records["method"]) == ["RISE", "random"] * 2
    assert list(dict.fromkeys(records["photo"])) == list(photos.sample(2).names)
    assert records["forward"].tolist() == [6, 0] * 2
    scores = set(pd.read_csv(tmp_path / "r.summary.csv")["score"])
    assert {"ROAD MoRF", "ROAD LeRF probability", "insertion", "deletion"} < scores

    out.unlink()
    run(*arguments, "--methods", "random", "--metrics", "insertion/deletion", "--backbone", "mine")
    assert opened[-1] == ("mine", "mine")
    header, records = read_results(out)
    assert header["config"]["settings"] == {} and "masked_100" not in records
    assert "road_morf" not in records and "insertion" in records


def test_one_bad_photo_among_good_ones_writes_nothing(tmp_path: Path) -> None:
    bad = tmp_path / "bad.jpg"
    bad.write_bytes(CAT.read_bytes()[:3000])
    with pytest.raises(TTameError, match=r"bad\.jpg"):
        CliRunner().invoke(
            app, ["explain", str(CAT), str(bad), "--out", str(tmp_path / "out")],
            catch_exceptions=False,
        )  # fmt: skip
    assert not (tmp_path / "out").exists()


def test_full_disk_leaves_the_old_file(tmp_path: Path) -> None:
    target = tmp_path / "result.txt"
    target.write_text("old")
    with pytest.raises(TTameError, match="No space left"), replacing(target) as temporary:
        temporary.write_text("half")
        raise OSError(28, "No space left on device")
    assert target.read_text() == "old"
    assert [path.name for path in tmp_path.iterdir()] == ["result.txt"]


def test_interrupt_leaves_no_half_written_file(tmp_path: Path) -> None:
    with pytest.raises(KeyboardInterrupt), replacing(tmp_path / "x.png") as temporary:
        temporary.write_bytes(b"half")
        raise KeyboardInterrupt
    assert list(tmp_path.iterdir()) == []


def test_unwritable_folder_is_named(tmp_path: Path) -> None:
    (tmp_path / "file").write_text("")
    with pytest.raises(TTameError, match="cannot write"), replacing(tmp_path / "file" / "x.png"):
        pass


def test_installed_command_fails_without_a_traceback(tmp_path: Path) -> None:
    """As a shell sees it: exit code and standard error of the real entry point."""
    done = subprocess.run(
        [str(Path(sys.executable).with_name("ttame")), "explain", "none.jpg"],
        cwd=tmp_path, capture_output=True, text=True, check=False,
    )  # fmt: skip
    assert done.returncode == 2
    assert "none.jpg" in done.stderr and "Traceback" not in done.stderr


@pytest.mark.slow
def test_diagnose_shows_shares_and_costs_of_every_layer(tmp_path: Path) -> None:
    out = tmp_path / "layers.jsonl"
    read = ["--explainer", "tf_efficientnet_lite0_layers", "--data", "samples", "--limit", "2"]
    output = run("diagnose", "--out", str(out), *read)
    layers = pd.read_csv(out.with_suffix(".layers.csv"))
    costs = pd.read_csv(out.with_suffix(".costs.csv"))
    assert list(layers["layer"]) == ["blocks.2", "blocks.4", "blocks.6"]
    assert {f"{how} {name}" for how in ("without", "only") for name in layers["layer"]} == set(
        costs["against"]
    )
    assert "blocks.6" in output and out.is_file()


@pytest.mark.slow
def test_mosaics_show_scores_beside_their_chance(tmp_path: Path) -> None:
    out = tmp_path / "mosaics.jsonl"
    output = run(
        "mosaics", "--out", str(out), "--data", "samples", "--methods", "T-TAME,all ones",
        "--count", "1", "--threshold", "0.2",
    )  # fmt: skip
    assert "chance: 25.00 %" in output and "grid pointing" in output
    records = read_results(out)[1]
    assert len(records) == 8 and records["target"].nunique() == 4
    means = pd.read_csv(out.with_suffix(".summary.csv")).set_index(["method", "score"])["mean"]
    assert means["all ones", "grid pointing"] == pytest.approx(25)


def test_an_explainer_goes_with_the_weights_it_was_made_for(tmp_path: Path) -> None:
    """A head for three classes, saved as a trainer saves it; three commands read it."""
    model = timm.create_model("resnet10t", num_classes=3)
    weights = tmp_path / "last.ckpt"
    torch.save({"state_dict": {f"model.{k}": v for k, v in model.state_dict().items()}}, weights)
    made = ttame.attach("timm/resnet10t", weights=weights, classes={0: "ant", 1: "bee", 2: "cat"})
    path = made.save(tmp_path / "mine.safetensors")
    cat = shipped("samples") / "cat.jpg"
    own = ["--explainer", str(path), "--weights", str(weights)]
    output = run("explain", str(cat), "--out", str(tmp_path / "maps"), *own)
    assert all(name in output for name in ("ant", "bee", "cat"))
    (tmp_path / "photos").mkdir()
    shutil.copy(cat, tmp_path / "photos")
    photos = ["--data", str(tmp_path / "photos"), "--out"]
    run("evaluate", *photos, str(tmp_path / "r.jsonl"), "--methods", "T-TAME", *own)
    run("diagnose", *photos, str(tmp_path / "d.jsonl"), *own)
