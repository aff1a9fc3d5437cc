"""``deltamem train``: an adapter from a recipe."""

import json
import sys
from importlib.util import find_spec
from pathlib import Path
from typing import TYPE_CHECKING, Annotated

import typer

from deltamem.cli.extensions import find_sizing
from deltamem.extensions import how_to_install
from deltamem.wording import counted

if TYPE_CHECKING:
    from deltamem.train.recipe import Recipe
    from deltamem.train.run import Outcome


def train(
    recipe: Annotated[Path, typer.Argument(help="The recipe, a YAML file.")],
    changes: Annotated[
        list[str] | None, typer.Argument(metavar="[KEY=VALUE]...", help="Changes, such as schedule.steps=100.")
    ] = None,
    resume: Annotated[
        bool, typer.Option("--resume", help="Continue from the last checkpoint in output.folder.")
    ] = False,
    dry_run: Annotated[
        bool, typer.Option("--dry-run", help="Only print what the run would be; load no weights.")
    ] = False,
    auto_size: Annotated[
        bool,
        typer.Option(
            "--auto-size", help="First find the adapter's rank and number of states with short runs (section auto)."
        ),
    ] = False,
    as_json: Annotated[bool, typer.Option("--json", help="Print the result as JSON.")] = False,
) -> None:
    """Train an adapter by a recipe, on one machine or many.

    SIGINT or SIGTERM ends it after the step it is in, with a checkpoint to continue from. For several processes start
    it with accelerate launch -m deltamem train RECIPE, or torchrun. --auto-size takes one process; run the same command
    again to continue unfinished sizes.

    Example: deltamem train recipes/embedded.yaml schedule.steps=200 output.folder=runs/short
    """
    if not recipe.is_file():
        raise FileNotFoundError(f"There is no recipe {recipe}.")
    if lacking := [name for name in ("pydantic", "yaml", "accelerate") if find_spec(name) is None]:
        raise ImportError(f"Training needs {', '.join(lacking)}: {how_to_install('train')}")
    from deltamem.train.recipefile import load_recipe

    checked = load_recipe(recipe, changes or ())
    if dry_run:
        _plan(checked, as_json)
        return
    from transformers.utils.logging import disable_progress_bar

    if not sys.stderr.isatty():
        disable_progress_bar()
    if auto_size:
        checked = find_sizing()(checked)
    from deltamem.train.run import run

    outcome = run(checked, resume=resume)
    _tell(outcome, as_json)
    if outcome.signal:
        raise typer.Exit(128 + outcome.signal)


def _plan(recipe: "Recipe", as_json: bool) -> None:
    from deltamem.train.plan import plan_run

    plan = plan_run(recipe)
    if as_json:
        print(json.dumps(plan, indent=2))
        return
    for name, value in plan.items():
        print(f"{name.replace('_', ' '):26}{'unknown' if value is None else f'{value:,}'}")


def _tell(outcome: "Outcome", as_json: bool) -> None:
    import os

    from deltamem.train.checkpoints import RECIPE_FILE
    from deltamem.train.report import measured_table

    if os.environ.get("RANK", "0") != "0":
        return
    if as_json:
        measured = outcome.measured.metrics() if outcome.measured else None
        done = {"folder": str(outcome.folder), "steps": outcome.steps, "finished": not outcome.signal}
        print(json.dumps({**done, "measured": measured, "pushed": outcome.pushed}, indent=2))
        return
    if outcome.signal:
        print(f"Stopped after step {outcome.steps}, with a checkpoint. Continue with:")
        print(f"  deltamem train {outcome.folder / RECIPE_FILE} --resume")
        return
    print(f"Wrote the adapter to {outcome.folder}: {counted(outcome.steps, 'update')}.")
    if outcome.measured:
        print(f"\n{measured_table(outcome.measured)}")
    if outcome.pushed:
        print(f"Pushed: {outcome.pushed}")
