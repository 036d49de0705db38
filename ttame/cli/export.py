"""The command `ttame export`."""

from __future__ import annotations

from pathlib import Path
from typing import Annotated

import typer

from ttame.cli.terminal import DEFAULT, EXPLAINER, WEIGHTS, console


def export(
    out: Annotated[
        Path, typer.Argument(help="Output file, .onnx, or .pt2 for a program of torch.export.")
    ],
    explainer: EXPLAINER = DEFAULT,
    weights: WEIGHTS = None,
    storage: Annotated[
        str, typer.Option(help="How weights are stored: 'float32', 'float16' or 'int8'.")
    ] = "float32",
    preprocess: Annotated[
        bool, typer.Option("--preprocess", help="Resize, crop and normalise photos in the file.")
    ] = False,
    batch: Annotated[
        int | None, typer.Option(help="Images per call, for networks that fix it; default: any.")
    ] = None,
    any_size: Annotated[
        bool, typer.Option("--any-size", help="Leave height and width of the images open.")
    ] = False,
    licence: Annotated[
        str, typer.Option(help="Licence of the classifier's weights, noted in the file.")
    ] = "not stated",
    photos: Annotated[
        Path | None,
        typer.Option(
            help="Photo, or folder of photos, to compare on; default: the shipped samples."
        ),
    ] = None,
) -> None:
    """Write classifier and mechanism to one file that runs without this library.

    The file is run on photos and held against PyTorch; one that disagrees is not left behind.
    """
    from ttame.loading import load

    found = load(explainer, weights=weights).export(
        out, storage=storage, preprocess=preprocess, batch=batch,  # type: ignore[arg-type]
        any_size=any_size, licence=licence, photos=photos,
    )  # fmt: skip
    prepared = "" if found.pixels is None else f", pixels by {found.pixels:.1f} of 255 grey levels"
    console.print(
        f"exported: {out} ({out.stat().st_size / 1e6:.1f} MB); on {found.photos} photos it differs "
        f"from PyTorch by {found.logits:.1e} of the largest logit and {found.maps:.1e} of the "
        f"largest map value{prepared}; the same class is predicted for {found.same:.0%}",
        highlight=False, soft_wrap=True,
    )  # fmt: skip
