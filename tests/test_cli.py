"""The command line as a user meets it: real classifier, real photos, exit codes, no leftovers."""

from __future__ import annotations

import subprocess
import sys
from pathlib import Path

import pytest
from PIL import Image
from typer.testing import CliRunner

from ttame.cli import app, main
from ttame.errors import TTameError
from ttame.files import replacing, shipped

CAT = shipped("samples") / "cat.jpg"


def run(*arguments: str) -> str:
    result = CliRunner().invoke(app, list(arguments), catch_exceptions=False)
    assert result.exit_code == 0, result.output
    return result.output


def test_explain_names_classes_and_writes_overlays(tmp_path: Path) -> None:
    output = run("explain", str(CAT), "--out", str(tmp_path / "out"), "--top-k", "2")
    assert "Egyptian cat" in output and "%" in output
    written = sorted(path.name for path in (tmp_path / "out").iterdir())
    assert len(written) == 2 and "cat.egyptian_cat.png" in written
    with Image.open(tmp_path / "out" / "cat.egyptian_cat.png") as picture:
        assert picture.size == (224, 224) and picture.mode == "RGB"


def test_any_class_on_request_by_name_or_index(tmp_path: Path) -> None:
    output = run(
        "explain", str(CAT), "--out", str(tmp_path), "--target", "tabby", "--target", "217"
    )
    assert "tabby" in output and "English springer" in output
    assert len(list(tmp_path.iterdir())) == 2


def test_layers_lists_and_marks(tmp_path: Path) -> None:
    output = run("layers")
    assert "blocks.4" in output and "14x14" in output


@pytest.mark.parametrize(
    ("arguments", "reason"),
    [
        (["explain", "none.jpg"], "none.jpg"),
        (["explain", str(CAT), "--target", "tabbby"], "tabby"),
        (["explain", str(CAT), "--target", "1000"], "0..999"),
        (["explain", str(CAT), "--explainer", "tf_efficientnet_lite9"], "tf_efficientnet_lite0"),
        (["explain", str(CAT), "--explainer", "none.safetensors"], "does not exist"),
        (["layers", "resnet51"], "resnet50"),
        (["train", "--out", "run", "--recipe", "best"], "published"),
        (["train", "--out", "run", "--layer", "blocks.44"], "blocks.4"),
        (["evaluate", "--out", "r.jsonl", "--methods", "Grad-CAMM", "--limit", "1"], "Grad-CAM"),
        (["data", "cifar"], "imagenette"),
    ],
)
def test_bad_input_is_one_clear_error(
    arguments: list[str],
    reason: str,
    tmp_path: Path,
    monkeypatch: pytest.MonkeyPatch,
    capsys: pytest.CaptureFixture[str],
) -> None:
    from tests.test_data import photo
    from ttame.data import IMAGENETTE

    for split in ("train", "val"):
        for wnid in IMAGENETTE:
            photo(tmp_path / "photos" / "imagenette" / split / wnid / "1.png")
    monkeypatch.setenv("TTAME_DATA", str(tmp_path / "photos"))
    (tmp_path / "here").mkdir()
    monkeypatch.chdir(tmp_path / "here")
    monkeypatch.setattr(sys, "argv", ["ttame", *arguments])
    with pytest.raises(SystemExit) as caught:
        main()
    assert caught.value.code == 2
    error = " ".join(capsys.readouterr().err.split())
    assert error.startswith("error:") and reason in error
    assert "Traceback" not in error
    assert list((tmp_path / "here").iterdir()) == []


def test_one_bad_photo_among_good_ones_writes_nothing(tmp_path: Path) -> None:
    bad = tmp_path / "bad.jpg"
    bad.write_bytes(CAT.read_bytes()[:3000])
    with pytest.raises(TTameError, match=r"bad\.jpg"):
        CliRunner().invoke(
            app, ["explain", str(CAT), str(bad), "--out", str(tmp_path / "out")],
            catch_exceptions=False,
        )  # fmt: skip
    assert not (tmp_path / "out").exists()


def test_full_disk_leaves_the_old_file(tmp_path: Path) -> None:
    target = tmp_path / "result.txt"
    target.write_text("old")
    with pytest.raises(TTameError, match="No space left"), replacing(target) as temporary:
        temporary.write_text("half")
        raise OSError(28, "No space left on device")
    assert target.read_text() == "old"
    assert [path.name for path in tmp_path.iterdir()] == ["result.txt"]


def test_interrupt_leaves_no_half_written_file(tmp_path: Path) -> None:
    with pytest.raises(KeyboardInterrupt), replacing(tmp_path / "x.png") as temporary:
        temporary.write_bytes(b"half")
        raise KeyboardInterrupt
    assert list(tmp_path.iterdir()) == []


def test_unwritable_folder_is_named(tmp_path: Path) -> None:
    (tmp_path / "file").write_text("")
    with pytest.raises(TTameError, match="cannot write"), replacing(tmp_path / "file" / "x.png"):
        pass


def test_installed_command_fails_without_a_traceback(tmp_path: Path) -> None:
    """As a shell sees it: exit code and standard error of the real entry point."""
    done = subprocess.run(
        [str(Path(sys.executable).with_name("ttame")), "explain", "none.jpg"],
        cwd=tmp_path, capture_output=True, text=True, check=False,
    )  # fmt: skip
    assert done.returncode == 2
    assert "none.jpg" in done.stderr and "Traceback" not in done.stderr
