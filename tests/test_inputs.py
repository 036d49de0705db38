"""Inputs of any channels, shape and dtype, from photo to map, training and evaluation."""

from __future__ import annotations

from pathlib import Path
from typing import Any

import numpy as np
import pytest
import torch
from PIL import Image
from torch import Tensor, nn

import ttame
from tests.conftest import ToyClassifier, stage
from ttame.classifiers.layers import list_layers
from ttame.classifiers.specs import BackboneSpec
from ttame.classifiers.weights import input_like
from ttame.data import PhotoList, image_folder
from ttame.errors import TTameError
from ttame.evaluation.evaluate import METRICS, evaluate
from ttame.explainer import Explainer
from ttame.images import crop_box, eval_transform, open_image, to_batch, train_transform
from ttame.methods import METHODS, build
from ttame.plotting import render
from ttame.records import read_results
from ttame.training.config import TrainingConfig
from ttame.training.fit import fit

LAYERS = ("stages.1", "stages.2")
SLOW = {"Integrated Gradients", "SmoothGrad", "Occlusion", "Opti-CAM", "IIA", "Score-CAM"}


def classifier(channels: int = 3) -> nn.Module:
    model = ToyClassifier()
    model.stages[0] = stage(channels, 8)
    return model.eval()


def attached(
    channels: int = 3, size: tuple[int, int] = (32, 32), dtype: torch.dtype = torch.float32
) -> Explainer:
    mean = [0.3 + 0.4 * channel / channels for channel in range(channels)]
    return ttame.attach(
        classifier(channels).to(dtype), LAYERS, input_size=size, mean=mean, std=0.25, head="head"
    )


def spec_of(size: tuple[int, int], channels: int = 3, resize: int | None = None) -> BackboneSpec:
    return BackboneSpec(
        "x", None, None, (), "", input_size=size, resize=resize or min(size),
        mean=(0.5,) * channels, std=(0.5,) * channels,
    )  # fmt: skip


# Rectangular inputs


@pytest.mark.parametrize(
    "photo", [(40, 40), (300, 80), (80, 300), (512, 256), (128, 256), (1000, 10), (10, 1000)]
)
@pytest.mark.parametrize("size", [(256, 128), (96, 160), (64, 64)])
def test_photos_of_any_shape_cover_a_rectangle(
    photo: tuple[int, int], size: tuple[int, int]
) -> None:
    white = Image.new("RGB", photo, "white")
    for transform in (eval_transform, train_transform, lambda spec: train_transform(spec, 0.2)):
        found = transform(spec_of(size, resize=round(min(size) / 0.875)))(white)
        assert found.shape == (3, *size)
        assert float(found.min()) == 1.0  # no black border


def test_the_crop_of_a_rectangle_is_the_centre_of_the_photo() -> None:
    # 512 x 512 covers 256 x 128 when 256 high and wide; the crop is columns 64 to 192 of these,
    # that is 128 to 384 of the photo, over its whole height.
    photo = Image.new("RGB", (512, 512), "black")
    photo.paste("white", (128, 0, 384, 512))
    found = eval_transform(spec_of((256, 128)))(photo)
    assert float(found[:, :, 2:-2].min()) == 1.0
    # With resize=160, the photo is 320 high and wide: 256 of 320 rows are seen, from 51.2 of 512.
    rows = np.linspace(0, 255, 512).round().astype(np.uint8)
    photo = Image.fromarray(np.tile(rows[:, None, None], (1, 512, 3)))
    shown = eval_transform(spec_of((256, 128), resize=160))(photo)[0, :, 0]
    assert float(shown[0]) == pytest.approx(0.1, abs=0.01)
    assert float(shown[-1]) == pytest.approx(0.9, abs=0.01)


def test_random_crops_keep_the_shape_of_the_input() -> None:
    """A disc stays nearly one: within a third, torchvision's limit for squares."""
    y, x = np.mgrid[-1:1:256j, -1:1:256j]
    disc = Image.fromarray(np.uint8(255 * (x**2 + y**2 < 0.25))).convert("RGB")
    torch.manual_seed(0)
    for _ in range(10):
        shown = train_transform(spec_of((96, 48)), 0.999)(disc)[0] > 0.5
        rows, columns = shown.any(dim=1).sum(), shown.any(dim=0).sum()
        assert float(rows) / float(columns) == pytest.approx(1, abs=0.35) or columns == 48


