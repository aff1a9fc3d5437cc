"""One layer's memory against the specification, written out in plain Python."""

import itertools
from dataclasses import replace
from typing import Any

import pytest
import torch

import plain
from deltamem import DeltaMemConfig, MemoryState, Step
from deltamem.memory import DeltaMemory
from deltamem.ops import decode
from deltamem.rules import UPDATE_RULES

VARIANTS: dict[str, dict[str, Any]] = {
    "default": {},
    "four states": {"states": 4},
    "lambda outside": {"update_rule": "lambda_outside"},
    "no lambda": {"update_rule": "no_lambda"},
    "leaky": {"update_rule": "leaky", "states": 2},
    "hebbian": {"update_rule": "hebbian", "states": 2},
    "hebbian uncoupled": {"update_rule": "hebbian", "coupled_gates": False},
    "accumulate": {"update_rule": "accumulate"},
    "fixed gates": {"gates": "fixed", "gate_bias": -0.4, "states": 2},
    "fixed gates, lambda outside, one a state": {
        "gates": "fixed",
        "update_rule": "lambda_outside",
        "rowwise_gates": False,
    },
    "fixed gates, hebbian": {"gates": "fixed", "update_rule": "hebbian"},
    "uncoupled": {"coupled_gates": False},
    "uncoupled outside": {"coupled_gates": False, "update_rule": "lambda_outside", "states": 2},
    "one gate a state": {"rowwise_gates": False, "states": 3},
    "one gate a state, uncoupled": {"rowwise_gates": False, "states": 3, "coupled_gates": False},
    "raw addresses": {"normalize_qk": False},
    "addresses of two tokens": {"key_tokens": 2, "states": 2},
    "addresses of two tokens, uncoupled": {"key_tokens": 2, "coupled_gates": False, "heads": ("q", "k", "v", "o")},
    "all heads": {"heads": ("q", "k", "v", "o")},
    "k and v": {"heads": ("v", "k")},
    "output norm": {"output_norm": True, "output_norm_eps": 1e-3},
    "output norm without o": {"output_norm": True, "heads": ("q",)},
    "layer scale": {"scale": "layer", "scale_max": 3.0},
    "head scale": {"scale": "head", "heads": ("k", "o"), "output_norm": True},
}


@pytest.mark.parametrize("fields", VARIANTS.values(), ids=VARIANTS.keys())
def test_every_variant_is_what_the_specification_says(fields: dict[str, Any]) -> None:
    config = DeltaMemConfig(**{"rank": 3, "alpha": 5.0, **fields})
    memory = plain.layer(config)
    if not config.normalize_qk:
        with torch.no_grad():
            memory.projection[: 2 * config.width] *= 0.1
    x = 0.5 * torch.randn(2, 9, 6, generator=torch.Generator().manual_seed(1))
    start = plain.start(config, 2)
    with torch.no_grad():
        found, step = plain.forward(memory, x, Step(start))
        parts = memory.named_parts()
        for row in range(2):
            state = start.states[0][row]
            adds = start.before[0][row] if start.before else 0.0
            for t in range(9):
                wanted = plain.corrections(config, parts, plain.read(config, parts, state, x[row, t]))
                assert list(found) == list(wanted) == list(config.heads)
                for head, delta in wanted.items():
                    torch.testing.assert_close(found[head][row, t], delta, rtol=1e-4, atol=1e-4)
                state = plain.write(config, parts, state, x[row, t], adds)
                adds = parts["k_before_proj"] @ x[row, t] if start.before else 0.0
            torch.testing.assert_close(step.new_state.states[0][row], state, rtol=1e-4, atol=1e-4)
    assert step.new_state.tokens.tolist() == [9, 9]


@pytest.mark.parametrize("rows", [3, decode.ROWS + 2])  # beyond ROWS the call neither projects nor corrects
@pytest.mark.parametrize("fields", VARIANTS.values(), ids=VARIANTS.keys())
def test_decoding_a_token_is_one_compiled_call_with_the_same_numbers(fields: dict[str, Any], rows: int) -> None:
    config = DeltaMemConfig(**{"rank": 5, "alpha": 3.0, **fields})
    memory = plain.layer(config)
    start = plain.start(config, rows)
    turned = start.states[0].movedim(1, -1).contiguous().movedim(-1, 1)  # as a view of something else may lie
    start = replace(start, states=(turned,))
    mask = torch.tensor([[row != 1] for row in range(rows)])
    for size, write in itertools.product((0.3, 1e4), (True, False)):
        x = size * torch.randn(rows, 1, 6, generator=torch.Generator().manual_seed(1))
        results = []
        for watched in (False, True):  # what autograd watches takes the operators
            with torch.set_grad_enabled(watched):
                step = Step(start, mask=mask, write=write)
                found, _ = plain.forward(memory, x, step)
            results.append((found, step.new_state.tensors()))
        torch.testing.assert_close(*results, rtol=1e-4, atol=1e-4)
        before, after = start.tensors(), results[0][1]
        for name in before.keys() - {"tokens"}:
            assert torch.equal(after[name][1], before[name][1])
            assert write or torch.equal(after[name], before[name])
        if not config.output_norm or "o" not in config.heads:
            assert not any(delta[1].any() for delta in results[0][0].values())


