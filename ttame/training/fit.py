"""Training the attention mechanism; the classifier never changes (T-TAME §III-C)."""

from __future__ import annotations

import json
import time
from collections.abc import Callable, Sequence
from dataclasses import asdict
from pathlib import Path
from typing import Any

import lightning as L
import pandas as pd
import torch
from lightning.pytorch.callbacks import Callback, EarlyStopping, Timer, TQDMProgressBar
from lightning.pytorch.loggers import CSVLogger, TensorBoardLogger
from torch import Tensor

from ttame.attention import AttentionMechanism
from ttame.classifiers.advice import is_out_of_memory
from ttame.classifiers.folding import fold_batch_norm
from ttame.classifiers.passes import copy_module
from ttame.classifiers.weights import input_like
from ttame.data import PhotoDataset, PhotoList, sources
from ttame.errors import TTameError
from ttame.explainer import Explainer
from ttame.files import replacing
from ttame.records import provenance
from ttame.training.checkpoints import Checkpoints, WholeFiles, check_resumable, run_identity
from ttame.training.config import SCORE, TrainingConfig
from ttame.training.devices import (
    algorithms_kept,
    largest_batch,
    synchronize_batch_norm,
)
from ttame.training.initialization import SPREAD, class_gradients, initialize
from ttame.training.module import ExplainerModule, autocast
from ttame.training.sampling import (
    epoch_steps,
    readable,
    total_steps,
    train_loader,
    unreadable,
    validation_loader,
)
from ttame.training.shapley import VALUE_SPREAD, training_module
from ttame.training.tying import dense_state, share, tie

# Photos that the classifier-initialised map is centred and scaled on.
_CALIBRATION = 192
_DIAGNOSED = 64  # photos that each layer's part in the map is measured on


def prepare(explainer: Explainer, photos: PhotoList, config: TrainingConfig) -> Explainer:
    """Return the explainer to train: batch norm of the classifier folded, fusion initialised.

    Args:
        explainer: Not changed.
        photos: Photos to calibrate the start on.
        config: How to train.

    Raises:
        TTameError: A photo that cannot be read, unless `config.photos.skip_bad`.
    """
    return prepare_on(explainer, _stacked(explainer, photos, config, _CALIBRATION), config)


def _stacked(explainer: Explainer, photos: PhotoList, config: TrainingConfig, count: int) -> Tensor:
    """Read a seeded sample of at most `count` photos, normalised, `(B, C, H, W)`."""
    chosen, spec = photos.sample(count, config.run.seed), explainer.spec
    if config.photos.skip_bad:
        chosen = readable(chosen, spec.channels)
    dataset = PhotoDataset(chosen, spec)
    try:
        return torch.stack([image for image, _ in dataset])  # type: ignore[attr-defined]
    except TTameError as error:
        raise unreadable(error) from error


def prepare_on(explainer: Explainer, images: Tensor, config: TrainingConfig) -> Explainer:
    """As `prepare`, calibrated on normalised photos `(B, C, H, W)`, of any dtype and device."""
    torch.manual_seed(config.run.seed)
    images = images.to(input_like(explainer.classifier).device)
    folded = fold_batch_norm(explainer.classifier, images[:1], explainer.layers)
    images = images.to(input_like(folded))
    if config.run.channels_last:
        folded = folded.to(memory_format=torch.channels_last)
    mechanism = _blank(explainer).to(images.device)
    # A copy, as the classifier is one: the run may move both to another device.
    beside = None if explainer.auxiliary is None else copy_module(explainer.auxiliary)
    working = explainer.replace(
        classifier=folded, mechanism=mechanism, record={}, auxiliary=beside
    ).train()
    spread = VALUE_SPREAD if config.shapley.pairs else SPREAD
    gradients = initialize(working, images, config.start.init, spread)
    if config.start.fusion == "tied":
        tie(working, class_gradients(working, images) if gradients is None else gradients)
    elif config.start.fusion == "shared":
        share(working)
    return working


