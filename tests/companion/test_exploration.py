"""The interactive page: what it holds, what it refuses, and what a browser makes of it."""

from __future__ import annotations

import json
import re
import shutil
import zlib
from base64 import b64decode
from collections.abc import Iterator
from dataclasses import replace
from io import BytesIO
from pathlib import Path
from typing import Any

import numpy as np
import pytest
import torch
from PIL import Image
from torch import Tensor

import ttame
from ttame.companion.exploration import SHARES, Exploration, explore
from ttame.data import PhotoList, samples
from ttame.errors import TTameError
from ttame.evaluation.confidence import masked_probabilities
from ttame.explainer import Explainer
from ttame.explanation import Explanation
from ttame.images import normalize
from ttame.masking import keep_top, normalize_maps, upsample
from ttame.methods import build

# Not Grad-CAM: its maps of a network with random weights are zero.
METHODS = ("T-TAME", "random")


def embedded(html: str) -> dict[str, Any]:
    found = re.findall(r'<script type="application/json">(.*?)</script>', html, re.DOTALL)
    assert len(found) == 1
    data = json.loads(found[0])
    assert isinstance(data, dict)
    return data


def unpacked(text: str) -> list[int]:
    steps = np.frombuffer(zlib.decompress(b64decode(text)), dtype=np.uint8)
    return [int(value) for value in steps.cumsum() % 256]


def tiny(explainer: Explainer, name: str = "square", space: str = "raw") -> Exploration:
    """One photo of 2x2 pixels, two classes, maps that can be computed in the head."""
    explanation = Explanation(
        logits=torch.tensor([[0.75, 0.25]]).log(),
        targets=torch.tensor([[0, 1]]),
        maps=torch.zeros(1, 2, 2, 2),
        images=torch.full((1, 3, 2, 2), 0.5),
        classes=("ant, emmet, pismire", "bee"),
    )
    maps = torch.tensor([[[[0.0, 1.0], [2.0, 4.0]], [[3.0, 3.0], [3.0, 3.0]]]])
    return Exploration(
        explanation=explanation,
        names=(name,),
        maps={"T-TAME": maps},
        probabilities={"T-TAME": torch.tensor([[[0.5, 0.25], [0.125, 1.0]]])},
        shares=(100, 30),
        spec=replace(explainer.spec, space=space, mean=(0.2, 0.4, 0.6)),
    )


# What the page holds


def test_data_of_a_tiny_case(explainer: Explainer) -> None:
    data = tiny(explainer).data()
    assert data["size"] == [2, 2]
    assert data["shares"] == (100, 30)
    assert data["kept"] == [4, 1]  # 30 % of four pixels is 1.2
    (photo,), (method,) = data["photos"], data["methods"]  # type: ignore[misc]
    assert photo["classes"] == ["ant", "bee"] and photo["targets"] == [0, 1]
    assert photo["whole"] == pytest.approx([0.75, 0.25])
    with Image.open(BytesIO(b64decode(photo["webp"]))) as image:
        assert image.size == (2, 2) and image.getpixel((0, 0)) == (128, 128, 128)
    # (0, 1, 2, 4) / 4 · 255, rounded; a constant map keeps its value, clamped to 1.
    assert [unpacked(text) for text in method["maps"][0]] == [[0, 64, 128, 255], [255] * 4]
    assert method["constant"] == [[False, True]]
    assert method["masked"] == [[[0.5, 0.25], [0.125, 1.0]]]
    colors = np.frombuffer(b64decode(str(data["colors"])), dtype=np.uint8).reshape(256, 3)
    assert colors[0].tolist() == [0, 0, 4] and colors[255].tolist() == [252, 255, 164]  # inferno
    signed = np.frombuffer(b64decode(str(data["signed"])), dtype=np.uint8).reshape(256, 3)
    assert signed[0].tolist() == [5, 48, 97] and signed[255].tolist() == [103, 0, 31]  # RdBu_r
    assert data["live"] is None


def test_masked_pixels_turn_black_or_into_the_mean_colour(explainer: Explainer) -> None:
    assert tiny(explainer).data()["fill"] == [0, 0, 0]
    assert tiny(explainer, space="normalized").data()["fill"] == pytest.approx([51, 102, 153])


def test_table_has_a_row_for_every_number(explainer: Explainer) -> None:
    rows = tiny(explainer).table().to_numpy().tolist()
    assert [row[:4] for row in rows] == [
        ["square", "ant", "T-TAME", 100],
        ["square", "ant", "T-TAME", 30],
        ["square", "bee", "T-TAME", 100],
        ["square", "bee", "T-TAME", 30],
    ]
    assert [row[4] for row in rows] == pytest.approx([0.75, 0.75, 0.25, 0.25])
    assert [row[5] for row in rows] == [0.5, 0.25, 0.125, 1.0]


