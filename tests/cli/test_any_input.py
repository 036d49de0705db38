"""Whatever is typed or passed ends in a result or in one line that says what is wrong."""

from __future__ import annotations

import io
import sys
from collections.abc import Callable, Iterator
from contextlib import redirect_stderr, redirect_stdout
from pathlib import Path
from typing import Any

import numpy as np
import pytest
import torch
from hypothesis import HealthCheck, Phase, given, settings
from hypothesis import strategies as st
from torch import nn

import ttame
from tests.conftest import IMAGENET
from tests.helpers.photos import photo
from ttame.cli.main import main
from ttame.errors import TTameError
from ttame.explainer import Explainer

FAST = settings(
    max_examples=20,
    deadline=None,
    phases=[Phase.explicit, Phase.generate],  # without shrinking, which takes long
    derandomize=True,
    database=None,
    suppress_health_check=[HealthCheck.function_scoped_fixture, HealthCheck.too_slow],
)


def call(*arguments: str) -> tuple[int, str]:
    """Run the real entry point in this process; return its exit code and what it wrote as errors.

    Without errors, what it printed. Any exception but `SystemExit` passes through and fails the
    test.
    """
    before, errors, output = sys.argv, io.StringIO(), io.StringIO()
    sys.argv = ["ttame", *arguments]
    try:
        with redirect_stdout(output), redirect_stderr(errors):
            main()
    except SystemExit as end:
        return int(end.code or 0), errors.getvalue() or output.getvalue()
    finally:
        sys.argv = before
    return 0, errors.getvalue()


def assert_clear(code: int, errors: str) -> None:
    """A result, typer's usage message, or our one line."""
    assert code in (0, 1, 2), errors
    assert "Traceback" not in errors
    if code and "Usage:" not in errors and "─ Error ─" not in errors:
        lines = [line for line in errors.splitlines() if line.startswith("error: ")]
        assert len(lines) == 1 and errors.rstrip("\n").splitlines()[-1] == lines[0], errors


@pytest.fixture
def here(tmp_path: Path, explainer: Explainer, monkeypatch: pytest.MonkeyPatch) -> Iterator[Path]:
    """A working folder with odd files; the toy explainer is loaded by any of its names."""
    monkeypatch.chdir(tmp_path)
    monkeypatch.setenv("TTAME_DATA", str(tmp_path))
    monkeypatch.setattr("ttame.loading.load", _loads(explainer))
    photo(tmp_path / "photo.png")
    photo(tmp_path / "[" / "b].png")
    photo(tmp_path / "many" / "class [0]" / "1.png")
    (tmp_path / "empty.txt").write_bytes(b"")
    (tmp_path / "binary.toml").write_bytes(bytes(range(256)))
    (tmp_path / "broken.png").write_bytes(b"\x89PNG\r\n\x1a\nbroken")
    (tmp_path / "words.csv").write_text("photo.png,not a number\n")
    yield tmp_path


def _loads(explainer: Explainer) -> Callable[..., Explainer]:
    load = ttame.load
    return lambda name, *_, **__: explainer if str(name) == "tf_efficientnet_lite0" else load(name)


PATHS = st.sampled_from(
    ["photo.png", "[/b].png", "many", "empty.txt", "binary.toml", "broken.png", "words.csv",
     "none.png", "", ".", "/", "x" * 400, "photo.png/inside", "[/b]", "[bold]none[/bold].png",
     "a\0b", "-", "é\u202e\n.png", "\udcff"]
)  # fmt: skip
NUMBERS = st.sampled_from(
    ["0", "-1", "-3", "1", "2", "7", str(10**9), str(10**30), "nan", "inf", "1.5", "", "two", "²"]
)
TEXTS = st.one_of(
    st.sampled_from(
        ["²", "--5", "[/b]", "[bold]", ":cat:", "-0", "+1", "1e3", "٣", "9" * 5000, "ant", " ant ",
         "", "-", "\n", "all", "none"]
    ),
    st.text(max_size=12),
)  # fmt: skip


@FAST
@given(path=PATHS, target=TEXTS, top=NUMBERS, out=PATHS, which=st.integers(0, 2))
def test_explain_ends_clearly(
    here: Path, path: str, target: str, top: str, out: str, which: int
) -> None:
    out = out if out not in ("/", "") else "out"  # nothing is written outside
    options = [f"--target={target}", f"--top-k={top}", f"--html={target}"][which]
    assert_clear(*call("explain", options, f"--out={out}", "--", path))


@FAST
@given(
    option=st.sampled_from(
        ["--limit", "--batch-size", "--steps", "--curve-limit", "--rise-masks", "--seed",
         "--methods", "--metrics", "--data", "--explainer", "--backbone"]
    ),
    value=st.one_of(NUMBERS, PATHS, TEXTS),
    out=PATHS,
)  # fmt: skip
def test_evaluate_ends_clearly(here: Path, option: str, value: str, out: str) -> None:
    out = out if out not in ("/", "") else "many"
    assert_clear(*call("evaluate", "--data=many", f"--out={out}", f"{option}={value}"))


@FAST
@given(
    command=st.sampled_from(
        ["layers", "diagnose", "study", "data", "train", "notebook", "nothing", ""]
    ),
    words=st.lists(
        st.one_of(
            PATHS,
            TEXTS,
            st.sampled_from(["--out", "--height", "--width", "--config", "--all", "--dry-run",
                             "--weights", "--limit", "convert", "execute", "timm/resnet10t",
                             "--work", "--axis", "-p", "--profile", "--image-root"]),
            NUMBERS,
        ),
        max_size=5,
    ),
)  # fmt: skip
def test_other_commands_end_clearly(here: Path, command: str, words: list[str]) -> None:
    if command == "data" and {"imagenette", "caltech101"} & set(words):
        return
    assert_clear(*call(command, *words))


