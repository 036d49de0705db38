"""Photos to train on, as large data sets have them: folder trees with splits, and list files."""

from __future__ import annotations

import re
from pathlib import Path

from ttame.data import PhotoList, open_photos, split_folders
from ttame.errors import TTameError

_SHOWN = 5  # malformed lines that a message names
_COMMENT = re.compile(r"(?:^|\s)#")


def read_list(
    path: Path | str, root: Path | str | None = None, classes: int | None = None
) -> PhotoList:
    """Read a list file in the authors' format: a photo's path and its class index per line.

    The index is what follows the last space or tab; a path may hold spaces, or stand in quotes.
    Lines that begin with `#` and name no photo are comments, and so is what follows an index and
    ` #`. Paths are relative to `root`. Whether the first photo exists is checked here, the others
    when they are read.

    Args:
        path: The list, UTF-8, with or without a byte-order mark.
        root: Folder of the photos; default: the list's own.
        classes: How many classes there are, to check the indices.

    Raises:
        TTameError: If the list is missing, empty or no text, if its first photo does not exist,
            or if lines are malformed, which are named with their numbers.
    """
    path = Path(path)
    folder = Path(root) if root is not None else path.parent
    if not path.is_file():
        raise TTameError(f"list file {str(path)!r} does not exist")
    try:
        # Not `splitlines`, which also splits at characters that a file name may hold.
        lines = path.read_text(encoding="utf-8-sig").rstrip().split("\n")
    except UnicodeDecodeError as error:
        raise TTameError(f"list file {str(path)!r} is not UTF-8 text: {error}") from error
    names, labels, wrong, comments = [], [], [], 0
    for number, line in enumerate(lines, start=1):
        name, index = _entry(line)
        reason = _malformed(name, index, classes)
        if "#" in line and (reason or not (folder / name).is_file()):
            bare = _COMMENT.split(line, maxsplit=1)[0].strip()
            if not bare:
                comments += 1
                continue
            if not _malformed(*_entry(bare), classes):
                (name, index), reason = _entry(bare), ""
        if reason:
            wrong.append(f"line {number}, {line.strip()[:80]!r}, {reason}")
        else:
            names.append(name)
            labels.append(int(index))
    if lines == [""]:
        raise TTameError(f"list file {str(path)!r} is empty")
    if wrong:
        more = f"; and {len(wrong) - _SHOWN} more" if len(wrong) > _SHOWN else ""
        raise TTameError(
            f"list file {str(path)!r} must hold a photo's path, a space and its class index a "
            f"line: {'; '.join(wrong[:_SHOWN])}{more}"
        )
    if not names:
        raise TTameError(f"list file {str(path)!r} holds only comments ({comments})")
    if not (folder / names[0]).is_file():
        raise TTameError(
            f"list file {str(path)!r}: its first photo, {str(folder / names[0])!r}, does not "
            "exist; name the folder that the paths are relative to (--image-root)"
        )
    left_out = {"comment lines": comments} if comments else {}
    return PhotoList(path.stem, folder, tuple(names), tuple(labels), left_out)


def training_photos(
    data: str, split: str, root: Path | str | None = None, classes: int | None = None
) -> PhotoList:
    """Photos of a split, whatever form the data has.

    Args:
        data: A list file (`read_list`), or a folder or name that `ttame.data.open_photos` knows;
            a folder may have sub-folders `train` and `val` of one folder per class (ImageNet's
            form).
        split: `"train"` or `"val"`; lists and plain folders have none.
        root: Folder of a list's photos.
        classes: How many classes there are, to check a list.

    Raises:
        TTameError: If there is no such data, or it is malformed.
    """
    path = Path(data)
    if path.is_file():
        return read_list(path, root, classes)
    if root is not None:
        raise TTameError(f"an image root goes with a list file; {data!r} is none")
    return open_photos(data, split)


def has_splits(data: str) -> bool:
    """Whether training photos and held-out photos come with the data; `test` is not held out."""
    if data in ("imagenette", "photos", "drawn"):
        return True
    return Path(data).is_dir() and {"train", "val"} <= split_folders(data).keys()


def check_present(photos: PhotoList, count: int = 1000) -> None:
    """Look for photos on disk, a seeded sample of them.

    Raises:
        TTameError: Naming the first that is missing.
    """
    for path in photos.sample(count).paths:
        if not path.is_file():
            raise TTameError(
                f"photo {str(path)!r} of {photos.name} does not exist; correct the list, or "
                "fetch the data again"
            )


def _entry(line: str) -> tuple[str, str]:
    """Divide a line into path and index, both empty where one is missing."""
    parts = line.rsplit(maxsplit=1)
    if len(parts) < 2:
        return "", ""
    name, index = parts[0].strip(), parts[1]
    quoted = len(name) > 1 and name[0] == name[-1] and name[0] in "\"'"
    return name[1:-1] if quoted else name, index


def _malformed(name: str, index: str, classes: int | None) -> str:
    """What is wrong with a line; empty where nothing is."""
    if not name:
        return "lacks the path or the index"
    if not index.isascii() or not index.isdigit():
        return f"ends in {index!r}, no class index"
    if classes is not None and int(index) >= classes:
        return f"has a class index beyond 0..{classes - 1}"
    return ""
