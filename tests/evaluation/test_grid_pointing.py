"""The grid pointing game on mosaics of plain colours, where the right map is known."""

from __future__ import annotations

import random
from math import exp
from pathlib import Path
from typing import Any

import pytest
import torch
from torch import Tensor

from tests.helpers.colours import COLOURS, colour_explainer, save_colours
from ttame.data import PhotoList
from ttame.errors import TTameError
from ttame.evaluation.evaluate import evaluate
from ttame.evaluation.grid_pointing import evaluate_mosaics
from ttame.evaluation.localization import mask_share
from ttame.evaluation.mosaics import cell_masks
from ttame.evaluation.tables import intervals, scores, summary
from ttame.explainer import Explainer
from ttame.methods import Method
from ttame.records import read_results

SCORES = ("grid pointing", "energy", "pointing")


@pytest.fixture
def photos(tmp_path: Path) -> PhotoList:
    """Three photos of each of seven colours, shuffled, and two of none."""
    colours = ["grey", *COLOURS * 3, "grey"]
    random.Random(0).shuffle(colours)
    return save_colours(tmp_path / "photos", colours)


@pytest.fixture
def explainer() -> Explainer:
    return colour_explainer()


def own(explainer: Explainer) -> dict[str, Method]:
    """Maps that follow the class, and maps that do not."""

    def seen(images: Tensor, targets: Tensor) -> Tensor:
        shares = explainer.classifier.colours(images)
        return shares[torch.arange(len(images)), targets][:, None].detach()

    def constant(images: Tensor, targets: Tensor) -> Tensor:
        return torch.full((len(images), 1, 7, 7), 0.3)

    def corner(images: Tensor, targets: Tensor) -> Tensor:
        maps = torch.zeros(len(images), 1, 8, 8)
        maps[..., 0, 0] = 1
        return maps

    def raised(images: Tensor, targets: Tensor) -> Tensor:
        return seen(images, targets) + 1

    def negative(images: Tensor, targets: Tensor) -> Tensor:
        return seen(images, targets) - 1

    def broken(images: Tensor, targets: Tensor) -> Tensor:
        return seen(images, targets) * float("nan")

    given = (seen, constant, corner, raised, negative, broken)
    return {method.__name__: method for method in given}


@pytest.fixture
def found(explainer: Explainer, photos: PhotoList, tmp_path: Path) -> Path:
    return evaluate_mosaics(
        explainer, photos, tmp_path / "mosaics.jsonl", methods=own(explainer), count=3
    )


def means(path: Path) -> dict[tuple[str, str], float]:
    table = summary(path)
    return {(method, score): float(table.loc[method, score]) for method in table.index
            for score in SCORES}  # fmt: skip


def test_one_record_per_photo_and_method(found: Path, photos: PhotoList) -> None:
    header, records = read_results(found)
    config = header["config"]
    assert config["grid"] == 2 and config["threshold"] == 0.9 and config["count"] == 3
    assert len(config["mosaics"]) == 3 and config["data"] == "photos, 2x2 mosaics"
    assert len(records) == 3 * 4 * 6
    assert not records.duplicated(["photo", "method"]).any()
    for row in records.itertuples():
        assert config["mosaics"][row.mosaic][row.cell] == row.photo
        assert config["targets"][row.mosaic][row.cell] == row.target
    # Four colours share the mosaic: logits of 10 each against three zeros.
    assert records["probability"].tolist() == pytest.approx([0.25] * len(records), abs=1e-3)


def test_scores_by_hand(found: Path) -> None:
    mean = means(found)
    for score in SCORES:
        assert mean["seen", score] == pytest.approx(100)
        for blind in ("constant", "corner", "broken"):
            assert mean[blind, score] == pytest.approx(25), (blind, score)
    # Values of 2 in one cell and 1 in three: the raw map spreads, the scaled one does not.
    assert mean["raised", "grid pointing"] == pytest.approx(100 * 2 / 5)
    assert mean["raised", "energy"] == mean["raised", "pointing"] == pytest.approx(100)
    # 0 in one cell and -1 in three: nothing is positive.
    assert mean["negative", "grid pointing"] == pytest.approx(25)
    assert mean["negative", "energy"] == pytest.approx(100)


def test_a_constant_map_scores_chance_in_every_cell(found: Path) -> None:
    long = scores(read_results(found)[1])
    constant = long[(long["method"] == "constant") & (long["score"] != "pointing")]
    assert constant["value"].tolist() == pytest.approx([25] * 24)
    # A blind map's hits are shared out among the classes of each mosaic.
    records = read_results(found)[1]
    blind = records[records["method"].isin(["constant", "corner", "broken"])]
    assert (blind.groupby(["mosaic", "method"])["pointing"].sum() == 100).all()


