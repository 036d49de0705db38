"""Areas under curves: by hand, over processes, and ROAD's curve from a dense solution."""

from __future__ import annotations

import sys
from pathlib import Path
from typing import Any

import pytest
import torch
from torch import Tensor, nn
from torchmetrics import Metric

from ttame.classifiers.specs import BackboneSpec
from ttame.errors import TTameError
from ttame.evaluation.confidence import AverageDrop
from ttame.evaluation.curves import ROAD, CurveMetric, InsertionDeletion
from ttame.evaluation.insertion import InsertionScores
from ttame.evaluation.road import LEVELS, RoadScores, area_under_curve, road

CURVES = torch.tensor([[1.0, 0.5, 0.1], [0.2, 0.2, 0.2], [0.0, 1.0, 0.0], [1.0, 1.0, 1.0]])
# Levels 0, 10, 90: ((1 + .5)/2 * 10 + (.5 + .1)/2 * 80) / 90 and so on, percent.
AREAS = torch.tensor([100 * 31.5 / 90, 20.0, 50.0, 100.0])


def test_area_by_hand() -> None:
    metric = CurveMetric((0, 10, 90), rising=False)
    metric.update(CURVES)
    assert torch.allclose(metric.per_sample(), AREAS)
    assert float(metric.compute()) == pytest.approx(205 / 4)
    assert torch.allclose(metric.curve(), torch.tensor([0.55, 0.675, 0.325]))
    # Areas are linear: the area of the mean curve is the mean area.
    assert 100 * float(area_under_curve(metric.curve(), (0, 10, 90))) == pytest.approx(205 / 4)


@pytest.mark.parametrize("sizes", [(3, 1), (1, 3), (1, 1, 1, 1), (4,)], ids=str)
def test_every_sample_weighs_the_same_however_it_was_batched(sizes: tuple[int, ...]) -> None:
    metric = CurveMetric((0, 10, 90), rising=True)
    for part in CURVES.split(sizes):
        metric.update(part)
    assert float(metric.compute()) == pytest.approx(205 / 4)
    assert torch.allclose(metric.per_sample(), AREAS)


def test_the_metric_keeps_values_of_its_own_and_forgets_them_when_reset() -> None:
    curves = CURVES.clone().requires_grad_(True)
    metric = CurveMetric((0, 10, 90), rising=True)
    metric.update(curves)
    with torch.no_grad():
        curves.zero_()
    assert float(metric.compute()) == pytest.approx(205 / 4)
    assert not metric.per_sample().requires_grad
    metric.reset()
    metric.update(CURVES[1:2])
    assert float(metric.compute()) == pytest.approx(20)


def test_booleans_are_shares() -> None:
    metric = CurveMetric((1, 2, 3), rising=True)
    metric.update(torch.tensor([[True, True, False], [True, False, False]]))
    assert metric.per_sample().tolist() == pytest.approx([75.0, 25.0])


def test_slow_area() -> None:
    generator = torch.Generator().manual_seed(1)
    curves = torch.rand(5, len(LEVELS), generator=generator)
    metric = ROAD("LeRF", "probability")
    metric.update(curves)
    for found, curve in zip(metric.per_sample().tolist(), curves.tolist(), strict=True):
        area = 0.0
        for left in range(len(LEVELS) - 1):
            width = LEVELS[left + 1] - LEVELS[left]
            area += width * (curve[left] + curve[left + 1]) / 2
        assert found == pytest.approx(100 * area / 80, rel=1e-5)


def test_road_takes_the_named_field() -> None:
    morf, lerf = torch.full((2, 7), 0.3), torch.full((2, 7), 0.6)
    kept, lost = torch.ones(2, 7, dtype=torch.bool), torch.zeros(2, 7, dtype=torch.bool)
    scores = RoadScores(morf=morf, lerf=lerf, morf_kept=lost, lerf_kept=kept)
    expected = {
        ("MoRF", "probability"): 30,
        ("LeRF", "probability"): 60,
        ("MoRF", "accuracy"): 0,
        ("LeRF", "accuracy"): 100,
    }
    for (order, score), area in expected.items():
        metric = ROAD(order, score)  # type: ignore[arg-type]
        metric.update(scores)
        assert float(metric.compute()) == pytest.approx(area)
        assert metric.higher_is_better is (order == "LeRF")
    assert ROAD("MoRF").score == "accuracy"


