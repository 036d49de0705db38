"""What the commands share: the console, the progress bar, and common options."""

from __future__ import annotations

import warnings
from pathlib import Path
from typing import TYPE_CHECKING, Annotated, NoReturn, TextIO

import typer
from rich.console import Console
from rich.progress import (
    BarColumn,
    MofNCompleteColumn,
    Progress,
    TextColumn,
    TimeRemainingColumn,
)
from rich.text import Text

from ttame.companion.allocation import keep_freed_memory
from ttame.errors import TTameError

if TYPE_CHECKING:
    import torch

# Plain text: names of files and classes may look like rich's markup or emoji codes.
console = Console(markup=False, emoji=False)

BACKBONE = Annotated[str, typer.Option(help="Registered backbone, timm/NAME or torchvision/NAME.")]
EXPLAINER = Annotated[
    str, typer.Option(help="Name of a shipped explainer, or a .safetensors file.")
]
WEIGHTS = Annotated[
    Path | None,
    typer.Option(help="State dict or checkpoint of the classifier; default: its usual weights."),
]
MOST_SEED = 2**32 - 1  # the largest that numpy takes
SEED = Annotated[int, typer.Option(help="Random seed.", min=0, max=MOST_SEED)]
HEIGHT = Annotated[
    int | None, typer.Option(help="Input height, pixels; default: the network's, or the width.")
]
WIDTH = Annotated[int | None, typer.Option(help="Input width, pixels; default: the height.")]
DEFAULT = "tf_efficientnet_lite0"
DEVICE = Annotated[
    str | None,
    typer.Option(help="'cpu', 'cuda' or 'cuda:1'; default: the first GPU, where there is one."),
]


def bar() -> Progress:
    """Make a progress bar with counts and the time left."""
    return Progress(
        TextColumn("{task.description}"),
        BarColumn(),
        MofNCompleteColumn(),
        TimeRemainingColumn(),
        console=console,
    )


def open_device(name: str | None) -> torch.device:
    """Return a device by name, or the first GPU, or the CPU where there is none.

    Raises:
        TTameError: If this machine has no such device.
    """
    import torch

    wanted = name or ("cuda" if torch.cuda.is_available() else "cpu")
    try:
        return torch.empty(0, device=wanted).device
    except (RuntimeError, AssertionError) as error:  # torch without CUDA asserts
        reason = str(error).splitlines()[0]
        raise TTameError(
            f"device={wanted!r} cannot be used here ({reason}); leave the option out, or take 'cpu'"
        ) from error


def input_size(height: int | None, width: int | None) -> tuple[int, int] | None:
    """Return (H, W) of an input, square where one side is given; `None` where none is."""
    given = width if height is None else height  # 0 is refused later, and is not an absent side
    if given is None:
        return None
    return given, given if width is None else width


def run(app: typer.Typer) -> None:
    """Run a command line; invalid input ends it with one clear line and exit code 2.

    So do a path or disk that the operating system refuses, and too little memory.
    """
    keep_freed_memory()
    with warnings.catch_warnings():
        warnings.showwarning = _note
        try:
            app()
        except TTameError as error:
            _stop(str(error), error)
        except OSError as error:
            where = f" {error.filename!r}" if error.filename is not None else ""
            _stop(f"the operating system refuses{where}: {error.strerror or error}", error)
        except (MemoryError, RuntimeError) as error:
            from ttame.classifiers.advice import is_out_of_memory

            if not is_out_of_memory(error):
                raise
            _stop("there is too little memory; choose a smaller size or batch", error)


def _note(
    message: Warning | str,
    category: type[Warning],
    filename: str,
    lineno: int,
    file: TextIO | None = None,
    line: str | None = None,
) -> None:
    """Show a warning as one line, without the place in the code."""
    _print_line("bold yellow", "note", str(message))


def _stop(message: str, error: BaseException) -> NoReturn:
    _print_line("bold red", "error", message)
    raise SystemExit(2) from error


def _print_line(style: str, kind: str, message: str) -> None:
    """Print one line, whatever is in the message."""
    line = " ".join(message.split()).encode("utf-8", "backslashreplace").decode()
    text = Text.assemble((f"{kind}:", style), " ", line)
    Console(stderr=True).print(text, highlight=False, soft_wrap=True)
