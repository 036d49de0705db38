"""The README's headline table, made from the records; `make readme` writes it between its markers.

    python tests/headline.py

It has T-TAME, in our recipe and as published, Grad-CAM, and whichever method is ahead in a column.
"""

from __future__ import annotations

from pathlib import Path

import pandas as pd

from ttame.evaluation.confidence import higher_is_better
from ttame.evaluation.tables import summary
from ttame.records import read_results

ROOT = Path(__file__).resolve().parent.parent
README = ROOT / "README.md"
BEGIN, END = "<!-- headline table: make readme -->\n", "<!-- end of the headline table -->"
FILES = "imagenette_val*.jsonl"
NAMES = {"T-TAME": "T-TAME (our recipe)", "T-TAME (published)": "T-TAME (as published)"}
SHOWN = [*NAMES, "Grad-CAM"]
# Their maps say nothing of the photo's class; the book shows where they lead, and why.
BASELINES = ["random", "all ones", "centre Gaussian", "Fake-CAM"]
MASKED = [f"{score} {share}%" for score in ("AD", "IC") for share in (100, 50, 15)]
SCORES = [*MASKED, "ROAD MoRF", "ROAD LeRF", "insertion", "deletion"]


def table() -> str:
    """The table in Markdown: a row per method, the best value of each column bold."""
    paths = sorted((ROOT / "data" / "results").glob(FILES))
    records = pd.concat([read_results(path)[1] for path in paths], ignore_index=True)
    scores = summary(records).drop(index=BASELINES)
    best = {
        name: scores[name].idxmax() if higher_is_better(name) else scores[name].idxmin()
        for name in SCORES
    }
    others = scores.index[scores.index.isin(list(best.values()))].difference(SHOWN)
    lines = []
    for method in [*SHOWN, *others]:
        row = scores.loc[method]
        cells = [
            f"**{row[name]:.1f}**" if best[name] == method else f"{row[name]:.1f}"
            for name in SCORES
        ]
        passes = f"{row['forward']:.0f} + {row['backward']:.0f}"
        lines.append([NAMES.get(method, str(method)), *cells, passes, f"{row['photos']:.0f}"])
    arrows = [f"{name} {'↑' if higher_is_better(name) else '↓'}" for name in SCORES]
    head = ["method", *arrows, "passes", "photos"]
    rule = ["---", *["---:"] * (len(head) - 1)]
    return "".join(f"| {' | '.join(cells)} |\n" for cells in [head, rule, *lines])


def write() -> None:
    """Put the table between the README's markers."""
    text = README.read_text(encoding="utf-8")
    before, rest = text.split(BEGIN)
    README.write_text(before + BEGIN + table() + END + rest.split(END)[1], encoding="utf-8")


if __name__ == "__main__":
    write()