def test_probabilities_and_maps_are_those_of_the_metrics(
    explainer: Explainer, photos: PhotoList
) -> None:
    found = explore(explainer, photos.paths[:2], classes=3, methods=METHODS)
    assert found.names == ("00", "01")
    assert found.shares == SHARES
    expected = explainer.explain(photos.paths[:2], top_k=3)
    assert found.explanation.targets.equal(expected.targets)
    images = normalize(expected.images, explainer.spec)
    for name in METHODS:
        method = build(name, explainer)
        for photo in range(2):
            for place, target in enumerate(expected.targets[photo]):
                image, wanted = images[photo][None], target[None]
                maps = method(image, wanted).detach()
                torch.testing.assert_close(
                    found.maps[name][photo, place], maps[0, 0].float(), atol=1e-5, rtol=1e-4
                )
                alone = masked_probabilities(
                    explainer.classifier, explainer.spec, image, maps, wanted, SHARES
                )
                torch.testing.assert_close(
                    found.probabilities[name][photo, place], alone[0], atol=1e-4, rtol=1e-3
                )


def test_classes_by_name_one_photo_own_shares_and_names(
    explainer: Explainer, raw_images: Tensor
) -> None:
    found = ttame.explore(
        explainer, raw_images[0], classes=["fox", 0], methods="random", shares=(20, 80, 20),
        names=["mine"],
    )  # fmt: skip
    assert found.explanation.names() == [["fox", "ant"]]
    assert found.shares == (80, 20)
    assert found.names == ("mine",)
    assert list(found.maps) == ["random"]
    assert repr(found) == "Exploration(1 photos, 2 classes each, random)"
    assert explore(explainer, raw_images[:2], methods="random").names == ("photo 1", "photo 2")


def test_page_is_self_contained_and_written_whole(explainer: Explainer, tmp_path: Path) -> None:
    path = tiny(explainer).save(tmp_path / "page.html", title="Ants & <bees>")
    page = path.read_text(encoding="utf-8")
    assert page.startswith("<!doctype html>")
    assert "://" not in page, "the page names another host"
    assert not re.search(r"\b(src|href)\s*=\s*[\"'](?!data:)", page)
    assert "<title>Ants &amp; &lt;bees&gt;</title>" in page
    assert "{{" not in page
    assert [item.name for item in tmp_path.iterdir()] == ["page.html"]
    with pytest.raises(TTameError, match=r"ends in \.html, got 'page\.txt'"):
        tiny(explainer).save(tmp_path / "page.txt")


def test_no_name_can_end_the_script_that_holds_it(explainer: Explainer) -> None:
    name = "</script><script>alert(1)</script><!-- & “ü”"
    html = tiny(explainer, name)._repr_html_()
    assert "alert(1)</script>" not in html and "<!-- &" not in html
    assert embedded(html)["photos"][0]["name"] == name


# What is refused


@pytest.mark.parametrize(
    ("arguments", "message"),
    [
        ({"photos": []}, "got no photos"),
        ({"photos": ["none.jpg"]}, "'none.jpg' does not exist"),
        ({"classes": 0}, r"classes=0 must lie in 1\.\.10"),
        ({"classes": 11}, r"classes=11 must lie in 1\.\.10"),
        ({"classes": ["foxx"]}, "Did you mean 'fox'"),
        ({"methods": ()}, "got no methods"),
        ({"methods": ("Grad-CAMM",)}, "unknown method 'Grad-CAMM'"),
        ({"shares": ()}, r"shares of pixels .* got \[\]"),
        ({"shares": (50, 0)}, r"shares of pixels .* got \[50, 0\]"),
        ({"names": ["a", "b"]}, "2 names for 1 photos"),
    ],
)
def test_bad_input_is_named(
    explainer: Explainer, raw_images: Tensor, arguments: dict[str, Any], message: str
) -> None:
    given = {"photos": [raw_images[0]], **arguments}
    with pytest.raises(TTameError, match=message):
        explore(explainer, given.pop("photos"), **given)


# What a browser makes of it


