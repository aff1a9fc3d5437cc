"""A storm of malformed input, on the embedded backbone: requests, and files of memories and adapters.

    python benchmarks/fuzz.py --cases 10000 --json - --check

Requests that are broken in every way that is known here go to a server with its encryption on, several at a time, most
of them straight to the application, one in twenty through a socket. Any answer but one of 500 will do. Changed files of
memories and adapters, three for each request, go to their readers, half of the memories with a checksum that fits. A
file may be read or refused by the reader's own error; any other error is a failure, and so is a class that ``pickle``
is made to look up.
"""

import asyncio
import base64
import collections
import copy
import hashlib
import json
import math
import random
import sys
import tempfile
import threading
import time
import urllib.parse
from collections.abc import Callable, Iterator
from contextlib import contextmanager
from pathlib import Path
from typing import Any

import httpx
import torch
import uvicorn
from safetensors.torch import load, save

from common import command_line, machine, tell
from deltamem import AdapterFileError, StateFileError, observe, save_adapter
from deltamem.demo.adapters import load_demo_adapter
from deltamem.demo.backbone import load_backbone
from deltamem.formats.hub import adapter_file, read_adapter_from
from deltamem.formats.release import write_release
from deltamem.formats.state import StateCodec
from deltamem.serve.app import create_app
from deltamem.serve.server import Server
from deltamem.serve.settings import Settings
from deltamem.store import SessionStore, StateKeys

# What a server may answer with besides success and refusals: it is full, late or leaving.
MEANT = (503, 504)
BATCH = 240  # cases between two looks at the clock
REQUESTS = 4  # one case in so many is a request, which takes ten times as long as a file
SOCKET = 20  # one request in so many goes through a socket
AT_ONCE = 8


def main() -> int:
    parser = command_line(__doc__, "exit 1 if something failed")
    parser.add_argument("--cases", type=int, default=10_000)
    parser.add_argument("--seed", type=int, default=0)
    options = parser.parse_args()
    torch.set_num_threads(1)
    report = {"machine": machine()} | measure(options.cases, seed=options.seed)
    return tell(report, options, report["problems"])


