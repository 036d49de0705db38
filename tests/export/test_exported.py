"""`ttame.Exported`: the same answers as the library, without torch, and clear refusals."""

from __future__ import annotations

import json
import shutil
import subprocess
import sys
from collections.abc import Callable
from pathlib import Path
from typing import Any

import numpy as np
import pytest
from PIL import Image

pytest.importorskip("onnxruntime", reason="needs ttame[export]")

import matplotlib as mpl
import onnx
import torch

import ttame
from tests.conftest import CLASSES
from ttame.errors import TTameError
from ttame.explainer import Explainer
from ttame.export.exported import Exported
from ttame.files import shipped
from ttame.images import to_batch

CAT = shipped("samples") / "cat.jpg"


def rotated(path: Path) -> None:
    with Image.open(CAT) as image:
        exif = image.getexif()
        exif[0x0112] = 6  # to be turned by a quarter
        image.save(path, exif=exif, quality=95)


def grey(path: Path) -> None:
    Image.open(CAT).convert("L").save(path)


def sixteen_bits(path: Path) -> None:
    ramp = np.linspace(0, 65535, 60 * 40).reshape(60, 40).astype(np.uint16)
    Image.fromarray(ramp).save(path)


def transparent(path: Path) -> None:
    image = Image.open(CAT).convert("RGBA")
    image.putalpha(Image.linear_gradient("L").resize(image.size))
    image.save(path)


def panorama(path: Path) -> None:
    Image.open(CAT).resize((1500, 90)).save(path)


PHOTOS = [
    (rotated, "photo.jpg"), (grey, "photo.jpg"), (sixteen_bits, "photo.png"),
    (transparent, "photo.png"), (panorama, "photo.jpg"),
]  # fmt: skip


@pytest.mark.parametrize(("make", "name"), PHOTOS, ids=lambda value: getattr(value, "__name__", ""))
def test_any_photo_is_explained_as_the_library_does(
    exported: Path, fixed: Explainer, tmp_path: Path, make: Callable[[Path], None], name: str
) -> None:
    photo = tmp_path / name
    make(photo)
    found, expected = Exported(exported).explain(photo), fixed.explain(photo)
    seen = to_batch(photo, fixed.spec)[0].permute(1, 2, 0).numpy() * 255
    np.testing.assert_allclose(np.asarray(found.image, np.float32), seen, atol=1e-3)
    assert found.target == int(expected.targets[0, 0])
    assert found.name == expected.names()[0][0]
    np.testing.assert_allclose(found.logits, expected.logits[0], rtol=1e-4, atol=1e-4)
    np.testing.assert_allclose(found.map, expected.maps[0, 0], rtol=1e-4, atol=1e-4)
    np.testing.assert_allclose(found.probability, expected.probabilities()[0, 0], atol=1e-5)
    np.testing.assert_allclose(found.probabilities.sum(), 1, rtol=1e-5)
    np.testing.assert_allclose(found.upsampled(), expected.upsampled()[0, 0], atol=1e-4)


@pytest.mark.filterwarnings("ignore::PIL.Image.DecompressionBombWarning")
def test_a_photo_of_100_megapixels(exported: Path, fixed: Explainer, tmp_path: Path) -> None:
    photo = tmp_path / "huge.png"
    image = Image.new("1", (10_000, 10_000), 1)
    image.paste(0, (0, 0, 10_000, 4_000))
    image.save(photo)
    found, expected = Exported(exported).explain(photo), fixed.explain(photo)
    np.testing.assert_allclose(found.map, expected.maps[0, 0], rtol=1e-4, atol=1e-4)


def test_a_photo_beyond_what_pillow_opens_is_refused(exported: Path, tmp_path: Path) -> None:
    photo = tmp_path / "bomb.png"
    Image.new("1", (20_000, 10_000)).save(photo)
    with pytest.raises(TTameError, match=r"bomb\.png' cannot be read: .*exceeds limit"):
        Exported(exported).explain(photo)


def test_overlay_is_the_photo_under_the_colours(exported: Path) -> None:
    found = Exported(exported).explain(CAT)
    np.testing.assert_array_equal(np.asarray(found.overlay(0)), np.asarray(found.image))
    expected = 255 * mpl.colormaps["inferno"](found.upsampled())[..., :3]
    assert np.abs(np.asarray(found.overlay(1)) - expected).max() < 20  # nine colours, interpolated


@pytest.mark.parametrize("target", ["Bee", 1, "bee "])
def test_classes_by_name_or_index(exported: Path, target: str | int) -> None:
    found = Exported(exported).explain(CAT, target)
    assert (found.target, found.name) == (1, "bee")


