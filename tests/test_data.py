"""Finding photos: settings, half-present folders, seeded selections."""

from __future__ import annotations

from pathlib import Path

import pytest

from tests.helpers.photos import photo
from ttame.classifiers.classes import IMAGENETTE, imagenet_classes
from ttame.data import (
    PhotoDataset,
    PhotoList,
    data_root,
    image_folder,
    imagenette,
    open_photos,
    samples,
    split_folders,
)
from ttame.errors import TTameError


@pytest.fixture
def miniature(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> Path:
    """A tree of Imagenette's shape, one photo a class and split."""
    for split in ("train", "val"):
        for wnid in IMAGENETTE:
            photo(tmp_path / "imagenette" / split / wnid / f"{wnid}_1.JPEG")
    monkeypatch.setenv("TTAME_DATA", str(tmp_path))
    return tmp_path


def test_imagenette_carries_imagenet_labels(miniature: Path) -> None:
    found = imagenette("val")
    assert len(found) == 10
    names = [imagenet_classes()[label].split(",")[0] for label in found.labels or ()]
    assert names[:3] == ["tench", "English springer", "cassette player"]
    assert (found.labels or ())[-1] == 701


def test_missing_folder_names_the_remedy(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setenv("TTAME_DATA", str(tmp_path / "nowhere"))
    with pytest.raises(TTameError, match="ttame data imagenette"):
        imagenette("val")


def test_without_the_setting_data_is_looked_in(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.delenv("TTAME_DATA", raising=False)
    monkeypatch.chdir(tmp_path)
    photo(tmp_path / "data" / "mine" / "a.png")
    assert data_root("mine") == Path("data") / "mine"


def test_half_present_data_is_refused(miniature: Path) -> None:
    next((miniature / "imagenette" / "val" / IMAGENETTE[4]).iterdir()).unlink()
    with pytest.raises(TTameError, match=IMAGENETTE[4]):
        imagenette("val")


def test_unknown_split_is_refused(miniature: Path) -> None:
    with pytest.raises(TTameError, match="'test'"):
        imagenette("test")


def test_empty_and_missing_image_folders_are_refused(tmp_path: Path) -> None:
    with pytest.raises(TTameError, match="contains no images"):
        image_folder(tmp_path)
    with pytest.raises(TTameError, match="does not exist"):
        image_folder(tmp_path / "none")


def test_sub_folders_are_classes(tmp_path: Path) -> None:
    for name in ("b/1.png", "a/2.jpg", "a/1.jpg"):
        photo(tmp_path / name)
    (tmp_path / "a" / "notes.txt").write_text("not a photo")
    found = image_folder(tmp_path)
    assert found.names == ("a/1.jpg", "a/2.jpg", "b/1.png")
    assert found.labels == (0, 0, 1)


def test_samples_are_seeded_and_nested() -> None:
    photos = PhotoList("x", Path(), tuple(f"{i}.png" for i in range(50)), tuple(range(50)))
    few, many = photos.sample(5, seed=3), photos.sample(20, seed=3)
    assert few.names == many.names[:5]
    assert few.names != photos.sample(5, seed=4).names
    assert len(set(many.names)) == 20
    assert all(
        name == f"{label}.png" for name, label in zip(many.names, many.labels or (), strict=True)
    )
    with pytest.raises(TTameError, match="positive"):
        photos.sample(0)


def test_shipped_samples_are_read(tmp_path: Path) -> None:
    from ttame.classifiers.registry import backbone_spec

    found = samples()
    assert len(found) >= 12
    image, index = PhotoDataset(found, backbone_spec("tf_efficientnet_lite0"))[3]
    assert image.shape == (3, 224, 224) and index == 3
    assert image.min() >= -1 and image.max() <= 1


def test_photos_are_opened_by_name_or_folder(
    miniature: Path, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    assert open_photos("imagenette") == imagenette("val")
    assert open_photos("imagenette", "train") == imagenette("train")
    assert open_photos("samples") == samples()
    photo(tmp_path / "mine" / "b.png")
    photo(tmp_path / "mine" / "a.png")
    monkeypatch.chdir(tmp_path)
    for folder in (str(tmp_path / "mine"), "mine"):
        found = open_photos(folder)
        assert (found.name, found.names) == ("mine", ("a.png", "b.png"))
        assert all(path.is_file() for path in found.paths)


def test_photos_that_do_not_exist_are_refused_with_what_does(
    miniature: Path, tmp_path: Path
) -> None:
    with pytest.raises(TTameError, match=r"'imagenete'.*'imagenette'.*'samples'.*folder"):
        open_photos("imagenete")
    with pytest.raises(TTameError, match="'test'"):
        open_photos("imagenette", "test")
    photo(tmp_path / "one.png")
    with pytest.raises(TTameError, match=r"one\.png"):  # a file is no folder
        open_photos(str(tmp_path / "one.png"))


def test_what_is_left_out_is_counted_and_said(tmp_path: Path) -> None:
    for name in ("a/1.png", "b/2.TIF", ".ipynb_checkpoints/1.png", "empty/.keep.png"):
        photo(tmp_path / name)
    (tmp_path / "b" / "notes.txt").write_text("no photo")
    with pytest.warns(UserWarning, match=r"2 photos read; left out: .*1 in \.ipynb_checkpoints"):
        found = image_folder(tmp_path)
    assert found.names == ("a/1.png", "b/2.TIF")
    assert found.labels == (0, 1)  # the hidden folder is no class
    assert found.left_out == {
        ".txt": 1, "hidden": 1, "in .ipynb_checkpoints": 1, "folder without photos (empty)": 1,
    }  # fmt: skip
    assert found.select([0]).left_out == found.left_out


def test_linked_folders_are_classes(tmp_path: Path) -> None:
    photo(tmp_path / "store" / "1.png")
    photo(tmp_path / "tree" / "a" / "1.png")
    (tmp_path / "tree" / "b").symlink_to(tmp_path / "store")
    found = image_folder(tmp_path / "tree")
    assert (found.names, found.labels) == (("a/1.png", "b/1.png"), (0, 1))


@pytest.mark.parametrize("held", ["val", "valid", "Validation", "test"])
def test_splits_are_not_classes(tmp_path: Path, held: str) -> None:
    tree = tmp_path / "tree"
    for name in ("train/cat/1.png", "train/dog/2.png", f"{held}/dog/3.png"):
        photo(tree / name)
    both = image_folder(tree)
    by_name = dict(zip(both.names, both.labels or (), strict=True))
    assert by_name == {"train/cat/1.png": 0, "train/dog/2.png": 1, f"{held}/dog/3.png": 1}
    assert open_photos(str(tree), "train").names == ("cat/1.png", "dog/2.png")
    one = open_photos(str(tree))
    assert (one.name, one.names) == (f"tree/{held}", ("dog/3.png",))


def test_folders_that_only_look_like_splits(tmp_path: Path) -> None:
    for name in ("voc/bus/1.png", "voc/train/2.png", "alone/train/1.png", "alone/train/2.png"):
        photo(tmp_path / name)
    assert split_folders(tmp_path / "voc") == {}  # a class named train
    assert image_folder(tmp_path / "voc").labels == (0, 1)
    assert image_folder(tmp_path / "alone").labels is None  # a split without classes
    with pytest.raises(TTameError, match="has the splits train, but none for 'val'"):
        open_photos(str(tmp_path / "alone"))
    photo(tmp_path / "mixed" / "train" / "a" / "1.png")
    photo(tmp_path / "mixed" / "val" / "a" / "1.png")
    (tmp_path / "mixed" / "annotations").mkdir()
    with pytest.warns(UserWarning, match=r"folder without photos \(annotations\)"):
        assert image_folder(tmp_path / "mixed").labels == (0, 0)
    photo(tmp_path / "mixed" / "extra" / "1.png")
    with pytest.raises(TTameError, match=r"holds splits \(train, val\) beside other photos"):
        image_folder(tmp_path / "mixed")
    photo(tmp_path / "mixed" / "valid" / "a" / "1.png")
    with pytest.raises(TTameError, match="several folders for the split 'val': val, valid"):
        open_photos(str(tmp_path / "mixed"))
