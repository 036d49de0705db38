"""Running methods over photos, stopping, going on, and summing up."""

from __future__ import annotations

import json
import os
from collections.abc import Callable
from dataclasses import replace
from functools import partial
from pathlib import Path
from typing import Any

import pandas as pd
import pytest
import torch
from torch import Tensor, nn

import ttame
from tests.conftest import IMAGENET
from tests.helpers.toy_training import toy_explainer
from ttame.attention import AttentionConfig
from ttame.data import PhotoDataset, PhotoList
from ttame.errors import TTameError
from ttame.evaluation.confidence import masked_probabilities
from ttame.evaluation.evaluate import METRICS, evaluate
from ttame.evaluation.faithfulness import (
    cell_salience,
    delete_cells,
    faithfulness_coefficient,
    hide_groups,
    single_deletion_score,
)
from ttame.evaluation.tables import measured as without_skipped
from ttame.evaluation.tables import scores, summary
from ttame.evaluation.workers import in_order
from ttame.explainer import Explainer
from ttame.methods import Method, build, ttame_method
from ttame.methods.rise import rise_method
from ttame.records import read_results

METHODS = ("T-TAME", "random", "all ones")


def measured(path: Path) -> pd.DataFrame:
    """The records without what differs from run to run."""
    return read_results(path)[1].drop(columns="seconds")


@pytest.fixture
def whole(explainer: Explainer, photos: PhotoList, tmp_path: Path) -> pd.DataFrame:
    return measured(
        evaluate(explainer, photos, tmp_path / "whole.jsonl", methods=METHODS, batch_size=5)
    )


def test_one_record_a_photo_and_method(whole: pd.DataFrame, photos: PhotoList) -> None:
    assert list(whole["photo"]) == [name for name in photos.names for _ in METHODS]
    assert list(whole["method"]) == list(METHODS) * 12
    assert set(whole) == {
        "photo", "method", "target", "probability", "masked_100", "masked_50", "masked_15",
        "degenerate", "forward", "backward",
    }  # fmt: skip


def test_records_are_what_the_classifier_answers(
    whole: pd.DataFrame, explainer: Explainer, photos: PhotoList
) -> None:
    dataset = PhotoDataset(photos, explainer.spec)
    images = torch.stack([dataset[index][0] for index in range(12)])
    with torch.no_grad():
        scores, targets = explainer.classifier(images).softmax(dim=1).max(dim=1)
        maps = explainer(images)[2]
    assert len(set(targets.tolist())) > 1
    masked = masked_probabilities(explainer.classifier, explainer.spec, images, maps, targets)
    rows = whole[whole["method"] == "T-TAME"]
    assert rows["target"].tolist() == targets.tolist()
    assert rows["probability"].tolist() == pytest.approx(scores.tolist(), abs=1e-5)
    found = torch.tensor(rows[["masked_100", "masked_50", "masked_15"]].to_numpy())
    assert torch.allclose(found.float(), masked, atol=1e-5)
    ones = whole[whole["method"] == "all ones"]
    assert ones["masked_100"].tolist() == ones["probability"].tolist()
    assert ones["degenerate"].all() and not rows["degenerate"].any()


class Stopped(Exception):
    """What the progress callback raises."""


def stop_after(count: int) -> Callable[[int, int], None]:
    def progress(done: int, total: int) -> None:
        assert total == 12
        if done >= count:
            raise Stopped

    return progress


@pytest.mark.parametrize(("count", "rest"), [(1, [10, 12]), (6, [12]), (12, [12])])
def test_an_interrupted_run_ends_as_an_uninterrupted_one(
    explainer: Explainer,
    photos: PhotoList,
    tmp_path: Path,
    whole: pd.DataFrame,
    count: int,
    rest: list[int],
) -> None:
    out = tmp_path / "resumed.jsonl"
    with pytest.raises(Stopped):
        evaluate(explainer, photos, out, methods=METHODS, batch_size=5, progress=stop_after(count))
    assert not out.exists() and out.with_name("resumed.jsonl.partial").exists()
    seen: list[int] = []
    evaluate(
        explainer, photos, out, methods=METHODS, batch_size=5,
        progress=lambda done, total: seen.append(done),
    )  # fmt: skip
    assert measured(out).equals(whole)
    # No batch is measured twice, but for a last one that is not full: it could be half written.
    assert seen == rest


