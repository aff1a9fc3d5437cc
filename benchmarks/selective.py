"""What a memory keeps when only those messages are written that its own write gates call worth writing.

    deltamem pull smollm2
    python benchmarks/selective.py CHATS.jsonl --json benchmarks/results/selective.json

A message's worth is the mean write gate of its tokens in the upper half of the layers, read from an empty memory. It is
chosen if it is worth as much as all but a twentieth of the messages that tell a fact in the wordings of the training.
``worth`` says how well that tells such messages, in wordings that no training had, from users' messages of real chat.
The other parts compare a memory of ``all`` messages with one of the ``chosen``, as ``benchmarks/real_model.py`` does:
``chat``, four facts told in the course of 4,000 tokens of real chat, with ``telling`` for a memory of nothing but
the messages that tell one, and other dialogues' memories as the control; ``forgetting``; ``harm``. CHATS has real
conversations that no training had, one a line.
"""

import random
import sys
from collections.abc import Sequence
from functools import cache
from pathlib import Path
from typing import Any

import numpy as np
import torch

from common import command_line, keep, machine, tell
from deltamem.attach import attached
from deltamem.chat import Message
from deltamem.state import MemoryState
from deltamem.step import Step
from deltamem.train.data.told.chats import Chats, conversations
from deltamem.train.data.told.dialogues import Mix, Split, sample_dialogue
from deltamem_lab.real.chat import Chat
from deltamem_lab.real.texts import measure_harm
from deltamem_lab.real.told import Told, holds, in_chat, measure_forgetting

MISSED = 0.05  # of the training's messages with a fact, the share that is not worth writing
SAMPLES = 150
LISTENED = 400  # users' messages of real chat


class SelectiveChat(Chat):
    """A chat model that writes a message only if it is worth ``threshold``; 0 writes everything.

    Attributes:
        added: of how many messages how many were written, each time that memories read more.
    """

    threshold = 0.0

    def __init__(self, model: str, adapters: dict[str, str]) -> None:
        super().__init__(model, adapters)
        self.added: list[tuple[int, int]] = []

    @cache  # noqa: B019 - one object lives as long as the process
    def worth(self, role: str, text: str) -> float:
        """The mean write gate of a message's tokens in the upper half of the layers."""
        gates: dict[int, torch.Tensor] = {}
        ids = self.tokens_of([{"role": role, "content": text}])[None]
        with torch.no_grad():
            attached(self.model).base(ids, use_cache=False, memory=Step(self.empty(), gates=gates))
        upper = sorted(gates)[len(gates) // 2 :]
        return float(torch.stack([gates[layer].float().mean() for layer in upper]).mean())

    def chosen(self, messages: Sequence[Message]) -> list[Message]:
        """The messages that are worth writing."""
        return [one for one in messages if self.worth(one["role"], one["content"]) >= self.threshold]

    def write(self, histories: Sequence[Sequence[Message]]) -> MemoryState:
        """The memory of the chosen messages of each history."""
        return super().write([self.chosen(messages) for messages in histories])

    def write_more(self, state: MemoryState, messages: Sequence[Message]) -> tuple[MemoryState, int]:
        """The memories after the chosen ones of these messages, and how many tokens all of them have."""
        chosen, read = self.chosen(messages), sum(map(self.renderer.count, messages))
        self.added.append((len(messages), len(chosen)))
        return (super().write_more(state, chosen)[0] if chosen else state), read


def tellings(split: Split) -> list[str]:
    """Messages that tell a fact."""
    rng, found = random.Random(f"tellings {split}"), []
    while len(found) < SAMPLES:
        dialogue = sample_dialogue(rng, Mix(facts=(1, 1), talk=0.0, answered=0.0, strict=True, also_ask=True), split)
        found += [one["content"] for one in dialogue.messages if holds(one["content"], dialogue.questions[0].value)]
    return found[:SAMPLES]


def worth_of_messages(chat: SelectiveChat, talks: Sequence[Sequence[Message]]) -> dict[str, Any]:
    """The threshold, and how well it tells facts from chat; sets the chat's."""
    trained = [chat.worth("user", text) for text in tellings("train")]
    chat.threshold = float(np.quantile(trained, MISSED))
    said = [one for talk in talks for one in talk if one["role"] == "user"][:LISTENED]
    told = np.array([chat.worth("user", text) for text in tellings("values")])
    heard = np.array([chat.worth(one["role"], one["content"]) for one in said])
    wins = (told[:, None] > heard).mean() + (told[:, None] == heard).mean() / 2
    return {
        "threshold": round(chat.threshold, 4),
        "area under the curve": round(float(wins), 3),
        "told facts chosen": round(float((told >= chat.threshold).mean()), 3),
        "messages of chat chosen": round(float((heard >= chat.threshold).mean()), 3),
        "such as": [one["content"] for one, chosen in zip(said, heard >= chat.threshold, strict=True) if chosen][:6],
    }


def facts_in_chat(chat: SelectiveChat, chats: Chats, dialogues: int) -> dict[str, Any]:
    """Recall of facts told in long chat, when all messages are written, the chosen ones, or those that tell."""
    told, threshold = Told(chat, in_chat(chat, dialogues, chats)), chat.threshold
    telling = [
        [one for one in dialogue.messages if any(holds(one["content"], asked.value) for asked in dialogue.questions)]
        for dialogue in told.dialogues
    ]
    chosen, whole = told.write(), [len(dialogue.messages) for dialogue in told.dialogues]
    kept = [len(chat.chosen(dialogue.messages)) for dialogue in told.dialogues]
    chat.threshold = 0.0
    states = {"all": told.write(), "chosen": chosen, "telling": chat.write(telling)}
    chat.threshold = threshold
    answers = {name: told.recalled(state) for name, state in states.items()}
    answers["strangers', chosen"] = chat.answer(told.prompts, chosen.select(told.strange))
    return {"messages": sum(whole), "messages chosen": sum(kept), **told.recall(answers)}


def main() -> int:
    """Measures an adapter both ways."""
    parser = command_line(__doc__)
    parser.add_argument("chats", type=Path, help="real conversations, JSON lines")
    parser.add_argument("--model", default="smollm2")
    parser.add_argument("--adapter", default="multi", help="its name in the package, or a folder")
    parser.add_argument("--dialogues", type=int, default=96, help="an eighth of them in long chat")
    options = parser.parse_args()
    torch.set_num_threads(1)
    talks = conversations(options.chats)
    chat = SelectiveChat(options.model, {"memory": options.adapter})
    chat.use("memory")
    chats = Chats(talks, chat.renderer.count)
    report: dict[str, Any] = {"command": " ".join(["python", *sys.argv]), "machine": machine()}
    report["worth"] = worth_of_messages(chat, talks)
    keep(report, options)
    report["chat"] = facts_in_chat(chat, chats, options.dialogues)
    keep(report, options)
    threshold = chat.threshold
    for name, least in (("chosen", threshold), ("all", 0.0)):
        chat.threshold = least
        report[name] = {"harm": measure_harm(chat, talks, options.dialogues // 2)}
        chat.added.clear()
        report[name]["forgetting"] = measure_forgetting(chat, options.dialogues, chats)["memory"]
        report[name]["forgetting, messages read and written"] = list(chat.added)
        keep(report, options)
    return tell(report, options)


if __name__ == "__main__":
    sys.exit(main())
