"""Files: atomic writing, folders of images, names for outputs, and what ships with `ttame`."""

from __future__ import annotations

import glob
import os
import tempfile
import warnings
from collections import Counter
from collections.abc import Iterator, Mapping, Sequence
from contextlib import contextmanager, suppress
from itertools import count
from pathlib import Path

from PIL import Image

from ttame.errors import TTameError

# Endings of photos among the many that Pillow reads (those without a decoder here drop out below).
_PHOTOS = (
    ".apng", ".avif", ".bmp", ".dib", ".gif", ".heic", ".heif", ".j2k", ".jfif", ".jp2", ".jpe",
    ".jpeg", ".jpg", ".jpx", ".pbm", ".pgm", ".png", ".pnm", ".ppm", ".tga", ".tif", ".tiff",
    ".webp",
)  # fmt: skip
_LITTER = {"__macosx", "@eadir", "$recycle.bin"}  # folders that systems and archives leave behind
_LONGEST = 240  # bytes of a file name; disks take 255, the temporary one is longer


@contextmanager
def replacing(path: Path | str) -> Iterator[Path]:
    """Yield a temporary path beside `path`, renamed to `path` when the block succeeds.

    On any failure, including an interrupt or a full disk, the temporary file is removed and
    `path` is left unchanged.

    Raises:
        TTameError: If the operating system refuses to write.
    """
    final = Path(path)
    if not final.name or "\0" in str(final):
        raise TTameError(f"cannot write {str(path)!r}, which is no name of a file")
    temporary = None
    try:
        final.parent.mkdir(parents=True, exist_ok=True)
        handle, name = tempfile.mkstemp(
            dir=final.parent, prefix=f".{final.stem}.", suffix=final.suffix
        )
        os.close(handle)
        temporary = Path(name)
        yield temporary
        with temporary.open("rb+") as written:
            os.fsync(written.fileno())
        temporary.chmod(0o644)  # mkstemp makes files that only the owner can read
        temporary.replace(final)
    except BaseException as error:
        if temporary is not None:
            with suppress(OSError):
                temporary.unlink()
        if isinstance(error, OSError):
            reason = error.strerror or error
            raise TTameError(f"cannot write {str(final)!r}: {reason}; nothing changed") from error
        raise


def inside(folder: Path | str, stem: str, ending: str) -> Path:
    """Join a folder and a file name that must not lead out of it.

    Args:
        folder: The folder.
        stem: Name of a file without its ending, from the user.
        ending: What follows, such as `".cat.png"`.

    Raises:
        TTameError: If `stem` is empty, holds a separator or another character that no file name
            may hold, is `.` or `..`, or is too long.
    """
    wrong = ""
    if stem.strip() in ("", ".", ".."):
        wrong = "is no name"
    elif any(character in "/\\\x7f" or character < " " for character in stem):
        wrong = "holds a separator or a control character"
    else:
        try:
            if len(os.fsencode(stem + ending)) > _LONGEST:
                wrong = f"is too long, more than {_LONGEST} bytes with {ending[:80]!r}"
        except UnicodeEncodeError:
            wrong = "holds half a character (a lone surrogate)"
    if wrong:
        shown = repr(stem) if len(stem) <= 80 else f"{stem[:80]!r}..."
        raise TTameError(
            f"file name {shown} {wrong}; give a plain name without folders, such as 'photo_0', "
            "and the folder apart"
        )
    return Path(folder) / f"{stem}{ending}"


def shipped(kind: str) -> Path:
    """Return the folder of shipped files: `samples`, `explainers`, `results`, `runtime`, ...

    In a wheel it lies beside the modules; in a checkout, in the repository's `data/`.

    Raises:
        TTameError: If neither exists.
    """
    here = Path(__file__).resolve().parent
    for folder in (here / "_data" / kind, here.parent / "data" / kind):
        if folder.is_dir():
            return folder
    raise TTameError(f"this installation of ttame has no {kind}; reinstall the wheel")


def image_suffixes() -> frozenset[str]:
    """Return the endings of image files that are read, in lower case, such as `".jpg"`."""
    known = Image.registered_extensions()  # plugins such as pillow-heif add theirs
    return frozenset(suffix for suffix in _PHOTOS if known.get(suffix) in Image.OPEN)


