"""Classifiers by name: the papers' three, the shipped transformer, all of timm and torchvision."""

from __future__ import annotations

from pathlib import Path
from typing import Any

import pytest
import timm
import torch
from safetensors.torch import save_file

import ttame
from ttame.classifiers.hybrid import STEM
from ttame.classifiers.registry import backbone_spec, build_backbone, load_backbone
from ttame.classifiers.weights import weight_digest
from ttame.errors import TTameError
from ttame.evaluation.cost import count_passes
from ttame.images import normalize
from ttame.training.config import TrainingConfig
from ttame.training.module import ExplainerModule


@pytest.mark.slow
@pytest.mark.parametrize(
    ("name", "shapes", "parameters"),
    [
        ("vgg16", [(256, 28, 28), (512, 14, 14), (512, 7, 7)], 1_874_664),
        ("resnet50", [(512, 28, 28), (1024, 14, 14), (2048, 7, 7)], 9_100_776),
        ("vit_b_16", [(768, 14, 14)] * 3, 4_081_384),
    ],
)
def test_the_papers_backbones(
    name: str, shapes: list[tuple[int, int, int]], parameters: int
) -> None:
    """Maps, size of the mechanism, one pass an explanation, a step that changes the mechanism."""
    explainer = ttame.attach(name, pretrained=False)
    raw = torch.rand(2, 3, 224, 224)
    images = normalize(raw, explainer.spec)
    with torch.inference_mode():
        maps = explainer.extract(images)[1]
    assert [tuple(found.shape[1:]) for found in maps] == shapes
    # Convolution and bias, batch norm's scale and shift, then the fusion's rows and bias.
    channels = [shape[0] for shape in shapes]
    counted = sum(c * c + 3 * c for c in channels) + 1000 * (sum(channels) + 1)
    assert sum(p.numel() for p in explainer.mechanism.parameters()) == counted == parameters
    with count_passes(explainer.classifier) as passes:
        explanation = explainer.explain(raw)
    assert passes.forward == 2 and passes.backward == 0
    assert explanation.maps.shape == (2, 1, *shapes[0][1:])

    classifier = weight_digest(explainer.classifier)
    before = {key: value.clone() for key, value in explainer.mechanism.named_parameters()}
    config = TrainingConfig.of(init="free", learning_rate=1e-2)
    module = ExplainerModule(explainer, config, total_steps=2)
    optimizer: Any = module.configure_optimizers()["optimizer"]
    explainer.train()
    module.parts(images).total.backward()  # type: ignore[no-untyped-call]
    optimizer.step()
    assert weight_digest(explainer.classifier) == classifier
    moved = [k for k, v in explainer.mechanism.named_parameters() if not torch.equal(v, before[k])]
    assert {key.split(".")[0] for key in moved} == {"branches", "fusion"}
    assert not any(value.requires_grad for value in explainer.classifier.parameters())


def test_both_readings_of_a_transformers_layer() -> None:
    explainer = ttame.attach("vit_b_16", pretrained=False)
    assert explainer.layers[0] == "encoder.layers.encoder_layer_9.ln_1"
    spec = explainer.spec
    assert spec.alternatives["block outputs"][0] == "encoder.layers.encoder_layer_9"
    images = torch.randn(1, 3, 224, 224)
    outputs = ttame.attach("vit_b_16", "block outputs", pretrained=False)
    assert outputs.layers == spec.alternatives["block outputs"]
    with torch.inference_mode():
        norms, blocks = explainer.extract(images)[1], outputs.extract(images)[1]
    assert [found.shape for found in norms] == [found.shape for found in blocks]


def test_an_alternative_is_also_taken_from_a_list() -> None:
    found = ttame.attach("vit_imagenette", ["block outputs"], pretrained=False)
    assert found.layers == ("blocks.2", "blocks.3", "blocks.4")


@pytest.mark.parametrize("layers", ["deepest", ["deepest"]])
def test_the_deepest_of_registered_and_of_chosen_layers(layers: str | list[str]) -> None:
    registered = ttame.attach("vit_imagenette", layers, pretrained=False)
    assert registered.layers == ttame.attach("vit_imagenette", pretrained=False).layers[-1:]
    chosen = ttame.attach("timm/resnet10t", layers, pretrained=False)
    assert chosen.layers == ("layer4",)


def test_weights_from_a_local_file(tmp_path: Path) -> None:
    model = timm.create_model("resnet18", num_classes=1000)
    save_file(model.state_dict(), tmp_path / "weights.safetensors")
    explainer = ttame.attach("timm/resnet18", weights=tmp_path / "weights.safetensors")
    assert weight_digest(explainer.classifier) == weight_digest(model)
    assert explainer.layers == ("layer2", "layer3", "layer4")
    with pytest.raises(TTameError, match=r"weights\.safetensors do not fit timm/resnet10t"):
        ttame.attach("timm/resnet10t", weights=tmp_path / "weights.safetensors")


