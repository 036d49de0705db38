"""The explainer: one pass, a classifier that never changes, files that are checked."""

from __future__ import annotations

import dataclasses
import json
import math
from collections.abc import Callable, Iterator
from contextlib import AbstractContextManager, contextmanager
from pathlib import Path
from typing import Any

import numpy as np
import pytest
import torch
from PIL import Image
from safetensors import safe_open
from safetensors.torch import save_file
from torch import Tensor, nn
from torchvision.transforms.v2.functional import to_pil_image

import ttame
from tests.conftest import IMAGENET
from ttame.attention import AttentionConfig
from ttame.classifiers.classes import class_index, imagenet_classes, resolve_targets, short_name
from ttame.classifiers.weights import weight_digest
from ttame.errors import TTameError
from ttame.evaluation.maps import facts
from ttame.explainer import Explainer
from ttame.images import normalize
from ttame.loading import open_explainer
from ttame.saving import FORMAT, VERSION
from ttame.training.objective import ObjectiveConfig, objective

NAN = math.nan
CLASSES = ("ant", "bee", "cat", "dog", "eel", "fox", "gnu", "hen", "ibis", "jay")
LAYERS = ("stages.0", "stages.1", "stages.2")

MakeToy = Callable[[int], nn.Module]
MakeExplainer = Callable[[nn.Module], Explainer]


def count_calls(model: nn.Module) -> list[int]:
    calls: list[int] = []
    model.register_forward_pre_hook(lambda _module, args: calls.append(len(args[0])))
    return calls


def snapshot(model: nn.Module) -> dict[str, Tensor]:
    return {name: value.clone() for name, value in model.state_dict().items()}


def same(model: nn.Module, before: dict[str, Tensor]) -> bool:
    after = model.state_dict()
    return after.keys() == before.keys() and all(torch.equal(after[k], before[k]) for k in before)


# Explaining


@pytest.mark.parametrize("options", [{}, {"targets": 3}, {"targets": "cat"}, {"top_k": 5}], ids=str)
def test_one_pass_of_the_classifier_an_explanation(
    explainer: Explainer, raw_images: Tensor, options: dict[str, Any]
) -> None:
    calls = count_calls(explainer.classifier)
    explainer.explain(raw_images, **options)
    assert calls == [6]
    explainer(raw_images)
    assert calls == [6, 6]


def test_an_explanation_holds_what_the_classifier_saw(
    explainer: Explainer, raw_images: Tensor
) -> None:
    found = explainer.explain(raw_images, top_k=3)
    assert found.images.shape == (6, 3, 32, 32)
    assert 0 <= float(found.images.min()) < float(found.images.max()) <= 1
    logits = explainer.classifier(normalize(found.images, explainer.spec))
    assert torch.allclose(found.logits, logits, atol=1e-5)
    assert found.maps.shape == (6, 3, 16, 16)
    assert torch.equal(found.targets, found.logits.topk(3).indices)
    assert found.names()[0] == [CLASSES[index] for index in found.targets[0].tolist()]
    assert len(found) == 6


@torch.no_grad()
def test_maps_are_those_of_the_mechanism_untouched(explainer: Explainer, images: Tensor) -> None:
    logits, targets, maps = explainer(images)
    assert torch.equal(targets[:, 0], logits.argmax(dim=1))
    assert len(set(targets[:, 0].tolist())) > 1  # else the test shows little
    _, features = explainer.extract(images)
    every = explainer.mechanism.textbook(features)
    for index in range(6):
        expected = every[index, targets[index, 0]]
        assert torch.allclose(maps[index, 0], expected, atol=1e-5)
    assert float(maps.min()) < 0 or float(maps.max()) > 1


@torch.no_grad()
def test_a_batch_gives_the_maps_of_its_images(explainer: Explainer, images: Tensor) -> None:
    _, targets, together = explainer(images)
    for index in range(6):
        _, target, alone = explainer(images[index : index + 1])
        assert torch.equal(target, targets[index : index + 1])
        assert torch.allclose(alone, together[index : index + 1], atol=1e-5)


