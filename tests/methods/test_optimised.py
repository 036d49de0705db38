"""IIA, Opti-CAM and Finer-CAM against slow re-implementations; CAM methods' early refusals."""

from __future__ import annotations

from collections.abc import Callable
from dataclasses import replace

import pytest
import torch
import torch.nn.functional as F
from torch import Tensor, nn

from ttame.errors import TTameError
from ttame.evaluation.cost import count_passes
from ttame.explainer import Explainer
from ttame.masking import apply_mask
from ttame.methods.cam import _comparison, cam_layer_module, cam_method, finer_cam
from ttame.methods.iia import iia_method
from ttame.methods.opticam import opticam_method

Factory = Callable[[Explainer], Callable[[Tensor, Tensor], Tensor]]
FACTORIES: dict[str, Factory] = {
    "IIA": iia_method(steps=3),
    "Opti-CAM": opticam_method(iterations=4),
    "Finer-CAM": finer_cam(),
}


def predictions(explainer: Explainer, images: Tensor) -> Tensor:
    with torch.no_grad():
        return explainer.classifier(images).argmax(dim=1)


def hooks(explainer: Explainer) -> int:
    return sum(len(module._forward_hooks) for module in explainer.modules())


def head(explainer: Explainer, maps: Tensor) -> Tensor:
    """What the toy classifier does behind its last feature map."""
    logits: Tensor = explainer.classifier.head(maps.mean(dim=(2, 3)))
    return logits


class TokenClassifier(nn.Module):
    """Patches of 8 pixels, a class token, one mixing layer over `(B, 1 + 16, 6)`, and a head."""

    class_token = True  # as torchvision's transformers have one

    def __init__(self) -> None:
        super().__init__()
        self.patches = nn.Conv2d(3, 6, 8, stride=8)
        self.block = nn.Linear(6, 6)
        self.mix = nn.Linear(17, 17)
        self.head = nn.Linear(6, 10)

    def forward(self, images: Tensor) -> Tensor:
        tokens = self.patches(images).flatten(2).transpose(1, 2)  # (B, 16, 6)
        tokens = torch.cat([tokens.mean(dim=1, keepdim=True), tokens], dim=1)
        tokens = self.block(tokens)
        mixed = self.mix(tokens.transpose(1, 2)).tanh()  # (B, 6, 17)
        logits: Tensor = self.head(mixed[:, :, 0])
        return logits


class Flat(nn.Module):
    """A perceptron on the pixels: no spatial map anywhere."""

    def __init__(self) -> None:
        super().__init__()
        self.hidden = nn.Linear(3 * 32 * 32, 5)
        self.head = nn.Linear(5, 10)
        self.idle = nn.Identity()

    def forward(self, images: Tensor) -> Tensor:
        logits: Tensor = self.head(self.hidden(images.flatten(1)).relu())
        return logits


def on(explainer: Explainer, classifier: nn.Module, layer: str) -> Explainer:
    """The same explainer around another classifier; only CAM methods use it."""
    explainer.classifier = classifier.eval().requires_grad_(False)
    explainer.spec = replace(explainer.spec, cam_layer=layer)
    return explainer


@pytest.mark.parametrize("name", FACTORIES)
def test_one_map_an_image_whatever_the_batch(
    name: str, explainer: Explainer, images: Tensor
) -> None:
    images, targets = images[:3], torch.tensor([0, 4, 4])
    method, before, count = FACTORIES[name](explainer), images.clone(), hooks(explainer)
    together = method(images, targets)
    assert together.shape[:2] == (3, 1) and together.dtype == torch.float32
    assert bool(together.isfinite().all()) and not together.requires_grad
    assert torch.equal(images, before)
    for index in range(3):
        alone = method(images[index][None], targets[index][None])
        assert torch.allclose(together[index][None], alone, atol=1e-4)
    other = method(images, torch.tensor([7, 7, 7]))
    assert not torch.allclose(together, other, atol=1e-3)
    assert hooks(explainer) == count
    assert all(value.grad is None for value in explainer.classifier.parameters())


@pytest.mark.parametrize("name", FACTORIES)
def test_inference_mode_changes_nothing(name: str, explainer: Explainer, images: Tensor) -> None:
    targets = torch.tensor([1, 2])
    expected = FACTORIES[name](explainer)(images[:2], targets)
    with torch.inference_mode():
        inside = FACTORIES[name](explainer)(images[:2] + 0, targets + 0)
    with torch.no_grad():
        without = FACTORIES[name](explainer)(images[:2], targets)
    assert torch.allclose(inside, expected, atol=1e-6)
    assert torch.allclose(without, expected, atol=1e-6)


