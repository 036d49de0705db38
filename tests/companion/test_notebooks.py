"""Notebooks: what the runner refuses, what it leaves behind, and what every notebook keeps to."""

import ast
import json
import re
import subprocess
import sys
from pathlib import Path

import nbformat
import pytest
from typer.testing import CliRunner

from ttame.companion.notebooks import (
    NotebookError,
    _children,
    app,
    convert,
    execute,
    parameters_of,
    write_ipynb,
)

ROOT = Path(__file__).resolve().parents[2]
SOURCES = sorted((ROOT / "notebooks").glob("*.py"))

HEADER = """\
# ---
# jupyter:
#   kernelspec:
#     display_name: Python 3 (ipykernel)
#     language: python
#     name: python3
# ---
"""
PARAMETERS = """
# %% tags=["parameters"]
profile = "quick"
steps = 3
rate = 0.5
"""


def notebook(folder: Path, body: str = "", header: str = HEADER, cell: str = PARAMETERS) -> Path:
    source = folder / "trial.py"
    source.write_text(header + cell + body, encoding="utf-8")
    return source


def leftovers(folder: Path) -> list[str]:
    return [path.name for path in folder.rglob("*") if path.is_file() and path.suffix != ".py"]


# The runner


def test_run_injects_parameters_and_works_in_the_notebook_s_folder(
    tmp_path: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    (tmp_path / "beside.txt").write_text("found", encoding="utf-8")
    body = (
        "\n# %% [markdown]\n# ## Reading\n\n# %%\nprint(steps, rate, open('beside.txt').read())\n"
    )
    output = tmp_path / "built" / "trial.ipynb"

    execute(notebook(tmp_path, body), output, {"steps": 7, "rate": 1, "profile": "quick"})

    cells = json.loads(output.read_text(encoding="utf-8"))["cells"]
    assert cells[-1]["outputs"][0]["text"] == ["7 1 found\n"]
    assert [path.name for path in output.parent.iterdir()] == ["trial.ipynb"]
    printed = capsys.readouterr().out
    assert "trial: cell 1 of 2" in printed
    assert re.search(r"trial: cell 2 of 2, Reading, about \d+ s left", printed)


def test_failing_cell_is_named_and_nothing_is_written(tmp_path: Path) -> None:
    body = "\n# %%\n# Fails.\nraise KeyError('absent')\n"
    source = notebook(tmp_path, body)

    with pytest.raises(NotebookError) as failure:
        execute(source, tmp_path / "built" / "trial.ipynb", {})

    message = str(failure.value)
    for part in ("trial.py", "cell 2 of 2", "raise KeyError('absent')", "KeyError: 'absent'"):
        assert part in message
    assert "Traceback" in failure.value.__notes__[0]
    assert leftovers(tmp_path) == []


def test_changed_parameters_are_folded_as_the_defaults_are(tmp_path: Path) -> None:
    cell = PARAMETERS.replace('["parameters"]', '["parameters", "remove-cell"]')
    output = tmp_path / "built" / "trial.ipynb"
    execute(notebook(tmp_path, "\n# %%\nsteps\n", cell=cell), output, {"steps": 7})
    (injected,) = [
        cell for cell in nbformat.read(output, as_version=4).cells
        if "injected-parameters" in cell.metadata.tags
    ]  # fmt: skip
    assert injected.metadata.tags == ["injected-parameters", "remove-cell"]


@pytest.mark.parametrize(
    ("given", "message"),
    [
        (
            {"step": 1},
            r"unknown parameter 'step', known: profile, steps, rate. Did you mean 'steps'",
        ),
        ({"steps": "many"}, "'steps' is of type int, not 'many'"),
        ({"steps": True}, "'steps' is of type int, not True"),
        ({"rate": "0.1"}, "'rate' is of type float"),
    ],
)
def test_wrong_parameters_are_refused_before_anything_runs(
    tmp_path: Path, given: dict[str, object], message: str
) -> None:
    with pytest.raises(NotebookError, match=message):
        execute(notebook(tmp_path), tmp_path / "trial.ipynb", given)
    assert leftovers(tmp_path) == []


def test_command_ends_with_one_message_and_a_non_zero_code(tmp_path: Path) -> None:
    source = str(notebook(tmp_path))
    output = str(tmp_path / "out.ipynb")
    for arguments, message in [
        (["execute", source, output, "-p", "steps"], "NAME=VALUE"),
        (["execute", source, output, "-p", "stepz=2"], "did you mean"),
        (["execute", str(tmp_path / "absent.py"), output], "no such notebook"),
        (["convert", str(tmp_path / "absent.py")], "no such notebook"),
    ]:
        result = CliRunner().invoke(app, arguments)
        assert result.exit_code == 1, arguments
        assert message in result.output.lower() or message in result.output, result.output
    assert leftovers(tmp_path) == []


# Conversion


def test_conversion_is_deterministic_and_without_outputs(tmp_path: Path) -> None:
    source = notebook(tmp_path, "\n# %%\n1 + 1\n\n\n\n# %% [markdown]\n# text\n")
    first = write_ipynb(source).read_bytes()
    assert write_ipynb(source, tmp_path / "again.ipynb").read_bytes() == first

    content = json.loads(first)
    assert content["metadata"]["kernelspec"]["name"] == "python3"
    assert content["metadata"]["kernelspec"]["language"] == "python"
    assert [cell["id"] for cell in content["cells"]] == ["cell-01", "cell-02", "cell-03"]
    assert all(not cell.get("outputs") for cell in content["cells"])


def test_notebook_without_kernel_or_parameters_is_refused(tmp_path: Path) -> None:
    with pytest.raises(NotebookError, match="kernelspec"):
        convert(notebook(tmp_path, header=""))
    with pytest.raises(NotebookError, match="0 cells are tagged"):
        execute(notebook(tmp_path, cell="\n# %%\n1\n"), tmp_path / "trial.ipynb", {})
    with pytest.raises(NotebookError, match="2 cells are tagged"):
        execute(notebook(tmp_path, body=PARAMETERS), tmp_path / "trial.ipynb", {})


@pytest.mark.parametrize("line", ["b = a * 2", "import os", "a, b = 1, 2", "c: int", "d = [a]"])
def test_parameters_must_be_independent_literals(tmp_path: Path, line: str) -> None:
    cell = f'\n# %% tags=["parameters"]\na = 1\n{line}\n'
    with pytest.raises(NotebookError, match="may only set literals"):
        parameters_of(convert(notebook(tmp_path, cell=cell)), "trial")


def test_notes_to_the_formatter_stay_in_the_source(tmp_path: Path) -> None:
    cell = "\n# %%\npairs = {1:  2,\n         3: 44}  # fmt: skip\n"
    converted = convert(notebook(tmp_path, cell=cell))
    assert converted.cells[-1].source == "pairs = {1:  2,\n         3: 44}"


# The notebooks of this repository


@pytest.fixture(params=SOURCES, ids=lambda path: path.stem)
def source(request: pytest.FixtureRequest) -> Path:
    path = request.param
    assert isinstance(path, Path)
    return path


def test_generated_notebook_is_fresh(source: Path, tmp_path: Path) -> None:
    fresh = write_ipynb(source, tmp_path / "fresh.ipynb")
    committed = source.with_suffix(".ipynb")
    assert committed.is_file(), "run make notebooks"
    assert committed.read_text(encoding="utf-8") == fresh.read_text(encoding="utf-8"), (
        "run make notebooks"
    )


def test_no_generated_notebook_without_source() -> None:
    generated = {path.stem for path in (ROOT / "notebooks").glob("*.ipynb")}
    assert generated == {path.stem for path in SOURCES}


def test_parameters_default_to_the_quick_profile(source: Path) -> None:
    assert parameters_of(convert(source), source.stem)["profile"] == "quick"


def test_notebook_is_thin(source: Path) -> None:
    """What a notebook would define belongs in the library, where it is tested."""
    kinds = (ast.FunctionDef, ast.AsyncFunctionDef, ast.ClassDef, ast.Lambda)
    tree = ast.parse(source.read_text(encoding="utf-8"))
    assert [node.lineno for node in ast.walk(tree) if isinstance(node, kinds)] == []


def test_notebook_opens_with_a_title_and_its_own_colab_badge(source: Path) -> None:
    first = convert(source).cells[0]
    assert first.cell_type == "markdown"
    assert first.source.startswith("# ")
    assert f"/blob/main/notebooks/{source.stem}.ipynb)" in first.source
    image = re.search(r"!\[[^]]*\]\(([^)]+)\)", first.source)
    assert image
    assert (source.parent / image[1]).is_file(), "the badge must not be fetched from the network"


def test_install_cell_does_nothing_outside_colab(source: Path) -> None:
    cells = [cell for cell in convert(source).cells if "google.colab" in cell.source]
    assert len(cells) == 1
    last = ast.parse(cells[0].source).body[-1]
    assert isinstance(last, ast.If)
    assert not last.orelse
    assert ast.unparse(last.test) == "'google.colab' in sys.modules"


def test_what_a_notebook_took_is_written_into_it(tmp_path: Path) -> None:
    body = """
# %%
import time

taken = bytearray(300_000_000)
taken[::4096] = b"1" * len(taken[::4096])
begun = time.process_time()
while time.process_time() < begun + 1.5:
    pass
"""
    output = tmp_path / "built" / "trial.ipynb"
    execute(notebook(tmp_path, body), output, {})
    cost = json.loads(output.read_text(encoding="utf-8"))["metadata"]["cost"]
    assert cost["peak_mb"] >= 300
    assert 1.5 <= cost["cpu_seconds"] < 60


def test_processes_are_counted_once_they_ended() -> None:
    before = _children()
    code = "b = bytearray(300_000_000); b[::4096] = b'1' * len(b[::4096])"
    subprocess.run([sys.executable, "-c", code], check=True)
    after = _children()
    assert before
    assert after
    assert after[0] > before[0]
    assert after[1] >= 300e6