def test_a_rectangle_from_photo_to_scores(photos: PhotoList, tmp_path: Path) -> None:
    explainer = attached(size=(64, 32))
    found = explainer.explain(photos.paths[:2])
    assert found.maps.shape == (2, 1, 16, 8) and found.images.shape == (2, 3, 64, 32)
    trained = fit(explainer, photos, run_config(), tmp_path, name="x", progress=False)
    loaded = Explainer.load(tmp_path / "x.safetensors", explainer.classifier)
    assert loaded.spec.input_size == (64, 32)
    shown = photos.paths[:2]
    assert torch.equal(loaded.explain(shown).maps, trained.explain(shown).maps)
    check_evaluation(trained, photos, tmp_path)


def run_config() -> TrainingConfig:
    return TrainingConfig.of(steps=2, batch_size=4, workers=0, crop_area=0.5)


def check_evaluation(explainer: Explainer, photos: PhotoList, folder: Path) -> None:
    """All cheap methods under all metrics; every number is a probability."""
    names = ["T-TAME", "Grad-CAM", "Layer-CAM", "Ablation-CAM", "RISE", "random", "Fake-CAM"]
    out = evaluate(
        explainer, photos.select(range(2)), folder / "results.jsonl", methods=names,
        metrics=METRICS, steps=2, settings={"RISE": {"masks": 4}},
    )  # fmt: skip
    records = read_results(out)[1]
    assert len(records) == 2 * len(names)
    for column in ("masked_100", "road_morf", "insertion"):
        values = np.concatenate([np.atleast_1d(value) for value in records[column]])
        assert ((values >= 0) & (values <= 1)).all()


@pytest.mark.parametrize("name", sorted(SLOW))
def test_the_other_methods_take_rectangles_of_two_channels(name: str) -> None:
    explainer = attached(channels=2, size=(32, 16))
    images, targets = torch.randn(2, 2, 32, 16), torch.tensor([1, 3])
    maps = METHODS[name](explainer)(images, targets)
    assert maps.shape[:2] == (2, 1) and bool(maps.isfinite().all())


# Channels


@pytest.mark.parametrize("channels", [1, 4, 13])
def test_any_number_of_channels_from_array_to_scores(channels: int, tmp_path: Path) -> None:
    folder = tmp_path / "arrays"
    folder.mkdir()
    generator = np.random.default_rng(0)
    for index in range(6):
        pixels = generator.random((40, 48, channels)).astype(np.float32)
        np.save(folder / f"{index}.npy", pixels)
    photos, explainer = image_folder(folder), attached(channels)
    assert explainer.spec.channels == channels
    found = explainer.explain(photos.paths[:2])
    assert found.images.shape == (2, channels, 32, 32) and found.maps.shape == (2, 1, 8, 8)
    assert found.overlay().shape == (2, 1, 3, 32, 32)
    found.plot()
    assert len(found.save(tmp_path / "pictures")) == 2
    trained = fit(explainer, photos, run_config(), tmp_path / "run", name="x", progress=False)
    again = Explainer.load(tmp_path / "run" / "x.safetensors", explainer.classifier)
    assert again.spec.channels == channels and again.spec.mean == explainer.spec.mean
    check_evaluation(trained, photos, tmp_path)


def test_forms_of_one_image_of_many_channels_agree() -> None:
    explainer, pixels = attached(13), torch.rand(13, 40, 48)
    array = pixels.permute(1, 2, 0).numpy()
    expected = to_batch(pixels, explainer.spec)
    assert expected.shape == (1, 13, 32, 32)
    assert torch.equal(to_batch(array, explainer.spec), expected)
    both = to_batch(torch.stack([pixels, pixels]), explainer.spec)
    assert torch.equal(both, torch.cat([expected, expected]))
    assert torch.equal(to_batch(np.stack([array, array]), explainer.spec), both)
    for largest, kind in ((255, np.uint8), (65535, np.uint16), (65535, np.dtype(">u2"))):
        integers = (array * largest).round().astype(kind)
        assert torch.allclose(to_batch(integers, explainer.spec), expected, atol=0.51 / largest)


