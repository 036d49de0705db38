"""Run an exported explainer with onnxruntime, Pillow and numpy alone, without torch.

The class is small on purpose: copy this file to where the rest of the library cannot go, with
`TTameError` replaced by `ValueError`.
"""

from __future__ import annotations

import json
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import numpy as np
from PIL import Image, ImageOps

from ttame.errors import TTameError

_PREDICTED = -1
_MAX_ASPECT = 4  # longer panoramas are cut, as in training
# Nine colours of matplotlib's inferno, dark to light.
_COLOURS = (
    (0, 0, 4), (31, 12, 72), (85, 15, 109), (136, 34, 106), (186, 54, 85), (227, 89, 51),
    (249, 140, 10), (249, 201, 50), (252, 255, 164),
)  # fmt: skip


@dataclass(frozen=True)
class ExportedExplanation:
    """What an exported explainer says about one class of a photo.

    Attributes:
        image: The part of the photo that the classifier sees, at its input size.
        target: Index of the explained class.
        name: Name of the explained class.
        probabilities: Of all classes, `(K,)` float32.
        logits: The classifier's outputs, `(K,)` float32.
        map: Raw explanation map, `(h, w)` float32.
    """

    image: Image.Image
    target: int
    name: str
    probabilities: np.ndarray
    logits: np.ndarray
    map: np.ndarray

    @property
    def probability(self) -> float:
        """Return the probability of the explained class."""
        return float(self.probabilities[self.target])

    def upsampled(self) -> np.ndarray:
        """Scale the map to [0, 1] and enlarge it to the image, `(H, W)` float32."""
        low, high = float(self.map.min()), float(self.map.max())
        constant = high <= low
        scaled = self.map.clip(0, 1) if constant else (self.map - low) / (high - low)
        large = Image.fromarray(scaled.astype(np.float32))  # mode F: nothing is rounded
        return np.asarray(large.resize(self.image.size, Image.Resampling.BILINEAR))

    def overlay(self, opacity: float = 0.5) -> Image.Image:
        """Lay the coloured map over the image; opacity from 0 (photo only) to 1 (map only)."""
        at = np.linspace(0, 1, len(_COLOURS))
        heat = np.stack(
            [np.interp(self.upsampled(), at, band) for band in zip(*_COLOURS, strict=True)],
            axis=-1,
        )
        return Image.blend(
            self.image.convert("RGB"), Image.fromarray(heat.round().astype(np.uint8)), opacity
        )


