"""Failures: photos picked by their numbers, by hand, and what is drawn of them."""

from __future__ import annotations

import pandas as pd
import pytest
import torch
from PIL import Image
from torch import Tensor

import ttame
from ttame.classifiers.classes import imagenet_indices
from ttame.companion.failures import (
    beaten_by,
    class_sensitivity,
    keep_by_truth,
    largest_losses,
    read_rows,
)
from ttame.companion.figures.masked import plot_masked
from ttame.companion.shipped import reference
from ttame.data import PhotoList, samples
from ttame.errors import TTameError
from ttame.evaluation.tables import read_together, summary
from ttame.explainer import Explainer
from ttame.images import normalize, read_image
from ttame.masking import normalize_maps
from ttame.records import read_results


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


def test_wrong_and_right_predictions_are_compared(records: pd.DataFrame) -> None:
    labels = {"a": 7, "b": 1, "c": 3}  # b is right
    found = keep_by_truth(records, labels, "T-TAME")
    assert found.loc["wrong"].tolist() == pytest.approx([2, 100 * (0.8 / 0.9 + 0.4 / 0.3) / 2])
    assert found.loc["right"].tolist() == pytest.approx([1, 100 * 0.1 / 0.9])
    sure = keep_by_truth(records, labels, "T-TAME", between=(0.5, 1.0))
    assert sure.loc["wrong"].tolist() == pytest.approx([1, 100 * 0.8 / 0.9])
    none = keep_by_truth(records, labels, "T-TAME", between=(0.1, 0.2))
    assert none["photos"].tolist() == [0, 0]
    assert none["kept"].isna().all()
    with pytest.raises(TTameError, match="no label of 2 photos, the first 'b'"):
        keep_by_truth(records, {"a": 7}, "T-TAME")


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
    assert titles[0] == f"{name}\n{100 * float(probability[0]):.0f}\u00a0%\nx"
    assert titles[1] == "ones"
    shown = f"{100 * float(probability[0]):.0f}\u00a0%"
    assert titles[2] == f"100 % retained\np' = {shown}"  # nothing was hidden
    with pytest.raises(TTameError, match="1 notes for 2 photos"):
        plot_masked(explainer, images[:2], targets, {"ones": ones}, notes=["x"])


def test_another_answer_is_named(explainer: Explainer, images: Tensor) -> None:
    answers = explainer.classifier(images[:1]).softmax(dim=1)[0]
    least = int(answers.argmin())
    figure = plot_masked(
        explainer, images[:1], torch.tensor([least]), {"ones": torch.ones(1, 1, 4, 4)}, (100,)
    )
    top = int(answers.argmax())
    shown = f"{explainer.classes[top]} {100 * float(answers[top]):.0f}\u00a0%"
    assert figure.axes[2].get_title().splitlines()[2] == shown


# What the chapter says of its pictures


@pytest.fixture(scope="module")
def lite0() -> Explainer:
    return ttame.load("tf_efficientnet_lite0")


def sample(name: str) -> Image.Image:
    (path,) = [path for path in samples().paths if path.stem == name]
    return read_image(path)


@torch.inference_mode()
def answers(explainer: Explainer, photos: list[Image.Image], share: float) -> list[tuple[int, int]]:
    """The classifier's answer to each photo, and to its masked form."""
    explanation = explainer.explain(photos, progress=False)
    images = normalize(explanation.images, explainer.spec)
    masked = explainer.spec.mask(images, normalize_maps(explanation.maps), share)
    after = explainer.classifier(masked).argmax(dim=1).tolist()
    return list(zip(explanation.targets[:, 0].tolist(), after, strict=True))


def test_half_of_the_pixels_are_enough_for_the_photos_that_15_percent_lose(
    lite0: Explainer,
) -> None:
    photos = [sample(name) for name in ("frying_pan", "scarlet_macaw", "crab", "castle")]
    assert all(whole == masked for whole, masked in answers(lite0, photos, 0.5))


def test_turned_photos_are_misnamed_and_most_answers_are_fragile(lite0: Explainer) -> None:
    photos = [
        sample("astronaut").crop((256, 256, 512, 512)), sample("jaguars").rotate(180),
        sample("crab").rotate(270, expand=True), sample("photographer").rotate(90, expand=True),
    ]  # fmt: skip
    found = answers(lite0, photos, 0.5)
    names = [lite0.classes[whole].split(",")[0] for whole, _ in found]
    assert names == ["football helmet", "leopard", "scorpion", "violin"]
    assert sum(whole != masked for whole, masked in found) == 3


def test_the_rockets_heat_lies_in_the_sky_beside_it(lite0: Explainer) -> None:
    explanation = lite0.explain(sample("rocket"), top_k=2)
    assert [name.split(",")[0] for name in explanation.names()[0]] == ["missile", "projectile"]
    assert explanation.maps.shape[-2:] == (7, 7)
    for found in explanation.maps[0]:
        # The rocket stands in the middle column, its top in the third row; the sky is left and
        # right of it.
        middle, sides = found[2:5, 3], found[2:4, [2, 4]]
        assert sides.mean() > middle.mean()


def test_wrong_predictions_of_imagenette_survive_masking_as_well_as_right_ones() -> None:
    records = read_results(reference("imagenette_val.jsonl"))[1]
    truth = {name: imagenet_indices()[name.split("/")[0]] for name in records["photo"]}
    found = keep_by_truth(records, truth, "T-TAME", between=(0.3, 0.7))
    assert found["photos"].min() > 30
    assert found.loc["wrong", "kept"] >= found.loc["right", "kept"]


def test_fake_cam_wins_average_drop_with_all_pixels() -> None:
    names = ("imagenette_val.jsonl", "imagenette_val_cam.jsonl", "imagenette_val_other.jsonl")
    drops = summary(read_together(*map(reference, names))[1])["AD 100%"]
    assert drops["Fake-CAM"] < min(drops["T-TAME"], drops["Grad-CAM"])
