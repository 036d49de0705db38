"""Benchmarks, checks, and the runs that made the shipped classifiers: the functions below."""

from __future__ import annotations

from collections.abc import Callable
from importlib.metadata import version
from importlib.util import find_spec
from pathlib import Path
from typing import Annotated, Any

import typer
from rich.table import Table

from ttame.cli.terminal import DEFAULT, EXPLAINER, SEED, bar, console, open_device, run
from ttame.errors import TTameError

app = typer.Typer(
    help="Time T-TAME, check it on every model family, make the shipped classifiers.",
    no_args_is_help=True,
    add_completion=False,
    pretty_exceptions_enable=False,
)


def explaining(
    out: Annotated[Path, typer.Option(help="Output file, .json.")] = Path(
        "data/results/benchmark.json"
    ),
    explainer: EXPLAINER = DEFAULT,
    repeats: Annotated[
        int, typer.Option(help="Number of timed turns of the plain forward pass.")
    ] = 41,
    photos: Annotated[
        int, typer.Option(help="Number of sample photos for ROAD and the methods.")
    ] = 4,
    backbone: Annotated[
        list[str] | None,
        typer.Option(help="Further backbone to time, with random weights; repeatable."),
    ] = None,
) -> None:
    """Time explanations against a plain forward pass, and ROAD against pytorch-grad-cam."""
    from benchmarks.explaining import measure_cost, measure_methods, measure_road
    from benchmarks.records import write_benchmark
    from ttame.data import samples
    from ttame.loading import attach, load
    from ttame.methods import select

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
    table = Table("method", "ms per photo", "x forward pass", "forward", "backward", "measured")
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
    path = write_benchmark(
        out, "explaining", rows=rows, road=road, methods=found, left_out=left_out
    )
    console.print(f"record: {path}", soft_wrap=True)


def scaling(
    out: Annotated[Path, typer.Option(help="Output file, .json.")] = Path(
        "data/results/scaling.json"
    ),
    devices: Annotated[
        list[int] | None, typer.Option(help="Number of devices; repeatable; default: 1 and 2.")
    ] = None,
    steps: Annotated[int, typer.Option(help="Number of steps per run.")] = 20,
    batch_size: Annotated[int, typer.Option(help="Photos per step, over all devices.")] = 32,
    backbone: Annotated[str, typer.Option(help="Registered backbone.")] = DEFAULT,
    data: Annotated[str, typer.Option(help="Photos, as for `ttame train`.")] = "imagenette",
) -> None:
    """Time training on one device and on several, including the reading of photos."""
    from benchmarks.records import write_benchmark
    from benchmarks.scaling import measure_scaling

    arguments = ["--backbone", backbone, "--data", data]
    rows = measure_scaling(devices or [1, 2], arguments, steps, batch_size)
    for row in rows:
        console.print(
            f"{row['devices']} x {row['device']}: {row['images_per_second']:.1f} photos/s, "
            f"{row['speedup']:.2f} times the first",
            highlight=False,
        )
    console.print(f"record: {write_benchmark(out, 'scaling', rows=rows)}", soft_wrap=True)


def training(
    out: Annotated[Path, typer.Option(help="Output file, .json.")] = Path(
        "data/results/throughput.json"
    ),
    classifier: Annotated[
        list[str] | None,
        typer.Option(
            help="Registered backbone, timm/NAME or torchvision/NAME; repeatable; default: three "
            "that suit the device."
        ),
    ] = None,
    batch_size: Annotated[
        int | None, typer.Option(help="Photos per step; default: 32, on a GPU 128.")
    ] = None,
    precision: Annotated[
        str | None,
        typer.Option(help="Precision of training; default: 32-true, on a GPU bf16-mixed."),
    ] = None,
    repeats: Annotated[int, typer.Option(help="Number of timed turns of step and floor.")] = 7,
    seed: SEED = 0,
) -> None:
    """Time training steps against the classifier's own passes, one classifier at a time."""
    import torch

    from benchmarks.records import write_benchmark
    from benchmarks.training import default_setting, measure_alone

    names, config = default_setting(torch.cuda.is_available())
    given: dict[str, Any] = {"batch_size": batch_size, "precision": precision, "seed": seed}
    config = config.replace(**{key: value for key, value in given.items() if value is not None})
    rows = []
    for name in classifier or names:
        row = measure_alone(name, config, repeats)
        console.print(
            f"{row['classifier']}, batch {row['batch']}, {row['precision']} on {row['device']}: "
            f"step {row['step_images_per_second']:.1f} images/s, floor "
            f"{row['floor_images_per_second']:.1f}, ratio {row['ratio']:.3f} (slowest by fastest "
            f"turn {row['step_spread']:.2f} and {row['floor_spread']:.2f}); peak memory "
            f"{row['step_peak_mb']:,.0f} MB, floor {row['floor_peak_mb']:,.0f} MB",
            highlight=False, markup=False, soft_wrap=True,
        )  # fmt: skip
        rows.append(row)
    console.print(f"record: {write_benchmark(out, 'training', seed, rows=rows)}", soft_wrap=True)


