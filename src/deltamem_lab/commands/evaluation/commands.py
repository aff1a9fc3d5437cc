"""Runs ``deltamem`` commands in processes of their own, as many at a time as there are threads for."""

import os
import subprocess
import sys
from collections.abc import Mapping, Sequence
from concurrent.futures import ThreadPoolExecutor


def at_once(count: int) -> int:
    """How many of so many commands run at a time."""
    import torch

    return max(1, min(count, torch.get_num_threads()))


def run_commands(commands: Mapping[str, Sequence[str]]) -> dict[str, int]:
    """Runs commands, each in a process that leaves no trace in this one, with its share of the threads.

    The lines that they print go to standard error, each behind its command's name. One that fails does not end the
    others. What interrupts this process reaches them too; they are waited for, and what has not begun is left out.

    Args:
        commands: the arguments of each, by its name.

    Returns:
        the exit statuses by name.
    """
    import torch

    places = at_once(len(commands))
    threads = torch.get_num_threads() // places
    pool = ThreadPoolExecutor(places)
    try:
        statuses = pool.map(lambda name: _run(name, commands[name], threads), commands)
        return dict(zip(commands, statuses, strict=True))
    finally:
        pool.shutdown(cancel_futures=True)


def _run(name: str, arguments: Sequence[str], threads: int) -> int:
    environment = {**os.environ, "OMP_NUM_THREADS": str(threads), "PYTHONUNBUFFERED": "1"}
    command = [sys.executable, "-m", "deltamem", *arguments]
    with subprocess.Popen(
        command, stdout=subprocess.PIPE, stderr=subprocess.STDOUT, env=environment, encoding="utf-8", errors="replace"
    ) as process:
        assert process.stdout is not None
        for line in process.stdout:
            if line.strip():
                print(f"{name}: {line}", end="", file=sys.stderr, flush=True)
    return process.returncode
