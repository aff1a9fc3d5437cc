"""The store's and the server's promises at scale: kills under load, isolation, and a storm of malformed input.

    python benchmarks/promises.py kills-sqlite kills-postgresql isolation fuzz --minutes 60 --check

Each part runs until its count is reached or its time is up, and writes what it did to
``benchmarks/results/promises/PART.json``. The suite of tests has a short version of each.

``kills-*`` are ``crash.py`` on either database; PostgreSQL is a cluster of its own. ``isolation`` is ``isolation.py``,
one cast of sessions after another. ``fuzz`` sends requests that are broken in every way that it knows to a server with
its encryption on, and gives changed files of memories and adapters to their readers. A request may be answered or
refused; an answer of 500 is a failure. A file may be read or refused by the reader's own error; any other error is a
failure, and so is a class that ``pickle`` is made to look up.
"""

import argparse
import base64
import collections
import copy
import json
import math
import random
import sys
import tempfile
import threading
import time
from collections.abc import Callable, Iterator
from contextlib import contextmanager
from pathlib import Path
from typing import Any

import httpx
import torch

import crash
import isolation
from common import machine
from deltamem import AdapterFileError, StateFileError, observe, save_adapter
from deltamem.demo.adapters import load_demo_adapter
from deltamem.demo.backbone import load_backbone
from deltamem.formats.hub import adapter_file, read_adapter_from
from deltamem.formats.release import write_release
from deltamem.formats.state import StateCodec
from deltamem.serve.server import Server
from deltamem.serve.settings import Settings
from deltamem.store import SessionStore, StateKeys
from serve import Serving

RESULTS = Path(__file__).parent / "results" / "promises"
# What a server may answer with besides success and refusals: it is full, late or leaving.
MEANT = (503, 504)
Report = dict[str, Any]


def kills_sqlite(count: int, until: float) -> Report:
    """Servers killed under load on a SQLite file."""
    return crash.measure(count, clients=6, turns=20, until=until)


def kills_postgresql(count: int, until: float) -> Report:
    """The same on PostgreSQL, as the tests of the store start it."""
    sys.path.insert(0, str(Path(__file__).parents[1] / "tests" / "store"))
    import postgres

    binaries = postgres.find_binaries()
    if binaries is None:
        raise SystemExit("PostgreSQL is not installed: neither initdb on the path nor anything in /usr/lib/postgresql.")
    cluster = postgres.Server(binaries)
    try:
        return crash.measure(count, clients=6, turns=20, store=cluster.empty_database(), until=until)
    finally:
        cluster.remove()


def turns_apart(count: int, until: float) -> Report:
    """Turns of many sessions at once and alone; ``count`` turns together."""
    reports: list[Report] = []
    while sum(one["turns"] for one in reports) < count and (not reports or time.monotonic() < until):
        left = count - sum(one["turns"] for one in reports)
        reports.append(isolation.measure(sessions=64, tenants=8, turns=max(128, min(2000, left)), seed=len(reports)))
    added = ("turns", "answers_unlike_alone", "answers_with_anothers_canary", "canaries_asked_for", "canaries_recalled")
    added += ("foreign_sessions_listed", "states_compared", "states_equal_bit_for_bit")
    return {
        "sessions": 64,
        "tenants": 8,
        "casts": len(reports),
        **{name: sum(one[name] for one in reports) for name in added},
        "state_difference_from_alone": max(one["state_difference_from_alone"] for one in reports),
        "state_difference_from_nearest_other": min(one["state_difference_from_nearest_other"] for one in reports),
        "problems": [f"cast {number}" for number, one in enumerate(reports) if not isolation.isolated(one)],
    }


def fuzz(count: int, until: float) -> Report:
    """Broken requests and changed files, ``count`` of both together, a third of them files."""
    rng = random.Random("fuzz")
    looked_up: list[str] = []
    reader = threading.get_ident()  # numba, in the server's threads, keeps what it compiled as pickles

    def watch(event: str, given: tuple[object, ...]) -> None:
        if event == "pickle.find_class" and threading.get_ident() == reader and reading.is_set():
            looked_up.append(str(given))

    reading = threading.Event()
    sys.addaudithook(watch)
    statuses: collections.Counter[int] = collections.Counter()
    files: collections.Counter[str] = collections.Counter()
    problems: list[str] = []
    with readers() as (codec, state, folders), served() as http:
        state_text = http.get("/v1/sessions/ravi/export").json()["state"]
        done = 0
        while done < count and time.monotonic() < until:
            if done % 3:
                sent = broken_request(rng, state_text)
                status, said = answer(http, sent)
                statuses[status] += 1
                if status >= 500 and status not in MEANT:
                    problems.append(f"{status} {said[:200]} to {str(sent)[:500]}")
            else:
                reading.set()
                kind, outcome = changed_file(rng, codec, state, folders)
                reading.clear()
                files[f"{kind} {outcome}"] += 1
                if outcome not in ("read", "refused"):
                    problems.append(f"{kind}: {outcome}")
            done += 1
        alive = http.get("/readyz").status_code
    if alive != 200:
        problems.append(f"afterwards /readyz answered {alive}")
    return {
        "cases": done,
        "requests_by_status": {str(status): statuses[status] for status in sorted(statuses)},
        "files": dict(sorted(files.items())),
        "classes_looked_up_by_pickle": len(looked_up),
        "problems": problems[:50] + [f"pickle looked up {name}" for name in sorted(set(looked_up))],
    }


