"""The README and the book's pages: what they tell a reader to run does run."""

import re
import shutil
import subprocess
from importlib.util import find_spec
from pathlib import Path

import matplotlib.pyplot as plt
import pytest
from typer.testing import CliRunner

from tests.headline import BEGIN, END, README, table
from tests.helpers.reader import QUERIES
from ttame.cli.main import app
from ttame.companion.headline import read_comparison

ROOT = Path(__file__).resolve().parents[2]
PAGES = ["README.md", "book/recipes.md", "book/reproduce.md", "data/README.md"]
RECIPES = (ROOT / "book" / "recipes.md").read_text(encoding="utf-8")


def test_python_examples_run(monkeypatch: pytest.MonkeyPatch) -> None:
    text = (ROOT / "README.md").read_text(encoding="utf-8")
    examples = re.findall(r"```python\n(.*?)```", text, re.DOTALL)
    assert examples
    monkeypatch.chdir(ROOT / "data" / "samples")  # where cat.jpg is
    for example in examples:
        exec(compile(example, "README.md", "exec"), {})
    plt.close("all")


@pytest.mark.parametrize("recipe", RECIPES.split("\n## ")[1:], ids=lambda it: it[:12])
def test_recipes_are_short_and_run(
    recipe: str, monkeypatch: pytest.MonkeyPatch, tmp_path: Path
) -> None:
    examples = re.findall(r"```python\n(.*?)```", recipe, re.DOTALL)
    commands = re.findall(r"```console\n(.*?)```", recipe, re.DOTALL)
    assert examples or commands
    (tmp_path / "pictures").mkdir()
    for name in ("cat", "german_shepherd", "honey_bee"):
        shutil.copy(ROOT / "data" / "samples" / f"{name}.jpg", tmp_path / "pictures")
    monkeypatch.chdir(tmp_path)
    for example in examples:
        code = [line for line in example.splitlines() if line and "import" not in line.split()]
        assert len(code) <= 10, recipe
        exec(compile(example, "recipes.md", "exec"), {})


def test_search_finds_how_to_train_on_my_own_data() -> None:
    """Sphinx asks for every word of more than two letters; the reader's check asks Sphinx."""
    assert {"how", "train", "own", "data"} <= set(re.findall(r"\w+", RECIPES.lower()))
    assert "how+to+train+on+my+own+data" in QUERIES


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


def test_headline_tables_are_what_the_records_say() -> None:
    text = README.read_text(encoding="utf-8")
    for photos, begin in BEGIN.items():
        assert text.split(begin)[1].split(END)[0] == table(photos)
        rows = [line.split("|")[1].strip() for line in table(photos).splitlines()[2:]]
        assert {"T-TAME (our recipe)", "Grad-CAM"} <= set(rows)
    assert "| T-TAME (as published) |" in table("Imagenette")


def test_headline_command_is_that_of_the_records() -> None:
    header = read_comparison("Imagenette").headers["imagenette_main.jsonl"]
    command = header["command"].replace("runs/results/imagenette_main", "results")
    assert f"$ {command}\n" in README.read_text(encoding="utf-8")


def test_map_names_every_entry_and_package() -> None:
    text = README.read_text(encoding="utf-8")
    named = set(re.findall(r"\[`([^`]+?)/?`\]\(", text))
    listed = subprocess.run(
        ["git", "ls-files"], cwd=ROOT, capture_output=True, text=True, check=True
    ).stdout.splitlines()
    entries = {line.split("/")[0] for line in listed} - {".gitignore", "README.md"}
    packages = {path.parent.name for path in (ROOT / "ttame").glob("*/__init__.py")}
    assert entries | {f"ttame/{name}" for name in packages} == named


def test_chapters_lead_to_modules_that_exist() -> None:
    text = README.read_text(encoding="utf-8")
    rows = re.findall(r"^\| \[\d+ [^]]+\]\(notebooks/(\w+)\.py\) \| (.*) \|$", text, re.MULTILINE)
    assert [name for name, _ in rows] == sorted(
        path.stem for path in (ROOT / "notebooks").glob("*.py")
    )
    for name, modules in rows:
        for module in re.findall(r"`([\w.]+)`", modules):
            assert find_spec(module), f"{name}: {module}"


def test_ways_through_the_code_pass_files_once_or_say_why() -> None:
    text = (ROOT / "CONTRIBUTING.md").read_text(encoding="utf-8")
    ways = text.split("## Three ways through the code")[1].split("\n## ")[0].split("\n### ")[1:]
    assert len(ways) == 3
    for way in ways:
        passed: set[str] = set()
        for step in re.findall(r"^\d+\. .*$", way, re.MULTILINE):
            files = set(re.findall(r"`([\w/]+\.py)`", step))
            assert all((ROOT / "ttame" / file).is_file() for file in files), step
            assert not files & passed or "again, because" in step, step
            passed |= files
        assert len(passed) > 5
