"""Chapters as lessons: what each opens with, how short its code is, what it ends with."""

import re
from pathlib import Path

import pytest
from nbformat import NotebookNode

from tests.costs import in_words, read_costs
from ttame.companion.notebooks import convert

ROOT = Path(__file__).resolve().parents[2]
OVERVIEW = "00_overview"  # the front page is no lesson
CHAPTERS = [path for path in sorted((ROOT / "notebooks").glob("*.py")) if path.stem != OVERVIEW]
MOST_LINES = 8
FOLDED = {"remove-cell", "remove-input", "hide-cell", "hide-input"}
SOLUTION = {"code_prompt_show": "Show the solution", "code_prompt_hide": "Hide the solution"}


@pytest.fixture(params=CHAPTERS, ids=lambda path: path.stem)
def chapter(request: pytest.FixtureRequest) -> NotebookNode:
    """A chapter that is a lesson."""
    path: Path = request.param
    notebook = convert(path)
    notebook.metadata["name"] = path.stem
    return notebook


def test_says_what_is_learnt_and_what_it_costs(chapter: NotebookNode) -> None:
    opening = chapter.cells[0].source
    assert "**You will learn**" in opening
    assert "**It costs**" in opening
    told = " ".join(opening.split("**It costs**")[1].split())
    assert re.search(r"\b(seconds|minutes?)\b.*\b\d+(\.\d+)? GB\b", told), told


def test_cost_is_the_measured_one(chapter: NotebookNode) -> None:
    name = chapter.metadata["name"]
    told = " ".join(chapter.cells[0].source.split("**It costs**")[1].split())
    assert told.startswith(in_words(read_costs()[name])), "run make costs"


def test_visible_code_is_short(chapter: NotebookNode) -> None:
    code = [cell for cell in chapter.cells if cell.cell_type == "code"]
    shown = [cell.source for cell in code if not FOLDED & set(cell.metadata.get("tags", []))]
    lines = {text: sum(bool(line.strip()) for line in text.splitlines()) for text in shown}
    assert {text: count for text, count in lines.items() if count > MOST_LINES} == {}


def test_what_is_folded_is_named(chapter: NotebookNode) -> None:
    folded = [cell for cell in chapter.cells if "hide-cell" in cell.metadata.get("tags", [])]
    assert all("code_prompt_show" in cell.metadata.get("mystnb", {}) for cell in folded)
    # The prompt of an output is the same everywhere, that of a cell its own.
    assert not any("hide-output" in cell.metadata.get("tags", []) for cell in chapter.cells)


def test_ends_with_what_to_remember_and_exercises(chapter: NotebookNode) -> None:
    prose = "\n".join(cell.source for cell in chapter.cells if cell.cell_type == "markdown")
    headings = re.findall(r"^## (.+)$", prose, re.MULTILINE)
    assert headings.count("What to remember") == 1
    assert headings.count("Exercises") == 1
    assert headings.index("What to remember") < headings.index("Exercises")


def test_exercises_have_solutions_to_unfold(chapter: NotebookNode) -> None:
    starts = [
        number
        for number, cell in enumerate(chapter.cells)
        if cell.cell_type == "markdown" and re.search(r"^## Exercises$", cell.source, re.MULTILINE)
    ]
    assert starts
    asked = chapter.cells[starts[0] :]
    solutions = [cell for cell in asked if "hide-cell" in cell.metadata.get("tags", [])]
    assert len(solutions) >= 2
    for cell in solutions:
        assert cell.cell_type == "code"
        assert cell.metadata.get("mystnb") == SOLUTION, "see another chapter's exercises"