@contextmanager
def served() -> Iterator[httpx.Client]:
    """A server with encryption and a session that has a turn."""
    model, tokenizer = load_backbone()
    load_demo_adapter(model, "multi")
    with tempfile.TemporaryDirectory() as folder:
        keys = StateKeys.from_text(StateKeys.generate("only"))
        store = SessionStore.open(f"sqlite:///{folder}/sessions.db", keys=keys, keep_messages=True, keep_versions=3)
        settings = Settings(secret=b"for one hour only", max_tokens=2, max_body=2**20)
        server = Server(model, tokenizer, store, settings)
        with Serving(server) as url, httpx.Client(base_url=url, timeout=120) as http:
            http.post("/v1/chat/completions", json=TURN | {"memory": {"session": "ravi"}}).raise_for_status()
            yield http


TURN: dict[str, Any] = {"messages": [{"role": "user", "content": "I live in Lisbon."}], "max_tokens": 2}
# Requests that are right, by method, path and body.
RIGHT: list[tuple[str, str, Any]] = [
    ("POST", "/v1/chat/completions", TURN | {"memory": {"session": "ravi"}, "temperature": 0.5, "seed": 1}),
    ("POST", "/v1/chat/completions", TURN | {"stream": True, "stop": ["."], "top_p": 0.9, "logprobs": True}),
    ("POST", "/v1/chat/completions", TURN | {"memory": {"state": "STATE", "return_state": True}}),
    ("POST", "/v1/completions", {"prompt": "I live in", "max_tokens": 2}),
    ("POST", "/v1/sessions", {"session": "mina", "label": "Mina", "metadata": {"a": "b"}}),
    ("GET", "/v1/sessions?limit=5&search=ravi", None),
    ("GET", "/v1/sessions/ravi", None),
    ("PATCH", "/v1/sessions/ravi", {"label": "Ravi"}),
    ("GET", "/v1/sessions/ravi/timeline?limit=2", None),
    ("GET", "/v1/sessions/ravi/messages?limit=2", None),
    ("GET", "/v1/sessions/ravi/memory", None),
    ("GET", "/v1/sessions/ravi/export", None),
    ("POST", "/v1/sessions/ravi/observe", {"text": "My dog is Rex.", "role": "user"}),
    ("POST", "/v1/sessions/ravi/fork", {"session": "fork"}),
    ("POST", "/v1/sessions/ravi/rollback", {"turns": 1}),
    ("POST", "/v1/sessions/ravi/strengths", {"version": 2}),
    ("POST", "/v1/sessions/other/import", {"state": "STATE"}),
    ("DELETE", "/v1/sessions/fork", None),
    ("GET", "/v1/models", None),
]
ODD: list[Any] = [
    None, True, 0, -1, 2**31, 2**63, 2**70, 1e308, -0.0, 0.1, "", " ", "x" * 5000, "\ud800", "\x00", "😀", "../..",
    "ravi", [], {}, [[]], [None], {"": None}, [[[[[[[[]]]]]]]], {"role": "user", "content": "\ud83d"}, "STATE", "1e999",
]  # fmt: skip
HEADERS: list[tuple[str, bytes]] = [
    ("X-Memory-Session", b"\xff"),
    ("X-Memory-Session", b"a/b"),
    ("X-Request-Timeout", b"-1"),
    ("Authorization", b"Bearer \xc3\x28"),
    ("Content-Type", b"text/plain"),
    ("Content-Encoding", b"gzip"),
    ("Accept", b"\x00"),
]
Sent = tuple[str, str, dict[str, bytes], bytes | None]


def broken_request(rng: random.Random, state: str) -> Sent:
    """A request of :data:`RIGHT` with up to three things changed: a value, a key, the path, a header, or bytes."""
    method, path, body = rng.choice(RIGHT)
    body = json.loads(json.dumps(body))
    headers: dict[str, bytes] = {"Content-Type": b"application/json"}
    for _ in range(rng.randrange(4)):
        way = rng.randrange(6)
        if way < 3 and body is not None:
            body = changed_value(rng, body)
        elif way == 3:
            path = f"{path}{rng.choice(['/', '?limit=-1', '?limit=x', '?version=99', '%00', '/../..', '?before=1e9'])}"
        elif way == 4:
            name, value = rng.choice(HEADERS)
            headers[name] = value
        else:
            method = rng.choice(("GET", "POST", "PUT", "PATCH", "DELETE"))
    if body is None:
        return method, path, headers, None
    content = json.dumps(body).replace("STATE", changed_text(rng, state) if rng.random() < 0.5 else state)
    data = content.encode("utf-8", "surrogatepass")
    return method, path, headers, changed_bytes(rng, data) if rng.random() < 0.2 else data


