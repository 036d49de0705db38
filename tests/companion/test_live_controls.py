"""What readers can do on a live page, and what it says where something cannot be done."""

from __future__ import annotations

from collections.abc import Callable, Iterator
from concurrent.futures import ThreadPoolExecutor
from io import BytesIO
from pathlib import Path
from typing import Any, TypeVar

import numpy as np
import pytest
import torch
from PIL import Image
from torch import nn

import ttame
from tests.conftest import CLASSES, IMAGENET, LAYERS, ToyClassifier, randomize_batch_norm
from tests.helpers import pages, reader
from ttame.companion.exploration import explore
from ttame.companion.page.assembly import document, widget
from ttame.companion.page.network import linked, write_parts
from ttame.data import PhotoList
from ttame.errors import TTameError
from ttame.explainer import Explainer

T = TypeVar("T")
HTML = "<img src=x onerror=alert(1)>"
NAMES = (*CLASSES[:-2], f"ibex, {HTML}", "jay, blue jay")


@pytest.fixture(scope="module")
def folder(tmp_path_factory: pytest.TempPathFactory) -> Path:
    return tmp_path_factory.mktemp("live")


@pytest.fixture(scope="module")
def toy_page(folder: Path) -> Path:
    """A page beside the network's files; its classes have synonyms, and HTML in a name."""
    pytest.importorskip("onnxscript", reason="needs ttame[export]")
    torch.manual_seed(0)
    model = ToyClassifier()
    randomize_batch_norm(model)
    model.eval().centre()
    explainer = ttame.attach(
        model, LAYERS, classes=NAMES, input_size=(32, 32), head="head", **IMAGENET
    )
    randomize_batch_norm(explainer.mechanism)
    for place in range(2):
        noise = np.random.default_rng(place).integers(0, 255, (5, 7, 3), dtype=np.uint8)
        Image.fromarray(noise).resize((70, 50)).save(folder / f"sample {place}.png")
    found = [folder / f"sample {place}.png" for place in range(2)]
    path = folder / "page.html"
    return ttame.demo(explainer, path, found, classes=3, methods=["T-TAME", "random"], single=False)


@pytest.fixture(scope="module")
def chromium() -> Iterator[Any]:
    try:
        with reader.browser() as running:
            yield running
    except reader.Unavailable as reason:
        pytest.skip(str(reason))


class Live(pages.Chromium):
    """A live page in Chromium, driven as a reader drives it."""

    def __init__(self, running: Any, path: Path, before: str = "", **settings: Any) -> None:
        super().__init__(running.new_context(accept_downloads=True, **settings).new_page())
        if before:
            self.page.add_init_script(before)
        self.open(path)
        self.settle()

    def settle(self) -> None:
        """Wait until all is drawn and measured."""
        self.evaluate("() => document.querySelector('.ttame-explore').page.settled()")

    def drop(self, *files: Any, field: int = 0) -> None:
        """Choose photos and wait for the last one, or for what is said against it."""
        page, photos = self.page, self.page.locator(".tx-photos img").count()
        page.locator(".tx-invite input[type=file]").nth(field).set_input_files(list(files))
        page.wait_for_function(
            "(count) => document.querySelectorAll('.tx-photos img').length === count"
            " || document.querySelector('.tx-alert').textContent !== ''",
            arg=photos + len(files),
        )
        self.settle()

    def text(self, place: str) -> str:
        return self.page.locator(place).first.inner_text().replace("\u202f", " ")

    def classes(self) -> list[str]:
        return [
            text.split("\n")[0] for text in self.page.locator(".tx-list span").all_inner_texts()
        ]

    def search(self, text: str, field: int = 0) -> None:
        self.page.locator(".tx-search input").nth(field).fill(text)

    def state(self) -> dict[str, Any]:
        found = self.evaluate("() => document.querySelector('.ttame-explore').page.state")
        assert isinstance(found, dict)
        return found


@pytest.fixture
def live(chromium: Any, toy_page: Path) -> Live:
    return Live(chromium, toy_page)


