"""Whether a killed server keeps every turn that it acknowledged, on the embedded backbone.

    python benchmarks/crash.py --json benchmarks/results/crash.json --check

Again and again a server is started on the same store, a SQLite file or an empty PostgreSQL database, clients hold turns
through HTTP, and at a random moment the process is killed with SIGKILL. After each kill the store is checked: every
acknowledged turn is there with its messages, nothing beyond one turn under way is, versions have no gap, and every
new version's memory is the one that its messages make of the version before. The next start goes on with the same
sessions.
"""

import argparse
import gc
import json
import math
import os
import random
import signal
import subprocess
import sys
import tempfile
import threading
import time
from collections.abc import Callable, Iterator
from dataclasses import dataclass, field
from pathlib import Path
from typing import Any

import httpx
import torch
import uvicorn

from common import command_line, free_port, machine, tell
from deltamem.chat import encode_chat
from deltamem.demo.adapters import load_demo_adapter
from deltamem.demo.backbone import load_backbone
from deltamem.demo.world import chat
from deltamem.formats.state import StateCodec
from deltamem.observe import observe
from deltamem.serve.app import create_app
from deltamem.serve.server import Server
from deltamem.serve.settings import Settings
from deltamem.store import NotFoundError, SessionStore
from serve import Serving

TOLERANCE = 1e-4
TENANT = "default"
STALLED = 60.0  # seconds without a turn that even a busy machine does not take


def main() -> int:
    parser = command_line(__doc__, "exit 1 if a turn was lost or half written")
    parser.add_argument("--kills", type=int, default=50)
    parser.add_argument("--clients", type=int, default=6)
    parser.add_argument("--turns", type=int, default=40, help="turns before a kill, at most")
    parser.add_argument("--store", default="", help="an empty database; a SQLite file by default")
    parser.add_argument("--nursery", action="store_true", help=argparse.SUPPRESS)
    options = parser.parse_args()
    if options.nursery:
        return nurse(options.store)

    torch.set_num_threads(1)
    report = {"machine": machine()}
    report |= measure(options.kills, options.clients, options.turns, store=options.store)
    return tell(report, options, report["problems"])


@dataclass
class Client:
    """One client with a session of its own, and what it was told.

    Attributes:
        session: its session.
        rng: what it says next.
        acknowledged: for each version that the server acknowledged, what was said and answered.
        seen: versions up to this one have been checked.
        refused: answers that were errors.
    """

    session: str
    rng: random.Random
    acknowledged: dict[int, tuple[str, str]] = field(default_factory=dict)
    seen: int = 0
    refused: list[str] = field(default_factory=list)

    @property
    def last(self) -> int:
        """The last acknowledged version, 0 for none."""
        return max(self.acknowledged, default=0)

    def talk(self, url: str, stop: threading.Event) -> None:
        """Holds turns until told to stop or until nobody answers; every other one is a stream."""
        with local_http(url, {"X-Memory-Session": self.session}) as http:
            while not stop.is_set():
                said = chat(self.rng, 1)[0].text
                body = {"messages": [{"role": "user", "content": said}], "temperature": 0, "max_tokens": 12}
                try:
                    version, answer = (self._stream if self.rng.random() < 0.5 else self._ask)(http, body)
                except httpx.TransportError:
                    return
                except (httpx.HTTPStatusError, KeyError) as error:
                    self.refused.append(repr(error))
                    return
                if version:
                    self.acknowledged[version] = (said, answer)

    @staticmethod
    def _ask(http: httpx.Client, body: dict[str, Any]) -> tuple[int, str]:
        reply = http.post("/v1/chat/completions", json=body)
        reply.raise_for_status()
        told = reply.json()
        return told["memory"]["version"], told["choices"][0]["message"]["content"]

    @staticmethod
    def _stream(http: httpx.Client, body: dict[str, Any]) -> tuple[int, str]:
        """A streamed turn is acknowledged by the chunk that says how it ended."""
        text, version = "", 0
        with http.stream("POST", "/v1/chat/completions", json=body | {"stream": True}) as reply:
            reply.raise_for_status()
            for line in reply.iter_lines():
                if line.startswith("data: {"):
                    chunk = json.loads(line[6:])
                    text += chunk["choices"][0]["delta"].get("content") or ""
                    version = chunk.get("memory", {}).get("version", version)
        return version, text


