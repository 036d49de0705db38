"""Average Drop, Increase in Confidence and Average Gain, by hand and against plain loops."""

from __future__ import annotations

from dataclasses import replace
from typing import Any

import numpy as np
import pytest
import torch
from torch import Tensor

from ttame.classifiers.specs import BackboneSpec
from ttame.errors import TTameError
from ttame.evaluation.confidence import (
    PERCENTAGES,
    AverageDrop,
    AverageGain,
    IncreaseInConfidence,
    SampleMetric,
    average_drop,
    average_gain,
    increase_in_confidence,
    masked_probabilities,
)
from ttame.explainer import Explainer
from ttame.masking import rank_pixels

ORIGINAL = torch.tensor([0.8, 0.5, 0.4, 0.9])
MASKED = torch.tensor([0.6, 0.5, 0.7, 0.0])


def test_average_drop_by_hand() -> None:
    # (.8 - .6) / .8; no drop; a rise counts as no drop; everything.
    assert torch.allclose(average_drop(ORIGINAL, MASKED), torch.tensor([25.0, 0.0, 0.0, 100.0]))


def test_increase_in_confidence_by_hand_is_strict() -> None:
    assert increase_in_confidence(ORIGINAL, MASKED).tolist() == [0.0, 0.0, 100.0, 0.0]


def test_average_gain_by_hand() -> None:
    # A drop, no change, (.7 - .4) / (1 - .4), everything lost: only the third gains.
    assert torch.allclose(average_gain(ORIGINAL, MASKED), torch.tensor([0.0, 0.0, 50.0, 0.0]))
    # From p = 1 nothing is left to gain; up to p' = 1 is the whole gain.
    original, masked = torch.tensor([1.0, 1.0, 0.25]), torch.tensor([1.0, 0.3, 1.0])
    assert average_gain(original, masked).tolist() == [0.0, 0.0, 100.0]


def test_sample_formulas_against_loops() -> None:
    generator = torch.Generator().manual_seed(3)
    original, masked = torch.rand(2, 50, generator=generator, dtype=torch.float64)
    drops, increases, gains = [], [], []
    for p, q in zip(original.tolist(), masked.tolist(), strict=True):
        drops.append(100 * (p - q) / p if q < p else 0.0)
        increases.append(100.0 if q > p else 0.0)
        gains.append(100 * (q - p) / (1 - p) if q > p else 0.0)
    assert 0 < sum(increases) < 5000
    assert average_drop(original, masked).tolist() == pytest.approx(drops)
    assert increase_in_confidence(original, masked).tolist() == increases
    assert average_gain(original, masked).tolist() == pytest.approx(gains)


def test_metrics_are_means_over_samples() -> None:
    drop, increase, gain = AverageDrop(), IncreaseInConfidence(), AverageGain()
    for metric in (drop, increase, gain):
        metric.update(ORIGINAL, MASKED)
    assert float(drop.compute()) == pytest.approx(125 / 4)
    assert float(increase.compute()) == pytest.approx(25)
    assert float(gain.compute()) == pytest.approx(50 / 4)
    assert AverageDrop.higher_is_better is False and IncreaseInConfidence.higher_is_better is True
    assert AverageGain.higher_is_better is True


@pytest.mark.parametrize("sizes", [(3, 1), (1, 3), (1, 1, 1, 1), (4,)], ids=str)
def test_every_sample_weighs_the_same_however_it_was_batched(sizes: tuple[int, ...]) -> None:
    metric = AverageDrop()
    for original, masked in zip(ORIGINAL.split(sizes), MASKED.split(sizes), strict=True):
        metric.update(original, masked)
    assert float(metric.compute()) == pytest.approx(125 / 4)
    assert torch.allclose(metric.per_sample(), torch.tensor([25.0, 0.0, 0.0, 100.0]))


def test_reset_forgets() -> None:
    metric = AverageDrop()
    metric.update(ORIGINAL, MASKED)
    metric.reset()
    metric.update(ORIGINAL[:1], MASKED[:1])
    assert float(metric.compute()) == pytest.approx(25)


def test_the_metric_keeps_values_of_its_own() -> None:
    original, masked = ORIGINAL.clone(), MASKED.clone().requires_grad_(True)
    metric = AverageDrop()
    metric.update(original, masked)
    original.zero_()
    assert float(metric.compute()) == pytest.approx(125 / 4)
    assert not metric.per_sample().requires_grad


