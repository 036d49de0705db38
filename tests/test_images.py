"""Odd photos are read correctly, bad ones are refused with one clear error."""

from __future__ import annotations

import io
from pathlib import Path
from typing import Any

import numpy as np
import pytest
import torch
from PIL import Image

from ttame.classifiers.registry import backbone_spec
from ttame.errors import TTameError
from ttame.images import (
    denormalize,
    eval_transform,
    normalize,
    read_image,
    to_batch,
    train_transform,
)
from ttame.training.config import TrainingConfig

SPEC = backbone_spec("tf_efficientnet_lite0")


def gradient(width: int = 40, height: int = 30) -> Image.Image:
    """A picture whose four corners differ."""
    rows = np.linspace(0, 255, height)[:, None].repeat(width, axis=1)
    columns = np.linspace(0, 255, width)[None, :].repeat(height, axis=0)
    values = np.stack([rows, columns, np.full_like(rows, 60)], axis=-1)
    return Image.fromarray(values.round().astype(np.uint8))


@pytest.mark.parametrize("mode", ["L", "LA", "RGBA", "P", "CMYK", "1", "YCbCr"])
def test_other_modes_become_rgb(tmp_path: Path, mode: str) -> None:
    suffix = {"CMYK": "tiff", "YCbCr": "jpg"}.get(mode, "png")
    path = tmp_path / f"photo.{suffix}"
    gradient().convert(mode).save(path)
    image = read_image(path)
    assert image.mode == "RGB"
    assert image.size == (40, 30)


def test_cmyk_keeps_its_colours(tmp_path: Path) -> None:
    path = tmp_path / "photo.jpg"
    Image.new("CMYK", (32, 32), (0, 255, 255, 0)).save(path, quality=100)  # red ink
    red, green, blue = read_image(path).getpixel((16, 16))
    assert red > 240 and green < 15 and blue < 15


def test_16_bit_is_scaled_not_clipped(tmp_path: Path) -> None:
    path = tmp_path / "photo.png"
    values = np.array([[0, 32768], [65535, 16384]], dtype=np.uint16)
    Image.fromarray(values).save(path)
    grey = np.asarray(read_image(path))[..., 0]
    assert grey.tolist() == [[0, 128], [255, 64]]


def test_transparency_goes_over_white(tmp_path: Path) -> None:
    path = tmp_path / "photo.png"
    Image.new("RGBA", (4, 4), (200, 0, 0, 0)).save(path)
    assert read_image(path).getpixel((0, 0)) == (255, 255, 255)


def test_exif_rotation_is_applied(tmp_path: Path) -> None:
    path = tmp_path / "photo.jpg"
    exif = Image.Exif()
    exif[0x0112] = 6  # rotate 90 degrees clockwise to view
    gradient().save(path, exif=exif)
    assert read_image(path).size == (30, 40)


def test_animation_gives_its_first_frame(tmp_path: Path) -> None:
    path = tmp_path / "photo.gif"
    first, second = Image.new("RGB", (8, 8), "red"), Image.new("RGB", (8, 8), "blue")
    first.save(path, save_all=True, append_images=[second])
    red, _, blue = read_image(path).getpixel((0, 0))
    assert red > 200 and blue < 50


@pytest.mark.parametrize("size", [(1, 1), (20_000, 40), (40, 20_000), (3, 500)])
def test_extreme_sizes_are_prepared(tmp_path: Path, size: tuple[int, int]) -> None:
    path = tmp_path / "photo.png"
    Image.new("RGB", size, (10, 200, 30)).save(path)
    batch = to_batch(path, SPEC)
    assert batch.shape == (1, 3, 224, 224)
    assert torch.allclose(
        batch.mean(dim=(0, 2, 3)) * 255, torch.tensor([10.0, 200.0, 30.0]), atol=1
    )