def families(
    names: Annotated[
        list[str] | None, typer.Argument(help="Model families, such as timm/resnet; default: all.")
    ] = None,
    out: Annotated[Path, typer.Option(help="Output file, .json.")] = Path(
        "data/results/families.json"
    ),
) -> None:
    """Check the method on a small member of every family of timm, torchvision, transformers."""
    from benchmarks.families import check_families
    from benchmarks.records import write_benchmark

    def report(row: dict[str, Any]) -> None:
        verdict = "passed" if row["passed"] else row["reason"]
        console.print(
            f"{row['family']} ({row['model']}, {row['seconds']} s): {verdict}",
            highlight=False, markup=False, soft_wrap=True,
        )  # fmt: skip

    rows = check_families(names, report)
    passed = sum(row["passed"] for row in rows)
    installed = version("transformers") if find_spec("transformers") else "not installed"
    path = write_benchmark(out, "families", transformers=installed, rows=rows)
    console.print(f"{passed} of {len(rows)} families passed; record: {path}")


def distill(
    out: Annotated[Path, typer.Option(help="Folder for the run.")] = Path("runs/vit"),
    name: Annotated[
        str | None, typer.Option(help="Name of the classifier; default: as it ships.")
    ] = None,
    data: Annotated[
        str,
        typer.Option(
            help="imagenette: its ten classes, by their labels; photos: all 1,000 classes, by the "
            "teacher's features."
        ),
    ] = "imagenette",
    epochs: Annotated[int, typer.Option(help="Number of passes over the photos.")] = 8,
    crops: Annotated[int, typer.Option(help="Augmented crops per photo.")] = 3,
    stages: Annotated[
        int | None,
        typer.Option(help="Stages of the teacher in the stem; default: the recipe's."),
    ] = None,
    depth: Annotated[
        int | None, typer.Option(help="Number of blocks; default: the recipe's.")
    ] = None,
    batch_size: Annotated[
        int | None, typer.Option(help="Photos per step; default: the recipe's.")
    ] = None,
    cache: Annotated[
        Path | None,
        typer.Option(help="Folder of the crops, which later runs reuse; default: OUT/crops."),
    ] = None,
    only_crops: Annotated[
        bool, typer.Option("--only-crops", help="Compute the crops, and stop.")
    ] = False,
    limit: Annotated[
        int | None, typer.Option(help="Number of photos to train on; default: all.")
    ] = None,
    workers: Annotated[int, typer.Option(help="Number of processes that read photos.")] = 1,
    seed: SEED = 0,
) -> None:
    """Distil EfficientNet-Lite0 into a shipped Vision Transformer."""
    from benchmarks.distillation.run import RECIPES, TEACHER, prepare
    from benchmarks.distillation.run import distill as run_distillation
    from ttame.classifiers.classes import imagenette_indices
    from ttame.classifiers.registry import load_backbone
    from ttame.data import PhotoList, imagenette, open_photos

    if data not in RECIPES:
        raise TTameError(f"no recipe for data {data!r}; choose from {', '.join(RECIPES)}")
    default, recipe = RECIPES[data]
    photos = open_photos(data, "train").sample(limit, seed)
    validation: tuple[PhotoList, ...] = (imagenette("val"),)
    classes = imagenette_indices()
    if data != "imagenette":
        validation, classes = (*validation, open_photos(data)), tuple(range(1000))
    chosen = {"stages": stages, "depth": depth, "batch_size": batch_size}
    given: dict[str, Any] = {key: value for key, value in chosen.items() if value is not None}
    config = recipe(epochs=epochs, crops=crops, seed=seed, workers=workers, **given)
    name = name or default
    with bar() as shown:

        def stage(title: str) -> Callable[[int, int], None]:
            task = shown.add_task(title)
            return lambda done, total: shown.update(task, completed=done, total=total)

        if only_crops:
            folder = cache or out / "crops"
            prepare(photos, validation, config, folder, load_backbone(TEACHER), stage)
            console.print(f"crops: {folder}")
            return
        record = run_distillation(
            photos, validation, classes, config, out, name=name, crops=cache, progress=stage
        )
    console.print(
        f"trained: {out / f'{name}.safetensors'}, top-1 {record['top1']} % of "
        f"{record['validation_photos']} photos (teacher {record['teacher_top1']} %); agreement "
        "with the teacher: "
        + ", ".join(f"{value} % on {of}" for of, value in record["agreement"].items())
    )


