"""Whether replicas on Ray Serve keep every turn that they acknowledged while one of them is killed.

    python benchmarks/on_ray.py --json benchmarks/results/on_ray.json --check

Run it where Ray is installed (pip install "ray[serve]"). `examples/ray_serve.py` deploys the embedded backbone on a
local Ray over one store, clients hold turns through its proxy, and half-way the busiest replica gets SIGKILL, while it
works on turns. What is not acknowledged is asked again, and the clients go on until Ray has replaced the replica.
Afterwards the store is checked as `benchmarks/crash.py` does: every acknowledged turn is there with its messages,
versions have no gap, and every memory is the one that its messages make of the one before.
"""

import argparse
import contextlib
import os
import random
import re
import shlex
import signal
import statistics
import subprocess
import sys
import tempfile
import threading
import time
from collections import Counter
from collections.abc import Iterator
from dataclasses import dataclass, field
from pathlib import Path
from typing import Any

import httpx
import torch

from common import command_line, free_port, machine, tell
from crash import Checker, Client
from deltamem.demo.world import chat
from deltamem.store import SessionStore

EXAMPLE = Path(__file__).parents[1] / "examples" / "ray_serve.py"
# A busy machine needs longer than Ray's own limits to start what Ray starts.
PATIENCE = {
    "RAY_agent_register_timeout_ms": "600000",
    "RAY_raylet_start_wait_time_s": "120",
    "RAY_worker_register_timeout_seconds": "600",
    "RAY_health_check_timeout_ms": "120000",
    "RAY_health_check_failure_threshold": "20",
    "RAY_gcs_rpc_server_reconnect_timeout_s": "300",
    "RAY_gcs_server_request_timeout_seconds": "300",
    "RAY_AUTH_MODE": "disabled",
    "RAY_worker_niceness": "0",
    "RAY_SERVE_SESSION_ID_HEADER_KEY": "x-memory-session",
}


def main() -> int:
    parser = command_line(__doc__, "exit 1 if an acknowledged turn was lost or half written")
    parser.add_argument("--clients", type=int, default=6)
    parser.add_argument("--turns", type=int, default=20, help="of each client, at least")
    parser.add_argument("--most", type=int, default=3, help="replicas at most; there are two at first")
    parser.add_argument("--store", default="", help="an empty database; a SQLite file by default")
    parser.add_argument("--engine", choices=("own", "vllm"), default="own")
    parser.add_argument(
        "--start", type=float, default=900, help="seconds that Ray, and then the replicas, may take to start"
    )
    options = parser.parse_args()

    torch.set_num_threads(1)
    os.environ.setdefault("VLLM_CPU_KVCACHE_SPACE", "1")  # else each replica wants nearly all memory there is
    report = {"machine": machine()} | measure(options)
    return tell(report, options, report["problems"])


@dataclass
class Talker:
    """Somebody with a session, who asks again what was not acknowledged.

    Attributes:
        client: the session, and what was acknowledged.
        turns: how many to hold at least.
        seconds: of each turn, asking again included, and when it began.
        repeated: why something was asked again, and how often.
    """

    client: Client
    turns: int
    seconds: list[tuple[float, float]] = field(default_factory=list)
    repeated: Counter[str] = field(default_factory=Counter)

    def talk(self, url: str, enough: threading.Event) -> None:
        """Holds its turns, and goes on until it is told that it is enough."""
        with httpx.Client(base_url=url, timeout=120, headers={"X-Memory-Session": self.client.session}) as http:
            while len(self.client.acknowledged) < self.turns or not enough.is_set():
                said, begun = chat(self.client.rng, 1)[0].text, time.monotonic()
                body = {"messages": [{"role": "user", "content": said}], "temperature": 0, "max_tokens": 12}
                while not self._ask(http, said, body):
                    time.sleep(0.2)
                self.seconds.append((begun, time.monotonic() - begun))

    def _ask(self, http: httpx.Client, said: str, body: dict[str, Any]) -> bool:
        try:
            reply = http.post("/v1/chat/completions", json=body)
        except httpx.TransportError as error:
            self.repeated[type(error).__name__] += 1
            return False
        if reply.status_code != 200:
            self.repeated[str(reply.status_code)] += 1
            return False
        told = reply.json()
        self.client.acknowledged[told["memory"]["version"]] = (said, told["choices"][0]["message"]["content"])
        return True


