"""The one exception family that `ttame` raises for bad input, and its wording helpers."""

from __future__ import annotations

import difflib
from collections.abc import Iterable
from dataclasses import dataclass, fields
from importlib.util import find_spec
from types import UnionType
from typing import Annotated, Any, Literal, Union, get_args, get_origin, get_type_hints


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


# What each extra of the distribution adds: module by module, with the name that pip knows it by.
EXTRAS = {
    "train": {
        "lightning": "lightning",
        "torchmetrics": "torchmetrics",
        "tensorboard": "tensorboard",
        "pandas": "pandas",
    },
    "evaluate": {
        "torchmetrics": "torchmetrics",
        "pytorch_grad_cam": "grad-cam",
        "captum": "captum",
        "scipy": "scipy",
        "pandas": "pandas",
        "seaborn": "seaborn",
    },
}


def require(extra: str, *modules: str) -> None:
    """Check that the packages of an extra are installed, without importing them.

    Args:
        extra: A key of `EXTRAS`.
        modules: Those that are needed; default: all that the extra adds.

    Raises:
        TTameError: Naming what is missing and the command that installs it.
    """
    names = EXTRAS[extra]
    missing = [names[module] for module in modules or names if find_spec(module) is None]
    if missing:
        raise TTameError(
            f"{', '.join(missing)} {'is' if len(missing) == 1 else 'are'} not installed; "
            f"pip install 'ttame[{extra}]'"
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


@dataclass(frozen=True)
class Bounds:
    """Range of a number in a configuration, as the annotation `Annotated[float, Bounds(0, 1)]`.

    Attributes:
        low: Smallest value; `None` for no limit.
        high: Largest value; `None` for no limit.
        above: Whether `low` itself is excluded.
    """

    low: float | None = None
    high: float | None = None
    above: bool = False

    def holds(self, value: float) -> bool:
        """Whether a value lies in the range; NaN never does."""
        low = self.low is None or (value > self.low if self.above else value >= self.low)
        return low and (self.high is None or value <= self.high) and value == value

    def __str__(self) -> str:
        """For messages: `"at least 1"`, `"above 0 and at most 1"`."""
        low = "" if self.low is None else f"{'above' if self.above else 'at least'} {self.low:g}"
        high = "" if self.high is None else f"at most {self.high:g}"
        return " and ".join(part for part in (low, high) if part)


AtLeastOne = Annotated[int, Bounds(1)]
NotNegative = Annotated[float, Bounds(0)]
Positive = Annotated[float, Bounds(0, above=True)]


def validate(config: Any) -> None:
    """Check every field of a dataclass against its annotation.

    `Literal` fields must hold one of their values and `Bounds` must hold; `None` passes where
    the annotation allows it. Call it first in `__post_init__`, and check after it only what
    concerns several fields.

    Args:
        config: A dataclass instance.

    Raises:
        TTameError: Naming the field, its value and what is possible.
    """
    hints = get_type_hints(type(config), include_extras=True)
    for field in fields(config):
        value = getattr(config, field.name)
        options = _alternatives(hints[field.name])
        literals = [item for option in options for item in _literals(option)]
        if literals and value not in literals and not (value is None and type(None) in options):
            raise TTameError(f"{field.name} must be one of {tuple(literals)}, got {value!r}")
        for option in options:
            for bounds in getattr(option, "__metadata__", ()):
                if isinstance(bounds, Bounds) and value is not None and not bounds.holds(value):
                    raise TTameError(f"{field.name} must be {bounds}, got {value!r}")


def _alternatives(hint: Any) -> tuple[Any, ...]:
    """The members of a union; of anything else, itself."""
    return get_args(hint) if get_origin(hint) in (Union, UnionType) else (hint,)


def _literals(option: Any) -> tuple[Any, ...]:
    return get_args(option) if get_origin(option) is Literal else ()
