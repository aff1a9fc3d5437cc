"""An evening's chat with a real model: what is written, what is recalled at its end, and how answers fare.

    deltamem pull smollm2
    python benchmarks/evening.py CHATS.jsonl --json benchmarks/results/evening.json

CHATS has real conversations, one JSON object a line with ``turns``, pairs of a speaker and a text, as
Synthetic-Persona-Chat has them. What the first speaker says of one conversation after the other is said to the model,
with single facts between, each told once; the model answers by itself, greedily. Once through ``Session``, once
through a server in a process of its own. At the end each fact is asked for with nothing but the question in the window:
from the memory, from an empty memory, and by the bare model; and once more with the window's text.

How good answers are is told by the loss of what the second speaker really answered, given the same visible text, of
the model with the memory of the evening and of the bare one; and by how the model's own answers look.
"""

import json
import os
import random
import secrets
import subprocess
import sys
import tempfile
import time
from collections import Counter
from collections.abc import Iterator
from contextlib import contextmanager
from itertools import pairwise
from pathlib import Path
from typing import Any

import httpx
import torch

import deltamem
from common import command_line, free_port, keep, machine, tell
from deltamem.chat import encode_chat
from deltamem.demo.real.answers import answer, holds
from deltamem.train.data.told.dialogues import Mix, Question, sample_dialogue

WINDOW = 8


def main() -> int:
    parser = command_line(__doc__)
    parser.add_argument("chats", type=Path, help="real conversations, JSON lines")
    parser.add_argument("--model", default="smollm2")
    parser.add_argument("--adapter", default="", help="a name, a folder or a Hub id; the model's main one by default")
    parser.add_argument("--turns", type=int, default=100)
    parser.add_argument("--facts", type=int, default=8, help="told in the course of the evening")
    parser.add_argument("--longest", type=int, default=32, help="tokens of an answer")
    parser.add_argument("--only", choices=("session", "serve"), help="one of the two ways")
    parser.add_argument("--seed", type=int, default=0)
    options = parser.parse_args()

    evening = Evening(options.chats, options.turns, options.facts, options.seed)
    report: dict[str, Any] = {
        "machine": machine(),
        "window": WINDOW,
        **{name: getattr(options, name) for name in ("model", "adapter", "turns", "facts", "longest", "seed")},
    }
    if options.only != "serve":
        model, tokenizer = deltamem.load_model(options.model, options.adapter)
        report["adapter_fingerprint"] = deltamem.adapter_fingerprint(model)
        report["session"] = through_session(model, tokenizer, evening, options.longest)
        keep(report, options)  # the server's part takes as long again
    if options.only != "session":
        report["serve"] = through_server(options.model, options.adapter, evening, options.longest)
    return tell(report, options)


class Evening:
    """What is said: conversations from a file, and facts between.

    Attributes:
        said: the user's messages.
        answered: what the second speaker really answered to each; ``None`` to a fact.
        questions: for each fact its question, and the turn in which it was told.
    """

    def __init__(self, chats: Path, turns: int, facts: int, seed: int) -> None:
        rng = random.Random(f"evening {seed}")
        rows = [json.loads(line)["turns"] for line in chats.read_text("utf-8").splitlines()]
        rng.shuffle(rows)
        pairs = [
            (said, after) for row in rows for (who, said), (other, after) in pairwise(row) if who == row[0][0] != other
        ]
        told = sample_dialogue(
            rng, Mix(facts=(facts, facts), others=0.0, talk=0.0, together=0.0, answered=0.0), "values"
        )
        tellings = [message["content"] for message in told.messages]
        places = sorted(rng.sample(range(turns), facts))
        self.said: list[str] = []
        self.answered: list[str | None] = []
        self.questions: list[tuple[Question, int]] = []
        for turn in range(turns):
            if turn in places:
                telling = tellings[places.index(turn)]
                question = next(one for one in told.questions if holds(telling, one.value))
                self.questions.append((question, turn))
                self.said.append(telling)
                self.answered.append(None)
            else:
                said, after = pairs.pop()
                self.said.append(said)
                self.answered.append(after)


