"""The examples of the API reference: each name that it begins with has one, which runs."""

import doctest
import re
from importlib import import_module
from pathlib import Path

import pytest

ROOT = Path(__file__).resolve().parents[2]
PAGE = (ROOT / "book" / "api.md").read_text(encoding="utf-8")
NAMES = re.findall(r"^\.\. auto(?:function|method):: (\S+)$", PAGE, re.MULTILINE)


def find(name: str) -> object:
    """What a dotted name means, of a module, or of a class in a module."""
    parts = name.split(".")
    for split in range(len(parts) - 1, 0, -1):
        try:
            found: object = import_module(".".join(parts[:split]))
        except ModuleNotFoundError:
            continue
        for part in parts[split:]:
            found = getattr(found, part)
        return found
    raise LookupError(name)


def test_reference_begins_with_ten_names() -> None:
    assert len(NAMES) == len(set(NAMES)) == 10


@pytest.mark.parametrize("name", NAMES)
def test_example_runs(name: str, tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.chdir(tmp_path)  # where examples write
    (example,) = doctest.DocTestFinder(recurse=False).find(find(name), name, globs={})
    assert example.examples
    said: list[str] = []
    outcome = doctest.DocTestRunner(verbose=False).run(example, out=said.append)
    assert outcome.failed == 0, "".join(said)
    assert outcome.attempted == len(example.examples)
