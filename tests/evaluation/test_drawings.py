"""Drawings: seeded, of the words of their classes, and exact when parts are taken away."""

from __future__ import annotations

import hashlib
import re
import shutil
from itertools import combinations
from pathlib import Path

import numpy as np
import pytest
import torch
from typer.testing import CliRunner

from ttame.classifiers.drawn import (
    PARTS,
    SIDE,
    class_names,
    class_words,
    drawn_cnn,
    nearest_classes,
)
from ttame.cli.main import app
from ttame.data import open_photos
from ttame.errors import TTameError
from ttame.evaluation import drawings
from ttame.evaluation.drawings import CLUTTER, drawing, write_drawings
from ttame.images import read_image
from ttame.training.lists import has_splits, training_photos


def differing(one: tuple[int, ...], other: tuple[int, ...]) -> int:
    return sum(a != b for a, b in zip(one, other, strict=True))


def test_two_classes_differ_in_two_parts_at_least() -> None:
    words = class_words()
    assert len(words) == len(set(words)) == len(set(class_names())) == 32
    assert {differing(*pair) for pair in combinations(words, 2)} == {2, 3, 4, 5}
    for part in range(len(PARTS)):
        assert {word[part] for word in words} == {0, 1, 2, 3}


def test_names_spell_their_words() -> None:
    for name, word in zip(class_names(), class_words(), strict=True):
        vowels = ["aeio".index(vowel) for vowel in re.findall("[aeio]", name)]
        assert tuple(vowels) == word
        assert re.sub("[aeio]", "", name) == "bklmt"


def test_nearest_classes_share_the_most() -> None:
    words = class_words()
    for label, word in enumerate(words):
        distances = [differing(word, other) for other in words]
        least = min(distance for distance in distances if distance)
        assert nearest_classes(label) == tuple(
            index for index, distance in enumerate(distances) if distance == least
        )


def test_the_same_seed_gives_the_same_pixels() -> None:
    pixels = b"".join(drawing("val", index).render().tobytes() for index in range(8))
    again = b"".join(drawing("val", index).render().tobytes() for index in range(8))
    assert pixels == again
    # Fixed: records of drawings hold for these pixels alone.
    assert hashlib.sha256(pixels).hexdigest()[:16] == "057dc24e7130c60a"
    assert drawing("train", 0) != drawing("val", 0)


@pytest.mark.parametrize("index", [0, 3, 17])
def test_removal_changes_the_pixels_of_the_part_and_no_others(index: int) -> None:
    found = drawing("val", index)
    whole, covered = np.array(found.render()), found.coverage()
    for name in (*PARTS, *CLUTTER):
        changed = (np.array(found.render([name])) != whole).any(axis=2)
        shows = covered[name].numpy() > 0
        assert not (changed & ~shows).any(), name
        full = covered[name].numpy() == 1
        # What is behind it has another colour nearly everywhere.
        assert changed[full].sum() >= 0.9 * full.sum(), name
    without = found.coverage(["wing"])
    assert float(without["wing"].sum()) == 0
    assert bool((without["body"] >= covered["body"]).all())  # what the wing hid comes to light


def test_order_of_removal_does_not_matter_and_everything_can_go() -> None:
    found = drawing("val", 5)
    assert found.render(["beak", "tail"]).tobytes() == found.render({"tail", "beak"}).tobytes()
    bare = found.coverage([*PARTS, *CLUTTER])
    assert {name for name, share in bare.items() if float(share.sum())} == {"body"}


def test_layers_share_every_pixel() -> None:
    for index in range(4):
        covered = drawing("val", index).coverage()
        total = torch.stack(list(covered.values())).sum(dim=0)
        assert float(total.max()) <= 1 + 1e-6
        for name in PARTS:
            assert covered[name].shape == (SIDE, SIDE)
            assert float(covered[name].sum()) > 60, name  # no part is hidden


def test_clutter_and_place_are_independent_of_the_class(monkeypatch: pytest.MonkeyPatch) -> None:
    """The same seed drawn as another class: the same backdrop, clutter and body."""
    one = drawing("val", 1)
    words = class_words()
    monkeypatch.setattr(drawings, "class_words", lambda: words[::-1])
    other = drawing("val", 1)
    bare = [*PARTS]
    assert one.render().tobytes() != other.render().tobytes()
    assert one.render(bare).tobytes() == other.render(bare).tobytes()


def test_what_cannot_be_drawn_is_refused() -> None:
    with pytest.raises(TTameError, match="no removable layer 'body'; there are beak"):
        drawing("val", 0).render(["body"])
    with pytest.raises(TTameError, match=r"splits train, val.*'test'"):
        drawing("test", 0)
    with pytest.raises(TTameError, match="got 'val', -1"):
        drawing("val", -1)


def test_the_data_set_is_what_is_drawn(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setenv("TTAME_DATA", str(tmp_path))
    with pytest.raises(TTameError, match="`ttame data drawn`"):
        open_photos("drawn")
    monkeypatch.setattr(drawings, "COUNTS", {"train": 3, "val": 34})
    seen: list[tuple[int, int]] = []
    assert write_drawings(lambda *step: seen.append(step)) == tmp_path / "drawn"
    assert seen[-1] == (37, 37)
    photos = open_photos("drawn", "val")
    assert (photos.name, len(photos)) == ("drawn/val", 34)
    for name, label in zip(photos.names, photos.labels or (), strict=True):
        found = drawing("val", int(Path(name).stem))
        assert (found.name, found.label) == (name, label)
        assert read_image(photos.root / name).tobytes() == found.render().tobytes()
    assert len(open_photos("drawn", "train")) == 3
    assert has_splits("drawn") and training_photos("drawn", "val", classes=32) == photos
    with pytest.raises(TTameError, match="exists already"):
        write_drawings()
    shutil.rmtree(tmp_path / "drawn")
    shown = CliRunner().invoke(app, ["data", "drawn"])
    assert shown.exit_code == 0 and "drawn: " in shown.output
    assert open_photos("drawn", "val") == photos
    with pytest.raises(TTameError, match="'train' or 'val', got 'test'"):
        open_photos("drawn", "test")


def test_the_network_keeps_its_strides() -> None:
    model = drawn_cnn(7).eval()
    maps = torch.zeros(2, 3, SIDE, SIDE)
    sizes = {}
    for name, module in model.named_children():
        maps = module(maps)
        sizes[name] = tuple(maps.shape)
    assert sizes["block2"] == (2, 48, 24, 24) and sizes["block5"] == (2, 128, 12, 12)
    assert sizes["head"] == (2, 7)
