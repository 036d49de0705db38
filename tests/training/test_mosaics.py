"""Mosaics of the photos of a batch, and the term of what a map leaves out."""

from __future__ import annotations

import pytest
import torch

from ttame.errors import TTameError
from ttame.training.config import TrainingConfig
from ttame.training.mosaics import mosaic_places, with_mosaics
from ttame.training.objective import remaining


def test_places_are_spread_evenly() -> None:
    assert mosaic_places(20, 0.3) == [0, 3, 6, 10, 13, 16]
    assert mosaic_places(4, 1.0) == [0, 1, 2, 3]
    assert mosaic_places(20, 0.0) == []


def test_a_mosaic_shows_the_photo_and_the_three_after_it() -> None:
    images = torch.arange(5.0).view(5, 1, 1, 1).expand(5, 3, 4, 6)  # each of one grey
    changed = with_mosaics(images, [3])
    assert torch.equal(changed[[0, 1, 2, 4]], images[[0, 1, 2, 4]])
    expected = torch.tensor([[3.0, 4.0], [0.0, 1.0]]).repeat_interleave(2, 0)
    assert torch.allclose(changed[3, 0], expected.repeat_interleave(3, 1))
    assert images[3].unique().tolist() == [3.0]  # the argument is as it was


def test_odd_sides_are_filled() -> None:
    images = torch.rand(4, 3, 5, 7)
    changed = with_mosaics(images, [0])
    assert changed.shape == images.shape
    # A shrunk photo keeps its mean, nearly.
    assert torch.allclose(changed[0, :, :2, :3].mean(), images[0].mean(), atol=0.1)


def test_a_mosaic_has_no_ground_truth() -> None:
    with pytest.raises(TTameError, match="mosaics=0"):
        TrainingConfig.of(mosaics=0.5, truth="ground")
    with pytest.raises(TTameError, match="mosaics"):
        TrainingConfig.of(mosaics=1.5)


def test_what_remains_of_a_class_is_at_most_all_of_it() -> None:
    whole = torch.tensor([[0.8, 0.2], [0.4, 0.6]]).log()
    masked = torch.tensor([[0.2, 0.8], [0.9, 0.1]]).log()
    found = remaining(whole, masked, torch.tensor([0, 0]))
    assert torch.allclose(found, torch.tensor([0.25, 1.0]))
