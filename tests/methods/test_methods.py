"""Every compared method under its one signature; ours against slow re-implementations."""

from __future__ import annotations

from dataclasses import replace

import pytest
import pytorch_grad_cam
import torch
from captum.attr import NoiseTunnel, Saliency
from pytorch_grad_cam.utils.model_targets import ClassifierOutputTarget
from torch import Tensor, nn

import ttame
from ttame.attention import AttentionConfig
from ttame.errors import TTameError
from ttame.evaluation.cost import count_passes
from ttame.explainer import Explainer
from ttame.masking import apply_mask, degenerate, normalize_maps
from ttame.methods import DEFAULT_METHODS, METHODS, build, select
from ttame.methods.cam import cam_method
from ttame.methods.replay import replay_size
from ttame.methods.rise import _draw, rise_method

TRANSFORMERS = {"attention rollout", "Transformer attribution", "LeGrad", "LibraGrad"}
OPTIONAL = {"AttnLRP"}  # for transformers, too; its package may be missing
LCAMS = ("L-CAM-Fm", "L-CAM-Img")
PUBLISHED = ("T-TAME (published)", "T-TAME (published with tied rows)")
TRAINED = {*PUBLISHED, "P-TAME", "amortised Shapley", *LCAMS}
# RISE at its full number of masks, and those for transformers, have tests of their own.
NAMES = [name for name in METHODS if name not in {"RISE", *TRANSFORMERS, *OPTIONAL, *TRAINED}]


def predictions(explainer: Explainer, images: Tensor) -> Tensor:
    with torch.no_grad():
        return explainer.classifier(images).argmax(dim=1)


@pytest.mark.parametrize("name", NAMES)
def test_every_method_gives_one_finite_map_an_image(
    name: str, explainer: Explainer, images: Tensor
) -> None:
    targets = predictions(explainer, images)
    before = images.clone()
    maps = build(name, explainer)(images, targets)
    assert maps.shape[:2] == (len(images), 1) and maps.ndim == 4
    assert bool(maps.isfinite().all()) and not maps.requires_grad
    assert torch.equal(images, before)
    if name != "all ones":
        assert int(degenerate(maps).sum()) < len(images)


@pytest.mark.parametrize("name", NAMES)
def test_no_method_depends_on_the_batch(name: str, explainer: Explainer, images: Tensor) -> None:
    targets = predictions(explainer, images)
    method = build(name, explainer)
    together = method(images, targets)
    for index in range(2):
        alone = method(images[index : index + 1], targets[index : index + 1])
        assert torch.allclose(together[index : index + 1], alone, atol=1e-4), name


@pytest.mark.parametrize("name", ["T-TAME", "Grad-CAM", "Layer-CAM", "Integrated Gradients"])
def test_maps_follow_the_target_class(name: str, explainer: Explainer, images: Tensor) -> None:
    method = build(name, explainer)
    first = method(images, torch.zeros(len(images), dtype=torch.int64))
    second = method(images, torch.ones(len(images), dtype=torch.int64))
    assert not torch.allclose(first, second, atol=1e-4)


def test_methods_leave_no_hook_and_no_gradient_behind(explainer: Explainer, images: Tensor) -> None:
    hooks = {name: len(module._forward_hooks) for name, module in explainer.named_modules()}
    for name in NAMES:
        build(name, explainer)(images[:1], predictions(explainer, images[:1]))
    assert hooks == {name: len(m._forward_hooks) for name, m in explainer.named_modules()}
    assert all(value.grad is None for value in explainer.classifier.parameters())
    assert not any(value.requires_grad for value in explainer.classifier.parameters())
    assert not explainer.classifier.training


def test_grad_cam_is_its_formula(explainer: Explainer, images: Tensor) -> None:
    """ReLU(Σ_c mean(∂y/∂A_c) A_c), min-max scaled, on the deepest layer."""
    targets = predictions(explainer, images)
    kept: list[Tensor] = []
    layer = explainer.classifier.get_submodule(explainer.layers[-1])
    handle = layer.register_forward_hook(lambda _m, _i, output: kept.append(output))
    logits = explainer.classifier(images.clone().requires_grad_(True))
    handle.remove()
    (gradient,) = torch.autograd.grad(logits.gather(1, targets[:, None]).sum(), kept[0])
    weights = gradient.mean(dim=(2, 3), keepdim=True)
    expected = (weights * kept[0]).sum(dim=1, keepdim=True).relu().detach()
    found = build("Grad-CAM", explainer)(images, targets)
    for index in range(len(images)):
        if float(expected[index].max()) == 0:
            continue
        small = expected[index] - expected[index].min()
        small = small / small.max()
        large = torch.nn.functional.interpolate(small[None], size=(32, 32), mode="bilinear")
        # The library scales once more after enlarging.
        large = (large - large.min()) / (large.max() - large.min())
        assert torch.allclose(found[index], large[0], atol=1e-4)


