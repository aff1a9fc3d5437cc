"""``torch.compile``: the whole model with its memory is one graph, and gives the same numbers."""

from collections.abc import Iterator
from typing import Any

import pytest
import torch

from deltamem import Step
from tiny import adapted, assert_same_state, live_state, tokens


@pytest.fixture(autouse=True)
def _fresh_compiler() -> Iterator[None]:
    torch.compiler.reset()
    yield
    torch.compiler.reset()


@pytest.mark.parametrize("write", ["token", "message"])
def test_one_graph_and_the_same_numbers(write: str) -> None:
    model = adapted(layers="front:2", write=write)
    ids, state = tokens(2, 10), live_state(model, 2)
    options: dict[str, Any] = {} if write == "token" else {"segment_ids": torch.tensor([[0] * 4 + [1] * 6] * 2)}
    steps = [Step(state, **options) for _ in range(2)]
    compiled = torch.compile(model, fullgraph=True, backend="aot_eager")
    with torch.no_grad():
        found = compiled(ids, memory=steps[0], use_cache=False).logits
        wanted = model(ids, memory=steps[1], use_cache=False).logits
    torch.testing.assert_close(found, wanted)
    assert_same_state(steps[0].new_state, steps[1].new_state)


def test_compiled_gradients_are_the_same() -> None:
    model = adapted(layers="front:2")
    compiled = torch.compile(model, fullgraph=True, backend="aot_eager")
    ids, results = tokens(2, 10), []
    for forward in (compiled, model):
        model.zero_grad()
        step = Step(live_state(model, 2))
        forward(ids, memory=step, use_cache=False).logits.sin().sum().backward()
        results.append({name: p.grad.clone() for name, p in model.named_parameters() if p.grad is not None})
    assert len(results[0]) == 6
    torch.testing.assert_close(*results, rtol=1e-4, atol=1e-4)
