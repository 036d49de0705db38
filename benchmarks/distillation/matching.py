"""Match the teacher's features: all of its classes, from photos without labels.

The teacher is known as a function of the stem's map, since the rest of its layers is cheap to run.
So any map has an exact answer, also a mirrored one or a patchwork of two photos: the transformer
learns the function rather than the photos (Beyer et al., 2022: "Knowledge distillation: A good
teacher is patient and consistent"). It starts as the best linear function of the mean patch, not
at random: a random start needs most of the training to get there.
"""

from __future__ import annotations

from dataclasses import dataclass
from typing import Any, cast

import torch
import torch.nn.functional as F
from torch import Tensor, nn

from benchmarks.distillation.teacher import Tail
from benchmarks.distillation.training import DistillationConfig, DistillationModule, soft_loss
from ttame.classifiers.hybrid import own_cells
from ttame.errors import TTameError
from ttame.features import capture

_RIDGE = 0.01  # of the mean variance of the inputs


@dataclass(frozen=True)
class MatchingConfig(DistillationConfig):
    """Settings of matching the teacher's features.

    Attributes:
        whole_share: Share of the steps, the last ones, that see all patches; earlier ones see
            every second row and column, which cost a quarter.
        patchwork: Share of the steps in which a rectangle of each map is another photo's.
    """

    batch_size: int = 32
    stages: int = 7
    depth: int = 4
    whole_share: float = 0.2
    patchwork: float = 0.5

    def __post_init__(self) -> None:
        """Check the settings.

        Raises:
            TTameError: If a setting is out of range.
        """
        super().__post_init__()
        if self.stages < 6 or self.depth < 2:
            raise TTameError(
                "matching needs the dilated stem of stages=6 or 7 and a depth of 2 blocks or more, "
                f"got {self.stages} and {self.depth}"
            )
        if not (0 <= self.whole_share <= 1 and 0 <= self.patchwork <= 1):
            raise TTameError(
                "whole_share and patchwork must lie in [0, 1], got "
                f"{self.whole_share} and {self.patchwork}"
            )


class FeatureHead(nn.Module):
    """Read a token as the teacher's features, and these by the teacher's classifier.

    Args:
        width: Channels of the token.
        classifier: The teacher's classifier, frozen.
    """

    weight: Tensor
    bias: Tensor

    def __init__(self, width: int, classifier: nn.Linear) -> None:
        super().__init__()
        self.project = nn.Linear(width, classifier.in_features)
        self.register_buffer("weight", classifier.weight.detach())
        self.register_buffer("bias", classifier.bias.detach())

    def classify(self, features: Tensor) -> Tensor:
        """Return logits `(B, K)`, float32, of features `(B, D)`."""
        with torch.autocast(features.device.type, enabled=False):
            return F.linear(features.float(), self.weight, self.bias)

    def forward(self, tokens: Tensor) -> Tensor:
        """Return logits `(B, K)` of tokens `(B, width)`."""
        return self.classify(self.project(tokens))

    @torch.no_grad()
    def linear(self) -> nn.Linear:
        """Return the same function as one linear layer, since nothing between is nonlinear."""
        made = nn.Linear(self.project.in_features, len(self.bias))
        made.weight.copy_(self.weight @ self.project.weight)
        made.bias.copy_(self.classify(self.project.bias))
        return made


