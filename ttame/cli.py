"""The command line: `ttame layers · explain · train · evaluate · data · bench · notebook`."""

from __future__ import annotations

from collections.abc import Callable
from pathlib import Path
from typing import Annotated, Any

import typer
from rich.console import Console
from rich.progress import (
    BarColumn,
    MofNCompleteColumn,
    Progress,
    TextColumn,
    TimeRemainingColumn,
)
from rich.table import Column, Table

from ttame.errors import TTameError
from ttame.notebooks import app as notebook_app

app = typer.Typer(
    help="Explain image classifiers with trained attention (T-TAME).",
    no_args_is_help=True,
    add_completion=False,
    pretty_exceptions_enable=False,
)
app.add_typer(notebook_app, name="notebook")
console = Console()

BACKBONE = Annotated[str, typer.Option(help="Registered backbone.")]
EXPLAINER = Annotated[str, typer.Option(help="Shipped explainer's name, or a .safetensors file.")]
SEED = Annotated[int, typer.Option(help="Seed of everything random.")]
DEFAULT = "tf_efficientnet_lite0"


@app.command()
def layers(backbone: Annotated[str, typer.Argument(help="Registered backbone.")] = DEFAULT) -> None:
    """List the layers whose output is a feature map, and the automatic choice."""
    from ttame.backbones import load_backbone
    from ttame.features import list_layers

    loaded = load_backbone(backbone)
    table = Table("layer", "kind", "channels", "size", "stride", "automatic", "registered")
    for row in list_layers(loaded.model, loaded.spec.input_size):
        table.add_row(
            row.name,
            row.kind,
            str(row.channels),
            f"{row.size[0]}x{row.size[1]}",
            f"{row.stride:g}",
            "yes" if row.chosen else "",
            "yes" if row.name in loaded.spec.layers else "",
        )
    console.print(table)


@app.command()
def explain(
    photos: Annotated[list[Path], typer.Argument(help="Photos to explain.")],
    out: Annotated[Path, typer.Option(help="Folder for the overlay pictures.")] = Path(
        "explanations"
    ),
    target: Annotated[
        list[str] | None, typer.Option(help="Class index or name; may be repeated.")
    ] = None,
    top_k: Annotated[int, typer.Option(help="Without --target: how many classes.")] = 3,
    explainer: EXPLAINER = DEFAULT,
) -> None:
    """Explain photos: classes with probabilities, and an overlay picture of each class's map."""
    from ttame.loading import load

    loaded = load(explainer)
    # All photos are explained before anything is written.
    found = [
        loaded.explain(photo, [target]) if target else loaded.explain(photo, top_k=top_k)
        for photo in photos
    ]
    table = Table("photo", "class", "index", "probability", Column("picture", overflow="fold"))
    for photo, explanation in zip(photos, found, strict=True):
        written = explanation.save(out, [photo.stem])
        for name, index, value, path in zip(
            explanation.names()[0],
            explanation.targets[0].tolist(),
            explanation.probabilities()[0].tolist(),
            written,
            strict=True,
        ):
            table.add_row(photo.name, name, str(index), f"{value:.1%}", str(path))
    console.print(table)


@app.command()
def train(
    out: Annotated[Path, typer.Option(help="Folder of the run.")],
    backbone: BACKBONE = DEFAULT,
    recipe: Annotated[str, typer.Option(help="'ttame' (ours) or 'published'.")] = "ttame",
    name: Annotated[str, typer.Option(help="Name of the explainer.")] = "explainer",
    layer: Annotated[list[str] | None, typer.Option(help="Layer; may be repeated.")] = None,
    epochs: Annotated[int | None, typer.Option(help="Passes over the photos.")] = None,
    steps: Annotated[int | None, typer.Option(help="Optimiser steps instead.")] = None,
    batch_size: Annotated[int | None, typer.Option(help="Photos a step.")] = None,
    learning_rate: Annotated[float | None, typer.Option(help="Maximum of OneCycle.")] = None,
    limit: Annotated[int | None, typer.Option(help="Photos to train on; default all.")] = None,
    validation: Annotated[int, typer.Option(help="Held-out photos for AD/IC.")] = 200,
    workers: Annotated[int, typer.Option(help="Processes that read photos.")] = 1,
    seed: SEED = 0,
    resume: Annotated[bool, typer.Option(help="Go on from the last checkpoint.")] = False,
) -> None:
    """Train an explainer on Imagenette's training photos, with model-truth labels."""
    from dataclasses import replace

    from ttame.data import imagenette
    from ttame.loading import attach
    from ttame.recipes import TrainingConfig, published
    from ttame.training import fit

    recipes: dict[str, Callable[[], TrainingConfig]] = {
        "ttame": TrainingConfig,
        "published": published,
    }
    if recipe not in recipes:
        raise TTameError(f"unknown recipe {recipe!r}; expected one of {', '.join(recipes)}")
    given: dict[str, Any] = {
        "epochs": epochs,
        "steps": steps,
        "batch_size": batch_size,
        "learning_rate": learning_rate,
    }
    changes: dict[str, Any] = {key: value for key, value in given.items() if value is not None}
    config = replace(
        recipes[recipe](), seed=seed, workers=workers,
        **changes,
    )  # fmt: skip
    photos = imagenette("train").sample(limit, seed) if limit else imagenette("train")
    held_out = imagenette("val").sample(validation, seed) if validation else None
    explainer = attach(backbone, layer or "auto")
    fit(explainer, photos, config, out, validation=held_out, name=name, resume=resume)
    console.print(f"trained: {out / f'{name}.safetensors'}, record {out / f'{name}.json'}")


