"""Greedy answers of the bare model and of the one with a memory, many questions at a time."""

import re
from collections.abc import Sequence
from typing import Any

import torch

from deltamem.attach import disabled, memory_cache
from deltamem.attach.cache import PAST
from deltamem.chat import Message, encode_chat
from deltamem.demo.real.script import LONGEST_ANSWER, SYSTEM
from deltamem.session.retrieval import best_matches
from deltamem.state import MemoryState
from deltamem.train.data.told.chats import exchanges

TURNS = 3


def answer(
    model: Any, tokenizer: Any, prompts: Sequence[Sequence[Message]], memory: MemoryState | None = None
) -> list[str]:
    """The likeliest answer to each prompt, word by word, from a row of ``memory`` each, or by the bare model."""
    system = [{"role": "system", "content": SYSTEM}] if SYSTEM else []
    rows = [encode_chat(tokenizer, [*system, *one], add_generation_prompt=True).input_ids[0] for one in prompts]
    longest = max(len(row) for row in rows)
    ids = torch.full((len(rows), longest), tokenizer.pad_token_id or 0)
    mask = torch.zeros_like(ids)
    for place, row in enumerate(rows):
        ids[place, longest - len(row) :] = row
        mask[place, longest - len(row) :] = 1
    ids, mask = ids.to(model.device), mask.to(model.device)
    options = {"attention_mask": mask, "do_sample": False, "max_new_tokens": LONGEST_ANSWER}
    if memory is None:
        with disabled(model):
            out = model.generate(ids, **options)
    else:
        out = model.generate(ids, **{PAST: memory_cache(model, memory, write=False)}, **options)
    return [text.strip() for text in tokenizer.batch_decode(out[:, longest:], skip_special_tokens=True)]


def holds(said: str, value: str) -> bool:
    """Whether an answer has a value in it, as whole words, in any case."""
    return re.search(rf"(?<!\w){re.escape(value)}(?!\w)", said, re.IGNORECASE) is not None


def found_again(messages: Sequence[Message], question: str) -> list[Message]:
    """The exchanges that BM25 ranks highest for a question, in their own order.

    Raises:
        ImportError: bm25s is not installed; the message names the extra.
    """
    said = exchanges(messages)
    texts = [" ".join(message["content"] for message in exchange) for exchange in said]
    (ranked,) = best_matches(texts, [question], TURNS)
    return [message for place, _ in sorted(ranked) for message in said[place]]
