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


def command_line(about: str | None, check: str) -> argparse.ArgumentParser:
    """A parser with what a benchmark takes whose figures have limits: ``--json`` and ``--check``."""
    parser = argparse.ArgumentParser(description=about, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("--json", nargs="?", const="-", metavar="PATH", help="write the figures to PATH, or to stdout")
    parser.add_argument("--check", action="store_true", help=check)
    return parser


def tell(
    report: dict[str, Any], options: argparse.Namespace, show: Callable[[dict[str, Any]], None], missed: Sequence[str]
) -> int:
    """Shows or writes a report as :func:`command_line` says, and what missed its limit; returns the exit code."""
    if options.json == "-":
        print(json.dumps(report, indent=2))
    else:
        show(report)
        if options.json:
            Path(options.json).write_text(json.dumps(report, indent=2) + "\n")
    print(*missed, sep="\n", end="\n" if missed else "", file=sys.stderr)
    return 1 if missed and options.check else 0