def test_pictures_of_every_kind_are_the_same_picture(explainer: Explainer, tmp_path: Path) -> None:
    array = (np.random.default_rng(0).random((40, 60, 3)) * 255).astype(np.uint8)
    picture = Image.fromarray(array)
    picture.save(tmp_path / "picture.png")
    tensor = torch.from_numpy(array).permute(2, 0, 1)
    reference = explainer.explain(picture)
    for form in (
        array, tensor, tensor / 255, tmp_path / "picture.png", str(tmp_path / "picture.png"),
        [picture], tensor[None],
    ):  # fmt: skip
        assert torch.equal(explainer.explain(form).maps, reference.maps)


def test_inputs_of_another_shape_work(explainer: Explainer) -> None:
    logits, _, maps = explainer(torch.randn(2, 3, 64, 48))
    assert logits.shape == (2, 10)
    assert maps.shape == (2, 1, 32, 24)


def test_explaining_in_training_mode_is_refused(explainer: Explainer, raw_images: Tensor) -> None:
    explainer.train()
    with pytest.raises(TTameError, match=r"eval\(\)"):
        explainer.explain(raw_images)
    explainer.eval().explain(raw_images)


# The frozen classifier


def test_the_callers_network_stays_its_own(toy: nn.Module) -> None:
    toy.train()
    explainer = ttame.attach(toy, LAYERS, input_size=(32, 32), **IMAGENET)
    assert explainer.classifier is not toy
    assert toy.training and all(value.requires_grad for value in toy.parameters())
    before = snapshot(explainer.classifier)
    next(toy.parameters()).data.zero_()
    assert same(explainer.classifier, before)


def test_the_classifier_is_frozen_in_every_mode(explainer: Explainer) -> None:
    for mode in (True, False, True):
        explainer.train(mode)
        assert explainer.mechanism.training is mode
        assert not any(module.training for module in explainer.classifier.modules())
    assert not any(value.requires_grad for value in explainer.classifier.parameters())
    assert all(value.requires_grad for value in explainer.mechanism.parameters())


def test_training_leaves_the_classifier_as_it_was(explainer: Explainer, images: Tensor) -> None:
    before, learned = snapshot(explainer.classifier), snapshot(explainer.mechanism)
    answer = explainer.classifier(images)
    optimizer = torch.optim.SGD(explainer.parameters(), lr=0.1, weight_decay=0.1)
    explainer.train()
    for _ in range(3):
        _, _, maps = explainer(images)
        masks = torch.sigmoid(maps)
        labels = answer.argmax(dim=1)
        loss = objective(answer, answer, labels, masks, ObjectiveConfig(labels="own")).total
        optimizer.zero_grad()
        loss.backward()
        optimizer.step()
    assert same(explainer.classifier, before)
    assert torch.equal(explainer.classifier(images), answer)
    assert not same(explainer.mechanism, learned)


# Replacing parts


@pytest.mark.parametrize("training", [True, False])
def test_replacing_nothing_shares_every_part_and_keeps_the_mode(
    explainer: Explainer, training: bool
) -> None:
    explainer.train(training)
    explainer.record = {"seed": 7}
    twin = explainer.replace()
    assert twin is not explainer
    assert twin.classifier is explainer.classifier and twin.mechanism is explainer.mechanism
    assert twin.spec is explainer.spec and twin.layers == explainer.layers
    assert twin.record == {"seed": 7}
    assert twin.training is training and twin.mechanism.training is training
    assert not twin.classifier.training


def test_replacing_the_mechanism_shares_the_classifier(
    explainer: Explainer, toy: nn.Module
) -> None:
    mechanism = ttame.attach(toy, LAYERS[1:], input_size=(32, 32), **IMAGENET).mechanism
    changed = explainer.replace(mechanism=mechanism, layers=LAYERS[1:])
    assert changed.mechanism is mechanism and changed.layers == LAYERS[1:]
    assert changed.extract.layers == LAYERS[1:]
    assert changed.classifier is explainer.classifier
    assert changed(torch.randn(1, 3, 32, 32))[2].shape == (1, 1, 8, 8)
    assert explainer.mechanism is not mechanism and explainer.layers == LAYERS


def test_replacing_the_classifier_freezes_the_new_one(
    explainer: Explainer, make_toy: MakeToy, images: Tensor
) -> None:
    before, other = explainer(images), make_toy(5).train()
    changed = explainer.replace(classifier=other)
    assert changed.classifier is other and changed.mechanism is explainer.mechanism
    assert not other.training and not any(value.requires_grad for value in other.parameters())
    assert torch.equal(changed(images)[0], other(images))
    assert not torch.equal(changed(images)[0], before[0])
    assert torch.equal(explainer(images)[0], before[0])
    assert torch.equal(explainer(images)[2], before[2])