def test_a_run_killed_after_every_batch_ends_as_an_uninterrupted_one(
    explainer: Explainer, photos: PhotoList, tmp_path: Path
) -> None:
    photos, names = photos.select(range(5)), ("T-TAME", "random")
    partial = tmp_path / "killed.jsonl.partial"

    def go(name: str, stop: int | None = None) -> Path:
        def progress(done: int, total: int) -> None:
            if done == stop:
                raise Stopped

        return evaluate(
            explainer, photos, tmp_path / name, methods=names, metrics=METRICS, batch_size=2,
            steps=4, progress=progress,
        )  # fmt: skip

    expected = measured(go("whole.jsonl"))
    assert expected["masked_50"].nunique() == len(expected)  # else the test shows little
    for done, torn in ((2, False), (4, True), (4, False), (5, True)):
        with pytest.raises(Stopped):
            go("killed.jsonl", stop=done)
        data = partial.read_bytes()
        assert data.count(b"\n") == 1 + done * len(names)
        if torn:  # in the middle of the last line
            partial.write_bytes(data[: data[:-1].rindex(b"\n") + 40])
    assert not (tmp_path / "killed.jsonl").exists()
    found = measured(go("killed.jsonl"))
    assert found.equals(expected)
    assert not partial.exists()
    assert set(found) == {
        "photo", "method", "target", "probability", "masked_100", "masked_50", "masked_15",
        "road_morf", "road_lerf", "road_morf_kept", "road_lerf_kept", "insertion", "deletion",
        "sds_output", "sds_salience", "saco_salience", "saco_probability",
        "degenerate", "forward", "backward",
    }  # fmt: skip
    assert {len(row) for row in found["insertion"]} == {5}
    assert {len(row) for row in found["sds_output"]} == {16}
    assert {len(row) for row in found["saco_probability"]} == {10}


def test_a_photo_with_missing_methods_is_measured_again(
    explainer: Explainer, photos: PhotoList, tmp_path: Path, whole: pd.DataFrame
) -> None:
    out = tmp_path / "torn.jsonl"
    with pytest.raises(Stopped):
        evaluate(explainer, photos, out, methods=METHODS, batch_size=5, progress=stop_after(5))
    partial = out.with_name("torn.jsonl.partial")
    lines = partial.read_text(encoding="utf-8").splitlines(keepends=True)
    partial.write_text("".join(lines[:-2]) + lines[-2][:30], encoding="utf-8")  # four photos whole
    evaluate(explainer, photos, out, methods=METHODS, batch_size=5)
    assert measured(out).equals(whole)  # the batch is measured again as a whole


def test_the_batch_size_does_not_matter(
    explainer: Explainer, photos: PhotoList, tmp_path: Path, whole: pd.DataFrame
) -> None:
    for size in (1, 12):
        out = tmp_path / f"{size}.jsonl"
        evaluate(explainer, photos, out, methods=METHODS, batch_size=size)
        pd.testing.assert_frame_equal(measured(out), whole, atol=1e-5)


@pytest.mark.parametrize(
    "change",
    [
        {"metrics": ("AD/IC", "ROAD")},
        {"percentages": (100, 50)},
        {"steps": 10},
        {"grid": 2, "metrics": ("AD/IC", "SDS")},
        {"groups": 5, "metrics": ("AD/IC", "SaCo")},
        {"batch_size": 4},
        {"methods": METHODS[:2]},
        {"methods": (*METHODS, "RISE"), "settings": {"RISE": {"masks": 8}}},
        {"seed": 1},
    ],
    ids=lambda change: next(iter(change)),
)
def test_going_on_with_other_arguments_is_refused(
    explainer: Explainer, photos: PhotoList, tmp_path: Path, change: dict[str, Any]
) -> None:
    out, given = tmp_path / "run.jsonl", {"methods": METHODS, "batch_size": 5}
    with pytest.raises(Stopped):
        evaluate(explainer, photos, out, progress=stop_after(5), **given)
    partial = out.with_name("run.jsonl.partial")
    before = partial.read_bytes()
    with pytest.raises(TTameError, match=f"was begun with {next(iter(change))}="):
        evaluate(explainer, photos, out, **{**given, **change})
    assert partial.read_bytes() == before


