"""Metrics, methods and refinement of classifiers whose outputs are not those of a softmax."""

from __future__ import annotations

import copy
import math
from collections.abc import Callable
from functools import partial
from pathlib import Path

import pytest
import torch
from timm.models.vision_transformer import VisionTransformer
from torch import Tensor, nn

import ttame
from tests.conftest import IMAGENET, LAYERS, ToyClassifier, randomize_batch_norm
from ttame.classifiers.outputs import Activation, BothAnswers, probabilities
from ttame.classifiers.specs import BackboneSpec, masked_probabilities
from ttame.companion.figures.masked import road_series
from ttame.data import PhotoList
from ttame.errors import TTameError
from ttame.evaluation.confidence import (
    average_drop,
    average_gain,
    increase_in_confidence,
)
from ttame.evaluation.evaluate import METRICS, evaluate
from ttame.evaluation.insertion import insertion_deletion
from ttame.evaluation.road import road
from ttame.explainer import Explainer
from ttame.methods import build
from ttame.methods.cam import _comparison
from ttame.methods.rise import rise_method
from ttame.records import read_results
from ttame.refinement import refine_maps

SIZE = (32, 32)


class Brightness(nn.Module):
    """One output, 4 times the mean of the red channel, minus 2."""

    def forward(self, images: Tensor) -> Tensor:
        return 4 * images[:, :1].mean(dim=(2, 3)) - 2


class Outputs(nn.Module):
    """Outputs computed from that of another network."""

    def __init__(self, model: nn.Module, change: Callable[[Tensor], Tensor]) -> None:
        super().__init__()
        self.model, self.change = model, change

    def forward(self, images: Tensor) -> Tensor:
        return self.change(self.model(images))


def spec(activation: Activation) -> BackboneSpec:
    return BackboneSpec(
        "by hand", None, None, (), "", input_size=(4, 4), mean=(0, 0, 0), std=(1, 1, 1),
        activation=activation,
    )  # fmt: skip


def both(outputs: Tensor) -> Tensor:
    return BothAnswers("sigmoid")(nn.Identity(), (), outputs)


# White, of which the map keeps the left half: the output falls from 2 to 0.
WHITE, LEFT = torch.ones(1, 3, 4, 4), torch.tensor([[1.0, 1, 0, 0]] * 4).view(1, 1, 4, 4)
SURE = 1 / (1 + math.exp(-2))  # 0.8808


@pytest.mark.parametrize(
    ("activation", "change", "target", "before", "after"),
    [
        ("sigmoid", both, 1, SURE, 0.5),
        ("sigmoid", both, 0, 1 - SURE, 0.5),
        ("sigmoid", lambda z: torch.cat([z, z, -z], dim=1), 1, SURE, 0.5),
        ("softmax", lambda z: torch.cat([0 * z, z], dim=1), 1, SURE, 0.5),
        ("none", lambda z: torch.cat([0 * z, z], dim=1).softmax(dim=1), 1, SURE, 0.5),
    ],
)
def test_scores_by_hand(
    activation: Activation,
    change: Callable[[Tensor], Tensor],
    target: int,
    before: float,
    after: float,
) -> None:
    classifier, facts, targets = Outputs(Brightness(), change), spec(activation), [target]
    call = (classifier, facts, WHITE, LEFT, torch.tensor(targets))
    original = probabilities(classifier(WHITE), activation)[:, target]
    assert float(original) == pytest.approx(before, abs=1e-6)
    masked = masked_probabilities(*call, (100,))[:, 0]
    assert float(masked) == pytest.approx(after, abs=1e-6)
    drop = max(0, before - after) / before * 100
    assert float(average_drop(original, masked)) == pytest.approx(drop, abs=1e-3)
    assert float(increase_in_confidence(original, masked)) == (100 if after > before else 0)
    gain = max(0, after - before) / (1 - before) * 100
    assert float(average_gain(original, masked)) == pytest.approx(gain, abs=1e-3)
    # Deletion blanks the left half first: 0 left after two of four steps, -2 at the end.
    curve = insertion_deletion(*call, steps=2, blur=(1, 1.0)).deletion[0].tolist()
    ends = [before, 0.5, 1 - before]
    assert curve == pytest.approx(ends, abs=1e-5)
    # ROAD of a white photo imputes white, up to the noise: the answer stays.
    scores = road(*call, levels=(50,))
    assert float(scores.morf) == pytest.approx(before, abs=0.02)
    assert bool(scores.morf_kept) == (target == int(classifier(WHITE).argmax()))


