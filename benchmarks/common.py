"""What the benchmarks share."""

import argparse
import json
import socket
import sys
import time
from collections.abc import Callable, Mapping, Sequence
from pathlib import Path
from typing import Any

from deltamem_lab.machine import machine as machine


def timed(run: Callable[[], Any]) -> float:
    """CPU seconds of this process that a call takes."""
    start = time.process_time()
    run()
    return time.process_time() - start


def free_port() -> int:
    """A port of this machine that nothing listens on."""
    with socket.socket() as free:
        free.bind(("127.0.0.1", 0))
        return int(free.getsockname()[1])


def command_line(about: str | None, check: str = "") -> argparse.ArgumentParser:
    """A parser with what a benchmark takes: ``--json`` and, where its figures have limits, ``--check``."""
    parser = argparse.ArgumentParser(description=about, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("--json", nargs="?", const="-", metavar="PATH", help="write the figures to PATH, or to stdout")
    if check:
        parser.add_argument("--check", action="store_true", help=check)
    return parser


def keep(report: dict[str, Any], options: argparse.Namespace) -> None:
    """Writes a report, or what there is of it so far, to the file of ``--json`` if there is one."""
    if options.json and options.json != "-":
        Path(options.json).write_text(json.dumps(report, indent=2, ensure_ascii=False) + "\n", "utf-8")


def show_cell(name: str, cell: Mapping[str, Any]) -> None:
    """Prints the rates among a cell's figures."""
    rates = {key: round(part["value"], 3) for key, part in cell.items() if isinstance(part, dict) and "value" in part}
    print(f"{name}: {rates}", flush=True)


def show_all(report: dict[str, Any]) -> None:
    """Prints a report as it is written."""
    print(json.dumps(report, indent=2, ensure_ascii=False))


def tell(
    report: dict[str, Any],
    options: argparse.Namespace,
    missed: Sequence[str] = (),
    show: Callable[[dict[str, Any]], None] = show_all,
) -> int:
    """Shows or writes a report as :func:`command_line` says, and what missed its limit; returns the exit code."""
    if options.json == "-":
        show_all(report)
    else:
        show(report)
        keep(report, options)
    print(*missed, sep="\n", end="\n" if missed else "", file=sys.stderr)
    return 1 if missed and options.check else 0
