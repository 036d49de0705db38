"""Throughput of a training step, against the floor that the classifier itself sets.

Training asks the frozen classifier for one forward pass without gradient and, on the masked
photos, for one forward and one backward pass to the input. No way of training can be faster;
how near a step comes says what the mechanism, the masks, the objective and the optimiser cost.
"""

from __future__ import annotations

import multiprocessing
import statistics
from collections.abc import Callable, Mapping, Sequence
from concurrent.futures import ProcessPoolExecutor
from concurrent.futures.process import BrokenProcessPool
from dataclasses import replace
from pathlib import Path
from typing import Any

import torch
import torch.nn.functional as F
from torch import Tensor, nn

from ttame.allocation import keep_freed_memory
from ttame.backends import algorithms_kept
from ttame.errors import TTameError
from ttame.explainer import Explainer
from ttame.lightning_module import ExplainerModule, autocast, channels_last
from ttame.loading import attach
from ttame.memory import peak_memory
from ttame.recipes import SIGNED, TrainingConfig
from ttame.records import read_record, write_record
from ttame.timing import alternate
from ttame.training import prepare_on

FORMAT, VERSION = "ttame-throughput", 1
# What is measured unless asked otherwise, with the batch and precision that suit the device.
ON_CPU = ("tf_efficientnet_lite0", "resnet50", "timm/vit_tiny_patch16_224")
ON_GPU = ("vgg16", "resnet50", "vit_b_16")


def default_setting(cuda: bool) -> tuple[tuple[str, ...], TrainingConfig]:
    """The classifiers and the training that are measured on a CPU or a GPU."""
    if cuda:
        return ON_GPU, TrainingConfig(batch_size=128, precision="bf16-mixed")
    return ON_CPU, TrainingConfig()


def measure_alone(name: str, config: TrainingConfig, repeats: int = 7) -> dict[str, Any]:
    """`measure_throughput` of a classifier by name, in a process of its own.

    On a CPU the peak memory is the process's, which must not have measured another one before.

    Args:
        name: Registered backbone, `timm/NAME` or `torchvision/NAME`; its weights are random,
            which take the same time.
        config: As for `measure_throughput`.
        repeats: Timed turns.

    Raises:
        TTameError: An unknown name, too few repeats, or a process that ended before its result.
    """
    spawn = multiprocessing.get_context("spawn")
    threads = torch.get_num_threads()
    with ProcessPoolExecutor(1, mp_context=spawn) as pool:
        try:
            return pool.submit(_measure, name, config, repeats, threads).result()
        except BrokenProcessPool as error:
            raise TTameError(
                f"the process that measured {name} ended before its result, perhaps for lack of "
                f"memory; try a smaller batch than {config.batch_size}"
            ) from error


def _measure(name: str, config: TrainingConfig, repeats: int, threads: int) -> dict[str, Any]:
    """As `ttame train` would run: the allocator's settings are the program's."""
    keep_freed_memory()
    torch.set_num_threads(threads)
    torch.manual_seed(config.seed)
    explainer = attach(name, config=SIGNED, pretrained=False)
    return measure_throughput(explainer, config, repeats=repeats)


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
        A record: images a second of step and floor, the ratio of their times (medians), the
        spread of each (slowest by fastest turn: far from 1, something else kept the machine
        busy and the ratio means little), peak memory in MB of a step and of the floor
        (`ttame.memory.peak_memory`), and the setting.

    Raises:
        TTameError: If there are too few repeats for a median.
    """
    if repeats < 3:
        raise TTameError(f"repeats must be at least 3, got {repeats}")
    device = device or torch.device("cuda" if torch.cuda.is_available() else "cpu")
    size = explainer.spec.input_size
    generator = torch.Generator().manual_seed(config.seed)
    images = torch.randn(config.batch_size, 3, *size, generator=generator)
    module = training_module(explainer, images[:1], config, device)
    images = images.to(device)
    step, floor = step_function(module, images), floor_function(module, images)
    with algorithms_kept():
        torch.use_deterministic_algorithms(config.deterministic, warn_only=True)  # as in `fit`
        # The floor first: on a CPU, freed memory may stay with the process.
        floor_peak, step_peak = peak_memory(floor, device), peak_memory(step, device)
        steps, floors = alternate((step, floor), repeats, device, warm_up=1)
    count = len(config.retain) * config.batch_size
    slow, fast = statistics.median(steps), statistics.median(floors)
    return {
        "classifier": name or explainer.spec.name,
        "input_size": list(size),
        "batch": config.batch_size,
        "precision": config.precision,
        "compile": config.compile,
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


def training_module(
    explainer: Explainer, images: Tensor, config: TrainingConfig, device: torch.device
) -> ExplainerModule:
    """What `fit` trains, from a random start, on a device."""
    working = prepare_on(explainer, images, replace(config, init="free"))
    return ExplainerModule(working, config, total_steps=10**9).to(device).train()


def step_function(module: ExplainerModule, images: Tensor) -> Callable[[], None]:
    """Training steps on one batch, as Lightning takes them, one a share of retained pixels.

    Args:
        module: The mechanism's weights change with every call.
        images: Normalised, `(B, 3, H, W)`, on the module's device.
    """
    optimizer, config = module.configure_optimizers()["optimizer"], module.config

    def step() -> None:
        for share in config.retain:
            with autocast(config.precision, images.device):
                total = module.parts(images, share).total
            optimizer.zero_grad()
            total.backward()  # type: ignore[no-untyped-call]
            if config.gradient_clip:
                parameters = module.explainer.mechanism.parameters()
                nn.utils.clip_grad_norm_(parameters, config.gradient_clip)
            optimizer.step()

    return step


def floor_function(module: ExplainerModule, images: Tensor) -> Callable[[], None]:
    """One forward without gradient, one forward and input-only backward, as often as `step`.

    Args:
        module: Its classifier, as it is trained on: folded, in its memory format, compiled or not.
        images: Normalised, `(B, 3, H, W)`, on the module's device.
    """
    classifier, config = module.explainer.classifier, module.config
    answer: Callable[[Tensor], Tensor] = module.compiled or classifier
    if config.channels_last:
        images = channels_last(images)

    def floor() -> None:
        for _ in config.retain:
            leaf = images.detach().requires_grad_(True)
            with autocast(config.precision, images.device):
                with torch.no_grad():
                    labels = classifier(images).argmax(dim=1)
                loss = F.cross_entropy(answer(leaf), labels)
            torch.autograd.grad(loss, leaf)

    return floor


def write_throughput(out: Path | str, rows: Sequence[Mapping[str, Any]], seed: int = 0) -> Path:
    """Write records of `measure_throughput` with their provenance as one JSON file.

    Raises:
        TTameError: If the file cannot be written.
    """
    return write_record(out, FORMAT, VERSION, seed, rows=list(rows))


def read_throughput(path: Path | str) -> dict[str, Any]:
    """Read what `write_throughput` wrote: the provenance and `rows`.

    Raises:
        TTameError: If the file is missing, damaged, or of another format or version.
    """
    return read_record(path, FORMAT, VERSION, "make throughput")
