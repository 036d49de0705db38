"""The built wheel explains a photo in an environment that holds what it needs and nothing else."""

from __future__ import annotations

import json
import re
import subprocess
import sys
import tomllib
import venv
import zipfile
from importlib.metadata import Distribution, distribution
from pathlib import Path

import pytest
from packaging.requirements import Requirement

from ttame.errors import EXTRAS

ROOT = Path(__file__).resolve().parents[2]
PROJECT = tomllib.loads((ROOT / "pyproject.toml").read_text("utf-8"))["project"]
OPTIONAL = sorted({module for extra in EXTRAS.values() for module in extra})
MEGABYTES = 40  # two transformers 12, explainers 10, results 11, the browsers' runtime 2


@pytest.fixture(scope="module")
def wheel(tmp_path_factory: pytest.TempPathFactory) -> Path:
    out = tmp_path_factory.mktemp("dist")
    subprocess.run(
        [sys.executable, "-m", "build", "--wheel", "--no-isolation", "--outdir", out, ROOT],
        check=True, capture_output=True, cwd=out,
    )  # fmt: skip
    (built,) = out.glob("*.whl")
    return built


def closure(requirements: list[str]) -> list[Distribution]:
    """The installed distributions that requirements bring, theirs included."""
    waiting = [Requirement(text) for text in requirements]
    found: dict[tuple[str, frozenset[str]], Distribution] = {}
    while waiting:
        wanted = waiting.pop()
        key = wanted.name.lower(), frozenset(wanted.extras)
        if key in found:
            continue
        found[key] = distribution(wanted.name)
        for text in found[key].requires or ():
            inner = Requirement(text)
            extras = wanted.extras or {""}
            if inner.marker is None or any(inner.marker.evaluate({"extra": e}) for e in extras):
                waiting.append(inner)
    return list(found.values())


@pytest.fixture(scope="module")
def bare(wheel: Path, tmp_path_factory: pytest.TempPathFactory) -> Path:
    """The folder `bin` of an environment with the wheel and its dependencies, without extras.

    Torch alone takes gigabytes, so the dependencies are links to those of this environment.
    """
    environment = tmp_path_factory.mktemp("bare")
    venv.create(environment, symlinks=True)
    (site,) = environment.glob("lib/python*/site-packages")
    for one in closure(PROJECT["dependencies"]):
        # RECORD's paths are relative to site-packages; "../../bin" holds only commands.
        for top in {file.parts[0] for file in one.files or ()} - {"..", "__pycache__"}:
            link = site / top
            if not link.exists() and link.suffix != ".pth":
                link.symlink_to(Path(str(one.locate_file(top))))
    subprocess.run(
        [sys.executable, "-m", "uv", "pip", "install", "-q", "--offline", "--no-deps",
         "--python", str(environment / "bin" / "python"), str(wheel)],
        check=True, capture_output=True,
    )  # fmt: skip
    return environment / "bin"


def run(folder: Path, *command: str | Path) -> subprocess.CompletedProcess[str]:
    """Run a command outside the repository, which the environment must not see."""
    folder.mkdir(exist_ok=True)
    clean = {"PATH": "/usr/bin:/bin", "HOME": str(folder), "MPLBACKEND": "Agg"}
    return subprocess.run(command, cwd=folder, env=clean, capture_output=True, text=True)


def test_wheel_holds_library_samples_and_explainers(wheel: Path) -> None:
    names = zipfile.ZipFile(wheel).namelist()
    assert "ttame/_data/samples/cat.jpg" in names
    assert "ttame/_data/samples/sources.json" in names
    assert "ttame/_data/explainers/tf_efficientnet_lite0.safetensors" in names
    assert "ttame/py.typed" in names
    assert "ttame/companion/page/web/page.js" in names
    assert "ttame/_data/runtime/ort-wasm-simd-threaded.wasm.xz" in names
    assert "ttame/_data/runtime/LICENSE" in names
    assert not [name for name in names if name.startswith(("tests/", "notebooks/", "data/"))]


