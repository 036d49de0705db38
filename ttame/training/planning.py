"""What a training run will take, before it is begun: steps, memory, time, how it is started."""

from __future__ import annotations

import os
import shlex
import statistics
from collections.abc import Callable, Sequence
from dataclasses import dataclass
from typing import Any

import torch
import torch.nn.functional as F
from torch import Tensor, nn

from ttame.classifiers.weights import input_like
from ttame.data import PhotoList
from ttame.errors import TTameError
from ttame.evaluation.cost import alternate, peak_memory
from ttame.explainer import Explainer
from ttame.training.config import TrainingConfig
from ttame.training.devices import algorithms_kept
from ttame.training.fit import prepare_on
from ttame.training.lists import check_present
from ttame.training.module import ExplainerModule, autocast, channels_last
from ttame.training.sampling import StepSampler, epoch_steps, total_steps
from ttame.training.shapley import training_module

# Photos of the two batches that are measured; what memory a larger one takes grows linearly.
_PROBES = (4, 8)
_TURNS = 3
# Variables by which torchrun, Slurm, or a person tells a process which node it is.
_LAUNCHERS = ("TORCHELASTIC_RUN_ID", "SLURM_JOB_ID", "NODE_RANK")


@dataclass(frozen=True)
class Plan:
    """An estimate of a training run, made on this machine.

    Attributes:
        photos: Photos to train on.
        steps: Optimiser steps.
        epochs: Passes over the photos.
        batch_size: Photos per step, over all processes.
        share: Photos per step of one process.
        processes: Devices times nodes.
        parameters: Weights that are trained.
        memory: Bytes that one process takes at its peak, estimated from small batches.
        floor: Seconds that the classifier's passes alone take, if every process is as fast as
            this one; training takes longer, and reading photos may.
        device: Where this was measured.
        launch: The command that starts the run, on every node where there are several.
        slurm: The same under Slurm; empty for one process.
    """

    photos: int
    steps: int
    epochs: float
    batch_size: int
    share: int
    processes: int
    parameters: int
    memory: int
    floor: float
    device: str
    launch: str
    slurm: str


def plan_training(
    explainer: Explainer, photos: PhotoList, config: TrainingConfig, arguments: Sequence[str]
) -> Plan:
    """Estimate a run by a few small steps on random images; nothing is written.

    Args:
        explainer: Classifier, layers and architecture; not changed.
        photos: Photos to train on; a sample of them is looked for on disk.
        config: How to train.
        arguments: Arguments of the `ttame` command that starts it.

    Raises:
        TTameError: If photos are missing, or the processes cannot share a batch.
    """
    check_present(photos)
    world = config.run.devices * config.run.nodes
    steps = total_steps(len(photos), config)
    sampler = StepSampler(len(photos), config.photos.batch_size, steps, config.run.seed, 0, world)
    share = sampler.share
    device = torch.device("cuda" if torch.cuda.is_available() else "cpu")
    measured = sorted({min(share, probe) for probe in _PROBES})
    peaks, seconds = [], 0.0
    # `compile` would take minutes; channels and precision are as they will be.
    plain = config.replace(compile=False, retain=config.mask.retain[:1])
    for size in measured:
        images = torch.randn(size, explainer.spec.channels, *explainer.spec.input_size)
        module = module_at_start(explainer, images[:1], plain, device)
        images = images.to(device)
        peaks.append(peak_memory(step_function(module, images), device))
        floor = floor_function(module, images)
        seconds = min(alternate((floor,), _TURNS, device, warm_up=1)[0]) / size
    slope = (peaks[-1] - peaks[0]) / (measured[-1] - measured[0]) if len(measured) > 1 else 0
    return Plan(
        photos=len(photos),
        steps=steps,
        epochs=steps / epoch_steps(len(photos), config.photos.batch_size),
        batch_size=sampler.batch_size,
        share=share,
        processes=world,
        parameters=sum(value.numel() for value in explainer.mechanism.parameters()),
        memory=round(peaks[-1] + slope * (share - measured[-1])),
        floor=seconds * share * steps,
        device=torch.cuda.get_device_name(device) if device.type == "cuda" else "cpu",
        launch=launch_command(config, arguments),
        slurm=slurm_command(config, arguments),
    )


def launch_command(config: TrainingConfig, arguments: Sequence[str]) -> str:
    """Build the command that starts a run; with several nodes, it is given on each of them.

    Args:
        config: Devices and nodes.
        arguments: Arguments of `ttame`.
    """
    command = shlex.join(["ttame", *arguments])
    if config.run.nodes == 1:  # Lightning starts the processes of one machine itself
        return command
    return (
        f"torchrun --nnodes={config.run.nodes} --nproc-per-node={config.run.devices} "
        '--node-rank="$NODE_RANK" --master-addr="$MASTER_ADDR" --master-port=29500 '
        f"--no-python {command}"
    )


def slurm_command(config: TrainingConfig, arguments: Sequence[str]) -> str:
    """Build the command that starts a run under Slurm, once; empty for one process."""
    if config.run.nodes * config.run.devices == 1:
        return ""
    command = shlex.join(["ttame", *arguments])
    return f"srun --nodes={config.run.nodes} --ntasks-per-node={config.run.devices} {command}"