def bad_files(folder: Path) -> dict[str, Path]:
    buffer = io.BytesIO()
    gradient(200, 200).save(buffer, format="JPEG")
    contents = {
        "empty.jpg": b"",
        "text.jpg": b"this is not an image",
        "truncated.jpg": buffer.getvalue()[: len(buffer.getvalue()) // 2],
    }
    for name, content in contents.items():
        (folder / name).write_bytes(content)
    return {name: folder / name for name in contents} | {"missing.jpg": folder / "missing.jpg"}


@pytest.mark.parametrize(
    ("name", "reason"),
    [
        ("empty.jpg", "0 bytes"),
        ("text.jpg", "not an image"),
        ("truncated.jpg", "truncated"),
        ("missing.jpg", "does not exist"),
    ],
)
def test_bad_files_are_named(tmp_path: Path, name: str, reason: str) -> None:
    with pytest.raises(TTameError, match=reason) as caught:
        read_image(bad_files(tmp_path)[name])
    assert name in str(caught.value)


def test_decompression_bomb_is_refused(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    path = tmp_path / "photo.png"
    gradient(100, 100).save(path)
    monkeypatch.setattr(Image, "MAX_IMAGE_PIXELS", 1000)
    with pytest.raises(TTameError, match="too large"):
        read_image(path)


def test_forms_of_one_picture_agree(tmp_path: Path) -> None:
    image = gradient(300, 260)
    path = tmp_path / "photo.png"
    image.save(path)
    array = np.asarray(image)
    tensor = torch.from_numpy(array.copy()).permute(2, 0, 1)
    expected = to_batch(path, SPEC)
    for form in (image, array, array.astype(np.float32) / 255, tensor, tensor.float() / 255):
        assert torch.allclose(to_batch(form, SPEC), expected, atol=1e-6)
    assert to_batch([path, image], SPEC).shape == (2, 3, 224, 224)
    assert to_batch(tensor[None].repeat(3, 1, 1, 1), SPEC).shape == (3, 3, 224, 224)


@pytest.mark.parametrize(
    ("bad", "reason"),
    [
        (torch.full((3, 8, 8), float("nan")), "NaN"),
        (torch.full((3, 8, 8), -1.5), r"\[0, 1\]"),
        (torch.zeros(4, 8, 8), r"\(3, H, W\)"),
        (torch.zeros(3, 8, 8, dtype=torch.int64), "uint8"),
        (np.zeros((8, 8, 2), dtype=np.uint8), r"\(H, W, 3\)"),
        (np.array([[np.inf, 0.0], [0.0, 0.0]]), "NaN or infinite"),
        (3.5, "float"),
        ([], "no images"),
    ],
)
def test_bad_values_are_refused(bad: object, reason: str) -> None:
    with pytest.raises(TTameError, match=reason):
        to_batch(bad, SPEC)  # type: ignore[arg-type]


def test_normalize_inverts_and_follows_the_formula() -> None:
    raw = torch.rand(2, 3, 5, 4, generator=torch.Generator().manual_seed(0))
    normal = normalize(raw, SPEC)
    assert torch.allclose(normal, (raw - 0.5) / 0.5)
    assert torch.allclose(denormalize(normal, SPEC), raw, atol=1e-6)


def test_eval_transform_is_the_centre_of_the_photo() -> None:
    image = Image.new("RGB", (512, 256), "black")
    image.paste("white", (144, 16, 368, 240))  # exactly the centre crop of 224 after resizing
    assert eval_transform(SPEC)(image).min() > 0.99


def test_small_crops_show_less_of_a_photo() -> None:
    # Red grows from left to right, so that the spread of red is the share of the width shown.
    row = np.linspace(0, 255, 256, dtype=np.uint8)
    photo = Image.fromarray(np.stack([np.tile(row, (256, 1))] * 3, axis=-1))
    spreads: dict[float | None, list[float]] = {}
    for area in (None, 0.05):
        torch.manual_seed(0)
        shown = [train_transform(SPEC, area)(photo) for _ in range(20)]
        assert all(item.shape == (3, 224, 224) for item in shown)
        spreads[area] = [float(item[0].max() - item[0].min()) for item in shown]
    assert min(spreads[None]) > 0.8  # 224 of 256 pixels
    assert min(spreads[0.05]) < 0.4 < max(spreads[0.05])


@pytest.mark.parametrize("changes", [{"crop_area": 0.0}, {"crop_area": 0.5, "augment": False}])
def test_a_crop_that_cannot_be_is_refused(changes: dict[str, Any]) -> None:
    with pytest.raises(TTameError, match="crop_area"):
        TrainingConfig.of(**changes)
