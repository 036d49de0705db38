"""The benchmark on a clock that only classified images move, so that every time is known."""

from __future__ import annotations

import json
from collections.abc import Iterator
from pathlib import Path
from types import SimpleNamespace

import pytest
import torch
from pytorch_grad_cam.metrics import road as library
from torch import Tensor
from typer.testing import CliRunner

import benchmarks.explaining
import ttame.data
import ttame.loading
from benchmarks.__main__ import app
from benchmarks.explaining import measure_cost, measure_methods, measure_road
from benchmarks.records import write_benchmark
from ttame.companion.shipped import read_benchmark
from ttame.data import PhotoDataset, PhotoList
from ttame.errors import TTameError
from ttame.evaluation.cost import alternate
from ttame.explainer import Explainer
from ttame.methods import METHODS

CPU = torch.device("cpu")
# pytorch-grad-cam hands tensors to numpy functions.
quiet = pytest.mark.filterwarnings("ignore:__array_wrap__:DeprecationWarning")


class Clock:
    """A clock that stands still until somebody moves it."""

    now = 0.0

    def read(self) -> float:
        return self.now


@pytest.fixture
def clock(monkeypatch: pytest.MonkeyPatch) -> Clock:
    made = Clock()
    monkeypatch.setattr(ttame.evaluation.cost, "time", SimpleNamespace(perf_counter=made.read))
    return made


@pytest.fixture
def paced(clock: Clock, explainer: Explainer) -> Iterator[Explainer]:
    """An explainer whose classifier takes 1/32 of a second an image, and nothing else any."""

    def tick(_module: object, args: tuple[Tensor, ...]) -> None:
        clock.now += len(args[0]) / 32

    handle = explainer.classifier.register_forward_pre_hook(tick)
    yield explainer
    handle.remove()


def test_turns_alternate_and_warm_ups_do_not_count(clock: Clock) -> None:
    calls: list[str] = []

    def advance(name: str, seconds: float) -> None:
        # The first turn is a slow one.
        clock.now += seconds if calls.count(name) else 100
        calls.append(name)

    found = alternate((lambda: advance("a", 1), lambda: advance("b", 2)), 3, CPU, warm_up=1)
    assert found == [[1, 1, 1], [2, 2, 2]]
    assert calls == ["b", "a", "a", "b", "b", "a", "a", "b"]


def test_cost_is_the_median_a_batch(paced: Explainer, clock: Clock) -> None:
    """An attention mechanism of two forward passes makes an explanation cost three."""
    handle = paced.mechanism.register_forward_pre_hook(
        lambda _module, args: setattr(clock, "now", clock.now + 2 / 32 * len(args[0][0]))
    )
    rows = measure_cost(paced, batch_sizes=(1, 4), repeats=3)
    handle.remove()
    assert [row["batch"] for row in rows] == [1, 4]
    assert [row["forward_ms"] for row in rows] == [pytest.approx(31.25), pytest.approx(125)]
    assert [row["ratio"] for row in rows] == [pytest.approx(3)] * 2
    assert rows[0]["repeats"] == 3 and rows[0]["threads"] == torch.get_num_threads()
    with pytest.raises(TTameError, match="at least 3"):
        measure_cost(paced, repeats=2)


def test_methods_cost_their_passes(paced: Explainer, photos: PhotoList) -> None:
    names = ["T-TAME", "Grad-CAM", "Score-CAM", "SmoothGrad", "RISE", "random"]
    done: list[tuple[int, int]] = []
    before = torch.get_rng_state()
    rows = measure_methods(
        paced, photos.sample(2), names, progress=lambda *counts: done.append(counts)
    )
    assert torch.equal(torch.get_rng_state(), before)
    assert [row["method"] for row in rows] == names
    assert done == [(n, 6) for n in range(1, 7)]
    found = {row["method"]: row for row in rows}
    # The toy's deepest layer has 16 channels, each a pass of Score-CAM's beside the first.
    forward = {"T-TAME": 1, "Grad-CAM": 1, "Score-CAM": 17, "SmoothGrad": 25, "random": 0}
    for name, passes in forward.items():
        row = found[name]
        assert row["forward"] == passes
        assert row["forward_ms"] == pytest.approx(1000 / 32)
        assert row["ms"] == pytest.approx(passes * 1000 / 32)
        assert row["ratio"] == pytest.approx(passes)
        assert row["scaled"] is False and "masks" not in row
    assert {name: row["backward"] for name, row in found.items()} == {
        "T-TAME": 0, "Grad-CAM": 1, "Score-CAM": 0, "SmoothGrad": 25, "RISE": 0, "random": 0,
    }  # fmt: skip
    # About two seconds, at least 3 and at most 21 turns: 2 / (17/32) is 3.8, 2 / (25/32) 2.6.
    assert {name: row["repeats"] for name, row in found.items()} == {
        "T-TAME": 21, "Grad-CAM": 21, "Score-CAM": 4, "SmoothGrad": 3, "RISE": 1, "random": 21,
    }  # fmt: skip


