"""The generated notebooks as a reader's Colab runs them: outside the repository, freshly installed.

    python tests/outside.py [NAME ...]      # as 01_quickstart; without: every notebook
    python tests/outside.py --offline NAME  # packages from uv's cache only
    python tests/outside.py --colab 3.12    # only say what Colab's Python would install

A new virtual environment gets what the notebooks' install cell asks for, built from this checkout
in the place of the network's, at the pinned versions, and no extras but those that the cell names.
Colab brings Jupyter itself: here ipykernel and nbclient stand for it. Each notebook is copied to a
folder of its own and run there in profile `quick`, without Imagenette.

Colab brings a torch built for its GPUs, which the install cell must not replace. With `--colab`,
the resolver is asked what it would do to an environment with such packages, under that Python.
"""

from __future__ import annotations

import argparse
import ast
import os
import re
import shutil
import subprocess
import sys
import tempfile
import time
from pathlib import Path

import nbformat

ROOT = Path(__file__).resolve().parent.parent
JUPYTER = ("ipykernel", "nbclient")
# What would lead back to the checkout, or to photos that a fresh machine does not have.
# Of Colab's packages those that are large, or built for its hardware.
COLAB = {"torch": "2.6.0+cu124", "torchvision": "0.21.0+cu124", "numpy": "2.0.2"}
_UNSET = ("PYTHONPATH", "PYTHONHOME", "TTAME_DATA", "JUPYTER_PATH", "VIRTUAL_ENV")


def requirement(notebook: Path) -> str:
    """What a notebook's install cell installs, `ttame` or `ttame[extra]`.

    Raises:
        ValueError: If it has no install cell, or that names no package from the repository.
    """
    cells = nbformat.read(notebook, as_version=4).cells  # type: ignore[no-untyped-call]
    for cell in (cell for cell in cells if "google.colab" in cell.source):
        for node in ast.walk(ast.parse(cell.source)):
            if isinstance(node, ast.Assign) and isinstance(node.value, ast.Constant):
                found = re.fullmatch(
                    r"(ttame(?:\[[\w,-]+\])?) @ git\+https://\S+", node.value.value
                )
                if found:
                    return found[1]
    raise ValueError(f"{notebook.name} has no cell that installs 'ttame @ git+https://...'")


def make_wheel(folder: Path) -> Path:
    """Build this checkout's wheel into a folder.

    Raises:
        subprocess.CalledProcessError: If building fails; stderr says why.
    """
    _run([sys.executable, "-m", "build", "--wheel", "--no-isolation", "--outdir", folder, ROOT])
    (wheel,) = folder.glob("*.whl")
    return wheel


def pretend(environment: Path, packages: dict[str, str]) -> None:
    """Make a virtual environment say that it has packages, of which only the metadata is there."""
    (site,) = environment.glob("lib/python*/site-packages")
    for name, version in packages.items():
        folder = site / f"{name}-{version}.dist-info"
        folder.mkdir()
        metadata = f"Metadata-Version: 2.1\nName: {name}\nVersion: {version}\n"
        (folder / "METADATA").write_text(metadata, encoding="utf-8")
        (folder / "RECORD").write_text("", encoding="utf-8")


def would_install(wanted: str, python: str, present: dict[str, str], folder: Path) -> list[str]:
    """What installing `wanted` would bring, as `name==version`, of which nothing is installed.

    Args:
        wanted: `requirement` of a notebook.
        python: Version of Python, such as `"3.12"`.
        present: Packages that are there already.
        folder: Where wheel and environment are made.

    Raises:
        subprocess.CalledProcessError: If there is no set of packages that fit; stderr says why.
    """
    wheel, environment = make_wheel(folder / "dist"), folder / "colab"
    _run([sys.executable, "-m", "venv", "--without-pip", environment])
    pretend(environment, present)
    done = _run(
        [sys.executable, "-m", "uv", "pip", "install", "--dry-run",
         "--python", environment / "bin" / "python", "--python-version", python,
         f"{wanted} @ {wheel.as_uri()}"]
    )  # fmt: skip
    return re.findall(r"^ [+-] (\S+)", done.stderr, re.MULTILINE)


