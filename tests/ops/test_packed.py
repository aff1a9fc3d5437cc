"""Many requests in one call: the same numbers as each alone, however their tokens are cut."""

import pytest
import torch
from torch import Tensor

from deltamem import DeltaMemConfig
from deltamem.memory import DeltaMemory
from deltamem.ops.packed import PASSES, WRITES, Batch
from deltamem.writing import ReadPlan, TokenPlan

WIDTH, PLACES = 12, 3
CONFIGS = {
    "published": DeltaMemConfig(),
    "four states": DeltaMemConfig(states=4, rank=4),
    "a gate a state": DeltaMemConfig(rowwise_gates=False, states=2),
    "gates apart": DeltaMemConfig(coupled_gates=False, update_rule="lambda_outside"),
    "plain addresses": DeltaMemConfig(normalize_qk=False, gates="fixed", update_rule="no_lambda", rank=5),
    "addresses of two tokens": DeltaMemConfig(key_tokens=2, states=2, rank=4),
    "addresses of two tokens, gates apart": DeltaMemConfig(key_tokens=2, coupled_gates=False),
    "scaled": DeltaMemConfig(scale="head", output_norm=True, heads=("q", "k", "v", "o")),
}


def layer(config: DeltaMemConfig) -> DeltaMemory:
    torch.manual_seed(0)
    memory = DeltaMemory(config, WIDTH, {"q": 8, "k": 4, "v": 4, "o": WIDTH})
    for parameter in memory.parameters():
        torch.nn.init.normal_(parameter, std=0.4)
    return memory


def fed(
    memory: DeltaMemory, rings: Tensor, parts: list[Tensor], slots: list[int], counts: list[int], writes: list[Tensor]
) -> dict[str, Tensor]:
    starts = torch.tensor([0, *(len(part) for part in parts)]).cumsum(0)
    flags = torch.cat(writes)
    batch = Batch(starts, torch.tensor(slots), torch.tensor(counts), torch.where(flags, WRITES, PASSES).to(torch.uint8))
    return memory.correct(memory.packed(rings)(memory.project(torch.cat(parts)), batch))  # type: ignore[return-value]


@pytest.mark.parametrize("name", CONFIGS)
@torch.no_grad()
def test_each_request_gets_what_it_gets_alone(name: str):
    memory, config = layer(CONFIGS[name]), CONFIGS[name]
    lengths, slots = [7, 1, 12], [2, 0, 3]
    texts = [torch.randn(n, WIDTH) for n in lengths]
    shape = (config.states, config.rank + config.key_tokens - 1, config.rank)
    begun = [torch.randn(1, *shape) / 3 for _ in lengths]
    writes = [torch.ones(7, dtype=torch.bool), torch.zeros(1, dtype=torch.bool), torch.rand(12) < 0.5]
    rings = torch.full((4, PLACES, *shape), torch.nan)
    for slot, state in zip(slots, begun, strict=True):
        rings[slot, 0] = state[0]
    together = fed(memory, rings, texts, slots, [0, 0, 0], writes)
    first = 0
    for text, slot, state, write in zip(texts, slots, begun, writes, strict=True):
        plan = TokenPlan(None, write[None], write.sum()[None])
        adds = state[:, :, config.rank :].flatten(1) if config.key_tokens > 1 else None
        alone, after, adds = memory(text[None], state[:, :, : config.rank], plan, adds)
        for head, correction in alone.items():
            torch.testing.assert_close(together[head][first : first + len(text)], correction[0], rtol=1e-5, atol=1e-5)
        if adds is not None:
            after = torch.cat([after, adds.view(1, config.states, 1, config.rank)], 2)
        torch.testing.assert_close(rings[slot, len(text) % PLACES], after[0], rtol=1e-5, atol=1e-5)
        first += len(text)


@torch.no_grad()
def test_tokens_taken_back_leave_nothing():
    memory, config = layer(CONFIGS["published"]), CONFIGS["published"]
    text, wrong = torch.randn(9, WIDTH), torch.randn(2, WIDTH)
    rings = torch.zeros(1, PLACES, config.states, config.rank, config.rank)
    always = torch.ones(9, dtype=torch.bool)
    _, wanted, _ = memory(text[None], rings[:, 0], TokenPlan(None, None, torch.tensor([9])), None)
    fed(memory, rings, [text[:5]], [0], [0], [always[:5]])
    fed(memory, rings, [wrong], [0], [5], [always[:2]])  # two tokens of a draft that is refused
    fed(memory, rings, [text[5:]], [0], [5], [always[5:]])
    torch.testing.assert_close(rings[:, 9 % PLACES], wanted, rtol=1e-5, atol=1e-5)


@torch.no_grad()
def test_reading_changes_nothing_and_padding_reads_zeros():
    memory, config = layer(CONFIGS["published"]), CONFIGS["published"]
    state = torch.randn(1, config.states, config.rank, config.rank)
    rings = torch.cat([state, torch.zeros(PLACES - 1, *state.shape[1:])])[None]
    text, batch = torch.randn(6, WIDTH), Batch(*(torch.tensor(x) for x in ([0, 4], [0], [0])), torch.zeros(6).byte())
    reads = memory.packed(rings)(memory.project(text), batch)
    alone, _, _ = memory(text[None, :4], state, ReadPlan(None), None)
    torch.testing.assert_close(memory.correct(reads[:4])["o"], alone["o"][0], rtol=1e-5, atol=1e-5)
    assert not reads[4:].any()
    assert torch.equal(rings[0, 4 % PLACES], state[0])


@torch.no_grad()
def test_rows_that_lie_apart_are_read_where_they_are():
    memory, config = layer(CONFIGS["published"]), CONFIGS["published"]
    projected = memory.project(torch.randn(5, WIDTH))
    wide = torch.cat([torch.randn(5, 3), projected, torch.randn(5, 2)], dim=1)
    batch = Batch(*(torch.tensor(x) for x in ([0, 5], [0], [0])), torch.ones(5).byte())
    rings = [torch.zeros(1, PLACES, config.states, config.rank, config.rank) for _ in range(2)]
    reads = [memory.packed(ring)(rows, batch) for ring, rows in zip(rings, (projected, wide[:, 3:-2]), strict=True)]
    assert torch.equal(*reads)
    assert torch.equal(*rings)


def test_wrong_shapes_are_refused():
    memory = layer(CONFIGS["published"])
    one, flags = torch.tensor([0]), torch.ones(1).byte()
    with pytest.raises(ValueError, match="rings must be contiguous"):
        memory.packed(torch.zeros(1, 2, 1, 4, 4))
    with pytest.raises(ValueError, match="1 flags for 2 tokens"):
        memory.packed(torch.zeros(1, 2, 1, 8, 8))(torch.zeros(2, 32), Batch(torch.tensor([0, 1]), one, one, flags))
    with pytest.raises(ValueError, match="one start more"):
        Batch(one, one, one, flags)
