"""The drawn architecture: what it shows is what the mechanism computes."""

from __future__ import annotations

import numpy as np
import pytest
import torch

import ttame
from ttame.companion.figures.architecture import plot_architecture
from ttame.data import samples
from ttame.errors import TTameError
from ttame.plotting import PAGE_WIDTH, Picture

PHOTO = next(path for path in samples().paths if path.stem == "giant_panda")


def test_every_layer_has_a_row_with_its_shapes_and_the_map_is_the_librarys() -> None:
    explainer = ttame.load("tf_efficientnet_lite0_published")
    figure = plot_architecture(explainer, PHOTO)
    assert isinstance(figure, Picture)
    assert figure.get_figwidth() == PAGE_WIDTH
    axes = {axis.get_title(): axis for axis in figure.axes}
    for layer, shape in (("blocks.2", "40×28×28"), ("blocks.6", "320×7×7")):
        assert f"{layer}\n{shape}" in axes
        assert f"branch\n{shape}" in axes
    shown = axes["sum: map\n1×28×28"].images[0].get_array()
    expected = explainer.explain(PHOTO).maps[0, 0].numpy()
    np.testing.assert_allclose(np.asarray(shown), expected, atol=1e-4)
    parts = [axis.images[0].get_array() for axis in figure.axes if "its part" in axis.get_title()]
    rest = np.asarray(shown) - np.sum(parts, axis=0)  # the bias, the same at every place
    assert len(parts) == 3
    assert float(rest.max() - rest.min()) == pytest.approx(0, abs=1e-4)
    assert "giant panda" in figure.alt


def test_a_decoder_has_no_place_in_it() -> None:
    with pytest.raises(TTameError, match="without a decoder"):
        plot_architecture(ttame.load("tf_efficientnet_lite0"), torch.zeros(3, 224, 224))
