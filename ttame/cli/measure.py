"""The commands that measure explanations: `ttame evaluate`, `mosaics`, `diagnose` and `study`."""

from __future__ import annotations

from collections.abc import Iterable
from pathlib import Path
from typing import TYPE_CHECKING, Annotated

import typer

from ttame.cli.terminal import DEFAULT, DEVICE, SEED, WEIGHTS, bar, console, open_device
from ttame.errors import TTameError, require

if TYPE_CHECKING:
    from ttame.companion.studies.variants import Run
    from ttame.explainer import Explainer


# Options that several commands share.
METRICS = Annotated[
    str,
    typer.Option(
        help="'all', or a comma-separated list of AD/IC, ROAD, insertion/deletion, SDS, SaCo."
    ),
]
OUT = Annotated[
    Path,
    typer.Option(help="Results file, .jsonl or .jsonl.gz; a summary .csv is written beside it."),
]
REGISTERED = Annotated[
    str | None, typer.Option(help="Registered backbone; default: the explainer's.")
]
EXPLAINER = Annotated[
    str | None,
    typer.Option(help="Shipped explainer, .safetensors file or 'none'; default: the backbone's."),
]
METHODS = Annotated[
    str, typer.Option(help="'default', 'all' (that apply), or a comma-separated list.")
]
DATA = Annotated[
    str, typer.Option(help="'imagenette', 'photos', 'drawn', 'samples', or a folder of photos.")
]
LIMIT = Annotated[int | None, typer.Option(help="Number of photos; default: all.")]
BATCH_SIZE = Annotated[int, typer.Option(help="Photos per batch.")]


def evaluate(
    out: OUT,
    backbone: REGISTERED = None,
    explainer: EXPLAINER = None,
    weights: WEIGHTS = None,
    size: Annotated[
        int | None,
        typer.Option(
            help="Height and width of the photos, pixels, with --explainer none; default: the "
            "classifier's."
        ),
    ] = None,
    methods: METHODS = "default",
    metrics: METRICS = "AD/IC",
    data: DATA = "imagenette",
    limit: LIMIT = None,
    curve_limit: Annotated[
        int | None,
        typer.Option(help="Number of photos for all metrics but AD/IC; default: all.", min=0),
    ] = None,
    steps: Annotated[
        int, typer.Option(help="Number of steps of insertion and deletion.", min=1, max=10_000)
    ] = 20,
    grid: Annotated[int, typer.Option(help="Cells to a side of SDS.", min=1, max=1000)] = 4,
    batch_size: BATCH_SIZE = 16,
    rise_masks: Annotated[
        int, typer.Option(help="Number of RISE masks; each costs a pass.", min=1)
    ] = 4000,
    skip_bad: Annotated[
        bool, typer.Option("--skip-bad", help="Skip photos that cannot be read.")
    ] = False,
    device: DEVICE = None,
    workers: Annotated[
        int,
        typer.Option(
            help="Number of processes, each with OMP_NUM_THREADS threads; same results.", min=1
        ),
    ] = 1,
    seed: SEED = 0,
) -> None:
    """Score methods side by side on the same photos; a killed run is resumed."""
    require("evaluate")
    from ttame.data import open_photos
    from ttame.evaluation.evaluate import evaluate as run

    opened, names = _open(explainer, backbone, methods, weights, device, size)
    photos = open_photos(data, "val").sample(limit, seed)
    with bar() as shown:
        task = shown.add_task("photos", total=len(photos))
        run(
            opened, photos, out, methods=names, batch_size=batch_size, seed=seed,
            metrics=_metrics(metrics),
            settings={"RISE": {"masks": rise_masks}} if "RISE" in names else None,
            skip_bad=skip_bad, workers=workers, steps=steps, grid=grid, curve_limit=curve_limit,
            progress=lambda done, total: shown.update(task, completed=done, total=total),
        )  # fmt: skip
    _summarise(out)


def mosaics(
    out: OUT,
    backbone: REGISTERED = None,
    explainer: EXPLAINER = None,
    weights: WEIGHTS = None,
    methods: METHODS = "default",
    data: DATA = "imagenette",
    limit: Annotated[
        int | None, typer.Option(help="Number of photos to draw from; default: all.")
    ] = None,
    grid: Annotated[int, typer.Option(help="Photos to a side of a mosaic.")] = 2,
    count: Annotated[
        int | None, typer.Option(help="Number of mosaics; default: as many as the photos give.")
    ] = None,
    threshold: Annotated[
        float, typer.Option(help="Probability from which the classifier is sure of a photo.")
    ] = 0.9,
    batch_size: Annotated[int, typer.Option(help="Photos judged at a time.")] = 16,
    device: DEVICE = None,
    seed: SEED = 0,
) -> None:
    """Score methods on mosaics of photos (grid pointing game); a killed run is resumed."""
    require("evaluate")
    from ttame.data import open_photos
    from ttame.evaluation.grid_pointing import evaluate_mosaics

    opened, names = _open(explainer, backbone, methods, weights, device)
    photos = open_photos(data, "val").sample(limit, seed)
    with bar() as shown:
        task = shown.add_task("mosaics", total=count)
        evaluate_mosaics(
            opened, photos, out, methods=names, grid=grid, count=count, threshold=threshold,
            batch_size=batch_size, seed=seed,
            progress=lambda done, total: shown.update(task, completed=done, total=total),
        )  # fmt: skip
    console.print(f"chance: {100 / grid**2:.2f} %")
    _summarise(out)