def test_replacing_facts_and_record_changes_only_them(explainer: Explainer) -> None:
    spec = dataclasses.replace(explainer.spec, space="normalized")
    changed = explainer.replace(spec=spec, record={"seed": 1})
    assert changed.spec.space == "normalized" and changed.record == {"seed": 1}
    assert explainer.spec.space == "raw" and explainer.record == {}
    changed.record["seed"] = 2
    assert changed.replace().record is not changed.record
    assert changed.layers == explainer.layers and changed.mechanism is explainer.mechanism


# Targets


@pytest.mark.parametrize(
    ("targets", "expected"),
    [
        (4, [[4], [4], [4]]),
        ("eel", [[4], [4], [4]]),
        ("Eel ", [[4], [4], [4]]),
        ("4", [[4], [4], [4]]),
        ([4, 0, 9], [[4], [0], [9]]),
        (["eel", "ant", 9], [[4], [0], [9]]),
        (torch.tensor([4, 0, 9]), [[4], [0], [9]]),
        (torch.tensor(4), [[4], [4], [4]]),
        (torch.tensor([[4, 1], [0, 2], [9, 9]]), [[4, 1], [0, 2], [9, 9]]),
        ([("eel", 1), ("ant", "cat"), (9, 9)], [[4, 1], [0, 2], [9, 9]]),
    ],
    ids=str,
)
def test_forms_of_targets(
    explainer: Explainer, raw_images: Tensor, targets: Any, expected: list[list[int]]
) -> None:
    found = explainer.explain(raw_images[:3], targets)
    assert found.targets.tolist() == expected
    assert found.maps.shape[:2] == (3, len(expected[0]))


def test_without_targets_the_prediction_is_explained(
    explainer: Explainer, raw_images: Tensor
) -> None:
    found = explainer.explain(raw_images)
    assert torch.equal(found.targets[:, 0], found.logits.argmax(dim=1))
    first = explainer.explain(raw_images, top_k=1)
    assert torch.equal(found.maps, first.maps)


@pytest.mark.parametrize(
    ("options", "message"),
    [
        ({"targets": "ell"}, r"'ell' among 10.*'eel'"),
        ({"targets": 10}, r"10 is out of range 0\.\.9"),
        ({"targets": -1}, "-1 is out of range"),
        ({"targets": "-1"}, "-1 is out of range"),
        ({"targets": [0, 1, 10]}, "10 is out of range"),
        ({"targets": torch.tensor([0, 1, 10])}, "10 is out of range"),
        ({"targets": [0, 1]}, "for 3 images"),
        ({"targets": torch.zeros(4, dtype=torch.int64)}, "for 3 images"),
        ({"targets": torch.zeros(1, 3, dtype=torch.int64)}, "for 3 images"),
        ({"targets": [[0, 1], [2], [3]]}, "for 3 images"),
        ({"targets": [[], [], []]}, "for 3 images"),
        ({"targets": []}, "for 3 images"),
        ({"targets": torch.zeros(3)}, "float32"),
        ({"targets": torch.ones(3, dtype=torch.bool)}, "bool"),
        ({"targets": True}, "True"),
        ({"targets": 2.0}, "2.0"),
        ({"targets": [1.0, 2.0, 3.0]}, "1.0"),
        ({"top_k": 0}, "top_k=0"),
        ({"top_k": 11}, "top_k=11"),
        ({"top_k": 2, "targets": 1}, "excludes targets"),
    ],
    ids=str,
)
def test_targets_that_do_not_exist_are_refused(
    explainer: Explainer, raw_images: Tensor, options: dict[str, Any], message: str
) -> None:
    with pytest.raises(TTameError, match=message):
        explainer.explain(raw_images[:3], **options)


@pytest.mark.parametrize("kind", [np.int64, np.int32])
def test_numpy_integers_are_indices(kind: Any) -> None:
    logits = torch.zeros(2, 10)
    assert resolve_targets(kind(3), logits, CLASSES).tolist() == [[3], [3]]
    assert resolve_targets(np.array([3, 4], dtype=kind), logits, CLASSES).tolist() == [[3], [4]]
    assert resolve_targets([kind(3), kind(4)], logits, CLASSES).tolist() == [[3], [4]]


