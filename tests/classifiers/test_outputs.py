"""What outputs mean: probabilities by hand, both answers of one output, and what is found."""

from __future__ import annotations

import copy
import math
from pathlib import Path
from types import SimpleNamespace

import pytest
import torch
from torch import Tensor, nn

import ttame
from tests.conftest import IMAGENET, LAYERS, ToyClassifier, randomize_batch_norm
from ttame.classifiers.adoption import find_activation
from ttame.classifiers.classes import count_above
from ttame.classifiers.outputs import (
    Activation,
    answer_both,
    both_answers,
    log_probabilities,
    probabilities,
)
from ttame.classifiers.weights import weight_digest
from ttame.errors import TTameError
from ttame.explainer import Explainer
from ttame.explanation import Explanation
from ttame.images import normalize

SIZE = (32, 32)


class Ending(nn.Module):
    """A toy classifier with something behind its head."""

    def __init__(self, classes: int, ending: str = "") -> None:
        super().__init__()
        self.toy = ToyClassifier(classes)
        self.ending = ending

    def forward(self, images: Tensor) -> Tensor:
        logits: Tensor = self.toy(images)
        if self.ending == "softmax by hand":
            return logits.exp() / logits.exp().sum(dim=1, keepdim=True)
        if self.ending == "sigmoid, moved":
            return logits.sigmoid()[:, None].flatten(1).half().float()
        if self.ending == "flat":
            return logits[:, 0]
        return logits


def toy(classes: int, *ending: nn.Module) -> nn.Module:
    model = ToyClassifier(classes)
    randomize_batch_norm(model)
    model.eval().centre()
    return nn.Sequential(model, *ending).eval() if ending else model


def attached(model: nn.Module, activation: Activation | None = None, **given: object) -> Explainer:
    names = LAYERS if isinstance(model, ToyClassifier) else [f"0.{name}" for name in LAYERS]
    return ttame.attach(
        model, names, input_size=SIZE, **IMAGENET, activation=activation, **given  # type: ignore[arg-type]
    )  # fmt: skip


def test_probabilities_are_those_worked_out_by_hand() -> None:
    # 2.9444 = log(0.95 / 0.05), in two labels that hold together; ln 3 against 0 is 3 to 1.
    labels = torch.tensor([[math.log(19), math.log(19)]])
    assert probabilities(labels, "sigmoid").tolist()[0] == pytest.approx([0.95, 0.95])
    assert probabilities(labels, "softmax").tolist()[0] == pytest.approx([0.5, 0.5])
    classes = torch.tensor([[math.log(3), 0.0]])
    assert probabilities(classes, "softmax").tolist()[0] == pytest.approx([0.75, 0.25])
    already = torch.tensor([[0.75, 0.25]])
    assert probabilities(already, "none").tolist() == [[0.75, 0.25]]  # no second softmax
    for outputs, activation in ((labels, "sigmoid"), (classes, "softmax"), (already, "none")):
        logarithms = log_probabilities(outputs, activation)  # type: ignore[arg-type]
        expected = probabilities(outputs, activation).log()  # type: ignore[arg-type]
        assert torch.allclose(logarithms, expected, atol=1e-6)


def test_logarithms_stay_finite_and_half_precision_is_widened() -> None:
    far = torch.tensor([[-200.0, 200.0]])
    assert log_probabilities(far, "softmax").tolist() == [[-400, 0]]
    assert log_probabilities(far, "sigmoid").tolist() == [[-200, 0]]
    found = log_probabilities(torch.tensor([[0.0, 1.0]]), "none")[0]
    assert found.tolist() == pytest.approx([math.log(torch.finfo(torch.float32).tiny), 0])
    assert probabilities(far.bfloat16(), "sigmoid").dtype == torch.float32
    assert probabilities(far.double(), "softmax").dtype == torch.float64


def test_values_are_no_probabilities() -> None:
    with pytest.raises(TTameError, match=r"lie in \[0.2, 37\].*value - threshold"):
        probabilities(torch.tensor([[0.2, 37.0]]), "none")
    with pytest.raises(TTameError, match="activation='none'"):
        log_probabilities(torch.tensor([[float("nan"), 0.5]]), "none")
    # Rounding is forgiven, and removed.
    assert probabilities(torch.tensor([[1.00001, -0.00001]]), "none").tolist() == [[1, 0]]