def measure(options: argparse.Namespace) -> dict[str, Any]:
    """Deploys, talks, kills, and checks what is left."""
    talkers = [Talker(Client(f"s{n}", random.Random(f"ray/{n}")), options.turns) for n in range(options.clients)]
    with tempfile.TemporaryDirectory() as folder:
        store = options.store or f"sqlite:///{folder}/sessions.db"
        with deployed(options, store, Path(folder)) as url:
            enough = threading.Event()
            threads = [threading.Thread(target=talker.talk, args=(url, enough)) for talker in talkers]
            begun, at = time.monotonic(), 0.0
            for thread in threads:
                thread.start()
            first, busiest = set[str](), ""
            while any(thread.is_alive() for thread in threads):
                held = sum(len(talker.client.acknowledged) for talker in talkers)
                if not at and 2 * held >= options.clients * options.turns:
                    turns, there = turns_by_replica(folder), replicas(folder)
                    busiest = max(there, key=lambda name: turns.get(name, 0))
                    first, at = set(turns), time.monotonic()
                    os.kill(there[busiest], signal.SIGKILL)
                elif at and (later(turns_by_replica(folder), first) or time.monotonic() > at + options.start):
                    enough.set()
                time.sleep(0.2)
            seconds, served = time.monotonic() - begun, turns_by_replica(folder)
        checker = Checker()
        with contextlib.closing(SessionStore.open(store)) as sessions:
            problems = [problem for talker in talkers for problem in checker.check(sessions, talker.client)]
    if not later(served, first):
        problems.append("no other replica came for the killed one")
    if not any(talker.repeated for talker in talkers):
        problems.append("the killed replica worked on nothing")
    before = [took for talker in talkers for started, took in talker.seconds if started + took < at]
    after = [took for talker in talkers for started, took in talker.seconds if started + took >= at]
    return {
        "engine": options.engine,
        "database": "postgresql" if options.store else "sqlite",
        "clients": options.clients,
        "acknowledged_turns": sum(len(talker.client.acknowledged) for talker in talkers),
        "seconds": round(seconds, 1),
        "killed_after_seconds": round(at - begun, 1),
        "turns_of_the_killed_replica": served[busiest],
        "turns_of_the_other_first_ones": sorted(served[name] for name in first - {busiest}),
        "turns_of_those_that_came_later": later(served, first),
        "asked_again": dict(sum((talker.repeated for talker in talkers), Counter())),
        "seconds_of_a_turn": {
            name: {"median": round(statistics.median(found), 2), "longest": round(max(found), 2)}
            for name, found in (("before_the_kill", before), ("after", after))
        },
        "versions_recomputed": checker.versions,
        "committed_without_acknowledgement": checker.under_way,
        "greatest_difference": checker.difference,
        "problems": problems,
    }


@contextlib.contextmanager
def deployed(options: argparse.Namespace, store: str, folder: Path) -> Iterator[str]:
    """The address of the example on a local Ray, with two replicas at first."""
    port = free_port()
    command = [sys.executable, str(EXAMPLE), "--store", store, "--keep-messages", "--keep-versions", "0"]
    command += ["--port", str(port)]
    command += ["--engine", options.engine, "--most", str(options.most), "--target", "2", "--cpus", "0.25"]
    with (
        started_ray(folder, options.start) as address,
        running(command, folder / "log", b"Serving at", options.start, {"RAY_ADDRESS": address}),
    ):
        yield f"http://127.0.0.1:{port}"


@contextlib.contextmanager
def started_ray(folder: Path, patience: float) -> Iterator[str]:
    """The address of a Ray on this machine.

    It gives up when one of its agents takes more than fifteen seconds to start, so it gets several tries.
    """
    until = time.monotonic() + patience
    address = f"127.0.0.1:{free_port()}"
    command = [sys.executable, "-m", "ray.scripts.scripts", "start", "--head", "--block", "--num-cpus", "2"]
    command += ["--include-dashboard", "false", "--disable-usage-stats", "--port", address.rpartition(":")[2]]
    command += ["--temp-dir", str(folder / "ray"), "--no-monitor", "--include-log-monitor", "false"]
    with contextlib.ExitStack() as stack:
        while True:
            try:
                stack.enter_context(running(command, folder / "ray.log", b"Ray runtime started", patience, {}))
                break
            except RuntimeError:
                if time.monotonic() > until:
                    raise
        yield address


@contextlib.contextmanager
def running(command: list[str], log: Path, says: bytes, patience: float, environment: dict[str, str]) -> Iterator[None]:
    """A process that has said that it is ready."""
    how: dict[str, Any] = {"env": os.environ | PATIENCE | environment, "start_new_session": True}
    with log.open("wb") as out, subprocess.Popen(command, stdout=out, stderr=out, **how) as process:
        try:
            until = time.monotonic() + patience
            while says not in log.read_bytes():
                if process.poll() is not None or time.monotonic() > until:
                    raise RuntimeError(f"{shlex.join(command)} did not start:\n{log.read_text()[-3000:]}")
                time.sleep(0.5)
            yield
        finally:
            with contextlib.suppress(ProcessLookupError):
                os.killpg(process.pid, signal.SIGTERM)


def logs(folder: str) -> dict[str, str]:
    """The log of each replica that there was, by its name."""
    return {log.stem: log.read_text("utf-8") for log in Path(folder).glob("ray/session_*/logs/serve/replica_*.log")}


def replicas(folder: str) -> dict[str, int]:
    """The processes that are there, by their replicas, which log them at the start."""
    told = {name: re.search(r"Process (\d+)", log) for name, log in logs(folder).items()}
    processes = {name: int(found[1]) for name, found in told.items() if found}
    return {name: process for name, process in processes.items() if Path(f"/proc/{process}").exists()}


def turns_by_replica(folder: str) -> dict[str, int]:
    """How many turns each replica has answered."""
    return {name: log.count("POST /v1/chat/completions 200") for name, log in logs(folder).items()}


def later(served: dict[str, int], first: set[str]) -> list[int]:
    """How many turns those replicas have answered that are not the first, unless they have answered none."""
    return sorted(turns for name, turns in served.items() if turns and name not in first)


if __name__ == "__main__":
    sys.exit(main())