def test_fresh_weights() -> None:
    config = DeltaMemConfig(coupled_gates=False, gate_bias=-1.2, scale="head", scale_init=0.5, scale_max=2.0)
    memory = DeltaMemory(config, 32, {"q": 16, "k": 8, "v": 8, "o": 32})
    parts = memory.named_parts()
    assert parts["q_proj"].shape == (8, 32)
    for name in ("q_proj", "k_proj", "v_proj"):
        assert 0.9 / 32**0.5 < parts[name].abs().max() <= 1 / 32**0.5  # Kaiming-uniform with a = √5
    assert not parts["beta_proj"].any()
    assert not parts["lambda_proj"].any()
    torch.testing.assert_close(parts["beta_bias"], torch.full((8,), -1.2))
    torch.testing.assert_close(parts["lambda_bias"], torch.full((8,), 1.2))
    torch.testing.assert_close(torch.sigmoid(parts["scale"]) * 2, torch.full((4,), 0.5))
    assert sum(part.numel() for part in parts.values()) == sum(p.numel() for p in memory.parameters())


def test_fixed_gates_have_no_weights_and_heed_no_input() -> None:
    memory = DeltaMemory(DeltaMemConfig(gates="fixed", gate_bias=-1.2), 32, {"q": 16, "k": 8, "v": 8, "o": 32})
    assert memory.named_parts().keys() == {"q_proj", "k_proj", "v_proj", "delta_q", "delta_o"}
    assert sum(p.numel() for p in memory.parameters()) == 3 * 8 * 32 + (16 + 32) * 8
    gates = memory.write_gates(torch.randn(2, 5, 32).bfloat16())
    torch.testing.assert_close(gates, torch.full((2, 5, 8), -1.2).sigmoid())


@pytest.mark.parametrize("rule", UPDATE_RULES.names())
def test_a_state_after_a_hundred_thousand_tokens(rule: str) -> None:
    memory = plain.layer(DeltaMemConfig(rank=4, update_rule=rule), seed=3)
    x = torch.randn(1, 100_000, 6, generator=torch.Generator().manual_seed(1))
    longest = (x @ memory.named_parts()["v_proj"].T).norm(dim=-1).max().item()
    with torch.no_grad():
        _, early = plain.forward(memory, x[:, :10_000], Step(MemoryState.zeros(1, 1, 1, 4)))
        _, late = plain.forward(memory, x[:, 10_000:], Step(early.new_state))
    early_size, size = (step.new_state.states[0].norm().item() for step in (early, late))
    if rule == "accumulate":  # the one that only adds: documented to grow
        assert 3 * early_size < size < 100_000 * longest
    else:
        assert 0 < size < 4 * longest


def test_leaky_states_stay_smaller_where_addresses_are_alike() -> None:
    generator = torch.Generator().manual_seed(1)
    x = torch.randn(8, 1, 6, generator=generator) + 0.3 * torch.randn(8, 20_000, 6, generator=generator)
    norms = {}
    for rule in ("leaky", "no_lambda"):
        step = Step(MemoryState.zeros(1, 8, 1, 4))
        with torch.no_grad():
            plain.forward(plain.layer(DeltaMemConfig(rank=4, update_rule=rule), seed=3), x, step)
        norms[rule] = step.new_state.norms()[0]
    assert (norms["leaky"] < norms["no_lambda"]).all()
    assert 1.5 * norms["leaky"].mean() < norms["no_lambda"].mean()


def test_parts_are_views_of_the_packed_weights() -> None:
    memory = plain.layer(DeltaMemConfig(rank=3, heads=("q", "o")))
    with torch.no_grad():
        memory.named_parts()["delta_o"].fill_(7)
    assert (memory.heads[10:] == 7).all()
    assert not (memory.heads[:10] == 7).any()


def test_a_shut_gate_keeps_and_an_open_one_replaces() -> None:
    memory = plain.layer(DeltaMemConfig(rank=3))
    start = MemoryState((torch.randn(1, 1, 3, 3),), torch.zeros(1, dtype=torch.int64))
    x = torch.randn(1, 1, 6)
    with torch.no_grad():
        parts = memory.named_parts()
        parts["beta_proj"].zero_()
        parts["beta_bias"].fill_(-1e4)
        _, shut = plain.forward(memory, x, Step(start))
        assert torch.equal(shut.new_state.states[0], start.states[0])
        parts["beta_bias"].fill_(1e4)
        _, wide = plain.forward(memory, x, Step(start))
        (key,) = plain.address(memory.config, parts["k_proj"], x[0, 0])
        surprise = parts["v_proj"] @ x[0, 0] - start.states[0][0, 0] @ key
    torch.testing.assert_close(wide.new_state.states[0][0, 0], torch.outer(surprise, key))


def test_the_state_is_float32_under_a_bfloat16_input() -> None:
    memory = plain.layer(DeltaMemConfig(rank=3))
    start = MemoryState.zeros(1, 1, 1, 3)
    _, step = plain.forward(memory, torch.randn(1, 5, 6).bfloat16(), Step(start))
    assert step.new_state.states[0].dtype == torch.float32
