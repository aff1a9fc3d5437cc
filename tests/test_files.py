"""Where a user's files lie."""

import sys
from pathlib import Path

import pytest

from deltamem.files import cache_folder, data_folder


def test_one_variable_moves_both_folders(monkeypatch: pytest.MonkeyPatch, tmp_path: Path) -> None:
    monkeypatch.setenv("DELTAMEM_HOME", str(tmp_path))
    assert data_folder() == cache_folder() == tmp_path


@pytest.mark.skipif(sys.platform != "linux", reason="the folders of the XDG specification")
def test_without_it_they_are_where_the_system_keeps_such_things(
    monkeypatch: pytest.MonkeyPatch, tmp_path: Path
) -> None:
    for name in ("DELTAMEM_HOME", "XDG_DATA_HOME", "XDG_CACHE_HOME"):
        monkeypatch.delenv(name, raising=False)
    monkeypatch.setenv("HOME", str(tmp_path))
    assert data_folder() == tmp_path / ".local" / "share" / "deltamem"
    assert cache_folder() == tmp_path / ".cache" / "deltamem"
    monkeypatch.setenv("XDG_DATA_HOME", str(tmp_path / "data"))
    monkeypatch.setenv("XDG_CACHE_HOME", str(tmp_path / "cache"))
    assert data_folder() == tmp_path / "data" / "deltamem"
    assert cache_folder() == tmp_path / "cache" / "deltamem"
