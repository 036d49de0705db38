"""Sphinx extension: signatures on the pages of the library as a reader would write them.

Types are given without the bounds that `ttame.errors.validate` reads, which the text states, and
defaults that are made anew for each object as an ellipsis. Types of attributes stand in their
class's signature; a field that repeats them, with typographic quotes, is left out.
"""

from __future__ import annotations

import re

from sphinx.application import Sphinx

_BOUNDED = re.compile(r"~?(?:typing\.)?Annotated\[(\w+), [^()]*\([^()]*\)\]")
_MADE = re.compile(r"<factory>")


def plain(signature: str) -> str:
    """Write a signature without bounds and without `<factory>`."""
    return _MADE.sub("...", _BOUNDED.sub(r"\1", signature))


def _simplify(
    app: Sphinx, what: str, name: str, obj: object, options: object,
    signature: str | None, returned: str | None,
) -> tuple[str | None, str | None]:  # fmt: skip
    return signature and plain(signature), returned and plain(returned)


def _untype(
    app: Sphinx, what: str, name: str, obj: object, options: object, lines: list[str]
) -> None:
    lines[:] = [line for line in lines if not line.lstrip().startswith(":type: ")]


def setup(app: Sphinx) -> dict[str, bool]:
    """Registers the steps; Sphinx calls this."""
    app.connect("autodoc-process-signature", _simplify)
    app.connect("autodoc-process-docstring", _untype, priority=900)  # after napoleon
    return {"parallel_read_safe": True, "parallel_write_safe": True}
