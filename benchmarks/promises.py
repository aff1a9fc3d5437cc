"""The store's and the server's promises at scale, in as many runs as it takes.

    python benchmarks/promises.py kills-sqlite kills-postgresql isolation fuzz soak --minutes 60 --check

Each part goes on where ``benchmarks/results/promises/PART.json`` stopped, slice by slice, until its count is reached or
its time is up; every slice is a fresh start with other draws, and is added to the file when it is done. ``kills-*`` are
``crash.py`` on either database; PostgreSQL is a cluster of its own. ``isolation`` is ``isolation.py``, ``fuzz`` is
``fuzz.py`` and ``soak`` is ``soak.py``. The suite of tests has a short version of each.
"""

import argparse
import json
import math
import os
import sys
import time
from collections.abc import Callable
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import torch

import crash
import fuzz
import isolation
import soak
from common import machine

RESULTS = Path(__file__).parent / "results" / "promises"
Report = dict[str, Any]
# Figures of which the largest or the smallest of all slices counts; others are added up.
EXTREMES: dict[str, Callable[..., float]] = {
    "largest_difference_of_a_state": max,
    "longest_without_a_turn_s": max,
    "state_difference_from_alone": max,
    "state_difference_from_nearest_other": min,
    "most_grown_mib": max,
    "longest_soak_s": max,
}
# How often a cast of sessions talks together, to be compared with the same dialogues held alone.
ROUNDS = 5
# Requests a second of the soak, so that it takes a small share of a core for hours.
RATE = 3.0
# What is the same in every slice.
SAME = ("database", "clients", "sessions", "tenants", "engine")


def kills_sqlite(count: int, seed: int, until: float) -> Report:
    """Servers killed under load on a SQLite file."""
    return crash.measure(count, clients=6, turns=8, until=until, seed=seed)


def kills_postgresql(count: int, seed: int, until: float) -> Report:
    """The same on PostgreSQL, as the tests of the store start it."""
    sys.path.insert(0, str(Path(__file__).parents[1] / "tests" / "store"))
    import postgres

    binaries = postgres.find_binaries()
    if binaries is None:
        raise SystemExit("PostgreSQL is not installed: neither initdb on the path nor anything in /usr/lib/postgresql.")
    cluster = postgres.Server(binaries)
    try:
        return crash.measure(count, clients=6, turns=8, store=cluster.empty_database(), until=until, seed=seed)
    finally:
        cluster.remove()


def turns_apart(count: int, seed: int, until: float) -> Report:
    """Turns of many sessions at once and alone; the count is of turns together."""
    turns = max(128, count // ROUNDS)
    found = isolation.measure(sessions=64, tenants=8, turns=turns, seed=seed, rounds=ROUNDS, until=until)
    del found["seconds"]
    return found | {"problems": [] if isolation.isolated(found) else [f"cast {seed} is not apart"]}


def malformed(count: int, seed: int, until: float) -> Report:
    """Broken requests and changed files."""
    return fuzz.measure(count, seed=seed, until=until)


def long_life(count: int, seed: int, until: float) -> Report:
    """A server with its encryption on under load for the time there is; the count is of seconds."""
    seconds = min(count, until - time.monotonic())
    found = soak.measure(seconds, RATE)
    grown = found["grew_mib"]
    problems = list(found["unexpected"]) + ([f"grew by {grown} MiB"] if grown > soak.CEILING_MIB else [])
    kept = ("requests", "turns", "left_early", "refused_by_a_busy_store", "locks_at_the_end")
    return {
        "soaked_s": round(seconds),
        "longest_soak_s": round(seconds),
        **{name: found[name] for name in kept},
        "most_grown_mib": grown,
        "problems": problems,
    }


@dataclass(frozen=True)
class Part:
    """One promise.

    Attributes:
        run: so many of what is counted, with draws of their own, until a time of ``time.monotonic``.
        counted: the figure that says how many it were.
        promised: how many in all.
        slice: how many at a time.
    """

    run: Callable[[int, int, float], Report]
    counted: str
    promised: int
    slice: int


PARTS = {
    "kills-sqlite": Part(kills_sqlite, "kills", 1_000, 100),
    "kills-postgresql": Part(kills_postgresql, "kills", 1_000, 100),
    "isolation": Part(turns_apart, "turns", 100_000, 64 * 16 * ROUNDS),
    "fuzz": Part(malformed, "cases", 1_000_000, 20_000),
    "soak": Part(long_life, "soaked_s", 6 * 3600, 6 * 3600),
}


def added(one: Report, other: Report) -> Report:
    """Two reports as one."""
    both = dict(one)
    for name, value in other.items():
        if name not in both:
            both[name] = value
        elif name in EXTREMES:
            both[name] = EXTREMES[name](both[name], value)
        elif isinstance(value, dict):
            both[name] = dict(sorted(added(both[name], value).items()))
        elif name not in SAME:
            both[name] = both[name] + value
    return both


def go_on(part: Part, file: Path, count: int, until: float) -> Report:
    """Adds slices to a file until they come to the count or the time is up."""
    found: Report = json.loads(file.read_text("utf-8")) if file.exists() else {"slices": 0, part.counted: 0}
    found.pop("machine", None)
    while (left := count - found[part.counted]) > 0 and time.monotonic() < until:
        start, before = time.monotonic(), sum(os.times()[:4])
        new = part.run(min(part.slice, left), found["slices"], until)
        took = {"seconds": round(time.monotonic() - start), "cpu_seconds": round(sum(os.times()[:4]) - before)}
        found = added(found, {"slices": 1, **took, **new})
        file.parent.mkdir(parents=True, exist_ok=True)
        file.write_text(json.dumps({"machine": machine()} | found, indent=2) + "\n", "utf-8")
    return found


def main() -> int:
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("parts", nargs="+", choices=PARTS)
    parser.add_argument("--count", type=int, help="how many of each part in all; by default what is promised")
    parser.add_argument("--minutes", type=float, default=math.inf, help="the longest time for each part")
    parser.add_argument("--output", type=Path, default=RESULTS)
    parser.add_argument("--check", action="store_true", help="exit 1 if a promise was broken")
    options = parser.parse_args()
    torch.set_num_threads(1)
    broken = False
    for name in options.parts:
        part = PARTS[name]
        until = time.monotonic() + 60 * options.minutes
        found = go_on(part, options.output / f"{name}.json", options.count or part.promised, until)
        print(name, json.dumps(found, indent=2), flush=True)
        broken |= bool(found.get("problems"))
    return int(options.check and broken)


if __name__ == "__main__":
    sys.exit(main())
