"""What a backbone itself answers to ordinary messages: replies that a training is to leave as they are."""

import random
from collections.abc import Iterable, Iterator, Sequence
from dataclasses import dataclass
from typing import Any

from deltamem.chat import Message
from deltamem.train.data.told.dialogues import TALK, Mix, sample_dialogue

# The longest conversation that a prompt is cut from: its last messages.
_MESSAGES = 5
_BATCH = 48


@dataclass(frozen=True, kw_only=True)
class Prompts:
    """How prompts are drawn.

    Attributes:
        count: how many.
        told: the share of prompts in which somebody tells a fact; small talk is a tenth of that.
        asked: the share of prompts in which somebody tells facts and asks for one of them.
        characters: the longest prompt of a conversation.
        seed: another seed, other prompts.

    Raises:
        ValueError: a field has an impossible value.
    """

    count: int
    told: float = 0.25
    asked: float = 0.0
    characters: int = 200
    seed: int = 0

    def __post_init__(self) -> None:
        if self.count < 1 or self.characters < 1:
            raise ValueError("count and characters must be 1 or more.")
        for name in ("told", "asked"):
            if not 0 <= getattr(self, name) <= 1:
                raise ValueError(f"{name} is a share and must be from 0 to 1, not {getattr(self, name)}.")
        if self.told + self.asked > 1:
            raise ValueError(f"told and asked are shares of one whole: {self.told} and {self.asked} are above 1.")

    def draw(self, chats: Sequence[Sequence[Message]]) -> list[list[Message]]:
        """Prompts that end with a user's message.

        Args:
            chats: conversations; a prompt is some messages in a row of one of them.

        Raises:
            ValueError: no conversation has a message of a user that is short enough.
        """
        rng = random.Random(f"replies {self.seed}")
        places = [
            (chat, end)
            for chat in chats
            for end, message in enumerate(chat, start=1)
            if message["role"] == "user" and len(message["content"]) <= self.characters
        ]
        if not places and self.told + self.asked < 1:
            raise ValueError(f"No conversation has a user's message of at most {self.characters} characters.")
        return [self._drawn(rng, places) for _ in range(self.count)]

    def _drawn(self, rng: random.Random, places: Sequence[tuple[Sequence[Message], int]]) -> list[Message]:
        kind = rng.random()
        if kind < self.told:
            return self._told(rng)
        if kind < self.told + self.asked:
            return self._asked(rng)
        return self._cut(rng, *rng.choice(places))

    def _told(self, rng: random.Random) -> list[Message]:
        if rng.random() < 0.1:
            return [{"role": "user", "content": rng.choice(TALK)[0]}]
        dialogue = sample_dialogue(rng, Mix(facts=(1, 2), answered=0.0, together=0.3, talk=0.0))
        return [dict(dialogue.messages[-1])]

    def _asked(self, rng: random.Random) -> list[Message]:
        dialogue = sample_dialogue(rng, Mix(facts=(1, 4), strict=True))
        return [*map(dict, dialogue.messages), {"role": "user", "content": dialogue.questions[0].ask}]

    def _cut(self, rng: random.Random, chat: Sequence[Message], end: int) -> list[Message]:
        """The messages before a place, as many as fit, from a user's message on."""
        begin = max(0, end - rng.choice(range(1, _MESSAGES + 1, 2)))
        while chat[begin]["role"] != "user" or sum(len(m["content"]) for m in chat[begin:end]) > self.characters:
            begin += 1
        return [dict(message) for message in chat[begin:end]]


def replied(
    model: Any, tokenizer: Any, prompts: Sequence[Sequence[Message]], *, tokens: int = 32, seed: int = 0
) -> Iterator[dict[str, list[Message]]]:
    """Training lines: each prompt with what the model answers.

    Args:
        model: a chat model without an adapter.
        tokenizer: with a chat template.
        prompts: each ends with a user's message.
        tokens: the most of a reply.
        seed: another seed, other replies; they are sampled as the model's own generation settings say.
    """
    order = sorted(range(len(prompts)), key=lambda place: sum(len(m["content"]) for m in prompts[place]))
    for start in range(0, len(order), _BATCH):
        part = [prompts[place] for place in order[start : start + _BATCH]]
        for prompt, reply in zip(part, replies_of(model, tokenizer, part, tokens, seed=seed + start), strict=True):
            if reply:
                yield {"messages": [*prompt, {"role": "assistant", "content": reply}]}


def replies_of(
    model: Any, tokenizer: Any, prompts: Iterable[Sequence[Message]], tokens: int, *, seed: int | None = None
) -> list[str]:
    """What a model answers to each prompt, at most so many tokens: greedily, or sampled where there is a seed."""
    import torch

    if seed is not None:
        torch.manual_seed(seed)
    texts = [
        tokenizer.apply_chat_template(list(prompt), tokenize=False, add_generation_prompt=True) for prompt in prompts
    ]
    encoded = tokenizer(texts, return_tensors="pt", padding=True, padding_side="left", add_special_tokens=False)
    made = model.generate(
        **encoded.to(model.device),
        max_new_tokens=tokens,
        do_sample=seed is not None,
        pad_token_id=tokenizer.pad_token_id,
    )
    new = made[:, encoded["input_ids"].shape[1] :]
    return [text.strip() for text in tokenizer.batch_decode(new, skip_special_tokens=True)]
