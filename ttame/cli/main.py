"""The command line: `ttame layers · explain · train · evaluate · diagnose · study · ...`."""

from __future__ import annotations

from pathlib import Path
from typing import Annotated

import typer
from rich.table import Column, Table

from ttame.cli.measure import diagnose, evaluate, study
from ttame.cli.terminal import DEFAULT, EXPLAINER, console, run
from ttame.cli.train import train
from ttame.companion.notebooks import app as notebook_app
from ttame.errors import unknown

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
    height: Annotated[
        int | None, typer.Option(help="Input height, pixels; default: the network's.")
    ] = None,
    width: Annotated[int | None, typer.Option(help="Input width; default: the height.")] = None,
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

    size = None if height is None else (height, width or height)
    backbone = build_backbone(model, input_size=size)
    rows = list_layers(backbone.model, backbone.spec.input_size)
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
        ]
        table.add_row(
            row.name,
            row.kind,
            str(row.channels),
            f"{row.size[0]}x{row.size[1]}",
            f"{row.stride:g}",
            "both" if len(choices) > 1 else "".join(choices),
        )
    console.print(table)
    for name, names in backbone.spec.alternatives.items():
        console.print(f'layers="{name}": {", ".join(names)}', highlight=False, soft_wrap=True)
    if len(shown) < len(rows):
        console.print(f"{len(rows) - len(shown)} inner modules are not shown; --all shows them")


@app.command()
def explain(
    photos: Annotated[list[Path], typer.Argument(help="Photos to explain.")],
    out: Annotated[Path, typer.Option(help="Folder for the overlays.")] = Path("explanations"),
    target: Annotated[
        list[str] | None, typer.Option(help="Class to explain, by index or name; repeatable.")
    ] = None,
    top_k: Annotated[int, typer.Option(help="Number of classes per photo, without --target.")] = 3,
    html: Annotated[
        Path | None, typer.Option(help="Write an interactive page as well, .html.")
    ] = None,
    explainer: EXPLAINER = DEFAULT,
) -> None:
    """Explain photos: list their classes, and save each class's map as an overlay."""
    from ttame.loading import load

    loaded = load(explainer)
    # All photos are explained before anything is written.
    if html:
        from ttame.companion.exploration import explore

        page = explore(loaded, photos, classes=target or top_k)
        found = [(photos, page.explanation)]
        page.save(html)
    else:
        found = [
            ([photo], loaded.explain(photo, [target] if target else None,
                                     top_k=None if target else top_k))
            for photo in photos
        ]  # fmt: skip
    table = Table("photo", "class", "index", "probability", Column("picture", overflow="fold"))
    for group, explanation in found:
        written = iter(explanation.save(out, [photo.stem for photo in group]))
        for photo, *row in zip(
            group,
            explanation.names(),
            explanation.targets.tolist(),
            explanation.probabilities().tolist(),
            strict=True,
        ):
            for name, index, value in zip(*row, strict=True):
                table.add_row(photo.name, name, str(index), f"{value:.1%}", str(next(written)))
    console.print(table)
    if html:
        console.print(f"interactive page: {html}", highlight=False, soft_wrap=True)


@app.command()
def data(
    name: Annotated[str, typer.Argument(help="Data set: 'imagenette', 'caltech101' or 'drawn'.")],
) -> None:
    """Download or draw a data set into the folder TTAME_DATA, or data/ if that is not set."""
    from ttame.data import download_caltech101, download_imagenette

    def draw() -> Path:
        from ttame.evaluation.drawings import write_drawings  # asks for an extra

        return write_drawings()

    fetch = {"imagenette": download_imagenette, "caltech101": download_caltech101, "drawn": draw}
    if name not in fetch:
        raise unknown("data set", name, fetch)
    console.print(f"{'drawn' if name == 'drawn' else 'fetched'}: {fetch[name]()}")


for command in (train, evaluate, diagnose, study):
    app.command()(command)


def main() -> None:
    """Run the command line; invalid input ends it with one clear line and exit code 2."""
    run(app)