def check_launched(config: TrainingConfig, arguments: Sequence[str]) -> None:
    """Refuse to wait for other nodes that nothing has started.

    Raises:
        TTameError: With the command to start the run by.
    """
    if config.run.nodes > 1 and not any(name in os.environ for name in _LAUNCHERS):
        raise TTameError(
            f"{config.run.nodes} nodes need a launcher; run on every node, with NODE_RANK from "
            f"0 to {config.run.nodes - 1} and MASTER_ADDR the first node's address: "
            f"{launch_command(config, arguments)}"
        )


def measure_throughput(
    explainer: Explainer,
    config: TrainingConfig,
    *,
    name: str | None = None,
    repeats: int = 7,
    device: torch.device | None = None,
) -> dict[str, Any]:
    """Time training steps against the floor, turn by turn, on random images.

    A turn is one step for every share of pixels that the config retains. Reading photos is in
    neither.

    Args:
        explainer: Classifier, layers and architecture; not changed.
        config: Batch size, precision, optimiser, clipping, compilation; the start is random.
        name: The classifier's, for the record; default: the spec's.
        repeats: Timed turns; one more warms up.
        device: Default: a GPU where there is one.

    Returns:
        A record: images per second of step and floor, the ratio of their times (medians), the
        spread of each (slowest by fastest turn: far from 1, something else kept the machine
        busy and the ratio means little), peak memory in MB of a step and of the floor
        (`ttame.evaluation.cost.peak_memory`), and the setting.

    Raises:
        TTameError: If there are too few repeats for a median.
    """
    if repeats < 3:
        raise TTameError(f"repeats must be at least 3, got {repeats}")
    device = device or torch.device("cuda" if torch.cuda.is_available() else "cpu")
    size, channels = explainer.spec.input_size, explainer.spec.channels
    generator = torch.Generator().manual_seed(config.run.seed)
    images = torch.randn(config.photos.batch_size, channels, *size, generator=generator)
    module = module_at_start(explainer, images[:1], config, device)
    images = images.to(device)
    step, floor = step_function(module, images), floor_function(module, images)
    with algorithms_kept():
        torch.use_deterministic_algorithms(config.run.deterministic, warn_only=True)  # as in `fit`
        # The floor first: on a CPU, freed memory may stay with the process.
        floor_peak, step_peak = peak_memory(floor, device), peak_memory(step, device)
        steps, floors = alternate((step, floor), repeats, device, warm_up=1)
    count = len(config.mask.retain) * config.photos.batch_size
    slow, fast = statistics.median(steps), statistics.median(floors)
    return {
        "classifier": name or explainer.spec.name,
        "input_size": list(size),
        "batch": config.photos.batch_size,
        "precision": config.run.precision,
        "compile": config.run.compile,
        "device": torch.cuda.get_device_name(device) if device.type == "cuda" else "cpu",
        "threads": torch.get_num_threads(),
        "step_images_per_second": count / slow,
        "floor_images_per_second": count / fast,
        "ratio": slow / fast,
        "step_spread": max(steps) / min(steps),
        "floor_spread": max(floors) / min(floors),
        "step_peak_mb": step_peak / 2**20,
        "floor_peak_mb": floor_peak / 2**20,
        "repeats": repeats,
    }


def module_at_start(
    explainer: Explainer, images: Tensor, config: TrainingConfig, device: torch.device
) -> ExplainerModule:
    """What `fit` trains, from a random start, on a device."""
    start: dict[str, Any] = {"init": "free"}
    if explainer.auxiliary is not None and config.start.fusion == "tied":
        start["fusion"] = "free"  # a step takes as long; the surrogate's vectors need more photos
    working = prepare_on(explainer, images, config.replace(**start))
    return training_module(working, config, total_steps=10**9).to(device).train()


def step_function(module: ExplainerModule, images: Tensor) -> Callable[[], None]:
    """Training steps on one batch, as Lightning takes them, one a share of retained pixels.

    Args:
        module: The mechanism's weights change with every call.
        images: Normalised, `(B, C, H, W)`, on the module's device.
    """
    optimizer, config = module.configure_optimizers()["optimizer"], module.config
    positions = torch.arange(len(images), device=images.device)

    def step() -> None:
        for number in range(len(config.mask.retain)):
            with autocast(config.run.precision, images.device):
                total = module.step_parts(images, positions, number).total
            optimizer.zero_grad()
            total.backward()  # type: ignore[no-untyped-call]
            if config.optimization.gradient_clip:
                parameters = module.explainer.mechanism.parameters()
                nn.utils.clip_grad_norm_(parameters, config.optimization.gradient_clip)
            optimizer.step()

    return step


def floor_function(module: ExplainerModule, images: Tensor) -> Callable[[], None]:
    """One forward without gradient, one forward and input-only backward, as often as `step`.

    Args:
        module: Its classifier, as it is trained on: folded, in its memory format, compiled or not.
        images: Normalised, `(B, C, H, W)`, on the module's device.
    """
    classifier, config = module.explainer.classifier, module.config
    answer: Callable[[Tensor], Tensor] = module.compiled or classifier
    images = images.to(input_like(classifier))
    if config.run.channels_last:
        images = channels_last(images)

    def floor() -> None:
        for _ in config.mask.retain:
            leaf = images.detach().requires_grad_(True)
            with autocast(config.run.precision, images.device):
                with torch.no_grad():
                    labels = classifier(images).argmax(dim=1)
                loss = F.cross_entropy(answer(leaf), labels)
            torch.autograd.grad(loss, leaf)

    return floor
