"""How the shipped classifier of drawn creatures was made: trained on drawings, parts missing."""

from __future__ import annotations

import json
import random
import time
from collections.abc import Callable
from dataclasses import asdict, dataclass
from itertools import combinations
from pathlib import Path
from typing import Any

import torch
import torch.nn.functional as F
from safetensors.torch import save_file
from torch import Tensor, nn
from torchvision.transforms.v2.functional import pil_to_tensor

from ttame.classifiers.drawn import PARTS, drawn_cnn
from ttame.classifiers.weights import weight_digest
from ttame.errors import AtLeastOne, Positive, TTameError, validate
from ttame.evaluation.drawings import CLUTTER, COUNTS, Drawing, drawing
from ttame.files import replacing
from ttame.records import provenance

Progress = Callable[[int, int], None]


@dataclass(frozen=True)
class DrawnConfig:
    """Settings of the training.

    Attributes:
        drawings: Drawings to train on, of the split `"train"`.
        epochs: Passes over them; each shows a drawing whole or with layers missing, by a coin.
        batch_size: Drawings per step.
        learning_rate: Maximum learning rate of OneCycle, under AdamW.
        weight_decay: Weight decay.
        seed: Seed of initialisation, order and missing layers.
    """

    drawings: AtLeastOne = 5000
    epochs: AtLeastOne = 16
    batch_size: AtLeastOne = 64
    learning_rate: Positive = 4e-3
    weight_decay: Positive = 0.02
    seed: int = 0

    def __post_init__(self) -> None:
        """Check the fields."""
        validate(self)


def train_classifier(
    config: DrawnConfig,
    out: Path | str,
    *,
    name: str = "drawn_cnn",
    held_out: int = COUNTS["val"],
    progress: Progress | None = None,
) -> dict[str, Any]:
    """Train the network and write its weights, in half precision, and record.

    Args:
        config: Settings.
        out: Folder for `NAME.safetensors` and `NAME.json`.
        name: Name of the classifier.
        held_out: Number of drawings of the split `"val"` for the top-1 accuracies.
        progress: Called with the number of steps done and their total.

    Returns:
        The record; its accuracies are those of the weights as written.

    Raises:
        TTameError: If the file exists already, or the loss is not finite.
    """
    out = Path(out)
    if (out / f"{name}.safetensors").exists():
        raise TTameError(f"{str(out / name)!r}.safetensors exists; choose another folder or name")
    made, start = provenance(config.seed), time.perf_counter()
    torch.manual_seed(config.seed)
    chance = random.Random(config.seed)
    found = [drawing("train", index) for index in range(config.drawings)]
    labels = torch.tensor([one.label for one in found])
    # Twice in memory: whole, and with layers missing, so that a missing part is nothing unknown.
    versions = torch.stack(
        [pixels(found), pixels(found, [missing_layers(chance) for _ in found])]
    )  # (2, N, 3, H, W) uint8
    model = drawn_cnn().to(memory_format=torch.channels_last)
    curves = _fit(model, versions, labels, config, progress)
    model = _rounded(model.eval())
    val = [drawing("val", index) for index in range(held_out)]
    pairs = list(combinations(PARTS, 2))
    accuracies = {
        "top1": top1(model, val, [() for _ in val]),
        # Drawing by drawing, every part and every pair of parts takes its turn.
        "top1_without_a_part": top1(model, val, [(PARTS[i % 5],) for i in range(held_out)]),
        "top1_without_two_parts": top1(model, val, [pairs[i % 10] for i in range(held_out)]),
        "top1_without_clutter": top1(model, val, [CLUTTER for _ in val]),
    }
    record = {
        "name": name,
        **made,
        "config": asdict(config),
        "backbone": name,
        "digest": weight_digest(model),
        "weights": "trained from scratch",
        "data": "drawn/train",
        "photos": config.drawings,
        "validation": "drawn/val",
        "validation_photos": held_out,
        **accuracies,
        "parameters": sum(value.numel() for value in model.parameters()),
        "minutes": round((time.perf_counter() - start) / 60, 2),
        "curves": curves,
    }
    with replacing(out / f"{name}.safetensors") as temporary:
        save_file({key: value.half().contiguous() if value.is_floating_point() else value
                   for key, value in model.state_dict().items()}, temporary)  # fmt: skip
    with replacing(out / f"{name}.json") as temporary:
        temporary.write_text(json.dumps(record, indent=1) + "\n", encoding="utf-8")
    return record


def missing_layers(chance: random.Random) -> tuple[str, ...]:
    """Draw the layers to leave out: one to three parts, and each piece of clutter by a coin."""
    parts = chance.sample(PARTS, chance.randint(1, 3))
    return (*parts, *(name for name in CLUTTER if chance.random() < 0.5))


def pixels(found: list[Drawing], without: list[tuple[str, ...]] | None = None) -> Tensor:
    """Render drawings.

    Args:
        found: Drawings.
        without: Layers to leave out, by drawing.

    Returns:
        `(N, 3, H, W)` uint8.
    """
    removed = without or [() for _ in found]
    images = [one.render(names) for one, names in zip(found, removed, strict=True)]
    return torch.stack([pil_to_tensor(image) for image in images])


@torch.inference_mode()
def top1(model: nn.Module, found: list[Drawing], without: list[tuple[str, ...]]) -> float:
    """Measure the percentage of drawings that get their class, with layers left out."""
    parts = torch.split(pixels(found, without), 100)
    answers = torch.cat([model(_normalized(part)).argmax(dim=1) for part in parts])
    labels = torch.tensor([one.label for one in found])
    return round(100 * float((answers == labels).float().mean()), 2)


def _fit(
    model: nn.Module,
    versions: Tensor,
    labels: Tensor,
    config: DrawnConfig,
    progress: Progress | None,
) -> list[dict[str, float]]:
    """Train the model in place; return the mean loss of every epoch."""
    steps = max(len(labels) // config.batch_size, 1)
    total = config.epochs * steps
    optimizer = torch.optim.AdamW(
        model.parameters(), config.learning_rate, weight_decay=config.weight_decay
    )
    schedule = torch.optim.lr_scheduler.OneCycleLR(
        optimizer, config.learning_rate, total_steps=total
    )
    curves = []
    for epoch in range(config.epochs):
        losses = []
        for rows in torch.randperm(len(labels))[: steps * config.batch_size].chunk(steps):
            images = _normalized(versions[torch.randint(2, (len(rows),)), rows])
            loss = F.cross_entropy(model(images), labels[rows], label_smoothing=0.05)
            if not bool(loss.isfinite()):
                raise TTameError(
                    f"the loss became {loss.item()} in epoch {epoch}; lower the learning rate "
                    f"({config.learning_rate})"
                )
            optimizer.zero_grad()
            loss.backward()  # type: ignore[no-untyped-call]
            optimizer.step()
            schedule.step()
            losses.append(float(loss.detach()))
            if progress:
                progress(epoch * steps + len(losses), total)
        curves.append({"epoch": epoch, "train/loss": round(sum(losses) / len(losses), 5)})
    return curves


def _normalized(images: Tensor) -> Tensor:
    """Bring uint8 images to [-1, 1], as the spec of `drawn_cnn` says."""
    return (images.float() / 127.5 - 1).contiguous(memory_format=torch.channels_last)


@torch.no_grad()
def _rounded(model: nn.Module) -> nn.Module:
    """Round the weights to half precision, in place."""
    for value in model.state_dict().values():
        if value.is_floating_point():
            value.copy_(value.half())
    return model