def find_images(folder: Path | str) -> tuple[list[Path], dict[str, int]]:
    """Find the images below a folder, through symbolic links.

    Hidden files and folders (`.ipynb_checkpoints`) and what systems leave behind (`__MACOSX`) are
    left out, and so are other kinds of files, and links back to a folder that holds them. Where
    there is no photo, arrays (`.npy`) are the images; beside photos they are left out.

    Args:
        folder: Folder to search.

    Returns:
        The images, sorted by path, and the number of files left out, by reason. Hidden files
        count only if they look like images.

    Raises:
        TTameError: If the folder does not exist, cannot be read or holds no images.
    """
    top = Path(folder)
    if not top.is_dir():
        raise TTameError(f"image folder {str(top)!r} does not exist")
    suffixes = image_suffixes()
    photos: list[Path] = []
    arrays: list[Path] = []
    left_out: Counter[str] = Counter()

    def search(here: Path, above: frozenset[Path], hidden: str) -> None:
        real = here.resolve()
        if real in above:
            left_out[f"link back to a folder that holds it ({here.name})"] += 1
            return
        try:
            with os.scandir(here) as listed:
                entries = list(listed)
        except OSError as error:
            raise TTameError(
                f"folder {str(here)!r} cannot be read: {error.strerror or error}"
            ) from error
        for entry in entries:
            path = here / entry.name
            litter = is_litter(path)
            place = path if entry.is_symlink() else entry  # an entry knows its kind at no cost
            if place.is_dir():
                search(path, above | {real}, hidden or (entry.name if litter else ""))
            elif (suffix := path.suffix.lower()) in suffixes or suffix == ".npy":
                if hidden or litter:
                    left_out[f"in {hidden}" if hidden else "hidden"] += 1
                elif place.is_file():
                    (arrays if suffix == ".npy" else photos).append(path)
                else:
                    left_out["broken link"] += 1
            elif not (litter or hidden):
                left_out[suffix or "without an ending"] += 1

    search(top, frozenset(), "")
    if photos and arrays:
        left_out[".npy"] = len(arrays)
    found = photos or arrays
    if not found:
        why = f"; {describe_left_out(left_out)}" if left_out else ""
        raise TTameError(
            f"image folder {str(top)!r} contains no images ({', '.join(sorted(suffixes))}){why}"
        )
    return sorted(found), dict(sorted(left_out.items()))


def image_paths(path: Path | str) -> list[Path]:
    """List the images that a path means: those of a folder or pattern, sorted, or one.

    A warning counts what is left out of a folder.

    Args:
        path: A folder (`find_images`), a pattern such as `"photos/*.jpg"`, or a file, whether it
            exists or not.

    Raises:
        TTameError: If a folder holds no images, or no file fits a pattern.
    """
    path = Path(path)
    if os.path.isdir(path):  # unlike path.is_dir(), it takes names that are too long
        found, left_out = find_images(path)
        if left_out:
            more = describe_left_out(left_out)
            warnings.warn(f"{str(path)!r}: {len(found)} photos read; {more}", stacklevel=2)
        return found
    if os.path.exists(path) or not glob.has_magic(str(path)):
        return [path]
    found = sorted(Path(name) for name in glob.glob(str(path), recursive=True))
    if not found:
        raise TTameError(f"no file fits the pattern {str(path)!r}")
    return found


def is_litter(path: Path) -> bool:
    """Return whether a file or folder is hidden or left behind by a system, going by its name."""
    return path.name.startswith(".") or path.name.lower() in _LITTER


def describe_left_out(left_out: Mapping[str, int]) -> str:
    """Say what was left out and how often, as in `"left out: 2 .txt, 1 hidden"`."""
    return f"left out: {', '.join(f'{number} {reason}' for reason, number in left_out.items())}"


def unique_stems(paths: Sequence[Path | str]) -> list[str]:
    """Name outputs after their input files, so that no two share a name.

    A file gives its stem, `"cat"`. Files of one stem are preceded by the folders that tell them
    apart, `"pets_cat"` and `"zoo_cat"`; those of one folder are followed by their endings,
    `"cat_jpg"` and `"cat_png"`; what is still the same is numbered. Names that differ only in case
    count as the same, since some disks hold them so.

    Args:
        paths: Input files.

    Returns:
        One name per path; the same paths always give the same names.
    """
    whole = [Path(os.path.abspath(path)) for path in paths]
    groups: dict[str, list[Path]] = {}
    for path in whole:
        groups.setdefault(path.stem.casefold(), []).append(path)
    tops = {stem: os.path.commonpath([p.parent for p in group]) for stem, group in groups.items()}
    long = ["_".join(p.relative_to(tops[p.stem.casefold()]).with_suffix("").parts) for p in whole]
    shared = Counter(name.casefold() for name in long)
    taken: set[str] = set()
    names = []
    for path, name in zip(whole, long, strict=True):
        if shared[name.casefold()] > 1:
            name = f"{name}_{path.suffix.lstrip('.')}"
        numbered = (name if number == 1 else f"{name}_{number}" for number in count(1))
        names.append(next(item for item in numbered if item.casefold() not in taken))
        taken.add(names[-1].casefold())
    return names
