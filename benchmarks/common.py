"""What the benchmarks share."""

import argparse
import json
import sys
import time
from collections.abc import Callable, Sequence
from pathlib import Path
from typing import Any

from deltamem_lab.machine import machine as machine


def timed(run: Callable[[], Any]) -> float:
    """CPU seconds of this process that a call takes."""
    start = time.process_time()
    run()
    return time.process_time() - start


def command_line(about: str | None, check: str = "") -> argparse.ArgumentParser:
    """A parser with what a benchmark takes: ``--json`` and, where its figures have limits, ``--check``."""
    parser = argparse.ArgumentParser(description=about, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("--json", nargs="?", const="-", metavar="PATH", help="write the figures to PATH, or to stdout")
    if check:
        parser.add_argument("--check", action="store_true", help=check)
    return parser


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
        if options.json:
            Path(options.json).write_text(json.dumps(report, indent=2, ensure_ascii=False) + "\n", "utf-8")
    print(*missed, sep="\n", end="\n" if missed else "", file=sys.stderr)
    return 1 if missed and options.check else 0
