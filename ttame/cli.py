"""The command line: `ttame layers · explain · train · distill · evaluate · data · bench · ...`."""

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

from ttame.allocation import keep_freed_memory
from ttame.cli_train import train
from ttame.errors import TTameError
from ttame.notebooks import app as notebook_app

app = typer.Typer(
    help="Explain image classifiers with trained attention (T-TAME).",
    no_args_is_help=True,
    add_completion=False,
    pretty_exceptions_enable=False,
)
app.add_typer(notebook_app, name="notebook")
app.command()(train)
console = Console()

BACKBONE = Annotated[str, typer.Option(help="Registered backbone.")]
EXPLAINER = Annotated[str, typer.Option(help="Shipped explainer's name, or a .safetensors file.")]
SEED = Annotated[int, typer.Option(help="Seed of everything random.")]
DEFAULT = "tf_efficientnet_lite0"


@app.command()
def layers(
    model: Annotated[
        str, typer.Argument(help="Registered backbone, timm/NAME or torchvision/NAME.")
    ] = DEFAULT,
    height: Annotated[int | None, typer.Option(help="Input height, pixels.")] = None,
    width: Annotated[int | None, typer.Option(help="Input width; default: the height.")] = None,
    every: Annotated[bool, typer.Option("--all", help="Inner modules of a block, too.")] = False,
) -> None:
    """List the layers whose output is a feature map, and the automatic choice.

    Needs no weights: only the structure of the network counts.
    """
    from ttame.backbones import build_backbone
    from ttame.layers import list_layers, outline

    size = None if height is None else (height, width or height)
    backbone = build_backbone(model, input_size=size)
    rows = list_layers(backbone.model, backbone.spec.input_size)
    shown = rows if every else outline(rows, backbone.spec.layers)
    longest = max((len(row.name) for row in shown), default=0)
    table = Table(
        Column("layer", no_wrap=True, min_width=longest), "kind", "channels", "size", "stride",
        "in place", "automatic", "registered",
    )  # fmt: skip
    for row in shown:
        table.add_row(
            row.name,
            row.kind,
            str(row.channels),
            f"{row.size[0]}x{row.size[1]}",
            f"{row.stride:g}",
            "yes" if row.in_place else "no",
            "yes" if row.chosen else "",
            "yes" if row.name in backbone.spec.layers else "",
        )
    console.print(table)
    for name, names in backbone.spec.alternatives.items():
        console.print(f'layers="{name}": {", ".join(names)}', highlight=False, soft_wrap=True)
    if len(shown) < len(rows):
        console.print(f"{len(rows) - len(shown)} inner modules are not shown; --all shows them")


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
def distill(
    out: Annotated[Path, typer.Option(help="Folder of the run.")],
    name: Annotated[str, typer.Option(help="Name of the classifier.")] = "vit_imagenette",
    epochs: Annotated[int, typer.Option(help="Passes over the photos.")] = 8,
    views: Annotated[int, typer.Option(help="Augmented views of a photo.")] = 3,
    limit: Annotated[int | None, typer.Option(help="Photos to train on; default all.")] = None,
    workers: Annotated[int, typer.Option(help="Processes that read photos.")] = 1,
    seed: SEED = 0,
) -> None:
    """Train the small Vision Transformer on Imagenette, taught by EfficientNet-Lite0."""
    from ttame.data import imagenette
    from ttame.distillation import DistillationConfig
    from ttame.distillation import distill as run

    photos, held_out = imagenette("train").sample(limit, seed), imagenette("val")
    config = DistillationConfig(epochs=epochs, views=views, seed=seed, workers=workers)
    classes = tuple(sorted(set(held_out.labels or ())))
    with _bar() as bar:

        def stage(title: str) -> Callable[[int, int], None]:
            task = bar.add_task(title)
            return lambda done, total: bar.update(task, completed=done, total=total)

        record = run(photos, held_out, classes, config, out, name=name, progress=stage)
    console.print(
        f"trained: {out / f'{name}.safetensors'}, top-1 {record['top1']} % of "
        f"{record['validation_photos']} photos (teacher {record['teacher_top1']} %)"
    )