def drawn(
    out: Annotated[Path, typer.Option(help="Folder for the run.")] = Path("runs/drawn"),
    name: Annotated[str, typer.Option(help="Name of the classifier.")] = "drawn_cnn",
    drawings: Annotated[int, typer.Option(help="Number of drawings to train on.")] = 5000,
    epochs: Annotated[int, typer.Option(help="Number of passes over them.")] = 16,
    seed: SEED = 0,
) -> None:
    """Train the shipped classifier of drawn creatures."""
    from benchmarks.drawn import DrawnConfig, train_classifier

    config = DrawnConfig(drawings=drawings, epochs=epochs, seed=seed)
    with bar() as shown:
        task = shown.add_task("steps")
        record = train_classifier(
            config, out, name=name,
            progress=lambda done, total: shown.update(task, completed=done, total=total),
        )  # fmt: skip
    console.print(
        f"trained: {out / f'{name}.safetensors'}, top-1 {record['top1']} %, without a part "
        f"{record['top1_without_a_part']} %, without two {record['top1_without_two_parts']} %"
    )


def transfer(
    out: Annotated[Path, typer.Option(help="Output file, .json.")] = Path(
        "data/results/transfer.json"
    ),
    explainer: EXPLAINER = DEFAULT,
    scorer: Annotated[
        list[str] | None,
        typer.Option(help="Registered backbone that scores; repeatable; default: Lite1, Lite2."),
    ] = None,
    data: Annotated[str, typer.Option(help="Photos, as for `ttame evaluate`.")] = "photos",
    limit: Annotated[int, typer.Option(help="Number of photos.")] = 200,
    steps: Annotated[int, typer.Option(help="Gradient steps of the refined maps.")] = 4,
) -> None:
    """Score plain and refined maps by classifiers that the maps were not made for."""
    from benchmarks.records import write_benchmark
    from benchmarks.transfer import measure_transfer
    from ttame.classifiers.registry import load_backbone
    from ttame.data import open_photos
    from ttame.loading import load

    loaded, photos = load(explainer), open_photos(data).sample(limit)
    device = open_device(None)
    loaded.to(device)
    scorers = [load_backbone(name) for name in scorer or ["tf_efficientnet_lite1",
                                                          "tf_efficientnet_lite2"]]  # fmt: skip
    for found in scorers:
        found.model.to(device)
    rows = measure_transfer(loaded, scorers, photos, steps)
    for row in rows:
        console.print(
            f"{row['classifier']} {row['score']}: plain {row['plain']:.1f}, refined "
            f"{row['refined']:.1f} ({row['low']:+.1f} to {row['high']:+.1f}: {row['verdict']})",
            highlight=False, soft_wrap=True,
        )  # fmt: skip
    path = write_benchmark(out, "transfer", explainer=explainer, data=photos.name, steps=steps,
                           rows=rows)  # fmt: skip
    console.print(f"record: {path}", soft_wrap=True)


def parts(
    out: Annotated[Path, typer.Option(help="Results file, .jsonl or .jsonl.gz.")] = Path(
        "data/results/drawn_val_parts.jsonl.gz"
    ),
    explainer: EXPLAINER = "drawn_cnn",
    methods: Annotated[str, typer.Option(help="Methods, with commas.")] = ",".join(
        (
            "T-TAME",
            "Grad-CAM",
            "Grad-CAM++",
            "Layer-CAM",
            "RISE",
            "Integrated Gradients",
            "random",
            "all ones",
            "centre Gaussian",
        )
    ),
    limit: Annotated[int, typer.Option(help="Number of drawings.")] = 200,
    rise_masks: Annotated[int, typer.Option(help="Number of RISE masks.")] = 400,
    seed: SEED = 0,
) -> None:
    """Hold methods against the exact importance of the parts of drawings."""
    from ttame.evaluation.parts import part_intervals
    from ttame.evaluation.removal import evaluate_parts
    from ttame.loading import load
    from ttame.methods import select
    from ttame.records import read_results

    loaded = load(explainer)
    names, _ = select(methods, loaded)
    with bar() as shown:
        task = shown.add_task("drawings")
        evaluate_parts(
            loaded, out, methods=names, limit=limit, seed=seed,
            settings={"RISE": {"masks": rise_masks}} if "RISE" in names else None,
            progress=lambda done, total: shown.update(task, completed=done, total=total),
        )  # fmt: skip
    table = part_intervals(read_results(out)[1])
    typer.echo(table.pivot(index="method", columns="score", values="mean").round(2).to_string())
    console.print(f"records: {out}", soft_wrap=True)