def test_values_have_no_scores() -> None:
    call = (Brightness(), spec("none"), WHITE, LEFT, torch.tensor([0]))
    for measure in (masked_probabilities, partial(insertion_deletion, blur=(1, 1.0)), road):
        with pytest.raises(TTameError, match=r"activation='none'.*value - threshold"):
            measure(*call)


def toy(classes: int) -> nn.Module:
    torch.manual_seed(3)
    model = ToyClassifier(classes)
    randomize_batch_norm(model)
    model.eval().centre()
    return model


def attached(model: nn.Module, activation: Activation, prefix: str = "") -> Explainer:
    layers = [f"{prefix}{name}" for name in LAYERS]
    torch.manual_seed(4)
    return ttame.attach(model, layers, input_size=SIZE, **IMAGENET, activation=activation)


@pytest.fixture
def binary() -> Explainer:
    return attached(toy(1), "sigmoid")


@pytest.fixture
def twin() -> Explainer:
    """The same classifier with two logits and a softmax."""
    halves = Outputs(toy(1), lambda z: torch.cat([-z / 2, z / 2], dim=1)).eval()
    return attached(halves, "softmax", "model.")


METHODS = ("T-TAME", "Grad-CAM", "Layer-CAM", "Score-CAM", "Ablation-CAM", "Finer-CAM", "Opti-CAM",
           "IIA", "RISE", "Occlusion", "SmoothGrad", "Integrated Gradients")  # fmt: skip


def test_one_logit_is_evaluated_as_the_two_of_a_softmax(
    binary: Explainer, twin: Explainer, photos: PhotoList, tmp_path: Path
) -> None:
    """The maps that do not depend on the logits' scale, and all metrics."""
    names = ("T-TAME", "Grad-CAM", "Layer-CAM", "Ablation-CAM", "RISE", "all ones")
    found = []
    for index, explainer in enumerate((binary, twin)):
        out = tmp_path / f"{index}.jsonl"
        path = evaluate(
            explainer, photos.select(range(4)), out, methods=names, metrics=METRICS, steps=4,
            batch_size=4, settings={"RISE": {"masks": 16}},
        )  # fmt: skip
        header, records = read_results(path)
        assert header["config"].get("activation", "softmax") == explainer.spec.activation
        found.append(records)
    one, two = found
    assert one["target"].tolist() == two["target"].tolist()
    assert set(one["target"]) == {0, 1}
    assert one["probability"].tolist() == pytest.approx(two["probability"].tolist(), abs=1e-5)
    assert one["probability"].min() > 0 and one["probability"].max() < 1
    for column in ("masked_100", "masked_15", "road_morf", "road_lerf_kept", "insertion"):
        ours, theirs = (torch.tensor(rows[column].tolist()).float() for rows in found)
        assert torch.allclose(ours, theirs, atol=1e-4), column


@pytest.mark.parametrize("name", METHODS)
@pytest.mark.parametrize("kind", ["binary", "labels", "probabilities"])
def test_methods_explain_either_answer(kind: str, name: str) -> None:
    ended = Outputs(toy(3), torch.sigmoid).eval()
    explainer = {
        "binary": lambda: attached(toy(1), "sigmoid"),
        "labels": lambda: attached(toy(3), "sigmoid"),
        "probabilities": lambda: attached(ended, "none", "model."),
    }[kind]()
    images = torch.randn(2, 3, *SIZE, generator=torch.Generator().manual_seed(0))
    method = build(name, explainer, {"masks": 16} if name == "RISE" else None)
    no, yes = (method(images, torch.full((2,), side)) for side in (0, 1))
    assert bool(no.isfinite().all()) and bool(yes.isfinite().all())
    assert float(no.abs().max()) > 0 or float(yes.abs().max()) > 0
    if name not in ("SmoothGrad", "Integrated Gradients") or kind != "binary":
        assert not torch.allclose(no, yes)
    else:  # magnitudes of opposite gradients
        assert torch.allclose(no, yes, rtol=1e-4, atol=1e-5)


