"""README's Python, run from top to bottom as a reader would, with the embedded model in the place of a hub's."""

import re
from pathlib import Path

import pytest

ROOT = Path(__file__).parents[1]
ASSETS = ROOT / "src" / "deltamem" / "demo" / "assets"
# What a machine without a network has instead, longest first.
INSTEAD = {
    "declare-lab/delta-mem_qwen3_4b-instruct": str(ASSETS / "adapters" / "multi"),
    "Qwen/Qwen3-4B-Instruct-2507": str(ASSETS),
}


def snippets(page: Path) -> list[str]:
    """The Python of a page, but for what talks to a server."""
    found = re.findall(r"^```python\n(.*?)^```", page.read_text("utf-8"), re.M | re.S)
    return [code for code in found if "openai" not in code]


@pytest.mark.parametrize("name", ["README.md"])
def test_the_python_of_a_page_runs_from_top_to_bottom(
    name: str, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.chdir(tmp_path)
    names: dict[str, object] = {}
    codes = snippets(ROOT / name)
    assert codes
    for twice in range(2):  # and once more, as a notebook's cells are
        for number, code in enumerate(codes):
            for there, here in INSTEAD.items():
                code = code.replace(there, here)
            exec(compile(code, f"{name}, snippet {number + 1}, run {twice + 1}", "exec"), names)