def refinement(
    out: Annotated[Path, typer.Option(help="Output file, .json.")] = Path(
        "data/results/refinement.json"
    ),
    explainer: EXPLAINER = DEFAULT,
    data: Annotated[
        list[str] | None,
        typer.Option(help="Photos, as for `ttame evaluate`; repeatable; default: both sets."),
    ] = None,
    limit: Annotated[int, typer.Option(help="Number of photos per set.")] = 100,
) -> None:
    """Score maps at several budgets of passes: T-TAME refined, Opti-CAM and RISE."""
    from benchmarks.records import write_benchmark
    from benchmarks.refinement import measure_budgets
    from ttame.data import open_photos
    from ttame.loading import load

    loaded, rows = load(explainer), []
    loaded.to(open_device(None))
    with bar() as shown:

        def stage(title: str) -> Callable[[int, int], None]:
            task = shown.add_task(title)
            return lambda done, total: shown.update(task, completed=done, total=total)

        for name in data or ["imagenette", "photos"]:
            photos = open_photos(name).sample(limit)
            found = measure_budgets(loaded, photos, progress=stage(name))
            rows += [{"data": photos.name, **row} for row in found]
    path = write_benchmark(out, "refinement", explainer=explainer, rows=rows)
    console.print(f"record: {path}", soft_wrap=True)


def quality(
    out: Annotated[Path, typer.Option(help="Output file, .json.")] = Path(
        "data/results/quality.json"
    ),
    backbone: Annotated[str, typer.Option(help="Registered backbone.")] = DEFAULT,
    data: Annotated[str, typer.Option(help="Photos, as for `ttame train`.")] = "photos",
    steps: Annotated[
        list[int] | None,
        typer.Option(help="Optimiser steps of a run; repeatable; default: 43 to 684."),
    ] = None,
    batch_size: Annotated[int, typer.Option(help="Photos per step.")] = 20,
    limit: Annotated[int, typer.Option(help="Number of photos per set to measure on.")] = 500,
    work: Annotated[Path, typer.Option(help="Folder for the training runs.")] = Path(
        "runs/quality"
    ),
    seed: SEED = 0,
) -> None:
    """Score runs of our recipe of several lengths against Grad-CAM, on both validation sets."""
    from benchmarks.quality import STEPS, measure_quality
    from benchmarks.records import write_benchmark
    from ttame.classifiers.registry import backbone_spec
    from ttame.data import open_photos
    from ttame.loading import attach
    from ttame.training.recipes import architecture, layers, ours

    plain = attach(backbone, layers("ttame", backbone_spec(backbone)), config=architecture("ttame"))
    train = open_photos(data, "train")
    sets = [open_photos(name).sample(limit) for name in ("imagenette", "photos")]
    with bar() as shown:
        tasks = {what: shown.add_task(what) for what in ("training", "measuring")}

        def report(what: str, done: int, total: int) -> None:
            shown.update(tasks[what], completed=done, total=total)

        rows = measure_quality(
            plain, ours(batch_size=batch_size, seed=seed), train, sets, work,
            steps or STEPS, progress=report,
        )  # fmt: skip
    for row in rows:
        console.print(
            f"{row['data']}, {row['steps']} steps, {row['minutes']} min, {row['score']}: "
            f"{row['mean']:.1f} ({row['against']} {row['rival']:.1f}: {row['verdict']})",
            highlight=False, soft_wrap=True,
        )  # fmt: skip
    path = write_benchmark(out, "quality", seed, backbone=backbone, trained_on=train.name,
                           batch_size=batch_size, rows=rows)  # fmt: skip
    console.print(f"record: {path}", soft_wrap=True)