def photo(
    name: str = "mine.png", size: tuple[int, int] = (48, 40), kind: str = "PNG"
) -> dict[str, Any]:
    buffer = BytesIO()
    noise = np.random.default_rng(9).integers(0, 255, (4, 5, 3), dtype=np.uint8)
    Image.fromarray(noise).resize(size).save(buffer, kind)
    return {"name": name, "mimeType": f"image/{kind.lower()}", "buffer": buffer.getvalue()}


def elsewhere(work: Callable[[], T]) -> T:
    """Work in another thread: playwright starts once per thread, and `chromium` is this one's."""
    with ThreadPoolExecutor(1) as pool:
        return pool.submit(work).result()


# What is loaded, and when


def test_nothing_is_loaded_before_it_is_asked_for(live: Live, toy_page: Path) -> None:
    def loaded() -> set[str]:
        return {url.rsplit("/", 1)[1] for url in live.requests if url.endswith(".js")}

    assert loaded() == set()
    assert toy_page.stat().st_size < 300_000
    assert "Measured beforehand" in live.text(".tx-readout")
    assert "nothing leaves the browser" in live.text(".tx-promise")
    live.page.get_by_role("button", name="run the network").click()
    live.page.wait_for_selector(".tx-answer")
    live.settle()
    assert loaded() == {"runtime.js", "model.js"}
    assert "Measured in this page" in live.text(".tx-readout")
    assert live.complaints == []


def test_files_of_another_page_are_refused(chromium: Any, toy_page: Path, tmp_path: Path) -> None:
    for name in ("page.html", "runtime.js", "model.js"):
        (tmp_path / name).write_bytes((toy_page.parent / name).read_bytes())
    model = tmp_path / "model.js"
    model.write_text(model.read_text().replace('"digest": "', '"digest": "other '))
    live = Live(chromium, tmp_path / "page.html")
    live.drop(photo())
    assert live.text(".tx-alert") == "The file ./model.js belongs to another page; make both anew."
    model.unlink()
    live.drop(photo())
    assert "./model.js cannot be loaded; it belongs beside this page" in live.text(".tx-alert")
    assert live.page.locator(".tx-photos img").count() == 2


# Photos


def test_own_photo_is_explained_and_measured(live: Live) -> None:
    live.drop(photo(HTML))
    assert live.state()["photo"] == 2
    picture = live.page.locator(".tx-photos img").nth(2)
    assert picture.get_attribute("alt") == HTML  # text, not an element
    assert len(live.classes()) == 3
    live.page.locator("[name=share]").fill("37")
    live.settle()
    assert live.state()["share"] == 63
    assert "top 63 % of pixels" in live.text(".tx-readout")
    assert "The classifier now sees" in live.text(".tx-answer")
    assert live.page.locator("[name=method]").nth(1).is_disabled()  # known of samples only
    points = live.page.locator(".tx-chosen .tx-dot").count()
    assert points == 7  # six shares, and this one
    assert live.complaints == []


@pytest.mark.parametrize("way", ["drop", "paste"])
def test_photos_are_dropped_and_pasted(live: Live, way: str) -> None:
    live.evaluate(
        """async ([way, content]) => {
            const bytes = Uint8Array.from(content), held = new DataTransfer();
            held.items.add(new File([bytes], "given.png", { type: "image/png" }));
            const root = document.querySelector(".ttame-explore");
            if (way === "drop") {
                root.dispatchEvent(new DragEvent("drop", { dataTransfer: held, bubbles: true }));
            } else {
                document.dispatchEvent(new ClipboardEvent("paste", { clipboardData: held }));
            }
        }""",
        [way, list(photo()["buffer"])],
    )
    live.page.wait_for_selector("img[alt='given.png']")
    assert live.complaints == []


def test_a_camera_is_asked_for_where_screens_are_touched(chromium: Any, toy_page: Path) -> None:
    camera = "input[capture=environment]"
    assert not Live(chromium, toy_page).page.locator(".tx-camera").is_visible()
    touched = Live(chromium, toy_page, has_touch=True, is_mobile=True)
    assert touched.page.locator(".tx-camera").is_visible()
    assert not touched.page.locator(".tx-webcam").is_visible()
    assert touched.page.locator(camera).get_attribute("accept") == "image/*"
    touched.drop(photo(), field=1)
    assert touched.state()["photo"] == 2