@pytest.mark.parametrize("name", FACTORIES)
@pytest.mark.parametrize("kind", [RuntimeError, IndexError])
def test_hooks_go_after_an_exception(
    name: str, kind: type[Exception], explainer: Explainer, images: Tensor
) -> None:
    method, count = FACTORIES[name](explainer), hooks(explainer)

    def fail(_module: nn.Module, _args: object) -> None:
        if torch.is_grad_enabled():  # past the passes that only record maps
            raise kind("broken")

    handle = explainer.classifier.head.register_forward_pre_hook(fail)
    with pytest.raises(kind, match="broken"):
        method(images[:1], torch.tensor([0]))
    handle.remove()
    assert hooks(explainer) == count


@pytest.mark.parametrize(
    ("factory", "forward", "backward"),
    [(iia_method(steps=3), 12, 9), (opticam_method(iterations=4), 5, 4), (finer_cam(), 1, 1)],
)
def test_passes_are_those_of_the_docstrings(
    factory: Factory, forward: int, backward: int, explainer: Explainer, images: Tensor
) -> None:
    method = factory(explainer)
    with count_passes(explainer.classifier) as passes:
        method(images[:2], torch.tensor([0, 1]))
    assert (passes.forward, passes.backward) == (2 * forward, 2 * backward)


def test_iia_is_its_double_sum(explainer: Explainer, images: Tensor) -> None:
    image, target, steps = images[:1], 4, 3
    expected = torch.zeros(4, 4)
    for outer in (1, 2, 3):
        with torch.no_grad():
            found = explainer.classifier.stages(image * outer / steps)  # (1, 16, 4, 4)
        lowest = torch.stack([channel.min() for channel in found[0]]).view(1, -1, 1, 1)
        for inner in (1, 2, 3):
            point = (lowest + (found - lowest) * inner / steps).requires_grad_(True)
            head(explainer, point)[0, target].backward()
            assert point.grad is not None
            for channel in range(16):
                term = (found - lowest)[0, channel] * point.detach()[0, channel]
                expected += term * point.grad[0, channel] / steps**2
    maps = iia_method(steps=3)(explainer)(image, torch.tensor([target]))
    assert maps.shape == (1, 1, 4, 4)
    assert float(expected.abs().max()) > 1e-3
    assert torch.allclose(maps[0, 0], expected, rtol=1e-4, atol=1e-5)


def test_iia_by_hand_behind_a_nonlinear_layer(explainer: Explainer, images: Tensor) -> None:
    """At an inner layer the gradient changes along the path, and with it the sum's weights."""
    inner = replace(explainer.spec, cam_layer="stages.1.0")  # in front of batch norm and ReLU
    explainer.spec = inner
    image, stages = images[1:2], explainer.classifier.stages
    expected = torch.zeros(8, 8)
    for outer in (0.5, 1.0):
        with torch.no_grad():
            found = stages[1][0](stages[0](outer * image))
        lowest = found.flatten(2).min(dim=2).values[:, :, None, None]
        for step in (0.5, 1.0):
            point = (lowest + step * (found - lowest)).requires_grad_(True)
            rest = stages[2](stages[1][2](stages[1][1](point).clone()))
            (gradient,) = torch.autograd.grad(head(explainer, rest)[0, 3], point)
            expected += ((found - lowest) * point * gradient).sum(dim=(0, 1)).detach() / 4
    maps = iia_method(steps=2)(explainer)(image, torch.tensor([3]))
    assert torch.allclose(maps[0, 0], expected, rtol=1e-4, atol=1e-5)


def test_iia_of_tokens_drops_the_class_token_last(explainer: Explainer, images: Tensor) -> None:
    explainer = on(explainer, TokenClassifier(), "block")
    model, image = explainer.classifier, images[:1]
    kept: list[Tensor] = []
    handle = model.block.register_forward_hook(lambda _m, _a, output: kept.append(output))
    with torch.no_grad():
        model(image)
    handle.remove()
    (tokens,) = kept  # (1, 17, 6)
    point = tokens.clone().requires_grad_(True)
    logits = model.head(model.mix(point.transpose(1, 2)).tanh()[:, :, 0])
    (gradient,) = torch.autograd.grad(logits[0, 2], point)
    product = (tokens - tokens.min(dim=1, keepdim=True).values) * tokens * gradient
    expected = product[0, 1:].sum(dim=1).view(4, 4)  # one step: both integrals at their end
    maps = iia_method(steps=1)(explainer)(image, torch.tensor([2]))
    assert torch.allclose(maps[0, 0], expected, rtol=1e-4, atol=1e-6)
    explainer.spec = replace(explainer.spec, cam_layer="patches")
    assert iia_method(steps=1)(explainer)(image, torch.tensor([2])).shape == (1, 1, 4, 4)


