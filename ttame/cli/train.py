"""The command `ttame train`."""

from __future__ import annotations

import sys
import tomllib
from dataclasses import replace
from pathlib import Path
from typing import TYPE_CHECKING, Annotated, Any

import typer

from ttame.cli.terminal import HEIGHT, WEIGHTS, WIDTH, input_size, open_device
from ttame.errors import TTameError

if TYPE_CHECKING:
    from ttame.data import PhotoList
    from ttame.explainer import Explainer
    from ttame.training.config import TrainingConfig
    from ttame.training.planning import Plan


def train(
    out: Annotated[Path, typer.Option(help="Folder for the run.")],
    profile: Annotated[
        str, typer.Option(help="Profile of backbone and data: 'imagenette', 'imagenet' or 'quick'.")
    ] = "imagenette",
    backbone: Annotated[
        str | None, typer.Option(help="Registered backbone; default: the profile's.")
    ] = None,
    weights: WEIGHTS = None,
    data: Annotated[
        str | None,
        typer.Option(
            help="Photos in place of the profile's: a folder with train/ and val/, any other image "
            "folder, a list file (a path and a class index per line), 'imagenette', 'photos' or "
            "'drawn'."
        ),
    ] = None,
    held_out: Annotated[
        str | None, typer.Option(help="Held-out photos, as for --data; default: val/ of the data.")
    ] = None,
    image_root: Annotated[
        Path | None,
        typer.Option(help="Folder that a list's paths are relative to; default: the list's."),
    ] = None,
    recipe: Annotated[
        str,
        typer.Option(
            help="'ttame' (ours), 'ptame' (ours for --features), 'linear' (our first), "
            "'published', 'lcam-img', 'lcam-fm' or 'shapley'."
        ),
    ] = "ttame",
    config_file: Annotated[
        Path | None,
        typer.Option(
            "--config",
            help="TOML file of training settings, flat or in groups; options override it.",
        ),
    ] = None,
    name: Annotated[str, typer.Option(help="Name of the explainer.")] = "explainer",
    layer: Annotated[
        list[str] | None,
        typer.Option(
            help="Layer, an alternative choice of layers, 'auto' or 'deepest'; repeatable; "
            "default: the recipe's."
        ),
    ] = None,
    features: Annotated[
        str | None,
        typer.Option(
            help="Auxiliary network whose layers give the feature maps, such as "
            "'tf_efficientnet_lite0'; default: the backbone itself."
        ),
    ] = None,
    height: HEIGHT = None,
    width: WIDTH = None,
    tokens: Annotated[
        str, typer.Option(help="Class token of transformers: 'drop' it, or multiply by it ('cls').")
    ] = "drop",
    activation: Annotated[
        str | None,
        typer.Option(
            help="What the classifier's outputs are: logits of classes ('softmax') or of labels "
            "('sigmoid'), or probabilities ('none'); default: found."
        ),
    ] = None,
    fusion: Annotated[
        str | None,
        typer.Option(help="Fusion rows of the classes: 'free', 'shared' or 'tied'."),
    ] = None,
    ranks: Annotated[
        int | None, typer.Option(help="Draw the target class from this many top classes.")
    ] = None,
    epochs: Annotated[int | None, typer.Option(help="Number of passes over the photos.")] = None,
    steps: Annotated[
        int | None, typer.Option(help="Number of optimiser steps, in place of epochs.")
    ] = None,
    batch_size: Annotated[
        int | None, typer.Option(help="Photos per step, over all devices and nodes.")
    ] = None,
    optimizer: Annotated[str | None, typer.Option(help="'sgd' (Nesterov) or 'adamw'.")] = None,
    learning_rate: Annotated[
        float | None, typer.Option(help="Maximum learning rate of OneCycle.")
    ] = None,
    find_rate: Annotated[
        int | None,
        typer.Option(
            help="Find the learning rate first, in a range test of this many steps.",
            min=2,
            max=100_000,
        ),
    ] = None,
    precision: Annotated[
        str | None, typer.Option(help="'32-true', 'bf16-mixed' or '16-mixed'.")
    ] = None,
    devices: Annotated[
        int | None, typer.Option(help="Number of processes per machine, one per GPU; default: 1.")
    ] = None,
    nodes: Annotated[int | None, typer.Option(help="Number of machines; default: 1.")] = None,
    limit: Annotated[
        int | None, typer.Option(help="Number of photos to train on; default: all.", min=1)
    ] = None,
    validation: Annotated[
        int, typer.Option(help="Number of held-out photos for AD/IC; 0 for none.", min=0)
    ] = 200,
    validate_every: Annotated[
        int | None, typer.Option(help="Steps between validations; default: an epoch.")
    ] = None,
    keep: Annotated[
        str | None, typer.Option(help="Weights to keep: the 'last', or the 'best' by AD/IC.")
    ] = None,
    checkpoint_every: Annotated[int | None, typer.Option(help="Steps between checkpoints.")] = None,
    skip_bad: Annotated[
        bool, typer.Option("--skip-bad", help="Skip photos that cannot be read.")
    ] = False,
    workers: Annotated[
        int | None, typer.Option(help="Number of reading processes per device; default: 1.")
    ] = None,
    seed: Annotated[int | None, typer.Option(help="Random seed; default: 0.")] = None,
    resume: Annotated[bool, typer.Option(help="Resume from the last checkpoint.")] = False,
    dry_run: Annotated[
        bool,
        typer.Option("--dry-run", help="Print steps, memory, time and launch command, and stop."),
    ] = False,
) -> None:
    """Train an explainer on the classifier's own predictions, on one machine or several."""
    from ttame.companion.notebook_profiles import profile_backbone
    from ttame.training.fit import fit
    from ttame.training.planning import check_launched, plan_training

    config = _config(
        recipe, config_file, fusion=fusion, ranks=ranks, optimizer=optimizer, epochs=epochs,
        steps=steps, batch_size=batch_size, learning_rate=learning_rate, precision=precision,
        devices=devices, nodes=nodes, validate_every=validate_every, keep=keep,
        checkpoint_every=checkpoint_every, skip_bad=skip_bad or None, workers=workers, seed=seed,
    )  # fmt: skip
    explainer = _explainer(
        recipe, backbone or profile_backbone(profile), layer, features, tokens, activation,
        weights, input_size(height, width),
    )  # fmt: skip
    classes = explainer.mechanism.classes
    photos, held = _photos(profile, data, held_out, image_root, classes)
    photos = photos if limit is None else photos.sample(limit, config.run.seed)
    held = held.sample(validation, config.run.seed) if held and validation else None
    arguments = [argument for argument in sys.argv[1:] if argument != "--dry-run"]
    if dry_run:
        _print(plan_training(explainer, photos, config, arguments))
        return
    check_launched(config, arguments)
    if find_rate is not None:
        config = config.replace(learning_rate=_found(explainer, photos, config, find_rate))
    if config.run.devices * config.run.nodes == 1:  # several processes each find their own
        explainer.to(open_device(None))
    fit(explainer, photos, config, out, validation=held, name=name, resume=resume)
    _say(f"trained: {out / f'{name}.safetensors'}, record {out / f'{name}.json'}")


