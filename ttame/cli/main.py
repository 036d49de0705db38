"""The command line: `ttame layers · explain · train · evaluate · diagnose · study · ...`."""

from __future__ import annotations

import os
from pathlib import Path
from typing import Annotated

import typer
from rich.table import Column, Table

from ttame.cli.demo import demo
from ttame.cli.export import export
from ttame.cli.measure import diagnose, evaluate, mosaics, study
from ttame.cli.terminal import (
    DEFAULT,
    EXPLAINER,
    HEIGHT,
    WEIGHTS,
    WIDTH,
    console,
    input_size,
    run,
)
from ttame.cli.train import train
from ttame.companion.notebooks import app as notebook_app
from ttame.errors import TTameError, unknown

app = typer.Typer(
    help="Explain image classifiers with trained attention (T-TAME).",
    no_args_is_help=True,
    add_completion=False,
    pretty_exceptions_enable=False,
)
app.add_typer(notebook_app, name="notebook")


@app.command()
def layers(
    model: Annotated[
        str, typer.Argument(help="Registered backbone, timm/NAME or torchvision/NAME.")
    ] = DEFAULT,
    height: HEIGHT = None,
    width: WIDTH = None,
    every: Annotated[
        bool, typer.Option("--all", help="Include the inner modules of blocks.")
    ] = False,
) -> None:
    """List the layers whose output is a feature map, and the automatic choice.

    No weights are needed. A layer is out of place if its cells are in another order than the
    image's pixels.
    """
    from ttame.classifiers.layers import list_layers, outline
    from ttame.classifiers.registry import build_backbone

    backbone = build_backbone(model, input_size=input_size(height, width))
    rows = list_layers(backbone.model, backbone.spec.input_size, backbone.spec.channels)
    shown = rows if every else outline(rows, backbone.spec.layers)
    longest = max((len(row.name) for row in shown), default=0)
    table = Table(
        Column("layer", no_wrap=True, min_width=longest), Column("kind", no_wrap=True),
        Column("channels", justify="right", no_wrap=True),
        Column("size", no_wrap=True, min_width=7), Column("stride", no_wrap=True),
        Column("choice", no_wrap=True, min_width=12), box=None,
    )  # fmt: skip
    for row in shown:
        choices = [
            *(["automatic"] if row.chosen else []),
            *(["registered"] if row.name in backbone.spec.layers else []),
            *([] if row.in_place else ["out of place"]),
            *([] if row.runs == 1 else [f"runs {row.runs} times"]),
        ]
        table.add_row(
            row.name,
            row.kind,
            str(row.channels),
            f"{row.size[0]}x{row.size[1]}",
            f"{row.stride:g}",
            "both" if choices == ["automatic", "registered"] else ", ".join(choices),
        )
    console.print(table)
    for name, names in backbone.spec.alternatives.items():
        console.print(f'layers="{name}": {", ".join(names)}', highlight=False, soft_wrap=True)
    if len(shown) < len(rows):
        console.print(f"{len(rows) - len(shown)} inner modules are not shown; --all shows them")


@app.command()
def explain(
    photos: Annotated[
        list[Path], typer.Argument(help="Photos, folders of photos, or patterns in quotes.")
    ],
    out: Annotated[Path, typer.Option(help="Folder for the overlays.")] = Path("explanations"),
    target: Annotated[
        list[str] | None, typer.Option(help="Class to explain, by name or index; repeatable.")
    ] = None,
    top_k: Annotated[
        int | None,
        typer.Option(help="Number of classes per photo; default: 3, or all of fewer."),
    ] = None,
    above: Annotated[
        float | None,
        typer.Option(help="Explain all classes of a higher probability, such as 0.5."),
    ] = None,
    html: Annotated[
        Path | None, typer.Option(help="Write an interactive page as well, .html.")
    ] = None,
    on_photo: Annotated[
        bool,
        typer.Option("--on-photo", help="Overlays of the whole photos at their own size."),
    ] = False,
    batch_size: Annotated[int, typer.Option(help="Photos per pass of the classifier.")] = 32,
    skip_bad: Annotated[
        bool, typer.Option("--skip-bad", help="Skip photos that cannot be read.")
    ] = False,
    explainer: EXPLAINER = DEFAULT,
    weights: WEIGHTS = None,
) -> None:
    """Explain photos: list their classes, and save each class's map as an overlay.

    Overlays are written batch by batch. They are named after the photos, and photos of one name
    after their folders as well.
    """
    from ttame.files import image_paths, unique_stems
    from ttame.loading import load

    if html and skip_bad:
        raise TTameError("--skip-bad does not go with --html, whose page shows every photo")
    if html and above is not None:
        raise TTameError("--above does not go with --html; use --top-k or --target")
    loaded = load(explainer, weights=weights)
    most = min(3, loaded.mechanism.classes) if top_k is None else top_k
    paths = [path for given in photos for path in image_paths(given)]
    missing = [path for path in paths if not os.path.isfile(path)]
    if missing:
        raise TTameError(
            f"image {str(missing[0])!r} does not exist or is not a file ({len(missing)} of "
            f"{len(paths)}); nothing is written"
        )
    stems = unique_stems(paths)
    if html:
        from ttame.companion.exploration import explore

        page = explore(loaded, paths, classes=target or most)
        page.save(html)
        found = iter(page.explanation)
    else:
        found = loaded.explain_each(
            paths, [target] * len(paths) if target else None, above=above,
            top_k=top_k if target or above is not None else most, batch_size=batch_size,
            skip_bad=skip_bad,
        )  # fmt: skip
    table = Table("photo", "class", "index", "probability", Column("picture", overflow="fold"))
    done = 0
    try:
        for one in found:
            position = one.crops[0].position
            stem, ending = stems[position], paths[position].suffix
            written = one.save(out, [stem], on_photo=on_photo)
            for name, index, value, path in zip(
                one.names()[0], one.targets[0].tolist(), one.probabilities()[0].tolist(), written,
                strict=True,
            ):  # fmt: skip
                table.add_row(f"{stem}{ending}", name, str(index), f"{value:.1%}", str(path))
            done += 1
    except TTameError as error:
        if not done:
            raise
        raise TTameError(
            f"{error}; the overlays of {done} of {len(paths)} photos are in {str(out)!r} "
            "(--skip-bad skips photos that cannot be read)"
        ) from error
    finally:
        if table.row_count:
            console.print(table)
    if html:
        console.print(f"interactive page: {html}", highlight=False, soft_wrap=True)


@app.command()
def data(
    name: Annotated[str, typer.Argument(help="Data set: 'imagenette', 'caltech101' or 'drawn'.")],
) -> None:
    """Download or draw a data set into the folder TTAME_DATA, or data/ if that is not set."""
    from ttame.companion.downloads import download_caltech101, download_imagenette

    def draw() -> Path:
        from ttame.evaluation.drawings import write_drawings  # asks for an extra

        return write_drawings()

    fetch = {"imagenette": download_imagenette, "caltech101": download_caltech101, "drawn": draw}
    if name not in fetch:
        raise unknown("data set", name, fetch)
    console.print(f"{'drawn' if name == 'drawn' else 'fetched'}: {fetch[name]()}")


for command in (train, evaluate, mosaics, diagnose, study, export, demo):
    app.command()(command)


def main() -> None:
    """Run the command line; invalid input ends it with one clear line and exit code 2."""
    run(app)