@pytest.mark.parametrize(
    ("name", "indices"), [("crane", (134, 517)), ("maillot", (638, 639)), ("Crane", (134, 517))]
)
def test_ambiguous_imagenet_names_are_refused(name: str, indices: tuple[int, int]) -> None:
    with pytest.raises(TTameError, match=f"ambiguous: {indices[0]} .*{indices[1]} .*index"):
        class_index(name, imagenet_classes())


@pytest.mark.parametrize(
    ("name", "index"),
    [("maillot, tank suit", 639), ("tank suit", 639), ("Egyptian cat", 285), ("tabby cat", 281)],
)
def test_imagenet_names_and_their_synonyms(name: str, index: int) -> None:
    assert class_index(name, imagenet_classes()) == index


NUMBERS = ("0", "1", "10", "11", "2")  # sorted as folders are


@pytest.mark.parametrize(
    ("target", "classes", "index"),
    [
        ("2", NUMBERS, 4),
        ("10", NUMBERS, 2),
        (2, NUMBERS, 2),
        (np.int64(4), NUMBERS, 4),
        ("2", CLASSES, 2),
        ("217", imagenet_classes(), 217),
        ("Cat", ("cat", "Cat"), 1),
        ("cat", ("cat", "Cat"), 0),
        ("paris, texas", ("Paris, France", "Paris, Texas"), 1),
        ("-1", ("1", "-1"), 1),
    ],
)
def test_names_come_before_indices(target: Any, classes: tuple[str, ...], index: int) -> None:
    assert class_index(target, classes) == index


@pytest.mark.parametrize(
    ("target", "classes", "reason"),
    [
        ("3", NUMBERS, r"no class is named '3', .* numbers themselves, such as '0'; .* integer"),
        (5, NUMBERS, r"5 is out of range 0\.\.4"),
        ("CAT", ("cat", "Cat"), r"ambiguous: 0 \(cat\), 1 \(Cat\)"),
        ("paris", ("Paris, France", "Paris, Texas"), "ambiguous"),
        ("²", CLASSES, "no class is named"),
    ],
)
def test_names_that_could_mean_another_class_are_refused(
    target: Any, classes: tuple[str, ...], reason: str
) -> None:
    with pytest.raises(TTameError, match=reason):
        class_index(target, classes)


def test_only_imagenets_synonyms_are_shortened() -> None:
    assert short_name("tench, Tinca tinca") == "tench"
    assert short_name("Paris, Texas") == "Paris, Texas"
    assert short_name("tench") == "tench"


def test_classes_without_names_are_numbered(toy: nn.Module, raw_images: Tensor) -> None:
    explainer = ttame.attach(toy, LAYERS, input_size=(32, 32), **IMAGENET)
    assert explainer.classes == tuple(f"class {index}" for index in range(10))
    assert explainer.explain(raw_images, "class 7").targets[0].tolist() == [7]


# Attaching


def test_attaching_chooses_layers_and_reads_the_facts(toy: nn.Module) -> None:
    explainer = ttame.attach(
        toy, input_size=(32, 48), mean=(0.1, 0.2, 0.3), std=(0.4, 0.5, 0.6), space="normalized",
        config=AttentionConfig(max_size=5),
    )  # fmt: skip
    assert explainer.layers == ("stages.0", "stages.1", "stages")
    assert explainer.mechanism.channels == (8, 12, 16)
    assert explainer.mechanism.classes == 10
    assert explainer.spec.mean == (0.1, 0.2, 0.3) and explainer.spec.std == (0.4, 0.5, 0.6)
    assert explainer.spec.input_size == (32, 48) and explainer.spec.space == "normalized"
    assert explainer(torch.randn(1, 3, 32, 48))[2].shape == (1, 1, 5, 5)


def test_a_single_layer_may_be_named_without_a_list(toy: nn.Module) -> None:
    assert ttame.attach(toy, "stages.1", input_size=(32, 32), **IMAGENET).layers == ("stages.1",)
    with pytest.raises(TTameError, match="no layer 'stage9'"):
        ttame.attach(toy, "stage9", input_size=(32, 32), **IMAGENET)


def test_attaching_needs_an_input_size(toy: nn.Module) -> None:
    with pytest.raises(TTameError, match=r"input_size=\(H, W\)"):
        ttame.attach(toy, LAYERS)


# Files


@pytest.fixture
def saved(explainer: Explainer, tmp_path: Path) -> Path:
    return explainer.save(tmp_path / "toy.safetensors")


