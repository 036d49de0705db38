"""The checks and timings of exported files, on small networks."""

from __future__ import annotations

from pathlib import Path

import pytest
from typer.testing import CliRunner

pytest.importorskip("onnxruntime", reason="needs ttame[export]")

import benchmarks.export
import ttame
from benchmarks.__main__ import app
from benchmarks.export import check_export
from benchmarks.runtime import measure_runtime
from benchmarks.storage import measure_storage
from ttame.companion.shipped import read_benchmark
from ttame.data import PhotoList
from ttame.errors import TTameError
from ttame.explainer import Explainer


@pytest.mark.slow
def test_a_family_is_exported_and_compared() -> None:
    record = check_export("timm/convnext")
    assert record["passed"], record["reason"]
    assert record["batch"] is None and record["logits"] < 1e-4 and record["maps"] < 1e-4


def test_what_does_not_pass_says_why(monkeypatch: pytest.MonkeyPatch) -> None:
    def refuse(*_: object, **__: object) -> None:
        raise TTameError("ONNX has nothing for it")

    monkeypatch.setattr(Explainer, "export", refuse)
    record = check_export("timm/convnext")
    assert not record["passed"] and record["reason"] == "TTameError: ONNX has nothing for it"


def test_named_families_replace_their_rows(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    out = tmp_path / "export.json"
    for passed, names in ((False, ["timm/resnet", "timm/beit"]), (True, ["timm/resnet"])):
        row = {"model": "m", "passed": passed, "seconds": 1.0, "reason": "why"}
        monkeypatch.setattr(
            benchmarks.export, "check_export", lambda family, row=row: {"family": family, **row}
        )
        shown = CliRunner().invoke(app, ["export", *names, "--out", str(out)])
        assert shown.exit_code == 0, shown.output
    rows = read_benchmark(out, "export")["rows"]
    assert [(row["family"], row["passed"]) for row in rows] == [
        ("timm/beit", False), ("timm/resnet", True),
    ]  # fmt: skip
    assert ["commit" in row for row in rows] == [True, False]  # of the first run, of the record
    assert "1 of 2 families passed" in shown.output
    shown = CliRunner().invoke(app, ["export", *names, "--out", str(out), "--resume"])
    assert shown.output.startswith("1 of 2 families passed")  # nothing was left to check


def test_float32_files_score_as_pytorch_does(explainer: Explainer, photos: PhotoList) -> None:
    rows = measure_storage(explainer, photos)
    assert [row["storage"] for row in rows] == ["float32", "float16", "int8"]
    exact, half, byte = rows
    assert exact["same"] == 100 and exact["lowest_correlation"] > 0.9999
    assert exact["AD 50%"]["difference"] == pytest.approx(0, abs=0.01)
    assert exact["megabytes"] >= half["megabytes"] >= byte["megabytes"]
    assert byte["correlation"] < exact["correlation"] and byte["photos"] == len(photos)


def test_times_of_both(explainer: Explainer) -> None:
    rows = measure_runtime(explainer, (1, 3), repeats=3)
    assert [row["batch"] for row in rows] == [1, 3]
    for row in rows:
        assert row["explanation_ratio"] == pytest.approx(
            row["onnxruntime_explanation_ms"] / row["torch_explanation_ms"]
        )
    with pytest.raises(TTameError, match="at least 3, got 2"):
        measure_runtime(explainer, repeats=2)


@pytest.mark.slow
def test_times_of_the_shipped_explainer() -> None:
    """Its exported graph takes the number of photos from the target classes."""
    (row,) = measure_runtime(ttame.load("tf_efficientnet_lite0"), (1,), repeats=3)
    assert row["backbone"] == "tf_efficientnet_lite0"