def test_values_have_explicit_ranges() -> None:
    for value, kind, expected in ((255, np.uint8, 1.0), (13107, np.uint16, 0.2)):
        found = open_image(np.full((2, 2, 5), value, kind), channels=5)
        assert isinstance(found, Tensor) and float(found[0, 0, 0]) == pytest.approx(expected)
    for kind in (np.int16, np.uint32, np.int64, bool):
        with pytest.raises(TTameError, match=r"uint8 \(0 to 255\), uint16 .* or floats in"):
            open_image(np.ones((2, 2, 5), kind), channels=5)
    with pytest.raises(TTameError, match=r"lie in \[0, 1\], got 0 to 3e\+03"):
        open_image(np.array([[[0.0, 3000.0]]]), channels=2)


@pytest.mark.parametrize(
    ("item", "channels", "message"),
    [
        (np.zeros((4, 4, 3)), 13, r"an array \(H, W, 13\), got \(4, 4, 3\)"),
        (torch.zeros(3, 4, 4), 4, r"a tensor \(4, H, W\), got \(3, 4, 4\).*takes 4 channels"),
        (Image.new("RGB", (4, 4)), 13, r"takes 13 channels, a photo of mode RGB has 3; pass an"),
        (Image.new("RGB", (4, 4)), 4, r"takes 4 channels, a photo of mode RGB has no alpha"),
        (np.zeros((4, 4, 2)), 1, r"an array \(H, W, 1\) or \(H, W\), got \(4, 4, 2\)"),
        (np.zeros((4, 4, 3), np.uint16), 1, r"16 bits is not converted to greyscale"),
    ],
    ids=lambda value: value if isinstance(value, str) else type(value).__name__,
)
def test_images_of_other_channels_are_refused(item: Any, channels: int, message: str) -> None:
    with pytest.raises(TTameError, match=message):
        open_image(item, channels=channels)
    with pytest.raises(TTameError, match=f"image 0: .*{message}"):
        to_batch(item, spec_of((8, 8), channels))


def test_files_that_hold_no_image_are_named(tmp_path: Path) -> None:
    Image.new("RGB", (4, 4)).save(tmp_path / "photo.png")
    with pytest.raises(TTameError, match=r"photo\.png': the classifier takes 13 channels"):
        open_image(tmp_path / "photo.png", channels=13)
    np.save(tmp_path / "labels.npy", np.zeros(7))
    with pytest.raises(TTameError, match=r"labels\.npy': expected an array \(H, W, 13\), got \(7,"):
        open_image(tmp_path / "labels.npy", channels=13)
    (tmp_path / "broken.npy").write_bytes(b"no array")
    with pytest.raises(TTameError, match=r"broken\.npy' is not a readable \.npy array"):
        open_image(tmp_path / "broken.npy", channels=13)
    with pytest.raises(TTameError, match="does not exist"):
        open_image(tmp_path / "missing.npy", channels=13)


def test_arrays_are_listed_where_there_are_no_photos(tmp_path: Path) -> None:
    np.save(tmp_path / "a.npy", np.zeros((4, 4, 5)))
    assert image_folder(tmp_path).names == ("a.npy",)
    Image.new("RGB", (4, 4)).save(tmp_path / "photo.png")
    with pytest.warns(UserWarning, match=r"1 photos read; left out: 1 \.npy"):
        found = image_folder(tmp_path)
    assert found.names == ("photo.png",) and found.left_out == {".npy": 1}


