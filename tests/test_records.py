"""Result files: whole or partial, of one configuration, whatever kills the run."""

from __future__ import annotations

import gzip
import json
from pathlib import Path
from typing import Any

import pytest

from ttame.errors import TTameError
from ttame.records import (
    FORMAT,
    VERSION,
    ResultsFile,
    provenance,
    read_results,
    results_paths,
    write_first,
)

CONFIG = {"backbone": "toy", "layers": ["a", "b"], "photos": ("0.jpg", "1.jpg"), "seed": 0}
MADE = {"command": "ttame evaluate", "commit": "0123456789ab", "seed": 0}


def record(number: int) -> dict[str, Any]:
    return {"photo": f"{number // 2}.jpg", "method": "AB"[number % 2], "value": number / 10}


def begin(path: Path, count: int, group: int = 2) -> ResultsFile:
    results = ResultsFile(path, CONFIG, MADE, group)
    results.append(record(number) for number in range(count))
    return results


@pytest.fixture
def path(tmp_path: Path) -> Path:
    return tmp_path / "folder" / "run.jsonl"


def test_a_finished_file_holds_header_and_records(path: Path) -> None:
    results = begin(path, 4)
    assert not path.exists() and results.partial.is_file()
    assert results.finish() == path
    assert [found.name for found in path.parent.iterdir()] == ["run.jsonl"]
    header, records = read_results(path)
    assert header == {
        "format": FORMAT, "version": VERSION, **MADE,
        "config": {**CONFIG, "photos": ["0.jpg", "1.jpg"]},
    }  # fmt: skip
    assert records.to_dict("records") == [record(number) for number in range(4)]


def test_a_partial_file_is_continued(path: Path) -> None:
    begin(path, 2)
    again = ResultsFile(path, CONFIG, {**MADE, "command": "another"}, 2)
    assert again.records == [record(0), record(1)]
    again.append([record(2), record(3)])
    header, records = read_results(again.finish())
    assert len(records) == 4
    assert header["command"] == "ttame evaluate"  # the run's first command, not the resuming one
    assert "resumed" not in header  # the same commit, versions and machine


def test_a_file_says_which_commit_and_machine_went_on(path: Path) -> None:
    begin(path, 2)
    first = {**MADE, "commit": "1234567", "hardware": "1 x GPU"}
    ResultsFile(path, CONFIG, first, 2).append([record(2)])  # half a group: dropped, then made anew
    ResultsFile(path, CONFIG, first, 2).append([record(2), record(3)])
    second = {**MADE, "commit": "89abcde", "hardware": "2 cores"}
    header, records = read_results(ResultsFile(path, CONFIG, second, 2).finish())
    assert len(records) == 4
    assert header["commit"] == MADE["commit"]
    assert header["resumed"] == [{"after": 2, **first}, {"after": 4, **second}]


def test_records_are_on_disk_when_append_returns(path: Path) -> None:
    results = begin(path, 2)
    assert len(results.partial.read_text(encoding="utf-8").splitlines()) == 3


@pytest.mark.parametrize("cut", [1, 5, 20])
def test_a_torn_last_line_is_dropped(path: Path, cut: int) -> None:
    partial = begin(path, 4).partial
    data = partial.read_bytes()
    partial.write_bytes(data[:-cut])
    again = ResultsFile(path, CONFIG, MADE, 1)
    kept = 4 if cut == 1 else 3  # the line break alone is no loss
    assert again.records == [record(number) for number in range(kept)]
    again.append([record(9)])
    _, records = read_results(again.finish())
    assert records.to_dict("records") == [*(record(n) for n in range(kept)), record(9)]


@pytest.mark.parametrize(("count", "kept"), [(0, 0), (1, 0), (2, 0), (3, 3), (5, 3), (6, 6)])
def test_an_incomplete_group_is_dropped(path: Path, count: int, kept: int) -> None:
    begin(path, count, group=3)
    again = ResultsFile(path, CONFIG, MADE, 3)
    assert again.records == [record(number) for number in range(kept)]
    assert len(again.partial.read_text(encoding="utf-8").splitlines()) == 1 + kept


@pytest.mark.parametrize(
    ("key", "value", "shown"),
    [("layers", ["a"], r"\['a'\]"), ("seed", 1, "1"), ("backbone", "other", "other")],
)
def test_a_partial_file_of_another_run_is_refused(
    path: Path, key: str, value: Any, shown: str
) -> None:
    before = begin(path, 2).partial.read_bytes()
    with pytest.raises(TTameError, match=f"begun with {key}=.*now it is {shown}"):
        ResultsFile(path, {**CONFIG, key: value}, MADE, 2)
    assert path.with_name("run.jsonl.partial").read_bytes() == before