@app.command()
def evaluate(
    out: Annotated[Path, typer.Option(help="Results file, .jsonl; a summary .csv goes beside it.")],
    backbone: Annotated[
        str | None, typer.Option(help="Registered backbone; default: the explainer's.")
    ] = None,
    explainer: Annotated[
        str | None,
        typer.Option(
            help="Shipped explainer, .safetensors file, or 'none'; default: the backbone's."
        ),
    ] = None,
    methods: Annotated[
        str, typer.Option(help="'default', 'all' that apply, or names with commas.")
    ] = "default",
    metrics: Annotated[
        str, typer.Option(help="'all', or of AD/IC, ROAD, insertion/deletion with commas.")
    ] = "AD/IC",
    data: Annotated[
        str, typer.Option(help="'imagenette', 'samples', or a folder of photos.")
    ] = "imagenette",
    limit: Annotated[int | None, typer.Option(help="Photos; default all.")] = None,
    curve_limit: Annotated[
        int | None, typer.Option(help="Photos for ROAD and insertion/deletion; default all.")
    ] = None,
    steps: Annotated[int, typer.Option(help="Steps of insertion and deletion.")] = 20,
    batch_size: Annotated[int, typer.Option(help="Photos at a time.")] = 16,
    rise_masks: Annotated[int, typer.Option(help="Masks of RISE, a pass each.")] = 4000,
    skip_bad: Annotated[
        bool, typer.Option("--skip-bad", help="Skip photos that cannot be read.")
    ] = False,
    seed: SEED = 0,
) -> None:
    """Measure methods side by side on the same photos; goes on after a kill."""
    from ttame.data import open_photos
    from ttame.evaluation import METRICS
    from ttame.evaluation import evaluate as run
    from ttame.loading import open_explainer
    from ttame.methods import select
    from ttame.results import read_results
    from ttame.tables import intervals, summary, write_table

    opened, trained = open_explainer(explainer or backbone or DEFAULT, backbone)
    names, left_out = select(methods, opened, trained)
    for name, reason in left_out.items():
        console.print(f"left out: {name} ({reason})", highlight=False, markup=False)
    photos = open_photos(data, "val").sample(limit, seed)
    with _bar() as bar:
        task = bar.add_task("photos", total=len(photos))
        run(
            opened, photos, out, methods=names, batch_size=batch_size, seed=seed,
            metrics=METRICS if metrics == "all" else [name.strip() for name in metrics.split(",")],
            settings={"RISE": {"masks": rise_masks}} if "RISE" in names else None,
            skip_bad=skip_bad, steps=steps, curve_limit=curve_limit,
            progress=lambda done, total: bar.update(task, completed=done, total=total),
        )  # fmt: skip
    written = write_table(intervals(read_results(out)[1]), out.with_suffix(".summary.csv"))
    typer.echo(summary(out).round(2).to_string())
    console.print(f"records: {out}, means with 95 % intervals: {written}")


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
    repeats: Annotated[int, typer.Option(help="Timed turns of the plain forward pass.")] = 41,
    photos: Annotated[int, typer.Option(help="Sample photos for ROAD and the methods.")] = 4,
    backbone: Annotated[
        list[str] | None,
        typer.Option(help="Others whose explanation is timed, with random weights; repeatable."),
    ] = None,
) -> None:
    """Time explanations against a plain forward pass, and ROAD against pytorch-grad-cam's."""
    from ttame.benchmark import measure_cost, write_benchmark
    from ttame.data import samples
    from ttame.loading import attach, load
    from ttame.methods import select
    from ttame.timing import measure_methods, measure_road

    loaded, chosen = load(explainer), samples().sample(photos)
    names, left_out = select("all", loaded)
    rows = measure_cost(loaded, repeats=repeats)
    for other in backbone or ["resnet50", "vit_b_16"]:
        # Seconds a turn at batch 32: fewer turns.
        untrained = attach(other, pretrained=False)
        rows += measure_cost(untrained, (1,), repeats)
        rows += measure_cost(untrained, (32,), max(repeats // 4, 3))
    for row in rows:
        console.print(
            f"{row['backbone']}, batch {row['batch']}: forward {row['forward_ms']:.1f} ms, "
            f"explanation {row['explanation_ms']:.1f} ms, ratio {row['ratio']:.3f}",
            soft_wrap=True,
        )
    road = measure_road(loaded, chosen)
    console.print(
        f"ROAD imputation: ours {road['ours_seconds']:.2g} s a photo, pytorch-grad-cam "
        f"{road['library_seconds']:.2g} s: {road['ratio']:.1f} times less; largest difference "
        f"{road['largest_difference']:.0e}, of a probability "
        f"{road['largest_probability_difference']:.0e}; decisions equal "
        f"{road['decisions_equal']} of {road['decisions']}",
        soft_wrap=True,
    )
    with _bar() as bar:
        task = bar.add_task("methods", total=len(names))
        found = measure_methods(
            loaded, chosen, names,
            progress=lambda done, total: bar.update(task, completed=done, total=total),
        )  # fmt: skip
    table = Table("method", "ms a photo", "x forward pass", "forward", "backward", "measured")
    for row in found:
        table.add_row(
            row["method"],
            f"{row['ms']:,.1f}",
            f"{row['ratio']:,.2f}",
            f"{row['forward']:,.0f}",
            f"{row['backward']:,.0f}",
            f"{row['masks_measured']} of {row['masks']:,} masks, scaled"
            if row["scaled"]
            else f"{row['repeats']} x",
        )
    console.print(table)
    for name, reason in left_out.items():
        console.print(f"left out: {name} ({reason})", highlight=False, markup=False, soft_wrap=True)
    console.print(f"record: {write_benchmark(out, rows, road, found, left_out)}", soft_wrap=True)


@app.command()
def families(
    names: Annotated[
        list[str] | None, typer.Argument(help="Families of timm; default all.")
    ] = None,
    out: Annotated[Path, typer.Option(help="Results file, .json.")] = Path(
        "data/results/families.json"
    ),
) -> None:
    """Check that the method works on a small member of every model family of timm."""
    from ttame.families import check_families, write_families

    def report(row: dict[str, Any]) -> None:
        verdict = "passed" if row["passed"] else row["reason"]
        console.print(
            f"{row['family']} ({row['model']}, {row['seconds']} s): {verdict}",
            highlight=False, markup=False, soft_wrap=True,
        )  # fmt: skip

    rows = check_families(names, report)
    passed = sum(row["passed"] for row in rows)
    console.print(f"{passed} of {len(rows)} families passed; record: {write_families(out, rows)}")


def main() -> None:
    """Run the command line; bad input ends with one clear line and exit code 2."""
    keep_freed_memory()
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
