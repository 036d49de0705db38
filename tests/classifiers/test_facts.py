"""Facts of the input: stated by the model, through wrappers, or asked for by name."""

from __future__ import annotations

from typing import Any

import pytest
import timm
import torch
import torchvision
from torch import Tensor, nn
from torchvision.transforms import v2

import ttame
from tests.conftest import ToyClassifier
from ttame.classifiers.facts import IMAGENET_MEAN, IMAGENET_STD, stated_facts
from ttame.classifiers.inputs import input_facts
from ttame.classifiers.specs import BackboneSpec
from ttame.errors import TTameError

CLIP_MEAN, CLIP_STD = (0.48145466, 0.4578275, 0.40821073), (0.26862954, 0.26130258, 0.27577711)


def timm_model(**changes: Any) -> nn.Module:
    """A small network whose weights are random and whose configuration is `changes`."""
    model = timm.create_model("resnet10t", num_classes=4).eval()
    model.pretrained_cfg = {**model.pretrained_cfg, "input_size": (3, 64, 96), **changes}
    return model


class Around(nn.Module):
    """Holds a model under a usual name and changes its images first."""

    def __init__(self, model: nn.Module, change: Any = None) -> None:
        super().__init__()
        self.backbone, self.change = model, change or nn.Identity()

    def forward(self, pixels: Tensor) -> Tensor:
        logits: Tensor = self.backbone(self.change(pixels))
        return logits


class Times(nn.Module):
    def __init__(self, factor: float) -> None:
        super().__init__()
        self.factor = factor

    def forward(self, images: Tensor) -> Tensor:
        return images * self.factor


@pytest.mark.parametrize(
    "wrap",
    [
        lambda model: model,
        nn.DataParallel,
        lambda model: torch.compile(model, backend="eager"),
        Around,
        lambda model: Around(nn.Sequential(Around(model), nn.Identity())),
        lambda model: nn.DataParallel(Around(torch.compile(model, backend="eager"))),
    ],
    ids=["bare", "parallel", "compiled", "attribute", "deep", "mixed"],
)
def test_the_facts_of_a_model_are_found_through_wrappers_that_change_nothing(wrap: Any) -> None:
    model = timm_model(mean=CLIP_MEAN, std=CLIP_STD, interpolation="bicubic", crop_pct=0.8)
    spec = ttame.attach(wrap(model)).spec
    assert (spec.mean, spec.std, spec.channels) == (CLIP_MEAN, CLIP_STD, 3)
    assert spec.input_size == (64, 96) and spec.resize == 80  # 64 / 0.8
    assert spec.interpolation == "bicubic"
    assert spec.head.endswith("fc")


def test_a_head_inside_a_wrapper_has_its_full_name() -> None:
    explainer = ttame.attach(Around(timm_model()))
    assert explainer.spec.head == "backbone.fc"
    assert isinstance(explainer.classifier.get_submodule(explainer.spec.head), nn.Linear)


@pytest.mark.parametrize(
    ("change", "mean", "std"),
    [
        # The model's own normalisation in the wrapper leaves none: images in [0, 1].
        (v2.Normalize(IMAGENET_MEAN, IMAGENET_STD), (0.0, 0.0, 0.0), (1.0, 1.0, 1.0)),
        # Images times 1/255, then the normalisation: the wrapper takes 0 to 255, 255 x.
        (nn.Sequential(Times(1 / 255), v2.Normalize(IMAGENET_MEAN, IMAGENET_STD)),
         (0.0, 0.0, 0.0), (0.00392157,) * 3),
        # (x - 0.485) / 0.229 = 2 y: y is (x - 0.485) / 0.458.
        (Times(2.0), IMAGENET_MEAN, (0.458, 0.448, 0.45)),
        # y - 0.5 = (x - 0.485) / 0.229: y is (x - 0.485 + 0.5 · 0.229) / 0.229.
        (v2.Normalize((0.5, 0.5, 0.5), (1.0, 1.0, 1.0)),
         (0.485 - 0.1145, 0.456 - 0.112, 0.406 - 0.1125), IMAGENET_STD),
    ],
    ids=["normalises", "takes 0 to 255", "scales", "shifts"],
)  # fmt: skip
def test_what_a_wrapper_does_to_its_images_is_measured(
    change: nn.Module, mean: tuple[float, ...], std: tuple[float, ...]
) -> None:
    model = timm_model(mean=IMAGENET_MEAN, std=IMAGENET_STD)
    spec = ttame.attach(nn.Sequential(change, model)).spec
    assert spec.mean == pytest.approx(mean, abs=2e-6)
    assert spec.std == pytest.approx(std, rel=2e-6)


@pytest.mark.parametrize("dtype", [torch.float64, torch.bfloat16, torch.float16])
def test_a_normalisation_is_measured_in_any_precision(dtype: torch.dtype) -> None:
    model = nn.Sequential(v2.Normalize(IMAGENET_MEAN, IMAGENET_STD), timm_model()).to(dtype)
    facts = input_facts(model.eval())
    assert facts["mean"] == pytest.approx((0, 0, 0), abs=1e-2)
    assert facts["std"] == pytest.approx((1, 1, 1), rel=1e-2)


