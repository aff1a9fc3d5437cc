"""How much faster one engine serves sessions together than one after another, on the embedded backbone.

    python benchmarks/serve.py --json benchmarks/results/serve.json --check

Each figure is a ratio of tokens a second, together over alone, measured in rounds that take turns; the medians are
reported. ``decode`` generates a fixed number of tokens and writes nothing. ``turns`` are whole turns: an answer of that
length, and the turn written to memory; ``short_turns`` end where the backbone ends them, after three tokens or so.
``http`` and ``http_short`` are the same through a real server, each committed to its store. Greedy tokens together
must equal those alone. ``by_batch`` is ``turns`` for so many sessions at a time.
"""

import os
import statistics
import sys
import tempfile
import threading
import time
from collections.abc import Callable, Sequence
from concurrent.futures import ThreadPoolExecutor
from typing import Any

import httpx
import torch

from common import command_line, machine, tell
from deltamem.chat import encode_chat
from deltamem.demo.adapters import load_demo_adapter
from deltamem.demo.backbone import load_backbone
from deltamem.serve.engine.interface import warm_up
from deltamem.serve.engine.jobs import Piece, Written, results
from deltamem.serve.engine.sampling import Sampling
from deltamem.serve.run import Web
from deltamem.serve.server import Server
from deltamem.serve.settings import EngineLimits, Settings
from deltamem.state import MemoryState
from deltamem.store import SessionStore

FLOOR = 4.0
PLACES = ("Lisbon", "Oslo", "Rome", "Paris")
ASKED = "Where do I live?"


def main() -> int:
    parser = command_line(__doc__, f"exit 1 if decode is below {FLOOR}x or tokens differ")
    parser.add_argument("--sessions", type=int, default=16)
    parser.add_argument("--tokens", type=int, default=64, help="tokens of a decode")
    parser.add_argument("--rounds", type=int, default=3)
    options = parser.parse_args()

    torch.set_num_threads(1)
    report: dict[str, Any] = {
        "sessions": options.sessions,
        "machine": machine(),
    }
    model, tokenizer = load_backbone()
    load_demo_adapter(model, "multi")
    with tempfile.TemporaryDirectory() as folder:
        store = SessionStore.open(f"sqlite:///{folder}/sessions.db")
        settings = Settings(secret=os.urandom(32), max_tokens=32)
        server = Server(model, tokenizer, store, settings, EngineLimits(max_batch=options.sessions))
        warm_up(server.engine)
        bench = Bench(server, tokenizer, options.sessions)
        report["decode"] = bench.compare(lambda i: bench.decode(i, options.tokens), options.rounds)
        report["turns"] = bench.compare(lambda i: bench.turn(i, options.tokens), options.rounds)
        report["by_batch"] = bench.by_batch(options.tokens, options.rounds)
        report["short_turns"] = bench.compare(bench.turn, options.rounds)
        with Serving(server) as url:
            report["http"] = http_turns(url, bench, options.rounds, options.tokens)
            report["http_short"] = http_turns(url, bench, options.rounds)

    decode = report["decode"]
    missed = [f"decode is {decode['ratio']}x, below {FLOOR}x"] if decode["ratio"] < FLOOR else []
    return tell(report, options, missed if decode["tokens_equal"] else [*missed, "tokens differ"])


