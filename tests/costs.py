"""What each chapter took when it was last executed, and the words for it in its opening.

    python -m tests.costs [_build/src/notebooks]

`notebooks/costs.json` records it, from the metadata of executed notebooks where their folder is
given (`make costs`). The words are written from the record. CPU time is told, which hardly depends
on what else the machine does.
"""

from __future__ import annotations

import json
import math
import re
import sys
import textwrap
from pathlib import Path
from typing import TypedDict

import nbformat

from ttame.companion.notebooks import write_ipynb
from ttame.files import replacing
from ttame.records import provenance

ROOT = Path(__file__).resolve().parent.parent
RECORD = ROOT / "notebooks" / "costs.json"
OVERVIEW = "00_overview"  # the front page tells no cost
BEGIN = "**It costs** "
TOLD = re.compile(rf"{re.escape(BEGIN)}.*? of memory(?: on (?:one|two) CPU cores?)?")


class Cost(TypedDict):
    """What a chapter took: CPU time of its processes, and the peak memory of the largest."""

    cpu_seconds: float
    peak_mb: int


def in_words(cost: Cost) -> str:
    """Say what a chapter takes: time to the next ten seconds or minute, memory to half a GB.

    Both are rounded up.
    """
    seconds = math.ceil(cost["cpu_seconds"] / 10) * 10
    minutes = math.ceil(cost["cpu_seconds"] / 60)
    time = f"{seconds} seconds" if seconds < 60 else f"{minutes} minute{'s' * (minutes > 1)}"
    memory = math.ceil(cost["peak_mb"] / 500) / 2
    return f"about {time} and {memory:g} GB of memory on one CPU core"


def told(source: str, cost: Cost) -> str:
    """Put the words into the source of a chapter, whose paragraph is wrapped anew.

    Raises:
        ValueError: The chapter does not begin a paragraph with them.
    """
    start = source.find(f"# {BEGIN}")
    end = source.find("\n#\n", start)
    if start < 0:
        raise ValueError(f"no paragraph begins with {BEGIN!r}")
    text = " ".join(line.removeprefix("# ") for line in source[start:end].splitlines())
    text, found = TOLD.subn(BEGIN + in_words(cost), text, count=1)
    if not found:
        raise ValueError(f"{text!r} does not say how much memory it takes")
    mark = {"initial_indent": "# ", "subsequent_indent": "# "}
    wrapped = textwrap.fill(text, 100, break_long_words=False, break_on_hyphens=False, **mark)
    return source[:start] + wrapped + source[end:]


def read_costs() -> dict[str, Cost]:
    """The recorded costs, by chapter."""
    costs: dict[str, Cost] = json.loads(RECORD.read_text(encoding="utf-8"))["chapters"]
    return costs


def measured(executed: Path) -> dict[str, Cost]:
    """What the executed notebooks of a folder took, by chapter.

    Raises:
        ValueError: A notebook does not say.
    """
    found = {}
    for path in sorted(executed.glob("*.ipynb")):
        if path.stem == OVERVIEW:
            continue
        metadata = nbformat.read(path, as_version=4).metadata  # type: ignore[no-untyped-call]
        if "cost" not in metadata:
            raise ValueError(f"{path} does not say what it took; run make book first")
        found[path.stem] = Cost(**metadata["cost"])
    return found


def record(costs: dict[str, Cost]) -> None:
    """Write the record."""
    made = provenance(seed=0, command="make book")
    del made["seed"]
    with replacing(RECORD) as temporary:
        text = json.dumps({**made, "chapters": costs}, indent=1)
        temporary.write_text(text + "\n", encoding="utf-8")


def main(arguments: list[str]) -> None:
    """Record what the executed notebooks of a folder took, if one is given, and tell it."""
    for folder in arguments:
        record(measured(Path(folder)))
    for name, cost in read_costs().items():
        source = ROOT / "notebooks" / f"{name}.py"
        before = source.read_text(encoding="utf-8")
        if (after := told(before, cost)) != before:
            source.write_text(after, encoding="utf-8")
            write_ipynb(source)


if __name__ == "__main__":
    main(sys.argv[1:])