# A camera that sees one red picture, and remembers whether it still runs.
CAMERA = """
Object.defineProperty(navigator, "mediaDevices", { value: { getUserMedia: async () => {
  const canvas = document.createElement("canvas");
  [canvas.width, canvas.height] = [64, 48];
  const context = canvas.getContext("2d"), paint = () => {
    context.fillStyle = "rgb(200, 30, 30)";
    context.fillRect(0, 0, 64, 48);
  };
  setInterval(paint, 20);
  paint();
  return (window.seen = canvas.captureStream());
} } });
"""
REFUSING = """
Object.defineProperty(navigator, "mediaDevices", { value: { getUserMedia: async () => {
  throw new DOMException("no", "NotAllowedError");
} } });
"""


def test_the_camera_of_a_desk_takes_a_picture_and_is_closed(chromium: Any, toy_page: Path) -> None:
    live = Live(chromium, toy_page, CAMERA)
    live.page.click(".tx-webcam")
    live.page.wait_for_function("document.querySelector('video').videoWidth === 64")
    live.page.click(".tx-shoot")
    live.page.wait_for_selector("img[alt='camera.png']")
    live.settle()
    assert live.state()["photo"] == 2 and live.complaints == []
    assert not live.page.locator(".tx-viewfinder").is_visible()
    assert live.evaluate("() => seen.getTracks().every(track => track.readyState === 'ended')")
    shown = live.evaluate(
        """async () => {
            const image = document.querySelector("img[alt='camera.png']");
            const canvas = document.createElement("canvas");
            [canvas.width, canvas.height] = [1, 1];
            canvas.getContext("2d").drawImage(image, 0, 0, 1, 1);
            return [...canvas.getContext("2d").getImageData(0, 0, 1, 1).data].slice(0, 3);
        }"""
    )
    assert np.abs(np.array(shown) - [200, 30, 30]).max() < 20  # video is coded lossily


def test_a_camera_that_is_refused_is_said(chromium: Any, toy_page: Path) -> None:
    live = Live(chromium, toy_page, REFUSING)
    live.page.click(".tx-webcam")
    live.page.wait_for_function("document.querySelector('.tx-alert').textContent !== ''")
    assert "The camera cannot be used (NotAllowedError)" in live.text(".tx-alert")
    assert live.page.locator(".tx-webcam").is_visible()


def test_what_is_no_photo_is_named_and_changes_nothing(live: Live) -> None:
    live.drop({"name": f"{HTML}.jpg", "mimeType": "image/jpeg", "buffer": b"no photo"})
    said = live.text(".tx-alert")
    assert said.startswith(f"“{HTML}.jpg” (0.0 MB) cannot be decoded") and "JPEG, PNG" in said
    assert live.page.locator(".tx-photos img").count() == 2
    live.drop(photo())
    assert live.text(".tx-alert") == "" and live.state()["photo"] == 2


@pytest.mark.slow
@pytest.mark.parametrize("name", pages.BROWSERS)
def test_a_photo_of_100_megapixels_is_explained(name: str, toy_page: Path, tmp_path: Path) -> None:
    Image.new("RGB", (12_500, 8_000), (30, 90, 200)).save(tmp_path / "large.jpg")
    content = list((tmp_path / "large.jpg").read_bytes())
    (tmp_path / "profile").mkdir()
    read = """async (content) => {
        const root = document.querySelector(".ttame-explore");
        await root.page.open([new File([Uint8Array.from(content)], "large.jpg")]);
        const photo = root.page.explanations.photos[root.page.state.photo];
        return [root.querySelector(".tx-alert").textContent, photo.name, ...(await photo.pixels)];
    }"""

    def explain() -> list[Any]:
        with pages.started(name, tmp_path / "profile") as running:
            running.open(toy_page)
            found = running.evaluate(read, content)
            assert isinstance(found, list)
            return found

    try:
        said, shown, *pixels = elsewhere(explain)
    except reader.Unavailable as reason:
        pytest.skip(str(reason))
    assert (said, shown) == ("", "large.jpg")
    colours = np.array(pixels).reshape(-1, 3)
    assert np.abs(colours - (30, 90, 200)).max() <= 2


