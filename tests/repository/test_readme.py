"""The README and the book's pages: what they tell a reader to run does run."""

import re
from pathlib import Path

import matplotlib.pyplot as plt
import pytest
from typer.testing import CliRunner

from ttame.cli.main import app

ROOT = Path(__file__).resolve().parents[2]
PAGES = ["README.md", "book/reproduce.md", "data/README.md"]


def test_python_examples_run(monkeypatch: pytest.MonkeyPatch) -> None:
    text = (ROOT / "README.md").read_text(encoding="utf-8")
    examples = re.findall(r"```python\n(.*?)```", text, re.DOTALL)
    assert examples
    monkeypatch.chdir(ROOT / "data" / "samples")  # where cat.jpg is
    for example in examples:
        exec(compile(example, "README.md", "exec"), {})
    plt.close("all")


@pytest.mark.parametrize("page", PAGES)
def test_commands_and_options_exist(page: str) -> None:
    text = (ROOT / page).read_text(encoding="utf-8")
    for line in re.findall(r"^\$ ttame (.*)$", text, re.MULTILINE):
        words = line.split("#")[0].split()
        shown = CliRunner().invoke(app, [words[0], "--help"], env={"COLUMNS": "200"})
        assert shown.exit_code == 0, line
        for option in (word for word in words if word.startswith("--")):
            assert option in shown.output, line


def test_make_targets_exist() -> None:
    makefile = (ROOT / "Makefile").read_text(encoding="utf-8")
    targets = set(re.findall(r"^([a-z]+):.*## ", makefile, re.MULTILINE))
    for page in [*PAGES, "CONTRIBUTING.md"]:
        text = (ROOT / page).read_text(encoding="utf-8")
        assert set(re.findall(r"(?:\$ |`)make ([a-z]+)", text)) <= targets, page
