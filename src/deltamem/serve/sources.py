"""What an answer read of its memory."""

from collections.abc import Sequence
from typing import Any

import torch
from torch import nn

from deltamem.attribution import ReadProbe, read_probe
from deltamem.chat import Message, encode_chat
from deltamem.serve.strengths import content_tokens
from deltamem.state import MemoryState


def answer_probe(model: nn.Module, tokenizer: Any, messages: Sequence[Message], state: MemoryState) -> ReadProbe:
    """How much was read of each entry of a memory where the tokens of an answer were chosen.

    A token is chosen at the token before it, so the reads that count are of what ends the prompt and of the answer but
    its last token.

    Args:
        model: an attached model.
        tokenizer: its tokenizer.
        messages: what the model saw, and its answer.
        state: the memory that it read, one row.

    Raises:
        ValueError: the tokens of the messages cannot be told apart.
    """
    encoded = encode_chat(tokenizer, messages)
    answer = encoded.of([len(messages) - 1])[0].nonzero()[:, 0]
    said = content_tokens(tokenizer, messages[-1], encoded.input_ids[0, answer].tolist())
    chosen_at = torch.zeros_like(encoded.input_ids, dtype=torch.bool)
    chosen_at[0, [int(answer[place]) - 1 for place, _ in said]] = True
    return read_probe(model, encoded.input_ids, state, chosen_at)