def test_rise_is_measured_in_part_and_scaled(paced: Explainer, photos: PhotoList) -> None:
    """100 masks take 3.1 s, so a single call, times 40."""
    (row,) = measure_methods(paced, photos.sample(1), ["RISE"])
    assert (row["masks"], row["masks_measured"], row["scaled"]) == (4000, 100, True)
    assert row["forward"] == 4000 and row["repeats"] == 1
    assert row["ms"] == pytest.approx(4000 * 1000 / 32)
    assert row["ratio"] == pytest.approx(4000)


def test_slow_methods_are_called_once(
    paced: Explainer, clock: Clock, photos: PhotoList, monkeypatch: pytest.MonkeyPatch
) -> None:
    calls: list[Tensor] = []

    def slow(images: Tensor, targets: Tensor) -> Tensor:
        calls.append(images)
        clock.now += 2.5
        return images.new_zeros(1, 1, 4, 4)

    monkeypatch.setitem(METHODS, "slow", lambda explainer: slow)
    (row,) = measure_methods(paced, photos.sample(3), ["slow"])
    assert len(calls) == 1 and calls[0].shape == (1, 3, 32, 32)
    assert row["ms"] == pytest.approx(2500) and row["repeats"] == 1


def test_fast_methods_see_every_photo(
    paced: Explainer, clock: Clock, photos: PhotoList, monkeypatch: pytest.MonkeyPatch
) -> None:
    """The first call, which does not count, and then 4 turns; one is slow, not the median."""
    seen: list[tuple[Tensor, int]] = []

    def fast(images: Tensor, targets: Tensor) -> Tensor:
        seen.append((images, int(targets)))
        clock.now += {1: 0.6, 3: 5}.get(len(seen), 0.5)
        return images.new_zeros(1, 1, 4, 4)

    monkeypatch.setitem(METHODS, "fast", lambda explainer: fast)
    chosen = photos.sample(3)
    (row,) = measure_methods(paced, chosen, ["fast"])
    expected = torch.stack([PhotoDataset(chosen, paced.spec)[i][0] for i in (0, 0, 1, 2, 0)])
    assert torch.equal(torch.cat([image for image, _ in seen]), expected)
    with torch.no_grad():
        predicted = torch.cat([paced.classifier(image[None]).argmax(1) for image in expected])
    assert [target for _, target in seen] == predicted.tolist()
    assert row["repeats"] == 4 and row["ms"] == pytest.approx(500)


def test_methods_refuse_bad_input(explainer: Explainer, photos: PhotoList) -> None:
    with pytest.raises(TTameError, match="Grad-CAM"):
        measure_methods(explainer, photos, ["GradCAM"])
    with pytest.raises(TTameError, match="empty"):
        measure_methods(explainer, photos.select([]), ["random"])


@quiet
def test_road_is_that_of_the_library(
    explainer: Explainer, clock: Clock, photos: PhotoList, monkeypatch: pytest.MonkeyPatch
) -> None:
    """Same pixels, same values; 14 images a photo at once against one by one."""
    ours: list[tuple[Tensor, Tensor]] = []
    theirs: list[tuple[Tensor, Tensor]] = []

    class Imputer(library.NoisyLinearImputer):  # type: ignore[misc]
        def __call__(self, image: Tensor, mask: Tensor) -> Tensor:
            clock.now += 1
            theirs.append((image, mask))
            return super().__call__(image, mask)

    def watched(images: Tensor, known: Tensor) -> Tensor:
        clock.now += 2
        ours.append((images, known))
        return ttame.evaluation.imputation.impute(images, known)

    monkeypatch.setattr(library, "NoisyLinearImputer", Imputer)
    monkeypatch.setattr(benchmarks.explaining, "impute", watched)
    row = measure_road(explainer, photos.sample(2), repeats=2)
    assert (row["ours_seconds"], row["library_seconds"], row["ratio"]) == (2, 14, 7)
    # Two photos: two timed turns and one to compare, and one that warms up.
    assert (len(ours), len(theirs)) == (7, 7 * 14)
    assert 0 < row["largest_difference"] < 1e-3
    assert row["largest_probability_difference"] < 1e-2
    assert (row["decisions"], row["noise"], row["repeats"]) == (28, 0, 2)
    assert row["decisions_equal"] >= 27
    assert row["photos"] == list(photos.sample(2).names)
    images, known = ours[0]
    assert images.shape == (14, 3, 32, 32) and float(images.min()) >= 0
    left = [round(1024 * (100 - level) / 100) for level in (10, 20, 30, 40, 50, 70, 90)]
    assert known.sum(dim=(1, 2, 3)).tolist() == left + left
    # Both turns of a photo get the same pixels, and MoRF keeps what LeRF removes.
    for (image, mask), raw, mine in zip(theirs[:14], images, known, strict=True):
        assert torch.equal(image, raw) and torch.equal(mask, mine[0].float())
    assert torch.equal(known[4], ~known[11])  # half of the pixels, in both orders