@pytest.mark.parametrize(
    ("arguments", "reason"),
    [
        (["explain", "[/b].png", "--target", "[/b]"], r"no class is named '[/b]'"),
        (["explain", "[/c].png"], "no file fits the pattern '[/c].png'"),
        (["explain", "photo.png", "--target", "²"], "²"),
        (["explain", "photo.png", "--target=--5"], "--5"),
        (["explain", "photo.png", "--target", "9" * 5000], "class"),
        (["explain", "x" * 400], "does not exist"),
        (["layers", "timm/resnet10t", "--height", "-3"], "got (-3, -3)"),
        (["layers", "timm/resnet10t", "--height", "0"], "got (0, 0)"),
        (["layers", "timm/resnet10t", "--height", "1000000000"], "from 1 to 16384"),
        (["train", "--out", "run", "--config", "binary.toml"], "'binary.toml' cannot be read"),
        (["train", "--out", "run", "--config", "many"], "'many' cannot be read"),
        (["study", "binary.toml", "--out", "x"], "'binary.toml' is not TOML"),
        (["study", "many", "--out", "x"], "'many' does not exist"),
        (["notebook", "convert", "none.py"], "none.py"),
    ],
)
def test_mistakes_are_named(here: Path, arguments: list[str], reason: str) -> None:
    code, errors = call(*arguments)
    assert_clear(code, errors)
    assert code in (1, 2) and reason in errors


def test_names_like_markup_are_printed_as_they_are(
    here: Path, monkeypatch: pytest.MonkeyPatch, capsys: pytest.CaptureFixture[str]
) -> None:
    monkeypatch.setattr(sys, "argv", ["ttame", "explain", "[/b].png", "--top-k=1"])
    with pytest.raises(SystemExit) as end:
        main()
    assert not end.value.code
    assert "b].png" in capsys.readouterr().out
    assert len(list((here / "explanations").iterdir())) == 1


DTYPES = (np.uint8, np.int32, np.float16, np.float32, np.float64, np.complex64, np.bool_, object)
SHAPES = st.lists(st.sampled_from([0, 1, 2, 3, 4, 5, 33]), min_size=0, max_size=5).map(tuple)


@st.composite
def arrays(draw: st.DrawFn) -> Any:
    """Arrays and tensors of any dtype and shape, with odd values among them."""
    shape = draw(st.one_of(SHAPES, st.sampled_from([(3, 1, 3000), (2000, 1, 3), (3, 8, 8)])))
    fill = draw(st.sampled_from([0, 1, 0.5, -1, 2, 255, float("nan"), float("inf"), 1e30]))
    with np.errstate(all="ignore"):
        array = np.full(shape, fill).astype(draw(st.sampled_from(DTYPES)))
    if draw(st.booleans()) and array.dtype != object:
        tensor = torch.from_numpy(array)
        return tensor.to(torch.bfloat16) if draw(st.booleans()) else tensor
    return array


ODD = st.sampled_from(
    [None, "", "none.png", b"bytes", 3, [], [[]], {}, (), [None], ["none.png"], object()]
)
TARGETS = st.one_of(
    st.none(), TEXTS, st.integers(-3, 12), st.floats(), st.booleans(), arrays(),
    st.lists(st.one_of(st.integers(-2, 11), TEXTS), max_size=3), st.just({1, 2}), st.just(10**40),
)  # fmt: skip


@settings(FAST, max_examples=200)
@given(
    images=st.one_of(arrays(), ODD, st.lists(arrays(), max_size=2)),
    targets=TARGETS,
    top=st.one_of(st.none(), st.integers(-2, 12), st.sampled_from([10**30, 1.5, "two", True])),
    refine=st.sampled_from([0, 0, 0, 1, -1, 10**9, 1.5, None]),
)
def test_explain_gives_a_result_or_our_error(
    explainer: Explainer, images: Any, targets: Any, top: Any, refine: Any
) -> None:
    try:
        found = explainer.explain(images, targets, top_k=top, refine=refine)
    except TTameError as error:
        assert "\n" not in str(error).strip()
        return
    assert found.maps.isfinite().all() and found.logits.isfinite().all()
    assert found.maps.shape[:2] == found.targets.shape == (len(found), found.targets.shape[1])


@settings(FAST, max_examples=40)
@given(
    layers=st.one_of(
        st.sampled_from(["auto", "stages", "", "none", "head", "dropout", "stages.0.2"]),
        st.lists(st.sampled_from(["stages.0", "stages.2", "", "x"]), max_size=3),
    ),
    facts=st.fixed_dictionaries(
        {},
        optional={
            "input_size": st.sampled_from(
                [(32, 32), (0, 0), (-1, 4), (10**9, 10**9), (32,), 7, "ab", (1, 1), (8.5, 8), None]
            ),
            "std": st.sampled_from(
                [(0, 0, 0), (1, 1), (1.0, 1.0, 1.0), "abc", (1, 1, float("nan"))]
            ),
            "mean": st.sampled_from([(0, 0, 0), (1, 1), 5, ("a", "b", "c")]),
            "space": st.sampled_from(["raw", "normalized", "outer"]),
            "classes": st.sampled_from([["a"] * 10, ["a"], list(range(10))]),
        },
    ),
)  # fmt: skip
def test_attach_gives_an_explainer_or_our_error(
    toy: nn.Module, layers: Any, facts: dict[str, Any]
) -> None:
    try:
        found = ttame.attach(toy, layers, **{**IMAGENET, **facts})
    except TTameError as error:
        assert "\n" not in str(error).strip()
        return
    assert isinstance(found, Explainer)
