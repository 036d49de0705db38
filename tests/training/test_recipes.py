"""Recipes: which layers each reads, and names that do not exist."""

from __future__ import annotations

import pytest

from ttame.classifiers.registry import backbone_spec
from ttame.errors import TTameError
from ttame.training.recipes import RECIPES, layers, open_recipe


@pytest.mark.parametrize(
    ("recipe", "read"),
    [
        ("ttame", "deepest"),
        ("linear", "auto"),
        ("published", "auto"),
        ("lcam-img", "blocks.6"),
        ("lcam-fm", "blocks.6"),
        ("shapley", "auto"),
    ],
)
def test_the_layers_of_a_recipe(recipe: str, read: str) -> None:
    assert layers(recipe, backbone_spec("tf_efficientnet_lite0")) == read
    assert recipe in RECIPES


def test_unknown_recipes_are_named() -> None:
    with pytest.raises(TTameError, match="unknown recipe 'best'"):
        open_recipe("best")
