"""The README's headline tables, made from the records; `make readme` writes them between markers.

    python tests/headline.py

They have T-TAME in its variants, Grad-CAM, and every method that is ahead of T-TAME in a measure.
"""

from __future__ import annotations

from pathlib import Path

from ttame.companion.headline import (
    MEASURES,
    SETS,
    Photos,
    headline,
    read_comparison,
    worth_showing,
)

ROOT = Path(__file__).resolve().parent.parent
README = ROOT / "README.md"
END = "<!-- end of the headline table -->"
# The marker before each table, by the photos that it is made from.
BEGIN: dict[Photos, str] = {
    photos: f"<!-- headline table, {photos}: make readme -->\n" for photos in SETS
}
NAMES = {"T-TAME": "T-TAME (our recipe)", "T-TAME (published)": "T-TAME (as published)"}


def table(photos: Photos) -> str:
    """Write a headline table in Markdown: a row per method, the best of each measure bold."""
    shown = worth_showing(headline(read_comparison(photos)))
    measures = [name for name in MEASURES if name in shown]
    best = shown[measures].max()
    lines = []
    for method, row in shown.iterrows():
        cells = [f"**{row[name]:.1f}**" if row[name] == best[name] else f"{row[name]:.1f}"
                 for name in measures]  # fmt: skip
        passes = f"{row['forward']:.0f} + {row['backward']:.0f}"
        lines.append([NAMES.get(str(method), str(method)), *cells, passes])
    head = ["method", *(f"{name} ↑" for name in measures), "passes"]
    rule = ["---", *["---:"] * (len(head) - 1)]
    text = "".join(f"| {' | '.join(cells)} |\n" for cells in [head, rule, *lines])
    return text.replace("| nan |", "| – |")


def write() -> None:
    """Put the tables between the README's markers."""
    text = README.read_text(encoding="utf-8")
    for photos, begin in BEGIN.items():
        before, rest = text.split(begin)
        text = before + begin + table(photos) + END + rest.split(END, 1)[1]
    README.write_text(text, encoding="utf-8")


if __name__ == "__main__":
    write()