def runtime(
    out: Annotated[Path, typer.Option(help="Output file, .json.")] = Path(
        "data/results/runtime.json"
    ),
    explainer: EXPLAINER = DEFAULT,
    repeats: Annotated[int, typer.Option(help="Number of timed turns.")] = 21,
) -> None:
    """Time exported files in onnxruntime against PyTorch."""
    from benchmarks.records import write_benchmark
    from benchmarks.runtime import measure_runtime
    from ttame.loading import load

    installed = version("onnxruntime")
    rows = measure_runtime(load(explainer), repeats=repeats)
    for row in rows:
        console.print(
            f"{row['backbone']}, batch {row['batch']}: forward {row['torch_forward_ms']:.1f} ms, "
            f"onnxruntime {row['onnxruntime_forward_ms']:.1f} ms; explanation "
            f"{row['torch_explanation_ms']:.1f} ms, onnxruntime "
            f"{row['onnxruntime_explanation_ms']:.1f} ms ({row['explanation_ratio']:.2f} of it)",
            soft_wrap=True,
        )
    path = write_benchmark(out, "runtime", explainer=explainer, onnxruntime=installed, rows=rows)
    console.print(f"record: {path}", soft_wrap=True)


def storage(
    out: Annotated[Path, typer.Option(help="Output file, .json.")] = Path(
        "data/results/storage.json"
    ),
    explainer: EXPLAINER = DEFAULT,
    data: Annotated[
        list[str] | None,
        typer.Option(help="Photos, as for `ttame evaluate`; repeatable; default: both sets."),
    ] = None,
    limit: Annotated[int, typer.Option(help="Number of photos per set.")] = 100,
) -> None:
    """Score maps of exported files with weights in fewer bits."""
    from benchmarks.records import write_benchmark
    from benchmarks.storage import measure_storage
    from ttame.data import open_photos
    from ttame.loading import load

    loaded, rows = load(explainer), []
    with bar() as shown:

        def stage(title: str) -> Callable[[int, int], None]:
            task = shown.add_task(title)
            return lambda done, total: shown.update(task, completed=done, total=total)

        for name in data or ["imagenette", "photos"]:
            photos = open_photos(name).sample(limit)
            found = measure_storage(loaded, photos, progress=stage(name))
            rows += [{"data": photos.name, **row} for row in found]
    for row in rows:
        console.print(
            f"{row['data']}, {row['storage']}: {row['megabytes']} MB, correlation of maps "
            f"{row['correlation']}, same class {row['same']} %, AD 100% {row['AD 100%']['mean']} "
            f"({row['AD 100%']['difference']:+})",
            highlight=False, soft_wrap=True,
        )  # fmt: skip
    path = write_benchmark(out, "storage", explainer=explainer, rows=rows)
    console.print(f"record: {path}", soft_wrap=True)


def export(
    names: Annotated[
        list[str] | None,
        typer.Argument(help="Model families, such as timm/resnet; default: timm's."),
    ] = None,
    out: Annotated[Path, typer.Option(help="Output file, .json.")] = Path(
        "data/results/export.json"
    ),
    resume: Annotated[
        bool, typer.Option("--resume", help="Keep the rows of the record and check the rest.")
    ] = False,
) -> None:
    """Export a small member of every family of timm; named ones replace their rows of a record."""
    from benchmarks.export import check_export
    from benchmarks.families import families as known
    from benchmarks.records import write_benchmark
    from ttame.companion.shipped import read_benchmark

    wanted = names or [family for family in known() if family.startswith("timm/")]
    rows: list[dict[str, Any]] = []
    if (names or resume) and out.exists():
        held = read_benchmark(out, "export")
        # Rows without a commit of their own are of the record's.
        rows = [{"commit": held["commit"], **row} for row in held["rows"]]
    if resume:
        wanted = [family for family in wanted if family not in {row["family"] for row in rows}]
    packages = {name: version(name) for name in ("onnx", "onnxscript", "onnxruntime")}
    for family in wanted:
        row = check_export(family)
        verdict = "passed" if row["passed"] else row["reason"]
        console.print(
            f"{family} ({row['model']}, {row['seconds']} s): {verdict}",
            highlight=False, markup=False, soft_wrap=True,
        )  # fmt: skip
        rows = sorted(
            [row, *(other for other in rows if other["family"] != family)],
            key=lambda row: str(row["family"]),
        )
        # Written each time: all of them take an hour.
        write_benchmark(out, "export", packages=packages, rows=rows)
    passed = sum(row["passed"] for row in rows)
    console.print(f"{passed} of {len(rows)} families passed; record: {out}")


for command in (
    explaining,
    runtime,
    storage,
    export,
    training,
    scaling,
    families,
    transfer,
    refinement,
    quality,
    parts,
    distill,
    drawn,
):
    app.command()(command)

if __name__ == "__main__":
    run(app)
