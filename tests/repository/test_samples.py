"""The bundled sample photos match their records and may be redistributed."""

from __future__ import annotations

import hashlib
import json
import re
from pathlib import Path
from typing import Any

import pytest
from PIL import Image

SAMPLES = Path(__file__).resolve().parents[2] / "data" / "samples"
FREE_LICENCES = {"CC0-1.0", "Public domain"}
KEYS = {
    "file",
    "title",
    "author",
    "source",
    "origin_url",
    "licence",
    "licence_url",
    "licence_statement",
    "changes",
    "sha256",
    "width",
    "height",
}

Record = dict[str, Any]


def load_records() -> list[Record]:
    records: list[Record] = json.loads((SAMPLES / "sources.json").read_text(encoding="utf-8"))
    return records


RECORDS = load_records()


def readme_row(record: Record) -> str:
    licence = f"[{record['licence']}]({record['licence_url']})"
    return f"| `{record['file']}` | {record['title']} | {record['author']} | {licence} |"


@pytest.fixture(params=RECORDS, ids=lambda record: str(record["file"]))
def record(request: pytest.FixtureRequest) -> Record:
    value: Record = request.param
    return value


def test_enough_photos_for_the_demos() -> None:
    assert len(RECORDS) >= 12
    assert "cat.jpg" in {record["file"] for record in RECORDS}


def test_every_photo_has_one_record_and_every_record_a_photo() -> None:
    recorded = [record["file"] for record in RECORDS]
    assert recorded == sorted(set(recorded))
    assert recorded == sorted(path.name for path in SAMPLES.glob("*.jpg"))


def test_nothing_else_lies_beside_the_photos() -> None:
    others = {path.name for path in SAMPLES.iterdir() if path.suffix != ".jpg"}
    assert others == {"README.md", "sources.json"}


def test_set_is_small() -> None:
    sizes = [(SAMPLES / record["file"]).stat().st_size for record in RECORDS]
    assert max(sizes) < 120_000
    assert sum(sizes) < 1_300_000


def test_record_says_who_made_the_photo_and_on_what_terms(record: Record) -> None:
    assert set(record) == KEYS
    text = {key: value for key, value in record.items() if key not in {"width", "height"}}
    assert all(isinstance(value, str) and value.strip() for value in text.values())
    assert record["licence"] in FREE_LICENCES
    assert record["licence_url"].startswith(("https://", "http://"))
    assert record["origin_url"].startswith(("https://", "http://"))


def test_file_name_says_what_is_shown(record: Record) -> None:
    assert re.fullmatch(r"[a-z][a-z0-9]*(_[a-z0-9]+)*\.jpg", record["file"])


def test_bytes_are_the_recorded_ones(record: Record) -> None:
    digest = hashlib.sha256((SAMPLES / record["file"]).read_bytes()).hexdigest()
    assert digest == record["sha256"]


def test_photo_is_a_plain_rgb_jpeg(record: Record) -> None:
    with Image.open(SAMPLES / record["file"]) as image:
        image.load()
        assert image.format == "JPEG"
        assert image.mode == "RGB"
        assert image.size == (record["width"], record["height"])
        assert max(image.size) <= 640
        assert min(image.size) >= 224
        assert len(image.getexif()) == 0
        assert not {"exif", "xmp", "icc_profile", "comment", "photoshop"} & set(image.info)


def test_readme_table_is_that_of_the_records() -> None:
    lines = (SAMPLES / "README.md").read_text(encoding="utf-8").splitlines()
    rows = [line for line in lines if line.startswith("| `")]
    assert rows == [readme_row(record) for record in RECORDS]
