"""A small random backbone with an adapter, and small random episodes."""

import torch
from transformers import Qwen3Config, Qwen3ForCausalLM

from deltamem import DeltaMemConfig, attach
from deltamem.train import Episode, EpisodeBatch, Text, collate
from tiny import SMALL

VOCABULARY = 40


def small_model(write: str = "token", states: int = 1, **fields: object) -> Qwen3ForCausalLM:
    torch.manual_seed(0)
    config = Qwen3Config(
        vocab_size=VOCABULARY,
        **SMALL,
        head_dim=8,
        max_position_embeddings=128,
    )
    model = Qwen3ForCausalLM(config).eval()
    attach(model, DeltaMemConfig(write=write, states=states, **fields))  # type: ignore[arg-type]
    return model


def pair_batch(step: int, *, write_queries: bool = False) -> EpisodeBatch:
    """Two keys with a value each are told; each is asked. Learnable, and only from the memory."""
    generator = torch.Generator().manual_seed(step)
    episodes = []
    for _ in range(8):
        keys = (1 + torch.randperm(6, generator=generator)[:2]).tolist()
        values = (10 + torch.randint(0, 6, (2,), generator=generator)).tolist()
        told = (keys[0], values[0], 2 + 30, keys[1], values[1], 2 + 30)
        history = Text(told, (0.0,) * 6, (0, 0, 0, 1, 1, 1))
        queries = [
            Text((33, key, 34, value), (0.0, 0.0, 0.0, 1.0), (0, 0, -1, -1))
            for key, value in zip(keys, values, strict=True)
        ]
        episodes.append(Episode((history,), tuple(queries)))
    return collate(episodes, 0, write_queries=write_queries)
