"""The vendored ONNX Runtime: what is shipped is what its record says, and nothing else passes."""

from __future__ import annotations

import io
import json
import lzma
import shutil
import subprocess
import tarfile
from pathlib import Path
from typing import Any

import pytest

from ttame.companion.page import runtime
from ttame.companion.page.runtime import SCRIPT, WASM, fetch_runtime, read_runtime
from ttame.errors import TTameError
from ttame.files import shipped


@pytest.fixture
def folder(tmp_path: Path) -> Path:
    return Path(shutil.copytree(shipped("runtime"), tmp_path / "runtime"))


def test_shipped_runtime_is_the_recorded_one_with_its_licence() -> None:
    found = read_runtime()
    assert found.wasm.startswith(b"\0asm")
    assert f"ONNX Runtime Web v{found.version}" in found.script[:200].decode()
    assert found.licence.startswith("MIT License") and "Microsoft Corporation" in found.licence


def test_a_changed_file_is_refused(folder: Path) -> None:
    (folder / f"{SCRIPT}.xz").write_bytes(lzma.compress(b"another script"))
    with pytest.raises(TTameError, match=rf"{SCRIPT} in .* has SHA-256 \w+, its record says \w+; "):
        read_runtime(folder)


@pytest.mark.parametrize("name", [f"{SCRIPT}.xz", f"{WASM}.xz", "LICENSE", "runtime.json"])
def test_a_missing_file_is_named(folder: Path, name: str) -> None:
    (folder / name).unlink()
    with pytest.raises(TTameError, match=rf"cannot be read \(.*{name}.*make runtime"):
        read_runtime(folder)


def test_truncated_files_and_records_are_refused(folder: Path) -> None:
    packed = folder / f"{WASM}.xz"
    packed.write_bytes(packed.read_bytes()[:-100])
    with pytest.raises(TTameError, match="cannot be read"):
        read_runtime(folder)
    (folder / "runtime.json").write_text("{}")
    with pytest.raises(TTameError, match="cannot be read"):
        read_runtime(folder)


def packing(monkeypatch: pytest.MonkeyPatch, names: dict[str, bytes], integrity: str) -> None:
    """Put a package of these files in npm's place."""

    def run(command: list[str], **_: Any) -> subprocess.CompletedProcess[str]:
        assert command[:3] == ["npm", "pack", "onnxruntime-web@1.2.3"]
        with tarfile.open(Path(command[-1]) / "packed.tgz", "w:gz") as archive:
            for name, content in names.items():
                entry = tarfile.TarInfo(f"package/dist/{name}")
                entry.size = len(content)
                archive.addfile(entry, io.BytesIO(content))
        said = [{"filename": "packed.tgz", "version": "1.2.3", "integrity": integrity}]
        return subprocess.CompletedProcess(command, 0, json.dumps(said), "")

    monkeypatch.setattr(runtime.shutil, "which", lambda name: name)
    monkeypatch.setattr(runtime.subprocess, "run", run)


def test_a_fetched_version_is_recorded_and_read_again(
    folder: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    packing(monkeypatch, {SCRIPT: b"script", WASM: b"\0asm"}, "sha512-a")
    fetch_runtime("1.2.3", folder)
    found = read_runtime(folder)
    assert (found.version, found.script, found.wasm) == ("1.2.3", b"script", b"\0asm")
    packing(monkeypatch, {SCRIPT: b"another", WASM: b"\0asm"}, "sha512-b")
    with pytest.raises(TTameError, match=r"1\.2\.3 has integrity sha512-b, .* says sha512-a"):
        fetch_runtime("1.2.3", folder)
    assert read_runtime(folder) == found


def test_what_npm_cannot_give_is_named(folder: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    before = read_runtime(folder)
    packing(monkeypatch, {SCRIPT: b"script"}, "sha512-a")
    with pytest.raises(TTameError, match=rf"packed\.tgz holds no dist/{WASM}"):
        fetch_runtime("1.2.3", folder)
    failed = subprocess.CompletedProcess([], 1, "", "npm error code E404\nmore")
    monkeypatch.setattr(runtime.subprocess, "run", lambda *_, **__: failed)
    with pytest.raises(
        TTameError, match=r"npm cannot fetch onnxruntime-web@0: npm error code E404"
    ):
        fetch_runtime("0", folder)
    monkeypatch.setattr(runtime.shutil, "which", lambda name: None)
    with pytest.raises(TTameError, match="npm is not on the PATH"):
        fetch_runtime("1.2.3", folder)
    assert read_runtime(folder) == before
