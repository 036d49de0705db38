"""The one exception family that `ttame` raises for bad input, and its wording helpers."""

from __future__ import annotations

import difflib
from collections.abc import Iterable


class TTameError(ValueError):
    """Input that cannot be used. The message names the thing, the value and the remedy."""


def unknown(kind: str, name: str, known: Iterable[str]) -> TTameError:
    """The error for a name that is not among those that exist.

    Args:
        kind: What is named, such as `"recipe"`.
        name: What the user wrote.
        known: The names that exist.
    """
    names = list(known)
    return TTameError(
        f"unknown {kind} {name!r}; known are {', '.join(names)}.{suggest(name, names)}"
    )


def suggest(value: str, known: Iterable[str], limit: int = 3) -> str:
    """Return `" Did you mean 'a' or 'b'?"`, or `""` when nothing known is near `value`.

    Args:
        value: What the user wrote.
        known: The names that exist.
        limit: How many suggestions at most.
    """
    names = {name.lower(): name for name in known}
    close = difflib.get_close_matches(value.lower(), names, n=limit, cutoff=0.5)
    near = [names[name] for name in close]
    return f" Did you mean {' or '.join(repr(name) for name in near)}?" if near else ""
