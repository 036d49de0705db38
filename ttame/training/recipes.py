"""Recipes: trainings by name, each with the mechanism that it trains."""

from __future__ import annotations

from collections.abc import Callable
from functools import partial
from typing import Any, Literal

from ttame.attention import AttentionConfig
from ttame.classifiers.specs import BackboneSpec
from ttame.errors import unknown
from ttame.training.config import TrainingConfig
from ttame.training.objective import ObjectiveConfig

# The mechanism of our recipe: a class map of the deepest feature map itself, which keeps its sign,
# and a decoder that every class shares.
DECODED = AttentionConfig(branch=False, decoder=16)
# That of our first recipe: branches that keep the sign of feature maps. The papers' end in a ReLU,
# which loses half of what a layer such as a linear bottleneck says.
SIGNED = AttentionConfig(activation="identity")


# The explainer of Shapley values: like ViT-Shapley's own it has a self-attention of its own before
# its head. Its players are cells of 32 px of a 224 px photo; among 49 a few thousand coalitions say
# more of each than among the paper's 196.
PLAYERS = AttentionConfig(mixing="attention", activation="identity", max_size=7)


def ours(**changes: Any) -> TrainingConfig:
    """Return our training of a mechanism with a decoder (`DECODED`), with `changes`.

    The values of the map learn by gradients of the drop with all and half of the pixels kept, its
    ranks by trials of two masks that keep 15 % (the study `learning` compares that with gradients).
    """
    recipe = TrainingConfig.of(
        batch_size=20,
        fusion="tied",
        retain=(1.0, 0.5),
        tried=0.6,
        objective=ObjectiveConfig(
            cross_entropy=0, drop=5, trials=10, gain_limit=0.3, area=1, area_exponent=1,
            variation=1e-4, labels="own", reduction="mean",
        ),
        epochs=1,
        learning_rate=1e-3,
        part_rates={"fusion": 0.05},
        weight_decay=1e-4,
    )  # fmt: skip
    return recipe.replace(**changes)


def auxiliary(**changes: Any) -> TrainingConfig:
    """Return our training on the feature maps of an auxiliary network (`ptame`), with `changes`.

    The gradients of the classifier at those maps, by which ours starts and ties the rows of the
    classes, do not exist; a linear surrogate takes their place.
    """
    return ours(**{"init": "surrogate", **changes})


def published(**changes: Any) -> TrainingConfig:
    """Return the papers' training: SGD, 8 epochs, batch 32, maximum rate 1e-3; with `changes`."""
    papers = TrainingConfig.of(
        epochs=8,
        optimizer="sgd",
        learning_rate=1e-3,
        init="free",
        activation="sigmoid",
        retain=(1.0,),
        objective=ObjectiveConfig(),
    )
    return papers.replace(**changes)


def lcam(kind: Literal["img", "fm"], **changes: Any) -> TrainingConfig:
    """Return the predecessors' training, masking the image or the feature map, with `changes`.

    Few photos take the place of ImageNet here, so AdamW takes the place of the papers' SGD.
    """
    choices = {"optimizer": "adamw", "epochs": 1, "learning_rate": 1e-3,
               "masked": "image" if kind == "img" else "features"}  # fmt: skip
    return published(**{**choices, **changes})


def shapley(**changes: Any) -> TrainingConfig:
    """Return the training of amortised Shapley values (`ttame.training.shapley`), with `changes`.

    A step takes about twice as long as one of ours, on as many photos.
    """
    recipe = TrainingConfig.of(
        batch_size=20,
        fusion="tied",
        retain=(1.0,),
        objective=ObjectiveConfig(
            cross_entropy=0, area=0, variation=0, labels="own", reduction="mean"
        ),
        pairs=2,
        surrogate=0.4,
        epochs=1,
        learning_rate=3e-4,
        weight_decay=1e-4,
    )
    return recipe.replace(**changes)


RECIPES: dict[str, Callable[[], TrainingConfig]] = {
    "ttame": ours,
    "ptame": auxiliary,
    "linear": TrainingConfig,
    "published": published,
    "lcam-img": partial(lcam, "img"),
    "lcam-fm": partial(lcam, "fm"),
    "shapley": shapley,
}


def open_recipe(name: str) -> TrainingConfig:
    """Return the training of a recipe.

    Args:
        name: `"ttame"` (ours), `"ptame"` (ours for an auxiliary network), `"linear"` (our first,
            without a decoder), `"published"`, `"lcam-img"`, `"lcam-fm"` or `"shapley"`.

    Raises:
        TTameError: If there is no such recipe.
    """
    if name not in RECIPES:
        raise unknown("recipe", name, RECIPES)
    return RECIPES[name]()


def architecture(recipe: str) -> AttentionConfig:
    """Return the mechanism that a recipe trains; one without branches for L-CAM, on one layer."""
    if recipe.startswith("lcam"):
        return AttentionConfig(branch=False)
    signed = {"ttame": DECODED, "ptame": DECODED, "linear": SIGNED, "shapley": PLAYERS}
    return signed.get(recipe, AttentionConfig())


def layers(recipe: str, spec: BackboneSpec) -> str:
    """Return the layers that a mechanism of a recipe reads, for `ttame.attach`.

    Ours reads the deepest alone: with three, no score differs beyond chance (the results
    `recipe_layers` compare them), and a layer that brings nothing is left out. L-CAM reads the
    layer of class activation maps, the others read all that are registered or chosen.

    Args:
        recipe: As for `open_recipe`.
        spec: Facts of the network that is read, the classifier or an auxiliary one.
    """
    if recipe.startswith("lcam"):
        return spec.cam_layer
    return "deepest" if recipe in ("ttame", "ptame") else "auto"
