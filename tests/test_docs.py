"""The documentation site: its reference says what the package is, and leaves out nothing that is public."""

import importlib
import re
import runpy
from pathlib import Path
from typing import Any

import pytest

import deltamem
import deltamem.store
import deltamem.train

ROOT = Path(__file__).parents[1]
DOCS = ROOT / "docs"


def test_the_commands_page_is_what_the_commands_say() -> None:
    made = runpy.run_path(str(DOCS / "_build" / "commands.py"))["commands_page"]()
    assert (DOCS / "cli.md").read_text("utf-8") == made, "stale: run make docs"


def shown() -> list[Any]:
    """The objects on the pages of the Python reference."""
    paths = [
        path for page in DOCS.glob("api/*.md") for path in re.findall(r"^::: (\S+)$", page.read_text("utf-8"), re.M)
    ]
    assert len(paths) == len(set(paths))
    return [getattr(importlib.import_module(module), name) for module, _, name in (p.rpartition(".") for p in paths)]


@pytest.mark.parametrize("package", [deltamem, deltamem.store, deltamem.train], ids=lambda package: package.__name__)
def test_every_public_name_is_on_a_page(package: Any) -> None:
    pages = shown()
    public = {name: getattr(package, name) for name in package.__all__}
    missing = [name for name, value in public.items() if not isinstance(value, str) and value not in pages]
    assert not missing


def test_every_page_is_in_the_navigation() -> None:
    listed = set(re.findall(r"- ([\w/-]+\.md)$", (ROOT / "mkdocs.yml").read_text("utf-8"), re.M))
    assert {str(page.relative_to(DOCS)) for page in DOCS.rglob("*.md")} == listed