def odd(rng: random.Random) -> Any:
    """A value of :data:`ODD`, a copy of its own: what comes of it may be changed again."""
    return copy.deepcopy(rng.choice(ODD))


def changed_value(rng: random.Random, value: Any) -> Any:
    """The value with one part of it, at any depth, replaced, removed or named otherwise."""
    if not value or not isinstance(value, dict | list) or rng.random() < 0.15:
        return odd(rng)
    places: list[Any] = list(value) if isinstance(value, dict) else list(range(len(value)))
    place, way = rng.choice(places), rng.randrange(5)
    if way == 0:
        del value[place]
    elif way == 1 and isinstance(value, dict):
        value[rng.choice(["store", "user", "memory", "n", "x", ""])] = odd(rng)
    elif way == 2 and isinstance(value, list):
        value.append(odd(rng))
    else:
        value[place] = changed_value(rng, value[place])
    return value


def changed_bytes(rng: random.Random, data: bytes) -> bytes:
    """The bytes cut, with one flipped, some inserted, or the ends exchanged."""
    place, raw = rng.randrange(len(data) + 1), bytearray(data)
    way = rng.randrange(4)
    if way == 0:
        return data[:place]
    if way == 1 and place < len(raw):
        raw[place] ^= 1 << rng.randrange(8)
    elif way == 2:
        raw[place:place] = rng.randbytes(rng.randrange(1, 20))
    else:
        raw = raw[place:] + raw[:place]
    return bytes(raw)


def changed_text(rng: random.Random, state: str) -> str:
    """A signed state whose body was changed and whose signature was not."""
    prefix, body, signature = state.split(".")
    raw = changed_bytes(rng, base64.urlsafe_b64decode(body))
    return f"{prefix}.{base64.urlsafe_b64encode(raw).decode()}.{signature}"


def answer(http: httpx.Client, sent: Sent) -> tuple[int, str]:
    """The status of an answer and its text; 0 for what no client can send."""
    method, path, headers, content = sent
    try:
        reply = http.request(method, path, headers=headers, content=content)
    except (httpx.InvalidURL, httpx.LocalProtocolError):
        return 0, ""
    return reply.status_code, reply.text


@contextmanager
def readers() -> Iterator[tuple[StateCodec, bytes, list[Path]]]:
    """What reads memories, a memory, and an adapter's folder in either format."""
    model, tokenizer = load_backbone()
    load_demo_adapter(model, "multi")
    codec = StateCodec(model)
    state = codec.pack(observe(model, tokenizer("I live in Lisbon.", return_tensors="pt").input_ids))
    with tempfile.TemporaryDirectory() as folder:
        ours, theirs = Path(folder) / "ours", Path(folder) / "theirs"
        save_adapter(model, ours)
        write_release(adapter_file(model), theirs)
        yield codec, state, [ours, theirs]


def changed_file(rng: random.Random, codec: StateCodec, state: bytes, folders: list[Path]) -> tuple[str, str]:
    """What was read, and how that went: ``read``, ``refused`` or the error that it should not have been."""
    if rng.random() < 0.7:
        return "state", _outcome(lambda: codec.unpack(changed_bytes(rng, state)))
    folder = rng.choice(folders)
    file = rng.choice([path for path in folder.iterdir() if path.name != "README.md"])
    whole = file.read_bytes()
    file.write_bytes(changed_bytes(rng, whole))
    try:
        return f"adapter {file.name}", _outcome(lambda: read_adapter_from(folder))
    finally:
        file.write_bytes(whole)


def _outcome(read: Callable[[], object]) -> str:
    try:
        read()
    except (StateFileError, AdapterFileError):
        return "refused"
    except Exception as error:
        return f"{type(error).__name__}: {error}"
    return "read"


PARTS: dict[str, tuple[Callable[[int, float], Report], int]] = {
    "kills-sqlite": (kills_sqlite, 1_000),
    "kills-postgresql": (kills_postgresql, 1_000),
    "isolation": (turns_apart, 100_000),
    "fuzz": (fuzz, 1_000_000),
}


def main() -> int:
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("parts", nargs="+", choices=PARTS)
    parser.add_argument("--count", type=int, help="kills, turns or cases of each part; by default what is promised")
    parser.add_argument("--minutes", type=float, default=math.inf, help="the longest time for each part")
    parser.add_argument("--output", type=Path, default=RESULTS)
    parser.add_argument("--check", action="store_true", help="exit 1 if a promise was broken")
    options = parser.parse_args()
    torch.set_num_threads(1)
    broken = False
    for name in options.parts:
        run, promised = PARTS[name]
        start = time.monotonic()
        found = run(options.count or promised, start + 60 * options.minutes)
        report = {"machine": machine(), "seconds": round(time.monotonic() - start), **found}
        options.output.mkdir(parents=True, exist_ok=True)
        text = json.dumps(report, indent=2)
        (options.output / f"{name}.json").write_text(text + "\n", "utf-8")
        print(name, text, flush=True)
        broken |= bool(found["problems"])
    return int(options.check and broken)


if __name__ == "__main__":
    sys.exit(main())