@pytest.mark.parametrize("kind", [AverageDrop, IncreaseInConfidence, AverageGain])
@pytest.mark.parametrize(
    ("original", "masked", "message"),
    [
        ([0.5, float("nan")], [0.5, 0.5], "original.*nan"),
        ([0.5, 0.5], [float("nan"), 0.5], "masked.*nan"),
        ([0.5, 1.5], [0.5, 0.5], "original"),
        ([0.5, 0.5], [0.5, -0.1], "masked"),
        ([0.5, 0.0], [0.5, 0.5], "original"),
        ([0.5, 0.5], [0.5], r"\(2,\) and \(1,\)"),
        ([0.5], [0.5, 0.5], r"\(1,\) and \(2,\)"),
        ([[0.5], [0.5]], [[0.5], [0.5]], "two vectors"),
        (0.5, 0.5, "two vectors"),
    ],
    ids=str,
)
def test_values_that_are_no_probabilities_are_refused(
    kind: type[SampleMetric], original: Any, masked: Any, message: str
) -> None:
    metric = kind()
    with pytest.raises(TTameError, match=message):
        metric.update(torch.tensor(original), torch.tensor(masked))
    assert metric.values == []


# Masked probabilities


def slow_probability(
    explainer: Explainer, image: Tensor, grid: Tensor, target: int, share: float
) -> float:
    """p' of one photo, in float64 and with loops: min-max, bilinear, keep, mask, classify."""
    spec = explainer.spec
    mean, std = np.array(spec.mean), np.array(spec.std)
    pixels = image.double().numpy()  # (3, H, W)
    cells = grid.double().numpy()
    cells = (cells - cells.min()) / (cells.max() - cells.min())
    height, width = pixels.shape[1:]
    mask = np.zeros((height, width))
    for y in range(height):
        for x in range(width):
            mask[y, x] = bilinear(cells, (y + 0.5) / height, (x + 0.5) / width)
    values = np.sort(mask.ravel())[::-1]
    count = round(share * height * width)
    if count < len(values):
        assert values[count - 1] - values[count] > 1e-6  # no tie: the loops break none
        mask = np.where(mask >= values[count - 1], mask, 0)
    masked = np.zeros_like(pixels)
    for channel in range(3):
        if spec.space == "raw":
            raw = pixels[channel] * std[channel] + mean[channel]
            masked[channel] = (raw * mask - mean[channel]) / std[channel]
        else:
            masked[channel] = pixels[channel] * mask
    with torch.no_grad():
        logits = explainer.classifier(torch.from_numpy(masked).float()[None])[0].numpy()
    odds = np.exp(logits - logits.max())
    return float(odds[target] / odds.sum())


def bilinear(cells: np.ndarray, down: float, across: float) -> float:
    """The value at a relative position; cell centres hold the values, edges repeat."""
    height, width = cells.shape
    y = min(max(down * height - 0.5, 0), height - 1)
    x = min(max(across * width - 0.5, 0), width - 1)
    top, left = int(y), int(x)
    bottom, right = min(top + 1, height - 1), min(left + 1, width - 1)
    upper = cells[top, left] * (1 - (x - left)) + cells[top, right] * (x - left)
    lower = cells[bottom, left] * (1 - (x - left)) + cells[bottom, right] * (x - left)
    return float(upper * (1 - (y - top)) + lower * (y - top))


def in_space(explainer: Explainer, space: Any) -> BackboneSpec:
    explainer.spec = replace(explainer.spec, space=space)
    return explainer.spec


@pytest.mark.parametrize("space", ["raw", "normalized"])
@pytest.mark.parametrize("size", [(7, 7), (5, 9)], ids=str)
def test_masked_probabilities_against_loops(
    explainer: Explainer, images: Tensor, space: str, size: tuple[int, int]
) -> None:
    spec = in_space(explainer, space)
    maps = torch.randn(6, 1, *size)
    # Edges repeat a cell, which makes ties: low there, so that no percentage ends among them.
    for edge in (maps[..., 0, :], maps[..., -1, :], maps[..., 0], maps[..., -1]):
        edge.sub_(6)
    targets = torch.tensor([0, 8, 3, 8, 1, 9])
    found = masked_probabilities(explainer.classifier, spec, images, maps, targets)
    assert found.shape == (6, len(PERCENTAGES))
    for index in range(6):
        for column, percentage in enumerate(PERCENTAGES):
            expected = slow_probability(
                explainer, images[index], maps[index, 0], int(targets[index]), percentage / 100
            )
            assert float(found[index, column]) == pytest.approx(expected, abs=1e-5)


