"""ONNX Runtime for browsers: the pinned copy that pages carry, checked, and how to renew it.

Two files of the npm package `onnxruntime-web` (MIT), as they are there but compressed: a script,
and the WebAssembly that runs networks on the CPU, the smallest of its builds. `runtime.json` beside
them holds package, version and SHA-256 of both.

    python -m ttame.companion.page.runtime 1.30.0
"""

from __future__ import annotations

import hashlib
import json
import lzma
import shutil
import subprocess
import sys
import tarfile
import tempfile
from collections.abc import Mapping
from dataclasses import dataclass
from pathlib import Path

from ttame.errors import TTameError
from ttame.files import replacing, shipped

PACKAGE = "onnxruntime-web"
SCRIPT, WASM = "ort.wasm.bundle.min.mjs", "ort-wasm-simd-threaded.wasm"
_RECORD = "runtime.json"


@dataclass(frozen=True, repr=False)
class Runtime:
    """What runs an ONNX network in a browser.

    Attributes:
        version: Version of the npm package.
        script: JavaScript module.
        wasm: WebAssembly, uncompressed.
        licence: Text of the licence, which goes where the files go.
    """

    version: str
    script: bytes
    wasm: bytes
    licence: str


def read_runtime(folder: Path | None = None) -> Runtime:
    """Read the runtime and check it against its recorded digests.

    Args:
        folder: Folder that holds it; default: the shipped one.

    Raises:
        TTameError: If a file is missing or is not the recorded one.
    """
    folder = shipped("runtime") if folder is None else folder
    try:
        record = json.loads((folder / _RECORD).read_text(encoding="utf-8"))
        script, wasm = (
            lzma.decompress((folder / f"{name}.xz").read_bytes()) for name in (SCRIPT, WASM)
        )
        licence = (folder / "LICENSE").read_text(encoding="utf-8")
        version, digests = str(record["version"]), dict(record["sha256"])
    except (OSError, ValueError, TypeError, KeyError, lzma.LZMAError, EOFError) as error:
        raise TTameError(
            f"the runtime in {str(folder)!r} cannot be read ({error}); reinstall ttame, or fetch "
            "it again with make runtime"
        ) from error
    for name, content in ((SCRIPT, script), (WASM, wasm)):
        found, expected = _digest(content), digests.get(name)
        if found != expected:
            raise TTameError(
                f"{name} in {str(folder)!r} has SHA-256 {found}, its record says {expected}; "
                "reinstall ttame, or fetch it again with make runtime"
            )
    return Runtime(version, script, wasm, licence)


def fetch_runtime(version: str, folder: Path) -> Path:
    """Fetch a version by `npm pack`, which checks it against the registry, and record its digests.

    The licence in the folder is left as it is: the package has none of its own.

    Args:
        version: Version of the npm package, such as `"1.30.0"`.
        folder: Folder to write to.

    Returns:
        The record.

    Raises:
        TTameError: If npm is missing or refuses, or the package lacks a file or is another one
            than the record in the folder has under the same version.
    """
    if shutil.which("npm") is None:
        raise TTameError("npm is not on the PATH; install Node.js, which brings it")
    with tempfile.TemporaryDirectory() as place:
        command = ["npm", "pack", f"{PACKAGE}@{version}", "--json", "--pack-destination", place]
        done = subprocess.run(command, capture_output=True, text=True, cwd=place)
        if done.returncode != 0:
            lines = done.stderr.strip().splitlines() or ["no reason given"]
            raise TTameError(f"npm cannot fetch {PACKAGE}@{version}: {lines[0]}")
        (packed,) = json.loads(done.stdout)
        known = _recorded(folder, packed["version"])
        if known not in (None, packed["integrity"]):
            raise TTameError(
                f"{PACKAGE}@{version} has integrity {packed['integrity']}, the record in "
                f"{str(folder)!r} says {known}; the package has been changed, look into it first"
            )
        found = _members(Path(place) / packed["filename"], (SCRIPT, WASM))
    record = {
        "package": PACKAGE,
        "version": packed["version"],
        "integrity": packed["integrity"],  # of the whole package, as npm states it
        "sha256": {name: _digest(content) for name, content in found.items()},
    }
    written = {
        f"{name}.xz": lzma.compress(content, preset=9 | lzma.PRESET_EXTREME)
        for name, content in found.items()
    }
    written[_RECORD] = (json.dumps(record, indent=2) + "\n").encode()
    for name, content in written.items():
        with replacing(folder / name) as temporary:
            temporary.write_bytes(content)
    return folder / _RECORD


def _recorded(folder: Path, version: str) -> str | None:
    """Return the integrity that the record in a folder states of a version, if it does."""
    path = folder / _RECORD
    record = json.loads(path.read_text(encoding="utf-8")) if path.is_file() else {}
    return record["integrity"] if record.get("version") == version else None


def _members(archive: Path, names: tuple[str, ...]) -> Mapping[str, bytes]:
    """Read files of `package/dist` from an npm archive."""
    with tarfile.open(archive) as opened:
        members = {member.name: member for member in opened.getmembers() if member.isfile()}
        found = {}
        for name in names:
            member = members.get(f"package/dist/{name}")
            content = None if member is None else opened.extractfile(member)
            if content is None:
                raise TTameError(f"{archive.name} holds no dist/{name}; its layout has changed")
            found[name] = content.read()
    return found


def _digest(content: bytes) -> str:
    return hashlib.sha256(content).hexdigest()


if __name__ == "__main__":
    try:
        wanted = sys.argv[1] if len(sys.argv) > 1 else read_runtime().version
        print(f"fetched {PACKAGE}: {fetch_runtime(wanted, shipped('runtime'))}")
    except TTameError as error:
        sys.exit(f"error: {error}")
