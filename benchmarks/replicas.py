"""What two replicas behind the router of the examples do, and what they take, on the embedded backbone.

    python benchmarks/replicas.py --json benchmarks/results/replicas.json

Replicas are `deltamem serve` processes over one SQLite file, before them is `examples/router.py`, and clients hold one
turn after another, each in a session of its own; every answer has the same number of tokens. Counted are turns,
latencies, and the CPU time of each part. `simulated` is what the simulation of `benchmarks/fleet.py` says of the run
with two replicas, with service times fitted to the runs with one. Run it bound to one core (taskset), as the simulation
takes it. The seconds of a run are as long as the rest of the machine makes them; `share` is how much of one core the
run had.
"""

import argparse
import contextlib
import os
import signal
import statistics
import subprocess
import sys
import tempfile
import threading
import time
from collections import Counter
from collections.abc import Iterator
from pathlib import Path
from typing import Any

import httpx

from common import command_line, free_port, machine, tell
from deltamem.demo.tokenizer import build_tokenizer
from fleet import check, one_replica

ROUTER = Path(__file__).parents[1] / "examples" / "router.py"
RUNS = ((1, 1), (1, 4), (1, 8), (2, 8))
"""Replicas and clients of each run."""
ASKED = "Where do I live?"


def main() -> int:
    parser = command_line(__doc__)
    parser.add_argument("--turns", type=int, default=48, help="of all clients of a run together")
    parser.add_argument("--tokens", type=int, default=32, help="of each answer")
    parser.add_argument("--rounds", type=int, default=2, help="of all runs; the one with the least CPU a turn counts")
    options = parser.parse_args()
    report = {"machine": machine(), "turns": options.turns, "tokens": options.tokens, "rounds": options.rounds}
    report |= {"runs": measure(options)}
    report["simulated"] = check(one_replica(report), report)
    return tell(report, options)


def measure(options: argparse.Namespace) -> list[dict[str, Any]]:
    """Every run, the best of the rounds."""
    with tempfile.TemporaryDirectory() as folder, contextlib.ExitStack() as stack:
        store = f"sqlite:///{folder}/sessions.db"
        served = [stack.enter_context(replica(store, folder)) for _ in range(max(count for count, _ in RUNS))]
        found: dict[tuple[int, int], list[dict[str, Any]]] = {run: [] for run in RUNS}
        for number in range(options.rounds + 1):
            for count, clients in RUNS:
                with router([url for _, url in served[:count]]) as (process, url):
                    pids = [*(each.pid for each, _ in served[:count]), process.pid]
                    turns = options.turns if number else clients  # the first round compiles kernels
                    one = run(url, f"{number}-{count}-{clients}", clients, turns, options.tokens, pids)
                if number:
                    found[count, clients].append({"replicas": count, "clients": clients} | one)
        return [min(each, key=lambda one: one["cpu_ms_per_turn"]["replicas"]) for each in found.values()]


