"""The README's headline tables, made from the records; `make readme` writes them between markers.

    python tests/headline.py

They have T-TAME, in our recipe and as published, Grad-CAM, with its own values and saturated ones,
and whichever method is ahead in a column.
"""

from __future__ import annotations

from pathlib import Path

import pandas as pd

from ttame.evaluation.confidence import higher_is_better
from ttame.evaluation.tables import summary
from ttame.records import read_results, results_paths

ROOT = Path(__file__).resolve().parent.parent
README = ROOT / "README.md"
END = "<!-- end of the headline table -->"
# The marker before each table, and the records that it is made from.
TABLES = {
    "<!-- headline table of Imagenette: make readme -->\n": "imagenette_val*.jsonl",
    "<!-- headline table of many kinds: make readme -->\n": "kinds_val*.jsonl",
}
NAMES = {"T-TAME": "T-TAME (our recipe)", "T-TAME (published)": "T-TAME (as published)"}
SHOWN = [*NAMES, "Grad-CAM", "Grad-CAM (saturated)"]
# Their maps say nothing of the photo's class; the book shows where they lead, and why.
BASELINES = ["random", "all ones", "centre Gaussian", "Fake-CAM"]
MASKED = [f"{score} {share}%" for score in ("AD", "IC") for share in (100, 50, 15)]
SCORES = [*MASKED, "ROAD MoRF", "ROAD LeRF", "insertion", "deletion"]


def table(files: str) -> str:
    """The table of some records in Markdown: a row per method, the best of each column bold."""
    paths = results_paths(ROOT / "data" / "results", files)
    records = pd.concat([read_results(path)[1] for path in paths], ignore_index=True)
    scores = summary(records).drop(index=BASELINES, errors="ignore")
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
    """Put the tables between the README's markers."""
    text = README.read_text(encoding="utf-8")
    for begin, files in TABLES.items():
        before, rest = text.split(begin)
        text = before + begin + table(files) + END + rest.split(END, 1)[1]
    README.write_text(text, encoding="utf-8")


if __name__ == "__main__":
    write()