@app.command()
def evaluate(
    out: Annotated[Path, typer.Option(help="Results file, .jsonl.")],
    explainer: EXPLAINER = DEFAULT,
    methods: Annotated[
        str, typer.Option(help="'default', 'all', or names with commas.")
    ] = "default",
    road: Annotated[bool, typer.Option("--road", help="Measure ROAD too.")] = False,
    limit: Annotated[int | None, typer.Option(help="Photos; default all.")] = None,
    batch_size: Annotated[int, typer.Option(help="Photos at a time.")] = 16,
    seed: SEED = 0,
) -> None:
    """Measure AD and IC of methods on Imagenette's validation photos; goes on after a kill."""
    from ttame.data import imagenette
    from ttame.evaluation import evaluate as run
    from ttame.evaluation import summary
    from ttame.loading import load
    from ttame.methods import DEFAULT_METHODS, METHODS

    groups = {"default": list(DEFAULT_METHODS), "all": list(METHODS)}
    names = groups.get(methods) or [name.strip() for name in methods.split(",")]
    photos = imagenette("val").sample(limit, seed)
    with _bar() as bar:
        task = bar.add_task("photos", total=len(photos))
        run(
            load(explainer), photos, out, methods=names, batch_size=batch_size, seed=seed,
            metrics=("AD/IC", "ROAD") if road else ("AD/IC",),
            progress=lambda done, total: bar.update(task, completed=done, total=total),
        )  # fmt: skip
    typer.echo(summary(out).round(2).to_string())


@app.command()
def data(name: Annotated[str, typer.Argument(help="'imagenette'.")]) -> None:
    """Fetch a data set into TTAME_DATA, or data/ where that is not set."""
    from ttame.data import download_imagenette

    if name != "imagenette":
        raise TTameError(f"unknown data set {name!r}; only 'imagenette' can be fetched")
    console.print(f"fetched: {download_imagenette()}")


@app.command()
def bench(
    out: Annotated[Path, typer.Option(help="Results file, .json.")] = Path(
        "data/results/benchmark.json"
    ),
    explainer: EXPLAINER = DEFAULT,
    repeats: Annotated[int, typer.Option(help="Timed turns.")] = 41,
) -> None:
    """Time an explanation against a plain forward pass of the same classifier."""
    from ttame.benchmark import measure_cost, write_benchmark
    from ttame.loading import load

    rows = measure_cost(load(explainer), repeats=repeats)
    write_benchmark(rows, out)
    for row in rows:
        console.print(
            f"{row['backbone']}, batch {row['batch']}: forward {row['forward_ms']:.1f} ms, "
            f"explanation {row['explanation_ms']:.1f} ms, ratio {row['ratio']:.3f}"
        )


def main() -> None:
    """Run the command line; bad input ends with one clear line and exit code 2."""
    try:
        app()
    except TTameError as error:
        Console(stderr=True).print(f"[bold red]error:[/] {error}", highlight=False, markup=True)
        raise SystemExit(2) from error


def _bar() -> Progress:
    return Progress(
        TextColumn("{task.description}"),
        BarColumn(),
        MofNCompleteColumn(),
        TimeRemainingColumn(),
        console=console,
    )
