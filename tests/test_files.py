"""Folders as people keep them, and names under which nothing is lost."""

from __future__ import annotations

import os
import warnings
from pathlib import Path

import pytest

from tests.helpers.photos import photo
from ttame.errors import TTameError
from ttame.files import describe_left_out, find_images, image_paths, image_suffixes, unique_stems

PHOTOS = ("a.jpg", "b.JPG", "c.jpeg", "d.png", "e.PNG", "f.tif", "g.TIFF", "h.gif", "i.jfif",
          "j.bmp", "k.webp")  # fmt: skip


@pytest.fixture
def kept(tmp_path: Path) -> Path:
    """A folder with every kind of photo, and with what lies around in folders."""
    folder = tmp_path / "kept"
    for name in PHOTOS:
        photo(folder / name)
    for litter in (".ipynb_checkpoints/a.png", "__MACOSX/kept/a.png", "sub/.hidden/a.png",
                   ".hidden.png", "._a.png"):  # fmt: skip
        photo(folder / litter)
    for other in ("notes.txt", "labels.csv", "more.TXT", "LICENSE", ".DS_Store", "raw.nef"):
        (folder / other).write_text("no photo")
    return folder


def test_photos_of_every_kind_are_found_and_the_rest_is_counted(kept: Path) -> None:
    found, left_out = find_images(kept)
    assert [path.name for path in found] == sorted(PHOTOS)
    assert left_out == {
        ".csv": 1, ".nef": 1, ".txt": 2, "hidden": 2, "in .hidden": 1,
        "in .ipynb_checkpoints": 1, "in __MACOSX": 1, "without an ending": 1,
    }  # fmt: skip
    assert describe_left_out({".txt": 2, "hidden": 1}) == "left out: 2 .txt, 1 hidden"


def test_every_suffix_is_one_that_pillow_reads() -> None:
    assert {".jpg", ".jpeg", ".png", ".webp", ".bmp", ".ppm", ".tif", ".gif"} <= image_suffixes()
    assert not {".pdf", ".mpg", ".h5", ".txt", ""} & image_suffixes()


def test_links_are_followed_once(tmp_path: Path) -> None:
    photo(tmp_path / "store" / "cats" / "1.png")
    folder = tmp_path / "linked"
    photo(folder / "dogs" / "1.png")
    os.symlink(tmp_path / "store" / "cats", folder / "cats")
    os.symlink(folder, folder / "dogs" / "again")  # a circle
    os.symlink(tmp_path / "nowhere.png", folder / "gone.png")
    os.symlink(folder / "self.png", folder / "self.png")
    found, left_out = find_images(folder)
    assert [path.relative_to(folder).as_posix() for path in found] == ["cats/1.png", "dogs/1.png"]
    assert left_out == {"broken link": 2, "link back to a folder that holds it (again)": 1}


def test_a_folder_without_images_says_what_it_holds(tmp_path: Path) -> None:
    (tmp_path / "a.heix").write_text("")
    with pytest.raises(TTameError, match=r"contains no images \(.*\.jpg.*\); left out: 1 \.heix"):
        find_images(tmp_path)
    with pytest.raises(TTameError, match="does not exist"):
        find_images(tmp_path / "none")


def test_a_path_may_mean_several_images(kept: Path) -> None:
    with pytest.warns(UserWarning, match=r"11 photos read; left out: 1 \.csv") as caught:
        assert len(image_paths(kept)) == 11
    assert len(caught) == 1
    with warnings.catch_warnings():
        warnings.simplefilter("error")
        assert image_paths(str(kept / "[bd]*")) == [kept / "b.JPG", kept / "d.png"]
        assert image_paths(kept / "a.jpg") == [kept / "a.jpg"]
        assert image_paths("none.jpg") == [Path("none.jpg")]  # whoever reads it will say so
    photo(kept / "[x].png")  # a name, though it looks like a pattern
    assert image_paths(kept / "[x].png") == [kept / "[x].png"]
    with pytest.raises(TTameError, match=r"no file fits the pattern .*\*\.xyz"):
        image_paths(kept / "*.xyz")


@pytest.mark.parametrize(
    ("paths", "names"),
    [
        (["cat.jpg"], ["cat"]),
        (["cat.jpg", "dog.jpg"], ["cat", "dog"]),
        (["pets/cat.jpg", "zoo/cat.jpg", "zoo/dog.jpg"], ["pets_cat", "zoo_cat", "dog"]),
        (["cat.jpg", "cat.png"], ["cat_jpg", "cat_png"]),
        (["cat.jpg", "zoo/cat.jpg"], ["cat", "zoo_cat"]),
        (["a/x/cat.jpg", "a/y/cat.jpg", "a/y/cat.png"], ["x_cat", "y_cat_jpg", "y_cat_png"]),
        (["pets/Cat.jpg", "zoo/cat.jpg"], ["pets_Cat", "zoo_cat"]),
        (["Cat.jpg", "cat.jpg"], ["Cat_jpg", "cat_jpg_2"]),
        (["cat.jpg", "cat.jpg"], ["cat_jpg", "cat_jpg_2"]),
        (["a/cat.jpg", "b/cat.jpg", "a_cat.jpg"], ["a_cat_jpg", "b_cat", "a_cat_jpg_2"]),
        (["photo.v1.jpg", "photo.v2.jpg"], ["photo.v1", "photo.v2"]),
        (["a/photo.v1.jpg", "b/photo.v1.jpg"], ["a_photo.v1", "b_photo.v1"]),
    ],
    ids=str,
)
def test_names_are_unique_and_tell_where_they_come_from(paths: list[str], names: list[str]) -> None:
    assert unique_stems(paths) == names
    assert len({name.casefold() for name in names}) == len(names)
    assert unique_stems([Path("/photos") / path for path in paths]) == names
