"""Masked photos: the photos that ROAD asks about, and the classifier's answers under them."""

from __future__ import annotations

import pytest
import torch
from torch import Tensor

from ttame.companion.figures.masked import ORDERS, plot_road_series, road_series
from ttame.errors import TTameError
from ttame.evaluation.road import degrade, road
from ttame.explainer import Explainer
from ttame.images import denormalize, normalize


@pytest.fixture
def ramp() -> Tensor:
    """A map whose top rows are the most relevant, `(1, 1, 32, 32)`."""
    return torch.linspace(1, 0, 32)[None, None, :, None].expand(1, 1, 32, 32).contiguous()


def test_pixels_go_in_either_order(explainer: Explainer, images: Tensor, ramp: Tensor) -> None:
    first, last = road_series(explainer, images[:1], ramp, levels=(25, 50))
    raw = denormalize(images[:1], explainer.spec)[0]
    assert (first.order, last.order) == ORDERS
    assert first.levels == (25, 50)
    same_first = (first.images - raw).abs().amax(dim=1) < 1e-6  # (L, H, W)
    same_last = (last.images - raw).abs().amax(dim=1) < 1e-6
    assert bool(same_first[0, 9:].all()) and not bool(same_first[0, :7].any())
    assert bool(same_last[1, :15].all()) and not bool(same_last[1, 17:].any())


def test_answers_are_the_classifier_s(explainer: Explainer, images: Tensor, ramp: Tensor) -> None:
    found = road_series(explainer, images[:1], ramp, levels=(25, 50))[0]
    with torch.inference_mode():
        logits = explainer.classifier(normalize(found.images, explainer.spec))
    top, index = logits.softmax(dim=1).max(dim=1)
    assert found.answers == tuple(explainer.classes[i] for i in index.tolist())
    assert found.probabilities == pytest.approx(top.tolist(), abs=1e-3)


def test_series_show_what_road_scores(explainer: Explainer, images: Tensor, ramp: Tensor) -> None:
    target = torch.tensor([3])
    scores = road(explainer.classifier, explainer.spec, images[:1], ramp, target, (25, 50))
    (series,) = degrade(explainer.spec, images[:1], ramp, target, (25, 50))
    with torch.inference_mode():
        found = explainer.classifier(normalize(series, explainer.spec)).softmax(dim=1)[:, 3]
    assert torch.allclose(found, torch.cat([scores.morf[0], scores.lerf[0]]), atol=1e-6)


def test_a_method_has_two_rows(explainer: Explainer, images: Tensor, ramp: Tensor) -> None:
    figure = plot_road_series(explainer, images[:1], {"ramp": ramp, "same": ramp}, (25, 50))
    assert len(figure.axes) == 4 * 3
    titles = [axis.get_title() for axis in figure.axes]
    assert titles[0].startswith("ramp\nmost relevant")
    assert titles[3].startswith("ramp\nleast relevant")
    assert titles[1].startswith("25 % gone\n") and titles[2].startswith("50 % gone\n")
    assert "25 % gone" in getattr(figure, "alt")  # noqa: B009


def test_a_series_takes_one_photo(explainer: Explainer, images: Tensor, ramp: Tensor) -> None:
    with pytest.raises(TTameError, match="got a batch of 2"):
        road_series(explainer, images[:2], ramp.expand(2, -1, -1, -1))
    with pytest.raises(TTameError, match=r"1\.\.99"):
        road_series(explainer, images[:1], ramp, levels=(0, 50))