def test_refine_cam_is_the_product_of_grad_cam_plus_plus(
    explainer: Explainer, images: Tensor
) -> None:
    """Σ_c w_c A_c with w_c = Σ ReLU(g)·g²/(2g² + g³ ΣA), scaled and enlarged, layer by layer."""
    targets = predictions(explainer, images)
    kept: dict[str, Tensor] = {}
    layers = ("stages.0", "stages.1", "stages.2")
    handles = [
        explainer.classifier.get_submodule(name).register_forward_hook(
            lambda _m, _i, output, name=name: kept.update({name: output})
        )
        for name in layers
    ]
    logits = explainer.classifier(images.clone().requires_grad_(True))
    for handle in handles:
        handle.remove()
    score = logits.gather(1, targets[:, None]).sum()
    expected = torch.ones(len(images), 1, 32, 32)
    for name in layers:
        maps = kept[name]
        (g,) = torch.autograd.grad(score, maps, retain_graph=True)
        share = g**2 / (2 * g**2 + maps.sum(dim=(2, 3), keepdim=True) * g**3 + 1e-6)
        weights = (g.relu() * torch.where(g == 0, 0, share)).sum(dim=(2, 3), keepdim=True)
        cam = (weights * maps).sum(dim=1, keepdim=True).relu().detach()
        expected *= scaled(
            torch.nn.functional.interpolate(scaled(cam), size=(32, 32), mode="bilinear")
        )
    method = build("RefineCAM", explainer)
    with count_passes(explainer.classifier) as passes:
        found = method(images, targets)
    assert (passes.forward, passes.backward) == (3 * len(images), 3 * len(images))
    assert torch.allclose(found, scaled(expected), atol=1e-3)


def scaled(maps: Tensor) -> Tensor:
    maps = maps - maps.amin(dim=(2, 3), keepdim=True)
    return maps / (1e-7 + maps.amax(dim=(2, 3), keepdim=True))


def test_refine_cam_reads_the_classifiers_layers(images: Tensor, explainer: Explainer) -> None:
    """Whatever the explainer reads."""
    single = explainer.replace(spec=replace(explainer.spec, layers=("stages.2",)))
    both = [build("RefineCAM", given)(images, predictions(explainer, images))
            for given in (explainer, single)]  # fmt: skip
    assert torch.equal(*both)


def test_rise_is_the_weighted_mean_of_its_masks(explainer: Explainer, images: Tensor) -> None:
    images, targets = images[:2], predictions(explainer, images)[:2]
    found = rise_method(masks=10, chunk=4, seed=3)(explainer)(images, targets)
    generator, spec = torch.Generator().manual_seed(3), explainer.spec
    drawn = torch.cat([_draw(count, 7, 0.5, images.shape[-2:], generator) for count in (4, 4, 2)])
    assert drawn.shape == (10, 1, 32, 32)
    assert float(drawn.min()) >= 0 and float(drawn.max()) <= 1 + 1e-6
    for index in range(2):
        total = torch.zeros(1, 32, 32)
        for mask in drawn:
            masked = apply_mask(images[index][None], mask[None], spec.space, spec.mean, spec.std)
            with torch.no_grad():
                score = explainer.classifier(masked).softmax(dim=1)[0, targets[index]]
            total += score * mask
        assert torch.allclose(found[index], total / (10 * 0.5), atol=1e-5)


def test_baselines_by_hand(explainer: Explainer, images: Tensor) -> None:
    targets = predictions(explainer, images)
    assert bool((build("all ones", explainer)(images, targets) == 1).all())
    fake = build("Fake-CAM", explainer)(images, targets)
    assert fake.shape[-2:] == images.shape[-2:]
    assert fake.sum(dim=(1, 2, 3)).tolist() == [32 * 32 - 1] * len(images)
    bell = build("centre Gaussian", explainer)(images, targets)[0, 0]
    assert torch.allclose(bell, bell.flip(0)) and torch.allclose(bell, bell.T)
    assert float(bell[13, 13]) == float(bell.max())
    noise = build("random", explainer)(images, targets)
    assert not torch.equal(noise[0], noise[1])


