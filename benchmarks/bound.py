"""What a bound on the size of a memory's states changes: harm after long chat, and whether answers stay sentences.

    deltamem pull smollm2
    python benchmarks/bound.py CHATS.jsonl --json benchmarks/results/bound.json

A state grows as long as it is written. Here the norm of each 8×8 matrix is kept, after each message or exchange, at
what it was after 500 tokens of chat. With and without it: the loss of plain chat and answers with the fact in the
window, as ``benchmarks/real_model.py --only harm`` measures them, and the answers to two questions about nothing
that was told, after up to 12,000 tokens. CHATS has real conversations that no training had, one a line.
"""

import random
import sys
from pathlib import Path
from typing import Any

import torch
from torch import Tensor

from common import command_line, keep, machine, tell
from deltamem.chat import Message
from deltamem.state import MemoryState
from deltamem.train.data.told.chats import Chats, conversations
from deltamem_lab.real.chat import Chat
from deltamem_lab.real.texts import measure_harm

TOKENS, PIECE = 500, 250
LENGTHS = (2000, 8000, 12_000)
ASKED = ("What is my sister's name?", "When did Caroline go to the support group?")


class BoundedChat(Chat):
    """A chat model whose states are kept below a norm once ``bounds`` are set, one ``[N]`` for each layer."""

    bounds: list[Tensor] | None = None

    def write_more(self, state: MemoryState, messages: Any) -> tuple[MemoryState, int]:
        """As :class:`Chat` does, then bounded."""
        state, tokens = super().write_more(state, messages)
        if self.bounds is not None:
            scales = [(most / norm).clamp(max=1) for most, norm in zip(self.bounds, norms(state), strict=True)]
            matrices = (m * scale[..., None, None] for m, scale in zip(state.states, scales, strict=True))
            state = MemoryState(tuple(matrices), state.tokens, state.open)
        return state, tokens


def norms(state: MemoryState) -> list[Tensor]:
    """The norm of each matrix, ``[B, N]`` for each layer."""
    return [matrices.flatten(2).norm(dim=-1) for matrices in state.states]


def read(chat: Chat, chats: Chats, rng: random.Random, state: MemoryState, until: int) -> MemoryState:
    """The memory once it has read so many tokens of chat."""
    while int(state.tokens[0]) < until:
        piece: list[Message] = [message for exchange in chats.draw(rng, PIECE) for message in exchange.messages]
        state, _ = chat.write_more(state, piece)
    return state


def answers(chat: Chat, chats: Chats) -> dict[str, list[str]]:
    """What the model answers after so many tokens of chat."""
    rng, state, found = random.Random("bound"), chat.empty(), {}
    for length in LENGTHS:
        state = read(chat, chats, rng, state, length)
        prompts: list[list[Message]] = [[{"role": "user", "content": ask}] for ask in ASKED]
        found[str(int(state.tokens[0]))] = chat.answer(prompts, state.repeat_interleave(len(prompts)))
    return found


def main() -> int:
    """Measures without a bound and with one."""
    parser = command_line(__doc__)
    parser.add_argument("chats", type=Path, help="real conversations, JSON lines")
    parser.add_argument("--model", default="smollm2")
    parser.add_argument("--adapter", default="multi", help="its name in the package, or a folder")
    parser.add_argument("--dialogues", type=int, default=48)
    options = parser.parse_args()
    torch.set_num_threads(1)
    chat = BoundedChat(options.model, {"memory": options.adapter})
    talks = conversations(options.chats)
    chats = Chats(talks, chat.renderer.count)
    report: dict[str, Any] = {"command": " ".join(["python", *sys.argv]), "machine": machine()}
    small = read(chat, chats, random.Random("small"), chat.empty(), TOKENS)
    for name in ("bounded", "free"):
        chat.bounds = [one[0] for one in norms(small)] if name == "bounded" else None
        report[name] = {"harm": measure_harm(chat, talks, options.dialogues)}
        keep(report, options)
        report[name]["answers"] = answers(chat, chats)
        keep(report, options)
    return tell(report, options)


if __name__ == "__main__":
    sys.exit(main())