def tamper(path: Path, change: Callable[[dict[str, Any], dict[str, Tensor]], None]) -> Path:
    """Rewrite a saved explainer with a changed header or changed tensors."""
    with safe_open(path, framework="pt") as file:
        header = json.loads(file.metadata()[FORMAT])
        state = {name: file.get_tensor(name) for name in file.keys()}  # noqa: SIM118
    change(header, state)
    other = path.with_name("tampered.safetensors")
    save_file(state, other, metadata={FORMAT: json.dumps(header)})
    return other


@torch.no_grad()
def test_a_saved_explainer_gives_the_same_maps(
    explainer: Explainer, make_toy: MakeToy, saved: Path, raw_images: Tensor
) -> None:
    explainer.record = {"seed": 7}
    explainer.save(saved)
    loaded = Explainer.load(saved, make_toy(0))
    before, after = explainer.explain(raw_images, top_k=3), loaded.explain(raw_images, top_k=3)
    assert torch.equal(before.maps, after.maps)
    assert torch.equal(before.targets, after.targets)
    assert loaded.layers == LAYERS and loaded.classes == CLASSES
    assert loaded.record == {"seed": 7}
    facts = ("input_size", "resize", "mean", "std", "interpolation", "space", "head", "classes")
    for name in facts:
        assert getattr(loaded.spec, name) == getattr(explainer.spec, name)
    assert not loaded.mechanism.training
    assert ttame.load(saved, make_toy(0)).layers == LAYERS


def test_the_architecture_travels_along(toy: nn.Module, tmp_path: Path) -> None:
    config = AttentionConfig(skip=False, width=3, activation="sigmoid", max_size=9)
    explainer = ttame.attach(
        toy, LAYERS[1:], config=config, input_size=(32, 48), space="normalized", **IMAGENET
    )
    loaded = Explainer.load(explainer.save(tmp_path / "x.safetensors"), toy)
    assert loaded.mechanism.config == config
    assert loaded.layers == LAYERS[1:]
    assert loaded.spec.input_size == (32, 48) and loaded.spec.space == "normalized"
    images = torch.randn(2, 3, 32, 48)
    assert torch.equal(loaded(images)[2], explainer(images)[2])


@torch.no_grad()
def test_half_precision_halves_the_file_and_keeps_the_maps(
    explainer: Explainer, toy: nn.Module, saved: Path, images: Tensor, tmp_path: Path
) -> None:
    half = explainer.save(tmp_path / "half.safetensors", dtype=torch.float16)
    with safe_open(half, framework="pt") as file:
        assert file.get_tensor("fusion.weight").dtype == torch.float16
        sizes = [file.get_tensor(name).nbytes for name in file.keys()]  # noqa: SIM118
    assert sum(sizes) < 0.55 * sum(v.nbytes for v in explainer.mechanism.state_dict().values())
    loaded = Explainer.load(half, toy)
    floats = [v for v in loaded.mechanism.state_dict().values() if v.is_floating_point()]
    assert {value.dtype for value in floats} == {torch.float32}
    exact, close = explainer(images)[2], loaded(images)[2]
    assert not torch.equal(exact, close)
    assert torch.allclose(exact, close, atol=5e-3 * float(exact.abs().max()))
    assert explainer.mechanism.fusion.weight.dtype == torch.float32


def test_the_header_says_what_the_file_belongs_to(saved: Path, toy: nn.Module) -> None:
    with safe_open(saved, framework="pt") as file:
        header = json.loads(file.metadata()[FORMAT])
    assert header["format"] == FORMAT and header["version"] == VERSION
    assert header["backbone_digest"] == weight_digest(toy)
    assert header["layers"] == list(LAYERS)
    assert header["channels"] == [8, 12, 16] and header["class_count"] == 10
    assert header["classes"] == list(CLASSES)


def test_a_file_of_another_ending_is_refused(explainer: Explainer, tmp_path: Path) -> None:
    with pytest.raises(TTameError, match=r"ends in \.safetensors"):
        explainer.save(tmp_path / "toy.pt")
    assert list(tmp_path.iterdir()) == []


def test_a_missing_file_is_named(toy: nn.Module, tmp_path: Path) -> None:
    with pytest.raises(TTameError, match=r"nothing\.safetensors.*does not exist"):
        Explainer.load(tmp_path / "nothing.safetensors", toy)