def test_unknown_method_suggests(explainer: Explainer) -> None:
    with pytest.raises(TTameError, match="Score-CAM"):
        build("ScoreCAM", explainer)
    assert set(DEFAULT_METHODS) <= set(METHODS)


def test_ablation_cam_against_a_loop(explainer: Explainer, images: Tensor) -> None:
    targets = predictions(explainer, images)
    found = build("Ablation-CAM", explainer)(images, targets)
    stages = explainer.classifier.get_submodule("stages")
    head = explainer.classifier.get_submodule("head")
    with torch.no_grad():
        for index in range(2):
            last = stages(images[index : index + 1])[0]
            score = float(head(last.mean(dim=(1, 2)))[targets[index]])
            expected = torch.zeros(last.shape[1:])
            for channel in range(16):
                without = last.clone()
                without[channel] = 0
                lost = score - float(head(without.mean(dim=(1, 2)))[targets[index]])
                expected += lost / score * last[channel]
            assert torch.allclose(found[index, 0], expected.relu(), atol=1e-4)


def test_ablation_cam_is_the_librarys(explainer: Explainer, images: Tensor) -> None:
    targets = predictions(explainer, images)
    found = normalize_maps(build("Ablation-CAM", explainer)(images, targets))
    cam = pytorch_grad_cam.AblationCAM(explainer.classifier, [explainer.classifier.stages[2]])
    wanted = [ClassifierOutputTarget(int(target)) for target in targets]
    expected = torch.from_numpy(cam(images, wanted))[:, None]
    large = torch.nn.functional.interpolate(found, size=(32, 32), mode="bilinear")
    for index in range(len(images)):
        if float(expected[index].max()) > 0:  # the library scales once more after enlarging
            assert torch.allclose(normalize_maps(large)[index], expected[index], atol=1e-3)
    assert bool((expected.amax(dim=(1, 2, 3)) > 0).any())


def test_score_cam_is_the_librarys(explainer: Explainer, images: Tensor) -> None:
    targets = predictions(explainer, images)
    found = build("Score-CAM", explainer)(images, targets)
    cam = pytorch_grad_cam.ScoreCAM(explainer.classifier, [explainer.classifier.stages[2]])
    wanted = [ClassifierOutputTarget(int(target)) for target in targets]
    assert torch.allclose(found, torch.from_numpy(cam(images, wanted))[:, None], atol=1e-5)


def test_smooth_grad_is_captums(explainer: Explainer, images: Tensor) -> None:
    targets = predictions(explainer, images)
    found = build("SmoothGrad", explainer)(images, targets)
    library = NoiseTunnel(Saliency(explainer.classifier))
    for index, image in enumerate(images[:, None]):
        torch.manual_seed(0)
        expected = library.attribute(
            image.clone(),
            nt_type="smoothgrad",
            nt_samples=25,
            nt_samples_batch_size=16,
            stdevs=0.15 * float(image.max() - image.min()),
            target=targets[index],
        )
        assert torch.allclose(found[index], expected.abs().sum(dim=1), rtol=1e-3, atol=1e-6)


def test_methods_that_change_the_classifier_are_refused() -> None:
    for kind in ("AblationCAM", "FullGrad"):
        with pytest.raises(TTameError, match=f"{kind} exchanges or hooks modules"):
            cam_method(kind)


def test_ablation_cam_of_maps_with_both_signs(explainer: Explainer, images: Tensor) -> None:
    explainer.spec = replace(explainer.spec, cam_layer="stages.1.1")
    targets = predictions(explainer, images)
    found = build("Ablation-CAM", explainer)(images, targets)[0, 0]
    stages = explainer.classifier.get_submodule("stages")
    head = explainer.classifier.get_submodule("head")
    assert isinstance(stages, nn.Sequential) and isinstance(stages[1], nn.Sequential)
    with torch.no_grad():
        inner = stages[1][:2](stages[0](images[:1]))
        assert float(inner.min()) < 0
        expected = torch.zeros(inner.shape[2:])
        logits = [explainer.classifier(images[:1])]
        for channel in range(inner.shape[1]):
            without = inner.clone()
            without[:, channel] = inner.min() - 1e7
            logits.append(head(stages[2](without.relu()).mean(dim=(2, 3))))
            lost = 1 - logits[-1][0, targets[0]] / logits[0][0, targets[0]]
            expected += lost * inner[0, channel]
    assert torch.allclose(found, expected.relu(), rtol=1e-4, atol=1e-3)


