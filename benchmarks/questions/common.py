"""What the questions share: arguments, intervals, files, and the look of their plots.

A script of this folder starts with

    if not __package__:
        sys.path[0] = str(Path(__file__).parents[1])

so that it finds ``common`` of the benchmarks, and this module as ``questions.common``.
"""

import argparse
import io
import json
import shlex
import sys
from collections.abc import Callable, Mapping, Sequence
from pathlib import Path
from typing import Any

import torch

from common import command_line, machine
from deltamem.demo.plots import STYLES as DEMO_STYLES
from deltamem.files import write_atomically
from deltamem_lab.statistics import Interval, rate_interval

# The demo's looks, and a name for the full context that ends with the window.
STYLES = {**DEMO_STYLES, "full": ("window of 512 tokens, no memory", "#000000", "--")}
MORE_COLOURS = ("#D55E00", "#56B4E9", "#CC79A7", "#8C6D00", "#7F3C8D", "#666666")

Rate = dict[str, Any]


def arguments(description: str | None) -> argparse.ArgumentParser:
    """A parser with what every question takes: ``--json`` and ``--plot``."""
    parser = command_line(description)
    parser.add_argument("--plot", type=Path, metavar="PATH", help="draw the figures to a PNG or SVG file")
    return parser


def parse(parser: argparse.ArgumentParser, given: Sequence[str] | None = None) -> argparse.Namespace:
    """The options, after a check that what they ask for can be drawn; from now on one thread computes."""
    options = parser.parse_args(given)
    if options.plot and options.plot.suffix not in (".png", ".svg"):
        parser.error(f"--plot {options.plot}: the file must end in .png or .svg")
    torch.set_num_threads(1)
    return options


def finish(report: dict[str, Any], options: argparse.Namespace, draw: Callable[[dict[str, Any]], Any]) -> None:
    """Writes the report with the command and the machine, and the figure that ``draw`` makes of it."""
    script = Path(sys.argv[0]).name
    report |= {"command": shlex.join(["python", f"benchmarks/questions/{script}", *sys.argv[1:]]), "machine": machine()}
    text = json.dumps(report, indent=2) + "\n"
    if options.json == "-":
        print(text, end="")
    elif options.json:
        write_atomically(Path(options.json), text.encode())
    if options.plot:
        _save(draw(report), options.plot)


def rate(right: Sequence[bool], dialogues: Sequence[int]) -> Rate:
    """The share of right answers, in [0, 1], with its 95 % interval by a bootstrap over dialogues.

    Args:
        right: one a question.
        dialogues: the dialogue that each question is about.
    """
    found: Interval = rate_interval([float(good) for good in right], [str(number) for number in dialogues])
    return {
        "value": round(found.value, 4),
        "interval": [round(found.low, 4), round(found.high, 4)],
        "questions": len(right),
    }


def panels(
    count: int = 1, *, columns: int | None = None, height: float = 3.8, width: float = 5.4
) -> tuple[Any, list[Any]]:
    """A figure with ``count`` axes on white: side by side, or in rows of so many ``columns``."""
    from matplotlib.figure import Figure

    columns = columns or count
    rows = -(-count // columns)
    figure = Figure(figsize=(width * columns, height * rows), layout="constrained", facecolor="white")
    axes = [figure.add_subplot(rows, columns, place + 1) for place in range(count)]
    for each in axes:
        each.spines[["top", "right"]].set_visible(False)
        each.grid(axis="y", color="#eeeeee")
    return figure, axes


def share_axis(axes: Any, label: str = "answers right to the letter") -> None:
    """The vertical axis of a share, from 0 to 1."""
    axes.set_ylim(-0.02, 1.02)
    axes.set_ylabel(label)


def style(name: str, place: int = 0) -> tuple[str, str, str]:
    """Label, colour and dash of a method; one that is not of the package has the ``place``-th further colour."""
    return STYLES.get(name, (name, MORE_COLOURS[place % len(MORE_COLOURS)], "-"))


def line(axes: Any, x: Sequence[float], rates: Sequence[Mapping[str, Any]], look: tuple[str, str, str]) -> None:
    """A curve of rates with its intervals shaded; ``look`` is label, colour and dash."""
    label, colour, dash = look
    low, high = zip(*(each["interval"] for each in rates), strict=True)
    axes.plot(x, [each["value"] for each in rates], dash, color=colour, label=label, marker="o", markersize=4)
    axes.fill_between(x, low, high, color=colour, alpha=0.12, linewidth=0)


def _save(figure: Any, path: Path) -> None:
    import matplotlib

    drawn = io.BytesIO()
    with matplotlib.rc_context({"svg.hashsalt": "deltamem"}):  # the same figures give the same file
        metadata = {"Date": None} if path.suffix == ".svg" else None
        figure.savefig(drawn, format=path.suffix[1:], dpi=140, metadata=metadata)
    write_atomically(path, drawn.getvalue())


def legend_below(figure: Any, axes: Any, columns: int = 3) -> None:
    """One legend for the whole figure, under it."""
    figure.legend(*axes.get_legend_handles_labels(), loc="outside lower center", ncols=columns, frameon=False)