def _config(recipe: str, path: Path | None, **given: Any) -> TrainingConfig:
    """Return the training of a recipe, changed by a file and then by the options given."""
    from ttame.training.recipes import open_recipe

    config = open_recipe(recipe)
    if path is not None:
        config = config.replace(**_read_settings(path))
    return config.replace(**{key: value for key, value in given.items() if value is not None})


def _read_settings(path: Path) -> dict[str, Any]:
    try:
        return tomllib.loads(path.read_text(encoding="utf-8"))
    except (OSError, tomllib.TOMLDecodeError, UnicodeDecodeError) as error:
        raise TTameError(f"configuration {str(path)!r} cannot be read: {error}") from error


def _explainer(
    recipe: str,
    backbone: str,
    layer: list[str] | None,
    features: str | None,
    tokens: str,
    activation: str | None,
    weights: Path | None,
    size: tuple[int, int] | None,
) -> Explainer:
    from ttame.classifiers.registry import backbone_spec
    from ttame.loading import attach
    from ttame.training.recipes import architecture, layers

    shape = replace(architecture(recipe), tokens=tokens)  # type: ignore[arg-type]  # checked there
    if recipe == "ptame" and features is None:
        raise TTameError("recipe 'ptame' needs an auxiliary network: --features NAME")
    chosen = layer or layers(recipe, backbone_spec(features or backbone))
    return attach(
        backbone, chosen, features=features, config=shape, weights=weights, input_size=size,
        activation=activation,  # type: ignore[arg-type]  # checked there
    )  # fmt: skip


def _photos(
    profile: str, data: str | None, held_out: str | None, root: Path | None, classes: int
) -> tuple[PhotoList, PhotoList | None]:
    from ttame.companion.notebook_profiles import open_profile
    from ttame.training.lists import has_splits, training_photos

    if data is None:
        if held_out is not None or root is not None:
            raise TTameError("--held-out and --image-root go with --data")
        opened = open_profile(profile)
        return opened.photos("train"), opened.photos("val")
    photos = training_photos(data, "train", root, classes)
    if held_out is None and not has_splits(data):
        _say(f"{data} has no held-out photos: no AD/IC (--held-out names some)")
        return photos, None
    # A root belongs to the lists; the held-out photos may be a folder.
    own_root = root if held_out is not None and Path(held_out).is_file() else None
    return photos, training_photos(held_out or data, "val", own_root, classes)


def _found(explainer: Explainer, photos: PhotoList, config: TrainingConfig, steps: int) -> float:
    from ttame.training.learning_rate import find_learning_rate, suggest_rate

    if config.run.devices * config.run.nodes > 1:
        raise TTameError("find the rate on one device first, then pass it as --learning-rate")
    rate = suggest_rate(find_learning_rate(explainer, photos, config, steps=steps))
    _say(f"learning rate {rate:.2e}, suggested by a range test of {steps} steps")
    return rate


def _print(plan: Plan) -> None:
    several = f", {plan.share} a process" if plan.processes > 1 else ""
    lines = [
        f"photos        {plan.photos:,}",
        f"steps         {plan.steps:,} of {plan.batch_size} photos{several}: "
        f"{plan.epochs:.4g} epochs",
        f"trained       {plan.parameters:,} parameters",
        f"memory        {plan.memory / 2**30:.2f} GiB a process (estimated from small batches)",
        f"floor time    {plan.floor / 3600:.2f} h: the classifier's passes alone, {plan.processes} "
        f"x the speed of this machine ({plan.device})",
        f"launch        {plan.launch}",
    ]
    if plan.launch.startswith("torchrun"):
        lines.append(
            "              (on every node; NODE_RANK counts from 0, MASTER_ADDR is the first)"
        )
    if plan.slurm:
        lines.append(f"under Slurm   {plan.slurm}")
    typer.echo("\n".join(lines))


def _say(text: str) -> None:
    """Print from the first process alone."""
    from lightning.pytorch.utilities import rank_zero_only

    if getattr(rank_zero_only, "rank", 0) == 0:
        typer.echo(text)