@pytest.mark.parametrize(
    "change",
    [v2.Resize(32), v2.Lambda(lambda x: x.flip(1)), v2.Lambda(torch.tanh), v2.RGB()],
    ids=["resizes", "turns colours", "bends", "nothing"],
)
def test_facts_behind_other_changes_are_asked_for(change: nn.Module) -> None:
    model = nn.Sequential(change, timm_model())
    if isinstance(change, v2.RGB):
        assert ttame.attach(model).spec.input_size == (64, 96)
        return
    with pytest.raises(TTameError, match=r"input size and normalisation of Sequential are not"):
        ttame.attach(model)
    assert ttame.attach(model, input_size=(64, 96), mean=0, std=1).spec.mean == (0.0, 0.0, 0.0)


def test_models_side_by_side_have_to_agree() -> None:
    class Both(nn.Module):
        def __init__(self, **changes: Any) -> None:
            super().__init__()
            self.first, self.second = timm_model(), timm_model(**changes)

        def forward(self, images: Tensor) -> Tensor:
            return self.first(images) + self.second(images)  # type: ignore[no-any-return]

    assert ttame.attach(Both(), ["first.layer4"]).spec.mean == IMAGENET_MEAN
    with pytest.raises(TTameError, match=r"normalisation of Both is not known; pass mean per"):
        ttame.attach(Both(mean=(0.5, 0.5, 0.5)), ["first.layer4"])


def test_a_model_that_states_nothing_is_asked_about(toy: nn.Module) -> None:
    with pytest.raises(TTameError) as caught:
        ttame.attach(toy)
    assert str(caught.value) == (
        "the input size and normalisation of ToyClassifier are not known; pass input_size=(H, W), "
        "and mean and std per channel (3), for images in [0, 1]: mean=(0.485, 0.456, 0.406), "
        "std=(0.229, 0.224, 0.225) for ImageNet's; mean=0, std=1 for a model that normalises its "
        "input itself"
    )
    with pytest.raises(TTameError, match=r"the normalisation of ToyClassifier is .*; pass std per"):
        ttame.attach(toy, input_size=(32, 32), mean=0.5)


def test_numbers_for_all_channels(toy: nn.Module) -> None:
    spec = ttame.attach(toy, input_size=(32, 32), mean=0, std=0.5).spec
    assert spec.mean == (0.0, 0.0, 0.0) and spec.std == (0.5, 0.5, 0.5)
    named = ttame.attach("timm/resnet10t", pretrained=False, input_size=(64, 64), mean=0, std=1)
    assert named.spec.mean == (0.0, 0.0, 0.0) and named.spec.std == (1.0, 1.0, 1.0)


@pytest.mark.parametrize(
    ("facts", "message"),
    [
        ({"mean": (0.5, 0.5)}, r"std must be one finite number, or one for each of 2 channels"),
        ({"channels": 13}, r"mean must be one finite number, or one for each of 13 channels"),
        ({"channels": 0}, "channels must be a positive whole number, got 0"),
        ({"channels": 2.5}, r"channels must be a positive whole number, got 2\.5"),
        ({"std": (0.5, 0.0, 0.5)}, "std must be above 0"),
        ({"mean": float("nan")}, "mean must be one finite number"),
        ({"input_size": 32}, r"input_size must be \(height, width\) in pixels, got 32"),
        ({"input_size": (32, -1)}, r"got \(32, -1\)"),
    ],
    ids=str,
)
def test_facts_that_cannot_be_are_refused(
    toy: nn.Module, facts: dict[str, Any], message: str
) -> None:
    given = {"input_size": (32, 32), "mean": (0.5,) * 3, "std": (0.5,) * 3, **facts}
    with pytest.raises(TTameError, match=message):
        ttame.attach(toy, **given)


def test_a_spec_has_one_mean_and_std_per_channel() -> None:
    assert BackboneSpec("x", None, None, (), "", mean=(0.5,) * 13, std=(1.0,) * 13).channels == 13
    with pytest.raises(TTameError, match="one number for each channel"):
        BackboneSpec("x", None, None, (), "", mean=(0.5,))


def test_a_named_model_keeps_its_channels() -> None:
    with pytest.raises(TTameError, match=r"timm/resnet10t takes 3 channels, got channels=1; build"):
        ttame.attach("timm/resnet10t", pretrained=False, channels=1)


def test_a_timm_model_of_other_channels_states_no_normalisation() -> None:
    model = timm.create_model("resnet10t", in_chans=13, num_classes=4)
    with pytest.raises(TTameError, match=r"pass mean and std per channel \(13\)") as caught:
        ttame.attach(model, input_size=(64, 64))
    assert "ImageNet" not in str(caught.value)
    spec = ttame.attach(model, input_size=(64, 64), mean=[0.1] * 13, std=0.5).spec
    assert spec.channels == 13 and spec.std == (0.5,) * 13


