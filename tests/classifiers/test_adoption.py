"""Modules as users have them: wrapped, compiled, hooked, in training, of another type."""

from __future__ import annotations

import copy
from pathlib import Path
from typing import Any

import pytest
import torch
from torch import Tensor, nn

import ttame
from tests.conftest import CLASSES, IMAGENET, LAYERS, ToyClassifier
from tests.helpers.networks import Awkward, count_hooks
from ttame.classifiers.adoption import adopt
from ttame.errors import TTameError
from ttame.explainer import Explainer

SIZE = (32, 32)


def attached(model: nn.Module, layers: Any = LAYERS) -> Explainer:
    with torch.random.fork_rng():
        torch.manual_seed(1)
        return ttame.attach(model, layers, classes=CLASSES, input_size=SIZE, **IMAGENET)


def maps_of(explainer: Explainer, images: Tensor) -> Tensor:
    return explainer.explain(images).maps


@pytest.fixture
def plain(toy: nn.Module, raw_images: Tensor) -> Tensor:
    return maps_of(attached(toy), raw_images)


def test_a_model_in_training_mode_is_explained_in_evaluation_mode(
    toy: nn.Module, plain: Tensor, raw_images: Tensor
) -> None:
    toy.train()
    assert torch.equal(maps_of(attached(toy), raw_images), plain)
    assert toy.training


def test_compiled_models_are_explained_as_their_modules(
    toy: nn.Module, plain: Tensor, raw_images: Tensor
) -> None:
    compiled = torch.compile(toy, backend="eager")
    assert torch.equal(maps_of(attached(compiled), raw_images), plain)  # type: ignore[arg-type]
    in_place = copy.deepcopy(toy)
    in_place.compile(backend="eager")
    assert torch.equal(maps_of(attached(in_place), raw_images), plain)
    assert in_place._compiled_call_impl is not None  # the caller's own stays compiled


def test_data_parallel_models_are_explained_as_their_modules(
    toy: nn.Module, plain: Tensor, raw_images: Tensor
) -> None:
    assert torch.equal(maps_of(attached(nn.DataParallel(toy)), raw_images), plain)


def test_hooks_of_the_model_are_part_of_it(toy: nn.Module, raw_images: Tensor) -> None:
    plain = maps_of(attached(toy), raw_images)
    handle = toy.get_submodule("stages.0").register_forward_hook(
        lambda module, args, output: output * 2
    )
    doubled = attached(toy)
    assert not torch.allclose(maps_of(doubled, raw_images), plain)
    images = torch.randn(2, 3, 32, 32)
    with torch.inference_mode():
        assert torch.allclose(doubled.classifier(images), toy(images), atol=1e-5)
    assert count_hooks(toy) == 1  # no other was left behind
    handle.remove()
    assert torch.equal(maps_of(attached(toy), raw_images), plain)


@pytest.mark.parametrize("dtype", [torch.float64, torch.bfloat16, torch.float16])
def test_other_types_are_explained_in_theirs(
    toy: nn.Module, plain: Tensor, raw_images: Tensor, dtype: torch.dtype
) -> None:
    explainer = attached(toy.to(dtype))
    assert {value.dtype for value in explainer.classifier.parameters()} == {dtype}
    assert {value.dtype for value in explainer.mechanism.parameters()} == {torch.float32}
    maps = maps_of(explainer, raw_images)
    assert maps.dtype == torch.float32 and maps.shape == plain.shape
    assert bool(maps.isfinite().all())


def test_weight_norm_of_the_old_kind_works_or_says_how(toy: nn.Module, raw_images: Tensor) -> None:
    torch.nn.utils.weight_norm(toy.head)  # type: ignore[arg-type]
    toy(torch.randn(1, 3, 32, 32))  # keeps a computed weight on the module
    with pytest.raises(TTameError, match=r"ToyClassifier cannot be copied .*remove_weight_norm"):
        attached(toy)
    torch.nn.utils.remove_weight_norm(toy.head)  # type: ignore[arg-type]
    maps_of(attached(toy), raw_images)


def test_torchscript_is_refused(toy: nn.Module) -> None:
    traced = torch.jit.trace(toy, torch.zeros(1, 3, 32, 32))
    with pytest.raises(TTameError, match=r"TorchScript.*the nn.Module that it was made from"):
        adopt(traced)


def test_something_else_is_refused() -> None:
    with pytest.raises(TTameError, match=r"nn.Module or a name, got a dict"):
        ttame.attach({}, input_size=SIZE)  # type: ignore[arg-type]


class Wrapped(nn.Module):
    """Gives its logits in another form."""

    def __init__(self, form: str) -> None:
        super().__init__()
        self.inner, self.form = ToyClassifier(), form

    def forward(self, images: Tensor) -> Any:
        logits = self.inner(images)
        forms = {
            "dict": {"logits": logits},
            "tuple": (logits, logits),
            "map": logits[..., None, None],
        }
        return forms[self.form]


@pytest.mark.parametrize(
    ("form", "named"), [("dict", "dict"), ("tuple", "tuple"), ("map", r"\(1, 10, 1, 1\)")]
)
def test_logits_of_another_form_are_refused(form: str, named: str) -> None:
    with pytest.raises(TTameError, match=f"Wrapped returns {named}, not logits.*wrap it"):
        ttame.attach(Wrapped(form), ["inner.stages.2"], input_size=SIZE, **IMAGENET)


