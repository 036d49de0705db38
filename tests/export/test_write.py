"""Exported files: what they compute, what they hold, and when none is left."""

from __future__ import annotations

import json
from collections.abc import Callable
from pathlib import Path
from typing import Any

import numpy as np
import pytest
import torch
from torch import Tensor, nn

pytest.importorskip("onnxruntime", reason="needs ttame[export]")

import onnx
from timm.layers import Conv2dSame

import ttame
from ttame.classifiers.weights import weight_digest
from ttame.errors import TTameError
from ttame.explainer import Explainer
from ttame.export import graph, write
from ttame.export.graph import open_graph


@pytest.mark.parametrize("count", [1, 2, 5])
def test_any_number_of_images_and_any_class(
    exported: Path, fixed: Explainer, images: Tensor, count: int
) -> None:
    run = open_graph(exported)
    some, targets = images[:count], torch.tensor([3, -1, 0, -1, 9])[:count]
    logits, explained, maps = run(some.numpy(), targets.numpy())
    with torch.inference_mode():
        expected = fixed.classifier(some)
        wanted = torch.where(targets < 0, expected.argmax(dim=1), targets)
        _, _, own = fixed(some, wanted[:, None])
    np.testing.assert_allclose(logits, expected, rtol=1e-4, atol=1e-4)
    np.testing.assert_array_equal(explained, wanted)
    np.testing.assert_allclose(maps, own, rtol=1e-4, atol=1e-4)


def test_names_shapes_and_facts(exported: Path, fixed: Explainer) -> None:
    model = onnx.load(exported)
    onnx.checker.check_model(model, full_check=True)
    shown = [onnx.helper.printable_value_info(v) for v in (*model.graph.input, *model.graph.output)]
    assert shown == [
        "%images[FLOAT, batchx3x32x32]", "%targets[INT64, batch]", "%logits[FLOAT, batchx10]",
        "%explained[INT64, batch]", "%maps[FLOAT, batchx1x16x16]",
    ]  # fmt: skip
    facts = json.loads({entry.key: entry.value for entry in model.metadata_props}["ttame"])
    spec = fixed.spec
    assert facts["classes"] == list(fixed.classes) and facts["layers"] == list(fixed.layers)
    assert facts["mean"] == list(spec.mean) and facts["std"] == list(spec.std)
    assert facts["input_size"] == [32, 32] and facts["activation"] == "softmax"
    assert facts["licence"] == "CC0-1.0" and facts["storage"] == "float32"
    assert facts["digests"] == {
        "classifier": weight_digest(fixed.classifier),
        "mechanism": weight_digest(fixed.mechanism),
    }


def test_nothing_of_this_machine_is_in_the_file(exported: Path) -> None:
    content = exported.read_bytes()
    for word in (b"site-packages", str(Path(ttame.__file__).parent).encode(), b".py"):
        assert word not in content


def test_a_program_of_torch_export_computes_the_same(
    explainer: Explainer, tmp_path: Path, images: Tensor
) -> None:
    found = explainer.export(tmp_path / "toy.pt2")
    assert found.logits < 1e-5 and found.maps < 1e-5 and found.same == 1
    files = {"ttame": ""}
    program = torch.export.load(tmp_path / "toy.pt2", extra_files=files).module()
    assert json.loads(files["ttame"])["name"] == "ToyClassifier"
    logits, explained, maps = program(images, torch.full((len(images),), 4))
    expected = explainer(images, torch.full((len(images), 1), 4))
    torch.testing.assert_close(logits, expected[0])
    torch.testing.assert_close(maps, expected[2])
    assert explained.tolist() == [4] * len(images)


@pytest.mark.parametrize("storage", ["float16", "int8"])
def test_fewer_bits_make_the_file_smaller_and_round(
    fixed: Explainer, exported: Path, tmp_path: Path, storage: Any
) -> None:
    found = fixed.export(tmp_path / "small.onnx", storage=storage)
    assert 1e-5 < found.logits < 0.2  # the larger weights of the toy are rounded
    assert (tmp_path / "small.onnx").stat().st_size < exported.stat().st_size


def test_a_half_precision_classifier_is_exported_in_float32(
    make_explainer: Callable[[nn.Module], Explainer], toy: nn.Module, tmp_path: Path
) -> None:
    explainer = make_explainer(toy.half())
    explainer.export(tmp_path / "toy.onnx")
    assert next(explainer.classifier.parameters()).dtype == torch.float16  # not changed
    model = onnx.load(tmp_path / "toy.onnx")
    assert {value.type.tensor_type.elem_type for value in model.graph.output} == {
        onnx.TensorProto.FLOAT,
        onnx.TensorProto.INT64,
    }