@pytest.mark.parametrize("share", [0.0, 0.01, 0.5, 0.999])
def test_a_truncated_file_is_refused(saved: Path, toy: nn.Module, share: float) -> None:
    data = saved.read_bytes()
    saved.write_bytes(data[: int(share * len(data))])
    with pytest.raises(TTameError, match="truncated or not a safetensors file"):
        Explainer.load(saved, toy)


def test_another_kind_of_file_is_refused(toy: nn.Module, tmp_path: Path) -> None:
    path = tmp_path / "pickled.safetensors"
    torch.save(toy.state_dict(), path)
    with pytest.raises(TTameError, match="truncated or not a safetensors file"):
        Explainer.load(path, toy)
    path.write_text("no tensors at all\n")
    with pytest.raises(TTameError, match="truncated or not a safetensors file"):
        Explainer.load(path, toy)


@pytest.mark.parametrize(
    "metadata",
    [None, {"format": "pt"}, {FORMAT: "[]"}, {FORMAT: '{"format": "other", "version": 1}'}],
    ids=str,
)
def test_safetensors_of_something_else_are_refused(
    toy: nn.Module, tmp_path: Path, metadata: dict[str, str] | None
) -> None:
    path = tmp_path / "weights.safetensors"
    save_file(toy.state_dict(), path, metadata=metadata)
    with pytest.raises(TTameError, match="not a saved explainer"):
        Explainer.load(path, toy)


def test_a_header_that_is_no_json_is_refused(toy: nn.Module, tmp_path: Path) -> None:
    path = tmp_path / "weights.safetensors"
    save_file(toy.state_dict(), path, metadata={FORMAT: "{"})
    with pytest.raises(TTameError, match="truncated or not"):
        Explainer.load(path, toy)


def test_other_weights_of_the_classifier_are_refused(saved: Path, make_toy: MakeToy) -> None:
    with pytest.raises(TTameError, match=r"trained on ToyClassifier with weights .*same weights"):
        Explainer.load(saved, make_toy(5))
    touched = make_toy(0)
    next(touched.parameters()).data.view(-1)[0] += 1e-3
    with pytest.raises(TTameError, match="same weights"):
        Explainer.load(saved, touched)


def test_an_unregistered_classifier_must_be_passed(saved: Path) -> None:
    with pytest.raises(TTameError, match="unknown backbone 'ToyClassifier'"):
        Explainer.load(saved)


Change = Callable[[dict[str, Any], dict[str, Tensor]], Any]


