"""P-TAME: feature maps of an auxiliary network for a classifier that is a black box."""

from __future__ import annotations

import json
import warnings
from collections.abc import Callable
from dataclasses import replace
from functools import partial
from pathlib import Path
from typing import Any

import pytest
import torch
import torch.nn.functional as F
from safetensors import safe_open
from safetensors.torch import load_file, save_file
from torch import Tensor, nn

import ttame
from tests.conftest import ToyClassifier, randomize_batch_norm
from ttame.attention import AttentionConfig
from ttame.classifiers.auxiliary import Auxiliary, open_auxiliary
from ttame.classifiers.registry import BACKBONES, Backbone, freeze
from ttame.classifiers.specs import BackboneSpec
from ttame.classifiers.weights import weight_digest
from ttame.data import PhotoList
from ttame.errors import TTameError
from ttame.evaluation.cost import count_passes
from ttame.evaluation.evaluate import evaluate
from ttame.explainer import Explainer
from ttame.images import normalize
from ttame.methods import build, ttame_method
from ttame.records import read_results
from ttame.saving import FORMAT
from ttame.training.checkpoints import run_identity
from ttame.training.config import TrainingConfig
from ttame.training.fit import fit, prepare_on
from ttame.training.initialization import class_gradients, surrogate_rows
from ttame.training.module import ExplainerModule
from ttame.training.planning import module_at_start
from ttame.training.recipes import DECODED, open_recipe

FACTS: Any = {"input_size": (32, 32), "mean": (0.4, 0.5, 0.6), "std": (0.2, 0.25, 0.5)}


class BlackBox(nn.Module):
    """A classifier without a spatial layer: mean colours, and a linear head."""

    def __init__(self, classes: int = 4) -> None:
        super().__init__()
        self.head = nn.Linear(3, classes)

    def forward(self, images: Tensor) -> Tensor:
        logits: Tensor = self.head(images.mean(dim=(2, 3)))
        return logits


def small_network() -> nn.Module:
    with torch.random.fork_rng():
        torch.manual_seed(7)
        model = ToyClassifier(classes=3)
        randomize_batch_norm(model)
    return model


@pytest.fixture
def small(monkeypatch: pytest.MonkeyPatch) -> BackboneSpec:
    """A registered auxiliary network of 32 px, of another normalisation and other classes."""
    spec = BackboneSpec(
        name="small", build=partial(ToyClassifier, 3), weights=lambda: small_network().state_dict(),
        layers=("stages.1", "stages.2"), head="head", input_size=(32, 32), resize=36,
        mean=(0.5, 0.5, 0.5), std=(0.5, 0.5, 0.5), classes=("x", "y", "z"),
    )  # fmt: skip
    monkeypatch.setitem(BACKBONES, "small", spec)
    return spec


@pytest.fixture
def black_box(small: BackboneSpec) -> Explainer:
    return ttame.attach(BlackBox(), features="small", **FACTS)


@pytest.fixture
def box_images(raw_images: Tensor, black_box: Explainer) -> Tensor:
    return normalize(raw_images, black_box.spec)


# What is read


@torch.no_grad()
def test_maps_are_the_auxiliary_networks_and_logits_the_classifiers(
    black_box: Explainer, raw_images: Tensor, box_images: Tensor
) -> None:
    assert black_box.layers == ("stages.1", "stages.2")
    logits, maps = black_box.features(box_images)
    assert torch.equal(logits, black_box.classifier(box_images))
    network = small_network().eval()
    seen = 2 * raw_images - 1  # mean and std of 0.5
    first = network.stages[1](network.stages[0](seen))
    assert torch.allclose(maps[0], first, atol=1e-5)
    assert torch.allclose(maps[1], network.stages[2](first), atol=1e-5)
    assert black_box.mechanism.channels == (12, 16)
    assert black_box.mechanism.classes == 4  # the black box's, not the network's three


def test_images_are_converted_by_hand_values(small: BackboneSpec) -> None:
    explained = BackboneSpec("box", None, None, (), "", mean=(0.4, 0.5, 0.6), std=(0.2, 0.25, 0.5))
    auxiliary = Auxiliary(freeze(replace(small, input_size=(224, 224)), BlackBox()), explained)
    image = torch.tensor([1.0, -2.0, 0.2])[None, :, None, None].expand(1, 3, 224, 224)
    # Raw: 0.4 + 0.2 = 0.6, 0.5 - 0.5 = 0, 0.6 + 0.1 = 0.7; then (raw - 0.5) / 0.5.
    expected = torch.tensor([0.2, -1.0, 0.4])[None, :, None, None].expand_as(image)
    assert torch.allclose(auxiliary.prepare(image), expected, atol=1e-6)


