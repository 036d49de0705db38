"""The command `ttame demo`."""

from __future__ import annotations

from pathlib import Path
from typing import Annotated

import typer

from ttame.cli.terminal import DEFAULT, EXPLAINER, WEIGHTS, console


def demo(
    page: Annotated[Path, typer.Argument(help="Output file, .html.")] = Path("demo.html"),
    photo: Annotated[
        list[Path] | None,
        typer.Option(help="Photo, folder or pattern to begin with; repeatable; default: samples."),
    ] = None,
    method: Annotated[
        list[str] | None,
        typer.Option(help="Method to compare on these, T-TAME among them; repeatable."),
    ] = None,
    title: Annotated[str | None, typer.Option(help="Title of the page.")] = None,
    separate: Annotated[
        bool,
        typer.Option("--separate", help="Leave network and runtime in files beside the page."),
    ] = False,
    explainer: EXPLAINER = DEFAULT,
    weights: WEIGHTS = None,
) -> None:
    """Write a page in which the explainer runs, in the browser of whoever opens it."""
    import ttame
    from ttame.files import image_paths

    paths = [path for given in photo or [] for path in image_paths(given)]
    written = ttame.demo(
        ttame.load(explainer, weights=weights), page, paths or None, methods=method, title=title,
        single=not separate,
    )  # fmt: skip
    size = written.stat().st_size / 1e6
    console.print(f"page: {written} ({size:.1f} MB)", highlight=False, soft_wrap=True)
