"""What chapters cost: the words for it, and where they go."""

import json
from pathlib import Path

import pytest

from tests.costs import Cost, in_words, measured, told

SOURCE = """\
# %% [markdown]
# # Title
#
# **It costs** less than a minute and 1 GB
# of memory on two CPU cores. Nothing is downloaded.
#
# Text of memory.
"""


@pytest.mark.parametrize(
    ("seconds", "megabytes", "words"),
    [
        (3.2, 480, "about 10 seconds and 0.5 GB of memory on one CPU core"),
        (41.0, 1001, "about 50 seconds and 1.5 GB of memory on one CPU core"),
        (51.0, 1000, "about 1 minute and 1 GB of memory on one CPU core"),
        (121.0, 2600, "about 3 minutes and 3 GB of memory on one CPU core"),
    ],
)
def test_costs_are_rounded_up(seconds: float, megabytes: int, words: str) -> None:
    assert in_words(Cost(cpu_seconds=seconds, peak_mb=megabytes)) == words


def test_words_replace_those_that_were_there_and_nothing_else() -> None:
    cost = Cost(cpu_seconds=121, peak_mb=2600)
    expected = SOURCE.replace(
        "less than a minute and 1 GB\n# of memory on two CPU cores. Nothing is downloaded.",
        "about 3 minutes and 3 GB of memory on one CPU core. Nothing is downloaded.",
    )
    assert told(SOURCE, cost) == expected
    assert told(expected, cost) == expected


@pytest.mark.parametrize("found", ["**Costs** nothing", "**It costs** nothing"])
def test_a_chapter_that_does_not_say_is_refused(found: str) -> None:
    with pytest.raises(ValueError, match=r"begins with|does not say"):
        told(f"# {found}\n#\n# Text\n", Cost(cpu_seconds=1, peak_mb=1))


def test_executed_notebooks_are_asked(tmp_path: Path) -> None:
    notebook = {"cells": [], "metadata": {}, "nbformat": 4, "nbformat_minor": 5}
    (tmp_path / "01_a.ipynb").write_text(json.dumps(notebook), encoding="utf-8")
    with pytest.raises(ValueError, match="does not say"):
        measured(tmp_path)
    cost = {"cpu_seconds": 2.5, "peak_mb": 700}
    notebook["metadata"] = {"cost": cost}
    (tmp_path / "01_a.ipynb").write_text(json.dumps(notebook), encoding="utf-8")
    assert measured(tmp_path) == {"01_a": cost}
