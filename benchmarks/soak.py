"""Whether a server's memory stays flat over many turns, sessions and clients that leave, on the embedded backbone.

    python benchmarks/soak.py --minutes 60 --json benchmarks/results/soak.json --check

Clients hold turns through HTTP, some of them streams that they leave early, some with bodies that are refused;
sessions are made, forked, rolled back and deleted all the while. The resident memory of the process is read after the
first tenth, when every buffer has reached its size, and at the end. Memories and messages are encrypted. A refusal
because the store was busy for ten seconds is counted and is no failure: nothing was written, and it may be repeated.
"""

import math
import os
import random
import statistics
import sys
import tempfile
import threading
import time
from pathlib import Path
from typing import Any

import httpx
import torch

from common import command_line, machine, tell
from deltamem.demo.adapters import load_demo_adapter
from deltamem.demo.backbone import load_backbone
from deltamem.demo.world import chat
from deltamem.serve.server import Server
from deltamem.serve.settings import EngineLimits, Settings
from deltamem.store import SessionStore, StateKeys
from serve import Serving

CEILING_MIB = 16.0
CLIENTS = 4


def main() -> int:
    parser = command_line(__doc__, f"exit 1 if it grew by more than {CEILING_MIB} MiB")
    parser.add_argument("--minutes", type=float, default=5.0)
    parser.add_argument("--rate", type=float, default=math.inf, help="requests a second, at most")
    options = parser.parse_args()

    torch.set_num_threads(1)
    report = {"machine": machine()}
    report |= measure(60 * options.minutes, options.rate)
    grew = [f"it grew by {report['grew_mib']} MiB"] if report["grew_mib"] > CEILING_MIB else []
    return tell(report, options, [*grew, *report["unexpected"]])


def measure(seconds: float, rate: float = math.inf) -> dict[str, Any]:
    """Runs the load for so long, once each client has held a turn and left one, and reads the memory along the way.

    Args:
        seconds: how long.
        rate: requests a second of all clients together, at most.
    """
    model, tokenizer = load_backbone()
    load_demo_adapter(model, "multi")
    samples: list[float] = []
    with tempfile.TemporaryDirectory() as folder:
        keys = StateKeys.from_text(StateKeys.generate("only"))
        store = SessionStore.open(f"sqlite:///{folder}/sessions.db", keys=keys, keep_messages=True, keep_versions=5)
        settings = Settings(secret=os.urandom(32), max_tokens=12)
        server = Server(model, tokenizer, store, settings, EngineLimits(max_batch=CLIENTS))
        with Serving(server) as url:
            users = [User(number, pause=CLIENTS / rate) for number in range(CLIENTS)]
            for thread in _start(users, url, 0.0):
                thread.join()
            end = time.monotonic() + seconds
            threads = _start(users, url, end)
            while time.monotonic() < end:
                time.sleep(min(seconds / 100, 10))
                samples.append(resident_mib())
            for thread in threads:
                thread.join()
            left = len(store.list("default", limit=1000).sessions)
            busy = len(server.turns)
    tenth = max(1, len(samples) // 10)
    first, last = statistics.median(samples[tenth : 2 * tenth]), statistics.median(samples[-tenth:])
    return {
        "seconds": round(seconds),
        "requests": sum(user.requests for user in users),
        "turns": sum(user.turns for user in users),
        "left_early": sum(user.left for user in users),
        "refused_by_a_busy_store": sum(user.busy for user in users),
        "sessions_at_the_end": left,
        "locks_at_the_end": busy,
        "resident_after_a_tenth_mib": round(first, 1),
        "resident_at_the_end_mib": round(last, 1),
        "grew_mib": round(last - first, 1),
        "unexpected": sorted({problem for user in users for problem in user.unexpected}),
    }


def _start(users: list["User"], url: str, end: float) -> list[threading.Thread]:
    threads = [threading.Thread(target=user.live, args=(url, end)) for user in users]
    for thread in threads:
        thread.start()
    return threads


class User:
    """One client that does what clients do, with up to eight sessions at a time, and a pause after each request."""

    def __init__(self, number: int, pause: float) -> None:
        self._pause = pause
        self._rng = random.Random(f"soak/{number}")
        self._name = f"user{number}"
        self._sessions: list[str] = []
        self.requests = self.turns = self.left = self.busy = 0
        self.unexpected: set[str] = set()

    def live(self, url: str, end: float) -> None:
        """Sends one request after another until the end."""
        acts = [
            self._turn,
            self._turn,
            self._turn,
            self._leave,
            self._refused,
            self._fork,
            self._rollback,
            self._delete,
        ]
        with httpx.Client(base_url=url, timeout=120) as http:
            while time.monotonic() < end or not (self.turns and self.left):
                self.requests += 1
                try:
                    self._rng.choice(acts)(http)
                except httpx.TransportError as error:
                    self.unexpected.add(repr(error))
                time.sleep(self._pause)

    def _turn(self, http: httpx.Client) -> None:
        self.turns += self._expect(http.post("/v1/chat/completions", json=self._body()), 200) == 200

    def _leave(self, http: httpx.Client) -> None:
        with http.stream("POST", "/v1/chat/completions", json=self._body() | {"stream": True}) as reply:
            next(reply.iter_lines())
        self.left += 1

    def _refused(self, http: httpx.Client) -> None:
        name = f"none-{self.requests}"  # names that never come again must not pile up anywhere
        self._expect(http.get(f"/v1/sessions/{name}"), 404)
        self._expect(http.post("/v1/chat/completions", json={"messages": [{"role": name, "content": ""}]}), 400)

    def _fork(self, http: httpx.Client) -> None:
        name = f"{self._name}-fork-{self.requests}"
        reply = http.post(f"/v1/sessions/{self._session()}/fork", json={"session": name})
        if self._expect(reply, 201, 404) == 201:
            self._sessions.append(name)

    def _rollback(self, http: httpx.Client) -> None:
        self._expect(http.post(f"/v1/sessions/{self._session()}/rollback", json={"turns": 1}), 200, 400, 404)

    def _delete(self, http: httpx.Client) -> None:
        if len(self._sessions) > 4:
            self._expect(http.delete(f"/v1/sessions/{self._sessions.pop(0)}"), 200, 404)

    def _body(self) -> dict[str, Any]:
        text = chat(self._rng, 1)[0].text
        return {"messages": [{"role": "user", "content": text}], "memory": {"session": self._session()}}

    def _session(self) -> str:
        if not self._sessions or (len(self._sessions) < 8 and self._rng.random() < 0.2):
            self._sessions.append(f"{self._name}-{self.requests}")
        return self._rng.choice(self._sessions)

    def _expect(self, reply: httpx.Response, *statuses: int) -> int:
        if reply.status_code == 503 and reply.json()["error"]["code"] == "store_unavailable":
            self.busy += 1
        elif reply.status_code not in statuses:
            self.unexpected.add(f"{reply.status_code}: {reply.text[:200]}")
        return reply.status_code


def resident_mib() -> float:
    """What the process holds in memory now."""
    pages = int(Path("/proc/self/statm").read_text().split()[1])
    return pages * os.sysconf("SC_PAGE_SIZE") / 2**20


if __name__ == "__main__":
    sys.exit(main())