class MatchingModule(DistillationModule):
    """Train on the teacher's features of every patch, its logits and its probabilities.

    Args:
        student: The transformer, with `nn.Identity` in place of its stem; it is started anew, with
            a `FeatureHead`.
        config: Settings.
        total_steps: Number of steps in the schedule.
        tail: The teacher behind the stem.
        maps: Stem maps of some photos, `(N, C, h, w)`, to start from.
    """

    config: MatchingConfig
    mean: Tensor
    std: Tensor
    spread: Tensor

    def __init__(
        self, student: Any, config: MatchingConfig, total_steps: int, tail: Tail, maps: Tensor
    ) -> None:
        super().__init__(student, config, total_steps)
        self.tail = tail
        student.head = FeatureHead(student.embed_dim, tail.classifier)
        self.places = nn.Linear(student.embed_dim, tail.classifier.in_features)
        wanted = _batched(tail, own_cells(maps.float(), config.stages))
        std, mean = torch.std_mean(wanted, dim=(0, 2, 3), keepdim=True)
        self.register_buffer("mean", mean)
        # Features that hardly vary would weigh most.
        self.register_buffer("std", std.clamp_min(float(std.mean())))
        logits = student.head.classify(wanted.mean(dim=(2, 3)))
        self.register_buffer("spread", logits.std(dim=0).mean())
        self._start(maps.float(), wanted, logits)

    def objective(self, maps: Tensor, teacher: Tensor, labels: Tensor) -> Tensor:
        """Vary the maps and compare with what the teacher says of these very maps."""
        student: Any = self.student
        maps = self._varied(maps)
        rows, columns = slice(1, None, 2), slice(1, None, 2)  # the teacher's own
        whole = self.global_step >= (1 - self.config.whole_share) * self.total_steps
        if not whole:
            rows, columns = (slice(int(torch.randint(2, ())), None, 2) for _ in range(2))
        wanted = self.tail(maps[:, :, rows, columns])
        logits, patches = self._read(maps, None if whole else (rows, columns))
        if whole:
            patches = patches[:, rows, columns]
        places = self.places(patches).permute(0, 3, 1, 2)
        target = student.head.classify(wanted.mean(dim=(2, 3)))
        loss: Tensor = (
            soft_loss(logits, target)
            + (((logits - target) / self.spread) ** 2).mean()
            + ((places - (wanted - self.mean) / self.std) ** 2).mean()
        )
        return loss

    def _read(
        self, maps: Tensor, lattice: tuple[slice, slice] | None = None
    ) -> tuple[Tensor, Tensor]:
        """Return the logits, and the patch tokens `(B, h, w, width)` that the last block reads."""
        student: Any = self.student
        name = f"blocks.{len(student.blocks) - 2}"
        side = maps.shape[-1]
        student.patch_drop = _Lattice(*lattice, side) if lattice else nn.Identity()
        with capture(student, [name]) as outputs:
            logits = student(maps)
        student.patch_drop = nn.Identity()
        tokens = cast(Tensor, outputs[name])
        return logits, _grid(tokens[:, 1:], side // 2 if lattice else side)

    def _varied(self, maps: Tensor) -> Tensor:
        """Mirror every map in half of the steps; paste a rectangle of other photos in some."""
        if float(torch.rand(())) < 0.5:
            maps = maps.flip(3)
        if float(torch.rand(())) >= self.config.patchwork:
            return maps
        share = float(torch.rand(())) ** 0.5  # of a side: areas are uniform, as in CutMix
        ranges = []
        for side in maps.shape[-2:]:
            part = max(1, int(share * side))
            first = int(torch.randint(side - part + 1, ()))
            ranges.append(slice(first, first + part))
        rows, columns = ranges
        mixed = maps.clone()
        mixed[..., rows, columns] = maps.flip(0)[..., rows, columns]
        return mixed

    @torch.no_grad()
    def _start(self, maps: Tensor, wanted: Tensor, logits: Tensor) -> None:
        """Start from linear regressions: of patches, and of the class token as their mean.

        Args:
            maps: Stem maps, `(N, C, h, w)`.
            wanted: The teacher's features of them, `(N, D, h', w')`.
            logits: The teacher's logits of them, `(N, K)`.
        """
        student: Any = self.student
        own = own_cells(maps, self.config.stages)
        std, mean = torch.std_mean(own, dim=(0, 2, 3))
        # Patches: standardised channels in the directions that tell most about the logits.
        pooled = (own.mean(dim=(2, 3)) - mean) / std
        basis = torch.linalg.svd(_ridge(pooled, logits)[0].T, full_matrices=False)[0]
        weight = basis[:, : student.embed_dim].T / std
        embedding = student.patch_embed.proj
        embedding.weight.zero_()
        embedding.weight[: len(weight)].copy_(weight[:, :, None, None])
        embedding.bias.zero_()
        embedding.bias[: len(weight)].copy_(-weight @ mean)
        # Attention passes means on unchanged: in full to the class token, which starts empty, and
        # later less.
        for index, block in enumerate(student.blocks):
            values = block.attn.qkv.weight[-student.embed_dim :]
            nn.init.orthogonal_(values)
            block.attn.proj.weight.copy_(values.T if index == 0 else 0.3 * values.T)
        found = [self._tokens(part) for part in torch.split(maps, 64)]
        tokens, patches = (torch.cat(parts) for parts in zip(*found, strict=True))
        targets = ((wanted - self.mean) / self.std).permute(0, 2, 3, 1).flatten(0, 2)
        for layer, inputs, outputs in (
            (student.head.project, tokens, wanted.mean(dim=(2, 3))),
            (self.places, patches, targets),
        ):
            weight, bias = _ridge(inputs, outputs)
            layer.weight.copy_(weight)
            layer.bias.copy_(bias)

    def _tokens(self, maps: Tensor) -> tuple[Tensor, Tensor]:
        """Return class tokens `(B, width)` as the head reads them, and the teacher's own patches.

        The patches are `(B·h'·w', width)`, as the last block reads them.
        """
        student: Any = self.student
        with capture(student, ["fc_norm"]) as outputs:
            _, patches = self._read(maps, (slice(1, None, 2), slice(1, None, 2)))
        token: Any = outputs["fc_norm"]
        return token, patches.flatten(0, 2)


class _Lattice(nn.Module):
    """Keep the class token, and the patch tokens of some rows and columns."""

    def __init__(self, rows: slice, columns: slice, side: int) -> None:
        super().__init__()
        self.rows, self.columns, self.side = rows, columns, side

    def forward(self, tokens: Tensor) -> Tensor:
        kept = _grid(tokens[:, 1:], self.side)[:, self.rows, self.columns].flatten(1, 2)
        return torch.cat([tokens[:, :1], kept], dim=1)


def _grid(patches: Tensor, columns: int) -> Tensor:
    """Reshape patch tokens `(B, h·w, C)` to `(B, h, w, C)`."""
    return patches.reshape(len(patches), -1, columns, patches.shape[-1])


def _ridge(inputs: Tensor, outputs: Tensor) -> tuple[Tensor, Tensor]:
    """Fit a linear layer from `(N, C)` to `(N, D)`; returns weight `(D, C)` and bias `(D,)`."""
    mean, offset = inputs.mean(dim=0), outputs.mean(dim=0)
    centred = inputs - mean
    gram = centred.T @ centred
    gram = gram + _RIDGE * gram.diagonal().mean() * torch.eye(len(gram))
    weight = torch.linalg.solve(gram, centred.T @ (outputs - offset)).T
    return weight, offset - weight @ mean


def _batched(tail: Tail, maps: Tensor) -> Tensor:
    return torch.cat([tail(part) for part in torch.split(maps, 64)])