@pytest.mark.parametrize(
    ("change", "message"),
    [
        (lambda header, state: header.update(version=VERSION + 2), "format 3, .* reads 1 and 2"),
        (lambda header, state: header.update(class_count=11), r"fusion\.bias.*\(10,\).*\(11,\)"),
        (lambda header, state: header.update(channels=[8, 12, 17]), r"branches\.2"),
        (lambda header, state: header.update(channels=[8, 12]), r"branches\.2"),
        (lambda header, state: state.pop("fusion.bias"), r"fusion\.bias.*None"),
        (lambda header, state: state.update(extra=torch.zeros(2)), "'extra'"),
        (
            lambda header, state: state.update({"fusion.bias": torch.zeros(9)}),
            r"fusion\.bias.*\(9,\)",
        ),
        (lambda header, state: header["attention"].update(batch_norm=False), r"norm"),
        (lambda header, state: header["attention"].update(activation="tanh"), "tanh"),
        (lambda header, state: header["attention"].update(novelty=1), "novelty"),
        (lambda header, state: header.pop("layers"), "layers"),
        (lambda header, state: header.pop("spec"), "spec"),
        (lambda header, state: header.pop("backbone_digest"), "backbone_digest"),
        (lambda header, state: header["spec"].update(std=[0, 1, 1]), r"std.*above 0.*\(0, 1, 1\)"),
        (lambda header, state: header["spec"].update(std=[1, -1, 1]), r"std.*above 0"),
        (lambda header, state: header["spec"].update(std=[1, NAN, 1]), r"std.*finite"),
        (lambda header, state: header["spec"].update(mean=[1, NAN, 1]), r"mean.*finite"),
        (lambda header, state: header["spec"].update(mean="abc"), r"mean.*'abc'"),
        (lambda header, state: header["spec"].update(mean=[0.5, 0.5]), "one number per channel"),
        (
            lambda header, state: header["spec"].update(mean=[0, 0], std=[1, 1]),
            r"cannot take images \(1, 2, 32, 32\)",
        ),
        (lambda header, state: header["spec"].update(input_size=[0, 32]), "input_size.*got .0, 32"),
        (lambda header, state: header["spec"].update(input_size=[10**9] * 2), "from 1 to 16384"),
        (lambda header, state: header["spec"].update(input_size=32), "input_size.*32"),
        (lambda header, state: header["spec"].update(resize=1.5), "resize.*1.5"),
        (lambda header, state: header["spec"].update(interpolation="best"), "interpolation.*best"),
        (lambda header, state: header["spec"].update(space="outer"), "space.*outer"),
        (lambda header, state: header["spec"].update(novelty=1), "'novelty'"),
        (lambda header, state: header.update(layers="stages"), "'layers'"),
        (lambda header, state: header.update(channels=[0, 12, 16]), "'channels'"),
        (lambda header, state: header.update(class_count="ten"), "'class_count'"),
        (lambda header, state: header.update(classes=[1, 2]), "'classes'"),
        (lambda header, state: state["fusion.bias"].fill_(NAN), r"'fusion\.bias'.*NaN or infinite"),
        (
            lambda header, state: state["fusion.weight"][0].fill_(-math.inf),
            r"'fusion\.weight'.*NaN or infinite",
        ),
    ],
    ids=[
        "version", "class count", "channels", "fewer layers", "missing tensor", "extra tensor",
        "tensor shape", "architecture", "activation", "unknown field", "no layers", "no spec",
        "no digest", "zero std", "negative std", "NaN std", "NaN mean", "mean a word",
        "mean too short", "mean and std too short", "no pixels", "absurd pixels", "one size",
        "half a pixel", "interpolation", "space", "unknown fact", "layers a word", "no channels",
        "count a word", "classes numbers", "NaN weight", "infinite weight",
    ],
)  # fmt: skip
def test_files_that_do_not_fit_together_are_refused(
    saved: Path, toy: nn.Module, change: Change, message: str
) -> None:
    other = tamper(saved, change)
    with pytest.raises(TTameError, match=message):
        Explainer.load(other, toy)


def test_a_classifier_that_gives_nan_is_refused(toy: nn.Module, raw_images: Tensor) -> None:
    explainer = ttame.attach(toy, LAYERS, input_size=(32, 32), **IMAGENET)
    with torch.no_grad():
        explainer.classifier.head.bias[3] = NAN
    with pytest.raises(TTameError, match="the logits of ToyClassifier are NaN"):
        explainer.explain(raw_images)
    with torch.no_grad():
        explainer.classifier.head.bias[3] = -math.inf  # a class that is switched off
        explainer.explain(raw_images)
        explainer.mechanism.fusion.bias.fill_(NAN)
    with pytest.raises(TTameError, match="the explanation maps are NaN"):
        explainer.explain(raw_images)
    with torch.no_grad():
        toy.head.weight[0, 0] = math.inf
    with pytest.raises(TTameError, match=r"ToyClassifier: tensor 'head\.weight' holds NaN or inf"):
        ttame.attach(toy, LAYERS, input_size=(32, 32), **IMAGENET)


@pytest.mark.parametrize(
    ("facts", "message"),
    [
        ({"std": (0.0, 1.0, 1.0)}, r"std.*above 0.*got \(0\.0"),
        ({"std": (1.0, 1.0)}, "std must be one.*got"),
        ({"mean": (NAN, 0.0, 0.0)}, "mean.*finite"),
        ({"input_size": (0, 32)}, "input_size"),
        ({"input_size": (10**9, 32)}, "from 1 to 16384"),
        ({"input_size": (-3, 32)}, "input_size"),
    ],
)
def test_attaching_with_facts_that_cannot_be_is_refused(
    toy: nn.Module, facts: dict[str, Any], message: str
) -> None:
    with pytest.raises(TTameError, match=message):
        ttame.attach(toy, LAYERS, **{"input_size": (32, 32), **IMAGENET, **facts})


@contextmanager
def default_dtype() -> Iterator[None]:
    torch.set_default_dtype(torch.float64)
    try:
        yield
    finally:
        torch.set_default_dtype(torch.float32)


