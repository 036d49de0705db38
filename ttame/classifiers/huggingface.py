"""Classifiers of Hugging Face's `transformers`, plain or under PEFT: their facts and their logits.

Neither library is imported here: a model is recognised by the modules that its classes come from.
"""

from __future__ import annotations

from collections.abc import Sequence
from typing import Any, Literal

import torch
from PIL import Image
from torch import Tensor, nn

from ttame.classifiers.classes import class_names
from ttame.errors import TTameError

ChannelOrder = Literal["rgb", "bgr"]

# Pillow's numbers of the filters, and torchvision's names.
_FILTERS = {0: "nearest", 1: "lanczos", 2: "bilinear", 3: "bicubic", 4: "box", 5: "hamming"}
_COLOURS = ((0, 0, 0), (255, 255, 255), (51, 102, 204))  # of the probe photos


def hub_model(model: object) -> nn.Module | None:
    """Return the `transformers` model that `model` is, or contains under PEFT; otherwise `None`."""
    if _comes_from(model, "peft"):
        model = model.get_base_model()  # type: ignore[attr-defined]
    whole = any(kind.__name__ == "PreTrainedModel" for kind in type(model).__mro__)
    if whole and isinstance(model, nn.Module) and _comes_from(model, "transformers"):
        return model
    return None


def _comes_from(thing: object, library: str) -> bool:
    return any(kind.__module__.partition(".")[0] == library for kind in type(thing).__mro__)


def return_logits(copied: nn.Module) -> None:
    """Make the adopted copy of a `transformers` model return its logits alone.

    By a hook, so that its layers keep their names; adopting it again adds none. Any other module
    stays as it is.

    Args:
        copied: The copy; changed.
    """
    inner = hub_model(copied)
    if inner is not None and _only_logits not in copied._forward_hooks.values():
        inner.config.return_dict = True  # type: ignore[union-attr]
        copied.register_forward_hook(_only_logits)


def take_rgb(copied: nn.Module, order: ChannelOrder) -> nn.Module:
    """Make an adopted copy take RGB images, by a hook.

    Args:
        copied: The copy; changed and returned.
        order: The order of the channels that the classifier was built for.
    """
    if order == "bgr" and _flip_channels not in copied._forward_pre_hooks.values():
        copied.register_forward_pre_hook(_flip_channels)
    return copied


def _flip_channels(_module: nn.Module, args: tuple[Tensor, ...]) -> tuple[Tensor, ...]:
    return (args[0].flip(1), *args[1:])


def _only_logits(module: nn.Module, _args: object, output: object) -> Tensor:
    logits = output if isinstance(output, Tensor) else getattr(output, "logits", None)
    if not isinstance(logits, Tensor):
        raise TTameError(
            f"{type(hub_model(module)).__name__} returns a {type(output).__name__} without "
            "`logits`; load a classifier, for example with "
            "transformers.AutoModelForImageClassification.from_pretrained"
        )
    return logits


def label_names(model: nn.Module) -> tuple[str, ...] | None:
    """Return the class names in the config of a `transformers` model; `None` for other models.

    Placeholders (`LABEL_0`, ...) become `class 0`, ...: they are not ImageNet's.

    Raises:
        TTameError: If there are no labels, or they have gaps.
    """
    inner = hub_model(model)
    if inner is None:
        return None
    config: Any = inner.config
    if config.num_labels == 0:
        raise TTameError(
            f"{type(inner).__name__} has no head (num_labels=0): its outputs are features, not "
            "classes; load it with its labels, or attach the classifier that you built on it"
        )
    labels = {int(index): str(name) for index, name in config.id2label.items()}
    if all(name == f"LABEL_{index}" for index, name in labels.items()):
        labels = {index: f"class {index}" for index in labels}
    return class_names(labels)