def test_ablation_cam_of_a_label_with_a_negative_logit() -> None:
    explainer = attached(toy(3), "sigmoid")
    images = torch.randn(1, 3, *SIZE, generator=torch.Generator().manual_seed(0))
    logits = explainer.classifier(images)[0]
    target = int(logits.argmin())
    assert float(logits[target]) < 0
    found = build("Ablation-CAM", explainer)(images, torch.tensor([target]))[0, 0]
    stages, head = (explainer.classifier.get_submodule(name) for name in ("stages", "head"))
    with torch.no_grad():
        last = stages(images)[0]
        expected = torch.zeros(last.shape[1:])
        for channel in range(16):
            # What the logit loses without the channel: its mean, times its weight in the head.
            lost = last[channel].mean() * head.weight[target, channel]
            expected += lost / -logits[target] * last[channel]
    assert torch.allclose(found, expected.relu(), atol=1e-4)


def test_finer_cam_weighs_by_the_probabilities_of_labels() -> None:
    logits = torch.tensor([2.0, 1.0, 0.0])
    # Against labels 1 and 2, of sigmoids 0.7311 and 0.5: differences 1 and 2.
    weights = (1 / (1 + math.exp(-1)), 0.5)
    expected = (weights[0] * 1 + weights[1] * 2) / sum(weights)
    assert float(_comparison(0, 1.0, 2, "sigmoid")(logits)) == pytest.approx(expected)
    from pytorch_grad_cam.utils.model_targets import FinerWeightedTarget

    library = FinerWeightedTarget(0, [1, 2], 1.0)(logits)
    assert float(_comparison(0, 1.0, 2)(logits)) == pytest.approx(float(library))
    plain = torch.tensor([0.5, 0.3, 0.2])  # probabilities: 0.3 · 0.2 and 0.2 · 0.3
    assert float(_comparison(0, 1.0, 2, "none")(plain)) == pytest.approx(0.12 / 0.5)


def test_rise_by_hand() -> None:
    """Scores are sigmoids: the map of a label does not know the other labels."""
    one, many = attached(toy(3), "sigmoid"), attached(toy(3), "sigmoid")
    with torch.no_grad():
        many.classifier.get_submodule("head").bias[1:] += 50
    images, targets = torch.randn(1, 3, *SIZE), torch.tensor([0])
    found = [rise_method(masks=8)(explainer)(images, targets) for explainer in (one, many)]
    assert torch.equal(*found)


def test_transformers_with_one_logit() -> None:
    torch.manual_seed(0)
    model = VisionTransformer(
        img_size=32, patch_size=8, embed_dim=12, depth=2, num_heads=2, num_classes=1
    ).eval()
    explainer = ttame.attach(model, ["blocks.0"], input_size=SIZE, **IMAGENET, activation="sigmoid")
    images = torch.randn(2, 3, *SIZE)
    for name in ("LeGrad", "Transformer attribution"):
        method = build(name, explainer)
        no, yes = (method(images, torch.full((2,), side)) for side in (0, 1))
        assert no.shape == (2, 1, 4, 4) and not torch.allclose(no, yes)


def test_refinement_follows_the_activation(binary: Explainer, twin: Explainer) -> None:
    images = torch.randn(2, 3, *SIZE)
    targets, maps = torch.tensor([[0, 1], [0, 1]]), torch.rand(2, 2, 14, 14)
    one, two = (
        refine_maps(explainer.classifier, explainer.spec, images, targets, maps, steps=3)
        for explainer in (binary, twin)
    )
    assert torch.allclose(one, two, atol=1e-3)
    assert not torch.allclose(one, maps, atol=1e-2)


def test_sure_labels_are_told_apart_where_probabilities_are_rounded(
    photos: PhotoList, tmp_path: Path
) -> None:
    model = toy(3)
    with torch.no_grad():
        head = model.get_submodule("head")
        head.weight.zero_()
        head.bias.copy_(torch.tensor([30.0, 40.0, 35.0]))  # sigmoids of exactly 1
    explainer = attached(model, "sigmoid")
    path = evaluate(explainer, photos.select(range(2)), tmp_path / "out.jsonl", methods=["random"])
    assert read_results(path)[1]["target"].tolist() == [1, 1]


def test_figures_show_the_probabilities_of_labels(binary: Explainer) -> None:
    image = torch.randn(1, 3, *SIZE)
    explanation = torch.rand(1, 1, 4, 4)
    first, _ = road_series(binary, image, explanation, levels=(50,))
    assert first.answers[0] in ("no", "yes") and 0.5 <= first.probabilities[0] <= 1


def test_a_copy_answers_both(binary: Explainer) -> None:
    images = torch.randn(2, 3, *SIZE)
    again = copy.deepcopy(binary)
    assert torch.equal(again.classifier(images), binary.classifier(images))
