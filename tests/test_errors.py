from __future__ import annotations

from dataclasses import dataclass
from typing import Annotated, Literal

import pytest

from ttame.errors import AtLeastOne, Bounds, NotNegative, Positive, TTameError, validate


@dataclass(frozen=True)
class Settings:
    mode: Literal["a", "b"] = "a"
    maybe: Literal["a", "b"] | None = None
    steps: AtLeastOne | None = None
    weight: NotNegative = 0.0
    rate: Positive = 1.0
    share: Annotated[float, Bounds(0, 1, above=True)] = 1.0
    name: str = "x"

    def __post_init__(self) -> None:
        validate(self)


def test_good_values_pass() -> None:
    Settings(mode="b", maybe="a", steps=1, weight=0.0, rate=1e-9, share=1.0)


@pytest.mark.parametrize(
    ("change", "message"),
    [
        ({"mode": "c"}, r"mode must be one of \('a', 'b'\), got 'c'"),
        ({"mode": None}, "mode must be one of"),
        ({"maybe": "c"}, "maybe must be one of"),
        ({"steps": 0}, "steps must be at least 1, got 0"),
        ({"weight": -0.1}, "weight must be at least 0, got -0.1"),
        ({"rate": 0.0}, "rate must be above 0, got 0.0"),
        ({"share": 0.0}, "share must be above 0 and at most 1, got 0.0"),
        ({"share": 1.5}, "share must be above 0 and at most 1, got 1.5"),
        ({"rate": float("nan")}, "rate must be above 0, got nan"),
    ],
)
def test_bad_values_are_named(change: dict[str, object], message: str) -> None:
    with pytest.raises(TTameError, match=message):
        Settings(**change)  # type: ignore[arg-type]