def run(url: str, name: str, clients: int, turns: int, tokens: int, pids: list[int]) -> dict[str, Any]:
    """Clients that hold turns, all together so many."""
    end = build_tokenizer().eos_token_id
    body = {
        "messages": [{"role": "user", "content": ASKED}],
        "temperature": 0,
        "max_tokens": tokens,
        "logit_bias": {str(end): -100},  # an answer ends where all end
    }
    seconds: list[float] = []
    places: Counter[str] = Counter()
    lock, left = threading.Lock(), iter(range(turns))

    def talk(session: str) -> None:
        with httpx.Client(base_url=url, timeout=300, headers={"X-Memory-Session": session}) as http:
            while next(left, None) is not None:
                begun = time.monotonic()
                reply = http.post("/v1/chat/completions", json=body)
                reply.raise_for_status()
                if reply.json()["usage"]["completion_tokens"] != tokens:
                    raise RuntimeError(f"an answer has {reply.json()['usage']['completion_tokens']} tokens")
                with lock:
                    seconds.append(time.monotonic() - begun)
                    places[reply.headers["x-replica"]] += 1

    # Sessions that lie evenly on the replicas, as many would.
    talkers = [threading.Thread(target=talk, args=(session,)) for session in spread(url, name, clients)]
    before, mine, begun = cpu(pids), time.process_time(), time.monotonic()
    for talker in talkers:
        talker.start()
    for talker in talkers:
        talker.join()
    took, own = time.monotonic() - begun, time.process_time() - mine
    spent = [after - earlier for after, earlier in zip(cpu(pids), before, strict=True)]
    ordered = sorted(seconds)
    return {
        "turns": len(seconds),
        "turns_by_replica": sorted(places.values()),
        "seconds": round(took, 2),
        "share": round((sum(spent) + own) / took, 3),
        "turns_per_second": round(len(seconds) / took, 2),
        "latency_s": {
            "median": round(statistics.median(ordered), 3),
            "p95": round(ordered[int(0.95 * (len(ordered) - 1))], 3),
        },
        "cpu_ms_per_turn": {
            "replicas": round(1000 * sum(spent[:-1]) / len(seconds), 1),
            "router": round(1000 * spent[-1] / len(seconds), 1),
            "clients": round(1000 * own / len(seconds), 1),
        },
    }


def spread(url: str, name: str, clients: int) -> list[str]:
    """Names of sessions of which each replica gets as many."""
    by_place: dict[str, list[str]] = {}
    with httpx.Client(base_url=url, timeout=300) as http:
        for number in range(32 * clients):
            session = f"{name}-{number}"
            place = http.get(f"/v1/sessions/{session}").headers["x-replica"]
            by_place.setdefault(place, []).append(session)
            each = clients // len(by_place)
            if len(by_place) == int(name.split("-")[1]) and all(len(found) >= each for found in by_place.values()):
                return [session for found in by_place.values() for session in found[:each]]
    raise RuntimeError("the router does not reach every replica")


def cpu(pids: list[int]) -> list[float]:
    """Seconds of CPU that processes have taken."""
    ticks = os.sysconf("SC_CLK_TCK")
    fields = [Path(f"/proc/{pid}/stat").read_text().rpartition(")")[2].split() for pid in pids]
    return [(int(found[11]) + int(found[12])) / ticks for found in fields]


@contextlib.contextmanager
def replica(store: str, folder: str) -> Iterator[tuple["subprocess.Popen[bytes]", str]]:
    """A server of its own process, and its address."""
    port = free_port()
    command = [sys.executable, "-m", "deltamem", "serve", "--model", "embedded", "--port", str(port), "--store", store]
    with started(command, f"http://127.0.0.1:{port}", "/readyz", {"DELTAMEM_HOME": folder}) as found:
        yield found


@contextlib.contextmanager
def router(replicas: list[str]) -> Iterator[tuple["subprocess.Popen[bytes]", str]]:
    """The router of the examples before these replicas, and its address."""
    port = free_port()
    command = [sys.executable, str(ROUTER), *replicas, "--port", str(port)]
    with started(command, f"http://127.0.0.1:{port}", "/readyz", {}) as found:
        yield found


@contextlib.contextmanager
def started(
    command: list[str], url: str, path: str, environment: dict[str, str]
) -> Iterator[tuple["subprocess.Popen[bytes]", str]]:
    """A process that answers at a path, and its address."""
    quiet: dict[str, Any] = {"stdout": subprocess.DEVNULL, "stderr": subprocess.DEVNULL}
    with subprocess.Popen(command, env=os.environ | environment, **quiet) as process:
        try:
            while process.poll() is None:
                with contextlib.suppress(httpx.TransportError):
                    if httpx.get(url + path, timeout=60).status_code == 200:
                        break
                time.sleep(0.2)
            if process.poll() is not None:
                raise RuntimeError(f"{' '.join(command)} ended")
            yield process, url
        finally:
            process.send_signal(signal.SIGTERM)


if __name__ == "__main__":
    sys.exit(main())
