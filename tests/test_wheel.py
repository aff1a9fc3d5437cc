"""What is installed: the wheel holds every file of both packages, and the commands and adapters that come with them."""

import zipfile
from pathlib import Path

import pytest

from deltamem.models.catalog import MODELS

hatchling = pytest.importorskip("hatchling.build")

SOURCES = Path(__file__).parents[1] / "src"


def test_the_wheel_has_every_file(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.chdir(SOURCES.parent)
    name = hatchling.build_wheel(str(tmp_path))
    with zipfile.ZipFile(tmp_path / name) as wheel:
        held = {entry.filename: entry.file_size for entry in wheel.infolist()}
        points = wheel.read(next(entry for entry in held if entry.endswith("entry_points.txt"))).decode()
    sources = [path for path in SOURCES.rglob("*") if path.is_file() and "__pycache__" not in path.parts]
    assert {str(path.relative_to(SOURCES)): path.stat().st_size for path in sources}.items() <= held.items()
    assert {entry.partition("/")[0] for entry in held} == {
        "deltamem",
        "deltamem_lab",
        name[: -len("-py3-none-any.whl")] + ".dist-info",
    }
    assert "deltamem = deltamem.cli.main:main" in points
    assert "eval = deltamem_lab.commands.eval:eval" in points
    for model in MODELS.values():
        for folder in model.shipped().values():
            assert f"{folder.relative_to(SOURCES)}/adapter.safetensors" in held