class Bench:
    """Sessions that each know a place, and the work they are given."""

    def __init__(self, server: Server, tokenizer: Any, sessions: int) -> None:
        self.engine = server.engine
        self.sessions = sessions
        self._tokenizer = tokenizer
        asked = encode_chat(tokenizer, [{"role": "user", "content": ASKED}], add_generation_prompt=True)
        self._prompt: list[int] = asked.input_ids[0].tolist()
        self._states = [
            self._write([{"role": "user", "content": f"I live in {PLACES[i % len(PLACES)]}."}], None)
            for i in range(sessions)
        ]

    def decode(self, session: int, tokens: int) -> list[int]:
        """A fixed number of greedy tokens."""
        return self._generate(session, Sampling(max_tokens=tokens, temperature=0, ignore_end=True))[0]

    def turn(self, session: int, tokens: int | None = None) -> list[int]:
        """An answer, of so many tokens if given, and the turn written."""
        how = Sampling(max_tokens=tokens or 32, temperature=0, ignore_end=tokens is not None)
        made, text = self._generate(session, how)
        turn = [{"role": "user", "content": ASKED}, {"role": "assistant", "content": text}]
        self._write(turn, self._states[session])
        return made

    def compare(self, work: Callable[[int], list[int]], rounds: int) -> dict[str, Any]:
        """Every session's work, one after another and then together."""
        alone, together, equal = [], [], True
        with ThreadPoolExecutor(self.sessions) as pool:
            for _ in range(rounds):
                rate, first = _timed(lambda: [work(i) for i in range(self.sessions)])
                alone.append(rate)
                rate, second = _timed(lambda: list(pool.map(work, range(self.sessions))))
                together.append(rate)
                equal &= first == second
        return _summary(alone, together) | {"tokens_equal": equal}

    def by_batch(self, tokens: int, rounds: int) -> list[dict[str, Any]]:
        """Tokens a second of whole turns, and the CPU time of one, for batches of growing size that take turns."""
        sizes = [size for size in (1, 2, 4, 8, 16, 32) if size <= self.sessions]
        rates: dict[int, list[tuple[float, float]]] = {size: [] for size in sizes}
        with ThreadPoolExecutor(self.sessions) as pool:
            for _ in range(rounds):
                for size in sizes:
                    cpu = time.process_time()
                    rate, _ = _timed(lambda size=size: list(pool.map(self.turn, range(size), [tokens] * size)))
                    rates[size].append((rate, 1000 * (time.process_time() - cpu) / size))
        return [
            {
                "batch": size,
                "tokens_per_second": round(statistics.median(rate for rate, _ in found), 1),
                "cpu_ms_per_turn": round(statistics.median(cpu for _, cpu in found), 1),
                "tokens_per_cpu_second": round(1000 * tokens / statistics.median(cpu for _, cpu in found), 1),
            }
            for size, found in rates.items()
        ]

    def _generate(self, session: int, sampling: Sampling) -> tuple[list[int], str]:
        state = self._states[session]
        events = results(lambda d: self.engine.generate(self._prompt, sampling, d, state=state))
        tokens = [event.chosen.token for event in events if isinstance(event, Piece)]
        return tokens, "".join(event.text for event in events if not isinstance(event, Written))  # type: ignore[union-attr]

    def _write(self, messages: Sequence[dict[str, str]], state: MemoryState | None) -> MemoryState:
        chat = encode_chat(self._tokenizer, messages)
        flags = chat.message >= 0
        (event,) = results(lambda d: self.engine.write(chat.input_ids, chat.segment, flags, d, state=state))
        assert isinstance(event, Written)
        return event.state


class Serving:
    """A server in a thread, for as long as the block lasts."""

    def __init__(self, server: Server) -> None:
        self._web = Web(server, port=0)
        self._thread = threading.Thread(target=self._web.run)

    def __enter__(self) -> str:
        self._thread.start()
        while not self._web.started:
            time.sleep(0.01)
        return f"http://127.0.0.1:{self._web.servers[0].sockets[0].getsockname()[1]}"

    def __exit__(self, *problem: object) -> None:
        self._web.should_exit = True
        self._thread.join()


def http_turns(url: str, bench: Bench, rounds: int, tokens: int | None = None) -> dict[str, Any]:
    """The same turns through HTTP, each answer committed to the store."""
    with httpx.Client(base_url=url, timeout=120, limits=httpx.Limits(max_connections=bench.sessions)) as client:

        def turn(session: int, text: str = ASKED) -> list[int]:
            body: dict[str, Any] = {"messages": [{"role": "user", "content": text}], "temperature": 0}
            if tokens is not None:
                body |= {"max_tokens": tokens, "ignore_eos": True}
            reply = client.post("/v1/chat/completions", json=body, headers={"X-Memory-Session": f"s{session}"})
            reply.raise_for_status()
            return [0] * reply.json()["usage"]["completion_tokens"]

        for session in range(bench.sessions):
            turn(session, f"I live in {PLACES[session % len(PLACES)]}.")
        compared = bench.compare(turn, rounds)
    del compared["tokens_equal"]
    return compared


def _timed(work: Callable[[], list[list[int]]]) -> tuple[float, list[list[int]]]:
    start = time.perf_counter()
    made = work()
    return sum(map(len, made)) / (time.perf_counter() - start), made


def _summary(alone: list[float], together: list[float]) -> dict[str, Any]:
    ratios = [b / a for a, b in zip(alone, together, strict=True)]
    return {
        "alone_tokens_per_second": round(statistics.median(alone), 1),
        "together_tokens_per_second": round(statistics.median(together), 1),
        "ratio": round(statistics.median(ratios), 2),
        "ratios": [round(ratio, 2) for ratio in ratios],
    }


if __name__ == "__main__":
    sys.exit(main())
