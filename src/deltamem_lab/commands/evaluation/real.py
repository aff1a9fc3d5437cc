"""``deltamem eval --suite real``: a real chat model with its adapters, by sections instead of tasks."""

import json
from collections.abc import Sequence
from pathlib import Path
from typing import TYPE_CHECKING

import typer

from deltamem_lab.commands.evaluation.arguments import METHOD_KEYS, read_sources

if TYPE_CHECKING:
    from deltamem_lab.commands.evaluation.recipe import EvalRecipe
    from deltamem_lab.real.sections import Extent

RESULTS = "real_model.json"
_NUMBERS = ("dialogues", "texts", "conversations")

# The keys of a recipe that have no effect on them.
WITHOUT_EFFECT = ("harness", "methods", "limit", "seeds", *METHOD_KEYS)


def run(recipe: "EvalRecipe", data: Sequence[str], options: Sequence[str], *, dry_run: bool, as_json: bool) -> None:
    """Measures the sections that the folder does not have yet, into ``real_model.json``.

    Raises:
        typer.BadParameter: there is no such option or section, or a section's file was not given.
    """
    from deltamem_lab.commands.evaluation.recipe import placed
    from deltamem_lab.real.sections import FILES, SECTIONS, choose_sections

    if recipe.model.revision or recipe.model.attention or recipe.model.device_map:
        raise typer.BadParameter("--model-revision, --attention and --device-map cannot be used with --suite real.")
    files = {name: one.data for name, one in recipe.tasks.items() if one.data is not None}
    files |= {name: Path(one["data"]) for name, one in read_sources(data, (), (), list(FILES)).items()}
    only, extent = _read(options, recipe.questions)
    try:
        sections = choose_sections(only, files)
    except ValueError as error:
        raise typer.BadParameter(str(error)) from None
    if dry_run:
        for name, need in SECTIONS.items():
            lacks = f"left out: --data {need}=FILE ({FILES[need]})" if need and need not in files else "not asked for"
            print(f"{name:10} {'is measured' if name in sections else lacks}")
        return

    from deltamem.models.loading import quiet_transformers
    from deltamem_lab.real.chat import STATIC, Chat, choose_adapters
    from deltamem_lab.real.sections import measure

    model, output, statics = recipe.model.name or "smollm2", recipe.output, placed(recipe.static_adapters)
    chosen = choose_adapters(model, placed(recipe.adapters))
    if len(statics) > 1:
        raise typer.BadParameter("--suite real has one --static-adapter, the control of its first adapter.")
    if statics:
        chosen[STATIC] = statics[0].rpartition("=")[2]
    quiet_transformers()
    chat = Chat(model, chosen, dtype=recipe.model.dtype or "bfloat16")
    found = measure(chat, sections, files, extent, output / RESULTS, answers=output / "answers")
    print(json.dumps(found, indent=1) if as_json else f"Results in {output / RESULTS}.")


def _read(options: Sequence[str], questions: int | None) -> "tuple[str, Extent]":
    """The sections and how much is measured, of ``--option`` and ``--questions``."""
    from deltamem_lab.real.sections import Extent

    only, numbers = "", {} if questions is None else {"questions": questions}
    for one in options:
        name, _, value = one.partition("=")
        if name == "sections":
            only = value
        elif name in _NUMBERS and value.isdigit() and int(value):
            numbers[name] = int(value)
        else:
            known = ", ".join(f"{number}=NUMBER" for number in _NUMBERS)
            raise typer.BadParameter(f"--option {one}: with --suite real there are sections=NAMES, {known}.")
    return only, Extent(**numbers)
