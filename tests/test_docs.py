"""The documentation site: its reference says what the package is, and leaves out nothing that is public."""

import importlib
import re
import runpy
import tomllib
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


@pytest.mark.parametrize("page", ["docs/architecture.md", "CONTRIBUTING.md"])
def test_a_map_names_what_there_is(page: str) -> None:
    """Every path between backticks is the end of one in the repository, every name stands in its code."""
    rooms = ("src", "tests", "benchmarks", "recipes", "deploy", "examples", "docs")
    paths = [*ROOT.glob("*"), *(path for room in rooms for path in (ROOT / room).rglob("*"))]
    ends = {path.relative_to(ROOT).as_posix() for path in paths}
    code = "\n".join(path.read_text("utf-8") for path in paths if path.suffix in {".py", ".toml"})
    words = set(re.findall(r"\w+", code))
    prose = re.sub(r"```.*?```", "", (ROOT / page).read_text("utf-8"), flags=re.DOTALL)
    wrong = []
    for shown in set(re.findall(r"`([^`]+)`", prose)):
        if re.fullmatch(r"[\w.-]*(?:/[\w.-]*)*(?:/|\.(?:py|toml|md|json|yaml))", shown):
            end = shown.rstrip("/")
            if not any(path == end or path.endswith(f"/{end}") for path in ends) and f'"{end}"' not in code:
                wrong.append(shown)
        elif re.fullmatch(r"[\w.]+", shown) and not set(re.findall(r"[^\W\d]\w*", shown)) <= words:
            wrong.append(shown)
    assert not wrong


def test_the_map_has_the_rooms_in_the_order_of_their_imports() -> None:
    contracts = tomllib.loads((ROOT / "pyproject.toml").read_text("utf-8"))["tool"]["importlinter"]["contracts"]
    layers = [re.findall(r"deltamem\.(\w+)", layer) for layer in contracts[0]["layers"]]
    below = {room: place for place, layer in enumerate(layers) for room in layer}
    table = (DOCS / "architecture.md").read_text("utf-8").split("| place in `src/deltamem/` |")[1].split("\n\n")[0]
    rows = [re.findall(r"`(\w+)(?:/|\.py)`", row.split("|")[1]) for row in table.splitlines() if row.startswith("| `")]
    assert {room for row in rows for room in row} == below.keys()
    places = [[below[room] for room in row] for row in rows]
    assert places == sorted(places, key=max)


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


def test_only_the_first_page_says_how_extras_are_installed() -> None:
    """They come from a clone until the package is on the index, and then one place is to change."""
    command = re.compile(r"pip install [\"']?(?:deltamem|\.)")
    pages = [page.name for page in DOCS.rglob("*.md") if command.search(page.read_text("utf-8"))]
    assert pages == ["index.md"]


def test_every_page_is_in_the_navigation() -> None:
    listed = set(re.findall(r"- ([\w/-]+\.md)$", (ROOT / "mkdocs.yml").read_text("utf-8"), re.M))
    assert {str(page.relative_to(DOCS)) for page in DOCS.rglob("*.md")} == listed
