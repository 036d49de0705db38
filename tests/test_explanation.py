"""The result of explaining: jobs of any size, boxes on the original photos, pictures' names."""

from __future__ import annotations

import dataclasses
import io
import warnings
from collections.abc import Iterator
from pathlib import Path
from typing import Any

import matplotlib as mpl
import matplotlib.pyplot as plt
import numpy as np
import pytest
import torch
import torch.nn.functional as F
from PIL import Image
from torch import Tensor, nn

import ttame
from tests.conftest import IMAGENET, LAYERS, smooth_images
from ttame.classifiers.registry import backbone_spec
from ttame.data import PhotoList
from ttame.errors import TTameError
from ttame.explainer import Explainer
from ttame.explanation import Explanation
from ttame.images import crop_box, eval_transform, read_image
from ttame.masking import normalize_maps
from ttame.plotting import colorize

LITE = backbone_spec("tf_efficientnet_lite0")
SIZES = [(640, 480), (480, 640), (100, 80), (20, 24), (900, 90), (90, 900), (37, 37), (333, 217)]


def picture(width: int, height: int) -> Image.Image:
    """A smooth picture in which every place has its own colour."""
    values = smooth_images(1, height, width)[0].permute(1, 2, 0)
    return Image.fromarray((values * 255).round().to(torch.uint8).numpy())


# Jobs of any size


def test_batches_give_what_one_batch_gives(explainer: Explainer, photos: PhotoList) -> None:
    whole = explainer.explain(photos.paths)
    passes: list[int] = []
    explainer.classifier.register_forward_pre_hook(lambda _, args: passes.append(len(args[0])))
    parts = explainer.explain(photos.paths, batch_size=5)
    assert passes == [5, 5, 2]
    assert torch.equal(parts.targets, whole.targets) and torch.equal(parts.images, whole.images)
    assert torch.allclose(parts.maps, whole.maps, atol=1e-5)
    assert parts.crops == whole.crops and len(parts.boxes) == 12
    assert [crop.position for crop in parts.crops] == list(range(12))
    singles = list(explainer.explain_each(photos.paths, batch_size=5))
    assert [len(one) for one in singles] == [1] * 12
    assert torch.equal(Explanation.join(singles).maps, parts.maps)
    assert Explanation.join(singles).crops == parts.crops


def test_parts_of_an_explanation(explainer: Explainer, raw_images: Tensor) -> None:
    whole = explainer.explain(raw_images, top_k=2)
    assert torch.equal(whole[-1].maps, whole.maps[5:]) and whole[-1].crops == whole.crops[5:]
    assert torch.equal(whole[1:3].logits, whole.logits[1:3])
    assert [int(one.targets[0, 0]) for one in whole] == whole.targets[:, 0].tolist()
    with pytest.raises(IndexError):
        whole[6]


def test_a_generator_is_read_as_it_is_needed(explainer: Explainer) -> None:
    read: list[int] = []

    def endless() -> Iterator[Image.Image]:
        while True:
            read.append(len(read))
            yield picture(40, 36)

    explained = explainer.explain_each(endless(), batch_size=3)
    assert read == []
    for count in (3, 3, 3, 6):
        next(explained)
        assert len(read) == count


def test_targets_follow_their_images_into_batches(explainer: Explainer, raw_images: Tensor) -> None:
    wanted = [[0, 1], [2, 3], [4, 5], [6, 7], [8, 9], [1, 0]]
    for images in (raw_images, iter(list(raw_images))):
        assert explainer.explain(images, wanted, batch_size=4).targets.tolist() == wanted
    for few in (wanted[:5], [*wanted, [1, 2]]):
        with pytest.raises(TTameError, match="for 6 images"):
            explainer.explain(raw_images, few, batch_size=4)
        with pytest.raises(TTameError, match=r"for (at least )?6 images"):
            explainer.explain(iter(list(raw_images)), few, batch_size=4)


def test_arguments_are_checked_before_any_image_is_read(explainer: Explainer) -> None:
    def untouched() -> Iterator[str]:
        raise AssertionError("an image was asked for")
        yield ""

    for options in ({"targets": "ell"}, {"batch_size": 0}, {"refine": -1}, {"targets": [0, 99]}):
        with pytest.raises(TTameError):
            explainer.explain_each(untouched(), **options)  # type: ignore[arg-type]


