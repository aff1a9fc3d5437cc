"""Recipe files: YAML that may extend another file, with changes from the command line, checked key by key."""

import dataclasses
import difflib
from collections.abc import Iterator, Sequence
from pathlib import Path
from typing import Any, TypeVar, get_args, get_origin

import yaml
from pydantic import BaseModel, ValidationError

from deltamem.files import write_atomically
from deltamem.train.recipe import Recipe, Section

_EXTENDS = "extends"
SectionType = TypeVar("SectionType", bound=Section)


class RecipeError(ValueError):
    """A recipe that is missing, unreadable or wrong; the message names the key and what to do."""


def load_recipe(path: str | Path, overrides: Sequence[str] = ()) -> Recipe:
    """Reads and checks a recipe.

    Args:
        path: a YAML file; its key ``extends`` names another, from its own folder, whose values it changes.
        overrides: ``key=value`` with dots between the keys of sections; the value is YAML.

    Raises:
        RecipeError: a file is missing or no YAML, a key is unknown, or a value is impossible.
    """
    return parse_recipe(read_values(path, overrides), str(path))


def read_values(path: str | Path, overrides: Sequence[str] = ()) -> dict[str, Any]:
    """The values of a recipe file, with those of the files it extends and the changes, before any check.

    Raises:
        RecipeError: a file is missing or no YAML, or a change cannot be read.
    """
    values = _read(Path(path), ())
    for override in overrides:
        _override(values, override)
    return values


def parse_recipe(values: dict[str, Any], name: str = "the recipe") -> Recipe:
    """A recipe from plain values.

    Raises:
        RecipeError: a key is unknown or a value is impossible.
    """
    return parse_section(values, Recipe, name)


def parse_section(values: dict[str, Any], kind: type[SectionType], name: str) -> SectionType:
    """A section of a recipe, or all of it, from plain values.

    Raises:
        RecipeError: a key is unknown or a value is impossible.
    """
    unknown = [f"{'.'.join(place)}{_nearest(place[-1], known)}" for place, known in _unknown(values, kind, ())]
    if unknown:
        raise RecipeError(f"{name} has unknown keys: {'; '.join(unknown)}.")
    try:
        return kind.model_validate(values)
    except ValidationError as error:
        raise RecipeError(f"{name}: {'; '.join(_problems(error))}.") from None


def set_value(values: dict[str, Any], key: str, value: Any) -> None:
    """Puts a value where a key with dots between its sections says; sections that are not there are made."""
    *sections, last = key.split(".")
    place = values
    for section in sections:
        if not isinstance(place.get(section), dict):
            place[section] = {}
        place = place[section]
    place[last] = value


def save_recipe(recipe: Recipe, path: Path) -> None:
    """Writes a recipe, so that the file stands alone."""
    write_atomically(path, recipe_yaml(recipe).encode())


def recipe_yaml(recipe: Recipe) -> str:
    """A recipe as YAML with every value in it."""
    values = recipe.model_dump(mode="json", exclude_none=True)
    return str(yaml.safe_dump(values, sort_keys=False, allow_unicode=True))


class _Loader(yaml.SafeLoader):  # type: ignore[misc]
    """YAML in which a key that comes twice is an error, where the stock loader takes the last."""

    def construct_mapping(self, node: yaml.MappingNode, deep: bool = False) -> dict[Any, Any]:
        """A mapping of different keys."""
        keys = [key.value for key, _ in node.value if key.tag != "tag:yaml.org,2002:merge"]
        if twice := sorted({key for key in keys if keys.count(key) > 1}):
            raise yaml.constructor.ConstructorError(
                None, None, f"the key {', '.join(twice)} is given twice", node.start_mark
            )
        mapping: dict[Any, Any] = super().construct_mapping(node, deep)
        return mapping


def _read(path: Path, below: tuple[Path, ...]) -> dict[str, Any]:
    if path.resolve() in below:
        raise RecipeError(f"{path} extends itself.")
    try:
        values = yaml.load(path.read_text("utf-8"), _Loader)
    except OSError as error:
        raise RecipeError(f"Cannot read the recipe {path}: {error.strerror}.") from None
    except (yaml.YAMLError, UnicodeDecodeError) as error:
        raise RecipeError(f"{path} is not valid YAML: {' '.join(str(error).split())}") from None
    if not isinstance(values, dict):
        raise RecipeError(f"{path} must hold keys and values, such as output: runs/mine.")
    base = values.pop(_EXTENDS, None)
    if base is not None and not isinstance(base, str):
        raise RecipeError(f"{path} extends {base!r}; give the path of one other recipe.")
    return values if base is None else _merge(_read(path.parent / base, (*below, path.resolve())), values)


def _merge(base: dict[str, Any], changes: dict[str, Any]) -> dict[str, Any]:
    merged = dict(base)
    for key, value in changes.items():
        old = merged.get(key)
        merged[key] = _merge(old, value) if isinstance(old, dict) and isinstance(value, dict) else value
    return merged


def _override(values: dict[str, Any], override: str) -> None:
    key, equals, text = override.partition("=")
    if not equals or not key.split(".")[-1]:
        raise RecipeError(f"Cannot read the change {override!r}; write key=value, for example schedule.steps=100.")
    try:
        value = yaml.safe_load(text)
    except yaml.YAMLError:
        raise RecipeError(f"The value in {override!r} is not valid YAML; put it in quotes.") from None
    set_value(values, key, value)


def _unknown(values: Any, kind: Any, place: tuple[str, ...]) -> Iterator[tuple[tuple[str, ...], list[str]]]:
    """Every key that its section does not have, with the keys that it has."""
    fields = _fields(kind, values)
    if not fields or not isinstance(values, dict):
        return
    for key, value in values.items():
        if key in fields:
            yield from _unknown(value, fields[key], (*place, key))
        else:
            yield (*place, str(key)), list(fields)


def _fields(kind: Any, values: Any) -> dict[str, Any]:
    """The fields of a section and their types; empty for anything else."""
    if isinstance(kind, type) and issubclass(kind, BaseModel):
        return {name: field.annotation for name, field in kind.model_fields.items()}
    if get_origin(kind) is dict and isinstance(values, dict):
        return dict.fromkeys(values, get_args(kind)[1])
    if dataclasses.is_dataclass(kind):
        return {field.name: field.type for field in dataclasses.fields(kind)}
    kinds = [fields for option in get_args(kind) if (fields := _fields(option, values))]
    if len(kinds) < 2 or not isinstance(values, dict):
        return kinds[0] if kinds else {}
    # Data is either made by a function, and says which, or read from files.
    return next((fields for fields in kinds if ("source" in fields) == ("source" in values)), kinds[0])


def _nearest(key: str, known: list[str]) -> str:
    near = difflib.get_close_matches(key, known, n=1)
    return f" (did you mean {near[0]}?)" if near else f" (known: {', '.join(known)})"


def _problems(error: ValidationError) -> Iterator[str]:
    for problem in error.errors(include_url=False):
        place = ".".join(str(part) for part in problem["loc"] if part not in ("chat", "factory"))
        message = problem["msg"].removeprefix("Value error, ").rstrip(".")
        given = "" if isinstance(problem["input"], dict) or problem["type"] == "missing" else f" ({problem['input']!r})"
        yield f"{place or 'the whole'}: {message}{given}"
