"""The commands that measure: `ttame evaluate`, `ttame bench`, `ttame families`, `ttame study`."""

from __future__ import annotations

from pathlib import Path
from typing import Annotated, Any

import typer
from rich.table import Table

from ttame.errors import TTameError
from ttame.terminal import DEFAULT, EXPLAINER, SEED, bar, console


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
    with bar() as shown:
        task = shown.add_task("photos", total=len(photos))
        run(
            opened, photos, out, methods=names, batch_size=batch_size, seed=seed,
            metrics=METRICS if metrics == "all" else [name.strip() for name in metrics.split(",")],
            settings={"RISE": {"masks": rise_masks}} if "RISE" in names else None,
            skip_bad=skip_bad, steps=steps, curve_limit=curve_limit,
            progress=lambda done, total: shown.update(task, completed=done, total=total),
        )  # fmt: skip
    written = write_table(intervals(read_results(out)[1]), out.with_suffix(".summary.csv"))
    typer.echo(summary(out).round(2).to_string())
    console.print(f"records: {out}, means with 95 % intervals: {written}")


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
    with bar() as shown:
        task = shown.add_task("methods", total=len(names))
        found = measure_methods(
            loaded, chosen, names,
            progress=lambda done, total: shown.update(task, completed=done, total=total),
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


def bench_scaling(
    out: Annotated[Path, typer.Option(help="Results file, .json.")] = Path(
        "data/results/scaling.json"
    ),
    devices: Annotated[
        list[int] | None, typer.Option(help="Numbers of devices; repeatable. Default: 1 and 2.")
    ] = None,
    steps: Annotated[int, typer.Option(help="Steps of a run.")] = 20,
    batch_size: Annotated[int, typer.Option(help="Photos a step, over all devices.")] = 32,
    backbone: Annotated[str, typer.Option(help="Registered backbone.")] = DEFAULT,
    data: Annotated[str, typer.Option(help="Photos, as for `ttame train`.")] = "imagenette",
) -> None:
    """Time training on one device and on several, reading photos included."""
    from ttame.scaling import measure_scaling, write_scaling

    arguments = ["--backbone", backbone, "--data", data]
    rows = measure_scaling(devices or [1, 2], arguments, steps, batch_size)
    for row in rows:
        console.print(
            f"{row['devices']} x {row['device']}: {row['images_per_second']:.1f} photos/s, "
            f"{row['speedup']:.2f} times the first",
            highlight=False,
        )
    console.print(f"record: {write_scaling(out, rows)}", soft_wrap=True)


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


def study(
    file: Annotated[Path, typer.Argument(help="The study, .toml.")],
    out: Annotated[Path, typer.Option(help="Folder of the records.")],
    work: Annotated[Path, typer.Option(help="Folder of the training runs.")] = Path("runs/study"),
    axis: Annotated[
        list[str] | None, typer.Option(help="Runs of this axis only; may be repeated.")
    ] = None,
    limit: Annotated[int | None, typer.Option(help="Photos to train on; default all.")] = None,
    dry_run: Annotated[bool, typer.Option("--dry-run", help="List what is missing.")] = False,
) -> None:
    """Train and measure the runs of a study that have no record yet."""
    from ttame.data import imagenette
    from ttame.study import carry_out, read_study

    found = read_study(file)
    axes = {variant.changes for variant in found.variants if not axis or variant.axis in axis}
    runs = [run for run in found.runs if run.variant.changes in axes]
    missing = [run for run in runs if not (out / f"{run.name}.json").is_file()]
    console.print(f"{len(runs) - len(missing)} of {len(runs)} runs are done")
    if dry_run:
        console.print("\n".join(run.name for run in missing), highlight=False)
        return
    train, held_out = imagenette("train").sample(limit), imagenette("val")
    held_out = held_out.sample(found.budget.held_out)
    failed = []
    for run in missing:
        try:
            path = carry_out(run, found.budget, train, held_out, out, work)
            console.print(f"record: {path}", soft_wrap=True)
        except TTameError as error:  # the others may still succeed
            failed.append(run.name)
            console.print(f"{run.name} failed: {error}", markup=False, soft_wrap=True)
    if failed:
        raise TTameError(f"{len(failed)} of {len(missing)} runs failed: {', '.join(failed)}")
