"""Throughput of a training step, against the floor that the classifier itself sets.

Training asks the frozen classifier for one forward pass without gradient and, on the masked
photos, for one forward and one backward pass to the input. No way of training can be faster;
how near a step comes says what the mechanism, the masks, the objective and the optimiser cost.
"""

from __future__ import annotations

import multiprocessing
from concurrent.futures import ProcessPoolExecutor
from concurrent.futures.process import BrokenProcessPool
from typing import Any

import torch

from ttame.companion.allocation import keep_freed_memory
from ttame.errors import TTameError
from ttame.loading import attach
from ttame.training.config import TrainingConfig
from ttame.training.planning import measure_throughput
from ttame.training.recipes import SIGNED

# What is measured unless asked otherwise, with the batch and precision that suit the device.
ON_CPU = ("tf_efficientnet_lite0", "resnet50", "timm/vit_tiny_patch16_224")
ON_GPU = ("vgg16", "resnet50", "vit_b_16")


def default_setting(cuda: bool) -> tuple[tuple[str, ...], TrainingConfig]:
    """The classifiers and the training that are measured on a CPU or a GPU."""
    if cuda:
        return ON_GPU, TrainingConfig.of(batch_size=128, precision="bf16-mixed")
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
                f"memory; try a smaller batch than {config.photos.batch_size}"
            ) from error


def _measure(name: str, config: TrainingConfig, repeats: int, threads: int) -> dict[str, Any]:
    """As `ttame train` would run: the allocator's settings are the program's."""
    keep_freed_memory()
    torch.set_num_threads(threads)
    torch.manual_seed(config.run.seed)
    explainer = attach(name, config=SIGNED, pretrained=False)
    return measure_throughput(explainer, config, repeats=repeats)
