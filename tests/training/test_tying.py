"""Tied fusion rows are a function of class vectors: all classes learn from the photos of some."""

from __future__ import annotations

from pathlib import Path

import pytest
import timm
import torch
from torch import Tensor, nn

import ttame
from tests.helpers.callbacks import Stop
from ttame.data import PhotoList
from ttame.errors import TTameError
from ttame.explainer import Explainer
from ttame.training.config import TrainingConfig
from ttame.training.fit import fit, prepare_on
from ttame.training.initialization import class_gradients, initialize
from ttame.training.module import ExplainerModule
from ttame.training.tying import SharedBias, SharedRow, TiedRows, dense_state, share, tie

CONFIG = TrainingConfig.of(steps=2, batch_size=4, workers=0, fusion="tied")


def test_rows_are_vectors_times_a_projection() -> None:
    rows = TiedRows(torch.tensor([[1.0, 0.0], [0.0, 2.0], [1.0, 1.0]]))
    projection = torch.tensor([[1.0, 2.0, 3.0], [4.0, 5.0, 6.0]])
    weight = rows(projection)
    assert weight[..., 0, 0].tolist() == [[1, 2, 3], [8, 10, 12], [5, 7, 9]]
    torch.testing.assert_close(rows.right_inverse(weight), projection)
    # The nearest rows to others: the middle one alone asks for P[1] = 3, which row 2 then has, too.
    other = torch.zeros(3, 3, 1, 1)
    other[1] = 6.0
    normal = torch.linalg.lstsq(rows.vectors, other[..., 0, 0]).solution
    torch.testing.assert_close(rows.right_inverse(other), normal)


def test_one_row_is_added_to_all() -> None:
    rows = SharedRow(torch.tensor([[1.0, 2.0], [3.0, 4.0]])[..., None, None])
    weight = rows(torch.tensor([10.0, 20.0]))
    assert weight[..., 0, 0].tolist() == [[11, 22], [13, 24]]
    assert rows.right_inverse(weight).tolist() == [10, 20]


def test_the_bias_is_one_number() -> None:
    shared = SharedBias(3)
    assert shared(torch.tensor([2.0])).tolist() == [2, 2, 2]
    assert shared.right_inverse(torch.tensor([1.0, 2.0, 6.0])).tolist() == [3]


def test_tying_leaves_rows_that_the_classifier_made_where_they_are(
    explainer: Explainer, images: Tensor
) -> None:
    initialize(explainer, images, "classifier")
    before = {name: value.clone() for name, value in explainer.mechanism.state_dict().items()}
    free = sum(value.numel() for value in explainer.mechanism.fusion.parameters())
    tie(explainer, class_gradients(explainer, images))
    after = dense_state(explainer.mechanism)
    assert after.keys() == before.keys()
    for name, value in before.items():
        torch.testing.assert_close(after[name], value, msg=name)
    vectors = class_gradients(explainer, images)
    parameters = dict(explainer.mechanism.fusion.named_parameters())
    shape = (vectors.shape[1], sum(explainer.mechanism.widths))
    assert parameters["parametrizations.weight.original"].shape == shape
    assert parameters["parametrizations.bias.original"].shape == (1,)
    assert free == len(vectors) * (shape[1] + 1)
    # The frozen vectors are in no checkpoint.
    assert not any("vectors" in name for name in explainer.mechanism.state_dict())


@pytest.mark.parametrize(("fusion", "moves"), [("free", False), ("shared", True), ("tied", True)])
def test_a_class_without_photos_learns_only_where_rows_are_tied(
    explainer: Explainer, images: Tensor, fusion: str, moves: bool
) -> None:
    config = CONFIG.replace(fusion=fusion, weight_decay=0.0)
    working = prepare_on(explainer, images, config)
    before = dense_state(working.mechanism)["fusion.weight"]
    module = ExplainerModule(working, config, 10).train()
    optimizer = module.configure_optimizers()["optimizer"]
    seen = set(working.classifier(images).argmax(dim=1).tolist())
    unseen = [index for index in range(working.mechanism.classes) if index not in seen]
    assert unseen
    for _ in range(3):
        optimizer.zero_grad()
        module.parts(images).total.backward()  # type: ignore[no-untyped-call]
        optimizer.step()
    after = dense_state(working.mechanism)["fusion.weight"]
    assert (not torch.equal(after[unseen], before[unseen])) == moves
    assert not torch.equal(after[sorted(seen)], before[sorted(seen)])


