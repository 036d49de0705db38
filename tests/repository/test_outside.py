"""Notebooks outside the repository, in an environment with what their install cell asks for."""

from __future__ import annotations

import subprocess
import sys
from pathlib import Path

import nbformat
import pytest

from tests.outside import COLAB, make_environment, pretend, requirement, run_notebook

ROOT = Path(__file__).resolve().parents[2]
NOTEBOOKS = sorted((ROOT / "notebooks").glob("*.ipynb"))


def written(path: Path, *cells: str) -> Path:
    code = [nbformat.v4.new_code_cell(cell) for cell in cells]  # type: ignore[no-untyped-call]
    notebook = nbformat.v4.new_notebook(cells=code)  # type: ignore[no-untyped-call]
    nbformat.write(notebook, path)  # type: ignore[no-untyped-call]
    return path


@pytest.mark.parametrize("notebook", NOTEBOOKS, ids=lambda path: path.stem)
def test_every_notebook_says_what_it_installs(notebook: Path) -> None:
    assert requirement(notebook).startswith("ttame")


def test_extras_of_the_install_cell_are_kept(tmp_path: Path) -> None:
    cell = 'if "google.colab" in sys.modules:\n    package = "ttame[book] @ git+https://host/x"'
    assert requirement(written(tmp_path / "a.ipynb", "1", cell)) == "ttame[book]"
    with pytest.raises(ValueError, match=r"b\.ipynb has no cell"):
        requirement(written(tmp_path / "b.ipynb", "1"))


def test_packages_that_are_only_said_to_be_there_are_found(tmp_path: Path) -> None:
    subprocess.run([sys.executable, "-m", "venv", "--without-pip", tmp_path], check=True)
    pretend(tmp_path, COLAB)
    ask = "from importlib.metadata import version; print(version('torch'), version('numpy'))"
    python = [tmp_path / "bin" / "python", "-c", ask]
    done = subprocess.run(python, capture_output=True, text=True, check=True)
    assert done.stdout.split() == [COLAB["torch"], COLAB["numpy"]]


@pytest.mark.slow
def test_quickstart_runs_freshly_installed_and_a_failure_is_named(tmp_path: Path) -> None:
    quickstart = ROOT / "notebooks" / "01_quickstart.ipynb"
    programs = make_environment(tmp_path, requirement(quickstart), offline=True)
    assert run_notebook(quickstart, programs, tmp_path / "run") is None
    broken = written(tmp_path / "broken.ipynb", "import ttame", "import papermill  # an extra")
    failure = run_notebook(broken, programs, tmp_path / "run")
    assert failure is not None
    assert "import papermill  # an extra" in failure
    assert "No module named 'papermill'" in failure