# Classes


def test_any_class_is_found_by_typing_and_explained(live: Live) -> None:
    live.search("jay")
    assert live.page.get_by_role("option").all_inner_texts() == ["jay, blue jay"]
    live.search("ibex")
    assert live.page.get_by_role("option").all_inner_texts() == [NAMES[8]]  # HTML is text
    live.search("zebra")
    assert live.text(".tx-none") == "The classifier has no such class."
    live.search("g")  # gnu begins with it, dog holds it
    assert live.page.get_by_role("option").all_inner_texts()[0] == "gnu"
    live.page.keyboard.press("ArrowDown")
    live.page.keyboard.press("ArrowUp")
    live.page.keyboard.press("Enter")
    live.page.wait_for_selector(".tx-answer")
    live.settle()
    assert live.state()["target"] == 6 and "Probability of gnu" in live.text(".tx-readout")
    assert live.page.locator(".tx-list input:checked").get_attribute("value") == "6"
    assert live.complaints == []


def test_two_classes_stand_side_by_side_with_their_difference(live: Live) -> None:
    live.page.locator("[name=beside][value=class]").check()
    live.settle()
    assert live.page.locator("figure canvas").count() == 3
    one, two, gap = live.page.locator(".tx-name").all_inner_texts()
    assert [one, two] == live.classes()[:2] and gap == f"{one} − {two}"
    assert "red: more for ant, blue: more for gnu; at most 0." in live.text(
        "figure:nth-child(3) .tx-numbers"
    )
    live.search("gnu", field=1)
    live.page.keyboard.press("Enter")
    live.page.wait_for_function("document.querySelectorAll('.tx-name')[1].textContent === 'gnu'")
    live.settle()
    difference = live.evaluate(
        """async () => {
            const { explanations: e, state } = document.querySelector(".ttame-explore").page;
            const photo = e.photos[state.photo];
            const [a, b] = [await e.maskOf(photo, 0, state.target), await e.maskOf(photo, 0, 6)];
            return Math.max(...a.map((value, i) => Math.abs(value - b[i]))).toFixed(2);
        }"""
    )
    assert live.text("figure:nth-child(3) .tx-numbers").endswith(difference)
    live.page.locator("[name=view][value=masked]").check()
    live.settle()
    assert live.page.locator("figure canvas").count() == 2
    assert live.complaints == []


def test_methods_stand_side_by_side_for_samples(live: Live) -> None:
    live.page.locator("[name=beside][value=methods]").check()
    live.settle()
    assert live.page.locator(".tx-name").all_inner_texts() == ["T-TAME", "random"]
    numbers = live.page.locator(".tx-numbers").all_inner_texts()
    assert all("→" in text and "…" not in text for text in numbers)
    live.drop(photo())
    assert live.page.locator(".tx-name").all_inner_texts() == ["T-TAME"]


# What is taken along


def test_a_link_brings_the_state_back(live: Live, chromium: Any, toy_page: Path) -> None:
    page = live.page
    page.locator("[name=photo][value='1']").check()
    page.locator("[name=view][value=masked]").check()
    page.locator("[name=method][value='1']").check()
    page.locator("[name=share]").fill("3")
    live.settle()
    wanted = live.state()
    again = chromium.new_context().new_page()
    again.goto(page.url)
    again.evaluate("() => document.querySelector('.ttame-explore').page.settled()")
    found = again.evaluate("() => document.querySelector('.ttame-explore').page.state")
    assert found == wanted and found["share"] == 30
    assert again.locator("[name=view][value=masked]").is_checked()
    assert again.locator(".tx-answer").count() == 0  # nothing was loaded


