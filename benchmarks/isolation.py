"""Whether sessions that are served together learn anything of one another, on the embedded backbone.

    python benchmarks/isolation.py --json benchmarks/results/isolation.json --check

Every session belongs to one of several tenants, each with an API key, and is told a canary: a fact that no other
session has. Then all hold their dialogues at once through a real HTTP server: small talk, and questions about the
canary. Afterwards every session holds the same dialogue by itself. Each answer must be the same, token for token;
every version of every state is compared with the one that the session reaches by itself. Names of sessions are the
same for all tenants, so that a query which forgot its tenant would find another's session.
"""

import json
import math
import os
import random
import sys
import tempfile
import time
from collections.abc import Callable, Iterable, Iterator
from concurrent.futures import ThreadPoolExecutor
from contextlib import contextmanager
from dataclasses import dataclass
from typing import Any

import httpx
import torch

from common import command_line, machine, tell
from deltamem.demo.adapters import load_demo_adapter
from deltamem.demo.backbone import load_backbone
from deltamem.demo.lexicon import lexicon
from deltamem.demo.world import chat
from deltamem.serve.engine.engine import Engine
from deltamem.serve.engine.interface import MakeEngine
from deltamem.serve.server import Server
from deltamem.serve.settings import EngineLimits, Settings
from deltamem.store import ApiKeys, SessionStore
from serve import Serving

TOLERANCE = 1e-4
# Attributes with a way to tell and to ask each; a session's canary is one value of one of them.
KINDS = {
    "codeword": ("My secret word is {}.", "What is my secret word?"),
    "pet_name": ("My pet is called {}.", "What is my pet called?"),
    "city": ("I live in {}.", "Where do I live?"),
}
ASK_EVERY = 4


def main() -> int:
    parser = command_line(__doc__, "exit 1 if anything of a session is found in another")
    parser.add_argument("--sessions", type=int, default=64)
    parser.add_argument("--tenants", type=int, default=8)
    parser.add_argument("--turns", type=int, default=2000, help="turns of all sessions together")
    parser.add_argument("--engine", choices=("own", "vllm"), default="own", help="what runs the model, for all at once")
    options = parser.parse_args()

    torch.set_num_threads(1)
    report = {"machine": machine()} | measure(options.sessions, options.tenants, options.turns, engine=options.engine)
    return tell(report, options, [] if isolated(report) else ["something of a session is found in another"])


def isolated(report: dict[str, Any]) -> bool:
    """Whether no session learned anything of another.

    A model that has forgotten its canary may name another word, which may be another session's canary. If it says the
    same when it is served by itself, nothing was learned, so ``answers_with_anothers_canary`` is not asked for.
    """
    return (
        report["answers_unlike_alone"] == 0
        and report["foreign_sessions_listed"] == 0
        and report["state_difference_from_alone"] <= TOLERANCE
        and report["state_difference_from_nearest_other"] > 100 * TOLERANCE
    )


@dataclass(frozen=True)
class Speaker:
    """A session, its canary, and what it says."""

    tenant: str
    session: str
    canary: str
    script: tuple[str, ...]
    ask: str


def measure(
    sessions: int,
    tenants: int,
    turns: int,
    seed: int = 0,
    engine: str = "own",
    rounds: int = 1,
    until: float = math.inf,
) -> dict[str, Any]:
    """Holds all dialogues together and then one by one, and compares.

    Each session by itself is served by the own engine, whatever serves all at once.

    Args:
        sessions: how many hold a dialogue.
        tenants: to whom they belong.
        turns: of all sessions in one round.
        seed: another one, other dialogues.
        engine: what runs the model for all at once.
        rounds: how often all hold their dialogues together, each time on an empty store and in other batches.
        until: a time of ``time.monotonic``, after which no further round begins.
    """
    speakers = cast(sessions, tenants, turns, seed)
    together: list[list[str]] = []
    states: list[list[torch.Tensor]] = []
    foreign = held = 0
    seconds = 0.0
    with tempfile.TemporaryDirectory() as folder:
        while held < rounds and (not held or time.monotonic() < until):
            start = time.perf_counter()
            with served(folder, f"together{held}", sessions, speakers, engine) as (server, say):
                with ThreadPoolExecutor(sessions) as pool:
                    together += pool.map(lambda speaker, say=say: hold(speaker, say), speakers)
                seconds += time.perf_counter() - start
                states += [versions(server, speaker) for speaker in speakers]
                foreign += sum(foreigners(server, speakers, speaker) for speaker in speakers)
            held += 1
        with served(folder, "alone", sessions, speakers) as (server, say):
            alone = [hold(speaker, say) for speaker in speakers] * held
            own = [versions(server, speaker) for speaker in speakers] * held
    talking = speakers * held
    canaries = {speaker.canary for speaker in speakers}
    asked = [
        (speaker, answer)
        for speaker, answers in zip(talking, together, strict=True)
        for said, answer in zip(speaker.script, answers, strict=True)
        if said == speaker.ask
    ]
    pairs = [pair for mine, theirs in zip(states, own, strict=True) for pair in zip(mine, theirs, strict=True)]
    last = [[found[-1] for found in states[at : at + sessions]] for at in range(0, len(states), sessions)]
    return {
        "engine": engine,
        "sessions": sessions,
        "tenants": tenants,
        "turns": sum(map(len, together)),
        "seconds": round(seconds, 1),
        "answers_unlike_alone": sum(a != b for a, b in zip(flat(together), flat(alone), strict=True)),
        "answers_with_anothers_canary": sum(
            any(other in answer for other in canaries - {speaker.canary})
            for speaker, answers in zip(talking, together, strict=True)
            for answer in answers
        ),
        "canaries_asked_for": len(asked),
        "canaries_recalled": sum(speaker.canary in answer for speaker, answer in asked),
        "foreign_sessions_listed": foreign,
        "states_compared": len(pairs),
        "states_equal_bit_for_bit": sum(torch.equal(a, b) for a, b in pairs),
        "state_difference_from_alone": max(float((a - b).abs().max()) for a, b in pairs),
        "state_difference_from_nearest_other": min(
            float((a - b).abs().max()) for ended in last for i, a in enumerate(ended) for b in ended[:i]
        ),
    }