class Checker:
    """Recomputes what the store must hold."""

    def __init__(self) -> None:
        self._model, self._tokenizer = load_backbone()
        load_demo_adapter(self._model, "multi")
        self._states = StateCodec(self._model)
        self.versions = 0
        self.under_way = 0
        self.difference = 0.0

    def check(self, store: SessionStore, client: Client) -> list[str]:
        """What is wrong with a session after a kill."""
        name = client.session
        try:
            head = store.get(TENANT, name).head
        except NotFoundError:
            return [f"{name} is gone, with {client.last} versions"] if client.last else []
        # Version 1 is the empty memory that a session begins with; the first turn makes it too. Kills may come so close
        # to one another that each leaves a committed turn that nobody was told of.
        most = max(client.last, client.seen, 1) + 1
        if not client.last <= head <= most:
            return [f"{name} is at version {head}, and {client.last} was acknowledged"]
        kept = {version.number: version for version in store.versions(TENANT, name, limit=2**31 - 1)}
        if sorted(kept) != list(range(1, head + 1)):
            return [f"{name} has a gap in its versions"]
        said: dict[int, list[dict[str, str]]] = {}
        for stored in store.messages(TENANT, name, limit=2**31 - 1):
            said.setdefault(stored.version, []).append(dict(stored.message))
        problems = []
        for number in range(max(client.seen, 1) + 1, head + 1):
            self.versions += 1
            self.under_way += number not in client.acknowledged
            problems += self._check_version(store, client, number, said.get(number, []))
        client.seen = head
        return problems

    def _check_version(
        self, store: SessionStore, client: Client, number: int, messages: list[dict[str, str]]
    ) -> Iterator[str]:
        where = f"version {number} of {client.session}"
        if [message["role"] for message in messages] != ["user", "assistant"]:
            yield f"{where} has no whole turn in its log"
            return
        if client.acknowledged.get(number, tuple(m["content"] for m in messages)) != tuple(
            m["content"] for m in messages
        ):
            yield f"{where} has other messages than were acknowledged"
        before, after = (self._states.unpack(store.load(TENANT, client.session, n).state) for n in (number - 1, number))
        tokens = encode_chat(self._tokenizer, messages)
        made = observe(self._model, tokens.input_ids, before, write=tokens.message >= 0)
        difference = float(made.diff(after).max())
        self.difference = max(self.difference, difference)
        if difference > TOLERANCE or not torch.equal(made.tokens, after.tokens):
            yield f"{where} is not what its messages make of the version before: off by {difference}"


def measure(
    kills: int, clients: int, turns: int, *, store: str = "", until: float = math.inf, seed: int = 0
) -> dict[str, Any]:
    """Kills servers under load and checks what is left.

    Args:
        kills: how often, at most.
        clients: that talk at once.
        turns: before a kill, at most.
        store: URL of an empty database; a SQLite file by default.
        until: a time of ``time.monotonic``; no server is started after it.
        seed: another one, other dialogues and moments.
    """
    rng = random.Random(f"crash/{seed}")
    talking = [Client(f"s{number}", random.Random(f"crash/{seed}/{number}")) for number in range(clients)]
    checker, problems = Checker(), []
    done, longest = 0, 0.0
    with tempfile.TemporaryDirectory() as folder:
        url = store or f"sqlite:///{folder}/sessions.db"
        nursery = Nursery(url, Path(folder) / "server.log")
        while done < kills and time.monotonic() < until:
            pid, address = nursery.start()
            many, pause = rng.randint(1, turns), rng.uniform(0, 0.3)
            waited = load(lambda pid=pid: nursery.kill(pid), address, talking, many, pause)
            done, longest = done + 1, max(longest, waited)
            if waited > STALLED:
                problems.append(f"kill {done}: the server acknowledged nothing for {waited:.0f} s")
            with SessionStore.open(url, keep_messages=True) as sessions:
                sessions.check()
                if not store:
                    with sessions.database.read() as connection:
                        if connection.exec_driver_sql("PRAGMA integrity_check").scalar_one() != "ok":
                            problems.append(f"kill {done}: the database is damaged")
                for client in talking:
                    problems += [f"kill {done}: {problem}" for problem in checker.check(sessions, client)]
        nursery.close()
    problems += [f"{one.session} was answered {error}" for one in talking for error in one.refused]
    return {
        "database": "postgresql" if store else "sqlite",
        "kills": done,
        "clients": clients,
        "turns_acknowledged": sum(len(client.acknowledged) for client in talking),
        "versions_checked": checker.versions,
        "committed_but_not_acknowledged": checker.under_way,
        "largest_difference_of_a_state": checker.difference,
        "longest_without_a_turn_s": round(longest, 1),
        "problems": problems,
    }


