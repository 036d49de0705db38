"""`ttame demo`: the page it writes, what lies beside it, and what it refuses."""

from __future__ import annotations

import json
import re
from pathlib import Path

import pytest
from typer.testing import CliRunner

from ttame.cli.main import app
from ttame.errors import TTameError
from ttame.files import shipped

CAT = str(shipped("samples") / "cat.jpg")


def test_page_and_the_files_beside_it(tmp_path: Path) -> None:
    pytest.importorskip("onnxscript", reason="needs ttame[export]")
    page = tmp_path / "page.html"
    arguments = ["demo", str(page), "--photo", CAT, "--method", "T-TAME", "--separate",
                 "--title", "A <cat>", "--explainer", "drawn_cnn"]  # fmt: skip
    result = CliRunner().invoke(app, arguments, catch_exceptions=False)
    assert result.exit_code == 0, result.output
    assert result.output.startswith(f"page: {page} (0.")
    assert {path.name for path in tmp_path.iterdir()} == {"page.html", "model.js", "runtime.js"}
    text = page.read_text(encoding="utf-8")
    (found,) = re.findall(r'<script type="application/json">(.*?)</script>', text, re.DOTALL)
    data = json.loads(found)
    assert [photo["name"] for photo in data["photos"]] == ["cat"]
    assert [method["name"] for method in data["methods"]] == ["T-TAME"]
    assert [part["script"] for part in data["live"]["parts"]] == [
        "./runtime.js", "./runtime.js", "./model.js",
    ]  # fmt: skip
    assert "<title>A &lt;cat&gt;</title>" in text


@pytest.mark.parametrize(
    ("arguments", "message"),
    [
        (["page.txt"], r"ends in \.html, got 'page\.txt'"),
        (["page.html", "--photo", "gone.jpg"], "gone.jpg"),
        (["page.html", "--method", "random"], "a live page shows 'T-TAME'"),
        (["page.html", "--method", "T-TAME", "--method", "x"], "unknown method 'x'"),
    ],
)
def test_what_is_refused_leaves_nothing(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch, arguments: list[str], message: str
) -> None:
    monkeypatch.chdir(tmp_path)
    with pytest.raises(TTameError, match=message):
        CliRunner().invoke(
            app, ["demo", *arguments, "--explainer", "drawn_cnn"], catch_exceptions=False
        )
    assert list(tmp_path.iterdir()) == []