def test_images_are_not_touched_where_both_networks_agree(small: BackboneSpec) -> None:
    auxiliary = Auxiliary(freeze(small, BlackBox()), small)
    image = torch.randn(2, 3, 32, 32)
    assert torch.equal(auxiliary.prepare(image), image)


@pytest.mark.parametrize(("side", "larger"), [(16, False), (64, True)])
def test_another_input_size_is_resized_and_said(
    small: BackboneSpec, side: int, larger: bool
) -> None:
    with pytest.warns(UserWarning, match=f"small reads 32x32 pixels: .*{side}x{side}, are resized"):
        explainer = ttame.attach(
            BlackBox(), features="small", input_size=(side, side), channels=3, mean=0.5, std=0.5
        )
    assert explainer.auxiliary is not None
    images = torch.rand(2, 3, side, side)
    seen = explainer.auxiliary.prepare(images)
    if larger:  # antialiased by a factor of 2: each pixel is a mean with its neighbours
        inner = F.interpolate(images, size=(32, 32), mode="bilinear", antialias=True)
    else:
        inner = F.interpolate(images, size=(32, 32), mode="bilinear")
    assert torch.allclose(seen, inner, atol=1e-6)
    assert explainer.features(images)[1][0].shape == (2, 12, 8, 8)
    # A larger image is resized by the same factor.
    assert explainer.auxiliary.prepare(torch.rand(1, 3, 2 * side, side)).shape == (1, 3, 64, 32)


def test_no_warning_where_sizes_agree(small: BackboneSpec) -> None:
    with warnings.catch_warnings():
        warnings.simplefilter("error")
        ttame.attach(BlackBox(), features="small", **FACTS)


def test_any_size_of_image_is_explained(black_box: Explainer) -> None:
    logits, _, maps = black_box(torch.randn(2, 3, 64, 48))
    assert logits.shape == (2, 4) and maps.shape == (2, 1, 16, 12)


def test_a_classifier_in_half_precision_has_an_auxiliary_network_in_single(
    black_box: Explainer, raw_images: Tensor
) -> None:
    half = ttame.attach(BlackBox().half(), features="small", **FACTS)
    assert half.auxiliary is not None
    assert next(half.auxiliary.parameters()).dtype == torch.float32
    images = normalize(raw_images, half.spec).half()
    _, maps = half.features(images)
    assert torch.allclose(maps[0], black_box.features(images.float())[1][0], atol=1e-2)
    assert half.explain(raw_images).maps.dtype == torch.float32


# What is refused


def test_unfit_networks_are_refused(small: BackboneSpec, monkeypatch: pytest.MonkeyPatch) -> None:
    with pytest.raises(TTameError, match=r"unknown backbone 'smal'.*Did you mean 'small'"):
        ttame.attach(BlackBox(), features="smal", **FACTS)
    with pytest.raises(TTameError, match="must be the name of a network, got a ToyClassifier"):
        ttame.attach(BlackBox(), features=ToyClassifier(), **FACTS)  # type: ignore[arg-type]
    with pytest.raises(TTameError, match=r"'small' takes images of 32x32, .*48x32, which a resize"):
        ttame.attach(BlackBox(), features="small", **{**FACTS, "input_size": (48, 32)})
    grey = replace(small, name="grey", mean=(0.5,), std=(0.5,))
    box = Backbone(small, BlackBox())
    monkeypatch.setitem(BACKBONES, "grey", grey)
    with pytest.raises(TTameError, match="'grey' takes images of 1 channels, small of 3"):
        open_auxiliary("grey", box)


def test_layers_are_the_auxiliary_networks(small: BackboneSpec) -> None:
    explainer = ttame.attach(BlackBox(), "deepest", features="small", **FACTS)
    assert explainer.layers == ("stages.2",)
    with pytest.raises(TTameError, match=r"ToyClassifier has no layer 'head\.0'"):
        ttame.attach(BlackBox(), ["head.0"], features="small", **FACTS)
    with pytest.raises(TTameError, match="BlackBox has no layer with a spatial feature map"):
        ttame.attach(BlackBox(), **FACTS)  # the reason to have a network beside it


def test_cam_methods_say_why_they_do_not_apply(black_box: Explainer) -> None:
    with pytest.raises(TTameError, match="on feature maps of small, and no layer of its own"):
        build("Grad-CAM", black_box)


# A black box