def test_a_link_to_what_was_not_computed_beforehand_starts_the_network(
    chromium: Any, toy_page: Path
) -> None:
    page = chromium.new_context().new_page()
    page.goto(f"{toy_page.as_uri()}#explore?photo=sample+1&class=6&share=42&beside=class&with=9")
    page.wait_for_selector(".tx-answer")
    page.evaluate("() => document.querySelector('.ttame-explore').page.settled()")
    assert page.locator(".tx-name").all_inner_texts()[:2] == ["gnu", "jay, blue jay"]
    assert "top 42" in page.locator(".tx-readout").inner_text()


@pytest.mark.parametrize("hash", ["explore?photo=gone&class=999&share=0.5&method=x&view=y", "top"])
def test_links_that_mean_nothing_show_the_first_photo(
    chromium: Any, toy_page: Path, hash: str
) -> None:
    live = Live(chromium, toy_page)
    before = live.state()
    page = chromium.new_context().new_page()
    page.goto(f"{toy_page.as_uri()}#{hash}")
    page.evaluate("() => document.querySelector('.ttame-explore').page.settled()")
    assert page.evaluate("() => document.querySelector('.ttame-explore').page.state") == before


def test_pictures_are_saved(live: Live, tmp_path: Path) -> None:
    live.page.locator("[name=beside][value=class]").check()
    live.settle()
    with live.page.expect_download() as saved:
        live.page.get_by_role("button", name="save the picture").click()
    label = live.classes()[0].replace(" ", "_")
    assert saved.value.suggested_filename == f"sample_0.{label}.png"
    saved.value.save_as(tmp_path / "saved.png")
    with Image.open(tmp_path / "saved.png") as image:
        assert image.width == 3 * (448 + 16) + 16
        colours = {image.convert("RGB").getpixel((16 + 464 * i + 224, 240)) for i in range(3)}
    assert len(colours) == 3  # three pictures, none empty


# Browsers that cannot


@pytest.mark.parametrize(
    ("before", "missing"),
    [
        ("delete window.WebAssembly", "WebAssembly"),
        ("delete window.Worker", "web workers"),
        ("WebAssembly.validate = () => false", "WebAssembly's vector instructions"),
    ],
)
def test_a_browser_that_cannot_says_so_and_shows_the_samples(
    chromium: Any, toy_page: Path, before: str, missing: str
) -> None:
    live = Live(chromium, toy_page, before)
    assert live.text(".tx-alert").startswith(f"This browser lacks {missing}, so the network")
    text = live.text(".tx-readout")
    live.page.locator("[name=label]").nth(1).check()
    live.settle()
    assert live.text(".tx-readout") != text and "Measured beforehand" in live.text(".tx-readout")
    live.drop(photo())
    assert "lacks" in live.text(".tx-alert")
    assert live.page.locator(".tx-photos img").count() == 2


def test_too_little_memory_is_told_and_the_samples_stay(toy_page: Path) -> None:
    """A real limit: of 4 MB, which is less than the runtime asks for."""
    path = reader.chromium()
    if path is None:
        pytest.skip("needs Chromium")
    api = pytest.importorskip("playwright.sync_api", reason="needs playwright (extra dev)")

    def told() -> tuple[str, str]:
        flags = [*reader.FLAGS, "--js-flags=--wasm-max-mem-pages=64"]
        with (
            api.sync_playwright() as driver,
            driver.chromium.launch(executable_path=path, args=flags) as running,
        ):
            live = Live(running, toy_page)
            live.drop(photo())
            said = live.text(".tx-alert")
            live.page.locator("[name=photo][value='1']").check()
            live.settle()
            return said, live.text(".tx-readout")

    said, readout = elsewhere(told)
    assert said.startswith("The network cannot be started (") and "memory" in said
    assert "Measured beforehand" in readout


def test_pixels_that_the_browser_alters_are_noticed(chromium: Any, toy_page: Path) -> None:
    altered = """const read = CanvasRenderingContext2D.prototype.getImageData;
    CanvasRenderingContext2D.prototype.getImageData = function (...place) {
        const found = read.apply(this, place);
        found.data.forEach((value, i) => { found.data[i] = value ^ 16; });
        return found;
    };"""
    live = Live(chromium, toy_page, altered)
    live.drop(photo())
    assert "alters the pictures that pages read" in live.text(".tx-alert")


# Small screens, keyboard, what assistive technology is told