def make_environment(folder: Path, wanted: str, offline: bool = False) -> Path:
    """A virtual environment with `wanted`, built from this checkout, and Jupyter.

    Args:
        folder: Where it is made.
        wanted: `requirement` of the notebooks.
        offline: Whether packages may come from uv's cache only.

    Returns:
        Its `bin` folder.

    Raises:
        subprocess.CalledProcessError: If building or installing fails; stderr says why.
    """
    wheel, environment = make_wheel(folder / "dist"), folder / "environment"
    _run([sys.executable, "-m", "venv", "--without-pip", environment])
    _run(
        [sys.executable, "-m", "uv", "pip", "install", "--quiet", *["--offline"] * offline,
         "--python", environment / "bin" / "python", "--constraint", ROOT / "requirements.txt",
         f"{wanted} @ {wheel.as_uri()}", *JUPYTER]
    )  # fmt: skip
    return environment / "bin"


def run_notebook(notebook: Path, programs: Path, folder: Path, limit: int = 1200) -> str | None:
    """Run a copy of a notebook in a folder of its own.

    Args:
        notebook: The generated `.ipynb`.
        programs: `make_environment`.
        folder: Where the copy's folder is made.
        limit: Seconds a cell may take.

    Returns:
        What failed, the cell and its error, or `None`.
    """
    own = folder / notebook.stem
    own.mkdir(parents=True)
    copy = shutil.copy(notebook, own)
    done = subprocess.run(
        [programs / "jupyter-execute", f"--timeout={limit}", "--startup_timeout=300", copy],
        cwd=own, env=_environment(programs, folder), capture_output=True, text=True, check=False,
    )  # fmt: skip
    if done.returncode == 0:
        return None
    _, marker, cell = done.stderr.rpartition("An error occurred while executing the following cell")
    return re.sub(r"\x1b\[[0-9;]*m", "", marker + cell if marker else done.stderr[-2000:]).strip()


def _environment(programs: Path, folder: Path) -> dict[str, str]:
    kept = {key: value for key, value in os.environ.items() if key not in _UNSET}
    path = os.pathsep.join([str(programs), kept.get("PATH", "")])
    return {**kept, "PATH": path, "IPYTHONDIR": str(folder / ".ipython"),
            "MPLBACKEND": "module://matplotlib_inline.backend_inline"}  # fmt: skip


def _run(command: list[str | Path]) -> subprocess.CompletedProcess[str]:
    return subprocess.run(
        command, check=True, capture_output=True, text=True, cwd=tempfile.gettempdir()
    )


def check_colab(wanted: set[str], python: str) -> int:
    """Say what Colab would install; the exit code is how many of its packages it would replace."""
    replaced = 0
    for each in sorted(wanted):
        with tempfile.TemporaryDirectory() as name:
            brought = would_install(each, python, COLAB, Path(name))
        lost = [new for new in brought if re.split("==", new)[0] in COLAB]
        replaced += len(lost)
        state = f"REPLACES {', '.join(lost)}" if lost else f"keeps {', '.join(COLAB)}"
        print(f"{each} on Python {python}: {len(brought)} packages, {state}", flush=True)
    return replaced


def main() -> int:
    """Run the notebooks named on the command line; the exit code is how many failed."""
    parser = argparse.ArgumentParser(description="Run generated notebooks outside the repository.")
    parser.add_argument("names", nargs="*", help="as 01_quickstart; default: all")
    parser.add_argument("--offline", action="store_true", help="packages from uv's cache only")
    parser.add_argument("--colab", metavar="PYTHON", help="only say what Colab would install")
    chosen = parser.parse_args()
    notebooks = sorted((ROOT / "notebooks").glob("*.ipynb"))
    known = [path.stem for path in notebooks]
    for name in chosen.names:
        if name not in known:
            parser.error(f"no notebook {name!r}; there are {', '.join(known)}")
    notebooks = [path for path in notebooks if path.stem in (chosen.names or known)]
    wanted = {path: requirement(path) for path in notebooks}
    if chosen.colab:
        return check_colab(set(wanted.values()), chosen.colab)
    failed = 0
    for each in sorted(set(wanted.values())):
        with tempfile.TemporaryDirectory() as name:
            print(f"a fresh environment with {each}", flush=True)
            try:
                programs = make_environment(Path(name), each, chosen.offline)
            except subprocess.CalledProcessError as error:
                print(f"the installation failed:\n{error.stderr}", file=sys.stderr)
                return 1
            for path in (path for path in notebooks if wanted[path] == each):
                begun = time.perf_counter()
                failure = run_notebook(path, programs, Path(name) / "notebooks")
                failed += failure is not None
                state = "runs" if failure is None else f"FAILS\n{failure}"
                print(f"{path.stem}: {time.perf_counter() - begun:.0f} s, {state}", flush=True)
    return failed


if __name__ == "__main__":
    sys.exit(main())