class Exported:
    """An explainer exported by `Explainer.export`.

    Args:
        path: The `.onnx` file.

    Attributes:
        facts: What the file says of itself: classes, mean, std, input_size, layers, licence, ...

    Raises:
        TTameError: If onnxruntime is not installed, or the file does not exist, is damaged, was not
            written by `Explainer.export`, or by another version of it.
    """

    def __init__(self, path: Path | str) -> None:
        try:
            import onnxruntime
        except ImportError as error:
            raise TTameError("onnxruntime is not installed; pip install 'ttame[export]'") from error
        if not Path(path).is_file():
            raise TTameError(f"exported explainer {str(path)!r} does not exist or is not a file")
        try:
            self.session = onnxruntime.InferenceSession(path, providers=["CPUExecutionProvider"])
        except Exception as error:  # onnxruntime's own exceptions have no common base
            raise TTameError(
                f"{str(path)!r} is damaged or not an ONNX file ({' '.join(str(error).split())})"
            ) from error
        text = self.session.get_modelmeta().custom_metadata_map.get("ttame")
        try:
            self.facts: dict[str, Any] = json.loads(text or "{}")
            known = self.facts.get("format") == "ttame-export"
        except (ValueError, AttributeError):
            known = False
        if not known:
            raise TTameError(
                f"{str(path)!r} is an ONNX file, but no exported explainer; write one with "
                "`ttame export` or Explainer.export"
            )
        if self.facts["version"] != 1:
            raise TTameError(
                f"{str(path)!r} has export format {self.facts['version']}, this ttame reads 1; "
                "export the explainer again with a matching version"
            )

    def explain(
        self, photo: Path | str | Image.Image, target: int | str | None = None
    ) -> ExportedExplanation:
        """Explain one class of a photo.

        Args:
            photo: A path or Pillow image.
            target: Index or name of the class; `None` for the predicted class.

        Raises:
            TTameError: If the photo cannot be read or no class is meant.
        """
        index = _PREDICTED if target is None else self.class_index(target)
        upright = _upright(photo, self.facts["channels"])
        image = self.crop(upright)
        inside, count = self.facts["preprocessing"], self.facts["batch"] or 1
        pixels = np.asarray(upright if inside else image)
        pixels = pixels.reshape(1, *pixels.shape[:2], self.facts["channels"]).repeat(count, axis=0)
        logits, explained, maps = self.run(
            pixels if inside else self.normalize(pixels), np.full(count, index)
        )
        return ExportedExplanation(
            image=image,
            target=int(explained[0]),
            name=self.facts["classes"][int(explained[0])],
            probabilities=self.probabilities(logits)[0],
            logits=logits[0],
            map=maps[0, 0],
        )

    def run(
        self, images: np.ndarray, targets: np.ndarray
    ) -> tuple[np.ndarray, np.ndarray, np.ndarray]:
        """Run the network on a batch.

        Args:
            images: What the file takes: normalised `(B, C, H, W)` float32; with preprocessing
                inside, photos of one size, `(B, height, width, C)` uint8.
            targets: Target classes, `(B,)` int64; -1 for the predicted class.

        Returns:
            Logits `(B, K)`, explained classes `(B,)` and raw maps `(B, 1, h, w)`.

        Raises:
            TTameError: If shapes or dtypes are not what the file takes.
        """
        first, second = (entry.name for entry in self.session.get_inputs())
        try:
            logits, explained, maps = self.session.run(None, {first: images, second: targets})
        except Exception as error:  # onnxruntime's own exceptions have no common base
            wanted = {entry.name: (entry.type, entry.shape) for entry in self.session.get_inputs()}
            raise TTameError(
                f"{first} {images.shape} {images.dtype} and {second} {targets.shape} "
                f"{targets.dtype} cannot be explained; the file takes {wanted}"
            ) from error
        return logits, explained, maps

    def probabilities(self, logits: np.ndarray) -> np.ndarray:
        """Turn logits `(B, K)` into probabilities, by the classifier's activation."""
        if self.facts["activation"] == "softmax":
            powers = np.exp(logits - logits.max(axis=1, keepdims=True))
            return np.asarray(powers / powers.sum(axis=1, keepdims=True))
        if self.facts["activation"] == "sigmoid":
            return np.asarray(np.exp(-np.logaddexp(0, -logits)))
        return logits.clip(0, 1)

    def normalize(self, pixels: np.ndarray) -> np.ndarray:
        """Turn 8-bit images `(B, H, W, C)` of the input size into `(B, C, H, W)` float32."""
        mean, std = (np.array(self.facts[name], np.float32) for name in ("mean", "std"))
        scaled = (pixels.astype(np.float32) / 255 - mean) / std
        return np.ascontiguousarray(scaled.transpose(0, 3, 1, 2), dtype=np.float32)

    def crop(self, image: Image.Image) -> Image.Image:
        """Resize and centre-crop an upright photo to the input size, keeping its shape."""
        (tall, wide), resize = self.facts["input_size"], self.facts["resize"]
        if isinstance(resize, int):
            share = resize / min(tall, wide)
            width, height = image.size
            keep = (
                min(width, max(_MAX_ASPECT * height * wide // tall, 1)),
                min(height, max(_MAX_ASPECT * width * tall // wide, 1)),
            )
            if keep != image.size:
                left, top = (width - keep[0]) // 2, (height - keep[1]) // 2
                image = image.crop((left, top, left + keep[0], top + keep[1]))
            width, height = image.size
            across, down = round(wide * share), round(tall * share)
            size = (max(across, down * width // height), max(down, across * height // width))
        else:
            size = (resize[1], resize[0])
        mode = self.facts["interpolation"].removesuffix("-exact").upper()
        image = image.resize(size, Image.Resampling[mode])
        left, top = _start(size[0], wide), _start(size[1], tall)
        return image.crop((left, top, left + wide, top + tall))

    def class_index(self, target: int | str) -> int:
        """Find a class by index, by name or by one of its synonyms, in any case.

        Raises:
            TTameError: If no class, or more than one, is meant.
        """
        classes = self.facts["classes"]
        if isinstance(target, str):
            word = target.strip().lower()
            found = [
                index for index, name in enumerate(classes)
                if word in {name.lower(), *(part.strip().lower() for part in name.split(","))}
            ]  # fmt: skip
            exact = [index for index in found if classes[index] == target]
            found = exact if len(exact) == 1 else found
        else:
            found = [int(target)] if 0 <= target < len(classes) else []
        if len(found) != 1:
            what = f"means several classes, {found}; give the index" if found else "is no class"
            raise TTameError(
                f"target {target!r} {what}; there are {len(classes)}, such as {classes[0]!r}"
            )
        return found[0]


def _start(length: int, kept: int) -> int:
    """Return where the central part begins; below 0 where the image is padded."""
    return round((length - kept) / 2) if length >= kept else -((kept - length) // 2)


def _upright(photo: Path | str | Image.Image, channels: int) -> Image.Image:
    """Read a photo as upright 8-bit RGB or greyscale, with transparency over white."""
    if channels not in (1, 3):
        raise TTameError(
            f"the classifier takes {channels} channels, a photo has 3; prepare an array and call "
            "run()"
        )
    try:
        image = photo if isinstance(photo, Image.Image) else Image.open(photo)
        image.load()
        image = ImageOps.exif_transpose(image)
        if image.mode.startswith(("I", "F")):  # 16 bits
            values = np.asarray(image, dtype=np.float64)
            top = 65535.0 if 1 < values.max() <= 65535 else max(float(values.max()), 1e-12)
            image = Image.fromarray((values.clip(0) / top * 255).round().astype(np.uint8))
        if image.mode in ("RGBA", "LA", "PA") or "transparency" in image.info:
            layer = image.convert("RGBA")
            image = Image.alpha_composite(Image.new("RGBA", layer.size, "white"), layer)
        image = image.convert("RGB")
    except (OSError, SyntaxError, ValueError, Image.DecompressionBombError) as error:
        raise TTameError(f"photo {str(photo)!r} cannot be read: {error}") from error
    return image if channels == 3 else image.convert("L")