@pytest.mark.parametrize("flat", [False, True])
def test_one_logit_equals_the_two_logits_of_a_softmax(flat: bool) -> None:
    one = Ending(1, "flat" if flat else "").eval()
    images = torch.randn(4, 3, *SIZE)
    logit = one(images).reshape(4)
    two = torch.stack([torch.zeros_like(logit), logit], dim=1).softmax(dim=1)
    names, digest = [name for name, _ in one.named_modules()], weight_digest(one)
    answer_both(one, "sigmoid")
    answer_both(one, "sigmoid")  # once is enough
    outputs = one(images)
    assert torch.equal(outputs, torch.stack([-logit, logit], dim=1))
    assert torch.allclose(probabilities(outputs, "sigmoid"), two, atol=1e-6, rtol=0)
    logarithms = log_probabilities(outputs, "sigmoid")
    assert torch.allclose(logarithms, two.log(), atol=1e-5)
    assert [name for name, _ in one.named_modules()] == names and weight_digest(one) == digest


def test_the_answers_have_opposite_gradients() -> None:
    explainer = attached(toy(1), "sigmoid")
    images = torch.randn(2, 3, *SIZE).requires_grad_(True)
    no, yes = (
        torch.autograd.grad(explainer.classifier(images)[:, side].sum(), images)[0]
        for side in (0, 1)
    )
    assert torch.equal(no, -yes) and float(yes.abs().max()) > 0


def test_one_output_without_a_choice_is_refused_with_the_choices() -> None:
    for model in (toy(1), Ending(1, "flat")):
        layers = LAYERS if isinstance(model, ToyClassifier) else ["toy.stages.2"]
        with pytest.raises(TTameError, match=r"one output.*'sigmoid'.*'none'.*value - threshold"):
            ttame.attach(model, layers, input_size=SIZE, **IMAGENET)
    with pytest.raises(TTameError, match="softmax is always 1"):
        attached(toy(1), "softmax")
    with pytest.raises(TTameError, match="softmax is always 1; pass the network without it"):
        attached(toy(1, nn.Softmax(dim=1)))


def test_both_answers_are_explained_and_named() -> None:
    model = toy(1)
    explainer = attached(model, "sigmoid")
    assert explainer.spec.activation == "sigmoid" and explainer.spec.binary
    assert explainer.classes == ("no", "yes")
    photos = torch.rand(3, 3, *SIZE)
    both = explainer.explain(photos, top_k=2)
    chance = model(normalize(both.images, explainer.spec)).sigmoid()[:, 0]
    one = explainer.explain(photos, "yes").probabilities()[:, 0]
    zero = explainer.explain(photos, 0).probabilities()[:, 0]
    assert torch.allclose(one, chance, atol=1e-6) and torch.allclose(zero, 1 - chance, atol=1e-6)
    assert torch.allclose(both.probabilities().sum(dim=1), torch.ones(3))
    assert not torch.equal(both.maps[:, 0], both.maps[:, 1])
    named = attached(model, "sigmoid", classes=("healthy", "ill"))
    assert named.explain(photos[0], "ill").names() == [["ill"]]
    with pytest.raises(TTameError, match="2 classes, the two answers of its one output"):
        attached(model, "sigmoid", classes=("ill",))
    assert both_answers(model) is None  # the caller's own answers as before


def test_a_classifier_that_answers_both_is_attached_again_as_such() -> None:
    explainer = attached(toy(1), "sigmoid")
    again = attached(explainer.classifier)
    assert again.spec.activation == "sigmoid" and again.spec.binary
    images = torch.rand(2, 3, *SIZE)
    assert torch.equal(again.classifier(images), explainer.classifier(images))
    with pytest.raises(TTameError, match="attached with activation='sigmoid' already"):
        attached(explainer.classifier, "softmax")


