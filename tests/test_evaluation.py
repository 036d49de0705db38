"""Running methods over photos, stopping, going on, and summing up."""

from __future__ import annotations

from collections.abc import Callable
from pathlib import Path

import pandas as pd
import pytest
import torch
from torch import Tensor, nn

from ttame.data import PhotoDataset, PhotoList
from ttame.errors import TTameError
from ttame.evaluation import evaluate, per_sample, summary
from ttame.explainer import Explainer
from ttame.metrics import masked_probabilities
from ttame.results import ResultsFile, read_results

METHODS = ("T-TAME", "random", "all ones")


def measured(path: Path) -> pd.DataFrame:
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


@pytest.mark.parametrize("count", [1, 6, 12])
def test_an_interrupted_run_ends_as_an_uninterrupted_one(
    explainer: Explainer, photos: PhotoList, tmp_path: Path, whole: pd.DataFrame, count: int
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
    assert all(done > count for done in seen)  # nothing is measured twice


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
    pd.testing.assert_frame_equal(measured(out), whole, atol=1e-5)


def test_the_batch_size_does_not_matter(
    explainer: Explainer, photos: PhotoList, tmp_path: Path, whole: pd.DataFrame
) -> None:
    for size in (1, 12):
        out = tmp_path / f"{size}.jsonl"
        evaluate(explainer, photos, out, methods=METHODS, batch_size=size)
        pd.testing.assert_frame_equal(measured(out), whole, atol=1e-5)


@pytest.mark.parametrize("change", ["photos", "methods", "seed", "mechanism", "classifier"])
def test_going_on_with_something_else_is_refused(
    explainer: Explainer, photos: PhotoList, tmp_path: Path, change: str
) -> None:
    out = tmp_path / "run.jsonl"
    with pytest.raises(Stopped):
        evaluate(explainer, photos, out, methods=METHODS, batch_size=5, progress=stop_after(5))
    methods, seed = METHODS, 0
    if change == "photos":
        photos = photos.select(range(11))
    elif change == "methods":
        methods = METHODS[:2]
    elif change == "seed":
        seed = 1
    elif change == "mechanism":
        explainer.mechanism.fusion.weight.data.mul_(2)
    else:
        next(explainer.classifier.parameters()).data.mul_(2)
    with pytest.raises(TTameError, match="was begun with"):
        evaluate(explainer, photos, out, methods=methods, seed=seed)


def test_an_unknown_method_is_refused_before_anything_is_written(
    explainer: Explainer, photos: PhotoList, tmp_path: Path
) -> None:
    with pytest.raises(TTameError, match=r"'Grad-CAN'.*'Grad-CAM'"):
        evaluate(explainer, photos, tmp_path / "run.jsonl", methods=("Grad-CAN",))
    assert not list(tmp_path.glob("run*"))


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


def test_the_classifier_is_left_alone(
    explainer: Explainer, photos: PhotoList, tmp_path: Path
) -> None:
    before = {name: value.clone() for name, value in explainer.state_dict().items()}
    out = tmp_path / "run.jsonl"
    evaluate(explainer.train(), photos, out, methods=("T-TAME", "Grad-CAM", "Grad-CAM++"))
    after = explainer.state_dict()
    assert all(torch.equal(after[name], before[name]) for name in before)
    assert not any(module.training for module in explainer.classifier.modules())
    hooks: list[nn.Module] = [m for m in explainer.classifier.modules() if m._forward_hooks]
    assert hooks == []


# Summing up


@pytest.fixture
def small(tmp_path: Path) -> Path:
    """Two photos, two methods; every number below is worked out from these."""
    results = ResultsFile(tmp_path / "small.jsonl", {}, {}, group=2)
    shared = {"target": 1, "degenerate": False}
    results.append(
        [
            {"photo": "a", "method": "B", "probability": 0.8, "masked_100": 0.6,
             "masked_50": 0.9, "seconds": 0.010, **shared},
            {"photo": "a", "method": "A", "probability": 0.8, "masked_100": 0.8,
             "masked_50": 0.0, "seconds": 0.002, **shared},
            {"photo": "b", "method": "B", "probability": 0.5, "masked_100": 0.1,
             "masked_50": 0.6, "seconds": 0.030, **shared},
            {"photo": "b", "method": "A", "probability": 0.5, "masked_100": 0.51,
             "masked_50": 0.25, "seconds": 0.004, **shared, "degenerate": True},
        ]
    )  # fmt: skip
    return results.finish()


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
    }  # fmt: skip
    assert len(long) == 16


def test_summary_by_hand(small: Path) -> None:
    table = summary(small)
    assert list(table.index) == ["B", "A"]  # as measured, not by the alphabet
    assert list(table.columns) == [
        "AD 100%", "AD 50%", "IC 100%", "IC 50%", "photos", "degenerate", "ms",
    ]  # fmt: skip
    assert table.loc["B"].tolist() == pytest.approx([52.5, 0, 0, 100, 2, 0, 20])
    assert table.loc["A"].tolist() == pytest.approx([0, 75, 50, 0, 2, 1, 3])