def measure(cases: int, *, seed: int = 0, until: float = math.inf) -> dict[str, Any]:
    """Broken requests, and three times as many changed files.

    Args:
        cases: how many of both together, at most.
        seed: another one, other cases.
        until: a time of ``time.monotonic``, after which it ends.
    """
    rng = random.Random(f"fuzz/{seed}")
    statuses: collections.Counter[int] = collections.Counter()
    files: collections.Counter[str] = collections.Counter()
    problems: list[str] = []
    done = 0
    with Readers(rng) as readers, served() as client, looked_up(readers) as classes:
        state = client.socket.get("/v1/sessions/ravi/export").json()["state"]
        while done < cases and time.monotonic() < until:
            count = min(BATCH, cases - done)
            memory = client.remember()
            sent = [broken_request(rng, state, memory) for _ in range(count // REQUESTS - 1)]
            sent.append(readers.an_import())
            for request, (status, said) in zip(sent, client.answers(sent), strict=True):
                statuses[status] += 1
                if status >= 500 and status not in MEANT:
                    problems.append(f"{status} {said[:200]} to {str(request)[:500]}")
            for _ in range(count - len(sent)):
                kind, outcome = readers.read()
                word = outcome if outcome in ("read", "refused") else "failed"
                files[f"{kind} {word}"] += 1
                if word == "failed":
                    problems.append(f"{kind}: {outcome}")
            done += count
        alive = client.socket.get("/readyz").status_code
    if alive != 200:
        problems.append(f"afterwards /readyz answered {alive}")
    return {
        "cases": done,
        "requests_by_status": {str(status): statuses[status] for status in sorted(statuses)},
        "files": dict(sorted(files.items())),
        "classes_looked_up_by_pickle": len(classes),
        "problems": problems[:50] + [f"pickle looked up {name}" for name in sorted(set(classes))],
    }


@contextmanager
def looked_up(readers: "Readers") -> Iterator[list[str]]:
    """What ``pickle`` looks up while files are read in this thread; numba keeps what it compiled as pickles."""
    found: list[str] = []
    reader = threading.get_ident()

    def watch(event: str, given: tuple[object, ...]) -> None:
        if readers.reading and event == "pickle.find_class" and threading.get_ident() == reader:
            found.append(str(given))

    sys.addaudithook(watch)  # cannot be taken back
    yield found


Sent = tuple[str, str, dict[str, bytes], bytes]


class Client:
    """A way to a server through a socket, and one straight to its application.

    Attributes:
        socket: the first.
    """

    def __init__(self, application: Any, loop: asyncio.AbstractEventLoop, url: str) -> None:
        self._application, self._loop = application, loop
        self.socket = httpx.Client(base_url=url, timeout=120)

    def remember(self) -> str:
        """The id of a new memory."""
        told = {"messages": "I live in Rome.", "user_id": "ravi"}
        return str(self.socket.post("/v1/memories", json=told).raise_for_status().json()["results"][0]["id"])

    def answers(self, requests: list[Sent]) -> list[tuple[int, str]]:
        """Statuses and texts, some through the socket; status 0 is what httpx will not send."""
        found: list[tuple[int, str]] = [(0, "")] * len(requests)
        straight = [place for place in range(len(requests)) if place % SOCKET]

        async def ask(lane: list[int]) -> None:
            for place in lane:
                found[place] = await self._ask(requests[place])

        async def ask_all() -> None:
            await asyncio.gather(*(ask(straight[lane::AT_ONCE]) for lane in range(AT_ONCE)))

        waiting = asyncio.run_coroutine_threadsafe(ask_all(), self._loop)
        for place in range(0, len(requests), SOCKET):
            found[place] = self._through(requests[place])
        waiting.result(600)
        return found

    def _through(self, request: Sent) -> tuple[int, str]:
        method, path, headers, body = request
        try:
            reply = self.socket.request(method, path, headers=headers, content=body or None)
        except (httpx.InvalidURL, httpx.LocalProtocolError):
            return 0, ""
        return reply.status_code, reply.text

    async def _ask(self, request: Sent) -> tuple[int, str]:
        method, path, headers, body = request
        target, _, query = path.partition("?")
        scope = {
            "type": "http",
            "asgi": {"version": "3.0", "spec_version": "2.3"},
            "http_version": "1.1",
            "method": method,
            "scheme": "http",
            "path": urllib.parse.unquote(target),
            "raw_path": target.encode(),
            "query_string": query.encode(),
            "root_path": "",
            "headers": [(b"host", b"127.0.0.1"), *((name.lower().encode(), value) for name, value in headers.items())],
            "client": ("127.0.0.1", 1),
            "server": ("127.0.0.1", 80),
        }
        unread = [{"type": "http.request", "body": body, "more_body": False}]
        said: list[dict[str, Any]] = []

        async def receive() -> dict[str, Any]:
            if unread:
                return unread.pop()
            await asyncio.Event().wait()  # the client stays
            raise AssertionError

        async def send(message: dict[str, Any]) -> None:
            said.append(message)

        try:
            await self._application(scope, receive, send)
        except Exception as error:  # uvicorn answers 500 then, or breaks off
            return 500, repr(error)
        return said[0]["status"], b"".join(message.get("body", b"") for message in said[1:]).decode("utf-8", "replace")


@contextmanager
def served() -> Iterator[Client]:
    """A server with encryption and a session that has a turn."""
    model, tokenizer = load_backbone()
    load_demo_adapter(model, "multi")
    with tempfile.TemporaryDirectory() as folder:
        keys = StateKeys.from_text(StateKeys.generate("only"))
        store = SessionStore.open(f"sqlite:///{folder}/sessions.db", keys=keys, keep_messages=True, keep_versions=3)
        settings = Settings(secret=b"for one hour only", max_tokens=2, max_body=2**20)
        application = create_app(Server(model, tokenizer, store, settings))
        web = uvicorn.Server(uvicorn.Config(application, port=0, log_level="critical", access_log=False))
        loop = asyncio.new_event_loop()
        thread = threading.Thread(target=lambda: loop.run_until_complete(web.serve()))
        thread.start()
        while not web.started:
            time.sleep(0.01)
        try:
            client = Client(application, loop, f"http://127.0.0.1:{web.servers[0].sockets[0].getsockname()[1]}")
            with client.socket as http:
                http.post("/v1/chat/completions", json=TURN | {"memory": {"session": "ravi"}}).raise_for_status()
                yield client
        finally:
            web.should_exit = True
            thread.join()
            loop.close()


TURN: dict[str, Any] = {"messages": [{"role": "user", "content": "I live in Lisbon."}], "max_tokens": 2}
_TOOL = {"type": "function", "function": {"name": "look", "parameters": {"type": "object", "properties": {}}}}
_CALL = {"id": "c1", "type": "function", "function": {"name": "look", "arguments": '{"a": 1}'}}
# Requests that are right, by method, path and body.
RIGHT: list[tuple[str, str, Any]] = [
    ("POST", "/v1/chat/completions", TURN | {"memory": {"session": "ravi"}, "temperature": 0.5, "seed": 1}),
    ("POST", "/v1/chat/completions", TURN | {"stream": True, "stop": ["."], "top_p": 0.9, "logprobs": True}),
    ("POST", "/v1/chat/completions", TURN | {"memory": {"state": "STATE", "return_state": True}}),
    ("POST", "/v1/chat/completions", TURN | {"response_format": {"type": "json_schema", "json_schema": {
        "name": "a", "schema": {"type": "object", "properties": {"a": {"enum": ["b", 1]}}, "required": ["a"]}}}}),
    ("POST", "/v1/chat/completions", {"max_tokens": 1, "tools": [_TOOL], "tool_choice": "auto", "messages": [
        {"role": "user", "content": [{"type": "text", "text": "Look!"}]},
        {"role": "assistant", "content": None, "tool_calls": [_CALL]},
        {"role": "tool", "tool_call_id": "c1", "content": "7"}, {"role": "user", "content": "And?"}]}),
    ("POST", "/v1/completions", {"prompt": "I live in", "max_tokens": 2}),
    ("POST", "/v1/responses", {"input": "Hi.", "max_output_tokens": 1, "store": False, "instructions": "Be kind."}),
    ("POST", "/v1/responses", {"input": [{"role": "user", "content": "Hi."}], "max_output_tokens": 1,
                               "conversation": "ravi", "stream": True}),
    ("POST", "/v1/sessions", {"session": "mina", "label": "Mina", "metadata": {"a": "b"}}),
    ("GET", "/v1/sessions?limit=5&search=ravi", None),
    ("GET", "/v1/sessions?after=STATE", None),
    ("GET", "/v1/sessions/ravi", None),
    ("PATCH", "/v1/sessions/ravi", {"label": "Ravi"}),
    ("GET", "/v1/sessions/ravi/timeline?limit=2", None),
    ("GET", "/v1/sessions/ravi/messages?limit=2", None),
    ("GET", "/v1/sessions/ravi/memory", None),
    ("GET", "/v1/sessions/ravi/export", None),
    ("POST", "/v1/sessions/ravi/observe", {"text": "My dog is Rex.", "role": "user"}),
    ("POST", "/v1/sessions/ravi/fork", {"session": "fork"}),
    ("POST", "/v1/sessions/ravi/rollback", {"turns": 1}),
    ("POST", "/v1/sessions/ravi/freeze", {"frozen": False}),
    ("POST", "/v1/sessions/ravi/strengths", {"version": 2}),
    ("POST", "/v1/sessions/ravi/sources", {"version": 2, "past": [{"version": 2}]}),
    ("POST", "/v1/sessions/ravi/recall", {"questions": ["Where do I live?"], "threshold": 0.5}),
    ("POST", "/v1/sessions/ravi/forget", {"versions": [2]}),
    ("POST", "/v1/sessions/other/import", {"state": "STATE"}),
    ("POST", "/v1/chat/completions", TURN | {"memory": {"session": "other"}, "temperature": 0}),
    ("GET", "/v1/sessions/other/memory", None),
    ("DELETE", "/v1/sessions/fork", None),
    ("POST", "/v1/messages", TURN | {"system": "Be kind.", "memory": {"session": "ravi"}, "stop_sequences": ["."]}),
    ("POST", "/v1/messages/count_tokens", {"messages": [{"role": "user", "content": [{"type": "text", "text": "Hi."}]}],
                                           "tools": [{"name": "look", "input_schema": {"type": "object"}}]}),
    ("POST", "/v1/embeddings", {"input": ["Hi.", "I live in Lisbon."], "encoding_format": "base64"}),
    ("POST", "/v1/memories", {"messages": "I live in Rome.", "user_id": "ravi", "metadata": {"a": 1}}),
    ("POST", "/v1/memories", {"messages": [{"role": "user", "content": "I sing."}], "agent_id": "a", "run_id": "r"}),
    ("POST", "/v1/memories/search", {"query": "Where do I live?", "user_id": "ravi", "limit": 2, "ask": False}),
    ("GET", "/v1/memories?user_id=ravi&limit=2", None),
    ("DELETE", "/v1/memories?user_id=ravi", None),
    ("GET", "/v1/memories/MEMORY", None),
    ("PUT", "/v1/memories/MEMORY", {"text": "I live in Oslo.", "metadata": {"b": True}}),
    ("GET", "/v1/memories/MEMORY/history", None),
    ("GET", "/v1/audit?session=ravi&since=2026-01-01&limit=2", None),
    ("GET", "/v1/users/ravi/export", None),
    ("DELETE", "/v1/users/mina", None),
    ("GET", "/v1/tenants/default/export", None),
    ("GET", "/v1/models", None),
    ("GET", "/v1/models/deltamem", None),
    ("GET", "/metrics", None),
]  # fmt: skip
# How often each is drawn: what runs the model less, so that most cases are about what is told before it runs. A recall
# without questions asks many of its own.
WEIGHTS = {"recall": 1, "forget": 1, "completions": 4, "responses": 4, "messages": 4, "observe": 4, "memories": 4}
ODD: list[Any] = [
    None, True, 0, -1, 2**31, 2**63, 2**70, 1e308, -0.0, 0.1, "", " ", "x" * 5000, "\ud800", "\x00", "😀", "../..",
    "ravi", [], {}, [[]], [None], {"": None}, [[[[[[[[]]]]]]]], {"role": "user", "content": "\ud83d"}, "STATE", "1e999",
    "DEEP", "DEEPTEXT", float("nan"), float("inf"), {"$ref": "#"}, {"type": "object"}, 10**400,
]  # fmt: skip
HEADERS: list[tuple[str, bytes]] = [
    ("X-Memory-Session", b"\xff"),
    ("X-Memory-Session", b"a/b"),
    ("X-Request-Timeout", b"-1"),
    ("Authorization", b"Bearer \xc3\x28"),
    ("Content-Type", b"text/plain"),
    ("Content-Type", b"application/octet-stream"),
    ("Content-Encoding", b"gzip"),
    ("Accept", b"\x00"),
    ("Host", b"elsewhere.example"),
    ("Origin", b"null"),
]
QUERIES = [
    "/", "?limit=-1", "?limit=x", "?version=99", "%00", "/../..", "?before=1e9", "?after=CURSOR", "%ff", "?role=x",
]  # fmt: skip


def broken_request(rng: random.Random, state: str, memory: str) -> Sent:
    """A request of :data:`RIGHT`, most often with changes: a value, a key, the path, a header, or bytes."""
    method, path, body = rng.choices(RIGHT, [WEIGHTS.get(right[1].rpartition("/")[2], 12) for right in RIGHT])[0]
    body = copy.deepcopy(body)
    headers: dict[str, bytes] = {"Content-Type": b"application/json"}
    for _ in range(rng.choice((0, 1, 1, 1, 2, 2, 3, 3))):
        way = rng.randrange(12)
        if way < 7 and body is not None:
            body = changed_value(rng, body)
        elif way < 9:
            path += rng.choice(QUERIES)
        elif way < 11:
            name, value = rng.choice(HEADERS)
            headers[name] = value
        else:
            method = rng.choice(("GET", "POST", "PUT", "PATCH", "DELETE"))
    path = path.replace("CURSOR", base64.urlsafe_b64encode(nested(rng).encode()).decode())
    path = path.replace("STATE", state[:50]).replace("MEMORY", memory)
    if body is None:
        return method, path, headers, b""
    content = deepened(rng, json.dumps(body))
    data = content.replace("STATE", changed_text(rng, state) if rng.random() < 0.5 else state).encode()
    return method, path, headers, changed_bytes(rng, data) if rng.random() < 0.1 else data


def nested(rng: random.Random) -> str:
    """JSON as deep as readers can go, or deeper."""
    depth = rng.choice((1, 60, 200, 20_000, rng.randrange(300, 1100)))
    before, after = rng.choice((("[", "]"), ('{"a":', "}")))
    return before * depth + "1" + after * depth


def deepened(rng: random.Random, text: str) -> str:
    """JSON with its deep parts, as values and as texts of JSON."""
    within = json.dumps(nested(rng))[1:-1]
    return text.replace("DEEPTEXT", within).replace('"DEEP"', nested(rng))


def changed_value(rng: random.Random, value: Any) -> Any:
    """The value with one part of it, at any depth, replaced, removed or named otherwise."""
    if not value or not isinstance(value, dict | list) or rng.random() < 0.15:
        return copy.deepcopy(rng.choice(ODD))  # a copy of its own: what comes of it may be changed again
    places: list[Any] = list(value) if isinstance(value, dict) else list(range(len(value)))
    place, way = rng.choice(places), rng.randrange(5)
    if way == 0:
        del value[place]
    elif way == 1 and isinstance(value, dict):
        value[rng.choice(["store", "user", "memory", "n", "x", ""])] = copy.deepcopy(rng.choice(ODD))
    elif way == 2 and isinstance(value, list):
        value.append(copy.deepcopy(rng.choice(ODD)))
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


class Readers:
    """What reads memories and adapters, a memory, and an adapter's folder in either format.

    Attributes:
        reading: whether something is read just now.
    """

    reading = False

    def __init__(self, rng: random.Random) -> None:
        self._rng = rng
        model, tokenizer = load_backbone()
        load_demo_adapter(model, "multi")
        self._codec = StateCodec(model)
        self._state = self._codec.pack(observe(model, tokenizer("I live in Lisbon.", return_tensors="pt").input_ids))
        self._place = tempfile.TemporaryDirectory()
        ours, theirs = Path(self._place.name, "ours"), Path(self._place.name, "theirs")
        save_adapter(model, ours)
        write_release(adapter_file(model), theirs)
        self._folders = {folder: {f: f.read_bytes() for f in folder.iterdir()} for folder in (ours, theirs)}

    def __enter__(self) -> "Readers":
        return self

    def __exit__(self, *problem: object) -> None:
        self._place.cleanup()

    def an_import(self) -> Sent:
        """A request that puts a changed memory in the place of a session's."""
        kind = {"Content-Type": b"application/octet-stream"}
        return "POST", "/v1/sessions/other/import", kind, resealed(self._rng, self._state)

    def read(self) -> tuple[str, str]:
        """What was read, and how that went: ``read``, ``refused`` or the error that it should not have been."""
        self.reading = True
        try:
            return self._read()
        finally:
            self.reading = False

    def _read(self) -> tuple[str, str]:
        rng = self._rng
        if rng.random() < 0.4:
            data = changed_bytes(rng, self._state)
            return "state", _outcome(lambda: self._codec.unpack(data))
        if rng.random() < 0.6:
            data = resealed(rng, self._state)
            return "state with a checksum that fits", _outcome(lambda: self._codec.unpack(data))
        folder, files = rng.choice(list(self._folders.items()))
        file = rng.choice([path for path in files if path.suffix not in (".md",)])
        data = files[file]
        if file.suffix == ".json" and rng.random() < 0.7:
            told = changed_value(rng, json.loads(data))
            data = deepened(rng, json.dumps(told)).encode()
        else:
            data = changed_bytes(rng, data)
        file.write_bytes(data)
        try:
            return f"adapter {file.name}", _outcome(lambda: read_adapter_from(folder))
        finally:
            file.write_bytes(files[file])


def resealed(rng: random.Random, state: bytes) -> bytes:
    """A memory that says something else or has other tensors, with the checksum of what it is now."""
    header = json.loads(state[8 : 8 + int.from_bytes(state[:8], "little")])
    told, tensors = json.loads(header["__metadata__"]["deltamem"]), load(state)
    del told["sha256"]
    if rng.random() < 0.5:
        told = changed_value(rng, told)
    else:
        name = rng.choice(sorted(tensors))
        tensor, way = tensors.pop(name), rng.randrange(7)
        if way == 0:
            tensors[rng.choice(("", "open.count", "open.sum", "x", "tokens"))] = tensor
        elif way == 1:
            tensors[name] = tensor.to(rng.choice((torch.float64, torch.int8, torch.bool, torch.bfloat16, torch.int64)))
        elif way == 2:
            tensors[name] = tensor.flatten()[: rng.randrange(tensor.numel() + 1)].clone()
        elif way == 3:
            tensors[name] = tensor.unsqueeze(rng.randrange(tensor.dim() + 1))
        elif way == 4:
            tensors[name] = torch.full_like(tensor, rng.choice((-1, 100)))
        elif way == 5:
            tensors[name] = tensor.to(torch.float64).fill_(rng.choice((math.nan, math.inf, 1e300))).to(tensor.dtype)
        elif way == 6:
            tensors[name] = torch.cat([tensor, tensor])
    if isinstance(told, dict):
        digest = hashlib.sha256(json.dumps(told, sort_keys=True).encode())
        for name, tensor in sorted(tensors.items()):
            digest.update(f"\n{name} {tensor.dtype} {list(tensor.shape)}\n".encode())
            digest.update(tensor.contiguous().flatten().view(torch.uint8).numpy().data)
        told["sha256"] = digest.hexdigest()
    return save(tensors, {"deltamem": deepened(rng, json.dumps(told, sort_keys=True))})


def _outcome(read: Callable[[], object]) -> str:
    try:
        read()
    except (StateFileError, AdapterFileError):
        return "refused"
    except Exception as error:
        return f"{type(error).__name__}: {error}"[:300]
    return "read"


if __name__ == "__main__":
    sys.exit(main())