def test_insertion_and_deletion_take_their_own_curve() -> None:
    scores = InsertionScores(
        insertion=torch.tensor([[0.0, 1.0, 1.0]]), deletion=torch.tensor([[1.0, 0.2, 0.0]])
    )
    insertion, deletion = InsertionDeletion("insertion", 2), InsertionDeletion("deletion", 2)
    for metric in (insertion, deletion):
        metric.update(scores)
    assert float(insertion.compute()) == pytest.approx(75)  # (.5 + 1) / 2
    assert float(deletion.compute()) == pytest.approx(35)  # (.6 + .1) / 2
    assert insertion.higher_is_better is True and deletion.higher_is_better is False
    assert deletion.levels == (0, 0.5, 1)


@pytest.mark.parametrize(
    ("curves", "message"),
    [
        (torch.zeros(2, 2), r"\(B, 3\).*\(2, 2\)"),
        (torch.zeros(3), r"\(B, 3\).*\(3,\)"),
        (torch.zeros(1, 2, 3), r"\(B, 3\)"),
        (torch.tensor([[0.1, float("nan"), 0.2]]), "nan"),
        (torch.tensor([[0.1, 1.5, 0.2]]), "1.5"),
        (torch.tensor([[0.1, -0.1, 0.2]]), "-0.1"),
        (torch.tensor([[10.0, 20.0, 30.0]]), "not percent"),
    ],
)
def test_bad_curves_are_refused(curves: Tensor, message: str) -> None:
    metric = CurveMetric((0, 10, 90), rising=True)
    with pytest.raises(TTameError, match=message):
        metric.update(curves)
    assert metric.values == []


@pytest.mark.parametrize("levels", [(), (5,), (5, 5), (10, 5, 20)], ids=str)
def test_bad_levels_are_refused(levels: tuple[int, ...]) -> None:
    with pytest.raises(TTameError, match="ascending"):
        CurveMetric(levels, rising=True)
    with pytest.raises(TTameError, match="ascending"):
        area_under_curve(torch.zeros(1, len(levels)), levels)


def test_bad_names_are_refused() -> None:
    bad: Any = "both"
    with pytest.raises(TTameError, match="order 'both'; expected 'MoRF' or 'LeRF'"):
        ROAD(bad)
    with pytest.raises(TTameError, match="score 'both'; expected 'accuracy' or 'probability'"):
        ROAD("MoRF", bad)
    with pytest.raises(TTameError, match="kind 'both'; expected 'insertion' or 'deletion'"):
        InsertionDeletion(bad)
    with pytest.raises(TTameError, match="steps must be 1 or more, got 0"):
        InsertionDeletion("insertion", 0)
    with pytest.raises(TTameError, match="each of 7 levels"):
        area_under_curve(torch.zeros(2, 6))


# Over processes

ORIGINAL = torch.tensor([0.8, 0.5, 0.4, 0.9])
MASKED = torch.tensor([0.6, 0.5, 0.7, 0.0])


def filled(part: slice) -> tuple[AverageDrop, CurveMetric]:
    """Both kinds of metric with some of the four samples, none for an empty part."""
    drop, curve = AverageDrop(), CurveMetric((0, 10, 90), rising=True)
    if len(CURVES[part]):
        drop.update(ORIGINAL[part], MASKED[part])
        curve.update(CURVES[part])
    return drop, curve


@pytest.mark.filterwarnings("ignore:The ``compute`` method")  # of a process without samples
@pytest.mark.parametrize("split", [1, 2, 0, 4])
def test_joining_two_processes_weighs_every_sample_the_same(split: int) -> None:
    for own, other, mean in zip(
        filled(slice(0, split)), filled(slice(split, 4)), (125 / 4, 205 / 4), strict=True
    ):
        remote = torch.cat(other.values) if other.values else torch.tensor([])

        def gather(tensor: Tensor, group: Any = None, remote: Tensor = remote) -> list[Tensor]:
            return [tensor, remote]

        own.dist_sync_fn, own.distributed_available_fn = gather, lambda: True
        assert float(own.compute()) == pytest.approx(mean)
        assert len(own.values) == min(split, 1)  # its own batches only, as before


def process(rank: int, folder: str) -> None:
    """One of two processes: three samples here, one there."""
    torch.set_num_threads(1)
    torch.distributed.init_process_group(
        "gloo", init_method=f"file://{folder}/store", rank=rank, world_size=2
    )
    try:
        metrics: tuple[Metric, ...] = filled(slice(0, 3) if rank == 0 else slice(3, 4))
        assert float(metrics[0].compute()) == pytest.approx(125 / 4)
        assert float(metrics[1].compute()) == pytest.approx(205 / 4)
        empty = filled(slice(0, 4) if rank == 0 else slice(0, 0))
        assert float(empty[0].compute()) == pytest.approx(125 / 4)
        assert float(empty[1].compute()) == pytest.approx(205 / 4)
    finally:
        torch.distributed.destroy_process_group()