def test_an_input_size_that_does_not_fit_is_named() -> None:
    model = nn.Sequential(nn.Conv2d(3, 4, 4, 4), nn.Flatten(), nn.Linear(4 * 64, 10))
    with pytest.raises(TTameError, match=r"\(3, 3, 40, 40\).*input_size"):
        ttame.attach(model, ["0"], input_size=(40, 40), **IMAGENET)


class TimeFirst(nn.Module):
    """Tokens in the order (N, B, C), as torch's own transformer layers take them."""

    def __init__(self) -> None:
        super().__init__()
        self.patches = nn.Conv2d(3, 8, 8, stride=8)
        self.tokens = nn.Identity()
        self.reversed = Reversed()
        self.head = nn.Linear(8, 10)

    def forward(self, images: Tensor) -> Tensor:
        maps = self.patches(images)
        tokens = self.tokens(maps.flatten(2).permute(2, 0, 1))  # (N, B, C)
        self.reversed(maps)
        logits: Tensor = self.head(tokens.mean(dim=0))
        return logits


class Reversed(nn.Module):
    def forward(self, maps: Tensor) -> Tensor:
        return maps.flip(0)


def test_tokens_before_the_batch_are_refused() -> None:
    with pytest.raises(TTameError, match=r"'tokens' returns \(16, 1, 8\) for 1 images"):
        ttame.attach(TimeFirst(), ["tokens"], input_size=SIZE, **IMAGENET)


def test_layers_that_mix_the_batch_are_refused() -> None:
    message = r"layer 'reversed'.*changes with the other images.*choose"
    with pytest.raises(TTameError, match=message):
        ttame.attach(TimeFirst(), ["patches", "reversed"], input_size=SIZE, **IMAGENET)


def test_statistics_of_the_batch_are_refused() -> None:
    model = ToyClassifier()
    model.stages[1][1] = nn.BatchNorm2d(12, track_running_stats=False)  # type: ignore[index]
    with pytest.raises(TTameError, match=r"the logits of an image change.*running statistics"):
        ttame.attach(model, ["stages.0"], input_size=SIZE, **IMAGENET)


@pytest.mark.parametrize(("layer", "named"), [("pair", "tuple"), ("head", r"\(1, 5\)")])
def test_layers_without_a_map_are_refused(layer: str, named: str) -> None:
    with pytest.raises(TTameError, match=f"'{layer}' returns (a )?{named}"):
        ttame.attach(Awkward(), [layer], input_size=(64, 64), **IMAGENET)


def test_layers_given_twice_or_not_at_all_are_refused(toy: nn.Module) -> None:
    with pytest.raises(TTameError, match=r"'stages\.1' is given twice"):
        attached(toy, ["stages.1", "stages.1"])
    with pytest.raises(TTameError, match="at least one layer"):
        attached(toy, [])


def test_names_of_too_few_classes_are_refused(toy: nn.Module) -> None:
    with pytest.raises(TTameError, match="2 class names, but the classifier has 10"):
        ttame.attach(toy, LAYERS, classes=("a", "b"), input_size=SIZE, **IMAGENET)


def test_a_wrapped_model_is_loaded_as_its_module(
    toy: nn.Module, raw_images: Tensor, tmp_path: Path
) -> None:
    explainer = attached(toy)
    path = explainer.save(tmp_path / "explainer.safetensors")
    again = ttame.load(path, model=nn.DataParallel(toy))
    assert torch.equal(maps_of(again, raw_images), maps_of(explainer, raw_images))


@pytest.mark.parametrize("size", [(32, 48), (64, 32), (40, 56)])
def test_images_of_any_shape_are_explained(
    toy: nn.Module, raw_images: Tensor, size: tuple[int, int]
) -> None:
    explainer = ttame.attach(toy, LAYERS, input_size=size, **IMAGENET)
    maps = explainer.explain(raw_images).maps
    assert maps.shape == (6, 1, -(-size[0] // 2), -(-size[1] // 2))


@pytest.mark.parametrize("keys", [int, str])
def test_class_names_by_index_stand_in_its_order(toy: nn.Module, keys: Any) -> None:
    named = {keys(index): name for index, name in reversed(list(enumerate(CLASSES)))}
    assert ttame.attach(toy, LAYERS, classes=named, input_size=SIZE, **IMAGENET).classes == CLASSES


@pytest.mark.parametrize(
    ("classes", "message"),
    [
        ({0: "a", 2: "c"}, "2 names but none for index 1; name every index from 0 to 1"),
        ({1: "a", 2: "b"}, "none for index 0"),
        ({0: "a", "0": "b"}, "none for index 1"),
        ({"cat": 0, "dog": 1}, r"names by index.*got the key 'cat'; turn it round"),
        ({1.0: "a"}, "got the key 1.0"),
        ("cat", "several names, got the string 'cat'"),
    ],
)
def test_class_names_with_gaps_are_refused(toy: nn.Module, classes: Any, message: str) -> None:
    with pytest.raises(TTameError, match=message):
        ttame.attach(toy, LAYERS, classes=classes, input_size=SIZE)