class Unshuffled(nn.Module):
    """Reads blocks of 4x4 pixels as channels before its first convolution, as TResNet does."""

    def __init__(self) -> None:
        super().__init__()
        self.pretrained_cfg = {"input_size": (3, 64, 64), "mean": (0.1,) * 3, "std": (0.2,) * 3}
        self.stem, self.body = nn.PixelUnshuffle(4), nn.Conv2d(48, 8, 3, padding=1)
        self.head = nn.Linear(8, 5)

    def forward(self, images: Tensor) -> Tensor:
        logits: Tensor = self.head(self.body(self.stem(images)).mean(dim=(2, 3)))
        return logits


def test_the_first_convolution_need_not_see_the_images_channels() -> None:
    explainer = ttame.attach(Unshuffled())
    assert explainer.spec.channels == 3 and explainer.spec.mean == (0.1,) * 3
    assert explainer.explain(torch.rand(2, 3, 64, 64)).maps.shape == (2, 1, 16, 16)


def test_models_without_a_convolution_are_asked_for_their_channels() -> None:
    class Linear(nn.Module):
        def __init__(self) -> None:
            super().__init__()
            self.patches, self.head = nn.Linear(2 * 64, 8), nn.Linear(8, 5)

        def forward(self, images: Tensor) -> Tensor:
            cells = images.unfold(2, 8, 8).unfold(3, 8, 8).permute(0, 2, 3, 1, 4, 5)
            logits: Tensor = self.head(self.patches(cells.flatten(3)).relu().mean(dim=(1, 2)))
            return logits

    given: Any = {"input_size": (32, 48), "mean": 0, "std": 1}
    with pytest.raises(TTameError, match=r"input channels of Linear are not known; pass channels"):
        ttame.attach(Linear(), **given)
    explainer = ttame.attach(Linear(), "patches", channels=2, **given)
    assert explainer.explain(torch.rand(2, 40, 60)).maps.shape == (1, 1, 4, 6)


# torchvision's weights are not stored with its models


def published(module: str) -> set[tuple[tuple[float, ...], tuple[float, ...]]]:
    """Normalisations of all ImageNet classifiers that torchvision publishes for a module."""
    return {
        (tuple(recipe.mean), tuple(recipe.std))
        for name in torchvision.models.list_models(module=torchvision.models)
        if torchvision.models.get_model_builder(name).__module__ == f"torchvision.models.{module}"
        for weights in torchvision.models.get_model_weights(name)
        if weights.name != "IMAGENET1K_FEATURES"
        for recipe in [weights.transforms()]
    }


@pytest.mark.parametrize(
    ("name", "module"), [("squeezenet1_1", "squeezenet"), ("shufflenet_v2_x0_5", "shufflenetv2")]
)
def test_torchvision_models_of_1000_classes_have_its_normalisation(name: str, module: str) -> None:
    assert published(module) == {(IMAGENET_MEAN, IMAGENET_STD)}
    model = torchvision.models.get_model(name)
    for form in (model, Around(model)):
        spec = ttame.attach(form, input_size=(64, 96)).spec
        assert (spec.mean, spec.std, spec.resize) == (IMAGENET_MEAN, IMAGENET_STD, 73)  # 64/.875
    normalised = nn.Sequential(v2.Normalize(IMAGENET_MEAN, IMAGENET_STD), model)
    assert ttame.attach(normalised, input_size=(64, 96)).spec.mean == (0.0, 0.0, 0.0)


def test_torchvision_models_are_asked_for_their_size_alone() -> None:
    message = r"^the input size of SqueezeNet is not known; pass input_size=\(H, W\)$"
    with pytest.raises(TTameError, match=message):
        input_facts(torchvision.models.squeezenet1_1().eval())


def test_a_torchvision_model_of_other_classes_is_asked_about() -> None:
    model = torchvision.models.shufflenet_v2_x0_5(num_classes=10)
    with pytest.raises(TTameError, match="normalisation of ShuffleNetV2 is not known"):
        ttame.attach(model, input_size=(64, 64))


def test_torchvisions_efficientnets_differ_in_their_normalisation() -> None:
    assert len(published("efficientnet")) == 2
    with torch.device("meta"):
        model = torchvision.models.efficientnet_b0()
    assert stated_facts(model, outputs=1000) == {}


def test_looking_facts_up_changes_nothing(toy: nn.Module) -> None:
    model = nn.Sequential(v2.Normalize(IMAGENET_MEAN, IMAGENET_STD), timm_model()).train()
    before = {name: value.clone() for name, value in model.state_dict().items()}
    input_facts(model)
    assert model.training
    assert all(torch.equal(value, before[name]) for name, value in model.state_dict().items())
    assert not any(module._forward_hooks for module in model.modules())


def test_the_channels_of_a_toy_are_those_of_its_convolution() -> None:
    model = ToyClassifier()
    assert len(input_facts(model.eval(), input_size=(8, 8), mean=0, std=1)["mean"]) == 3
