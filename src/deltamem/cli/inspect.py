"""``deltamem inspect``: what an adapter or a saved memory is."""

import json
from pathlib import Path
from typing import Annotated, Any

import typer


def inspect(
    path: Annotated[Path, typer.Argument(help="An adapter folder, or a memory file.")],
    as_json: Annotated[bool, typer.Option("--json", help="Print everything as JSON.")] = False,
    png: Annotated[
        Path | None,
        typer.Option(help="Also draw a heatmap to this file: the states, or the norms of an adapter's parts."),
    ] = None,
) -> None:
    """Show what an adapter or a saved memory is: shapes, norms of each layer, tokens written, bytes.

    The file is checked too: a damaged one is an error.

    Example: deltamem inspect ravi.safetensors --png ravi.png
    """
    if not path.exists():
        raise FileNotFoundError(f"There is no adapter folder or memory file {path}.")
    from deltamem.formats.inspect import describe, draw, open_file

    found = open_file(path)
    description = describe(found)
    if as_json:
        print(json.dumps(description, indent=2))
    else:
        _print(description)
    if png is not None:
        draw(found, png)
        if not as_json:
            print(f"Drew {png}.")


def _print(description: dict[str, Any]) -> None:
    from rich.console import Console

    beside = ("norms", "shapes", "config")
    _print_facts({name.replace("_", " "): value for name, value in description.items() if name not in beside})
    if "config" in description:
        print("Configuration")
        _print_facts(description["config"])
    Console().print(_part_table(description) if description["kind"] == "adapter" else _state_table(description))


def _print_facts(facts: dict[str, Any]) -> None:
    """A line for each, however narrow the terminal: a fingerprint is there to be copied."""
    width = max(map(len, facts))
    for name, value in facts.items():
        print(f" {name:{width}}  {_text(value)}")


def _text(value: Any) -> str:
    if isinstance(value, int) and not isinstance(value, bool):
        return f"{value:,}"
    if isinstance(value, (list, tuple)):
        return " ".join(map(str, value))
    if isinstance(value, dict):
        return ", ".join(f"{name} {_text(part)}" for name, part in value.items())
    return "unknown" if value is None else str(value)


def _part_table(description: dict[str, Any]) -> Any:
    from rich.table import Table

    norms: dict[str, dict[str, float]] = description["norms"]
    table = Table(box=None, title="Frobenius norms", title_justify="left", padding=(0, 1, 0, 0))
    for heading in ("layer", *next(iter(norms.values()))):
        table.add_column(heading, overflow="fold")
    for layer, parts in norms.items():
        table.add_row(layer, *(f"{norm:.3g}" for norm in parts.values()))
    return table


def _state_table(description: dict[str, Any]) -> Any:
    from rich.table import Table

    columns = [(row, state) for row in range(description["rows"]) for state in range(description["states"])]
    table = Table(
        "layer", *(f"row {r}, state {n}" for r, n in columns), title="Frobenius norms", title_justify="left", box=None
    )
    for layer, norms in enumerate(description["norms"]):
        table.add_row(str(layer), *(f"{norms[r][n]:.3g}" for r, n in columns))
    return table