def test_keys_that_only_one_run_has_are_named(path: Path) -> None:
    begin(path, 2)
    with pytest.raises(TTameError, match="begun with limit=None"):
        ResultsFile(path, {**CONFIG, "limit": 5}, MADE, 2)
    fewer = {key: value for key, value in CONFIG.items() if key != "seed"}
    with pytest.raises(TTameError, match="begun with seed=0"):
        ResultsFile(path, fewer, MADE, 2)


def test_an_existing_file_is_refused(path: Path) -> None:
    begin(path, 2).finish()
    before = path.read_bytes()
    with pytest.raises(TTameError, match="exists already"):
        ResultsFile(path, CONFIG, MADE)
    assert path.read_bytes() == before


@pytest.mark.parametrize(
    ("header", "message"),
    [
        ({"format": FORMAT, "version": VERSION + 1}, f"version {VERSION + 1}"),
        ({"format": "other", "version": VERSION}, "'other'"),
        ({}, "None"),
        ([1, 2], "expected"),
        ("text", "expected"),
    ],
    ids=str,
)
def test_other_formats_and_versions_are_refused(path: Path, header: Any, message: str) -> None:
    path.parent.mkdir()
    line = json.dumps(header) + "\n"
    path.write_text(line, encoding="utf-8")
    with pytest.raises(TTameError, match=message):
        read_results(path)
    path.rename(path.with_name("run.jsonl.partial"))
    with pytest.raises(TTameError, match=message):
        ResultsFile(path, CONFIG, MADE)


@pytest.mark.parametrize("number", [1, 2, 3])
def test_a_damaged_line_is_named(path: Path, number: int) -> None:
    begin(path, 2).finish()
    lines = path.read_text(encoding="utf-8").splitlines()
    lines[number - 1] = lines[number - 1][:-4]
    path.write_text("\n".join(lines) + "\n", encoding="utf-8")
    with pytest.raises(TTameError, match=f"damaged in line {number}"):
        read_results(path)


def test_damage_before_the_last_line_is_not_taken_for_a_torn_one(path: Path) -> None:
    partial = begin(path, 3).partial
    lines = partial.read_text(encoding="utf-8").splitlines()
    lines[2] = lines[2][:-4]
    partial.write_text("\n".join(lines) + "\n", encoding="utf-8")
    with pytest.raises(TTameError, match="damaged in line 3"):
        ResultsFile(path, CONFIG, MADE)


def test_missing_empty_and_binary_files_are_refused(path: Path) -> None:
    with pytest.raises(TTameError, match="does not exist"):
        read_results(path)
    path.parent.mkdir()
    path.write_bytes(b"")
    with pytest.raises(TTameError, match="expected"):
        read_results(path)
    path.write_bytes(b"\x80\x81\xff\xfe\n")
    with pytest.raises(TTameError, match="damaged"):
        read_results(path)


def test_values_that_json_cannot_hold_leave_the_file_whole(path: Path) -> None:
    results = begin(path, 2)
    before = results.partial.read_bytes()
    with pytest.raises(ValueError, match="JSON"):
        results.append([record(2), {"value": float("nan")}])
    assert results.partial.read_bytes() == before


def test_a_run_that_was_ended_is_written_as_a_shorter_one(path: Path) -> None:
    methods = {"methods": ["A", "B"], "photos": ["0.jpg", "1.jpg", "2.jpg", "3.jpg"]}
    results = ResultsFile(path, CONFIG | methods, MADE, 2)
    values = [0.1, 0.5177109837532043, 1.0, 6.196162576088682e-05]  # but 1.0, of float32
    results.append({**record(i), "value": [value]} for i, value in enumerate(values))
    results.append([record(4)])  # the third photo lacks B
    with results.partial.open("a") as file:
        file.write('{"photo": "2.j')
    out = write_first(results.partial, path.with_name("short.jsonl"), 2)
    header, records = read_results(out)
    assert header["config"]["photos"] == ["0.jpg", "1.jpg"]
    assert header["shortened"] == "to the first 2 of 4 photos; the run was ended after 2"
    assert {key: header[key] for key in MADE} == MADE
    assert list(records["photo"]) == ["0.jpg", "0.jpg", "1.jpg", "1.jpg"]
    # The fewest digits, by hand; each is the same number in float32.
    assert [value for (value,) in records["value"]] == [0.1, 0.517711, 1.0, 6.1961626e-05]
    elsewhere = {**MADE, "hardware": "2 cores"}
    ResultsFile(path, CONFIG | methods, elsewhere, 2)
    kept = {
        photos: read_results(
            write_first(results.partial, path.with_name(f"{photos}.jsonl"), photos)
        )
        for photos in (1, 2)
    }
    assert all("resumed" not in header for header, _ in kept.values())  # it went on after these
    with pytest.raises(TTameError, match="holds 2 of its 4 photos, cannot write 3"):
        write_first(results.partial, path.with_name("long.jsonl"), 3)
    with pytest.raises(TTameError, match="exists already"):
        write_first(results.partial, out, 1)