def test_photos_that_cannot_be_read_are_skipped_on_request(
    explainer: Explainer, photos: PhotoList
) -> None:
    photos.paths[3].write_bytes(b"no photo")
    with pytest.raises(TTameError, match=r"03\.jpg"):
        explainer.explain(photos.paths)
    wanted = [index % 10 for index in range(12)]
    with pytest.warns(UserWarning, match=r"skipped: .*03\.jpg") as caught:
        found = explainer.explain(photos.paths, wanted, skip_bad=True, batch_size=5)
    assert len(caught) == 1
    assert [crop.position for crop in found.crops] == [*range(3), *range(4, 12)]
    assert found.targets[:, 0].tolist() == wanted[:3] + wanted[4:]
    with (
        pytest.warns(UserWarning, match="skipped"),
        pytest.raises(TTameError, match="no images that can be read"),
    ):
        explainer.explain(photos.paths[3], skip_bad=True)


def test_images_come_in_every_form(explainer: Explainer, photos: PhotoList) -> None:
    path = photos.paths[0]
    reference = explainer.explain(path).maps
    content = path.read_bytes()
    stream = io.BytesIO(content)
    stream.seek(100)  # it is read from its beginning
    with path.open("rb") as file:
        for form in (content, stream, file, [file], (item for item in [path]), {path: 1}.keys()):
            assert torch.equal(explainer.explain(form).maps, reference)
    everything = explainer.explain(photos.paths)
    for form in (photos.root, str(photos.root), str(photos.root / "*.jpg"), photos.root.glob("*")):
        found = explainer.explain(form)
        assert sorted(map(str, (crop.photo for crop in found.crops))) == list(
            map(str, photos.paths)
        )
        if not isinstance(form, Iterator):
            assert torch.equal(found.maps, everything.maps)


@pytest.mark.parametrize(
    ("form", "reason"),
    [
        (b"", r"of 0 bytes is empty"),
        (b"no photo", "of 8 bytes is not an image"),
        (io.BytesIO(b"no photo"), "'BytesIO' is not an image"),
        (io.StringIO("no photo"), "'StringIO' is open in text mode; open it with mode 'rb'"),
        ({"a.jpg": 1}, "cannot read a dict"),
        ("none/*.jpg", "no file fits the pattern"),
        (iter([]), "no images"),
        (iter(["none.jpg"]), "none.jpg"),
        ([3.5], "image 0: cannot read a float"),
    ],
    ids=lambda value: value if isinstance(value, str) else type(value).__name__,
)
def test_what_is_no_image_is_named(explainer: Explainer, form: Any, reason: str) -> None:
    with pytest.raises(TTameError, match=reason):
        explainer.explain(form)


def test_closed_files_are_named(explainer: Explainer, photos: PhotoList) -> None:
    with photos.paths[0].open("rb") as file:
        found = explainer.explain(file)
        assert len(found.on_photo()) == 1
    for again in (lambda: explainer.explain(file), found.on_photo):
        with pytest.raises(TTameError, match=r"00\.jpg' is a closed file"):
            again()


# Boxes


def test_boxes_worked_out_by_hand() -> None:
    # 640x480 becomes 341x256, of which columns 58..282 and rows 16..240 are kept.
    assert crop_box((640, 480), LITE) == pytest.approx((58 * 640 / 341, 30, 282 * 640 / 341, 450))
    assert crop_box((256, 256), LITE) == (16, 16, 240, 240)
    assert crop_box((128, 256), LITE) == (8, 72, 120, 184)
    # A panorama's centre, 400x100 from 300 on, becomes 1024x256.
    assert crop_box((1000, 100), LITE) == (456.25, 6.25, 543.75, 93.75)


def test_boxes_of_stretched_photos() -> None:
    whole = dataclasses.replace(LITE, resize=(224, 224))
    for size in ((640, 480), (100, 1000)):  # no panorama is cut before
        assert crop_box(size, whole) == (0, 0, *size)
        assert eval_transform(whole)(picture(*size)).shape == (3, 224, 224)
    # 256x256, of which 16..240 are kept both ways.
    cut = dataclasses.replace(LITE, resize=(256, 256))
    assert crop_box((640, 480), cut) == (40, 30, 600, 450)


@pytest.mark.parametrize("size", SIZES, ids=str)
@pytest.mark.parametrize("shape", [(32, 32), (224, 224), (48, 32), (32, 64)], ids=str)
def test_the_box_is_what_the_classifier_sees(size: tuple[int, int], shape: tuple[int, int]) -> None:
    spec = dataclasses.replace(LITE, input_size=shape, resize=round(min(shape) / 0.875))
    photo = picture(*size)
    seen = eval_transform(spec)(photo)
    left, top, right, bottom = crop_box(size, spec)
    # An independent resampling: each pixel's centre, bilinearly, from a photo without the box.
    rows = top + (torch.arange(shape[0]) + 0.5) * (bottom - top) / shape[0]
    columns = left + (torch.arange(shape[1]) + 0.5) * (right - left) / shape[1]
    inside = ((rows > 0) & (rows < size[1]))[:, None] & ((columns > 0) & (columns < size[0]))
    y, x = torch.meshgrid(rows / size[1] * 2 - 1, columns / size[0] * 2 - 1, indexing="ij")
    values = torch.from_numpy(np.array(photo)).permute(2, 0, 1)[None] / 255
    expected = F.grid_sample(
        values, torch.stack([x, y], -1)[None].float(), padding_mode="border", align_corners=False
    )[0]
    assert inside.float().mean() > 0.4
    # Photos are smooth, but resizing averages; a box one pixel off is beyond this.
    assert (seen - expected)[:, inside].abs().mean() < 0.01