SURROUNDINGS: dict[str, Callable[[], AbstractContextManager[Any]]] = {
    "autocast": lambda: torch.autocast("cpu", torch.bfloat16),
    "no_grad": torch.no_grad,
    "enable_grad": torch.enable_grad,
    "inference_mode": torch.inference_mode,
    "default dtype": default_dtype,
    "default device": lambda: torch.device("meta"),
}


@pytest.mark.parametrize("name", SURROUNDINGS)
def test_what_surrounds_a_call_changes_nothing(
    name: str, explainer: Explainer, raw_images: Tensor, images: Tensor, tmp_path: Path
) -> None:
    photo = tmp_path / "photo.png"
    to_pil_image(raw_images[0]).save(photo)
    expected = explainer.explain(raw_images, [3] * 6, refine=2)
    single, rows = explainer.explain(photo, top_k=2), explainer.layer_statistics(images)
    with SURROUNDINGS[name]():
        found = explainer.explain(raw_images, [3] * 6, refine=2)
        again, statistics = explainer.explain(photo, top_k=2), explainer.layer_statistics(images)
    for one, other in ((expected, found), (single, again)):
        assert torch.equal(one.maps, other.maps) and torch.equal(one.logits, other.logits)
        assert torch.equal(one.targets, other.targets) and torch.equal(one.images, other.images)
        assert one.maps.dtype == other.maps.dtype == torch.float32
    assert statistics == rows


def test_tampering_alone_does_not_break_a_file(saved: Path, toy: nn.Module) -> None:
    assert Explainer.load(tamper(saved, lambda header, state: None), toy).layers == LAYERS


def test_names_that_do_not_ship_are_refused() -> None:
    with pytest.raises(TTameError, match=r"unknown backbone 'resnet5'.*'resnet50'"):
        ttame.load("resnet5")


# Opening


def test_the_explainer_of_a_backbone_is_opened_as_trained() -> None:
    found, trained = open_explainer("tf_efficientnet_lite0", "tf_efficientnet_lite0")
    assert trained and found.spec.name == "tf_efficientnet_lite0"
    same_one = ttame.load("tf_efficientnet_lite0")
    assert same(found.mechanism, snapshot(same_one.mechanism))


def test_none_is_an_untrained_explainer_that_is_the_same_each_time() -> None:
    torch.manual_seed(5)
    before = torch.get_rng_state()
    first, trained = open_explainer("none", "tf_efficientnet_lite0")
    assert torch.equal(torch.get_rng_state(), before)
    torch.manual_seed(6)
    second, _ = open_explainer("none", "tf_efficientnet_lite0")
    assert not trained and first.spec.name == "tf_efficientnet_lite0"
    small, _ = open_explainer("none", "tf_efficientnet_lite0", size=64)
    assert small.spec.input_size == (64, 64)
    assert facts(small)["size"] == [64, 64] and "size" not in facts(first)
    assert same(second.mechanism, snapshot(first.mechanism))
    shipped = ttame.load("tf_efficientnet_lite0")
    assert weight_digest(first.classifier) == weight_digest(shipped.classifier)
    assert not same(first.mechanism, snapshot(shipped.mechanism))


def test_opening_what_does_not_belong_together_is_refused() -> None:
    with pytest.raises(TTameError, match="needs a backbone"):
        open_explainer("none")
    with pytest.raises(TTameError, match=r"'tf_efficientnet_lite0'.*not to 'resnet50'.*'none'"):
        open_explainer("tf_efficientnet_lite0", "resnet50")
    with pytest.raises(TTameError, match=r"unknown backbone 'resnet51'.*'resnet50'"):
        open_explainer("none", "resnet51")
    with pytest.raises(TTameError, match=r"size 128 was given with.*explainer 'none'"):
        open_explainer("tf_efficientnet_lite0", size=128)
    with pytest.raises(TTameError, match=r"unknown backbone 'resnet51'.*'resnet50'"):
        open_explainer("resnet51")


def test_a_failed_save_leaves_the_old_file(
    explainer: Explainer, saved: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    before = saved.read_bytes()

    def fail(tensors: object, path: Path, metadata: object) -> None:
        path.write_bytes(b"half")
        raise OSError(28, "No space left on device")

    monkeypatch.setattr("ttame.saving.save_file", fail)
    with pytest.raises(TTameError, match="No space left"):
        explainer.save(saved)
    assert saved.read_bytes() == before
    assert [path.name for path in saved.parent.iterdir()] == [saved.name]