def test_a_black_box_is_exported_with_the_network_beside_it(tmp_path: Path) -> None:
    explainer = ttame.attach("drawn_cnn", features="drawn_cnn", pretrained=False)
    assert explainer.export(tmp_path / "pair.onnx").maps < 1e-4
    entry = onnx.load(tmp_path / "pair.onnx").metadata_props[0]
    assert set(json.loads(entry.value)["digests"]) == {"classifier", "auxiliary", "mechanism"}


def test_both_answers_of_one_output(tmp_path: Path, toy: nn.Module) -> None:
    toy.head = nn.Linear(16, 1)
    explainer = ttame.attach(
        toy, ["stages.2"], input_size=(32, 32), mean=0, std=1, activation="sigmoid"
    )
    explainer.export(tmp_path / "toy.onnx")
    logits, _, _ = open_graph(tmp_path / "toy.onnx")(
        np.zeros((1, 3, 32, 32), np.float32), np.array([0])
    )
    assert logits.shape == (1, 2) and logits[0, 0] == -logits[0, 1]


def test_a_file_that_disagrees_is_not_left(
    explainer: Explainer, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    path = tmp_path / "toy.onnx"
    path.write_bytes(b"the former file")

    def wrong(program: Any, name: str) -> onnx.ModelProto:
        model = graph.to_onnx(program, name)
        bias = next(item for item in model.graph.initializer if item.name.endswith("head.bias"))
        values = onnx.numpy_helper.to_array(bias) + np.float32(0.5)
        bias.CopyFrom(onnx.numpy_helper.from_array(values, bias.name))
        return model

    monkeypatch.setattr(write, "to_onnx", wrong)
    with pytest.raises(TTameError, match=r"disagrees with PyTorch on 18 photos: logits by 0\.\d+"):
        explainer.export(path)
    assert path.read_bytes() == b"the former file"
    assert [item.name for item in tmp_path.iterdir()] == ["toy.onnx"]


def _refused(explainer: Explainer, path: Path, match: str, **options: Any) -> None:
    with pytest.raises(TTameError, match=match) as caught:
        explainer.export(path, **options)
    assert "\n" not in str(caught.value)
    assert not path.exists()


def test_bad_options_are_refused(explainer: Explainer, tmp_path: Path) -> None:
    path = tmp_path / "toy.onnx"
    _refused(explainer, tmp_path / "toy.pb", r"ends in \.onnx, or \.pt2 .*'toy\.pb'")
    _refused(explainer, path, "unknown storage of weights 'int4'", storage="int4")
    _refused(explainer, path, "batch must be None", batch=0)
    _refused(explainer, tmp_path / "toy.pt2", "holds float32 weights", storage="int8")
    _refused(explainer, path, "'nowhere.jpg' does not exist", photos="nowhere.jpg")
    _refused(explainer.train(), path, "training mode")


def test_a_path_that_cannot_be_written_is_named_before_the_work(
    explainer: Explainer, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr(write, "trace", lambda *_: pytest.fail("traced"))
    (tmp_path / "file").write_text("in the way")
    _refused(explainer, tmp_path / "file" / "toy.onnx", "cannot write .*toy.onnx")


class Singular(nn.Module):
    """An operation that ONNX does not have."""

    def forward(self, maps: Tensor) -> Tensor:
        return maps + torch.linalg.svdvals(maps[:, 0])[:, :1, None, None]


class Moody(nn.Module):
    """A step that depends on values of the image."""

    def forward(self, maps: Tensor) -> Tensor:
        return maps + 1 if float(maps.detach().sum()) > 0 else maps - 1


class Paired(nn.Module):
    """A step that takes its batch size from the first images that it sees."""

    def forward(self, maps: Tensor) -> Tensor:
        return maps.reshape(len(maps), *maps.shape[1:])


class Windows(nn.Module):
    """Attention within windows, with two dimensions before those of places and channels."""

    def forward(self, maps: Tensor) -> Tensor:
        rows = maps.unflatten(2, (2, -1)).permute(0, 2, 4, 3, 1)[:, :, :, None]  # (B, 2, w, 1, ...)
        found = nn.functional.scaled_dot_product_attention(rows, rows, rows)
        return maps + found.mean(dim=(1, 2, 3, 4))[..., None, None]


def test_attention_within_windows_is_exported(toy: nn.Module, tmp_path: Path) -> None:
    toy.stages.append(Windows())
    explainer = ttame.attach(toy, ["stages.2"], input_size=(32, 32), mean=0, std=1)
    agreement = explainer.export(tmp_path / "toy.onnx")
    assert agreement.logits < 1e-4 and agreement.maps < 1e-4


@pytest.mark.parametrize("options", [{}, {"scale": 0.3}, {"is_causal": True}, {"masked": True},
                                     {"added": True}], ids=str)  # fmt: skip
def test_plain_attention_is_that_of_torch(options: dict[str, Any]) -> None:
    query, value = torch.randn(2, 3, 2, 5, 4), torch.randn(2, 3, 2, 5, 6)
    mask = torch.rand(5, 5) < 0.5
    mask[:, 0] = True  # every place sees one at least
    given = {key: found for key, found in options.items() if key in ("scale", "is_causal")}
    if "masked" in options:
        given["attn_mask"] = mask
    if "added" in options:
        given["attn_mask"] = torch.randn(5, 5)
    expected = nn.functional.scaled_dot_product_attention(query, query.flip(-2), value, **given)
    found = graph.attention(query, query.flip(-2), value, **given)
    torch.testing.assert_close(found, expected)
    with pytest.raises(TTameError, match=r"with dropout_p=0\.1"):
        graph.attention(query, query, value, dropout_p=0.1)


@pytest.mark.parametrize(
    ("module", "message"),
    [
        (Singular, r"ONNX has nothing for aten\.\w*svd\w* in module 'stages\.3'"),
        (Moody, r"module 'stages\.3' fails while it is traced"),
    ],
)
def test_operations_that_cannot_be_exported_are_named(
    toy: nn.Module, tmp_path: Path, module: type[nn.Module], message: str
) -> None:
    toy.stages.append(module())
    explainer = ttame.attach(toy, ["stages.2"], input_size=(32, 32), mean=0, std=1)
    _refused(explainer, tmp_path / "toy.onnx", message)


def test_a_network_that_fixes_the_batch_is_exported_for_one(toy: nn.Module, tmp_path: Path) -> None:
    toy.stages.append(Paired())
    explainer = ttame.attach(toy, ["stages.2"], input_size=(32, 32), mean=0, std=1)
    _refused(explainer, tmp_path / "toy.onnx", "any number of images .* export with batch=1")
    assert explainer.export(tmp_path / "toy.onnx", batch=1).maps < 1e-4


def test_images_of_any_size(fixed: Explainer, tmp_path: Path) -> None:
    path = tmp_path / "open.onnx"
    assert fixed.export(path, any_size=True).photos == 18  # each in two sizes
    shown = onnx.helper.printable_value_info(onnx.load(path).graph.input[0])
    assert shown == "%images[FLOAT, batchx3xheightxwidth]"
    images = torch.randn(1, 3, 40, 24)
    logits, _, maps = open_graph(path)(images.numpy(), np.array([4]))
    with torch.inference_mode():
        expected, _, own = fixed(images, torch.tensor([[4]]))
    np.testing.assert_allclose(logits, expected, rtol=1e-4, atol=1e-4)
    np.testing.assert_allclose(maps, own, rtol=1e-4, atol=1e-4)


class Placed(nn.Module):
    """A step that adds what was learnt for each place of a map of one size."""

    def __init__(self) -> None:
        super().__init__()
        self.places = nn.Parameter(torch.randn(1, 16, 4, 4))

    def forward(self, maps: Tensor) -> Tensor:
        return maps + self.places


@pytest.mark.parametrize(
    ("module", "message"),
    [
        (Placed, r"cannot take images of any size .*; leave any_size out, or export one file per"),
        (
            lambda: Conv2dSame(16, 16, 3, stride=2),
            r"module 'stages\.3' \(Conv2dSame\) pads by the size of the image",
        ),
    ],
    ids=["one size", "same padding"],
)
def test_networks_of_one_size_are_refused(
    toy: nn.Module, tmp_path: Path, module: Callable[[], nn.Module], message: str
) -> None:
    toy.stages.append(module())
    explainer = ttame.attach(toy, ["stages.2"], input_size=(32, 32), mean=0, std=1)
    _refused(explainer, tmp_path / "toy.onnx", message, any_size=True)


def test_any_size_and_preprocessing_exclude_each_other(fixed: Explainer, tmp_path: Path) -> None:
    _refused(fixed, tmp_path / "x.onnx", "any_size or preprocess", any_size=True, preprocess=True)
