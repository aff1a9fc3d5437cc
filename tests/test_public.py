"""The public names: complete, sorted and documented."""

import ast
import importlib
import inspect
import pkgutil
from types import ModuleType
from typing import Any

import pytest

import deltamem
import deltamem_lab

OPTIONAL = ("deltamem.vllm",)


def modules() -> list[str]:
    found = [
        info.name
        for package in (deltamem, deltamem_lab)
        for info in pkgutil.walk_packages(package.__path__, f"{package.__name__}.")
    ]
    return ["deltamem", "deltamem_lab", *(name for name in found if not name.startswith(OPTIONAL))]


def documented(name: str, value: Any) -> bool:
    """Whether a docstring was written; a dataclass makes one up that repeats its fields."""
    text = (value.__doc__ or "").strip()
    return bool(text) and not text.startswith(f"{name}(")


# Names that people import. One may join; none may leave without a version in which it still works and warns.
NAMES = """
    AdapterFileError Attachment ChatTokens DeltaMemConfig Family MemoryCache MemoryState OpenSegment ParameterReport
    ReadProbe Retriever Session SessionBusyError StateFileError Step TurnReport WriteShares __version__
    adapter_fingerprint attach attached detach disabled encode_chat load_adapter load_state memory_cache new_state
    observe push_to_hub read_probe register_family save_adapter save_state state_from_bytes state_to_bytes write_shares
"""


def test_no_public_name_is_gone() -> None:
    assert set(NAMES.split()) <= set(deltamem.__all__)


def test_the_public_names_are_sorted_and_exist() -> None:
    names = deltamem.__all__
    assert names == sorted(set(names))
    for name in names:
        assert documented(name, getattr(deltamem, name)), name


def test_the_public_names_are_told_alike_to_people_type_checkers_and_python() -> None:
    """They are loaded by ``_HOMES``, checked by the imports that a type checker sees, and listed in ``__all__``."""
    homes = {(f"deltamem.{home}", name) for home, names in deltamem._HOMES.items() for name in names.split()}
    tree = ast.parse(inspect.getsource(deltamem))
    checked = next(node for node in tree.body if isinstance(node, ast.If))
    imports = [node for node in checked.body if isinstance(node, ast.ImportFrom)]
    assert {(node.module, alias.name) for node in imports for alias in node.names} == homes
    assert {name for _, name in homes} | {"__version__"} == set(deltamem.__all__)


def public_members(module: ModuleType) -> list[tuple[str, Any]]:
    """The functions, classes and their methods that a module defines without a leading underscore."""
    found = []
    for name, value in vars(module).items():
        if name.startswith("_") or getattr(value, "__module__", None) != module.__name__:
            continue
        if inspect.isfunction(value) or inspect.isclass(value):
            found.append((name, value))
        if inspect.isclass(value):
            found += [
                (f"{name}.{member}", inner)
                for member, inner in vars(value).items()
                if not member.startswith("_")
                and (inspect.isfunction(inner) or isinstance(inner, property | classmethod | staticmethod))
            ]
    return found


@pytest.mark.parametrize("name", modules())
def test_everything_public_says_what_it_is(name: str) -> None:
    module = importlib.import_module(name)
    assert module.__doc__, f"{name} has no docstring"
    missing = [member for member, value in public_members(module) if not documented(member, value)]
    assert not missing, f"{name}: no docstring on {', '.join(missing)}"
