"""Shares of what is read, against leaving a token's value out of the specification in plain Python."""

from typing import Any

import pytest
import torch
from torch import Tensor

import deltamem
import plain
from deltamem.observe import observe
from tiny import adapted, assert_same_state, live_state, tokens

LENGTH = 9
SEGMENTS = torch.tensor([[0, 0, 1, 1, 1, -1, 2, 2, 2]])
WRITE = torch.tensor([[True, True, False, True, True, True, True, True, False]])
CASES: dict[str, dict[str, Any]] = {
    "standard": {},
    "four states, no lambda": {"states": 4, "update_rule": "no_lambda"},
    "lambda outside, uncoupled": {"update_rule": "lambda_outside", "coupled_gates": False},
    "fixed gates, one a state": {"gates": "fixed", "rowwise_gates": False, "states": 2},
    "message": {"write": "message"},
    "message, read by call": {"write": "message", "segment_reads": "call"},
}


def write_without(config: Any, parts: dict[str, Tensor], state: Tensor, x: Tensor, valued: Tensor) -> Tensor:
    """What ``plain.write`` makes of ``x`` where the value comes from ``valued`` instead."""
    wide = dict(parts)
    for name in ("k_proj", "v_proj", "beta_proj", "lambda_proj"):
        if name in parts:
            zeros = torch.zeros_like(parts[name])
            wide[name] = torch.cat([zeros, parts[name]] if name == "v_proj" else [parts[name], zeros], 1)
    return plain.write(config, wide, state, torch.cat([x, valued]))


def walk(config: Any, parts: dict[str, Tensor], x: Tensor, state: Tensor, groups: list[list[int]], out: int) -> Tensor:
    """The state after each group of tokens ``[T, D]`` made one write, the value of token ``out`` left out."""
    for group in groups:
        members = x[group]
        kept = torch.stack([x[t] * (t != out) for t in group])
        state = write_without(config, parts, state, members.mean(0), kept.mean(0))
    return state


def groups_of(config: Any, chunk: int) -> list[list[int]]:
    """The tokens that are written together."""
    able = [t for t in range(LENGTH) if WRITE[0, t]]
    if not config.writes_segments:
        return [[t] for t in able]
    found: dict[Any, list[int]] = {}
    for t in able:
        segment = int(SEGMENTS[0, t])
        if segment != -1:
            found.setdefault((segment, t // chunk if config.segment_reads == "call" else 0), []).append(t)
    return list(found.values())


@pytest.mark.parametrize("chunk", [512, 4])
@pytest.mark.parametrize("fields", CASES.values(), ids=CASES.keys())
@torch.no_grad()
def test_a_tokens_share_is_what_is_read_less_without_its_value(fields: dict[str, Any], chunk: int) -> None:
    model = adapted(rank=3, **fields)
    attachment = deltamem.attached(model)
    config, before, ids = attachment.config, live_state(model), tokens(1, LENGTH)
    reader = tokens(1, 5, seed=5)
    options: dict[str, Any] = {"write": WRITE, "chunk_size": chunk}
    if config.writes_segments:
        options["segment_ids"] = SEGMENTS
    after = observe(model, ids, before, **options)
    probe = deltamem.read_probe(model, reader, after, torch.tensor([[False, True, True, False, True]]))
    shares = deltamem.write_shares(model, ids, before, probe, **options)

    assert_same_state(shares.state, after)
    total = float(shares.tokens.sum()) + shares.probe.of(before)
    assert total == pytest.approx(probe.of(after), rel=1e-4)
    assert not shares.tokens[~WRITE[0]].any()

    seen: list[list[Tensor]] = [[] for _ in attachment.memories()]
    hooks = [
        memory.register_forward_pre_hook(lambda _, args, at=at: seen[at].append(args[0][0]))
        for at, memory in enumerate(attachment.memories())
    ]
    observe(model, ids, before, **options)
    for hook in hooks:
        hook.remove()
    for out in range(LENGTH):
        states = tuple(
            walk(config, memory.named_parts(), torch.cat(x), matrices[0], groups_of(config, chunk), out)[None]
            for memory, x, matrices in zip(attachment.memories(), seen, before.states, strict=True)
        )
        without = deltamem.MemoryState(states, before.tokens)
        lost = probe.of(after) - probe.of(without)
        assert float(shares.tokens[out]) == pytest.approx(lost, rel=1e-3, abs=1e-4)


@torch.no_grad()
def test_a_probe_is_the_gradient_of_the_norms_of_what_is_read() -> None:
    model = adapted(states=2)
    attachment = deltamem.attached(model)
    state, ids, which = live_state(model), tokens(1, 6), [1, 4, 5]
    counted = torch.zeros(1, 6, dtype=torch.bool)
    counted[0, which] = True
    inputs: dict[int, Tensor] = {}
    attachment.base(ids, memory=deltamem.Step(state, write=False, inputs=inputs))

    def read(matrices: tuple[Tensor, ...]) -> float:
        total = 0.0
        for t in which:
            found = [
                plain.read(attachment.config, memory.named_parts(), matrices[i][0], inputs[i][0, t])
                for i, memory in enumerate(attachment.memories())
            ]
            total += float(torch.cat(found).norm())
        return total

    probe = deltamem.read_probe(model, ids, state, counted)
    assert probe.of(state) == pytest.approx(read(state.states), rel=1e-5)
    way = live_state(model, seed=8)
    step = 1e-2
    ahead, back = (
        read(tuple(s + sign * step * w for s, w in zip(state.states, way.states, strict=True))) for sign in (1, -1)
    )
    assert probe.of(way) == pytest.approx((ahead - back) / (2 * step), rel=1e-2)


def test_texts_one_after_another_share_what_is_read_of_the_last() -> None:
    model = adapted(write="message")
    segments = torch.zeros(1, 7, dtype=torch.int64)
    texts = [tokens(1, 7, seed=seed) for seed in (1, 2, 3)]
    states = [live_state(model)]
    for ids in texts:
        states.append(observe(model, ids, states[-1], segment_ids=segments))
    asked = tokens(1, 4, seed=4)
    probe = whole = deltamem.read_probe(model, asked, states[-1], torch.ones(1, 4, dtype=torch.bool))
    found = 0.0
    for ids, before in reversed(list(zip(texts, states, strict=False))):
        shares = deltamem.write_shares(model, ids, before, probe, segment_ids=segments)
        found, probe = found + float(shares.tokens.sum()), shares.probe
    assert found + probe.of(states[0]) == pytest.approx(whole.of(states[-1]), rel=1e-4)
    assert all(parameter.grad is None for parameter in model.parameters())


def test_of_an_empty_memory_nothing_is_read() -> None:
    model = adapted()
    empty = deltamem.new_state(model)
    probe = deltamem.read_probe(model, tokens(1, 5), empty, torch.ones(1, 5, dtype=torch.bool))
    assert probe.of(empty) == 0
    assert not deltamem.write_shares(model, tokens(1, 6), empty, probe).tokens.any()


def test_no_text_has_no_shares() -> None:
    model = adapted()
    state = live_state(model)
    probe = deltamem.read_probe(model, tokens(1, 5), state, torch.ones(1, 5, dtype=torch.bool))
    shares = deltamem.write_shares(model, tokens(1, 0), state, probe)
    assert shares.tokens.shape == (0,)
    assert shares.probe.of(state) == pytest.approx(probe.of(state))