@pytest.fixture(scope="module")
def browser() -> Iterator[Any]:
    api = pytest.importorskip("playwright.sync_api", reason="needs playwright (extra dev)")
    with api.sync_playwright() as playwright:
        installed = Path(playwright.chromium.executable_path)
        path = str(installed) if installed.is_file() else shutil.which("chromium")
        if path is None:
            pytest.skip("needs Chromium: playwright install chromium")
        launched = playwright.chromium.launch(executable_path=path, args=["--no-sandbox"])
        yield launched
        launched.close()


class Opened:
    """A page in the browser, driven as a reader drives it; complaints are collected."""

    def __init__(self, browser: Any, path: Path, **settings: Any) -> None:
        self.complaints: list[str] = []
        self.page = browser.new_context(**settings).new_page()
        self.page.set_default_timeout(120_000)
        self.page.on("console", lambda message: self.complaints.append(message.text))
        self.page.on("pageerror", lambda error: self.complaints.append(str(error)))
        self.page.on("request", self._note)
        self.page.goto(path.as_uri())
        self.settle()

    def _note(self, request: Any) -> None:
        if not request.url.startswith(("file:", "data:")):
            self.complaints.append(f"requests {request.url}")

    def settle(self) -> None:
        """Wait until all is drawn."""
        self.page.evaluate("""async () => {
            for (const { page } of document.querySelectorAll(".ttame-explore")) {
                await page.settled();
            }
        }""")

    def choose(self, name: str, value: int | str, widget: int = 0) -> None:
        form = self.page.locator(".ttame-explore").nth(widget)
        if name in ("share", "opacity"):
            form.locator(f"[name={name}]").fill(str(value))
        elif name == "label":  # by position: its values are the classes of the photo
            form.locator(f"[name={name}]").nth(int(value)).check()
        else:
            form.locator(f"[name={name}][value='{value}']").check()
        self.settle()

    def pixels(self, widget: int = 0) -> np.ndarray[Any, np.dtype[np.float64]]:
        found = self.page.locator(".tx-picture").nth(widget).evaluate(
            "(c) => [c.height, c.width, ...c.getContext('2d')"
            ".getImageData(0, 0, c.width, c.height).data]"
        )  # fmt: skip
        return np.array(found[2:], dtype=float).reshape(found[0], found[1], 4)[..., :3]

    def mask(self) -> Tensor:
        values = self.page.evaluate(
            "async () => [...await document.querySelector('.ttame-explore').page.mask()]"
        )
        side = round(len(values) ** 0.5)
        return torch.tensor(values, dtype=torch.float64).reshape(side, side)

    def label(self) -> str:
        return str(self.page.locator(".tx-picture").first.get_attribute("aria-label"))

    def text(self, widget: int = 0) -> str:
        return str(self.page.locator(".tx-readout").nth(widget).inner_text())


@pytest.fixture
def exploration(explainer: Explainer, photos: PhotoList) -> Exploration:
    return explore(explainer, photos.paths[:3], classes=3, methods=METHODS)


def test_every_choice_changes_picture_and_numbers(
    browser: Any, exploration: Exploration, tmp_path: Path
) -> None:
    opened = Opened(browser, exploration.save(tmp_path / "page.html"))
    for name, value in [
        ("photo", 1), ("label", 2), ("share", 3), ("label", 0), ("method", 1), ("view", "masked"),
    ]:  # fmt: skip
        picture, text, label = opened.pixels(), opened.text(), opened.label()
        opened.choose(name, value)
        assert not np.array_equal(opened.pixels(), picture), name
        assert opened.label() != label, name
        assert (opened.text() != text) == (name != "view"), name
    row = exploration.table().query(
        f"photo == '01' and method == 'random' and share == {SHARES[3]}"
    ).iloc[0]  # fmt: skip
    shown = opened.text().replace("\u202f", " ")
    numbers = [float(value) for value in re.findall(r"([\d.]+) %(?! of)", shown)]
    assert row["class"] in shown and f"top {SHARES[3]} % of pixels" in shown
    assert numbers == pytest.approx([100 * row["whole"], 100 * row["masked"]], abs=0.0501)
    label = opened.label()
    assert "01" in label and row["class"] in label and "random" in label
    assert opened.complaints == []


