"""Trained mechanisms: the explainer's own, T-TAME as published, P-TAME and L-CAM (`lcam`).

Of the others, one of each ships for the default classifier: the published one trained on photos of
many kinds, as the Shapley values', L-CAM's on Imagenette alone.
L-CAM, the predecessor, is our mechanism on one layer with
`AttentionConfig(branch=False)`: a 1x1 convolution from feature map to classes; its two kinds
differ in what the mask multiplies in training (`TrainingConfig.masked`). P-TAME (`ptame`), the
successor, reads the feature maps of an auxiliary network. Amortised Shapley values are one more
objective for our mechanism (`ttame.training.shapley`).
"""

from __future__ import annotations

from collections.abc import Callable

import torch
from torch import Tensor

from ttame.classifiers.weights import input_like
from ttame.errors import TTameError
from ttame.explainer import Explainer
from ttame.loading import explainers, load
from ttame.methods.method import Method, PairedMethod, wrapped
from ttame.refinement import check_steps, refine_maps


def ttame_method(explainer: Explainer) -> Method:
    """T-TAME itself: the raw maps of the target classes, from one forward pass.

    With an auxiliary network, P-TAME, it is one of the classifier and one of the network.
    """

    @torch.inference_mode()
    def explain(images: Tensor, targets: Tensor) -> Tensor:
        maps: Tensor = explainer(images, targets[:, None])[2]
        return maps

    if explainer.auxiliary is None:
        return explain
    return PairedMethod(explain, explainer.auxiliary.model)


def refined_method(steps: int = 4) -> Callable[[Explainer], Method]:
    """Make a factory for T-TAME with gradient steps on each map (`ttame.refinement`).

    An image costs 1 + `steps` forward and `steps` backward passes.

    Args:
        steps: Gradient steps; 0 is T-TAME itself.

    Raises:
        TTameError: If `steps` is out of range; from the method, if there are no gradients.
    """
    check_steps(steps)

    def bind(explainer: Explainer) -> Method:
        plain = ttame_method(explainer)
        if steps == 0:
            return plain

        def explain(images: Tensor, targets: Tensor) -> Tensor:
            maps, classifier, spec = plain(images, targets), explainer.classifier, explainer.spec
            return refine_maps(classifier, spec, images, targets[:, None], maps, steps=steps)

        return wrapped(explain, plain)

    return bind


def trained_method(recipe: str) -> Callable[[Explainer], Method]:
    """Make a factory for a mechanism that ships with `ttame` for the explainer's classifier.

    Args:
        recipe: It was trained by: `"published"`, `"published_tied"`, `"ptame"`, `"lcam-img"`,
            `"lcam-fm"` or `"shapley"`.

    Raises:
        TTameError: From the factory, if none was trained for this classifier.
    """

    def bind(explainer: Explainer) -> Method:
        name = f"{explainer.spec.name}_{recipe.replace('-', '_')}"
        if name not in explainers():
            raise TTameError(
                f"a mechanism of recipe {recipe!r} is trained for each classifier, and none ships "
                f"for {explainer.spec.name}; train one with `ttame train --recipe {recipe} "
                f"{'--features tf_efficientnet_lite0 ' if recipe == 'ptame' else ''}"
                f"--backbone {explainer.spec.name}` and pass ttame_method(load(PATH)) as a method "
                "of your own"
            )
        trained = load(name)
        _same_classifier(trained, explainer, repr(name))
        # On the explainer's own classifier, so that its passes count.
        found = trained.replace(classifier=explainer.classifier)
        return ttame_method(found.to(input_like(explainer.classifier).device).eval())

    return bind


@torch.no_grad()
def _same_classifier(trained: Explainer, explainer: Explainer, name: str) -> None:
    """Refuse other weights, by what they answer: an evaluation's copy is folded, with no digest."""
    blank = torch.full((1, trained.spec.channels, *trained.spec.input_size), 0.5)
    expected = trained.classifier(blank)
    found = explainer.classifier(blank.to(input_like(explainer.classifier))).to(expected)
    span = float(expected.max() - expected.min())
    if found.shape != expected.shape or float((found - expected).abs().max()) > 0.05 * span:
        raise TTameError(
            f"{name} was trained on the default weights of {trained.spec.name}, and this "
            "classifier answers otherwise; train one for it"
        )