def fit(
    explainer: Explainer,
    photos: PhotoList,
    config: TrainingConfig,
    out: Path | str,
    *,
    validation: PhotoList | None = None,
    name: str = "ttame",
    resume: bool = False,
    command: str | None = None,
    callbacks: Sequence[Callback] = (),
    progress: bool = True,
) -> Explainer:
    """Train a mechanism from scratch and write it with its record.

    Writes into `out`: `NAME.safetensors`, `NAME.json` (the training record with the loss
    curves), `checkpoints/` (`last.ckpt`, and `best.ckpt` where there are validation photos),
    `csv/` and `tensorboard/` logs. A run that was killed and is resumed ends with the same
    weights as one that was not, on one CPU process bit for bit.

    With several devices or nodes, every process calls this; the first one writes. Lightning
    starts those of one machine by running the program again, and finds those that `torchrun` or
    Slurm started. They share each batch evenly. The label mode `"batch"` pairs the photos of a
    process's share; batch norm of the mechanism sees the whole batch on GPUs, the share on CPUs.

    Args:
        explainer: Classifier, layers and architecture; not changed.
        photos: Photos to train on; their labels are used for `truth="ground"` only.
        config: How to train.
        out: The folder.
        validation: Photos for AD and IC after every epoch, or as often as the config says.
        name: Name of the explainer.
        resume: Go on from the last checkpoint in `out`.
        command: Recorded command; default: this process's.
        callbacks: More Lightning callbacks.
        progress: Whether to show a progress bar.

    Returns:
        A trained explainer on the unchanged classifier, in `eval()`.

    Raises:
        TTameError: Nothing to resume, a checkpoint of another configuration, something to
            overwrite, an unreadable photo, a loss that is not finite, a full disk, too
            little memory (with the batch size that would fit).

    Examples:
        >>> import ttame
        >>> from ttame.data import samples
        >>> from ttame.training.fit import fit
        >>> from ttame.training.recipes import DECODED, ours
        >>> untrained = ttame.attach("drawn_cnn", "deepest", config=DECODED)
        >>> config = ours(steps=2, batch_size=4, workers=0)
        >>> trained = fit(untrained, samples(), config, "run", progress=False)
        >>> trained.record["steps"]
        2
    """
    out, run = Path(out), run_identity(explainer, photos, config)
    total = total_steps(len(photos), config)
    epoch = epoch_steps(len(photos), config.photos.batch_size)
    checkpoints = Checkpoints(out / "checkpoints", config.run.checkpoint_every, epoch, run)
    _check_start(out, checkpoints.last_path, run, config, validation, resume)
    if validation is not None and config.photos.skip_bad:
        validation = readable(validation, explainer.spec.channels)
    made, start = provenance(config.run.seed, command), time.perf_counter()
    L.seed_everything(config.run.seed, verbose=False)
    working = prepare(explainer, photos, config)
    timer = Timer(verbose=False)
    with algorithms_kept():
        trainer = _trainer(config, out, total, epoch, [*callbacks, timer, checkpoints], progress)
        world, device = trainer.world_size, trainer.strategy.root_device
        synchronize_batch_norm(working.mechanism, world, device)
        module = training_module(working, config, total, photos)
        last = checkpoints.last_path
        exhausted = _train(trainer, module, photos, validation, last, resume)
    if exhausted:  # the error and what its frames held are gone by now
        fits = largest_batch(_trial(module, trainer), config.photos.batch_size // world)
        raise TTameError(
            f"out of memory at batch_size={config.photos.batch_size} ({exhausted}); "
            + (f"batch_size={fits * world} fits" if fits else "not even one photo fits")
            + _kept(last)
        )
    if config.optimization.keep == "best":
        saved = torch.load(checkpoints.best_path, weights_only=True)["state_dict"]
        prefix = "explainer.mechanism."
        weights = {key.removeprefix(prefix): saved[key] for key in saved if key.startswith(prefix)}
        working.mechanism.load_state_dict(weights)
    mechanism = _blank(explainer)
    mechanism.load_state_dict(dense_state(working.mechanism))
    # Beside the classifier: its maps are measured at once.
    mechanism.to(input_like(explainer.classifier).device)
    best = checkpoints.best
    trained = explainer.replace(mechanism=mechanism).eval()
    shown = _stacked(explainer, photos, config, _DIAGNOSED)
    record = {
        "name": name,
        **made,
        **_settings(explainer, photos, config),
        "steps": trainer.global_step,
        "best": None if best is None else {"score": round(best[0], 4), "step": best[1]},
        # Steps and the validations between them, without the start.
        "training_seconds": round(timer.time_elapsed("train"), 2),
        "minutes": round((time.perf_counter() - start) / 60, 2),
        "diagnosis": _finite(trained.layer_statistics(shown)),
    }
    trained = trained.replace(record=record)
    if trainer.is_global_zero:
        _write(trained, record, out, name)
    return trained


def _check_start(
    out: Path,
    last: Path,
    run: dict[str, Any],
    config: TrainingConfig,
    validation: PhotoList | None,
    resume: bool,
) -> None:
    """Refuse to overwrite a run, to resume another one, and to choose without a score."""
    if resume:
        check_resumable(last, run)
    elif last.exists():
        raise TTameError(f"{str(out)!r} holds an earlier run; resume it or choose another folder")
    if validation is None and (config.optimization.patience or config.optimization.keep == "best"):
        raise TTameError("patience and keep='best' need validation photos, there are none")


def _trainer(
    config: TrainingConfig,
    out: Path,
    total: int,
    epoch: int,
    callbacks: Sequence[Callback],
    progress: bool,
) -> L.Trainer:
    """Set up Lightning for a run of `total` steps, an `epoch` being as many as given."""
    run, optimization = config.run, config.optimization
    bar = [TQDMProgressBar(refresh_rate=10)] if progress else []
    patience = optimization.patience
    stopping = [EarlyStopping(SCORE, mode="max", patience=patience)] if patience else []
    return L.Trainer(
        devices=run.devices,
        num_nodes=run.nodes,
        strategy="auto" if run.devices * run.nodes == 1 else "ddp",
        use_distributed_sampler=False,  # ours gives the same batches to any number
        max_steps=total,
        max_epochs=-1,
        val_check_interval=optimization.validate_every or epoch,
        check_val_every_n_epoch=None,  # to Lightning the whole run is one epoch
        precision=run.precision,
        gradient_clip_val=optimization.gradient_clip,
        # Some operations have no deterministic form on GPUs; those warn.
        deterministic="warn" if run.deterministic else False,
        logger=[
            CSVLogger(out, "csv", flush_logs_every_n_steps=1),
            TensorBoardLogger(out, "tensorboard"),
        ],
        callbacks=[*bar, *stopping, *callbacks],
        plugins=[WholeFiles()],
        enable_progress_bar=progress,
        enable_model_summary=False,
        log_every_n_steps=min(5, total),  # a run of a few steps has curves, too
        default_root_dir=out,
    )


def _train(
    trainer: L.Trainer,
    module: ExplainerModule,
    photos: PhotoList,
    validation: PhotoList | None,
    last: Path,
    resume: bool,
) -> str:
    """Run all steps.

    Returns:
        The first line of an error for want of memory; empty where all went well.
    """
    config, spec = module.config, module.explainer.spec
    rank, world = trainer.global_rank, trainer.world_size
    train = train_loader(photos, spec, config, module.total_steps, rank, world)
    held_out = validation_loader(validation, spec, config, rank, world) if validation else None
    try:
        trainer.fit(module, train, held_out, ckpt_path=last if resume else None, weights_only=True)
    except TTameError as error:
        raise TTameError(f"{error}{_kept(last)}") from error
    except (RuntimeError, MemoryError) as error:
        if not is_out_of_memory(error):
            raise
        return str(error).splitlines()[0]
    return ""


def _settings(explainer: Explainer, photos: PhotoList, config: TrainingConfig) -> dict[str, Any]:
    """What a training record says of how the run was set up."""
    return {
        "config": config.flat(),
        "backbone": explainer.spec.name,
        "weights": explainer.spec.source,
        **({} if explainer.auxiliary is None else {"auxiliary": explainer.auxiliary.facts()}),
        "activation": explainer.spec.activation,
        "layers": list(explainer.layers),
        "attention": asdict(explainer.mechanism.config),
        "data": photos.name,
        "photos": len(photos),
        "sources": sources(photos),
    }


def _finite(rows: Sequence[dict[str, str | float]]) -> list[dict[str, str | float | None]]:
    """Round numbers and put `None` for NaN, which JSON does not have."""
    return [
        {name: value if isinstance(value, str) else None if value != value else round(value, 4)
         for name, value in row.items()}
        for row in rows
    ]  # fmt: skip


def _write(trained: Explainer, record: dict[str, Any], out: Path, name: str) -> None:
    """Write the explainer, and its record with the loss curves."""
    trained.save(out / f"{name}.safetensors")
    full = {**record, "curves": json.loads(loss_curves(out).to_json(orient="records"))}
    with replacing(out / f"{name}.json") as temporary:
        temporary.write_text(json.dumps(full, indent=1) + "\n", encoding="utf-8")


def loss_curves(out: Path | str) -> pd.DataFrame:
    """Read what a training folder logged: one row per logged step, resumed runs joined."""
    files = sorted(
        Path(out).glob("csv/version_*/metrics.csv"), key=lambda path: path.stat().st_mtime
    )
    if not files:
        raise TTameError(f"no training log in {str(out)!r}")
    rows = pd.concat([pd.read_csv(file) for file in files])
    return rows.groupby("step", as_index=False).last()


def _kept(last: Path) -> str:
    """What an error adds where there is a checkpoint."""
    return f"; the last good checkpoint is {str(last)!r}, resume from it" if last.is_file() else ""


def _trial(module: ExplainerModule, trainer: L.Trainer) -> Callable[[int], None]:
    """Return a forward and backward pass of a number of grey photos, on the device of the run."""
    device, spec = trainer.strategy.root_device, module.explainer.spec

    def step(photos: int) -> None:
        images = torch.zeros(photos, spec.channels, *spec.input_size, device=device)
        with autocast(module.config.run.precision, device):
            positions = torch.arange(photos, device=device)
            total = module.to(device).step_parts(images, positions, 0).total
        total.backward()  # type: ignore[no-untyped-call]
        module.zero_grad()

    return step


def _blank(explainer: Explainer) -> AttentionMechanism:
    """A mechanism of the same architecture, on the CPU, with weights of its own."""
    given = explainer.mechanism
    return type(given)(given.channels, given.classes, given.config)
