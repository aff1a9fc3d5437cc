"""Told facts as JSON lines of messages, which any training on chat data reads."""

import random
from collections.abc import Iterator
from typing import Any

from deltamem.train.data.told.chats import Chats
from deltamem.train.data.told.dialogues import Mix, Split, sample_dialogue


def told_lines(
    dialogues: int, mix: Mix, split: Split = "train", *, seed: int = 0, chats: Chats | None = None, tokens: int = 0
) -> Iterator[dict[str, Any]]:
    """A line for each question: the dialogue, the question, its answer; beside them what is told of whom.

    Args:
        dialogues: how many are sampled; lines of one dialogue follow each other.
        mix: what the dialogues are made of.
        split: what in them is held out.
        seed: another seed, other dialogues.
        chats: real chat that is put before, between and after the facts.
        tokens: of a history with its facts and the chat, about and at most; facts alone may have more.
    """
    rng, chat_rng = random.Random(f"told {split}/{seed}"), random.Random(f"chat {split}/{seed}")
    for number in range(1, dialogues + 1):
        dialogue = sample_dialogue(rng, mix, split)
        history = dialogue.messages
        if chats:
            history = chats.around(chat_rng, history, tokens - sum(map(chats.count, history)))
        for place, question in enumerate(dialogue.questions, start=1):
            fact = question.fact
            yield {
                "id": f"{split}/{number}/{place}",
                "messages": [
                    *history,
                    {"role": "user", "content": question.ask},
                    {"role": "assistant", "content": question.answer},
                ],
                "relation": fact.relation.name,
                "kind": fact.relation.values,
                "subject": fact.subject,
                "value": fact.value,
                "replaces": fact.replaces,
                "split": split,
            }