def test_greyscale_classifiers_see_photos_in_grey(tmp_path: Path) -> None:
    spec = spec_of((8, 8), channels=1)
    # ITU-R 601: 0.299 · 200 + 0.587 · 100 + 0.114 · 50 = 124.2 of 255.
    colour = Image.new("RGB", (8, 8), (200, 100, 50))
    colour.save(tmp_path / "photo.png")
    array = np.asarray(colour)
    for form in (colour, tmp_path / "photo.png", array, torch.tensor(array).permute(2, 0, 1)):
        assert torch.allclose(to_batch(form, spec), torch.full((1, 1, 8, 8), 124 / 255))
    greys = (
        Image.new("L", (8, 8), 77),
        np.full((8, 8), 77, np.uint8),
        np.full((8, 8, 1), 77 / 255),
        torch.full((1, 8, 8), 77, dtype=torch.uint8),
    )
    for grey in greys:
        assert torch.allclose(to_batch(grey, spec), torch.full((1, 1, 8, 8), 77 / 255))


def test_16_bit_greyscale_keeps_its_bits(tmp_path: Path) -> None:
    values = np.full((8, 8), 257 * 77 + 5, np.uint16)  # between two 8-bit steps
    Image.fromarray(values).save(tmp_path / "scan.png")
    for form in (tmp_path / "scan.png", values, Image.fromarray(values)):
        found = to_batch(form, spec_of((8, 8), channels=1))
        assert torch.allclose(found, torch.tensor(19794 / 65535), atol=1e-7)


def test_alpha_is_a_channel_of_its_own(tmp_path: Path) -> None:
    # Half is transparent red, half opaque blue: resizing must not mix alpha into the colours.
    photo = Image.new("RGBA", (16, 16), (255, 0, 0, 0))
    photo.paste((0, 0, 255, 255), (0, 0, 16, 8))
    photo.save(tmp_path / "photo.png")
    found = to_batch(tmp_path / "photo.png", spec_of((8, 8), channels=4))
    assert found[0, :, 0, 0].tolist() == [0, 0, 1, 1]
    assert found[0, :, -1, 0].tolist() == [1, 0, 0, 0]


def test_masked_channels_take_their_own_mean() -> None:
    spec, images = attached(4).spec, torch.rand(1, 4, 8, 8)
    assert spec.mean == pytest.approx((0.3, 0.4, 0.5, 0.6))
    gone = torch.zeros(1, 1, 8, 8)
    gone[..., 0, 0] = 1
    black = spec.mask(images, gone) * 0.25 + torch.tensor(spec.mean).view(1, 4, 1, 1)
    assert torch.allclose(black[..., 1:, :], torch.zeros(()), atol=1e-6)
    assert bool((images[..., 0, 0] == spec.mask(images, gone)[..., 0, 0]).all())


def test_pictures_of_many_channels_are_grey_or_chosen() -> None:
    images = torch.arange(5.0).view(1, 5, 1, 1).expand(1, 5, 2, 2) / 10
    assert render(images)[0, :, 0, 0].tolist() == pytest.approx([0.2] * 3)  # (0+1+2+3+4)/50
    assert render(images, (3, 2, 1))[0, :, 0, 0].tolist() == pytest.approx([0.3, 0.2, 0.1])
    assert render(images, [4])[0, :, 0, 0].tolist() == pytest.approx([0.4] * 3)
    assert torch.equal(render(images[:, :3]), images[:, :3])
    for wrong in ((3, 2), (0, 1, 5), (-1,)):
        with pytest.raises(TTameError, match=r"one or three numbers from 0 to 4, got"):
            render(images, wrong)


def test_maps_lie_on_whole_images_of_many_channels() -> None:
    # Resized to 37 = round(32 / 0.875), of which columns and rows 2 to 34 are seen.
    pixels = torch.rand(13, 40, 40)
    found = attached(13).explain(pixels)
    assert found.boxes[0] == pytest.approx((80 / 37, 80 / 37, 1360 / 37, 1360 / 37))
    (whole,) = found.on_photo(channels=(3, 2, 1))
    assert whole.shape == (1, 3, 40, 40)
    assert torch.equal(whole[0, :, 0], pixels[[3, 2, 1], 0])
    assert not torch.equal(whole[0, :, 20], pixels[[3, 2, 1], 20])


def test_the_explained_part_of_a_photo_has_the_shape_of_the_input() -> None:
    # 256 x 128 out of 400 wide and 300 high, with resize=128: 341 x 256 covers it (400 · 256 / 300
    # = 341.3), and columns 106 or 107 to 235 of these are seen, over the whole height.
    left, top, right, bottom = crop_box((400, 300), spec_of((256, 128)))
    assert (top, bottom) == (0, 300)
    assert right - left == pytest.approx(128 * 400 / 341)
    assert left == pytest.approx(106 * 400 / 341)


