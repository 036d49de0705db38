"""Refinement: what it costs, that it keeps more of the class, and what it refuses."""

from __future__ import annotations

from typing import Any

import pytest
import torch
from torch import Tensor, nn

from ttame.errors import TTameError
from ttame.evaluation.confidence import masked_probabilities
from ttame.evaluation.cost import count_passes
from ttame.explainer import Explainer
from ttame.masking import normalize_maps, upsample
from ttame.methods import build
from ttame.refinement import MOST_STEPS, refine_maps


def refined(explainer: Explainer, images: Tensor, targets: Tensor, steps: int) -> Tensor:
    maps = explainer(images, targets)[2].detach()
    return refine_maps(
        explainer.classifier, explainer.spec, images, targets, maps, steps=steps
    )  # fmt: skip


def kept(explainer: Explainer, images: Tensor, targets: Tensor, maps: Tensor) -> Tensor:
    """Mean probability of the target under the masks that are optimised."""
    found = masked_probabilities(explainer.classifier, explainer.spec, images, maps, targets[:, 0])
    return found[:, :2].mean()


def test_more_of_the_class_is_kept(explainer: Explainer, images: Tensor) -> None:
    explainer.eval()
    targets = explainer(images)[1]
    start = normalize_maps(explainer(images, targets)[2].detach())
    after = refined(explainer, images, targets, 20)
    assert after.shape == start.shape and after.min() >= 0 and after.max() <= 1
    assert kept(explainer, images, targets, after) > kept(explainer, images, targets, start) + 0.01


def test_small_maps_are_enlarged_to_the_grid_that_moves(
    explainer: Explainer, images: Tensor
) -> None:
    explainer.eval()
    targets = explainer(images)[1]
    maps = upsample(explainer(images, targets)[2].detach(), (4, 20))
    shown = (explainer.classifier, explainer.spec, images, targets, maps)
    assert refine_maps(*shown, steps=2).shape == (*maps.shape[:2], 14, 20)


def test_what_is_most_relevant_does_not_move(explainer: Explainer, images: Tensor) -> None:
    explainer.eval()
    targets = explainer(images)[1]
    start = normalize_maps(explainer(images, targets)[2].detach()).clamp(0.01, 0.99).flatten(1)
    after = refined(explainer, images, targets, 5).flatten(1)
    top = start.argmax(dim=1, keepdim=True)
    assert torch.allclose(after.gather(1, top), start.gather(1, top), atol=0.03)
    assert float((after - start).abs().max()) > 0.1


def test_targets_and_photos_are_refined_alone(explainer: Explainer, images: Tensor) -> None:
    explainer.eval()
    targets = explainer(images)[0].topk(2, dim=1).indices
    together = refined(explainer, images, targets, 3)
    alone = refined(explainer, images[1:2], targets[1:2, 1:], 3)
    assert torch.allclose(together[1, 1], alone[0, 0], atol=1e-4)


def test_passes_are_counted(explainer: Explainer, images: Tensor) -> None:
    method = build("T-TAME (refined)", explainer.eval(), {"steps": 3})
    targets = explainer(images)[1][:, 0]
    with count_passes(explainer.classifier) as passes:
        method(images, targets)
    assert passes.forward == 4 * len(images)
    assert passes.backward == 3 * len(images)


def test_explain_refines_on_request(explainer: Explainer) -> None:
    photo = torch.rand(3, 40, 30)
    plain = explainer.eval().explain(photo, top_k=2)
    after = explainer.explain(photo, top_k=2, refine=2)
    assert after.maps.shape == plain.maps.shape and not after.maps.requires_grad
    assert torch.equal(after.logits, plain.logits)
    assert not torch.allclose(normalize_maps(after.maps), normalize_maps(plain.maps), atol=1e-3)


@pytest.mark.parametrize("steps", [-1, MOST_STEPS + 1, 10**12, 2.0, True, "4"])
def test_steps_without_meaning_are_refused(explainer: Explainer, steps: Any) -> None:
    with pytest.raises(TTameError, match="refine must be a whole number of steps from 0 to 1000"):
        explainer.eval().explain(torch.rand(3, 40, 30), refine=steps)


class Detached(nn.Module):
    """A classifier that gradients do not pass."""

    def __init__(self, classifier: nn.Module) -> None:
        super().__init__()
        self.stages, self.head = classifier.stages, classifier.head

    def forward(self, images: Tensor) -> Tensor:
        logits: Tensor = self.head(self.stages(images.detach()).mean(dim=(2, 3)))
        return logits


def test_a_classifier_without_gradients_is_refused(explainer: Explainer) -> None:
    blocked = explainer.replace(classifier=Detached(explainer.classifier)).eval()
    photo = torch.rand(3, 40, 30)
    assert blocked.explain(photo).maps.shape == explainer.eval().explain(photo).maps.shape
    with pytest.raises(TTameError, match="refine=2 needs gradients, and none pass through Detach"):
        blocked.explain(photo, refine=2)
