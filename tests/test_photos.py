"""The data set of many kinds: divided by category, written down, refused where it is not whole."""

from __future__ import annotations

import json
from pathlib import Path

import pytest
from PIL import Image

from ttame.data import (
    categories,
    data_root,
    many_kinds,
    open_photos,
    read_division,
    sources,
    split_categories,
)
from ttame.errors import TTameError
from ttame.files import shipped


def test_division_is_by_category_and_seeded() -> None:
    found = {f"kind {i}": [f"{i}/{j}.jpg" for j in range(i + 1)] for i in range(10)}
    division = split_categories(found, share=0.4, each=5, seed=0)
    assert len(division["val"]) == 4 and len(division["train"]) == 6
    assert set(division["val"]) | set(division["train"]) == set(found)
    for name in division["val"]:
        drawn = [photo for photo in division["val_photos"] if photo in found[name]]
        assert len(drawn) == min(5, len(found[name]))
    assert division == split_categories(found, share=0.4, each=5, seed=0)
    assert division != split_categories(found, share=0.4, each=5, seed=1)


def test_shipped_division_has_enough_kinds() -> None:
    division = read_division(shipped("splits") / "photos.json")
    assert len(division["val"]) >= 100 and len(division["val_photos"]) >= 500


def test_a_category_in_both_splits_is_refused(tmp_path: Path) -> None:
    path = tmp_path / "photos.json"
    path.write_text(json.dumps({"train": ["cat", "dog"], "val": ["dog"], "val_photos": []}))
    with pytest.raises(TTameError, match="'dog' is in both splits"):
        read_division(path)


def save(path: Path) -> None:
    path.parent.mkdir(parents=True, exist_ok=True)
    Image.new("RGB", (8, 8)).save(path)


def test_categories_join_sources_and_leave_out_no_kinds(tmp_path: Path) -> None:
    root = tmp_path / "photos"
    save(root / "caltech101" / "Sea_Horse" / "image_0001.jpg")
    save(root / "caltech101" / "BACKGROUND_Google" / "image_0001.jpg")
    save(root / "imagenet_det" / "n01_7_sea_horse.jpg")
    assert categories(tmp_path) == {
        "sea horse": [
            "photos/caltech101/Sea_Horse/image_0001.jpg",
            "photos/imagenet_det/n01_7_sea_horse.jpg",
        ]
    }


def test_missing_sources_and_unknown_categories_are_named(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setenv("TTAME_DATA", str(tmp_path))
    with pytest.raises(TTameError, match="no folder 'photos'"):
        many_kinds("val")
    save(tmp_path / "photos" / "caltech101" / "unheard_of" / "image_0001.jpg")
    with pytest.raises(TTameError, match="validation photos are missing"):
        many_kinds("val")
    with pytest.raises(TTameError, match=r"lacks .*imagenet_det"):
        many_kinds("train")
    save(tmp_path / "photos" / "imagenet_det" / "n01_7_cat.jpg")
    with pytest.raises(TTameError, match="'cat' is in neither split"):
        many_kinds("train")
    with pytest.raises(TTameError, match="split must be"):
        many_kinds("test")


@pytest.mark.data
def test_real_photos_follow_the_written_division() -> None:
    try:
        root = data_root("photos").parent
    except TTameError as error:
        pytest.skip(str(error))
    division = read_division(shipped("splits") / "photos.json")
    assert split_categories(categories(root)) == division
    train, val = open_photos("photos", "train"), open_photos("photos", "val")
    assert not set(train.names) & set(val.names)
    assert set(sources(train)) == {"caltech101", "imagenet_det", "imagenette"}
    assert sum(sources(train).values()) == len(train)
    assert len(val) >= 500
