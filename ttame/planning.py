"""What a training run will take, before it is begun: steps, memory, time, how it is started."""

from __future__ import annotations

import os
import shlex
from collections.abc import Sequence
from dataclasses import dataclass, replace

import torch

from ttame.data import PhotoList
from ttame.errors import TTameError
from ttame.explainer import Explainer
from ttame.lists import check_present
from ttame.memory import peak_memory
from ttame.recipes import TrainingConfig
from ttame.sampling import StepSampler, epoch_steps, total_steps
from ttame.throughput import floor_function, step_function, training_module
from ttame.timing import alternate

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
        batch_size: Photos a step, over all processes.
        share: Photos a step of one process.
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
        arguments: Of the `ttame` command that starts it.

    Raises:
        TTameError: If photos are missing, or the processes cannot share a batch.
    """
    check_present(photos)
    world = config.devices * config.nodes
    steps = total_steps(len(photos), config)
    sampler = StepSampler(len(photos), config.batch_size, steps, config.seed, 0, world)
    share = sampler.share
    device = torch.device("cuda" if torch.cuda.is_available() else "cpu")
    measured = sorted({min(share, probe) for probe in _PROBES})
    peaks, seconds = [], 0.0
    # `compile` would take minutes; channels and precision are as they will be.
    plain = replace(config, compile=False, retain=config.retain[:1])
    for size in measured:
        images = torch.randn(size, 3, *explainer.spec.input_size)
        module = training_module(explainer, images[:1], plain, device)
        images = images.to(device)
        peaks.append(peak_memory(step_function(module, images), device))
        floor = floor_function(module, images)
        seconds = min(alternate((floor,), _TURNS, device, warm_up=1)[0]) / size
    slope = (peaks[-1] - peaks[0]) / (measured[-1] - measured[0]) if len(measured) > 1 else 0
    return Plan(
        photos=len(photos),
        steps=steps,
        epochs=steps / epoch_steps(len(photos), config.batch_size),
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
    """The command that starts a run; with several nodes, it is given on each of them.

    Args:
        config: Devices and nodes.
        arguments: Of `ttame`.
    """
    command = shlex.join(["ttame", *arguments])
    if config.nodes == 1:  # Lightning starts the processes of one machine itself
        return command
    return (
        f"torchrun --nnodes={config.nodes} --nproc-per-node={config.devices} "
        '--node-rank="$NODE_RANK" --master-addr="$MASTER_ADDR" --master-port=29500 '
        f"--no-python {command}"
    )


def slurm_command(config: TrainingConfig, arguments: Sequence[str]) -> str:
    """The command that starts a run under Slurm, once; empty for one process."""
    if config.nodes * config.devices == 1:
        return ""
    command = shlex.join(["ttame", *arguments])
    return f"srun --nodes={config.nodes} --ntasks-per-node={config.devices} {command}"


def check_launched(config: TrainingConfig, arguments: Sequence[str]) -> None:
    """Refuse to wait for other nodes that nothing has started.

    Raises:
        TTameError: With the command to start the run by.
    """
    if config.nodes > 1 and not any(name in os.environ for name in _LAUNCHERS):
        raise TTameError(
            f"{config.nodes} nodes need a launcher; run on every node, with NODE_RANK from 0 to "
            f"{config.nodes - 1} and MASTER_ADDR the first node's address: "
            f"{launch_command(config, arguments)}"
        )