def test_overlays_show_the_chosen_channels() -> None:
    found = attached(13).explain(torch.rand(13, 32, 32))
    photo = found.overlay(opacity=0.0, channels=(3, 2, 1))[0, 0]
    assert torch.equal(photo, found.images[0, [3, 2, 1]])


def test_the_layers_of_other_channels_are_listed() -> None:
    assert [row.name for row in list_layers(classifier(13), (32, 32)) if row.chosen]


# Types


@pytest.mark.parametrize("dtype", [torch.float64, torch.bfloat16, torch.float16])
def test_a_classifier_of_any_type_from_photo_to_scores(
    dtype: torch.dtype, photos: PhotoList, tmp_path: Path
) -> None:
    explainer = attached(dtype=dtype)
    assert input_like(explainer.classifier).dtype == dtype
    assert {value.dtype for value in explainer.mechanism.parameters()} == {torch.float32}
    trained = fit(explainer, photos, run_config(), tmp_path, name="x", progress=False)
    assert input_like(explainer.classifier).dtype == dtype
    found = trained.explain(photos.paths[:3], refine=2)
    assert {found.maps.dtype, found.logits.dtype, found.images.dtype} == {torch.float32}
    assert bool(found.maps.isfinite().all())
    found.plot().canvas.draw()
    loaded = Explainer.load(tmp_path / "x.safetensors", classifier_like(explainer))
    again = loaded.explain(photos.paths[:3])
    assert torch.equal(again.maps, trained.explain(photos.paths[:3]).maps)
    check_evaluation(trained, photos, tmp_path)


def classifier_like(explainer: Explainer) -> nn.Module:
    model = classifier().to(input_like(explainer.classifier).dtype)
    model.load_state_dict(explainer.classifier.state_dict())
    return model


def test_half_precision_gives_nearly_the_maps_of_single(photos: PhotoList) -> None:
    single = attached()
    half = single.replace(classifier=classifier_like(single).half())
    expected, found = (some.explain(photos.paths[:3], 2).normalized() for some in (single, half))
    assert torch.allclose(found, expected, atol=0.02)


@pytest.mark.parametrize("name", ["T-TAME", "Grad-CAM", "Score-CAM", "SmoothGrad", "RISE"])
def test_methods_explain_half_precision_by_a_single_copy(name: str) -> None:
    explainer = attached(dtype=torch.bfloat16)
    settings = {"masks": 4} if name == "RISE" else None
    images = torch.randn(2, 3, 32, 32, dtype=torch.bfloat16)
    maps = build(name, explainer, settings)(images, torch.tensor([0, 1]))
    assert maps.dtype == torch.float32 and bool(maps.isfinite().all())
    single = explainer.replace(classifier=classifier_like(explainer).float()).eval()
    expected = build(name, single, settings)(images.float(), torch.tensor([0, 1]))
    assert torch.allclose(maps, expected, atol=1e-5)


def test_methods_of_ones_own_get_the_type_of_the_classifier(
    photos: PhotoList, tmp_path: Path
) -> None:
    explainer, seen = attached(dtype=torch.float16), set()

    def own(images: Tensor, targets: Tensor) -> Tensor:
        seen.add((images.dtype, explainer.classifier(images).dtype))
        return images.mean(dim=1, keepdim=True)

    evaluate(explainer, photos.select([0]), tmp_path / "x.jsonl", methods={"own": own})
    assert seen == {(torch.float16, torch.float16)}


def test_the_input_of_a_model_without_floating_point_is_single() -> None:
    assert input_like(nn.Sequential()).dtype == torch.float32
    model = nn.BatchNorm2d(3, affine=False).double()
    assert input_like(model).dtype == torch.float64
    model = nn.Module()
    model.register_buffer("weight", torch.zeros(2, dtype=torch.int8))
    assert input_like(model).dtype == torch.float32
    assert input_like(nn.Linear(2, 2, device="meta")).device.type == "meta"
