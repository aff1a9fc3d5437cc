"""A tiny random backbone that chats in the toy world's tokens, with a loud adapter."""

from functools import cache
from typing import Any

import torch
from transformers import PreTrainedTokenizerFast, Qwen3Config, Qwen3ForCausalLM

import deltamem
from deltamem.demo.tokenizer import build_tokenizer
from tiny import SMALL, enliven

SHORT: dict[str, Any] = {"max_new_tokens": 6, "do_sample": False}


@cache
def chat_tokenizer() -> PreTrainedTokenizerFast:
    """The tokenizer of the embedded backbone."""
    return build_tokenizer()


def talker(positions: int = 512, **config: Any) -> Qwen3ForCausalLM:
    """A backbone with so many positions, the same at every call."""
    torch.manual_seed(0)
    tokenizer = chat_tokenizer()
    shape = Qwen3Config(
        vocab_size=len(tokenizer),
        **SMALL,
        head_dim=8,
        max_position_embeddings=positions,
        eos_token_id=tokenizer.eos_token_id,
        pad_token_id=tokenizer.pad_token_id,
        bos_token_id=None,
        **config,
    )
    model = Qwen3ForCausalLM(shape).eval()
    with torch.no_grad():
        for parameter in model.parameters():
            if parameter.dim() > 1:
                parameter.mul_(4)
    deltamem.attach(model, deltamem.DeltaMemConfig(rank=4))
    enliven(model)
    return model
