"""What long chat does to a memory and to the model's answers, by update rule.

    deltamem pull smollm2
    python benchmarks/long_chat.py CHATS.jsonl --json benchmarks/results/long_chat.json

The same adapter with each rule, as it is and without further training. ``norm``: the mean norm of a layer's matrices.
``answers``: greedy answers to two questions about nothing that was told. Both after up to 12,000 tokens of real chat.
``harm``: the loss of plain chat, and answers with the fact in the window, as ``benchmarks/real_model.py --only harm``
measures them. ``kept``: of dialogues with two facts, percent of the questions that the state alone answers after so
many tokens of other people's chat. CHATS has real conversations that no training had, one a line.
"""

import dataclasses
import random
import sys
import tempfile
from pathlib import Path
from typing import Any

import torch

from common import command_line, keep, machine, tell
from deltamem.chat import Message
from deltamem.formats.adapter import read_adapter, write_adapter
from deltamem.models.loading import find_adapter
from deltamem.train.data.told.chats import Chats, conversations
from deltamem_lab.real.chat import Chat
from deltamem_lab.real.texts import measure_harm
from deltamem_lab.real.told import Told, sampled

PIECE = 250
LENGTHS = (500, 2000, 4000, 8000, 12_000)
KEPT = (0, 250, 750, 2000)
ASKED = ("What is my sister's name?", "When did Caroline go to the support group?")


def with_rule(model: str, adapter: str, rule: str, folder: Path) -> str:
    """A copy of an adapter with another update rule."""
    file = read_adapter(Path(find_adapter(model, adapter)))
    write_adapter(dataclasses.replace(file, config=dataclasses.replace(file.config, update_rule=rule)), folder)
    return str(folder)


def answers(chat: Chat, chats: Chats) -> list[dict[str, Any]]:
    """The states' norm and what the model answers, after more and more chat."""
    rng, state, found = random.Random("long chat"), chat.empty(), []
    prompts: list[list[Message]] = [[{"role": "user", "content": ask}] for ask in ASKED]
    for length in LENGTHS:
        while int(state.tokens[0]) < length:
            piece = [message for exchange in chats.draw(rng, PIECE) for message in exchange.messages]
            state, _ = chat.write_more(state, piece)
        told = chat.answer(prompts, state.repeat_interleave(len(prompts)))
        norm = round(float(state.norms().mean()), 2)
        found.append({"tokens": int(state.tokens[0]), "norm": norm, "answers": told})
    return found


def kept(chat: Chat, chats: Chats, dialogues: int) -> list[dict[str, Any]]:
    """Recall after more and more chat of other people."""
    told = Told(chat, sampled("known", 2, dialogues, answered=1.0, talk=0.0))
    rng, state, since, found = random.Random("kept"), told.write(), 0, []
    for more in KEPT:
        if more:
            piece = [message for exchange in chats.draw(rng, more) for message in exchange.messages]
            state, tokens = chat.write_more(state, piece)
            since += tokens
        found.append({"tokens": since} | told.recall({"state": told.recalled(state)})["state"])
    return found


def main() -> int:
    """Measures each rule."""
    parser = command_line(__doc__)
    parser.add_argument("chats", type=Path, help="real conversations, JSON lines")
    parser.add_argument("--model", default="smollm2")
    parser.add_argument("--adapter", default="multi", help="its name in the package, or a folder")
    parser.add_argument("--rules", nargs="+", default=["no_lambda", "leaky"])
    parser.add_argument("--dialogues", type=int, default=48)
    options = parser.parse_args()
    torch.set_num_threads(1)
    talks = conversations(options.chats)
    report: dict[str, Any] = {"command": " ".join(["python", *sys.argv]), "machine": machine()}
    for rule in options.rules:
        with tempfile.TemporaryDirectory() as folder:
            chat = Chat(options.model, {"memory": with_rule(options.model, options.adapter, rule, Path(folder))})
        chat.use("memory")
        chats = Chats(talks, chat.renderer.count)
        report[rule] = {"long": answers(chat, chats)}
        keep(report, options)
        report[rule]["harm"] = measure_harm(chat, talks, options.dialogues)
        keep(report, options)
        report[rule]["kept"] = kept(chat, chats, options.dialogues)
        keep(report, options)
    return tell(report, options)


if __name__ == "__main__":
    sys.exit(main())