@quiet
def test_road_tells_a_wrong_imputation(
    explainer: Explainer, photos: PhotoList, monkeypatch: pytest.MonkeyPatch
) -> None:
    """Removed pixels a quarter too bright; and a classifier that changes its mind thrice."""

    def wrong(images: Tensor, known: Tensor) -> Tensor:
        found = ttame.evaluation.imputation.impute(images, known)
        return torch.where(known, found, found + 0.25)

    monkeypatch.setattr(benchmarks.explaining, "impute", wrong)
    row = measure_road(explainer, photos.sample(1), repeats=1)
    assert row["largest_difference"] == pytest.approx(0.25, abs=1e-3)
    assert row["largest_probability_difference"] > 0.05

    class Turncoat(torch.nn.Module):
        """Of the two sets it says class 1 of the first, and class 0 of the second's last three."""

        def forward(self, images: Tensor) -> Tensor:
            found = torch.zeros(len(images), 10)
            found[:, 1] = 5
            if seen:
                found[-3:, 0] = 9
            seen.append(images)
            return found

    seen: list[Tensor] = []
    explained = explainer(torch.zeros(1, 3, 32, 32))
    monkeypatch.setattr(explainer, "forward", lambda images: explained)
    explainer.classifier = Turncoat()
    row = measure_road(explainer, photos.sample(1), repeats=1)
    assert len(seen) == 2 and seen[0].shape == seen[1].shape == (14, 3, 32, 32)
    assert (row["decisions_equal"], row["decisions"]) == (11, 14)


def test_road_refuses_bad_input(explainer: Explainer, photos: PhotoList) -> None:
    with pytest.raises(TTameError, match="repeats must be at least 1"):
        measure_road(explainer, photos, repeats=0)
    with pytest.raises(TTameError, match="empty"):
        measure_road(explainer, photos.select([]))


def test_written_benchmarks_are_read_again(tmp_path: Path) -> None:
    path = write_benchmark(
        tmp_path / "b.json", "explaining", 3, rows=[{"batch": 1}], road={"ratio": 8.0},
        methods=[{"method": "RISE"}], left_out={"IIA": "no"},
    )  # fmt: skip
    found = read_benchmark(path)
    assert found["rows"] == [{"batch": 1}] and found["road"] == {"ratio": 8.0}
    assert found["methods"] == [{"method": "RISE"}] and found["left_out"] == {"IIA": "no"}
    assert found["version"] == 3 and found["seed"] == 3 and "commit" in found


@pytest.mark.parametrize(
    ("text", "reason"),
    [
        (json.dumps({"format": "ttame-benchmark", "version": 1, "rows": []}), "version 1, exp"),
        (json.dumps({"format": "ttame-results", "version": 2}), "ttame-results"),
        ("[]", "None"),
        ('{"format": ', "damaged"),
    ],
)
def test_other_files_are_refused(text: str, reason: str, tmp_path: Path) -> None:
    path = tmp_path / "b.json"
    path.write_text(text)
    with pytest.raises(TTameError, match=reason) as caught:
        read_benchmark(path)
    assert "make bench" in str(caught.value)
    with pytest.raises(TTameError, match="does not exist"):
        read_benchmark(tmp_path / "none.json")


@quiet
def test_command_prints_and_records(
    paced: Explainer,
    clock: Clock,
    photos: PhotoList,
    tmp_path: Path,
    monkeypatch: pytest.MonkeyPatch,
) -> None:
    asked = []

    def attach(name: str, pretrained: bool) -> Explainer:
        asked.append((name, pretrained))
        return paced

    monkeypatch.setattr(ttame.loading, "load", lambda name: paced)
    monkeypatch.setattr(ttame.loading, "attach", attach)
    monkeypatch.setattr(ttame.data, "samples", lambda: photos)
    monkeypatch.setattr("ttame.methods.METHODS", {
        name: METHODS[name] for name in ("T-TAME", "RISE", "L-CAM-Img")
    })  # fmt: skip
    out = tmp_path / "b.json"

    def impute(images: Tensor, known: Tensor) -> Tensor:
        clock.now += 1
        return ttame.evaluation.imputation.impute(images, known)

    monkeypatch.setattr(benchmarks.explaining, "impute", impute)
    result = CliRunner().invoke(
        app, ["explaining", "--out", str(out), "--repeats", "3", "--photos", "2"],
        catch_exceptions=False,
    )  # fmt: skip
    assert result.exit_code == 0
    words = " ".join(result.output.split())
    for expected in ("batch 1: forward 31.2 ms", "ratio 1.000", "ROAD imputation: ours 1 s a photo",
                     "of 28", "masks, scaled", "4,000.00", "left out: L-CAM-Img"):  # fmt: skip
        assert expected in words, words
    found = read_benchmark(out)
    assert [row["batch"] for row in found["rows"]] == [1, 32] * 3
    assert asked == [("resnet50", False), ("vit_b_16", False)]  # random weights take as long
    assert [row["method"] for row in found["methods"]] == ["T-TAME", "RISE"]
    assert found["road"]["photos"] == list(photos.sample(2).names)
    assert list(found["left_out"]) == ["L-CAM-Img"]
