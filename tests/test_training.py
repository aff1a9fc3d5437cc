"""Gradients: through one pass, from pass to pass, and with activations recomputed."""

from typing import Any

import pytest
import torch
from torch import Tensor, nn

import deltamem
import plain
from deltamem import DeltaMemConfig, MemoryState, Step
from tiny import CONFIGS, adapted, backbone, tokens


def gradients(model: nn.Module, *, both: bool = False, **config: Any) -> tuple[float, dict[str, Tensor]]:
    """Loss and gradients of one episode: a pass that writes, then one that reads and answers."""
    model.zero_grad()
    torch.manual_seed(0)  # of the dropout that some families have
    support, query = tokens(2, 14), tokens(2, 6, seed=5)
    write = Step(deltamem.new_state(model, 2), **config)
    with torch.autocast("cpu", torch.bfloat16, enabled=both):
        model(support, memory=write, use_cache=False)
        written = write.new_state
        loss = model(query, labels=query, memory=Step(written, write=False), use_cache=False).loss
    loss.backward()
    assert write.new_state.states[0] is written.states[0]
    return loss.item(), {name: p.grad.clone() for name, p in model.named_parameters() if p.grad is not None}


@pytest.mark.parametrize(
    "fields",
    [
        {},
        {"states": 2, "coupled_gates": False},
        {"update_rule": "lambda_outside"},
        {"update_rule": "hebbian"},
        {"update_rule": "accumulate", "states": 2},
        {"gates": "fixed"},
    ],
    ids=str,
)
def test_a_layers_gradients_are_those_of_the_plain_walk(fields: dict[str, Any]) -> None:
    config = DeltaMemConfig(rank=3, output_norm=True, scale="head", heads=("q", "k", "v", "o"), **fields)
    memory = plain.layer(config)
    x = torch.randn(1, 7, 6, generator=torch.Generator().manual_seed(1)).requires_grad_()
    start = torch.randn(1, config.states, 3, 3, generator=torch.Generator().manual_seed(2)).requires_grad_()
    found, step = plain.forward(memory, x, Step(MemoryState((start,), torch.zeros(1, dtype=torch.int64))))
    loss = sum(delta.sin().sum() for delta in found.values()) + step.new_state.states[0].sin().sum()
    wanted, state, parts = torch.zeros(()), start[0], memory.named_parts()
    for token in x[0]:
        deltas = plain.corrections(config, parts, plain.read(config, parts, state, token))
        wanted = wanted + sum(delta.sin().sum() for delta in deltas.values())
        state = plain.write(config, parts, state, token)
    wanted = wanted + state.sin().sum()
    inputs = [*memory.parameters(), x, start]
    torch.testing.assert_close(
        torch.autograd.grad(loss, inputs), torch.autograd.grad(wanted, inputs), rtol=1e-3, atol=1e-3
    )


def test_the_read_pass_teaches_the_write_pass() -> None:
    _, found = gradients(adapted())
    assert found.keys() == {name for name, _ in adapted().named_parameters() if ".adapters." in name}
    for name, gradient in found.items():
        assert gradient.abs().max() > 0, name


@pytest.mark.parametrize("family", sorted(set(CONFIGS) - {"gpt_neo"}))
def test_gradient_checkpointing_changes_no_gradient(family: str) -> None:
    model = adapted(family).train()
    runs = []
    model.get_output_embeddings().register_forward_hook(lambda *_: runs.append("pass"))
    first = deltamem.attached(model).memories()[0]
    first.register_forward_hook(lambda *_: runs.append("layer"))
    loss, wanted = gradients(model)
    assert runs.count("layer") == 2
    model.activation_checkpointing_enable({"use_reentrant": False})
    again, found = gradients(model)
    assert runs.count("layer") == 6  # each pass recomputes the layer once
    assert again == pytest.approx(loss)
    torch.testing.assert_close(found, wanted)


def test_segment_writes_are_checkpointed_too() -> None:
    ids = torch.tensor([[0] * 5 + [1] * 9, [-1] * 4 + [0] * 10])
    model = adapted(write="message").train()
    _, wanted = gradients(model, segment_ids=ids, close=True)
    model.activation_checkpointing_enable({"use_reentrant": False})
    _, found = gradients(model, segment_ids=ids, close=True)
    assert len(found) == 9
    torch.testing.assert_close(found, wanted)


def test_reentrant_checkpointing_is_refused() -> None:
    model = adapted().train()
    model.activation_checkpointing_enable({"use_reentrant": True})
    with pytest.raises(ValueError, match=r"Reentrant.*use_reentrant=False"):
        model(tokens(1, 4))
    model.eval()
    model(tokens(1, 4))


def test_checkpointing_where_keywords_do_not_pass_is_refused() -> None:
    model = adapted("gpt_neo").train()
    model.activation_checkpointing_enable()
    with pytest.raises(RuntimeError, match="gradient checkpointing must be off, as for GPT-Neo"):
        model(tokens(1, 4))


def test_a_loss_with_gpt_neo_needs_no_cache_from_the_caller() -> None:
    _, found = gradients(adapted("gpt_neo").train())
    assert all(gradient.abs().max() > 0 for gradient in found.values())


def test_autocast_leaves_the_state_in_float32() -> None:
    model = adapted()
    with torch.no_grad(), torch.autocast("cpu", torch.bfloat16):
        memory = model(tokens(2, 9)).past_key_values.memory
    assert {state.dtype for state in memory.states} == {torch.float32}
    loss, _ = gradients(model)
    assert gradients(model, both=True)[0] == pytest.approx(loss, rel=0.1)


def test_an_adapter_learns_what_the_backbone_cannot_see() -> None:
    model = backbone()
    deltamem.attach(model, DeltaMemConfig(rank=4, alpha=8.0, heads=("q", "o")))
    frozen = {name: p.clone() for name, p in model.named_parameters() if not p.requires_grad}
    optimizer = torch.optim.AdamW([p for p in model.parameters() if p.requires_grad], lr=2e-2)
    facts = torch.arange(10, 18)[:, None]
    query = torch.full((8, 2), 5)
    losses = []
    for _ in range(60):
        step = Step(deltamem.new_state(model, 8))
        model(facts, memory=step, use_cache=False)
        logits = model(query, memory=Step(step.new_state, write=False), use_cache=False).logits[:, -1]
        loss = nn.functional.cross_entropy(logits, facts[:, 0])
        optimizer.zero_grad()
        loss.backward()
        optimizer.step()
        losses.append(loss.item())
    assert losses[-1] < 0.5 * losses[0]
    assert all(torch.equal(value, model.get_parameter(name)) for name, value in frozen.items())