def test_explaining_asks_the_classifier_for_its_answer_alone(
    black_box: Explainer, raw_images: Tensor
) -> None:
    assert black_box.auxiliary is not None
    with (
        count_passes(black_box.classifier) as asked,
        count_passes(black_box.auxiliary.model) as own,
    ):
        black_box.explain(raw_images)
    assert (asked.forward, asked.backward) == (6, 0)
    assert (own.forward, own.backward) == (6, 0)
    assert not any(value.requires_grad for value in black_box.auxiliary.parameters())


def test_frozen_networks_stay_in_eval_mode(black_box: Explainer) -> None:
    black_box.train()
    assert black_box.auxiliary is not None and black_box.mechanism.training
    assert not any(module.training for module in black_box.auxiliary.modules())
    assert not any(module.training for module in black_box.classifier.modules())


def test_the_cost_counts_the_passes_of_both_networks(
    black_box: Explainer, photos: PhotoList, tmp_path: Path
) -> None:
    few = photos.select(range(3))
    out = evaluate(black_box, few, tmp_path / "run.jsonl", methods=("T-TAME", "random"))
    records = read_results(out)[1]
    passes = records.groupby("method")[["forward", "backward"]].mean()
    assert passes.loc["T-TAME"].tolist() == [2, 0]
    assert passes.loc["random"].tolist() == [0, 0]
    mine = {"mine": ttame_method(black_box)}
    records = read_results(evaluate(black_box, few, tmp_path / "mine.jsonl", methods=mine))[1]
    assert records["forward"].tolist() == [2, 2, 2]


def test_p_tame_is_refused_where_none_ships(black_box: Explainer) -> None:
    with pytest.raises(TTameError, match="--recipe ptame --features tf_efficientnet_lite0"):
        build("P-TAME", black_box)


# Files


def test_a_saved_explainer_gives_the_same_maps(
    black_box: Explainer, raw_images: Tensor, tmp_path: Path
) -> None:
    path = black_box.save(tmp_path / "box.safetensors")
    again = ttame.load(path, model=black_box.classifier)
    assert again.auxiliary is not None and black_box.auxiliary is not None
    assert again.auxiliary.facts() == black_box.auxiliary.facts()
    assert torch.equal(again.explain(raw_images).maps, black_box.explain(raw_images).maps)
    with safe_open(path, framework="pt") as handle:
        header = json.loads(handle.metadata()[FORMAT])
    assert header["version"] == 2  # older readers would take the layers for the classifier's
    assert header["auxiliary"] == {
        "name": "small", "digest": weight_digest(small_network()), "input_size": [32, 32],
        "mean": [0.5, 0.5, 0.5], "std": [0.5, 0.5, 0.5],
    }  # fmt: skip


def test_files_without_an_auxiliary_network_are_as_before(
    explainer: Explainer, tmp_path: Path
) -> None:
    with safe_open(explainer.save(tmp_path / "toy.safetensors"), framework="pt") as handle:
        header = json.loads(handle.metadata()[FORMAT])
    assert header["version"] == 1 and "auxiliary" not in header


@pytest.mark.parametrize(
    ("change", "message"),
    [
        (lambda found: found.update(digest="0" * 16), "weights 0{16}, the network at hand has"),
        (lambda found: found.update(name="absent"), "unknown backbone 'absent'"),
        (lambda found: found.pop("mean"), "lacks or misplaces 'auxiliary'"),
        (lambda found: found.update(input_size=32), "lacks or misplaces 'auxiliary'"),
        (lambda found: found.update(std=["a", 1, 1]), "std of small must be one finite number"),
    ],
)
def test_damaged_files_are_refused(
    black_box: Explainer, tmp_path: Path, change: Callable[[dict[str, Any]], object], message: str
) -> None:
    path = black_box.save(tmp_path / "box.safetensors")
    with safe_open(path, framework="pt") as handle:
        header = json.loads(handle.metadata()[FORMAT])
    change(header["auxiliary"])
    save_file(load_file(path), path, metadata={FORMAT: json.dumps(header)})
    with pytest.raises(TTameError, match=message):
        ttame.load(path, model=black_box.classifier)


# Training


def box_config(**changes: Any) -> TrainingConfig:
    return TrainingConfig.of(
        **{"batch_size": 4, "steps": 3, "workers": 0, "init": "free", **changes}
    )


