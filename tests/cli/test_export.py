"""`ttame export` as a user meets it."""

from __future__ import annotations

from pathlib import Path

import pytest
from typer.testing import CliRunner

pytest.importorskip("onnxruntime", reason="needs ttame[export]")

import ttame
from ttame.cli.main import app
from ttame.errors import TTameError
from ttame.files import shipped


def test_export_says_what_was_written_and_how_far_it_is(tmp_path: Path) -> None:
    out = tmp_path / "drawn.onnx"
    shown = CliRunner().invoke(
        app,
        ["export", str(out), "--explainer", "drawn_cnn", "--storage", "float16", "--licence",
         "Apache-2.0", "--photos", str(shipped("samples") / "cat.jpg")],
        catch_exceptions=False,
    )  # fmt: skip
    assert shown.exit_code == 0, shown.output
    assert f"exported: {out} (0.7 MB); on 1 photos it differs from PyTorch by" in shown.output
    exported = ttame.Exported(out)
    assert exported.facts["licence"] == "Apache-2.0" and exported.facts["storage"] == "float16"


def test_bad_options_are_one_clear_error(tmp_path: Path) -> None:
    with pytest.raises(TTameError, match="unknown storage of weights 'int3'"):
        CliRunner().invoke(
            app, ["export", str(tmp_path / "x.onnx"), "--explainer", "drawn_cnn", "--storage",
                  "int3"], catch_exceptions=False,
        )  # fmt: skip
    assert not list(tmp_path.iterdir())
