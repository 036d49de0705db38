"""The program: classifier and mechanism as one function, traced by `torch.export`."""

from __future__ import annotations

import warnings
from collections.abc import Iterator
from contextlib import ExitStack, contextmanager, redirect_stderr
from io import StringIO
from typing import TYPE_CHECKING

import torch
import torch.nn.functional as F
from timm.layers.conv2d_same import Conv2dSame
from timm.layers.pool2d_same import AvgPool2dSame, MaxPool2dSame
from timm.layers.std_conv import ScaledStdConv2dSame, StdConv2dSame
from torch import Tensor, nn
from torch.export import Dim, ExportedProgram

from ttame.classifiers.layers import probe_images
from ttame.classifiers.passes import copy_module, own_precision
from ttame.errors import TTameError
from ttame.features import hooked

if TYPE_CHECKING:
    from ttame.explainer import Explainer

INPUTS = ("images", "targets")
OUTPUTS = ("logits", "explained", "maps")  # an input and an output cannot both be `targets`
PREDICTED = -1  # in place of a target class
# Layers that compute their padding from the size of the image.
_SAME = (AvgPool2dSame, Conv2dSame, MaxPool2dSame, ScaledStdConv2dSame, StdConv2dSame)


class Program(nn.Module):
    """One forward pass from normalised images and target classes to logits and maps.

    Args:
        explainer: In `eval()`; shared, not copied.
    """

    def __init__(self, explainer: Explainer) -> None:
        super().__init__()
        self.explainer = explainer

    def forward(self, images: Tensor, targets: Tensor) -> tuple[Tensor, Tensor, Tensor]:
        """Explain one class per image.

        Args:
            images: Normalised images, `(B, C, H, W)` float32.
            targets: Target classes, `(B,)` int64; -1 for the predicted class.

        Returns:
            Logits `(B, K)`, the explained classes `(B,)` and raw maps `(B, 1, h, w)`.
        """
        logits, maps = self.explainer.features(images)
        explained = torch.where(targets < 0, logits.argmax(dim=1), targets)
        return logits, explained, self.explainer.mechanism(maps, explained[:, None])


def portable(explainer: Explainer) -> Explainer:
    """Return the explainer in float32 on the CPU: itself if it is, or else a copy.

    Raises:
        TTameError: If it is in training mode.
    """
    if explainer.training:
        raise TTameError("the explainer is in training mode; call explainer.eval() first")
    here = all(
        value.device.type == "cpu" and value.dtype in (torch.float32, torch.int64, torch.bool)
        for value in (*explainer.parameters(), *explainer.buffers())
    )
    if here:
        return explainer
    parts = {name: copy_module(part).float().cpu() for name, part in explainer.named_children()}
    return explainer.replace(**parts)  # type: ignore[arg-type]


def trace(
    explainer: Explainer, batch: int | None = None, *, any_size: bool = False
) -> ExportedProgram:
    """Trace the explainer's `Program`.

    Args:
        explainer: In `eval()`, in float32 on the CPU (`portable`).
        batch: Number of images per call; `None` for any number.
        any_size: Leave height and width of the images open.

    Raises:
        TTameError: If the network cannot be traced, naming the module, or fixes the number or size
            of the images where they are to be open.
    """
    spec, program = explainer.spec, Program(explainer).eval()
    image = probe_images(explainer.classifier, spec.input_size, spec.channels)[:1]
    images = image.repeat(batch or 2, 1, 1, 1)
    targets = torch.full((len(images),), PREDICTED)
    free = {0: Dim.DYNAMIC} if batch is None else {}
    places = {2: Dim.DYNAMIC, 3: Dim.DYNAMIC} if any_size else {}
    if any_size:
        _check_sizes(program, images, targets)
    with tracing(spec.name, program, any_size):
        return torch.export.export(
            program, (images, targets), dynamic_shapes=({**free, **places}, free), strict=False
        )


def other_size(size: tuple[int, int]) -> tuple[int, int]:
    """Return a height and width of another shape, to try what takes images of any size."""
    return size[0] + size[0] // 3, size[1] - size[1] // 4


def _check_sizes(program: Program, images: Tensor, targets: Tensor) -> None:
    """Refuse a network that takes images of one size.

    Padding that is computed from the image's size is refused, too: its tracing does not end.

    Raises:
        TTameError: Naming the module that pads, or what fails in another size.
    """
    spec, why = program.explainer.spec, None
    for name, module in program.explainer.classifier.named_modules():
        if isinstance(module, _SAME):
            why = f"module {name!r} ({type(module).__name__}) pads by the size of the image"
            break
    else:
        try:
            with torch.inference_mode():
                program(F.interpolate(images, other_size(spec.input_size)), targets)
        except Exception as error:  # whatever the network raises
            why = f"{type(error).__name__}: {' '.join(str(error).split())[:240]}"
    if why:
        raise TTameError(
            f"{spec.name} cannot take images of any size ({why}); leave any_size out, or export "
            "one file per size"
        )


@contextmanager
def tracing(name: str, program: nn.Module, any_size: bool = False) -> Iterator[None]:
    """Trace inside the block; an exception is turned into a message that names the module.

    Args:
        name: Name of the network, for messages.
        program: What is traced.
        any_size: Whether height and width of the images are open, for messages.

    Raises:
        TTameError: Instead of any exception of the network or of `torch.export`.
    """
    entered: list[str] = []

    def enter(path: str) -> None:
        entered.append(path)

    def leave() -> None:
        entered.pop()

    with ExitStack() as stack:
        for path, module in program.named_modules():
            stack.enter_context(hooked(module, lambda *_, path=path: enter(path), before=True))
            stack.enter_context(hooked(module, lambda *_: leave()))
        stack.enter_context(torch.no_grad())
        stack.enter_context(own_precision(torch.device("cpu")))
        stack.enter_context(warnings.catch_warnings())
        warnings.simplefilter("ignore")  # advice to the authors of the network
        stack.enter_context(redirect_stderr(StringIO()))  # torch prints the graph that it gives up
        try:
            yield
        except TTameError:
            raise
        except Exception as error:
            what = f"{type(error).__name__}: {' '.join(str(error).split())[:240]}"
            if "Constraints violated" in what:
                fixed, without = ("or size ", " and without any_size") if any_size else ("", "")
                raise TTameError(
                    f"{name} cannot take any number {fixed}of images at a time, its code fixes it; "
                    f"export with batch=1{without}"
                ) from error
            where = entered[-1].removeprefix("explainer.classifier.") if entered else ""
            raise TTameError(
                f"{name} cannot be exported: module {where or type(program).__name__!r} fails "
                f"while it is traced ({what}); exchange it for one whose steps do not depend on "
                "the values of the image"
            ) from error
