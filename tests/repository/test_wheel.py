"""The built wheel, installed into a fresh environment, explains a photo from another folder."""

from __future__ import annotations

import subprocess
import sys
import sysconfig
import zipfile
from pathlib import Path

import pytest

ROOT = Path(__file__).resolve().parents[2]


@pytest.fixture(scope="module")
def wheel(tmp_path_factory: pytest.TempPathFactory) -> Path:
    out = tmp_path_factory.mktemp("dist")
    subprocess.run(
        [sys.executable, "-m", "build", "--wheel", "--no-isolation", "--outdir", out, ROOT],
        check=True, capture_output=True, cwd=out,
    )  # fmt: skip
    (built,) = out.glob("*.whl")
    return built


def test_wheel_holds_library_samples_and_explainers(wheel: Path) -> None:
    names = zipfile.ZipFile(wheel).namelist()
    assert "ttame/_data/samples/cat.jpg" in names
    assert "ttame/_data/samples/sources.json" in names
    assert "ttame/_data/explainers/tf_efficientnet_lite0.safetensors" in names
    assert "ttame/py.typed" in names
    assert "ttame/companion/exploration.html" in names
    assert not [name for name in names if name.startswith(("tests/", "notebooks/", "data/"))]


def test_wheel_explains_a_photo_outside_the_repository(wheel: Path, tmp_path: Path) -> None:
    environment = tmp_path / "venv"
    subprocess.run([sys.executable, "-m", "venv", "--without-pip", str(environment)], check=True)
    python = environment / "bin" / "python"
    subprocess.run(
        [sys.executable, "-m", "uv", "pip", "install", "-q", "--offline", "--no-deps",
         "--python", str(python), str(wheel)],
        check=True, capture_output=True,
    )  # fmt: skip
    # The dependencies come from this environment. A .pth line adds a folder to the path without
    # reading the .pth files in it, so the editable install of the checkout stays out.
    (site,) = environment.glob("lib/python*/site-packages")
    (site / "dependencies.pth").write_text(sysconfig.get_paths()["purelib"] + "\n")
    elsewhere = tmp_path / "elsewhere"
    elsewhere.mkdir()
    photo = site / "ttame" / "_data" / "samples" / "cat.jpg"
    done = subprocess.run(
        [str(environment / "bin" / "ttame"), "explain", str(photo), "--out", "out", "--top-k", "1"],
        cwd=elsewhere, capture_output=True, text=True, check=False,
    )  # fmt: skip
    assert done.returncode == 0, done.stderr
    assert [path.name for path in (elsewhere / "out").iterdir()] == ["cat.egyptian_cat.png"]
    where = subprocess.run(
        [str(python), "-c", "import ttame; print(ttame.__file__)"],
        cwd=elsewhere, capture_output=True, text=True, check=True,
    ).stdout.strip()  # fmt: skip
    assert Path(where).resolve().is_relative_to(site.resolve())
