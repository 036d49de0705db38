"""Downloads: moved into place when whole, refused over what exists, failures with the way out."""

from __future__ import annotations

from pathlib import Path

import pytest

from tests.helpers.photos import photo
from ttame.companion.downloads import download_caltech101, download_imagenette
from ttame.errors import TTameError


def test_caltech_without_network_names_the_way_out(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    def refuse(*_args: object, **_kwargs: object) -> None:
        raise OSError("no route to host")

    monkeypatch.setenv("TTAME_DATA", str(tmp_path))
    monkeypatch.setattr("torchvision.datasets.Caltech101", refuse)
    with pytest.raises(TTameError, match=r"could not be fetched .*no route to host.*by hand"):
        download_caltech101()
    assert list((tmp_path / "photos").iterdir()) == []


def test_caltech_is_moved_into_place_when_whole(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    def download(root: Path, download: bool) -> None:
        assert download
        photo(root / "caltech101" / "101_ObjectCategories" / "ant" / "image_0001.jpg")

    monkeypatch.setenv("TTAME_DATA", str(tmp_path))
    monkeypatch.setattr("torchvision.datasets.Caltech101", download)
    assert download_caltech101() == tmp_path / "photos" / "caltech101"
    found = [path for path in tmp_path.rglob("*") if path.is_file()]
    assert found == [tmp_path / "photos" / "caltech101" / "ant" / "image_0001.jpg"]
    with pytest.raises(TTameError, match="exists already"):
        download_caltech101()


def test_failed_download_says_so(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    import torchvision

    def no_network(*_args: object, **_kwargs: object) -> None:
        raise OSError("network is unreachable")

    monkeypatch.setenv("TTAME_DATA", str(tmp_path))
    monkeypatch.setattr(torchvision.datasets, "Imagenette", no_network)
    with pytest.raises(TTameError, match="network is unreachable"):
        download_imagenette()
    (tmp_path / "imagenette").mkdir()
    with pytest.raises(TTameError, match="exists already"):
        download_imagenette()