def test_going_on_with_other_settings_is_refused(
    explainer: Explainer, photos: PhotoList, tmp_path: Path
) -> None:
    out = tmp_path / "run.jsonl"
    with pytest.raises(Stopped):
        evaluate(
            explainer, photos, out, methods=("RISE",), settings={"RISE": {"masks": 4}},
            batch_size=5, progress=stop_after(5),
        )  # fmt: skip
    with pytest.raises(TTameError, match=r"begun with settings=.*4.*now it is .*8"):
        evaluate(
            explainer, photos, out, methods=("RISE",), settings={"RISE": {"masks": 8}},
            batch_size=5,
        )  # fmt: skip


@pytest.mark.parametrize("change", ["photos", "mechanism", "classifier"])
def test_going_on_with_something_else_is_refused(
    explainer: Explainer, photos: PhotoList, tmp_path: Path, change: str
) -> None:
    out = tmp_path / "run.jsonl"
    with pytest.raises(Stopped):
        evaluate(explainer, photos, out, methods=METHODS, batch_size=5, progress=stop_after(5))
    if change == "photos":
        photos = photos.select(range(11))
    elif change == "mechanism":
        explainer.mechanism.fusion.weight.data.mul_(2)
    else:
        next(explainer.classifier.parameters()).data.mul_(2)
    reason = "photos" if change == "photos" else "digests"
    with pytest.raises(TTameError, match=f"was begun with {reason}="):
        evaluate(explainer, photos, out, methods=METHODS, batch_size=5)


@pytest.mark.parametrize(
    ("arguments", "message"),
    [
        ({"methods": ("Grad-CAN",)}, r"'Grad-CAN'.*'Grad-CAM'"),
        ({"methods": ()}, "at least one method"),
        ({"metrics": ()}, "at least one of the metrics"),
        ({"metrics": ("AD/IC", "ROAD!")}, r"'ROAD'.*'ROAD!'"),
        ({"batch_size": 0}, "batch_size=0"),
        ({"steps": 0}, "steps=0"),
        ({"metrics": ("SDS",), "grid": 5}, "5x5 does not divide images of 32x32"),
        ({"metrics": ("SaCo",), "groups": 1}, "2 to 1024 groups of pixels, got 1"),
        ({"methods": ("RISE",), "settings": {"RISE": {"mask": 8}}}, "RISE: .*'mask'"),
        ({"methods": ("random",), "settings": {"random": {"seed": 8}}}, "random has no settings"),
        ({"methods": ("random",), "settings": {"RISE": {"masks": 8}}}, r"\['RISE'\].*not among"),
        ({"methods": ("random", "L-CAM-Img")}, "none ships for ToyClassifier"),
    ],
    ids=str,
)
def test_bad_arguments_are_refused_before_anything_is_written(
    explainer: Explainer,
    photos: PhotoList,
    tmp_path: Path,
    arguments: dict[str, Any],
    message: str,
) -> None:
    with pytest.raises(TTameError, match=message):
        evaluate(explainer, photos, tmp_path / "run.jsonl", **arguments)
    assert not list(tmp_path.glob("run*"))


def test_a_method_that_does_not_apply_is_refused_before_anything_is_written(
    explainer: Explainer, photos: PhotoList, tmp_path: Path
) -> None:
    explainer.spec = replace(explainer.spec, cam_layer="head")
    with pytest.raises(TTameError, match=r"does not apply to ToyClassifier.*'head'"):
        evaluate(explainer, photos, tmp_path / "run.jsonl", methods=("random", "Opti-CAM"))
    assert not list(tmp_path.glob("run*"))


def test_settings_are_used_and_recorded(
    explainer: Explainer, photos: PhotoList, tmp_path: Path
) -> None:
    settings = {"RISE": {"masks": 9}}
    out = evaluate(
        explainer, photos.select(range(3)), tmp_path / "run.jsonl", methods=("RISE", "all ones"),
        settings=settings, batch_size=2,
    )  # fmt: skip
    header, records = read_results(out)
    assert header["config"]["settings"] == settings
    assert header["config"]["batch_size"] == 2 and header["config"]["steps"] == 20
    rows = records[records["method"] == "RISE"]
    assert rows["forward"].tolist() == [9, 9, 9]
    dataset = PhotoDataset(photos, explainer.spec)
    batch, targets = (
        torch.stack([dataset[i][0] for i in range(3)]),
        torch.tensor(rows["target"].to_list()),
    )
    maps = rise_method(masks=9)(explainer)(batch, targets)
    masked = masked_probabilities(explainer.classifier, explainer.spec, batch, maps, targets)
    assert rows["masked_50"].tolist() == pytest.approx(masked[:, 1].tolist(), abs=1e-4)