def cast(sessions: int, tenants: int, turns: int, seed: int = 0) -> list[Speaker]:
    """The sessions and what each of them says, the first thing being its canary."""
    # What small talk may mention anyway would be no sign of anything.
    idle = json.dumps([lexicon().small_talk, lexicon().slots, lexicon().acks]).lower()
    secrets = [(k, v) for k in KINDS for v in lexicon().attributes[k].values if v.lower() not in idle]
    if sessions > len(secrets):
        raise ValueError(f"There are {len(secrets)} different canaries, not {sessions}.")
    rng = random.Random(f"isolation/{seed}" if seed else "isolation")
    speakers = []
    for number, (kind, value) in enumerate(rng.sample(secrets, sessions)):
        tell, ask = KINDS[kind]
        length = turns // sessions + (number < turns % sessions)
        script = [tell.format(value)]
        for turn in range(1, length):
            script.append(ask if turn % ASK_EVERY == 0 or turn == length - 1 else chat(rng, 1)[0].text)
        tenant, session = f"tenant{number % tenants}", f"session{number // tenants}"
        speakers.append(Speaker(tenant, session, value, tuple(script), ask))
    return speakers


Say = Callable[[Speaker, str], str]


@contextmanager
def served(
    folder: str, name: str, rows: int, speakers: Iterable[Speaker], engine: str = "own"
) -> Iterator[tuple[Server, Say]]:
    """A server with a key for every tenant, and how to say something to it."""
    make: MakeEngine = Engine
    if engine == "vllm":
        from deltamem.vllm.engine import open_hollow, vllm_engine

        os.environ.setdefault("VLLM_CPU_KVCACHE_SPACE", "1")
        model, tokenizer = open_hollow("embedded", "multi")
        make = vllm_engine("embedded", "multi")
    else:
        model, tokenizer = load_backbone()
        load_demo_adapter(model, "multi")
    store = SessionStore.open(f"sqlite:///{folder}/{name}.db", keep_versions=None)
    keys = {tenant: ApiKeys(store).create(tenant).secret for tenant in {speaker.tenant for speaker in speakers}}
    settings = Settings(secret=os.urandom(32), max_tokens=24, require_keys=True)
    server = Server(model, tokenizer, store, settings, EngineLimits(max_batch=16, queue=rows), make)
    with Serving(server) as url, httpx.Client(base_url=url, timeout=300, limits=httpx.Limits()) as client:

        def say(speaker: Speaker, text: str) -> str:
            body = {"messages": [{"role": "user", "content": text}], "temperature": 0}
            headers = {"X-Memory-Session": speaker.session, "Authorization": f"Bearer {keys[speaker.tenant]}"}
            reply = client.post("/v1/chat/completions", json=body, headers=headers)
            reply.raise_for_status()
            return str(reply.json()["choices"][0]["message"]["content"])

        yield server, say


def hold(speaker: Speaker, say: Say) -> list[str]:
    """The answers to all that a speaker says."""
    return [say(speaker, text) for text in speaker.script]


def versions(server: Server, speaker: Speaker) -> list[torch.Tensor]:
    """Every version of a session's state, as one tensor each, oldest first."""
    head = server.store.get(speaker.tenant, speaker.session).head
    found = []
    for number in range(1, head + 1):
        state = server.states.unpack(server.store.load(speaker.tenant, speaker.session, number).state)
        found.append(torch.cat([matrices.flatten() for matrices in state.states]))
    return found


def foreigners(server: Server, speakers: list[Speaker], speaker: Speaker) -> int:
    """How many sessions its tenant sees that are not its own."""
    own = {other.session for other in speakers if other.tenant == speaker.tenant}
    listed = [record.session for record in server.store.list(speaker.tenant, limit=1000).sessions]
    return len(set(listed) ^ own)


def flat(answers: Iterable[list[str]]) -> list[str]:
    return [answer for given in answers for answer in given]


if __name__ == "__main__":
    sys.exit(main())