@pytest.mark.slow
def test_two_real_processes(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    if sys.platform == "linux":
        monkeypatch.setenv("GLOO_SOCKET_IFNAME", "lo")  # no name of this machine is looked up
    torch.multiprocessing.spawn(process, args=(str(tmp_path),), nprocs=2)  # raises their errors


# ROAD on nine pixels

SPEC = BackboneSpec(
    name="toy", build=None, weights=None, layers=(), head="", input_size=(3, 3),
    mean=(0.2, 0.3, 0.4), std=(0.5, 0.6, 0.7), classes=("a", "b"),
)  # fmt: skip


class Reds(nn.Module):
    """Class 0 is for red, class 1 for blue."""

    def forward(self, images: Tensor) -> Tensor:
        return 3 * images.mean(dim=(2, 3))[:, [0, 2]]


def dense_impute(image: Tensor, removed: list[int]) -> Tensor:
    """Every removed pixel is the weighted mean of the neighbours it has, solved as a matrix."""
    channels, height, width = image.shape
    matrix, sides = torch.eye(height * width, dtype=torch.float64), image.flatten(1).double().T
    sides = sides.clone()
    for pixel in removed:
        y, x = divmod(pixel, width)
        weights = {}
        for down in (-1, 0, 1):
            for right in (-1, 0, 1):
                inside = 0 <= y + down < height and 0 <= x + right < width
                if inside and (down, right) != (0, 0):
                    direct = down == 0 or right == 0
                    weights[(y + down) * width + x + right] = 1 / 6 if direct else 1 / 12
        total = sum(weights.values())
        for other, weight in weights.items():
            matrix[pixel, other] = -weight / total
        sides[pixel] = 0
    return torch.linalg.solve(matrix, sides).T.reshape(channels, height, width).float()


def test_road_on_nine_pixels() -> None:
    image = torch.rand(3, 3, 3, generator=torch.Generator().manual_seed(9))
    mean, std = torch.tensor(SPEC.mean).view(3, 1, 1), torch.tensor(SPEC.std).view(3, 1, 1)
    # The corner first, then its right neighbour; last the lower right corner, then its left one.
    maps = torch.tensor([[[[9.0, 8, 7], [6, 5, 4], [3, 2, 1]]]])
    noise = 0.01 * torch.randn(1, 3, 3, 3, generator=torch.Generator().manual_seed(4))[0]
    # A lone corner has two direct neighbours and a diagonal one: 2/5, 2/5 and 1/5.
    corner = (2 * image[:, 0, 1] + 2 * image[:, 1, 0] + image[:, 1, 1]) / 5
    assert torch.allclose(dense_impute(image, [0])[:, 0, 0], corner, atol=1e-6)
    expected: dict[str, list[float]] = {}
    for order, removals in (("morf", ([0], [0, 1])), ("lerf", ([8], [8, 7]))):
        expected[order] = []
        for removed in removals:  # round(10% of 9) = 1 and round(20% of 9) = 2 pixels
            degraded = dense_impute(image, removed)
            for pixel in removed:
                y, x = divmod(pixel, 3)
                degraded[:, y, x] += noise[:, y, x]
            logits = Reds()(((degraded - mean) / std)[None])[0]
            expected[order].append(float(logits.softmax(dim=0)[1]))
    scores = road(
        Reds(), SPEC, ((image - mean) / std)[None], maps, torch.tensor([1]), levels=(10, 20), seed=4
    )
    assert scores.morf[0].tolist() == pytest.approx(expected["morf"], abs=1e-4)
    assert scores.lerf[0].tolist() == pytest.approx(expected["lerf"], abs=1e-4)
    assert scores.morf_kept[0].tolist() == [value > 0.5 for value in expected["morf"]]
    for order in ("MoRF", "LeRF"):
        metric = ROAD(order, "probability", levels=(10, 20))  # type: ignore[arg-type]
        metric.update(scores)
        assert float(metric.compute()) == pytest.approx(50 * sum(expected[order.lower()]), abs=1e-2)


def test_road_refuses_lengths_that_disagree() -> None:
    images, maps, targets = torch.rand(2, 3, 3, 3), torch.rand(2, 1, 3, 3), torch.tensor([0, 1])
    for bad in (
        (images[:1], maps, targets),
        (images, maps[:1], targets),
        (images, maps, targets[:1]),
    ):
        with pytest.raises(TTameError, match="agree in batch"):
            road(Reds(), SPEC, *bad)