def test_the_surrogate_is_the_ridge_regression_of_the_logits(
    black_box: Explainer, box_images: Tensor
) -> None:
    found = surrogate_rows(black_box, box_images)
    logits, maps = black_box.features(box_images)
    channels = maps[-1].mean(dim=(2, 3)).double()
    x, y = channels - channels.mean(0), logits.double() - logits.double().mean(0)
    # The primal solution, (XᵀX + λ)⁻¹Xᵀy, where the code solves the dual.
    penalty = x.square().sum() / len(x)
    expected = torch.linalg.inv(x.T @ x + penalty * torch.eye(16, dtype=x.dtype)) @ x.T @ y
    assert torch.allclose(found.double(), expected.T, atol=1e-6)
    assert found.shape == (4, 16) and found.dtype == torch.float32


def test_the_surrogate_needs_photos_that_differ(black_box: Explainer, box_images: Tensor) -> None:
    with pytest.raises(TTameError, match=r"of 2 photos, and those of layer 'stages\.2' do not"):
        surrogate_rows(black_box, box_images[:1].repeat(2, 1, 1, 1))


def test_a_start_that_does_not_exist_is_refused(black_box: Explainer, box_images: Tensor) -> None:
    for given in ({"init": "classifier"}, {"fusion": "tied"}):
        with pytest.raises(TTameError, match=r"of BlackBox .*maps are those of small; use"):
            prepare_on(black_box, box_images, box_config(**given))
    with pytest.raises(TTameError, match="are those of small"):
        class_gradients(black_box, box_images)
    with pytest.raises(TTameError, match="masked='features' masks a feature map of BlackBox"):
        ExplainerModule(black_box, box_config(masked="features"), 3)


def test_our_recipe_starts_at_the_surrogate(small: BackboneSpec, raw_images: Tensor) -> None:
    explainer = ttame.attach(BlackBox(), "deepest", features="small", config=DECODED, **FACTS)
    images = normalize(raw_images, explainer.spec)
    working = prepare_on(explainer, images, open_recipe("ptame"))
    rows = surrogate_rows(explainer, images)
    expected = rows / rows.norm(dim=1).mean()
    assert torch.allclose(working.mechanism.fusion.weight[..., 0, 0], expected, atol=1e-4)


@pytest.mark.parametrize("recipe", ["published", "ptame"])
def test_training_moves_the_mechanism_alone(
    small: BackboneSpec, photos: PhotoList, tmp_path: Path, recipe: str
) -> None:
    shape = DECODED if recipe == "ptame" else AttentionConfig()
    explainer = ttame.attach(BlackBox(), features="small", config=shape, **FACTS)
    assert explainer.auxiliary is not None
    before = [weight_digest(explainer.classifier), weight_digest(explainer.auxiliary.model)]
    keep = "best" if recipe == "ptame" else "last"
    config = open_recipe(recipe).replace(batch_size=5, steps=3, workers=0, keep=keep)
    trained = fit(
        explainer, photos, config, tmp_path / "run", validation=photos.select(range(4)),
        progress=False,
    )  # fmt: skip
    assert trained.auxiliary is not None
    after = [weight_digest(trained.classifier), weight_digest(trained.auxiliary.model)]
    assert after == before
    assert trained.record["auxiliary"] == explainer.auxiliary.facts()
    checkpoint = torch.load(tmp_path / "run/checkpoints/last.ckpt", weights_only=True)
    assert all(key.startswith("explainer.mechanism.") for key in checkpoint["state_dict"])
    again = ttame.load(tmp_path / "run/ttame.safetensors", model=explainer.classifier)
    images = torch.randn(2, 3, 32, 32)
    assert torch.equal(again(images)[2], trained(images)[2])
    start = prepare_on(explainer, images, config.replace(init="free", fusion="free")).eval()
    assert not torch.allclose(start(images)[2], trained(images)[2])


def test_the_classifiers_gradients_are_used_in_training(
    black_box: Explainer, box_images: Tensor
) -> None:
    module = ExplainerModule(black_box.train(), box_config(), 3)
    with count_passes(black_box.classifier) as asked:
        module.parts(box_images).total.backward()  # type: ignore[no-untyped-call]
    assert (asked.forward, asked.backward) == (12, 6)  # whole and masked; the masked one back
    assert black_box.mechanism.fusion.weight.grad is not None


def test_a_run_on_other_features_is_another_run(
    black_box: Explainer, toy: nn.Module, photos: PhotoList
) -> None:
    identity = run_identity(black_box, photos, box_config())
    assert black_box.auxiliary is not None
    assert identity["auxiliary"] == black_box.auxiliary.facts()


def test_a_plan_needs_no_surrogate(black_box: Explainer, box_images: Tensor) -> None:
    config = open_recipe("ptame").replace(batch_size=2, tried=0)
    module = module_at_start(black_box, box_images[:1], config, torch.device("cpu"))
    assert float(module.parts(box_images[:2]).total.detach()) > 0
