"""Weights as training leaves them: nested, prefixed, with a head of their own, or of no use."""

from __future__ import annotations

import argparse
import warnings
from collections.abc import Callable
from pathlib import Path
from typing import Any

import pytest
import torch
from safetensors.torch import save_file
from torch import Tensor, nn

import ttame
from tests.conftest import ToyClassifier
from ttame.classifiers.registry import BACKBONES, load_backbone, register_backbone
from ttame.classifiers.specs import BackboneSpec
from ttame.classifiers.weights import read_state, weight_digest
from ttame.errors import TTameError

State = dict[str, Tensor]


@pytest.fixture(autouse=True)
def _registered(monkeypatch: pytest.MonkeyPatch) -> None:
    """Register the toy classifier, with ten classes, as `toy`."""
    monkeypatch.setattr("ttame.classifiers.registry.BACKBONES", dict(BACKBONES))
    register_backbone(
        BackboneSpec(
            "toy", lambda num_classes=10: ToyClassifier(num_classes), dict,
            ("stages.0", "stages.1", "stages.2"), "head", (32, 32),
            classes=tuple("abcdefghij"),
        )
    )  # fmt: skip


def save(content: Any, folder: Path, name: str = "weights.pth") -> Path:
    torch.save(content, folder / name)
    return folder / name


def prefixed(state: State, prefix: str) -> State:
    return {prefix + key: value for key, value in state.items()}


@pytest.mark.parametrize(
    "prefix", ["", "module.", "model.", "backbone.", "_orig_mod.", "model.module.", "net.body."]
)
def test_prefixes_of_wrappers_are_removed(toy: nn.Module, tmp_path: Path, prefix: str) -> None:
    path = save(prefixed(toy.state_dict(), prefix), tmp_path)
    with warnings.catch_warnings():
        warnings.simplefilter("error")
        assert weight_digest(load_backbone("toy", path).model) == weight_digest(toy)


def test_wrappers_of_torch_write_such_prefixes(toy: nn.Module, tmp_path: Path) -> None:
    for wrapped in (nn.DataParallel(toy), torch.compile(toy, backend="eager")):
        path = save(wrapped.state_dict(), tmp_path)  # type: ignore[attr-defined]
        assert weight_digest(load_backbone("toy", path).model) == weight_digest(toy)
    compiled = {key.replace("stages.1.", "stages.1._orig_mod."): value
                for key, value in toy.state_dict().items()}  # fmt: skip
    found = load_backbone("toy", save(compiled, tmp_path))
    assert weight_digest(found.model) == weight_digest(toy)


@pytest.mark.parametrize(
    "nest",
    [
        lambda state: {"state_dict": state},
        lambda state: {"model": state, "epoch": 3, "args": argparse.Namespace(lr=0.1)},
        lambda state: {"model_state_dict": prefixed(state, "module."), "loss": torch.tensor(0.1)},
        lambda state: {"ema": {"module": state, "decay": 0.999}},
        lambda state: {"meta": {"classes": ["a"]}, "state_dict": prefixed(state, "backbone.")},
    ],
    ids=["state_dict", "torchvision", "trainer", "ema", "with names"],
)
def test_nested_state_dicts_are_found(
    toy: nn.Module, tmp_path: Path, nest: Callable[[State], Any]
) -> None:
    path = save(nest(dict(toy.state_dict())), tmp_path)
    assert weight_digest(load_backbone("toy", path).model) == weight_digest(toy)


def test_the_state_of_an_optimizer_is_none_of_a_model(toy: nn.Module, tmp_path: Path) -> None:
    optimizer = torch.optim.AdamW(toy.parameters())
    toy(torch.randn(2, 3, 32, 32)).sum().backward()
    optimizer.step()
    toy.eval()
    content = {"model": toy.state_dict(), "optimizer": optimizer.state_dict()}
    found = load_backbone("toy", save(content, tmp_path))
    assert weight_digest(found.model) == weight_digest(toy)


def test_a_lightning_checkpoint_is_read(toy: nn.Module, tmp_path: Path) -> None:
    import lightning as L

    class Task(L.LightningModule):
        def __init__(self) -> None:
            super().__init__()
            self.save_hyperparameters({"rate": 0.1})
            self.model = toy
            self.loss = nn.CrossEntropyLoss(weight=torch.ones(10))  # its weight is saved along

        def training_step(self, batch: Tensor, _index: int) -> Tensor:
            return self.loss(self.model(batch), torch.zeros(len(batch), dtype=torch.long))

        def configure_optimizers(self) -> torch.optim.Optimizer:
            return torch.optim.AdamW(self.parameters(), 0.01)

    trainer = L.Trainer(
        accelerator="cpu", max_steps=1, logger=False, enable_checkpointing=False,
        enable_progress_bar=False, enable_model_summary=False,
    )  # fmt: skip
    loader = torch.utils.data.DataLoader(torch.randn(4, 3, 32, 32), batch_size=4)
    trainer.fit(Task(), loader)
    trainer.save_checkpoint(tmp_path / "last.ckpt")
    with pytest.warns(UserWarning, match=r"1 tensors outside 'model\.' are left out: loss\.weight"):
        found = load_backbone("toy", tmp_path / "last.ckpt")
    assert weight_digest(found.model) == weight_digest(toy)


def test_safetensors_with_a_prefix(toy: nn.Module, tmp_path: Path) -> None:
    save_file(prefixed(toy.state_dict(), "module."), tmp_path / "weights.safetensors")
    found = load_backbone("toy", tmp_path / "weights.safetensors")
    assert weight_digest(found.model) == weight_digest(toy)