@pytest.mark.parametrize("target", ["bea", "", 10, -1])
def test_no_class_is_refused(exported: Path, target: str | int) -> None:
    with pytest.raises(TTameError, match="is no class; there are 10"):
        Exported(exported).explain(CAT, target)


@pytest.mark.parametrize(
    ("activation", "expected"),
    [("softmax", [0.5, 0.25, 0.25]), ("sigmoid", [2 / 3, 0.5, 0.5]), ("none", [0.69, 0, 0])],
)
def test_activations_by_hand(exported: Path, activation: str, expected: list[float]) -> None:
    runner = Exported(exported)
    runner.facts["activation"] = activation
    logits = np.array([[np.log(2), 0, 0]], np.float32)
    np.testing.assert_allclose(runner.probabilities(logits)[0], expected, atol=4e-3)


def test_pixels_of_a_whole_photo(fixed: Explainer, tmp_path: Path) -> None:
    found = fixed.export(tmp_path / "pixels.onnx", preprocess=True, photos=[CAT])
    assert found.pixels is not None and found.pixels < 2.01
    explained, expected = Exported(tmp_path / "pixels.onnx").explain(CAT, 3), fixed.explain(CAT, 3)
    apart = np.abs(explained.map - expected.maps[0, 0].numpy()).max()
    assert apart < 0.02 * float(expected.maps.abs().max())  # photos differ by a grey level


def test_a_fixed_batch_is_filled_up(fixed: Explainer, tmp_path: Path) -> None:
    fixed.export(tmp_path / "three.onnx", batch=3, photos=[CAT])
    found = Exported(tmp_path / "three.onnx").explain(CAT, "cat")
    torch.testing.assert_close(
        torch.from_numpy(found.map), fixed.explain(CAT, "cat").maps[0, 0], rtol=1e-4, atol=1e-4
    )


def test_neither_torch_nor_matplotlib_is_imported(exported: Path) -> None:
    program = (
        "import sys, ttame\n"
        f"print(ttame.Exported({str(exported)!r}).explain({str(CAT)!r}).overlay().size)\n"
        "print(sorted({'torch', 'torchvision', 'matplotlib', 'onnx'} & set(sys.modules)))\n"
    )
    done = subprocess.run([sys.executable, "-c", program], capture_output=True, text=True)
    assert done.stdout.splitlines() == ["(32, 32)", "[]"], done.stderr


def _changed(exported: Path, path: Path, **facts: Any) -> Path:
    model = onnx.load(exported)
    entry = model.metadata_props[0]
    entry.value = json.dumps(json.loads(entry.value) | facts)
    onnx.save(model, path)
    return path


def test_files_that_are_not_ours_are_refused(exported: Path, tmp_path: Path) -> None:
    damaged, other = tmp_path / "damaged.onnx", tmp_path / "other.onnx"
    damaged.write_bytes(exported.read_bytes()[:5000])
    model = onnx.load(exported)
    del model.metadata_props[:]
    onnx.save(model, other)
    for path, message in (
        (tmp_path / "none.onnx", "none.onnx' does not exist"),
        (damaged, "is damaged or not an ONNX file"),
        (other, "is an ONNX file, but no exported explainer"),
        (_changed(exported, tmp_path / "new.onnx", version=2), "export format 2, this ttame reads"),
    ):
        with pytest.raises(TTameError, match=message) as caught:
            Exported(path)
        assert "\n" not in str(caught.value)


def test_bad_photos_and_arrays_are_refused(exported: Path, tmp_path: Path) -> None:
    runner, text = Exported(exported), tmp_path / "text.jpg"
    text.write_text("no photo")
    truncated = tmp_path / "truncated.jpg"
    truncated.write_bytes(CAT.read_bytes()[:2000])
    for photo in (text, truncated, tmp_path / "absent.jpg"):
        with pytest.raises(TTameError, match=rf"{photo.name}' cannot be read") as caught:
            runner.explain(photo)
        assert "\n" not in str(caught.value)
    with pytest.raises(TTameError, match=r"images \(1, 3, 8, 8\) float32 .* the file takes"):
        runner.run(np.zeros((1, 3, 8, 8), np.float32), np.array([0]))


def test_a_missing_runtime_is_named(exported: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setitem(sys.modules, "onnxruntime", None)
    with pytest.raises(TTameError, match=r"pip install 'ttame\[export\]'"):
        Exported(exported)


def test_the_file_is_all_that_is_needed(exported: Path, tmp_path: Path) -> None:
    moved = tmp_path / "elsewhere.onnx"
    shutil.copy(exported, moved)
    assert ttame.Exported(moved).facts["classes"] == list(CLASSES)
