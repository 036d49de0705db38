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


def test_pick_takes_the_profile_s_value() -> None:
    assert Profile("imagenette", "any").pick(quick=1, imagenette=2, imagenet=3) == 2