def test_boxes_are_of_the_upright_photo(explainer: Explainer, tmp_path: Path) -> None:
    exif = Image.Exif()
    exif[0x0112] = 6  # rotate 90 degrees clockwise to view
    picture(64, 48).save(tmp_path / "turned.png", exif=exif)
    found = explainer.explain([tmp_path / "turned.png", picture(48, 64)])
    assert found.boxes[0] == found.boxes[1] == crop_box((48, 64), explainer.spec)
    assert found.crops[0].size == (48, 64)
    assert found.on_photo()[0].shape == (1, 3, 64, 48)


# Maps on the original photos


@pytest.mark.parametrize("size", SIZES, ids=str)
def test_maps_are_laid_over_their_part_of_the_photo(
    explainer: Explainer, size: tuple[int, int]
) -> None:
    photo = picture(*size)
    found = explainer.explain(photo, top_k=2)
    (laid,) = found.on_photo()
    raw = torch.from_numpy(np.array(photo)).permute(2, 0, 1) / 255
    assert laid.shape == (2, 3, size[1], size[0])
    assert float(laid.min()) >= 0 and float(laid.max()) <= 1
    left, top, right, bottom = found.boxes[0]
    changed = (laid - raw).abs().amax(1) > 1e-6
    rows, columns = torch.arange(size[1]), torch.arange(size[0])
    touched = ((rows + 1 > top) & (rows < bottom))[:, None] & (
        (columns + 1 > left) & (columns < right)
    )
    assert not changed[:, ~touched].any()
    assert changed[:, touched].float().mean() > 0.95
    assert torch.allclose(found.on_photo(opacity=0)[0], raw[None], atol=1e-6)
    only = (found.on_photo(opacity=1)[0] - raw).abs().amax(1) > 1e-6
    assert not only[:, ~touched].any() and only[:, touched].float().mean() > 0.95


def test_the_map_on_the_photo_is_the_map_of_the_crop(explainer: Explainer) -> None:
    """Where the transform does not scale, the crop's overlay is found in the photo's."""
    spec = explainer.spec
    photo = picture(spec.resize, spec.resize + 20)  # resizing leaves it as it is
    found = explainer.explain(photo)
    left, top, right, bottom = map(round, found.boxes[0])
    assert (right - left, bottom - top) == (32, 32) == spec.input_size
    assert torch.allclose(
        found.on_photo(0.4)[0][0, :, top:bottom, left:right], found.overlay(0.4)[0, 0], atol=1 / 128
    )
    # The heat itself, at full opacity, against an upsampling of its own.
    heat = F.interpolate(normalize_maps(found.maps), (32, 32), mode="bilinear")[0, 0]
    expected = colorize(heat)
    assert torch.allclose(
        found.on_photo(1)[0][0, :, top:bottom, left:right], expected, atol=1 / 128
    )


def test_photos_given_on_the_way_are_asked_for_again(explainer: Explainer) -> None:
    pictures = [picture(60, 50), picture(44, 70)]
    found = explainer.explain(iter(pictures))
    assert [crop.photo for crop in found.crops] == [None, None]
    with pytest.raises(TTameError, match=r"photo 0 came from an iterator.*photos=\[\.\.\.\]"):
        found.on_photo()
    kept = explainer.explain(pictures)
    for one, other in zip(found.on_photo(photos=pictures), kept.on_photo(), strict=True):
        assert torch.equal(one, other)
    with pytest.raises(TTameError, match=r"photo 0 has \(44, 70\) pixels, but \(60, 50\)"):
        found.on_photo(photos=pictures[::-1])
    with pytest.raises(TTameError, match="1 photos for 2 explanations"):
        found.on_photo(photos=pictures[:1])
    bare = dataclasses.replace(found, crops=())
    with pytest.raises(TTameError, match="not made from photos"):
        bare.on_photo()


# Pictures


def test_whole_photos_are_saved_at_their_own_size(explainer: Explainer, tmp_path: Path) -> None:
    found = explainer.explain([picture(60, 50), picture(44, 70)], top_k=2)
    written = found.save(tmp_path, on_photo=True)
    assert [read_image(path).size for path in written] == [(60, 50)] * 2 + [(44, 70)] * 2
    saved = torch.from_numpy(np.array(read_image(written[3]))).permute(2, 0, 1) / 255
    assert torch.allclose(saved, found.on_photo()[1][1], atol=1 / 255)
    assert {read_image(path).size for path in found.save(tmp_path / "crops")} == {(32, 32)}