def test_wheel_is_small(wheel: Path) -> None:
    assert wheel.stat().st_size < MEGABYTES * 10**6


def test_extras_are_what_the_errors_name() -> None:
    for extra, modules in EXTRAS.items():
        named = {Requirement(text).name for text in PROJECT["optional-dependencies"][extra]}
        assert set(modules.values()) == named - {"pyarrow"}, extra  # pandas alone imports it


def test_bare_wheel_explains_a_photo(bare: Path, tmp_path: Path) -> None:
    program = (
        "import importlib.util, json, ttame\n"
        "from ttame.files import shipped\n"
        "photo = shipped('samples') / 'cat.jpg'\n"
        "explanation = ttame.load('tf_efficientnet_lite0').explain(photo, top_k=1)\n"
        "explanation.plot().savefig('plot.svg')\n"
        f"found = [name for name in {OPTIONAL} if importlib.util.find_spec(name)]\n"
        "print(json.dumps([ttame.__file__, str(photo), explanation.names(), found]))\n"
    )
    done = run(tmp_path / "python", bare / "python", "-c", program)
    assert done.returncode == 0, done.stderr
    where, photo, names, found = json.loads(done.stdout)
    assert Path(where).is_relative_to(bare.parent) and Path(photo).is_relative_to(bare.parent)
    assert names == [["Egyptian cat"]]
    assert found == []
    assert (tmp_path / "python" / "plot.svg").stat().st_size > 0

    shown = run(
        tmp_path / "cli", bare / "ttame", "explain", photo, "--out", "out", "--top-k", "1",
        "--html", "page.html",
    )  # fmt: skip
    assert shown.returncode == 0, shown.stderr
    assert [path.name for path in (tmp_path / "cli" / "out").iterdir()] == ["cat.egyptian_cat.png"]
    assert "T-TAME" in (tmp_path / "cli" / "page.html").read_text("utf-8")

    listed = run(tmp_path / "cli", bare / "ttame", "layers", "timm/test_resnet")
    assert listed.returncode == 0, listed.stderr


@pytest.mark.parametrize(
    ("command", "extra", "missing"),
    [
        (("train", "--out", "runs"), "train", "lightning"),
        (("evaluate", "--out", "results.jsonl"), "evaluate", "captum"),
        (("diagnose", "--out", "results.jsonl"), "evaluate", "captum"),
        (("demo", "page.html"), "export", "onnxscript"),
        (("study", "study.toml", "--out", "runs"), "train", "lightning"),
    ],
)
def test_a_missing_extra_is_named_with_its_command(
    bare: Path, tmp_path: Path, command: tuple[str, ...], extra: str, missing: str
) -> None:
    (tmp_path / "study.toml").write_text("")
    done = run(tmp_path, bare / "ttame", *command)
    assert done.returncode == 2
    (line,) = done.stderr.strip().splitlines()
    assert line.startswith("error: ") and missing in line
    assert f"pip install 'ttame[{extra}]'" in line


def imported(program: str) -> set[str]:
    """The top-level modules that a program has imported at its end."""
    code = f"{program}\nimport sys; print(*sorted({{name.split('.')[0] for name in sys.modules}}))"
    done = subprocess.run(
        [sys.executable, "-c", code], capture_output=True, text=True, check=True, cwd=ROOT
    )
    return set(re.findall(r"\S+", done.stdout))


def test_what_importing_and_loading_import() -> None:
    assert not imported("import ttame") & {"torch", "numpy", "timm", "PIL", "typer", *OPTIONAL}
    loaded = imported("import ttame; ttame.load('tf_efficientnet_lite0')")
    assert "torch" in loaded
    assert not loaded & {"matplotlib", "typer", "rich", "IPython", *OPTIONAL}