def processor_facts(processor: Any) -> dict[str, Any]:
    """Return the facts of an image processor of `transformers`.

    Its sizes are read from its settings. What it does to colours is measured on three photos of
    one colour each, so that rescaling, its factor, normalisation and the order of the channels
    are those that it applies.

    Args:
        processor: An image processor, or a processor that contains one (CLIP's).

    Returns:
        `input_size`, `resize`, `mean`, `std`, `interpolation` and `channel_order`, as in a
        `BackboneSpec`.

    Raises:
        TTameError: If it is no image processor, or prepares photos in another way.
    """
    processor = getattr(processor, "image_processor", processor)
    if not _comes_from(processor, "transformers") or not hasattr(processor, "do_resize"):
        raise TTameError(
            f"processor must be an image processor of transformers, got a "
            f"{type(processor).__name__}; pass AutoImageProcessor.from_pretrained(...)"
        )
    resize, size = _geometry(processor)
    mean, std, order = _colours(processor, size)
    return {
        "input_size": size,
        "resize": resize,
        "mean": mean,
        "std": std,
        "interpolation": _FILTERS[int(getattr(processor, "resample", None) or 2)],
        "channel_order": order,
    }


def _geometry(processor: Any) -> tuple[int | tuple[int, int], tuple[int, int]]:
    """Return the size that a processor resizes photos to, and that of its output."""
    name = type(processor).__name__
    size = dict(getattr(processor, "size", None) or {})
    if not getattr(processor, "do_resize", False) or getattr(processor, "do_pad", False):
        raise TTameError(
            f"{name} has do_resize={getattr(processor, 'do_resize', None)} and "
            f"do_pad={getattr(processor, 'do_pad', None)}, and T-TAME resizes without padding; "
            "pass input_size, mean and std in its place"
        )
    resize: int | tuple[int, int]
    if size.keys() == {"height", "width"}:
        resize = output = (int(size["height"]), int(size["width"]))
    elif size.keys() == {"shortest_edge"}:
        resize = side = int(size["shortest_edge"])
        output = (side, side)
        share = getattr(processor, "crop_pct", None)
        if share is not None:  # ConvNeXT's: only small sizes are cropped
            resize = int(side / share) if side < 384 else output
    else:
        raise TTameError(
            f"{name} resizes to {size}, not to a height and width or a shortest edge; pass "
            "input_size, mean and std in its place"
        )
    if getattr(processor, "do_center_crop", False):
        crop = dict(processor.crop_size)
        output = (int(crop["height"]), int(crop["width"]))
        if isinstance(resize, int) and output[0] != output[1]:
            raise TTameError(
                f"{name} cuts {output[0]}x{output[1]} out of photos whose shortest edge is "
                f"{resize}, which T-TAME does for squares; pass input_size, mean and std in its "
                "place"
            )
    elif size.keys() == {"shortest_edge"} and resize == size["shortest_edge"]:
        raise TTameError(
            f"{name} resizes the shortest edge to {resize} without a crop, so that its output has "
            "no fixed size; set do_center_crop and crop_size, or pass input_size, mean and std"
        )
    return resize, output


def _colours(
    processor: Any, size: tuple[int, int]
) -> tuple[tuple[float, ...], tuple[float, ...], ChannelOrder]:
    """Measure mean and standard deviation, in RGB, and the order of the output's channels."""
    photos = [Image.new("RGB", size[::-1], colour) for colour in _COLOURS]
    output = processor(images=photos, return_tensors="pt")["pixel_values"].double()
    name = type(processor).__name__
    if output.shape != (3, 3, *size):
        raise TTameError(
            f"{name} makes {tuple(output.shape)} of 3 photos, expected (3, 3, {size[0]}, "
            f"{size[1]}) by its settings; pass input_size, mean and std in its place"
        )
    black, white, colour = output[:, :, size[0] // 2, size[1] // 2]  # (3,) each
    gain, share = white - black, torch.tensor(_COLOURS[2]).double() / 255
    orders: tuple[ChannelOrder, ChannelOrder] = ("rgb", "bgr")
    for order, seen in zip(orders, (share, share.flip(0)), strict=True):
        misfit = (black + gain * seen - colour).abs()
        if bool((gain > 0).all()) and bool((misfit <= 1e-5 * gain).all()):
            mean, std = 0.0 - black / gain, 1 / gain
            return _rounded(mean, order), _rounded(std, order), order
    raise TTameError(
        f"{name} does more to colours than to rescale, normalise and reorder channels; pass "
        "input_size, mean and std in its place, for a model that takes such images"
    )


def _rounded(values: Tensor, order: ChannelOrder) -> tuple[float, ...]:
    """Round measured values to six digits after the point, in the order R, G, B."""
    numbers: Sequence[float] = (values if order == "rgb" else values.flip(0)).tolist()
    return tuple(round(number, 6) for number in numbers)