def test_the_spaces_differ(explainer: Explainer, images: Tensor) -> None:
    with torch.no_grad():
        targets = explainer.classifier(images).argmax(dim=1)
    maps = torch.randn(6, 1, 7, 7)
    found = [
        masked_probabilities(
            explainer.classifier, in_space(explainer, space), images, maps, targets
        )
        for space in ("raw", "normalized")
    ]
    assert not torch.allclose(*found, atol=1e-2)


@pytest.mark.parametrize("space", ["raw", "normalized"])
def test_a_mask_of_ones_scores_nothing_at_100_percent(
    explainer: Explainer, images: Tensor, space: str
) -> None:
    spec = in_space(explainer, space)
    with torch.no_grad():
        original, targets = explainer.classifier(images).softmax(dim=1).max(dim=1)
    ones = torch.ones(6, 1, 7, 7)
    masked = masked_probabilities(explainer.classifier, spec, images, ones, targets)
    assert average_drop(original, masked[:, 0]).tolist() == [0.0] * 6
    assert increase_in_confidence(original, masked[:, 0]).tolist() == [0.0] * 6
    assert float(average_drop(original, masked[:, 2]).mean()) > 0


def test_ties_are_broken_by_the_seed(explainer: Explainer, images: Tensor) -> None:
    ones, targets = torch.ones(6, 1, 7, 7), torch.zeros(6, dtype=torch.int64)

    def measured(seed: int, count: int = 6) -> Tensor:
        return masked_probabilities(
            explainer.classifier, explainer.spec, images[:count], ones[:count], targets[:count],
            (50,), seed,
        )  # fmt: skip

    assert torch.equal(measured(0), measured(0))
    assert not torch.allclose(measured(0), measured(1), atol=1e-4)
    assert torch.allclose(measured(0, 2), measured(0)[:2], atol=1e-5)
    kept = rank_pixels(torch.ones(1, 1, 32, 32))[0, 0, :512]
    mask = torch.zeros(1, 1, 32 * 32)
    mask[..., kept] = 1
    spec = explainer.spec
    mean = torch.tensor(spec.mean).view(1, 3, 1, 1) / torch.tensor(spec.std).view(1, 3, 1, 1)
    masked = (images + mean) * mask.view(1, 1, 32, 32) - mean
    with torch.no_grad():
        expected = explainer.classifier(masked).softmax(dim=1)[:, 0]
    assert torch.allclose(measured(0)[:, 0], expected, atol=1e-5)


def test_other_percentages(explainer: Explainer, images: Tensor) -> None:
    maps, targets = torch.randn(6, 1, 7, 7), torch.zeros(6, dtype=torch.int64)
    call = (explainer.classifier, explainer.spec, images, maps, targets)
    assert torch.equal(
        masked_probabilities(*call, (15, 100)), masked_probabilities(*call)[:, [2, 0]]
    )


@pytest.mark.parametrize("value", [float("nan"), float("inf"), -float("inf")])
def test_maps_that_are_not_finite_are_refused(
    explainer: Explainer, images: Tensor, value: float
) -> None:
    maps = torch.randn(6, 1, 7, 7)
    maps[3, 0, 2, 2] = value
    with pytest.raises(TTameError, match="NaN or infinite"):
        masked_probabilities(
            explainer.classifier, explainer.spec, images, maps, torch.zeros(6, dtype=torch.int64)
        )


@pytest.mark.parametrize(("count", "rows"), [((5, 1), 6), ((6, 2), 6), ((6, 1), 5)], ids=str)
def test_lengths_must_agree(
    explainer: Explainer, images: Tensor, count: tuple[int, int], rows: int
) -> None:
    maps, targets = torch.randn(*count, 7, 7), torch.zeros(rows, dtype=torch.int64)
    with pytest.raises(TTameError, match="agree"):
        masked_probabilities(explainer.classifier, explainer.spec, images, maps, targets)