# Photos that cannot be read


@pytest.fixture
def damaged(photos: PhotoList) -> PhotoList:
    """Of seven photos the fourth is cut short and the sixth is empty."""
    data = (photos.root / photos.names[3]).read_bytes()
    (photos.root / photos.names[3]).write_bytes(data[: len(data) // 2])
    (photos.root / photos.names[5]).write_bytes(b"")
    return photos.select(range(7))


def test_a_photo_that_cannot_be_read_stops_the_run_and_may_be_skipped(
    explainer: Explainer, damaged: PhotoList, tmp_path: Path
) -> None:
    out, partial = tmp_path / "run.jsonl", tmp_path / "run.jsonl.partial"
    given: dict[str, Any] = {"methods": METHODS, "batch_size": 2}
    with pytest.raises(TTameError) as caught:
        evaluate(explainer, damaged, out, **given)
    for part in ("03.jpg", "run.jsonl.partial", "--skip-bad", "start again"):
        assert part in str(caught.value)
    assert not out.exists()
    kept = partial.read_text(encoding="utf-8")
    assert [json.loads(line)["photo"] for line in kept.splitlines()[1:]] == [
        "00.jpg", "00.jpg", "00.jpg", "01.jpg", "01.jpg", "01.jpg",
    ]  # fmt: skip

    seen: list[int] = []
    evaluate(
        explainer, damaged, out, skip_bad=True, progress=lambda done, _: seen.append(done), **given
    )
    assert seen == [4, 6, 7]
    text = out.read_text(encoding="utf-8")
    assert text.startswith(kept) and str(tmp_path) not in text
    _, records = read_results(out)
    assert list(records["photo"]) == [name for name in damaged.names for _ in METHODS]
    assert list(records["method"]) == list(METHODS) * 7
    bad = records[records["skipped"].notna()]
    assert list(bad["photo"]) == ["03.jpg"] * 3 + ["05.jpg"] * 3
    assert bad["skipped"].str.contains("damaged or truncated").tolist() == [True] * 3 + [False] * 3
    assert bad["skipped"].str.contains("empty").tolist() == [False] * 3 + [True] * 3
    lines = [json.loads(line) for line in text.splitlines()[1:]]
    assert set(lines[9]) == {"photo", "method", "skipped"}

    table = summary(out)
    assert table["photos"].tolist() == [5] * 3 and table["skipped"].tolist() == [2] * 3
    assert table["degenerate"].tolist() == [0, 0, 5]


def test_skipping_leaves_the_other_photos_as_they_are(
    explainer: Explainer, damaged: PhotoList, tmp_path: Path
) -> None:
    good = damaged.select([0, 1, 2, 4, 6])
    expected = measured(evaluate(explainer, good, tmp_path / "a.jsonl", methods=METHODS))
    out = evaluate(explainer, damaged, tmp_path / "b.jsonl", methods=METHODS, skip_bad=True)
    found = without_skipped(read_results(out)[1]).drop(columns="seconds")
    pd.testing.assert_frame_equal(
        found[list(expected)].reset_index(drop=True), expected, check_dtype=False, atol=1e-5
    )


def test_a_mended_photo_is_measured(
    explainer: Explainer, damaged: PhotoList, tmp_path: Path
) -> None:
    with pytest.raises(TTameError, match=r"03\.jpg"):
        evaluate(explainer, damaged, tmp_path / "run.jsonl", methods=METHODS, batch_size=2)
    for name in ("03.jpg", "05.jpg"):
        (damaged.root / name).write_bytes((damaged.root / "00.jpg").read_bytes())
    out = evaluate(explainer, damaged, tmp_path / "run.jsonl", methods=METHODS, batch_size=2)
    assert "skipped" not in read_results(out)[1]
    assert len(measured(out)) == 21


# What is measured


def test_a_map_of_nothing_counts_as_explaining_nothing(
    explainer: Explainer, photos: PhotoList, tmp_path: Path
) -> None:
    def broken(images: Tensor, targets: Tensor) -> Tensor:
        maps = torch.rand(len(images), 1, 7, 7)
        maps[0, 0, 3, 3] = float("nan")
        return maps

    out = tmp_path / "run.jsonl"
    records = measured(evaluate(explainer, photos, out, methods={"broken": broken}, batch_size=4))
    assert records["degenerate"].tolist() == ([True] + [False] * 3) * 3
    black = torch.zeros(1, 3, 32, 32)
    black = (black - torch.tensor(explainer.spec.mean).view(1, 3, 1, 1)) / torch.tensor(
        explainer.spec.std
    ).view(1, 3, 1, 1)
    with torch.no_grad():
        answer = explainer.classifier(black).softmax(dim=1)[0]
    for row in records[records["degenerate"]].to_dict("records"):
        assert row["masked_100"] == pytest.approx(float(answer[row["target"]]), abs=1e-5)


def test_faithfulness_is_what_its_functions_say(
    explainer: Explainer, photos: PhotoList, tmp_path: Path
) -> None:
    photos = photos.select(range(5))
    out = evaluate(
        explainer, photos, tmp_path / "run.jsonl", methods=METHODS, metrics=("SDS", "SaCo"),
        grid=2, groups=4, batch_size=3, curve_limit=3,
    )  # fmt: skip
    header, records = read_results(out)
    assert header["config"]["grid"] == 2 and header["config"]["groups"] == 4
    assert records["sds_output"].notna().tolist() == [True] * 9 + [False] * 6
    dataset = PhotoDataset(photos, explainer.spec)
    images = torch.stack([dataset[index][0] for index in range(3)])
    targets = torch.tensor(records["target"].to_list()[:9:3])
    shown, maps = (images, targets), explainer(images, targets[:, None])[2].detach()
    outputs = delete_cells(explainer.classifier, *shown, grid=2)
    groups = hide_groups(explainer.classifier, explainer.spec, images, maps, targets, groups=4)
    expected = {
        "SDS": single_deletion_score(outputs, cell_salience(maps, (32, 32), 2)),
        "SaCo": faithfulness_coefficient(groups.salience, groups.probability),
    }
    long = scores(records)
    for score, values in expected.items():
        rows = long[long["score"] == score].set_index("method")["value"]
        assert rows["T-TAME"].tolist() == pytest.approx((100 * values).tolist(), abs=1e-2)
        assert rows["all ones"].tolist() == [0] * 3
    table = summary(out)
    assert list(table.columns[:2]) == ["SDS", "SaCo"]
    # All methods are held against the same deletions.
    assert all(len(set(map(tuple, some))) == 1 for _, some in
               records[:9].groupby("photo")["sds_output"])  # fmt: skip


def test_the_classifier_is_left_alone(
    explainer: Explainer, photos: PhotoList, tmp_path: Path
) -> None:
    before = {name: value.clone() for name, value in explainer.state_dict().items()}
    out = tmp_path / "run.jsonl"
    evaluate(explainer.train(), photos, out, methods=("T-TAME", "Grad-CAM", "Grad-CAM++"))
    after = explainer.state_dict()
    assert all(torch.equal(after[name], before[name]) for name in before)
    assert not any(module.training for module in explainer.classifier.modules())
    assert not any(value.requires_grad for value in explainer.classifier.parameters())
    hooks: list[nn.Module] = [m for m in explainer.classifier.modules() if m._forward_hooks]
    assert hooks == []


def test_methods_of_ones_own_are_measured_and_their_passes_counted(
    explainer: Explainer, photos: PhotoList, tmp_path: Path
) -> None:
    own: dict[str, Method] = {
        "mine": ttame_method(explainer), "slope": build("Grad-CAM", explainer)
    }  # fmt: skip
    given: dict[str, Any] = {"batch_size": 3, "metrics": METRICS, "steps": 3}
    photos = photos.select(range(3))
    out = evaluate(explainer, photos, tmp_path / "own.jsonl", methods=own, **given)
    header, records = read_results(out)
    assert header["config"]["methods"] == ["mine", "slope"]
    assert records["forward"].tolist() == [1] * 6
    assert records["backward"].tolist() == [0, 1] * 3
    named = ("T-TAME", "Grad-CAM")
    _, same = read_results(
        evaluate(explainer, photos, tmp_path / "named.jsonl", methods=named, **given)
    )
    # Bound to the classifier as it is, not to the folded copy: the same but for rounding.
    for column in ("masked_100", "masked_50", "probability", "forward", "backward"):
        assert records[column].tolist() == pytest.approx(same[column].tolist(), abs=1e-3)
    with pytest.raises(TTameError, match=r"\['mine'\].*by name"):
        evaluate(
            explainer, photos, tmp_path / "x.jsonl", methods=own, settings={"mine": {"masks": 2}}
        )


def test_a_tapped_convolution_gives_the_maps_of_the_classifier_as_it_is(
    toy: nn.Module, photos: PhotoList, tmp_path: Path
) -> None:
    # Convolutions whose batch norm must not be folded into them.
    layers = ("stages.0.0", "stages.1.0", "stages.2.0")
    explainer = ttame.attach(toy, layers, input_size=(32, 32), head="head", **IMAGENET)
    photos = photos.select(range(4))
    own: dict[str, Method] = {"mine": ttame_method(explainer), "cam": build("Grad-CAM", explainer)}
    expected = measured(evaluate(explainer, photos, tmp_path / "own.jsonl", methods=own))
    explainer.spec = replace(explainer.spec, cam_layer="stages.2.0")
    found = measured(
        evaluate(explainer, photos, tmp_path / "named.jsonl", methods=("T-TAME", "Grad-CAM"))
    )
    for column in ("masked_100", "masked_50", "masked_15"):
        assert found[column].tolist() == pytest.approx(expected[column].tolist(), abs=1e-3)


# Several processes


@pytest.fixture
def sendable() -> Explainer:
    """An explainer of a classifier whose class other processes can import."""
    return toy_explainer(AttentionConfig()).eval()


def test_several_processes_measure_what_one_does(
    sendable: Explainer, damaged: PhotoList, tmp_path: Path
) -> None:
    given: dict[str, Any] = {"methods": METHODS, "batch_size": 2, "skip_bad": True}
    one = evaluate(sendable, damaged, tmp_path / "one.jsonl", **given)
    seen: list[int] = []
    two = evaluate(
        sendable, damaged, tmp_path / "two.jsonl", workers=2,
        progress=lambda done, _: seen.append(done), **given,
    )  # fmt: skip
    assert seen == [2, 4, 6, 7]
    assert measured(two).equals(measured(one))
    assert read_results(two)[0]["config"] == read_results(one)[0]["config"]


@pytest.mark.slow
def test_several_processes_keep_what_came_before_a_bad_photo_and_one_goes_on(
    sendable: Explainer, damaged: PhotoList, tmp_path: Path
) -> None:
    out = tmp_path / "run.jsonl"
    given: dict[str, Any] = {"methods": METHODS, "batch_size": 2}
    with pytest.raises(TTameError, match=r"03.jpg.*run.jsonl.partial.*--skip-bad"):
        evaluate(sendable, damaged, out, workers=2, **given)
    kept = out.with_name("run.jsonl.partial").read_text(encoding="utf-8").splitlines()
    assert [json.loads(line)["photo"] for line in kept[1:]] == ["00.jpg"] * 3 + ["01.jpg"] * 3
    seen: list[int] = []
    evaluate(
        sendable, damaged, out, skip_bad=True, progress=lambda done, _: seen.append(done), **given
    )
    assert seen == [4, 6, 7]


def test_what_cannot_be_sent_is_named(
    sendable: Explainer, photos: PhotoList, tmp_path: Path
) -> None:
    own: dict[str, Method] = {"mine": lambda images, targets: images[:, :1]}
    with pytest.raises(TTameError, match=r"workers=2: .*lambda.*use workers=1"):
        evaluate(sendable, photos, tmp_path / "run.jsonl", methods=own, workers=2)
    with pytest.raises(TTameError, match="workers=0"):
        evaluate(sendable, photos, tmp_path / "run.jsonl", workers=0)


def test_a_process_that_dies_is_told() -> None:
    with pytest.raises(TTameError, match=r"workers=1: a process ended .*memory"):
        list(in_order(partial(partial, os._exit), [1], 1))
