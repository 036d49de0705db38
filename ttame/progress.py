"""Progress of a notebook that runs without a browser, in plain lines that a log can keep."""

from __future__ import annotations

import re
import time
from typing import TYPE_CHECKING

if TYPE_CHECKING:
    from nbformat import NotebookNode

HEADING = re.compile(r"^#{1,6} +(.+?) *#*$", re.MULTILINE)


class CellProgress:
    """Prints which notebook and which cell is running, and about how long the rest takes."""

    def __init__(self, name: str, notebook: NotebookNode) -> None:
        self.name = name
        self.headings: dict[str, str] = {}  # over every code cell, by the cell's identifier
        heading = ""
        for cell in notebook.cells:
            if cell.cell_type == "markdown" and (found := HEADING.findall(cell.source)):
                heading = found[-1]
            elif cell.cell_type == "code" and cell.source.strip():
                self.headings[cell["id"]] = heading
        self.step = 0
        self.began = time.monotonic()

    def started(self, cell: NotebookNode, cell_index: int) -> None:
        """Report a cell, called by nbclient; the cell that papermill inserts is not counted."""
        if cell["id"] not in self.headings:
            return
        # Nothing is known of what a cell costs before it ran: the rest is taken to cost alike.
        spent = time.monotonic() - self.began
        left = spent / self.step * (len(self.headings) - self.step) if self.step else None
        self.step += 1
        rest = "" if left is None else f", about {_duration(left)} left"
        heading = self.headings[cell["id"]]
        print(f"{self.name}: cell {self.step} of {len(self.headings)}, {heading}{rest}", flush=True)

    def finished(self) -> None:
        """Report the end."""
        print(f"{self.name}: done in {_duration(time.monotonic() - self.began)}", flush=True)


def _duration(seconds: float) -> str:
    return f"{seconds:.0f} s" if seconds < 100 else f"{seconds / 60:.0f} min"
