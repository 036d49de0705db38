"""What the commands share: the console, the progress bar, and common options."""

from __future__ import annotations

import warnings
from pathlib import Path
from typing import Annotated, TextIO

import typer
from rich.console import Console
from rich.markup import escape
from rich.progress import (
    BarColumn,
    MofNCompleteColumn,
    Progress,
    TextColumn,
    TimeRemainingColumn,
)

from ttame.companion.allocation import keep_freed_memory
from ttame.errors import TTameError

console = Console()

BACKBONE = Annotated[str, typer.Option(help="Registered backbone, timm/NAME or torchvision/NAME.")]
EXPLAINER = Annotated[
    str, typer.Option(help="Name of a shipped explainer, or a .safetensors file.")
]
WEIGHTS = Annotated[
    Path | None,
    typer.Option(help="State dict or checkpoint of the classifier; default: its usual weights."),
]
SEED = Annotated[int, typer.Option(help="Random seed.")]
HEIGHT = Annotated[
    int | None, typer.Option(help="Input height, pixels; default: the network's, or the width.")
]
WIDTH = Annotated[int | None, typer.Option(help="Input width, pixels; default: the height.")]
DEFAULT = "tf_efficientnet_lite0"


def bar() -> Progress:
    """Make a progress bar with counts and the time left."""
    return Progress(
        TextColumn("{task.description}"),
        BarColumn(),
        MofNCompleteColumn(),
        TimeRemainingColumn(),
        console=console,
    )


def input_size(height: int | None, width: int | None) -> tuple[int, int] | None:
    """Return (H, W) of an input, square where one side is given; `None` where none is."""
    given = height or width
    return None if given is None else (height or given, width or given)


def run(app: typer.Typer) -> None:
    """Run a command line; invalid input ends it with one clear line and exit code 2."""
    keep_freed_memory()
    with warnings.catch_warnings():
        warnings.showwarning = _note
        try:
            app()
        except TTameError as error:
            _print_error("bold red", "error", str(error))
            raise SystemExit(2) from error


def _note(
    message: Warning | str,
    category: type[Warning],
    filename: str,
    lineno: int,
    file: TextIO | None = None,
    line: str | None = None,
) -> None:
    """Show a warning as one line, without the place in the code."""
    _print_error("bold yellow", "note", str(message))


def _print_error(style: str, kind: str, message: str) -> None:
    line = f"[{style}]{kind}:[/] {escape(message)}"
    Console(stderr=True).print(line, highlight=False, soft_wrap=True)