def masked_logits(explainer: Explainer, image: Tensor, mask: Tensor) -> Tensor:
    spec = explainer.spec
    logits: Tensor = explainer.classifier(apply_mask(image, mask, spec.space, spec.mean, spec.std))
    return logits


def slow_opticam(explainer: Explainer, image: Tensor, target: int, iterations: int) -> Tensor:
    """Adam written out, with its usual constants, for one image."""
    with torch.no_grad():
        maps = explainer.classifier.stages(image)[0]  # (16, 4, 4)
    weights, first, second = torch.zeros(16), torch.zeros(16), torch.zeros(16)

    def mask(values: Tensor) -> Tensor:
        shares = values.exp() / values.exp().sum()
        combined = sum(share * single for share, single in zip(shares, maps, strict=True))
        large = F.interpolate(combined[None, None], size=(32, 32), mode="bilinear")
        return (large - large.min()) / (large.max() - large.min())

    for step in range(1, iterations + 1):
        tracked = weights.clone().requires_grad_(True)
        loss = -masked_logits(explainer, image, mask(tracked))[0, target]
        (gradient,) = torch.autograd.grad(loss, tracked)
        first = 0.9 * first + 0.1 * gradient
        second = 0.999 * second + 0.001 * gradient**2
        rate = (first / (1 - 0.9**step)) / ((second / (1 - 0.999**step)).sqrt() + 1e-8)
        weights = weights - 0.1 * rate
    return mask(weights)


def test_opticam_is_its_formula(explainer: Explainer, images: Tensor) -> None:
    targets = torch.tensor([5, 0])
    maps = opticam_method(iterations=5)(explainer)(images[:2], targets)
    assert maps.shape == (2, 1, 32, 32)
    for index in range(2):
        image, target = images[index : index + 1], int(targets[index])
        expected = slow_opticam(explainer, image, target, 5)
        assert torch.allclose(maps[index], expected[0], atol=1e-3)
        assert not torch.allclose(maps[index], slow_opticam(explainer, image, target, 0), atol=1e-2)


def test_opticam_raises_the_masked_probability(explainer: Explainer, images: Tensor) -> None:
    targets = predictions(explainer, images)
    maps = opticam_method(iterations=40)(explainer)(images, targets)
    # Masks lie in [0, 1] and reach both ends.
    assert torch.allclose(maps.amin(dim=(1, 2, 3)), torch.zeros(6), atol=1e-6)
    assert torch.allclose(maps.amax(dim=(1, 2, 3)), torch.ones(6), atol=1e-6)
    for index, target in enumerate(targets.tolist()):
        image = images[index : index + 1]
        uniform = slow_opticam(explainer, image, target, 0)
        with torch.no_grad():
            found = masked_logits(explainer, image, maps[index : index + 1])[0]
            plain = masked_logits(explainer, image, uniform)[0]
        assert float(found[target]) > float(plain[target])
        assert float(found.softmax(0)[target]) > float(plain.softmax(0)[target])


def test_opticam_of_dead_feature_maps_is_constant(explainer: Explainer, images: Tensor) -> None:
    with torch.no_grad():
        explainer.classifier.stages[2][1].weight.zero_()
        explainer.classifier.stages[2][1].bias.fill_(-1)
    maps = opticam_method(iterations=3)(explainer)(images[:1], torch.tensor([0]))
    assert torch.equal(maps, torch.zeros(1, 1, 32, 32))


def grad_cam_of(explainer: Explainer, image: Tensor, score: Callable[[Tensor], Tensor]) -> Tensor:
    """Grad-CAM of a score of the logits, scaled as the library scales it."""
    with torch.no_grad():
        maps = explainer.classifier.stages(image)
    point = maps.clone().requires_grad_(True)
    (gradient,) = torch.autograd.grad(score(head(explainer, point)[0]), point)
    small = (gradient.mean(dim=(2, 3), keepdim=True) * maps).sum(dim=1, keepdim=True).relu()
    small = small - small.min()
    large = F.interpolate(small / (small.max() + 1e-7), size=(32, 32), mode="bilinear")
    large = large - large.min()
    return large / (large.max() + 1e-7)


