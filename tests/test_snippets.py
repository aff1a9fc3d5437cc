"""The Python of README and docs, run from top to bottom, with the embedded model in the place of a hub's."""

import json
import sys
from pathlib import Path

import pytest

from deltamem.attach.families import FAMILIES
from snippets import PAGES, ROOT, run, snippets

ASSETS = ROOT / "src" / "deltamem" / "demo" / "assets"
# What a machine without a network has instead, longest first.
INSTEAD = {
    "declare-lab/delta-mem_qwen3_4b-instruct": str(ASSETS / "adapters" / "multi"),
    "Qwen/Qwen3-4B-Instruct-2507": str(ASSETS),
    "adapters/support": str(ASSETS / "adapters" / "multi"),
    "adapters/sales": str(ASSETS / "adapters" / "segment"),
}
CHAT = [{"role": role, "content": text} for role, text in (("user", "Hi."), ("user", "Who?"), ("assistant", "Ravi."))]


@pytest.mark.parametrize("page", [page for page in PAGES if snippets(page, of_clients=False)])
def test_the_python_of_a_page_runs_from_top_to_bottom(
    page: str, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    codes = snippets(page, of_clients=False)
    monkeypatch.chdir(tmp_path)
    (tmp_path / "chats").mkdir()
    (tmp_path / "chats" / "own.jsonl").write_text(json.dumps({"messages": CHAT}) + "\n", "utf-8")
    # The package that the page on evaluation has the reader write.
    (tmp_path / "my_pkg").mkdir()
    (tmp_path / "my_pkg" / "methods.py").write_text(codes[0], "utf-8")
    monkeypatch.syspath_prepend(tmp_path)
    names: dict[str, object] = {}
    try:
        run(page, codes, INSTEAD, names)
        if page == "README.md":  # and once more, as a notebook's cells are
            run(page, codes, INSTEAD, names)
    finally:
        FAMILIES.drop("ItsAttention")
        for module in [name for name in sys.modules if name.partition(".")[0] == "my_pkg"]:
            del sys.modules[module]