def test_a_named_classifier_comes_back_with_its_explainer(tmp_path: Path) -> None:
    model = timm.create_model("vit_tiny_patch16_224")
    weights = tmp_path / "weights.safetensors"
    save_file(model.state_dict(), weights)
    name = "timm/vit_tiny_patch16_224"
    explainer = ttame.attach(name, input_size=(64, 96), weights=weights)
    assert explainer.spec.input_size == (64, 96)
    path = explainer.save(tmp_path / "explainer.safetensors")
    again = ttame.load(path, weights=weights)
    raw = torch.rand(2, 3, 64, 96)
    maps = again.explain(raw).maps
    assert maps.shape == (2, 1, 4, 6)
    assert torch.equal(maps, explainer.explain(raw).maps)


def test_facts_of_a_timm_model() -> None:
    spec = backbone_spec("timm/convnext_atto.d2_in1k")
    assert spec.input_size == (224, 224) and spec.head == "head.fc" and spec.layers == ()
    assert spec.resize == 256 and spec.interpolation == "bicubic"
    assert spec.classes[281].startswith("tabby")


def test_facts_of_a_torchvision_model() -> None:
    spec = backbone_spec("torchvision/efficientnet_v2_s")
    assert (spec.input_size, spec.resize) == ((384, 384), 384)
    assert spec.mean == pytest.approx((0.485, 0.456, 0.406))
    assert spec.source.startswith("torchvision efficientnet_v2_s IMAGENET1K")


@pytest.mark.parametrize(
    ("name", "message"),
    [
        ("timm/resnet_18", "timm has no model 'resnet_18'.*resnet18"),
        ("torchvision/resnet19", "torchvision has no classifier 'resnet19'.*'resnet18'"),
        ("resnet18", "timm/NAME"),
        (
            "timm/vit_small_patch14_dinov2",
            "feature extractor without classes.*add and train a head",
        ),
    ],
)
def test_unknown_names_are_refused(name: str, message: str) -> None:
    with pytest.raises(TTameError, match=message):
        backbone_spec(name)


def test_weights_that_cannot_be_had_are_named(monkeypatch: pytest.MonkeyPatch) -> None:
    def offline(*_args: object, **_settings: object) -> None:
        raise OSError("no route to host")

    monkeypatch.setattr("timm.create_model", offline)
    with pytest.raises(TTameError, match=r"timm/resnet18 could not.*no route.*weights=PATH"):
        load_backbone("timm/resnet18")
    monkeypatch.setattr("torchvision.models.ResNet18_Weights.get_state_dict", offline)
    with pytest.raises(TTameError, match=r"resnet18 could not.*no route.*weights=PATH"):
        load_backbone("torchvision/resnet18")


def test_weights_and_no_weights_contradict_each_other(tmp_path: Path) -> None:
    with pytest.raises(TTameError, match=r"pretrained=False.*leave one of them out"):
        ttame.attach("timm/resnet18", weights=tmp_path / "weights.safetensors", pretrained=False)


def test_sizes_that_do_not_fit_are_refused() -> None:
    with pytest.raises(TTameError, match="cannot take images of 8x8"):
        build_backbone("timm/vit_tiny_patch16_224", input_size=(8, 8))


def test_convolutional_networks_take_other_sizes() -> None:
    backbone = build_backbone("torchvision/resnet18", input_size=(128, 96))
    assert backbone.spec.input_size == (128, 96)
    assert backbone.spec.resize == round(backbone_spec("torchvision/resnet18").resize * 96 / 224)


@pytest.mark.data
@pytest.mark.slow
def test_the_shipped_transformer_recognises_imagenette(imagenette_val: Any) -> None:
    """On 200 photos; the record's accuracy is that of all."""
    from ttame.classifiers.classes import imagenette_indices
    from ttame.companion.shipped import training_record
    from ttame.data import PhotoDataset

    backbone = load_backbone("vit_imagenette")
    record = training_record("vit_imagenette", "classifiers")
    assert record["digest"] == weight_digest(backbone.model)
    assert tuple(record["classes"]) == imagenette_indices()
    photos = imagenette_val.sample(200, 0)
    dataset = PhotoDataset(photos, backbone.spec)
    images = torch.stack([dataset[i][0] for i in range(len(photos))])
    with torch.inference_mode():
        found = torch.cat([backbone.model(part).argmax(dim=1) for part in images.split(25)])
    truth = torch.tensor([imagenette_indices().index(label) for label in photos.labels])
    accuracy = 100 * float((found == truth).float().mean())
    assert accuracy >= 85
    assert abs(accuracy - record["top1"]) < 6  # three standard errors of 200 photos


def test_a_stem_that_a_file_leaves_out_is_the_packaged_one(
    monkeypatch: pytest.MonkeyPatch, tmp_path: Path
) -> None:
    whole = load_backbone("vit_imagenette").model
    trained = {key: value for key, value in whole.state_dict().items() if not key.startswith(STEM)}
    save_file(trained, tmp_path / "vit_imagenette.safetensors")
    monkeypatch.setattr("ttame.classifiers.zoo.shipped", lambda _kind: tmp_path)
    state = load_backbone("vit_imagenette").model.state_dict()
    assert state.keys() == whole.state_dict().keys()
    assert all(torch.equal(state[key], value) for key, value in trained.items())
    lite0 = load_backbone("tf_efficientnet_lite0").model.state_dict()
    assert torch.equal(state[f"{STEM}.0.weight"], lite0["conv_stem.weight"])  # not rounded