def test_page_fits_a_phone_with_everything_open(chromium: Any, toy_page: Path) -> None:
    live = Live(
        chromium, toy_page, viewport={"width": 390, "height": 844}, has_touch=True, is_mobile=True
    )
    live.drop(photo())
    live.page.locator("[name=beside][value=class]").check()
    live.search("e")
    live.settle()
    assert live.evaluate("() => document.documentElement.scrollWidth <= innerWidth")
    live.page.get_by_role("option").first.tap()
    live.page.wait_for_function("document.querySelector('.tx-search ul').hidden")
    live.settle()
    small = live.evaluate(
        """() => [...document.querySelectorAll(
            ".ttame-explore :is(button, .tx-button, select, input[type=text], .tx-choice span)")]
            .filter((item) => item.offsetParent && item.getBoundingClientRect().height < 32)
            .map((item) => item.textContent)"""
    )
    assert small == []  # large enough for a finger
    assert live.complaints == []


def test_focus_stays_while_lists_are_made_anew(live: Live) -> None:
    live.page.get_by_role("button", name="run the network").click()
    live.page.wait_for_selector(".tx-answer")
    live.settle()
    live.page.locator("[name=label]").first.focus()
    live.page.keyboard.press("ArrowDown")
    live.settle()
    assert live.evaluate("() => document.activeElement.name") == "label"
    assert live.state()["target"] == int(live.evaluate("() => document.activeElement.value"))
    assert live.page.get_by_role("combobox", name="Search all classes by name").count() == 1
    assert live.page.locator("[role=alert]").count() == 1


# In Python


def test_demo_in_one_file_holds_all(
    explainer: Explainer, photos: PhotoList, tmp_path: Path
) -> None:
    pytest.importorskip("onnxscript", reason="needs ttame[export]")
    path = explainer.demo(tmp_path / "demo.html", photos.paths[:1], title="A <b>bold</b> title")
    assert [found.name for found in tmp_path.iterdir() if found.is_file()] == ["demo.html"]
    text = path.read_text(encoding="utf-8")
    assert "A &lt;b&gt;bold&lt;/b&gt; title" in text and "<b>bold" not in text
    assert "Permission is hereby granted, free of charge" in text  # the runtime's licence
    assert "://" not in text and path.stat().st_size < 6e6


def test_what_a_live_page_refuses(
    explainer: Explainer, photos: PhotoList, tmp_path: Path, make_toy: Callable[[int], nn.Module]
) -> None:
    with pytest.raises(TTameError, match=r"ends in \.html, got 'demo\.txt'"):
        explainer.demo(tmp_path / "demo.txt")
    with pytest.raises(TTameError, match="a live page shows 'T-TAME', got methods="):
        explore(explainer, photos.paths[:1], methods="random", live=".")
    with pytest.raises(TTameError, match="cannot write"):
        (tmp_path / "file").write_text("")
        write_parts(explainer, tmp_path / "file")
    grey = nn.Sequential(
        nn.Conv2d(1, 8, 3, 2, 1),
        nn.ReLU(),
        nn.Conv2d(8, 8, 3, 2, 1),
        nn.ReLU(),
        nn.AdaptiveAvgPool2d(1),
        nn.Flatten(),
        nn.Linear(8, 3),
    )
    attached = ttame.attach(grey, ["1", "3"], input_size=(32, 32), channels=1, mean=0.5, std=0.5)
    with pytest.raises(TTameError, match="takes 1 channels; explain arrays"):
        linked(attached, ".")
    assert {path.name for path in tmp_path.iterdir()} == {"file", "photos"}


def test_modules_are_joined_in_order_and_places_filled_once() -> None:
    page = document("{{ body }}", widget({"name": "{{ title }} </script>"}))
    assert page.count("<title>{{ body }}</title>") == 1  # what is filled in is not filled again
    assert '{"name":"{{ title }} \\u003c/script>"}' in page
    assert "import {" not in page and "export const" not in page
    order = [
        page.index(f'modules["{name}.js"] = ') for name in ("numbers", "maps", "photo", "page")
    ]
    assert order == sorted(order)