def test_several_state_dicts_are_not_chosen_from(toy: nn.Module, tmp_path: Path) -> None:
    content = {"state_dict": toy.state_dict(), "state_dict_ema": toy.state_dict()}
    with pytest.raises(TTameError, match="holds several state dicts: state_dict, state_dict_ema;"):
        load_backbone("toy", save(content, tmp_path))


def test_the_head_decides_on_the_number_of_classes(tmp_path: Path) -> None:
    tuned = ToyClassifier(3)
    path = save({"state_dict": prefixed(tuned.state_dict(), "model.")}, tmp_path)
    found = load_backbone("toy", path)
    assert weight_digest(found.model) == weight_digest(tuned)
    assert found.spec.classes == ("class 0", "class 1", "class 2")
    explainer = ttame.attach("toy", weights=path, classes={"2": "cat", "0": "ant", "1": "bee"})
    assert explainer.classes == ("ant", "bee", "cat") and explainer.mechanism.classes == 3
    saved = explainer.save(tmp_path / "explainer.safetensors")
    again = ttame.load(saved, weights=path)
    assert again.classes == ("ant", "bee", "cat")
    raw = torch.rand(1, 3, 32, 32)
    assert torch.equal(again.explain(raw, "bee").maps, explainer.explain(raw, 1).maps)
    with pytest.raises(TTameError, match="2 class names, but the classifier has 3"):
        ttame.attach("toy", weights=path, classes=("a", "b"))


@pytest.mark.parametrize("name", ["timm/resnet10t", "torchvision/shufflenet_v2_x0_5"])
def test_heads_of_the_libraries_networks(tmp_path: Path, name: str) -> None:
    spec = ttame.classifiers.registry.backbone_spec(name)  # type: ignore[attr-defined]
    model = spec.build(num_classes=4)
    found = load_backbone(name, save(model.state_dict(), tmp_path))
    assert weight_digest(found.model) == weight_digest(model)


def test_a_registered_network_without_a_choice_of_classes(tmp_path: Path) -> None:
    register_backbone(
        BackboneSpec(
            "fixed", lambda: ToyClassifier(), dict, (), "head", classes=tuple("abcdefghij")
        )
    )
    path = save(ToyClassifier(3).state_dict(), tmp_path)
    with pytest.raises(TTameError, match=r"have 3 classes, fixed has 10.*takes no num_classes"):
        load_backbone("fixed", path)


def changed(change: Callable[[State], Any]) -> State:
    state = dict(ToyClassifier().state_dict())
    change(state)
    return state


@pytest.mark.parametrize(
    ("change", "message"),
    [
        (
            lambda state: state.update({"stages.1.0.weight": torch.zeros(12, 8, 5, 5)}),
            r"stages\.1\.0\.weight has shape \(12, 8, 5, 5\), the model's \(12, 8, 3, 3\);",
        ),
        (lambda state: state.pop("head.bias"), r"missing head\.bias;"),
        (
            lambda state: state.update({"extra.weight": torch.zeros(2, 2)}),
            r"unexpected extra\.weight;",
        ),
        (
            lambda state: [state.pop(key) for key in list(state) if key.startswith("stages.0")],
            r"missing stages\.0\.0\.weight, stages\.0\.1\.weight, stages\.0\.1\.bias and 2 more;",
        ),
        (
            lambda state: state.update({"head.weight": torch.zeros(3, 16)}),  # a bias of 10
            r"head\.bias has shape \(10,\), the model's \(3,\)",
        ),
    ],
    ids=["shape", "missing", "unexpected", "several", "half a head"],
)
def test_what_does_not_fit_is_named(
    tmp_path: Path, change: Callable[[State], Any], message: str
) -> None:
    path = save(changed(change), tmp_path)
    with pytest.raises(TTameError, match=rf"weights\.pth do not fit toy: {message}"):
        load_backbone("toy", path)


def test_a_prefix_does_not_hide_what_is_missing(tmp_path: Path) -> None:
    state = changed(lambda state: state.pop("head.weight"))
    with pytest.raises(TTameError, match=r"do not fit toy: missing head\.weight;"):
        load_backbone("toy", save(prefixed(state, "module."), tmp_path))


def test_old_batch_norms_without_counters_are_loaded(toy: nn.Module, tmp_path: Path) -> None:
    state = {key: value for key, value in toy.state_dict().items() if "num_batches" not in key}
    assert len(state) < len(toy.state_dict())
    found = load_backbone("toy", save(state, tmp_path)).model
    assert torch.equal(found.get_submodule("head").weight, toy.get_submodule("head").weight)


def test_a_pickled_module_is_refused_with_the_remedy(toy: nn.Module, tmp_path: Path) -> None:
    message = (
        r"holds a tests\.conftest\.ToyClassifier, and code in files is not run.*state_dict\(\)"
    )
    with pytest.raises(TTameError, match=message):
        read_state(save(toy, tmp_path))


def test_weights_beside_a_module_are_refused(toy: nn.Module, tmp_path: Path) -> None:
    path = save(toy.state_dict(), tmp_path)
    with pytest.raises(TTameError, match=r"weights\.pth' and a ToyClassifier, which has weights"):
        ttame.attach(toy, weights=path, input_size=(32, 32))
    with pytest.raises(TTameError, match="which has weights"):
        ttame.load("any.safetensors", model=toy, weights=path)