def test_replay_takes_a_corner_only_where_the_logits_stay(explainer: Explainer) -> None:
    classifier = explainer.classifier
    assert replay_size(classifier, "stages.2", (64, 48), 3) == (32, 32)

    class Around(nn.Module):
        """A connection leads past the layer."""

        def __init__(self) -> None:
            super().__init__()
            self.inner = classifier

        def forward(self, images: Tensor) -> Tensor:
            logits: Tensor = self.inner(images) + images.sum(dim=(1, 2, 3))[:, None]
            return logits

    assert replay_size(Around(), "inner.stages.2", (64, 48), 3) == (64, 48)
    assert not any(module._forward_hooks for module in classifier.modules())


def test_methods_that_do_not_apply_are_refused_with_the_reason(explainer: Explainer) -> None:
    for name in TRANSFORMERS:
        with pytest.raises(TTameError, match=r"ToyClassifier.*Vision Transformer"):
            build(name, explainer)
    for name in TRAINED:
        with pytest.raises(TTameError, match="none ships for ToyClassifier; train one with"):
            build(name, explainer)
    names, left_out = select("all", explainer)
    assert set(left_out) == TRANSFORMERS | OPTIONAL | TRAINED and "T-TAME" in names
    assert not set(names) & set(left_out) and set(names) | set(left_out) == set(METHODS)
    assert "T-TAME" not in select("default", explainer, trained=False)[0]
    assert select("Grad-CAM, random", explainer) == (["Grad-CAM", "random"], {})
    with pytest.raises(TTameError, match="Vision Transformer"):
        select("Grad-CAM,LeGrad", explainer)


def test_settings_reach_the_method_or_are_refused(explainer: Explainer, images: Tensor) -> None:
    with count_passes(explainer.classifier) as passes:
        build("RISE", explainer, {"masks": 7})(images, predictions(explainer, images))
    assert passes.forward == 7 * len(images) + len(images)
    targets = predictions(explainer, images)
    method = build("Opti-CAM", explainer, {"iterations": 3})
    with count_passes(explainer.classifier) as passes:
        method(images, targets)
    assert (passes.forward, passes.backward) == (4 * len(images), 3 * len(images))
    with pytest.raises(TTameError, match="Grad-CAM has no settings"):
        build("Grad-CAM", explainer, {"masks": 7})
    with pytest.raises(TTameError, match="RISE needs masks"):
        build("RISE", explainer, {"masks": 0})
    with pytest.raises(TTameError, match=r"RISE.*colour"):
        build("RISE", explainer, {"colour": 7})


def test_shipped_lcams_explain_the_shipped_classifier() -> None:
    shipped = ttame.load("tf_efficientnet_lite0")
    images = torch.randn(2, 3, 224, 224, generator=torch.Generator().manual_seed(0))
    targets = torch.tensor([0, 217])  # classes that training saw
    first, second = (build(name, shipped)(images, targets) for name in LCAMS)
    assert first.shape == second.shape == (2, 1, 7, 7)
    assert not torch.allclose(first, second)
    # One 1x1 convolution on the layer that CAM methods explain.
    trained = ttame.load("tf_efficientnet_lite0_lcam_img")
    maps = trained.extract(images)[1][0]
    weight, bias = trained.mechanism.fusion.weight[:, :, 0, 0], trained.mechanism.fusion.bias
    assert bias is not None
    expected = torch.einsum("bc,bchw->bhw", weight[targets], maps) + bias[targets][:, None, None]
    assert torch.allclose(second[:, 0], expected, atol=1e-4)


def test_the_published_mechanism_has_a_name_of_its_own() -> None:
    shipped = ttame.load("tf_efficientnet_lite0")
    trained = ttame.load("tf_efficientnet_lite0_published")
    assert trained.mechanism.config == AttentionConfig()
    record = trained.record["config"]
    assert isinstance(record, dict) and (record["init"], record["fusion"]) == ("free", "free")
    images = torch.randn(2, 3, 224, 224, generator=torch.Generator().manual_seed(0))
    targets = torch.tensor([0, 217])
    maps = build("T-TAME (published)", shipped)(images, targets)
    assert torch.allclose(maps, trained(images, targets[:, None])[2], atol=1e-4)
    assert maps.shape[-2:] == (28, 28)
    assert build("T-TAME", shipped)(images, targets).shape[-2:] == (7, 7)


def test_a_shipped_lcam_refuses_other_weights() -> None:
    shipped = ttame.load("tf_efficientnet_lite0")
    head = shipped.classifier.get_submodule("classifier")
    assert isinstance(head, nn.Linear)
    head.weight.data = head.weight.data.flip(0)
    with pytest.raises(TTameError, match="this classifier answers otherwise"):
        build("L-CAM-Img", shipped)
