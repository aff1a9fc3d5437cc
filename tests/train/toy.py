"""A tiny bare backbone and episodes of keys and values, as the factories of a recipe; and a recipe of them."""

from pathlib import Path
from types import SimpleNamespace
from typing import Any

import torch
from pairs import small_model
from torch.utils.data import Dataset
from transformers import Qwen3ForCausalLM

from deltamem import detach
from deltamem.train import Episode, Text


class Items(Dataset[Any]):
    def __init__(self, items: list[Any]) -> None:
        self.items = items

    def __len__(self) -> int:
        return len(self.items)

    def __getitem__(self, index: int) -> Any:
        return self.items[index]


def backbone() -> tuple[Qwen3ForCausalLM, Any]:
    model = small_model()
    detach(model)
    return model, SimpleNamespace(pad_token_id=0)


def episodes(tokenizer: Any, count: int = 32, seed: int = 0, *, needs_memory: bool = True) -> Items:
    """Two keys with values are told and one is asked; the answer is the value, or always the same."""
    generator = torch.Generator().manual_seed(seed)
    items = []
    for _ in range(count):
        keys = (1 + torch.randperm(6, generator=generator)[:2]).tolist()
        values = (10 + torch.randint(0, 6, (2,), generator=generator)).tolist()
        told = (keys[0], values[0], 32, keys[1], values[1], 32)
        answer = values[0] if needs_memory else 20
        query = Text((33, keys[0], 34, answer), (0.0, 0.0, 0.0, 1.0), (0, 0, -1, -1))
        items.append(Episode((Text(told, (0.0,) * 6, (0, 0, 0, 1, 1, 1)),), (query,)))
    return Items(items)


def filed(tokenizer: Any, path: str) -> Items:
    """Episodes that a file tells the seed of; they know by what they are told from others."""
    seed = Path(path).read_text()
    items = episodes(tokenizer, seed=int(seed))
    items.digest = seed
    return items


def recipe(folder: Any, **sections: dict[str, Any]) -> dict[str, Any]:
    """The values of a short recipe on the toy, with sections replaced or changed."""
    values: dict[str, Any] = {
        "backbone": {"factory": {"source": "toy:backbone"}},
        "adapter": {"rank": 4, "alpha": 4, "init_gain": 0.5},
        "data": {"source": "toy:episodes", "options": {"count": 32}},
        "optimiser": {"learning_rate": 1e-2},
        "schedule": {"steps": 8, "batch": 8, "micro_batch": 8},
        "logging": {"every": 1},
        "output": {"folder": str(folder), "save_every": 4},
        "seed": 1,
    }
    for name, section in sections.items():
        old = values.get(name)
        values[name] = {**old, **section} if isinstance(old, dict) and isinstance(section, dict) else section
    return values
