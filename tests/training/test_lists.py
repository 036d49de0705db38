"""List files and folder trees: what is read from them, and which line is wrong."""

from __future__ import annotations

from pathlib import Path

import pytest

from tests.helpers.photos import photo
from ttame.data import PhotoList
from ttame.errors import TTameError
from ttame.training.lists import check_present, has_splits, read_list, training_photos


@pytest.fixture
def root(tmp_path: Path) -> Path:
    for name in ("n01/a.JPEG", "n01/b c.JPEG", "n02/d.JPEG"):
        photo(tmp_path / "images" / name)
    return tmp_path / "images"


def write(path: Path, text: str) -> Path:
    path.write_text(text, encoding="utf-8")
    return path


def test_a_line_is_a_path_and_a_class_index(root: Path, tmp_path: Path) -> None:
    path = write(tmp_path / "train.txt", "n01/a.JPEG 0\nn01/b c.JPEG 0\r\nn02/d.JPEG 999\n\n")
    found = read_list(path, root, classes=1000)
    assert (found.name, found.root) == ("train", root)
    assert found.names == ("n01/a.JPEG", "n01/b c.JPEG", "n02/d.JPEG")
    assert found.labels == (0, 0, 999)
    assert all(path.is_file() for path in found.paths)


def test_lists_as_editors_and_tools_write_them(root: Path, tmp_path: Path) -> None:
    photo(root / "n02" / "#1 d.JPEG")
    text = (
        "\ufeffn01/a.JPEG\t0\r\n"  # a byte-order mark, a tab, a carriage return
        "# path and class\r\n"
        "  n01/b c.JPEG \t 1  \r\n"
        '"n01/b c.JPEG" 2\r\n'
        "'n02/d.JPEG'\t3\r\n"
        "n02/d.JPEG 4 # class 7\r\n"
        "n02/#1 d.JPEG 5\r\n"
        "#n02/none.JPEG 6\r\n"
    )
    found = read_list(write(tmp_path / "train.txt", text), root, classes=6)
    assert found.names == (
        "n01/a.JPEG", "n01/b c.JPEG", "n01/b c.JPEG", "n02/d.JPEG", "n02/d.JPEG", "n02/#1 d.JPEG",
    )  # fmt: skip
    assert found.labels == (0, 1, 2, 3, 4, 5)
    assert found.left_out == {"comment lines": 2}
    with pytest.raises(TTameError, match=r"holds only comments \(2\)"):
        read_list(write(tmp_path / "notes.txt", "# a\n#b\n"), root)


def test_a_photo_whose_name_begins_like_a_comment_is_no_comment(root: Path) -> None:
    photo(root / "#1.JPEG")
    assert read_list(write(root / "list.txt", "#1.JPEG 3\n# 1.JPEG 3\n")).names == ("#1.JPEG",)


def test_paths_are_relative_to_the_list_without_a_root(root: Path) -> None:
    found = read_list(write(root / "list.txt", "n02/d.JPEG 1"))
    assert found.paths == [root / "n02" / "d.JPEG"]


@pytest.mark.parametrize(
    ("line", "reason"),
    [
        ("n01/a.JPEG", "lacks the path or the index"),
        ("", "lacks the path or the index"),
        ("7", "lacks the path or the index"),
        ("n01/a.JPEG tench", "ends in 'tench', no class index"),
        ("n01/a.JPEG -1", "ends in '-1', no class index"),
        ("n01/a.JPEG 1.0", r"ends in '1\.0', no class index"),
        ("n01/a.JPEG 1000", r"has a class index beyond 0\.\.999"),
    ],
)
def test_a_malformed_line_is_named_by_its_number(
    root: Path, tmp_path: Path, line: str, reason: str
) -> None:
    path = write(tmp_path / "train.txt", f"n01/a.JPEG 0\nn01/a.JPEG 1\n{line}\nn02/d.JPEG 2\n")
    with pytest.raises(TTameError, match=rf"train\.txt'.* line 3, '.*', {reason}$"):
        read_list(path, root, classes=1000)


def test_many_malformed_lines_are_counted(root: Path, tmp_path: Path) -> None:
    path = write(tmp_path / "train.txt", "n01/a.JPEG 0\n" + "x\n" * 9)
    with pytest.raises(TTameError, match=r"line 2.*line 6, .*and 4 more") as caught:
        read_list(path, root)
    assert "line 7" not in str(caught.value)


def test_lists_that_cannot_be_used_are_named(root: Path, tmp_path: Path) -> None:
    with pytest.raises(TTameError, match=r"none\.txt' does not exist"):
        read_list(tmp_path / "none.txt")
    with pytest.raises(TTameError, match=r"empty\.txt' is empty"):
        read_list(write(tmp_path / "empty.txt", " \n"))
    (tmp_path / "binary.txt").write_bytes(b"\xff\xfe\x00")
    with pytest.raises(TTameError, match="is not UTF-8"):
        read_list(tmp_path / "binary.txt")
    path = write(tmp_path / "train.txt", "n01/a.JPEG 0\n")
    with pytest.raises(TTameError, match=r"first photo.*a\.JPEG.*--image-root"):
        read_list(path, tmp_path / "elsewhere")


def test_a_missing_photo_further_down_is_named(root: Path, tmp_path: Path) -> None:
    found = read_list(write(tmp_path / "train.txt", "n01/a.JPEG 0\nn02/x.JPEG 1\n"), root)
    with pytest.raises(TTameError, match=r"n02/x\.JPEG' of train does not exist"):
        check_present(found)


def test_a_folder_tree_has_its_splits(tmp_path: Path) -> None:
    tree = tmp_path / "imagenet"
    for split, count in (("train", 3), ("val", 1)):
        for wnid in ("n01440764", "n02102040"):
            for index in range(count):
                photo(tree / split / wnid / f"{wnid}_{index}.JPEG")
    found = training_photos(str(tree), "train")
    assert (found.name, len(found), set(found.labels or ())) == ("imagenet/train", 6, {0, 1})
    assert len(training_photos(str(tree), "val")) == 2
    assert not has_splits(str(tmp_path / "none"))
    assert has_splits(str(tree)) and not has_splits(str(tree / "val"))
    assert len(training_photos(str(tree / "train"), "train")) == 6  # any image folder
    with pytest.raises(TTameError, match="goes with a list file"):
        training_photos(str(tree), "train", tmp_path)
    with pytest.raises(TTameError, match="nowhere"):
        training_photos(str(tmp_path / "nowhere"), "train")


def test_photos_for_the_test_are_not_held_out_in_training(tmp_path: Path) -> None:
    for name in ("train/a/1.png", "test/a/2.png"):
        photo(tmp_path / name)
    assert not has_splits(str(tmp_path))
    assert training_photos(str(tmp_path), "train").names == ("a/1.png",)
    photo(tmp_path / "valid" / "a" / "3.png")
    assert has_splits(str(tmp_path))
    assert training_photos(str(tmp_path), "val").names == ("a/3.png",)


@pytest.mark.data
def test_imagenette_by_name_has_both_splits(imagenette_val: PhotoList) -> None:
    assert has_splits("imagenette")
    assert training_photos("imagenette", "val") == imagenette_val
    assert training_photos("imagenette", "train").name == "imagenette/train"