def test_mask_of_the_browser_is_that_of_the_library(
    browser: Any, exploration: Exploration, tmp_path: Path
) -> None:
    opened = Opened(browser, exploration.save(tmp_path / "page.html"))
    size = exploration.explanation.images.shape[-2:]
    for method, name in enumerate(METHODS):
        opened.choose("method", method)
        whole = upsample(normalize_maps(exploration.maps[name][:1, :1].double()), size)[0, 0]
        for place, share in enumerate(SHARES):
            opened.choose("share", place)
            shown, kept = opened.mask(), keep_top(whole, share / 100)
            count = round(share / 100 * size.numel())
            if share < 100:
                assert int((shown > 0).sum()) == count
            both = (shown > 0) & (kept > 0)
            assert float((shown - kept)[both].abs().max()) <= 0.5 / 255 + 1e-6
            # Where the two keep other pixels, those lie within a step of the threshold.
            limit = whole.flatten().sort(descending=True).values[count - 1]
            other = (shown > 0) != (kept > 0)
            assert bool(((whole - limit).abs()[other] <= 1 / 255 + 1e-6).all())
    assert opened.complaints == []


def test_picture_is_the_overlay_and_what_the_classifier_gets(
    browser: Any, exploration: Exploration, tmp_path: Path
) -> None:
    opened = Opened(browser, exploration.save(tmp_path / "page.html"))
    opened.choose("opacity", 100)
    expected = exploration.explanation.overlay(opacity=1)[0, 0].permute(1, 2, 0).numpy() * 255
    assert np.abs(opened.pixels() - expected).max() < 8  # one of 256 steps of colour
    opened.choose("opacity", 50)
    expected = exploration.explanation.overlay(opacity=0.5)[0, 0].permute(1, 2, 0).numpy() * 255
    assert np.abs(opened.pixels() - expected).mean() < 4  # the photo is a JPEG here
    opened.choose("view", "masked")
    opened.choose("share", 4)
    image = exploration.explanation.images[0].permute(1, 2, 0).numpy() * 255
    seen = opened.mask()[..., None].numpy() * image  # the toy masks towards black
    assert np.abs(opened.pixels() - seen).mean() < 4
    assert opened.complaints == []


def test_two_widgets_of_one_page_do_not_disturb_each_other(
    browser: Any, exploration: Exploration, tmp_path: Path
) -> None:
    path = tmp_path / "page.html"
    path.write_text(exploration._repr_html_() + exploration._repr_html_(), encoding="utf-8")
    opened = Opened(browser, path)
    before = opened.pixels(), opened.text()
    opened.choose("photo", 2, widget=1)
    opened.choose("share", 5, widget=1)
    assert np.array_equal(opened.pixels(), before[0]) and opened.text() == before[1]
    assert opened.text(widget=1) != before[1]
    assert opened.complaints == []


def test_page_fits_a_phone_works_by_keyboard_and_follows_the_theme(
    browser: Any, exploration: Exploration, tmp_path: Path
) -> None:
    path = exploration.save(tmp_path / "page.html")
    opened = Opened(
        browser, path, viewport={"width": 390, "height": 844}, color_scheme="dark"
    )  # fmt: skip
    page = opened.page
    assert page.evaluate("document.documentElement.scrollWidth <= innerWidth")
    reached = []
    for _ in range(5):
        page.keyboard.press("Tab")
        reached.append(page.evaluate("document.activeElement.name"))
        if reached[-1] in ("photo", "share"):
            text = opened.text()
            page.keyboard.press("ArrowRight")
            opened.settle()
            assert opened.text() != text
    assert reached == ["photo", "label", "method", "share", "view"]
    for name in ("photo", "label", "method", "view"):
        assert page.get_by_role("radio").and_(page.locator(f"[name={name}]")).count() >= 2
    assert page.get_by_role("slider", name="Share of pixels kept").count() == 1
    assert page.locator("output[aria-live=polite]").count() == 1

    colour = "getComputedStyle(document.querySelector('.ttame-explore')).backgroundColor"
    assert page.evaluate(colour) == "rgb(20, 24, 30)"
    page.evaluate("document.documentElement.dataset.theme = 'light'")
    assert page.evaluate(colour) == "rgb(255, 255, 255)"
    page.evaluate("document.documentElement.dataset.theme = 'dark'")
    assert page.evaluate(colour) == "rgb(20, 24, 30)"
    assert opened.complaints == []


# What the chapter says of its exercises


def test_the_orange_gains_when_lemons_are_hidden() -> None:
    path = {path.stem: path for path in samples().paths}
    explainer = ttame.load("tf_efficientnet_lite0")
    page = explore(
        explainer,
        path["citrus_fruits"],
        classes=["lemon", "orange"],
        methods=["T-TAME", "Grad-CAM"],
    )
    table = page.table()
    found = table[table["method"] == "Grad-CAM"].set_index(["class", "share"])
    assert found.loc[("orange", 30), "masked"] > found.loc[("orange", 30), "whole"] + 0.4
    assert found.loc[("lemon", 100), "whole"] > 0.5