def load(kill: Callable[[], None], url: str, clients: list[Client], turns: int, pause: float) -> float:
    """Lets the clients talk, kills the server a moment after so many turns, and waits for the clients to notice.

    Gives the longest time without an acknowledged turn; the server is killed when it is :data:`STALLED`, too.
    """

    def done() -> int:
        return sum(len(client.acknowledged) for client in clients)

    stop, before = threading.Event(), done()
    threads = [threading.Thread(target=client.talk, args=(url, stop)) for client in clients]
    for thread in threads:
        thread.start()
    last, longest, seen = time.monotonic(), 0.0, before
    while seen < before + turns and longest <= STALLED:
        time.sleep(0.01)
        longest = max(longest, time.monotonic() - last)
        if done() > seen:
            last, seen = time.monotonic(), done()
    time.sleep(pause)
    kill()
    stop.set()
    for thread in threads:
        thread.join()
    return longest


class Nursery:
    """A process that has loaded the model and forks servers, so that a start takes no more than a moment.

    Args:
        store: the database's URL.
        log: the file that the servers write their log to.
    """

    def __init__(self, store: str, log: Path) -> None:
        self._log = open(log, "ab")  # noqa: SIM115
        command = [sys.executable, __file__, "--nursery", "--store", store]
        pipes: dict[str, Any] = {"stdin": subprocess.PIPE, "stdout": subprocess.PIPE, "stderr": self._log}
        self._process = subprocess.Popen(command, text=True, **pipes)

    def start(self) -> tuple[int, str]:
        """The id and the address of a new server that is ready."""
        port = str(free_port())
        pid = int(self._ask(port))
        url = f"http://127.0.0.1:{port}"
        until = time.monotonic() + 120
        with local_http(url) as http:
            while not _ready(http):
                if time.monotonic() > until:
                    raise RuntimeError(f"The server did not start; see {self._log.name}.")
                time.sleep(0.05)
        return pid, url

    def kill(self, pid: int) -> None:
        """Kills a server with SIGKILL, and gives back when it is gone."""
        os.kill(pid, signal.SIGKILL)
        if self._ask("wait") != str(signal.SIGKILL.value):
            raise RuntimeError("The server ended before it was killed.")

    def close(self) -> None:
        """Ends the nursery."""
        self._process.communicate("")
        self._log.close()

    def _ask(self, line: str) -> str:
        assert self._process.stdin is not None
        assert self._process.stdout is not None
        print(line, file=self._process.stdin, flush=True)
        answer = self._process.stdout.readline().strip()
        if not answer:
            raise RuntimeError(f"The nursery ended; see {self._log.name}.")
        return answer


def nurse(store: str) -> int:
    """What a nursery does: forks a server for every port it reads, and waits for it when told to."""
    torch.set_num_threads(1)
    model, tokenizer = load_backbone()
    load_demo_adapter(model, "multi")
    with tempfile.TemporaryDirectory() as folder, Serving(made(model, tokenizer, f"sqlite:///{folder}/x.db")) as url:
        load(lambda: None, url, [Client("first", random.Random(0))], 1, 0.0)  # what the first turn builds, forks have
    gc.freeze()  # what is there now stays, so no server copies it by looking for garbage
    for line in sys.stdin:
        if line == "wait\n":
            print(os.waitstatus_to_exitcode(os.wait()[1]) * -1, flush=True)
            continue
        pid = os.fork()
        if not pid:
            serve(model, tokenizer, store, int(line))
            os._exit(0)
        print(pid, flush=True)
    return 0


def made(model: Any, tokenizer: Any, store: str) -> Server:
    """A server on a store."""
    sessions = SessionStore.open(store, keep_messages=True, keep_versions=None)
    return Server(model, tokenizer, sessions, Settings(secret=b"for one hour only"))


def serve(model: Any, tokenizer: Any, store: str, port: int) -> None:
    """Serves as ``deltamem serve`` does."""
    application = create_app(made(model, tokenizer, store))
    uvicorn.run(application, host="127.0.0.1", port=port, log_level="warning", access_log=False)


def local_http(url: str, headers: dict[str, str] | None = None) -> httpx.Client:
    """A client of a server on this machine; reading the certificates of the web takes longer than a turn."""
    return httpx.Client(base_url=url, timeout=60, headers=headers, verify=False)


def _ready(http: httpx.Client) -> bool:
    try:
        return http.get("/readyz").status_code == 200
    except httpx.TransportError:
        return False


if __name__ == "__main__":
    sys.exit(main())
