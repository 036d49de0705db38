"""Sphinx extension: the pages of the library as a reader would write them.

Docstrings name publications by their keys in `book/references.bib`, which become citations. Types
are given without the bounds that `ttame.errors.validate` reads, which the text states, and defaults
that are made anew for each object as an ellipsis. Types of attributes stand in their class's
signature; a field that repeats them, with typographic quotes, is left out.
"""

from __future__ import annotations

import re
from collections.abc import Collection
from functools import cache
from pathlib import Path

from sphinx.application import Sphinx

_BOUNDED = re.compile(r"~?(?:typing\.)?Annotated\[(\w+), [^()]*\([^()]*\)\]")
_MADE = re.compile(r"<factory>|<function (?:[^<>]|<[^<>]*>)*>")
_FOLDERS = re.compile(r"~(?:\w+\.)*")
_MARKDOWN = re.compile(r"\{cite\}`([\w,]+)`")
# One key or several behind a bracket, such as (`rise`) or (`rise`, equation 6).
_KEYS = re.compile(r"\(((?:`\w+`(?:, )?)+)(\)|(?=[;:,]))")
_NAMED = re.compile(r"`(\w+)`")
_ROLE = ":cite:"
_BIBLIOGRAPHY = "book/references.bib"


def plain(signature: str) -> str:
    """Write a signature without bounds, folders of modules, and what has no name."""
    return _FOLDERS.sub("", _MADE.sub("...", _BOUNDED.sub(r"\1", signature)))


def _simplify(
    app: Sphinx, what: str, name: str, obj: object, options: object,
    signature: str | None, returned: str | None,
) -> tuple[str | None, str | None]:  # fmt: skip
    return signature and plain(signature), returned and plain(returned)


def cited(text: str, keys: Collection[str]) -> str:
    """Turn keys of publications in parentheses, and citations in Markdown, into citations."""

    def cite(found: re.Match[str]) -> str:
        names = _NAMED.findall(found[1])
        if not set(names) <= set(keys):
            return found[0]
        # Citations have brackets of their own.
        return f"{'' if found[2] else '('}{_ROLE}`{','.join(names)}`"

    return _KEYS.sub(cite, _MARKDOWN.sub(rf"{_ROLE}`\1`", text))


def _read(
    app: Sphinx, what: str, name: str, obj: object, options: object, lines: list[str]
) -> None:
    kept = [line for line in lines if not line.lstrip().startswith(":type: ")]
    lines[:] = cited("\n".join(kept), _keys(Path(app.srcdir))).split("\n")


@cache
def _keys(source: Path) -> list[str]:
    """Read the keys of the bibliography, for which some hundred docstrings ask."""
    return re.findall(r"^@\w+\{(\w+),", (source / _BIBLIOGRAPHY).read_text("utf-8"), re.M)


def setup(app: Sphinx) -> dict[str, bool]:
    """Registers the steps; Sphinx calls this."""
    app.connect("autodoc-process-signature", _simplify)
    app.connect("autodoc-process-docstring", _read, priority=900)  # after napoleon
    return {"parallel_read_safe": True, "parallel_write_safe": True}