def through_session(model: Any, tokenizer: Any, evening: Evening, longest: int) -> dict[str, Any]:
    """The evening through one Session; the losses are of the second speaker's real answers."""
    session = deltamem.Session(model, tokenizer, window=WINDOW)
    written, texts, replies, seconds = [], [], [], []
    bare, bare_replies = deltamem.Session(model, tokenizer, window=WINDOW), []  # the same evening without a memory
    losses: dict[str, list[float]] = {"memory": [], "bare": []}
    for turn, (said, after) in enumerate(zip(evening.said, evening.answered, strict=True)):
        if after is not None:
            prompt = [*session.visible, {"role": "user", "content": said}]
            for name, state in (("memory", session.state), ("bare", None)):
                losses[name].append(loss(model, tokenizer, prompt, after, state))
        replies.append(session.reply(said, do_sample=False, max_new_tokens=longest))
        report = session.last_turn
        assert report is not None
        written.append(report.written_tokens)
        texts.append(len(tokenizer(said + replies[-1], add_special_tokens=False)["input_ids"]))
        seconds.append(report.seconds)
        bare_replies.append(bare.ask(said, memory=False, do_sample=False, max_new_tokens=longest))
        exchange = [{"role": "user", "content": said}, {"role": "assistant", "content": bare_replies[-1]}]
        bare.visible = [*bare.visible, *exchange][-WINDOW:]
        print(f"turn {turn + 1}: {said!r} → {replies[-1]!r}", file=sys.stderr, flush=True)
    asked = [[{"role": "user", "content": question.ask}] for question, _ in evening.questions]
    count = len(asked)
    answers = {
        "memory": answer(model, tokenizer, asked, session.state.select([0] * count)),
        "empty": answer(model, tokenizer, asked, deltamem.new_state(model, count)),
        "bare": answer(model, tokenizer, asked),
        "memory_and_window": answer(
            model, tokenizer, [[*session.visible, *one] for one in asked], session.state.select([0] * count)
        ),
        "window": answer(model, tokenizer, [[*session.visible, *one] for one in asked]),
    }
    fifth = max(1, len(losses["bare"]) // 5)
    return {
        "written_tokens": sum(written),
        "text_tokens": sum(texts),
        "written_beyond_text_a_turn": round((sum(written) - sum(texts)) / len(written), 2),
        "state_bytes": session.state.nbytes,
        "seconds_a_turn": round(sum(seconds) / len(seconds), 2),
        "loss": {
            name: [round(sum(part) / len(part), 3) for part in parts(values, fifth)] for name, values in losses.items()
        },
        "answers": shape(replies, longest, tokenizer),
        "bare_answers": shape(bare_replies, longest, tokenizer),
        "recalled": {name: recalled(said, evening) for name, said in answers.items()},
        "asked": asked_rows(evening, answers),
    }


def through_server(model: str, adapter: str, evening: Evening, longest: int) -> dict[str, Any]:
    """The same through a server: the client sends the visible messages, the server keeps the memory."""
    with served(model, adapter) as url, httpx.Client(base_url=url, timeout=600) as http:
        client, visible, seconds, replies = http, [], [], []
        for said in evening.said:
            start = time.monotonic()
            visible = [*visible, {"role": "user", "content": said}][-WINDOW - 1 :]
            reply = complete(client, visible, "evening", longest)
            seconds.append(time.monotonic() - start)
            replies.append(reply)
            visible = [*visible, {"role": "assistant", "content": reply}]
        answers = {"memory": [], "bare": []}
        for question, _ in evening.questions:
            asked = [{"role": "user", "content": question.ask}]
            answers["memory"].append(complete(client, asked, "evening", 24, mode="read_only"))
            answers["bare"].append(complete(client, asked, None, 24))
        info = client.get("/v1/sessions/evening").raise_for_status().json()
    return {
        "session": info,
        "seconds_a_turn": round(sum(seconds) / len(seconds), 2),
        "answers": shape(replies, longest),
        "recalled": {name: recalled(said, evening) for name, said in answers.items()},
        "asked": asked_rows(evening, answers),
    }


def complete(client: httpx.Client, messages: list[Any], session: str | None, longest: int, mode: str = "") -> str:
    """One chat completion, greedy."""
    body: dict[str, Any] = {"model": "any", "messages": messages, "temperature": 0, "max_tokens": longest}
    if session:
        body["memory"] = {"session": session} | ({"mode": mode} if mode else {})
    answered = client.post("/v1/chat/completions", json=body)
    if answered.is_error:
        raise RuntimeError(f"{answered.status_code}: {answered.text}")
    return str(answered.json()["choices"][0]["message"]["content"] or "")


@contextmanager
def served(model: str, adapter: str) -> Iterator[str]:
    """The address of a server in a process of its own, with a store of its own."""
    port = free_port()
    with tempfile.TemporaryDirectory() as folder:
        command = [sys.executable, "-m", "deltamem", "serve", "--model", model, "--adapter", adapter]
        command += ["--port", str(port), "--store", f"sqlite:///{folder}/evening.db"]
        with subprocess.Popen(command, env=os.environ | {"DELTAMEM_STATE_SECRET": secrets.token_hex()}) as process:
            url = f"http://127.0.0.1:{port}"
            try:
                wait(url, process)
                yield url
            finally:
                process.terminate()


def wait(url: str, process: subprocess.Popen[bytes]) -> None:
    """Returns once the server answers."""
    while process.poll() is None:
        try:
            if httpx.get(f"{url}/readyz").status_code == 200:
                return
        except httpx.TransportError:
            time.sleep(0.5)
    raise RuntimeError("The server did not start; it says why above.")


@torch.no_grad()
def loss(model: Any, tokenizer: Any, prompt: list[Any], after: str, state: Any) -> float:
    """Nats a token of an answer given visible messages and a memory; without a memory, of the bare model."""
    before = encode_chat(tokenizer, prompt, add_generation_prompt=True).input_ids
    target = torch.tensor([tokenizer(after, add_special_tokens=False)["input_ids"]])
    ids = torch.cat((before, target), 1)
    if state is None:
        with deltamem.disabled(model):
            logits = model(ids).logits
    else:
        logits = model(ids, memory=deltamem.Step(state, write=False)).logits
    guesses = logits[0, before.shape[1] - 1 : -1].float()
    return float(torch.nn.functional.cross_entropy(guesses, target[0]))


def parts(values: list[float], size: int) -> list[list[float]]:
    return [values[start : start + size] for start in range(0, len(values) - size + 1, size)]


def shape(replies: list[str], longest: int, tokenizer: Any = None) -> dict[str, Any]:
    """How answers look: how many are empty or said before, how varied their pairs of words are."""
    pairs = Counter(pair for reply in replies for pair in pairwise(reply.split()))
    found: dict[str, Any] = {
        "empty": sum(not reply for reply in replies),
        "said_before": len(replies) - len(set(replies)),
        "distinct_pairs": round(len(pairs) / max(1, pairs.total()), 3),
    }
    if tokenizer is not None:
        lengths = [len(tokenizer(reply, add_special_tokens=False)["input_ids"]) for reply in replies]
        found |= {"mean_tokens": round(sum(lengths) / len(lengths), 1), "cut": sum(n >= longest for n in lengths)}
    return found


def recalled(answers: list[str], evening: Evening) -> list[int]:
    """How many answers hold the fact's value, of how many."""
    right = [holds(said, question.value) for said, (question, _) in zip(answers, evening.questions, strict=True)]
    return [sum(right), len(right)]


def asked_rows(evening: Evening, answers: dict[str, list[str]]) -> list[dict[str, Any]]:
    return [
        {"told_at": turn + 1, "ask": question.ask, "value": question.value, **dict(zip(answers, said, strict=True))}
        for (question, turn), said in zip(evening.questions, zip(*answers.values(), strict=True), strict=True)
    ]


if __name__ == "__main__":
    raise SystemExit(main())