def test_labels_that_stand_together_have_probabilities_of_their_own(
    photos: PhotoList, tmp_path: Path
) -> None:
    explainer = colour_explainer("sigmoid")
    out = evaluate_mosaics(
        explainer, photos, tmp_path / "labels.jsonl", methods=("all ones",), count=2
    )
    header, records = read_results(out)
    assert header["config"]["activation"] == "sigmoid"
    # A logit of 10 for each of the four colours.
    assert records["probability"].tolist() == pytest.approx([1 / (1 + exp(-10))] * 8)


def test_uneven_cells_score_chance_on_average() -> None:
    # 32 pixels in three cells: a constant map scores each cell's area, and a ninth on average.
    masks = cell_masks((32, 32), 3)
    assert mask_share(masks).mean() == pytest.approx(100 / 9)
    assert sorted(set(mask_share(masks).tolist())) == pytest.approx(
        [100 * 100 / 1024, 100 * 110 / 1024, 100 * 121 / 1024]
    )


def test_tables_hold_the_scores(found: Path) -> None:
    table = summary(found)
    assert list(table.columns) == [*SCORES, "photos", "degenerate", "ms", "forward", "backward"]
    assert table["photos"].tolist() == [12] * 6
    assert table["degenerate"].tolist() == [0, 12, 0, 0, 0, 12]
    rows = intervals(read_results(found)[1])
    assert set(rows["score"]) == set(SCORES)


def test_named_methods_follow_or_do_not(
    explainer: Explainer, photos: PhotoList, tmp_path: Path
) -> None:
    out = evaluate_mosaics(
        explainer, photos, tmp_path / "named.jsonl", methods=("Grad-CAM", "random", "all ones"),
        count=2,
    )  # fmt: skip
    table = summary(out)
    assert table.loc["Grad-CAM", "grid pointing"] > 60
    for blind in ("random", "all ones"):
        assert table.loc[blind, list(SCORES)].tolist() == pytest.approx([25] * 3, abs=1e-4)


class Stopped(Exception):
    """What the progress callback raises."""


def test_an_interrupted_game_ends_as_an_uninterrupted_one(
    explainer: Explainer, photos: PhotoList, found: Path, tmp_path: Path
) -> None:
    out, given = tmp_path / "resumed.jsonl", {"methods": own(explainer)}
    seen: list[int] = []

    def stop(done: int, total: int) -> None:
        assert total == 3
        if done == 1:
            raise Stopped

    def go(**options: Any) -> Path:
        return evaluate_mosaics(explainer, photos, out, **{**given, "count": 3, **options})

    with pytest.raises(Stopped):
        go(progress=stop)
    partial = out.with_name("resumed.jsonl.partial")
    partial.write_bytes(partial.read_bytes() + b'{"photo": "cut sh')
    with pytest.raises(TTameError, match="was begun with count="):
        go(count=2)
    with pytest.raises(TTameError, match=r"was begun with threshold=0.9"):
        go(threshold=0.8)
    go(progress=lambda done, _: seen.append(done))
    assert seen == [2, 3]
    expected, again = (read_results(path)[1].drop(columns="seconds") for path in (found, out))
    assert again.equals(expected)


def test_bad_arguments_are_refused_before_anything_is_written(
    explainer: Explainer, photos: PhotoList, tmp_path: Path
) -> None:
    for options, message in (
        ({"methods": ("Grad-CAN",)}, "'Grad-CAN'.*'Grad-CAM'"),
        ({"methods": ()}, "at least one method"),
        ({"count": 9}, r"\d mosaics.*not 9"),
        ({"grid": 3}, "takes 9 of different classes"),
        ({"methods": ("random",), "settings": {"RISE": {}}}, r"\['RISE'\]"),
    ):
        with pytest.raises(TTameError, match=message):
            evaluate_mosaics(explainer, photos, tmp_path / "run.jsonl", **options)  # type: ignore[arg-type]
    assert not list(tmp_path.glob("run*"))


def test_where_no_place_matters_more_than_another_no_map_wins(
    explainer: Explainer, photos: PhotoList, tmp_path: Path
) -> None:
    out = evaluate(
        explainer, photos.select(range(4)), tmp_path / "photos.jsonl", methods=own(explainer),
        metrics=("SDS", "SaCo"), batch_size=3,
    )  # fmt: skip
    table = summary(out)
    # Photos of one colour: all cells cost the same, and the mean that hides pixels is that colour.
    assert table["SDS"].tolist() == table["SaCo"].tolist() == [0] * 6
