"""``deltamem parity``: runs recorded cases and prints how far this package is from them."""

import json
import math
import sys
from pathlib import Path
from typing import TYPE_CHECKING, Annotated, Any

import typer

if TYPE_CHECKING:
    from deltamem.parity import StepDifference


def parity(
    folders: Annotated[list[Path], typer.Argument(metavar="FOLDER…", help="Case folders, or folders of cases.")],
    as_json: Annotated[bool, typer.Option("--json", help="Print the differences as JSON.")] = False,
) -> None:
    """Compare this package with recorded runs of δ-mem, step by step.

    A case is a folder with an adapter and expected.safetensors, with its backbone beside it (qwen3_mine uses
    backbone_qwen3; a single backbone serves every case). For each recorded step the command prints the largest absolute
    difference of the logits and of the states; it fails above 1e-4.

    Example: deltamem parity tests/golden
    """
    from transformers.utils import logging

    from deltamem.parity import BACKBONE_PREFIX, TOLERANCE, find_cases, run_case

    logging.disable_progress_bar()
    # A shell's pattern for the cases matches their backbones too.
    folders = [folder for folder in folders if not folder.name.startswith(BACKBONE_PREFIX)] or folders
    differences: list[StepDifference] = []
    errors: dict[str, str] = {}
    for folder in folders:
        # One bad folder must not hide how the others do.
        try:
            for case in find_cases(folder):
                try:
                    differences += run_case(case)
                except (ValueError, OSError) as error:
                    errors[str(case)] = " ".join(str(error).split())
        except ValueError as error:
            errors[str(folder)] = str(error)
    passed = not errors and all(step.passed for step in differences)
    if as_json:
        print(json.dumps(_as_data(differences, errors, passed, TOLERANCE), indent=2))
    else:
        _print_table(differences, TOLERANCE)
    for text in errors.values():
        print(f"deltamem: {text}", file=sys.stderr)
    if not passed:
        raise typer.Exit(1)


def _as_data(
    differences: "list[StepDifference]", errors: dict[str, str], passed: bool, tolerance: float
) -> dict[str, Any]:
    cases: dict[str, dict[str, Any]] = {}
    for step in differences:
        cases.setdefault(step.case, {})[step.step] = {
            "logits": _number(step.logits),
            "states": _number(step.states),
            "passed": step.passed,
        }
    return {"passed": passed, "tolerance": tolerance, "cases": cases, "errors": errors}


def _number(value: float) -> float | None:
    return value if math.isfinite(value) else None


def _print_table(differences: "list[StepDifference]", tolerance: float) -> None:
    from rich.console import Console
    from rich.table import Table

    if not differences:
        return
    table = Table("case", "step", title=f"Largest absolute difference (at most {tolerance:g})")
    for heading in ("logits", "states"):
        table.add_column(heading, justify="right")
    table.add_column("")
    for step in differences:
        verdict = "[green]ok[/]" if step.passed else "[red]FAILED[/]"
        table.add_row(step.case, step.step, f"{step.logits:.1e}", f"{step.states:.1e}", verdict)
    Console().print(table)
    failed = sum(not step.passed for step in differences)
    print(f"{len(differences) - failed} of {len(differences)} steps within {tolerance:g}.")