def test_what_lists_no_methods_cannot_be_shortened(path: Path) -> None:
    with pytest.raises(TTameError, match="lists no photos and methods"):
        write_first(begin(path, 4).finish(), path.with_name("short.jsonl"), 1)


def test_a_whole_run_that_is_shortened_says_that_it_was_whole(path: Path) -> None:
    results = ResultsFile(path, CONFIG | {"methods": ["A", "B"]}, MADE, 2)
    results.append(record(i) for i in range(4))
    header, records = read_results(write_first(results.finish(), path.with_name("short.jsonl"), 1))
    assert header["shortened"] == "to the first 1 of 2 photos; all measured"
    assert len(records) == 2


def test_provenance_says_how_a_result_was_made(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr("sys.argv", ["/usr/local/bin/ttame", "evaluate", "--out", "a b.jsonl"])
    made = provenance(7)
    assert made["command"] == "ttame evaluate --out 'a b.jsonl'"  # no folders of this machine
    monkeypatch.setattr("sys.argv", ["/here/benchmarks/__main__.py", "training"])
    assert provenance(7)["command"] == "python -m benchmarks training"
    assert made["seed"] == 7
    assert set(made["versions"]) >= {"python", "torch", "ttame", "timm"}
    assert set(made) == {"command", "commit", "seed", "versions", "hardware", "date"}
    assert provenance(0, "make results")["command"] == "make results"


# Compressed


def test_a_compressed_file_holds_the_same_and_is_made_alike(path: Path) -> None:
    begin(path, 4).finish()
    packed, again = path.with_name("run.jsonl.gz"), path.with_name("again.jsonl.gz")
    results = begin(packed, 2)
    assert results.partial.read_text(encoding="utf-8").startswith("{")  # plain while it grows
    begin(again, 4).finish()
    resumed = ResultsFile(packed, CONFIG, MADE, 2)
    resumed.append([record(2), record(3)])
    assert resumed.finish() == packed and not resumed.partial.exists()
    assert gzip.decompress(packed.read_bytes()) == path.read_bytes()
    assert packed.read_bytes() == again.read_bytes()
    header, records = read_results(packed)
    plain = read_results(path)
    assert header == plain[0] and records.equals(plain[1])
    with pytest.raises(TTameError, match=r"run\.jsonl\.gz' exists already"):
        begin(packed, 1)


@pytest.mark.parametrize("content", [b"", b"{}", gzip.compress(b"{}" * 99, mtime=0)[:20]])
def test_a_damaged_compressed_file_is_named(path: Path, content: bytes) -> None:
    packed = path.with_name("run.jsonl.gz")
    packed.parent.mkdir(parents=True)
    packed.write_bytes(content)
    with pytest.raises(TTameError, match=r"run\.jsonl\.gz' is "):
        read_results(packed)


def test_results_are_found_either_way_but_not_both(path: Path) -> None:
    begin(path, 2).finish()
    begin(path.with_name("other.jsonl.gz"), 2).finish()
    names = [found.name for found in results_paths(path.parent, "*.jsonl")]
    assert names == ["other.jsonl.gz", "run.jsonl"]
    assert results_paths(path.parent, "none.jsonl") == []
    begin(path.with_name("run.jsonl.gz"), 2).finish()
    with pytest.raises(TTameError, match="compressed, too"):
        results_paths(path.parent, "run.jsonl")


def test_a_whole_run_is_written_without_a_word(path: Path) -> None:
    results = ResultsFile(path, CONFIG | {"methods": ["A", "B"]}, MADE, 2)
    results.append(record(i) for i in range(4))
    header, records = read_results(write_first(results.finish(), path.with_name("short.jsonl"), 2))
    assert "shortened" not in header
    assert len(records) == 4
