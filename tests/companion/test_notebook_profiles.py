"""Profiles: the right photos, held-out ones never trained on, and clear words where data lack."""

from __future__ import annotations

from pathlib import Path

import pytest

from ttame.companion.notebook_profiles import Profile, open_profile
from ttame.data import samples
from ttame.errors import TTameError


@pytest.fixture
def bare(monkeypatch: pytest.MonkeyPatch, tmp_path: Path) -> None:
    """No data set anywhere."""
    monkeypatch.setenv("TTAME_DATA", str(tmp_path / "nothing"))


def test_unknown_profile_is_refused_with_a_suggestion() -> None:
    with pytest.raises(TTameError, match=r"known are quick.*Did you mean 'imagenette'"):
        open_profile("imagenete")


def test_quick_runs_on_the_samples_whatever_data_there_is() -> None:
    profile = open_profile("quick")
    train, held_out = profile.divide(100, 4)
    assert profile.photos().name == train.name == held_out.name == "samples"
    assert len(held_out) == 4
    assert not set(train.names) & set(held_out.names)
    assert set(train.names) | set(held_out.names) == set(samples().names)


@pytest.mark.usefixtures("bare")
@pytest.mark.parametrize("name", ["imagenette", "imagenet"])
def test_missing_data_set_is_named(name: str) -> None:
    with pytest.raises(TTameError, match=name):
        open_profile(name)


def test_crops_of_the_samples_make_a_task(tmp_path: Path) -> None:
    train, held_out, classes = open_profile("quick").three_classes(tmp_path / "crops", 4)
    assert len(classes) == 3
    assert (train.labels, held_out.labels) == ((0,) * 4 + (1,) * 4 + (2,) * 4, (0, 1, 2))
    assert all(path.is_file() for path in train.paths + held_out.paths)


@pytest.mark.data
@pytest.mark.usefixtures("imagenette_val")
def test_imagenette_makes_the_same_task() -> None:
    train, held_out, classes = open_profile("imagenette").three_classes("unused", 8)
    assert len(classes) == 3
    assert (len(train), len(held_out)) == (24, 6)
    assert {
        label: name.split("/")[0]
        for label, name in zip(train.labels or (), train.names, strict=True)
    } == {
        label: name.split("/")[0]
        for label, name in zip(held_out.labels or (), held_out.names, strict=True)
    }


def test_pick_takes_the_profile_s_value() -> None:
    assert Profile("imagenette", "any").pick(quick=1, imagenette=2, imagenet=3) == 2