def _open(
    explainer: str | None,
    backbone: str | None,
    methods: str,
    weights: Path | None,
    device: str | None,
    size: int | None = None,
) -> tuple[Explainer, list[str]]:
    """Open the explainer and name the methods that apply, saying which do not."""
    from ttame.loading import open_explainer
    from ttame.methods import select

    opened, trained = open_explainer(explainer or backbone or DEFAULT, backbone, weights, size)
    opened.to(open_device(device))
    names, left_out = select(methods, opened, trained)
    for name, reason in left_out.items():
        console.print(f"left out: {name} ({reason})", highlight=False, markup=False)
    return opened, names


def _beside(out: Path, ending: str) -> Path:
    """Name a table after a results file, whether compressed or not."""
    return Path(str(out).removesuffix(".gz")).with_suffix(ending)


def _summarise(out: Path) -> None:
    """Write the means with intervals beside a results file and print its summary."""
    from ttame.evaluation.tables import intervals, summary, write_table
    from ttame.records import read_results

    written = write_table(intervals(read_results(out)[1]), _beside(out, ".summary.csv"))
    typer.echo(summary(out).round(2).to_string())
    console.print(f"records: {out}, means with 95 % intervals: {written}")


def diagnose(
    out: Annotated[
        Path, typer.Option(help="Results file, .jsonl; tables .csv are written beside it.")
    ],
    explainer: Annotated[
        str, typer.Option(help="Shipped explainer, or a .safetensors file.")
    ] = DEFAULT,
    weights: WEIGHTS = None,
    metrics: METRICS = "AD/IC",
    data: DATA = "imagenette",
    limit: LIMIT = None,
    batch_size: BATCH_SIZE = 16,
    device: DEVICE = None,
    seed: SEED = 0,
) -> None:
    """Measure what each layer adds to the map, and what dropping it costs."""
    require("evaluate")
    from ttame.data import open_photos
    from ttame.evaluation.diagnosis import diagnose as run
    from ttame.evaluation.tables import write_table
    from ttame.loading import open_explainer

    opened, _ = open_explainer(explainer, None, weights)
    opened.to(open_device(device))
    photos = open_photos(data, "val").sample(limit, seed)
    with bar() as shown:
        task = shown.add_task("photos", total=len(photos))
        statistics, costs = run(
            opened, photos, out, metrics=_metrics(metrics), batch_size=batch_size, seed=seed,
            progress=lambda done, total: shown.update(task, completed=done, total=total),
        )  # fmt: skip
    for name, table in (("layers", statistics.reset_index()), ("costs", costs)):
        typer.echo(table.round(4).to_string(index=False) + "\n")
        write_table(table, _beside(out, f".{name}.csv"))
    console.print(f"records: {out}")


def _metrics(names: str) -> tuple[str, ...]:
    from ttame.evaluation.evaluate import METRICS as EVERY

    return EVERY if names == "all" else tuple(name.strip() for name in names.split(","))


def study(
    file: Annotated[Path, typer.Argument(help="File of the study, .toml.")],
    out: Annotated[Path, typer.Option(help="Folder for the records.")],
    work: Annotated[Path, typer.Option(help="Folder for the training runs.")] = Path("runs/study"),
    axis: Annotated[list[str] | None, typer.Option(help="Run only this axis; repeatable.")] = None,
    only: Annotated[
        list[str] | None, typer.Option(help="Run only the run with this name; repeatable.")
    ] = None,
    limit: Annotated[
        int | None, typer.Option(help="Number of photos to train on; default: all.")
    ] = None,
    dry_run: Annotated[
        bool, typer.Option("--dry-run", help="List the missing runs and stop.")
    ] = False,
    device: DEVICE = None,
) -> None:
    """Train and measure the runs of a study that have no record yet."""
    require("train")
    require("evaluate")
    from ttame.companion.studies.records import minutes_left
    from ttame.companion.studies.runs import carry_out
    from ttame.companion.studies.study import read_study
    from ttame.data import open_photos

    found = read_study(file)
    for kind, given, known in (("axis", axis, found.axes), ("run", only, _names(found.runs))):
        unknown = set(given or ()) - set(known)
        if unknown:
            raise TTameError(
                f"{file} has no {kind} {', '.join(sorted(unknown))}; --dry-run lists the runs"
            )
    changes = {variant.changes for variant in found.variants if not axis or variant.axis in axis}
    missing = found.missing(out)
    console.print(f"{len(found.runs) - len(missing)} of {len(found.runs)} runs are done")
    runs = [run for run in missing
            if run.variant.changes in changes and (not only or run.name in only)]  # fmt: skip
    if dry_run:
        console.print("\n".join(_names(runs)), highlight=False, soft_wrap=True)
        _print_rest(minutes_left(runs, out), len(runs))
        return
    data = found.budget.data
    train, held_out = open_photos(data, "train").sample(limit), open_photos(data, "val")
    failed = []
    for run in runs:
        try:
            path = carry_out(run, train, held_out, out, work, open_device(device))
            console.print(f"record: {path}", soft_wrap=True)
        except TTameError as error:  # the others may still succeed
            failed.append(run.name)
            console.print(str(error), markup=False, soft_wrap=True)
        rest = found.missing(out)
        _print_rest(minutes_left(rest, out), len(rest))
    if failed:
        raise TTameError(f"{len(failed)} of {len(runs)} runs failed: {', '.join(failed)}")


def _names(runs: Iterable[Run]) -> list[str]:
    return [run.name for run in runs]


def _print_rest(minutes: float | None, runs: int) -> None:
    time = "" if minutes is None else f", about {minutes:.0f} minutes on one core"
    console.print(f"{runs} runs left{time}", highlight=False)