def test_one_probability_has_two_sides() -> None:
    model = toy(1, nn.Sigmoid())
    explainer = attached(model)  # found: a sigmoid comes last
    assert explainer.spec.activation == "none" and explainer.spec.binary
    images = torch.randn(3, 3, *SIZE)
    yes = model(images)
    assert torch.allclose(explainer.classifier(images), torch.cat([1 - yes, yes], dim=1))


@pytest.mark.parametrize(
    ("model", "found"),
    [
        (toy(4), "softmax"),
        (toy(4, nn.LogSoftmax(dim=1)), "softmax"),  # the softmax of log p is p
        (toy(4, nn.Softmax(dim=1)), "none"),
        (toy(4, nn.Sigmoid()), "none"),
        (toy(4, nn.Softmax(dim=1), nn.Flatten()), "none"),
        (Ending(4, "softmax by hand"), "none"),
        (Ending(4, "sigmoid, moved"), "none"),
    ],
)
def test_outputs_that_are_probabilities_already_are_noticed(model: nn.Module, found: str) -> None:
    assert find_activation(model.eval(), SIZE) == (found, False)
    if found == "none":
        with pytest.raises(TTameError, match=r"probabilities already \((a s|they sum)"):
            find_activation(model, SIZE, "softmax")


def test_no_second_softmax() -> None:
    plain = toy(4)
    ended = nn.Sequential(copy.deepcopy(plain), nn.Softmax(dim=1))
    photos = torch.rand(3, 3, *SIZE)
    expected = attached(plain).explain(photos, top_k=4).probabilities()
    found = attached(ended).explain(photos, top_k=4)
    assert torch.allclose(found.probabilities(), expected, atol=1e-6)
    assert torch.equal(found.probabilities(), found.logits.gather(1, found.targets).clamp(0, 1))


def test_detection_without_gradients_looks_at_the_values() -> None:
    class NoGradients(nn.Module):
        def __init__(self, model: nn.Module) -> None:
            super().__init__()
            self.model = model

        @torch.no_grad()
        def forward(self, images: Tensor) -> Tensor:
            outputs: Tensor = self.model(images)
            return outputs

    assert find_activation(NoGradients(toy(4, nn.Softmax(dim=1))), SIZE)[0] == "none"
    assert find_activation(NoGradients(toy(4)), SIZE)[0] == "softmax"


def test_the_problem_type_of_a_configuration_counts() -> None:
    def configured(classes: int, kind: str | None) -> nn.Module:
        model = toy(classes)
        model.config = SimpleNamespace(problem_type=kind)  # type: ignore[assignment]
        return nn.Sequential(model).eval()  # found through wrappers

    assert find_activation(configured(3, "multi_label_classification"), SIZE)[0] == "sigmoid"
    assert find_activation(configured(3, "single_label_classification"), SIZE)[0] == "softmax"
    assert find_activation(configured(3, None), SIZE)[0] == "softmax"
    assert find_activation(configured(1, "multi_label_classification"), SIZE) == ("sigmoid", True)
    for classes in (1, 3):
        with pytest.raises(TTameError, match=r"made for regression.*value - threshold"):
            find_activation(configured(classes, "regression"), SIZE)
    # The user's word counts more.
    assert find_activation(configured(1, "regression"), SIZE, "sigmoid") == ("sigmoid", True)


def test_values_are_refused_when_attached() -> None:
    model = toy(3)
    with torch.no_grad():
        model.get_submodule("head").bias.fill_(40)  # ages, say
    with pytest.raises(TTameError, match=r"lie in .*value - threshold"):
        attached(model, "none")
    with pytest.raises(TTameError, match="unknown activation 'relu'"):
        attached(model, "relu")  # type: ignore[arg-type]


def test_a_network_without_its_head_is_refused() -> None:
    timm = pytest.importorskip("timm")
    model = timm.create_model("resnet18", pretrained=False, num_classes=0)
    with pytest.raises(TTameError, match=r"no head.*512 outputs are features"):
        ttame.attach(model, ["layer4"], input_size=(64, 64))
    model.fc = nn.Linear(512, 3)  # a head of one's own, whatever num_classes says
    assert ttame.attach(model, ["layer4"], input_size=(64, 64)).mechanism.classes == 3