@pytest.mark.parametrize(("alpha", "similar"), [(1.0, 3), (0.6, 2), (1.0, 50)])
def test_finer_cam_is_its_formula(
    alpha: float, similar: int, explainer: Explainer, images: Tensor
) -> None:
    # Not the predicted classes alone: the target is ours to choose, image by image.
    targets = torch.tensor([0, 3, 5, 5, 8, 9])
    maps = finer_cam(alpha, similar)(explainer)(images, targets)
    alive = 0
    for index, target in enumerate(targets.tolist()):

        def score(logits: Tensor, target: int = target) -> Tensor:
            away = {
                k: abs(float((logits[k] - logits[target]).detach()))
                for k in range(10)
                if k != target
            }
            likes = sorted(away, key=lambda k: away[k])[:similar]
            chances = logits.softmax(dim=0)
            top = sum(chances[k] * (logits[target] - alpha * logits[k]) for k in likes)
            return top / sum(chances[k] for k in likes)

        expected = grad_cam_of(explainer, images[index : index + 1], score)
        assert torch.allclose(maps[index], expected[0], atol=1e-3)
        alive += int(expected.max() > 0)
    assert alive >= 3


def test_finer_cam_compares_with_another_class_of_the_same_logit() -> None:
    """Never with itself: classes 1 and 2 are as alike as can be."""
    logits = torch.tensor([1.0, 2.0, 2.0, -3.0])
    for target in (1, 2):
        assert float(_comparison(target, 1.0, 1)(logits)) == 0
        # Class 0 next: p ∝ e² and e¹, differences 0 and 1.
        second = 1 / (1 + torch.tensor(1.0).exp())
        assert float(_comparison(target, 1.0, 2)(logits)) == pytest.approx(float(second), abs=1e-6)


@pytest.mark.parametrize("factory", [*FACTORIES.values(), cam_method("GradCAM")])
@pytest.mark.parametrize(
    ("layer", "found"),
    [("hidden", r"'hidden' returns \(1, 5\)"), ("idle", "'idle' did not run"), ("nil", "no layer")],
)
def test_networks_without_spatial_maps_are_refused(
    factory: Factory, layer: str, found: str, explainer: Explainer
) -> None:
    explainer, count = on(explainer, Flat(), layer), hooks(explainer)
    with pytest.raises(TTameError, match=rf"does not apply to .*{found}.*set cam_layer"):
        factory(explainer)
    assert hooks(explainer) == count


@pytest.mark.parametrize("factory", [*FACTORIES.values(), cam_method("GradCAM")])
def test_a_layer_that_runs_several_times_is_refused(factory: Factory, explainer: Explainer) -> None:
    relu = nn.ReLU()
    model = nn.Sequential(
        nn.Conv2d(3, 4, 3), relu, nn.Conv2d(4, 4, 3), relu, nn.AdaptiveAvgPool2d(1), nn.Flatten()
    )
    with pytest.raises(TTameError, match=r"'1' runs 2 times in a forward pass .* choose"):
        factory(on(explainer, model, "1"))


def test_a_pooled_map_is_refused_and_a_good_layer_named(explainer: Explainer) -> None:
    name, module = cam_layer_module(explainer, "IIA")
    assert (name, module) == ("stages.2", explainer.classifier.get_submodule("stages.2"))
    pooled = nn.Sequential(nn.Conv2d(3, 4, 3), nn.AdaptiveAvgPool2d(1), nn.Flatten())
    with pytest.raises(TTameError, match=r"IIA .*'1' returns \(1, 4, 1, 1\).*single cell"):
        cam_layer_module(on(explainer, pooled, "1"), "IIA")
    assert cam_layer_module(on(explainer, pooled, "0"), "IIA")[0] == "0"


def test_bad_parameters_and_a_single_class_are_refused(explainer: Explainer) -> None:
    with pytest.raises(TTameError, match="at least 1 step, got 0"):
        iia_method(steps=0)
    with pytest.raises(TTameError, match="at least 1 iteration, got 0"):
        opticam_method(iterations=0)
    with pytest.raises(TTameError, match="above 0, got nan"):
        opticam_method(learning_rate=float("nan"))
    with pytest.raises(TTameError, match="at least 0, got -1"):
        finer_cam(alpha=-1)
    with pytest.raises(TTameError, match="at least 1 similar class, got 0"):
        finer_cam(similar=0)
    explainer.mechanism.classes = 1
    with pytest.raises(TTameError, match="there is only one; take Grad-CAM"):
        finer_cam()(explainer)
