"""L-CAM, the trained predecessors of T-TAME: one layer, no feature branch (`lcam`).

An L-CAM mechanism is ours with one layer and `AttentionConfig(branch=False)`: a 1x1 convolution
from feature map to classes. `ttame train --recipe lcam-img` and `lcam-fm` train the two kinds,
which differ in what the mask multiplies in training (`TrainingConfig.masked`).
"""

from __future__ import annotations

from collections.abc import Callable

import torch
from torch import Tensor

from ttame.backbones import Backbone
from ttame.errors import TTameError
from ttame.explainer import Explainer
from ttame.loading import explainers, load


def lcam_method(kind: str) -> Callable[[Explainer], Callable[[Tensor, Tensor], Tensor]]:
    """A factory for a trained L-CAM that ships with `ttame` for the explainer's classifier.

    Args:
        kind: `"img"` or `"fm"`.

    Raises:
        TTameError: From the factory, if none was trained for this classifier.
    """

    def bind(explainer: Explainer) -> Callable[[Tensor, Tensor], Tensor]:
        from ttame.methods import ttame_method

        name = f"{explainer.spec.name}_lcam_{kind}"
        if name not in explainers():
            raise TTameError(
                f"L-CAM is trained for each classifier, and none ships for {explainer.spec.name}; "
                f"train one with `ttame train --recipe lcam-{kind} --backbone "
                f"{explainer.spec.name}` and pass ttame_method(load(PATH)) as a method of your own"
            )
        trained = load(name)
        parameter = next(explainer.parameters())
        _same_classifier(trained, explainer, f"L-CAM {name!r}")
        # On the explainer's own classifier, so that its passes count.
        backbone = Backbone(explainer.spec, explainer.classifier)
        mechanism = trained.mechanism.to(parameter)
        return ttame_method(Explainer(backbone, mechanism, trained.layers).eval())

    return bind


@torch.no_grad()
def _same_classifier(trained: Explainer, explainer: Explainer, name: str) -> None:
    """Refuse a classifier of the same name with other weights.

    By what it answers, not by a digest: an evaluation's copy has its batch norm folded.
    """
    blank = torch.full((1, 3, *trained.spec.input_size), 0.5)
    expected = trained.classifier(blank)
    found = explainer.classifier(blank.to(next(explainer.parameters()))).to(expected)
    span = float(expected.max() - expected.min())
    if found.shape != expected.shape or float((found - expected).abs().max()) > 0.05 * span:
        raise TTameError(
            f"{name} was trained on the default weights of {trained.spec.name}, and this "
            "classifier answers otherwise; train one for it"
        )