def test_class_vectors_are_gradients_of_length_one(explainer: Explainer, images: Tensor) -> None:
    gradients = class_gradients(explainer, images)
    tie(explainer, gradients)
    rows = explainer.mechanism.fusion.get_submodule("parametrizations.weight.0")
    assert isinstance(rows, TiedRows)
    torch.testing.assert_close(rows.vectors, gradients / gradients.norm(dim=1).mean())
    assert float(rows.vectors.norm(dim=1).mean()) == pytest.approx(1, abs=1e-5)


def test_the_start_gives_the_gradients_that_tying_needs(
    explainer: Explainer, images: Tensor
) -> None:
    found = initialize(explainer, images, "classifier")
    assert found is not None and torch.equal(found, class_gradients(explainer, images))
    assert initialize(explainer, images, "free") is None


def test_what_is_shared_begins_at_zero(explainer: Explainer, images: Tensor) -> None:
    initialize(explainer, images, "classifier")
    before = explainer.mechanism.fusion.weight.detach().clone()
    share(explainer)
    assert torch.equal(explainer.mechanism.fusion.weight, before)
    row = explainer.mechanism.get_parameter("fusion.parametrizations.weight.original")
    assert row.shape == before.shape[1:2] and not row.any()


def test_decay_spares_the_shared_bias(explainer: Explainer, images: Tensor) -> None:
    working = prepare_on(explainer, images, CONFIG)
    groups = ExplainerModule(working, CONFIG, 10).configure_optimizers()["optimizer"].param_groups
    bias = working.mechanism.get_parameter("fusion.parametrizations.bias.original")
    decay = [group["weight_decay"] for group in groups for p in group["params"] if p is bias]
    assert decay == [0.0]


@pytest.mark.parametrize(
    ("keep", "fusion"), [("last", "tied"), ("best", "tied"), ("best", "shared")]
)
def test_a_constrained_run_ends_with_plain_rows(
    explainer: Explainer, photos: PhotoList, tmp_path: Path, keep: str, fusion: str, toy: nn.Module
) -> None:
    config = CONFIG.replace(keep=keep, fusion=fusion)
    trained = fit(explainer, photos, config, tmp_path, validation=photos, progress=False)
    assert trained.record["config"]["fusion"] == fusion  # type: ignore[index]
    loaded = Explainer.load(tmp_path / "ttame.safetensors", toy)
    for name, value in loaded.mechanism.state_dict().items():
        assert torch.equal(value, trained.mechanism.state_dict()[name])


def test_a_tied_run_that_is_resumed_ends_alike(
    explainer: Explainer, photos: PhotoList, tmp_path: Path
) -> None:
    config = CONFIG.replace(steps=4, checkpoint_every=1)
    whole = fit(explainer, photos, config, tmp_path / "whole", progress=False)
    with pytest.raises(RuntimeError, match="power cut"):
        fit(explainer, photos, config, tmp_path / "broken", progress=False,
            callbacks=[Stop(2, "on_train_batch_start")])  # fmt: skip
    again = fit(explainer, photos, config, tmp_path / "broken", progress=False, resume=True)
    for name, value in whole.mechanism.state_dict().items():
        assert torch.equal(value, again.mechanism.state_dict()[name]), name


def test_rows_of_a_transformers_head() -> None:
    torch.manual_seed(0)
    model = timm.create_model(
        "vit_tiny_patch16_224", img_size=32, depth=2, num_classes=5, embed_dim=12, num_heads=2
    )
    explainer = ttame.attach(model, ["blocks.0", "blocks.1.norm1"], input_size=(32, 32))
    images = torch.randn(4, 3, 32, 32)
    initialize(explainer, images, "classifier")
    before = explainer.mechanism.fusion.weight.detach().clone()
    tie(explainer, class_gradients(explainer, images))
    torch.testing.assert_close(explainer.mechanism.fusion.weight, before, rtol=1e-4, atol=1e-5)


def test_a_layer_without_influence_is_refused(explainer: Explainer, images: Tensor) -> None:
    for name, parameter in explainer.classifier.named_parameters():
        if name.startswith("head"):
            parameter.data.zero_()
    with pytest.raises(TTameError, match="do not depend on the deepest layer"):
        tie(explainer, class_gradients(explainer, images))