def test_labels_that_hold_together_keep_their_probabilities() -> None:
    explanation = Explanation(
        logits=torch.tensor([[math.log(19), -2.0, math.log(19)]]),
        targets=torch.tensor([[0, 2]]),
        maps=torch.rand(1, 2, 2, 2),
        images=torch.rand(1, 3, 8, 8),
        classes=("cat", "dog", "sofa"),
        activation="sigmoid",
    )
    assert explanation.probabilities().tolist()[0] == pytest.approx([0.95, 0.95])
    titles = [axis.get_title() for axis in explanation.plot().axes]
    assert [title for title in titles if "95.0%" in title] == ["cat\n95.0%", "sofa\n95.0%"]


def test_classes_above_a_bound_are_counted() -> None:
    names = ("ant", "bee", "cat")
    found = torch.tensor([[0.6, 0.2, 0.9], [0.8, 0.1, 0.1]])
    assert count_above(found, 0.5, names, [0, 1]) == [2, 1]
    assert count_above(found, 0.6, names, [0, 1]) == [1, 1]  # above, not at
    with pytest.raises(TTameError, match=r"photo 7 has no class above 0.85; .*'ant' with 0.8"):
        count_above(found, 0.85, names, [5, 7])


def test_all_labels_above_a_half_are_explained() -> None:
    explainer = attached(toy(4), "sigmoid")
    photos = torch.rand(6, 3, 4, 4).repeat_interleave(8, 2).repeat_interleave(8, 3)
    every = explainer.explain(photos, top_k=4)
    present = (every.probabilities() > 0.3).sum(dim=1).tolist()
    assert min(present) > 0 and len(set(present)) > 1
    one_by_one = list(explainer.explain_each(photos, above=0.3, batch_size=4))
    for index, (found, count) in enumerate(zip(one_by_one, present, strict=True)):
        assert torch.equal(found.targets[0], every.targets[index, :count])
        assert torch.allclose(found.maps[0], every.maps[index, :count], atol=1e-5)
    alike = [index for index, count in enumerate(present) if count == present[0]]
    together = explainer.explain(photos[alike], above=0.3)
    assert torch.equal(together.targets, every.targets[alike, : present[0]])
    assert together.activation == "sigmoid"
    with pytest.raises(TTameError, match=r"equally many per photo; .*explain_each"):
        explainer.explain(photos, above=0.3)
    for given in ({"top_k": 2}, {"targets": 1}):
        with pytest.raises(TTameError, match="excludes targets and top_k"):
            explainer.explain(photos, above=0.5, **given)  # type: ignore[arg-type]
    for bad in (1.0, -0.1, float("nan"), True):
        with pytest.raises(TTameError, match="above must be a probability"):
            explainer.explain(photos, above=bad)


@pytest.mark.parametrize(("classes", "activation"), [(1, "sigmoid"), (4, "sigmoid")])
def test_saved_explainers_keep_the_activation(
    classes: int, activation: Activation, tmp_path: Path
) -> None:
    model = toy(classes)
    explainer = attached(model, activation)
    path = explainer.save(tmp_path / "saved.safetensors")
    for given in (model, explainer.classifier):
        loaded = Explainer.load(path, given)
        assert loaded.spec.activation == activation
        assert loaded.spec.binary == (classes == 1) and loaded.classes == explainer.classes
        photo = torch.rand(3, *SIZE)
        before, after = explainer.explain(photo, 1), loaded.explain(photo, 1)
        assert torch.equal(before.maps, after.maps)
        assert torch.equal(before.probabilities(), after.probabilities())


def test_a_saved_binary_explainer_refuses_another_number_of_outputs(tmp_path: Path) -> None:
    path = attached(toy(1), "sigmoid").save(tmp_path / "saved.safetensors")
    other = toy(2)
    with pytest.raises(TTameError, match="was trained on"):
        Explainer.load(path, other)
    answer_both(other, "sigmoid")
    with pytest.raises(TTameError, match=r"one output, now it returns \(2, 2\)"):
        other(torch.rand(2, 3, *SIZE))