def test_photos_of_one_name_are_refused(explainer: Explainer, tmp_path: Path) -> None:
    found = explainer.explain([picture(40, 40), picture(50, 40)])
    for stems in (["cat", "cat"], ["cat", "Cat"]):
        with pytest.raises(TTameError, match=r"2 photos .* 'cat'.*unique_stems"):
            found.save(tmp_path, stems)
    with pytest.raises(TTameError, match="1 names for 2 photos"):
        found.save(tmp_path, ["cat"])
    assert list(tmp_path.iterdir()) == []


def test_singles_of_one_job_keep_different_names(explainer: Explainer, tmp_path: Path) -> None:
    for one in explainer.explain_each([picture(40, 40)] * 3, "cat", batch_size=2):
        one.save(tmp_path)
    assert sorted(path.name for path in tmp_path.iterdir()) == [
        f"photo_{index}.cat.png" for index in range(3)
    ]


def test_classes_of_one_name_have_pictures_of_their_own(toy: nn.Module, tmp_path: Path) -> None:
    names = ["crane", "crane", "C++", "C--", "Paris, Texas", "Paris, France", "a", "crane 1", "c",
             "d"]  # fmt: skip
    explainer = ttame.attach(toy, LAYERS, classes=names, input_size=(32, 32), **IMAGENET)
    found = explainer.explain(picture(40, 40), [[0, 1, 2, 3, 4, 5, 6, 6, 7]])
    written = found.save(tmp_path, ["x"])
    assert [path.name for path in written] == [
        "x.crane-0.png", "x.crane-1.png", "x.c__-2.png", "x.c__-3.png",
        "x.paris__texas.png", "x.paris__france.png", "x.a.png", "x.a.png",
        "x.crane_1.png",
    ]  # fmt: skip
    assert len(list(tmp_path.iterdir())) == 8
    assert found.names()[0][4:6] == ["Paris, Texas", "Paris, France"]
    alone = explainer.explain(picture(40, 40), 1).save(tmp_path, ["x"])
    assert alone == written[1:2]  # whatever is asked for beside it


# Names of files, and the figure


@pytest.mark.parametrize(
    "stem",
    ["../x", "..", ".", "", " ", "/tmp/x", "a/b", "a\\b", "C:\\x", "a\0b", "a\nb", "x" * 300,
     "é" * 150, "\ud800"],
)  # fmt: skip
def test_names_that_lead_out_of_the_folder_are_refused_before_writing(
    explainer: Explainer, raw_images: Tensor, tmp_path: Path, stem: str
) -> None:
    explanation = explainer.explain(raw_images[:2])
    with pytest.raises(TTameError, match=r"^file name .* give a plain name") as caught:
        explanation.save(tmp_path / "out", ["good", stem])
    assert "\n" not in str(caught.value) and len(str(caught.value)) < 300
    assert list(tmp_path.iterdir()) == []


def test_odd_but_plain_names_are_kept(
    explainer: Explainer, raw_images: Tensor, tmp_path: Path
) -> None:
    names = ["a [bold]", "..x"]
    written = explainer.explain(raw_images[:2], 0).save(tmp_path, names)
    assert [path.name for path in written] == [f"{name}.ant.png" for name in names]
    assert all(path.parent == tmp_path and path.is_file() for path in written)
    with pytest.raises(TTameError, match="got 1 names for 2 photos"):
        explainer.explain(raw_images[:2]).save(tmp_path, ["one"])


@pytest.fixture
def no_figures() -> Iterator[None]:
    plt.close("all")
    yield
    plt.close("all")


def test_pyplot_shows_the_figure_and_keeps_few(
    explainer: Explainer, raw_images: Tensor, no_figures: None, tmp_path: Path
) -> None:
    own = plt.figure()
    explanation = explainer.explain(raw_images[:1])
    with warnings.catch_warnings():
        warnings.simplefilter("error")
        figures = [explanation.plot() for _ in range(23)]
    assert plt.gcf() is figures[-1]
    assert [plt.figure(number) for number in plt.get_fignums()] == [own, *figures[3:]]
    figures[0].savefig(tmp_path / "closed.png")  # still a figure
    assert (tmp_path / "closed.png").stat().st_size > 0


def test_notebooks_display_the_figure_once(
    explainer: Explainer, raw_images: Tensor, no_figures: None, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr(mpl, "get_backend", lambda: "module://matplotlib_inline.backend_inline")
    explainer.explain(raw_images[:1]).plot()
    assert plt.get_fignums() == []
