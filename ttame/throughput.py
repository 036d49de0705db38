"""Throughput of a training step, against the floor that the classifier itself sets.

Training asks the frozen classifier for one forward pass without gradient and, on the masked
photos, for one forward and one backward pass to the input. No way of training can be faster;
how near a step comes says what the mechanism, the masks, the objective and the optimiser cost.
"""

from __future__ import annotations

import json
import statistics
from collections.abc import Callable, Mapping, Sequence
from dataclasses import replace
from pathlib import Path
from typing import Any

import timm
import torch
import torch.nn.functional as F
from torch import Tensor, nn

from ttame.errors import TTameError
from ttame.explainer import Explainer
from ttame.files import replacing
from ttame.lightning_module import ExplainerModule, autocast
from ttame.loading import attach
from ttame.memory import peak_memory
from ttame.recipes import SIGNED, TrainingConfig
from ttame.results import provenance
from ttame.timing import alternate
from ttame.training import prepare_on

FORMAT, VERSION = "ttame-throughput", 1
CLASSIFIERS = ("tf_efficientnet_lite0", "resnet50", "vit_tiny_patch16_224")


def untrained(name: str) -> Explainer:
    """A mechanism on one of timm's classifiers with random weights, which take the same time."""
    return attach(timm.create_model(name, pretrained=False), config=SIGNED)


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
        A record: images a second of step and floor, the ratio of their times (medians), peak
        memory in MB of a step and of the floor (`ttame.memory.peak_memory`), and the setting.

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
        images = images.contiguous(memory_format=torch.channels_last)

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
    made = {"format": FORMAT, "version": VERSION, **provenance(seed), "rows": list(rows)}
    with replacing(out) as temporary:
        temporary.write_text(json.dumps(made, indent=1) + "\n", encoding="utf-8")
    return Path(out)
