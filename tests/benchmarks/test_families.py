"""Model families of three libraries: a sample is checked here, all of them by `make families`."""

from __future__ import annotations

import json
from pathlib import Path

import pandas as pd
import pytest
import timm
import torchvision

from benchmarks.families import MEMBERS, check_families, check_family, families, member
from benchmarks.records import write_benchmark
from ttame.companion.shipped import read_families, reference
from ttame.errors import TTameError

# Every way of carrying a feature map: channels first and last, tokens with none, one and two in
# front, hybrids, mixers, layers that return tuples, heads that pool twice.
SAMPLE = (
    "timm/convnext",
    "timm/deit",
    "timm/efficientnet",
    "timm/focalnet",
    "timm/levit",
    "timm/mlp_mixer",
    "timm/mobilevit",
    "timm/mvitv2",
    "timm/regnet",
    "timm/resnet",
    "timm/swin_transformer",
    "timm/xcit",
    "torchvision/shufflenetv2",
    "torchvision/squeezenet",
)


@pytest.mark.slow
@pytest.mark.parametrize("family", SAMPLE)
def test_a_sample_of_families_passes(family: str) -> None:
    record = check_family(family)
    assert record["passed"], record["reason"]
    assert record["layers"] and all(layer["channels"] > 1 for layer in record["layers"])


@pytest.mark.parametrize("family", MEMBERS["transformers"])
def test_the_families_of_transformers_pass(family: str) -> None:
    pytest.importorskip("transformers", reason="needs transformers")
    record = check_family(f"transformers/{family}")
    assert record["passed"], record["reason"]
    assert record["input_size"] == [64, 64]


def test_families_are_the_modules_of_the_libraries() -> None:
    known = families()
    counted = {library: sum(len(names) for family, names in known.items()
                            if family.startswith(f"{library}/"))
               for library in ("timm", "torchvision")}  # fmt: skip
    every = torchvision.models.list_models(module=torchvision.models)
    assert counted == {"timm": len(timm.list_models()), "torchvision": len(every)}
    assert "resnet18" in known["timm/resnet"] and "resnet18" in known["torchvision/resnet"]
    assert "swin_tiny_patch4_window7_224" in known["timm/swin_transformer"]
    assert known["transformers/vit"] == ("ViTForImageClassification",)


def test_every_member_belongs_to_its_family() -> None:
    for family in families():
        assert member(family) in families()[family]
    listed = {f"{library}/{family}" for library in MEMBERS for family in MEMBERS[library]}
    assert listed <= set(families())
    with pytest.raises(TTameError, match=r"no model family 'timm/resnets'.*'timm/resnet'"):
        member("timm/resnets")


def test_without_transformers_its_families_say_so(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr("benchmarks.families.find_spec", lambda _name: None)
    assert "transformers is not installed" in check_family("transformers/vit")["reason"]


def test_a_failure_is_recorded_with_its_step(monkeypatch: pytest.MonkeyPatch) -> None:
    def broken(*_args: object, **_settings: object) -> None:
        raise TTameError("no such luck\nsecond line")

    monkeypatch.setattr("benchmarks.families.attach", broken)
    seen = []
    (record,) = check_families(["timm/resnet"], seen.append)
    assert seen == [record]
    assert not record["passed"] and record["model"] == "resnet18"
    assert record["reason"] == "attach: TTameError: no such luck"
    assert record["parameters"] > 1e7


def test_records_are_written_and_read_again(tmp_path: Path) -> None:
    rows = [
        {"family": "a", "model": "a1", "passed": True, "layers": [{"name": "x"}]},
        {"family": "b", "model": "b1", "passed": False, "reason": "attach: none"},
    ]
    made, found = read_families(write_benchmark(tmp_path / "families.json", "families", rows=rows))
    assert {"command", "commit", "seed", "versions", "hardware", "date"} <= made.keys()
    assert found["passed"].to_dict() == {"a": True, "b": False}
    assert found.loc["b", "reason"] == "attach: none"


@pytest.mark.parametrize("content", ["{", "[]", json.dumps({"format": "other", "version": 1})])
def test_other_files_are_refused(tmp_path: Path, content: str) -> None:
    (tmp_path / "families.json").write_text(content)
    with pytest.raises(TTameError, match="make families"):
        read_families(tmp_path / "families.json")


def test_the_committed_matrix_is_complete_and_mostly_passes() -> None:
    _, found = read_families(reference("families.json"))
    assert isinstance(found, pd.DataFrame)
    assert set(found.index) == set(families())
    assert found["passed"].mean() >= 0.95
    assert found.loc[~found["passed"], "reason"].str.len().gt(10).all()
