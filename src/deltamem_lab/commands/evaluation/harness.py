"""``deltamem eval --harness``: tasks of lm-evaluation-harness, by the bare backbone and with each adapter."""

import sys
from collections.abc import Mapping, Sequence
from contextlib import redirect_stdout
from typing import TYPE_CHECKING

import typer

from deltamem_lab.commands.evaluation.arguments import METHOD_KEYS

if TYPE_CHECKING:
    from deltamem_lab.backbone import Backbone
    from deltamem_lab.commands.evaluation.recipe import EvalRecipe


def choose_methods(named: Sequence[str], adapters: Sequence[str]) -> dict[str, str | None]:
    """The adapter of each method: of those that were named, or of the bare backbone and all adapters.

    Raises:
        typer.BadParameter: a method cannot run there.
    """
    known: dict[str, str | None] = {"none": None, **{f"{name}+context": name for name in adapters}}
    if wrong := [name for name in named if name not in known]:
        raise typer.BadParameter(f"--method {wrong[0]}: with --harness there are only {', '.join(known)}.")
    return {name: known[name] for name in named} if named else known


# The keys of a recipe that have no effect on them.
WITHOUT_EFFECT = ("suite", "static_adapters", "seeds", "questions", "train", *METHOD_KEYS)


def check_adapters(adapters: Sequence[str]) -> None:
    """Refuses what is trained for a method and is no adapter.

    Raises:
        typer.BadParameter: one of them is.
    """
    from deltamem_lab.loading import adapter_kind, is_memory

    for one in adapters:
        if not is_memory(place := one.rpartition("=")[2]):
            kind = adapter_kind(place)
            raise typer.BadParameter(f"--adapter {one} is not a δ-mem adapter ({kind}), which --harness cannot use.")


def run(methods: Mapping[str, str | None], backbone: "Backbone", recipe: "EvalRecipe") -> int:
    """Runs what has not run yet, a task by a method at a time; keeps the harness's own results, and a record a sample.

    Returns:
        how many samples were answered now.

    Raises:
        ValueError: there is no such task, or the folder holds another run.
    """
    from deltamem.files import write_json
    from deltamem_lab.harness.records import begin, keep
    from deltamem_lab.harness.run import run_harness

    output, limit = recipe.output, recipe.limit
    data = {name: one.data for name, one in recipe.tasks.items() if one.data is not None}
    begin(output, recipe.harness, methods, backbone, data, limit)
    answered = 0
    for task in recipe.harness:
        for method, adapter in methods.items():
            whole = output / "harness" / f"{task}-{method}.json"
            if whole.exists():
                continue
            with backbone.using(adapter), redirect_stdout(sys.stderr):
                found = run_harness(
                    backbone.model,
                    backbone.tokenizer,
                    task,
                    data=data.get(task),
                    limit=limit,
                    batch_size=backbone.batch,
                    lengths=recipe.lengths,
                    **backbone.template,
                )
            answered += keep(output, task, method, adapter, backbone, found)
            # Comes last, so that it tells that all records are there.
            write_json(whole, found, default=str)
    return answered
