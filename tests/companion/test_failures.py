"""Failures: photos picked by their numbers, by hand, and what is drawn of them."""

from __future__ import annotations

import pandas as pd
import pytest
import torch
from torch import Tensor

from ttame.companion.failures import (
    beaten_by,
    class_sensitivity,
    kept_mistakes,
    largest_losses,
    read_rows,
)
from ttame.companion.figures.masked import plot_masked
from ttame.data import PhotoList
from ttame.errors import TTameError
from ttame.explainer import Explainer


@pytest.fixture
def records() -> pd.DataFrame:
    rows = [
        ("a", "T-TAME", 0, 0.9, 0.8), ("b", "T-TAME", 1, 0.9, 0.1), ("c", "T-TAME", 2, 0.3, 0.4),
        ("a", "Grad-CAM", 0, 0.9, 0.2), ("b", "Grad-CAM", 1, 0.9, 0.6),
    ]  # fmt: skip
    return pd.DataFrame(rows, columns=["photo", "method", "target", "probability", "masked_50"])


def test_losses_are_sorted_by_probability_lost(records: pd.DataFrame) -> None:
    found = largest_losses(records, "T-TAME")
    assert found.index.tolist() == ["b", "a", "c"]
    assert found["loss"].tolist() == pytest.approx([0.8, 0.1, -0.1])


def test_gaps_need_both_methods(records: pd.DataFrame) -> None:
    found = beaten_by(records, "T-TAME", "Grad-CAM")
    assert found.index.tolist() == ["b", "a"]  # c was masked by one of them only
    assert found["gap"].tolist() == pytest.approx([0.5, -0.6])


def test_mistakes_are_sorted_by_what_is_kept(records: pd.DataFrame) -> None:
    found = kept_mistakes(records, {"a": 7, "b": 1, "c": 3}, "T-TAME")
    assert found.index.tolist() == ["a", "c"]  # b is right
    assert found["label"].tolist() == [7, 3]
    with pytest.raises(TTameError, match="no label of 2 photos, the first 'b'"):
        kept_mistakes(records, {"a": 7}, "T-TAME")


def test_records_that_lack_what_is_asked_for_are_refused(records: pd.DataFrame) -> None:
    with pytest.raises(TTameError, match=r"'RISE' with 50 %.*T-TAME, Grad-CAM with masked_50"):
        largest_losses(records, "RISE")
    with pytest.raises(TTameError, match="'T-TAME' with 15 %"):
        largest_losses(records, "T-TAME", 15)


def test_unread_photos_are_no_failures(records: pd.DataFrame) -> None:
    records["skipped"] = [None, "damaged", None, None, None]
    assert largest_losses(records, "T-TAME").index.tolist() == ["a", "c"]


def test_sensitivity_compares_the_two_maps() -> None:
    rising = torch.arange(4.0).reshape(1, 1, 2, 2)
    maps = torch.cat([torch.cat([rising, 3 * rising + 1], 1), torch.cat([rising, -rising], 1)])
    assert class_sensitivity(maps).tolist() == pytest.approx([1.0, -1.0])
    with pytest.raises(TTameError, match="two classes"):
        class_sensitivity(maps[:, :1])


def test_rows_are_read_in_their_order(explainer: Explainer, photos: PhotoList) -> None:
    rows = pd.DataFrame({"target": [4, 2]}, index=["03.jpg", "00.jpg"])
    images, targets = read_rows(explainer, photos, rows)
    swapped, _ = read_rows(explainer, photos, rows[::-1])
    assert targets.tolist() == [4, 2]
    assert torch.equal(images, swapped.flip(0))


def test_masked_photos_show_what_is_left(explainer: Explainer, images: Tensor) -> None:
    targets = explainer.classifier(images[:2]).argmax(dim=1)
    ones = torch.ones(2, 1, 4, 4)
    figure = plot_masked(explainer, images[:2], targets, {"ones": ones}, (100,), ["x", "y"])
    titles = [axis.get_title() for axis in figure.axes]
    probability = explainer.classifier(images[:2]).softmax(dim=1).amax(dim=1)
    name = explainer.classes[int(targets[0])]
    assert titles[0] == f"{name}\n{float(probability[0]):.0%}\nx"
    assert titles[1] == "ones"
    assert titles[2] == f"100 % retained\np' = {float(probability[0]):.0%}"  # nothing was hidden
    with pytest.raises(TTameError, match="1 notes for 2 photos"):
        plot_masked(explainer, images[:2], targets, {"ones": ones}, notes=["x"])


def test_another_answer_is_named(explainer: Explainer, images: Tensor) -> None:
    answers = explainer.classifier(images[:1]).softmax(dim=1)[0]
    least = int(answers.argmin())
    figure = plot_masked(
        explainer, images[:1], torch.tensor([least]), {"ones": torch.ones(1, 1, 4, 4)}, (100,)
    )
    top = int(answers.argmax())
    shown = f"{explainer.classes[top]} {float(answers[top]):.0%}"
    assert figure.axes[2].get_title().splitlines()[2] == shown
