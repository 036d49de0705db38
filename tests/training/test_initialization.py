"""The start from the classifier: with a class token, and before a decoder."""

from __future__ import annotations

import pytest
import timm
import torch
from torch import Tensor

import ttame
from ttame.attention import AttentionConfig, AttentionMechanism
from ttame.explainer import Explainer
from ttame.features import capture
from ttame.training.initialization import class_gradients, initialize


def test_gradients_are_shared_out_over_the_class_token() -> None:
    torch.manual_seed(0)
    model = timm.create_model(
        "vit_tiny_patch16_224", img_size=32, depth=2, num_classes=3, embed_dim=12, num_heads=2
    )
    layers, images = ["blocks.1.norm1"], torch.randn(5, 3, 32, 32)
    dropped = ttame.attach(model, layers, input_size=(32, 32))
    multiplied = ttame.attach(
        model, layers, input_size=(32, 32), config=AttentionConfig(tokens="cls")
    )
    with torch.no_grad(), capture(model.eval(), layers) as outputs:
        model(images)
    token = outputs[layers[0]][:, 0]  # type: ignore[index]  # (B, C)
    plain, found = class_gradients(dropped, images), class_gradients(multiplied, images)
    assert plain.shape == (3, 12) and float(plain.abs().max()) > 0
    assert torch.allclose(found, plain * token.mean(0) / (token**2).mean(0), rtol=1e-4)
    # No other weight w brings w * token nearer to the gradient, summed over photos.
    for change in (0.9, 1.1):
        near = ((found[0] * token - plain[0]) ** 2).sum()
        assert float(((change * found[0] * token - plain[0]) ** 2).sum()) > float(near)
    assert dropped.layers == multiplied.layers == ("blocks.1.norm1",)
    assert found.abs().mean() != pytest.approx(float(plain.abs().mean()))


def test_rows_before_a_decoder_are_the_gradients_at_a_mean_length_of_one(
    explainer: Explainer, images: Tensor
) -> None:
    config = AttentionConfig(branch=False, decoder=3)
    given = explainer.mechanism
    changed = explainer.replace(mechanism=AttentionMechanism(given.channels, given.classes, config))
    gradients = initialize(changed, images, "classifier")
    assert gradients is not None
    rows = changed.mechanism.fusion.weight.detach()[:, :, 0, 0]
    own = rows[:, -gradients.shape[1] :]
    assert float(own.norm(dim=1).mean()) == pytest.approx(1, rel=1e-5)
    assert torch.allclose(own * gradients.norm(dim=1).mean(), gradients, atol=1e-6)
    assert not rows[:, : -gradients.shape[1]].any()
