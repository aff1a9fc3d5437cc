"""Greedy answers of the bare model and of the one with a memory, many questions at a time."""

import re
from collections.abc import Sequence
from functools import partial
from typing import Any

import torch
from torch.nn.utils.rnn import pad_sequence

from deltamem.attach import disabled, memory_cache
from deltamem.attach.cache import PAST
from deltamem.chat import Message, encode_chat
from deltamem.demo.real.script import LONGEST_ANSWER
from deltamem.session.retrieval import best_matches
from deltamem.state import MemoryState
from deltamem.train.data.told.chats import exchanges

TURNS = 3


def answer(
    model: Any,
    tokenizer: Any,
    prompts: Sequence[Sequence[Message]],
    memory: MemoryState | None = None,
    *,
    longest: int = LONGEST_ANSWER,
) -> list[str]:
    """The likeliest answer to each prompt, word by word, from a row of ``memory`` each, or by the bare model.

    An answer has at most ``longest`` tokens.
    """
    rows = [encode_chat(tokenizer, list(one), add_generation_prompt=True).input_ids[0] for one in prompts]
    pad = partial(pad_sequence, batch_first=True, padding_side="left")
    ids = pad(rows, padding_value=tokenizer.pad_token_id or 0).to(model.device)
    mask = pad([torch.ones_like(row) for row in rows]).to(model.device)
    options = {"attention_mask": mask, "do_sample": False, "max_new_tokens": longest}
    if memory is None:
        with disabled(model):
            out = model.generate(ids, **options)
    else:
        out = model.generate(ids, **{PAST: memory_cache(model, memory, write=False)}, **options)
    return [text.strip() for text in tokenizer.batch_decode(out[:, ids.shape[1] :], skip_special_tokens=True)]


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
