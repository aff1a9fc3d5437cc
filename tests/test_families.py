"""Every family of the table, on a small random model."""

from typing import Any

import pytest
import torch
from torch import Tensor, nn

import deltamem
from deltamem import DeltaMemConfig, Step
from tiny import CONFIGS, adapted, assert_same_state, backbone, enliven, live_state, tokens

pytestmark = pytest.mark.parametrize("family", CONFIGS)
LENGTH = 23


def run(model: nn.Module, ids: Tensor, state: deltamem.MemoryState, cuts: list[int]) -> tuple[Tensor, Any]:
    """Logits and memory after feeding ``ids`` in pieces of the given sizes."""
    cache = deltamem.memory_cache(model, state)
    with torch.no_grad():
        pieces = [model(piece, past_key_values=cache).logits for piece in ids.split(cuts, dim=1)]
    return torch.cat(pieces, 1), cache.memory


@pytest.mark.parametrize("cuts", [[7, 1, 9, 6], [1] * LENGTH], ids=["chunks", "tokens"])
def test_a_sequence_may_be_cut_anywhere(family: str, cuts: list[int]) -> None:
    model = adapted(family)
    ids, state = tokens(2, LENGTH), live_state(model, 2)
    logits, memory = run(model, ids, state, [LENGTH])
    cut_logits, cut_memory = run(model, ids, state, cuts)
    torch.testing.assert_close(cut_logits, logits, rtol=1e-4, atol=1e-4)
    assert_same_state(cut_memory, memory, 1e-4)


@pytest.mark.parametrize("side", ["left", "right"])
def test_neither_padding_nor_neighbours_change_a_row(family: str, side: str) -> None:
    model = adapted(family)
    ids, state = tokens(3, LENGTH), live_state(model, 3)
    lengths = [LENGTH, 14, 1]
    mask = torch.zeros(3, LENGTH, dtype=torch.int64)
    for row, length in enumerate(lengths):
        mask[row, slice(LENGTH - length, None) if side == "left" else slice(length)] = 1
    places = (mask.cumsum(1) - 1).clamp(min=0)
    step = Step(state)
    with torch.no_grad():
        together = model(ids, attention_mask=mask, position_ids=places, memory=step, use_cache=False).logits
        for row in range(3):
            real = mask[row].bool()
            alone = Step(state.row(row))
            logits = model(ids[row : row + 1, real], memory=alone, use_cache=False).logits
            torch.testing.assert_close(together[row, real], logits[0], rtol=1e-4, atol=1e-4)
            assert_same_state(step.new_state.row(row), alone.new_state, 1e-4)
    assert step.new_state.tokens.tolist() == lengths


def test_zero_heads_leave_the_backbone_bit_for_bit(family: str) -> None:
    model, ids = backbone(family), tokens(2, LENGTH)
    with torch.no_grad():
        bare = model(ids).logits
        deltamem.attach(model, DeltaMemConfig(init="zero", heads=("q", "k", "v", "o")))
        step = Step(live_state(model, 2))
        assert torch.equal(model(ids, memory=step).logits, bare)
    assert step.new_state.diff(step.state).min() > 0


def test_detaching_restores_everything(family: str) -> None:
    model, ids = backbone(family), tokens(2, LENGTH)
    names = [name for name, _ in model.named_parameters()]
    model.get_parameter(names[0]).requires_grad_(False)
    weights = {name: value.clone() for name, value in model.state_dict().items()}
    wanted = {name: parameter.requires_grad for name, parameter in model.named_parameters()}
    kinds = {name: type(module) for name, module in model.named_modules()}
    own = set(vars(model))
    with torch.no_grad():
        bare = model(ids).logits
        deltamem.attach(model, DeltaMemConfig(heads=("q", "k", "v", "o")))
        deltamem.attach(model, DeltaMemConfig(layers=(1,)), name="second")
        enliven(model)
        assert not torch.equal(model(ids).logits, bare)
        deltamem.detach(model)
        assert torch.equal(model(ids).logits, bare)
    assert list(model.state_dict()) == list(weights)
    assert all(torch.equal(value, weights[name]) for name, value in model.state_dict().items())
    assert {name: parameter.requires_grad for name, parameter in model.named_parameters()} == wanted
    assert {name: type(module) for name, module in model.named_modules()} == kinds
    assert set(vars(model)) == own
    assert not any(module._forward_hooks or module._forward_pre_hooks for module in model.modules())


def attentions(model: nn.Module) -> list[nn.Module]:
    """The attention blocks of an unattached model that own projections, in layer order."""
    found = []
    for module in model.modules():
        if any(hasattr(module, name) for name in ("q_proj", "qkv_proj", "c_attn", "query_key_value")):
            found.append(module)
    return found


def own_weights(family: str, attention: nn.Module) -> dict[str, Tensor]:
    """Views ``[out, in]`` of the q, k, v and o weights, from what the family's own code does with them."""
    a: Any = attention
    if family == "phi3":
        q, k, v = a.qkv_proj.weight[:32], a.qkv_proj.weight[32:48], a.qkv_proj.weight[48:]
        return {"q": q, "k": k, "v": v, "o": a.o_proj.weight}
    if family == "gpt2":
        q, k, v = (a.c_attn.weight[:, i : i + 32].t() for i in (0, 32, 64))
        return {"q": q, "k": k, "v": v, "o": a.c_proj.weight.t()}
    if family == "gpt_neox":
        by_head = a.query_key_value.weight.view(4, 24, 32)
        q, k, v = by_head[:, :8], by_head[:, 8:16], by_head[:, 16:]
        return {"q": q, "k": k, "v": v, "o": a.dense.weight}
    output = {"phi": "dense", "gpt_neo": "out_proj"}.get(family, "o_proj")
    return {"q": a.q_proj.weight, "k": a.k_proj.weight, "v": a.v_proj.weight, "o": getattr(a, output).weight}


@pytest.mark.parametrize("head", ["q", "k", "v"])
def test_a_correction_lands_on_its_projection(family: str, head: str) -> None:
    """Reading without normalisation is linear in the input: the same as other projection weights."""
    model, edited, ids = backbone(family), backbone(family), tokens(2, LENGTH)
    config = DeltaMemConfig(rank=4, states=2, alpha=8.0, heads=(head,), normalize_qk=False)  # type: ignore[arg-type]
    attachment = deltamem.attach(model, config)
    enliven(model)
    state = live_state(model)
    with torch.no_grad():
        for memory, attention, s in zip(attachment.memories(), attentions(edited), state.states, strict=True):
            parts = memory.named_parts()
            read = torch.block_diag(*s[0]) @ parts["q_proj"]
            weight = own_weights(family, attention)[head]
            weight.add_(2.0 * (parts[f"delta_{head}"] @ read).view_as(weight))
        step = Step(state.repeat_interleave(2), write=False)
        logits = model(ids, memory=step).logits
        wanted = edited(ids).logits
        with deltamem.disabled(model):
            assert not torch.allclose(model(ids).logits, wanted, atol=1e-2)
    torch.testing.assert_close(logits, wanted, rtol=1e-4, atol=1e-4)


def test_an_attention_whose_projections_get_a_copy_of_its_input_is_refused(family: str) -> None:
    model, ids = backbone(family), tokens(2, LENGTH)
    first = attentions(model)[0]
    deltamem.attach(model, DeltaMemConfig(rank=4, heads=("q", "o")))

    def copy(_: nn.Module, args: tuple[Any, ...], kwargs: dict[str, Any]) -> Any:
        return tuple(x.clone() if isinstance(x, Tensor) else x for x in args), {
            name: x.clone() if name == "hidden_states" else x for name, x in kwargs.items()
        }

    first.register_forward_pre_hook(copy, with_kwargs=True)
    with torch.no_grad(), pytest.raises(RuntimeError, match="the corrections of q were lost"):
        model(ids)


def test_the_output_correction_is_added_to_the_attention_output(family: str) -> None:
    model, ids = backbone(family), tokens(2, LENGTH)
    first = attentions(model)[0]
    attachment = deltamem.attach(model, DeltaMemConfig(rank=4, heads=("o",), normalize_qk=False))
    enliven(model)
    state = live_state(model, 2)
    seen: dict[str, Any] = {}
    wrapper = next(m for m in model.modules() if getattr(m, "attention", None) is first)
    first.register_forward_pre_hook(
        lambda _, args, kwargs: seen.update(x=args[0] if args else kwargs["hidden_states"]), with_kwargs=True
    )
    first.register_forward_hook(lambda _, args, output: seen.update(bare=output[0]))
    wrapper.register_forward_hook(lambda _, args, output: seen.update(corrected=output[0]))
    with torch.no_grad():
        model(ids, memory=Step(state, write=False))
    parts = attachment.memories()[0].named_parts()
    query = seen["x"] @ parts["q_proj"].t()
    read = torch.einsum("bij,btj->bti", state.states[0][:, 0], query)
    torch.testing.assert_close(
        seen["corrected"] - seen["bare"], 4.0 * read @ parts["delta_o"].t(), rtol=1e-4, atol=1e-4
    )


@pytest.mark.parametrize(("init", "columns"), [("base_slice", 12), ("base_slice_fixed", 8)])
def test_base_slice_takes_the_backbones_own_columns(family: str, init: Any, columns: int) -> None:
    model = backbone(family)
    weights = [own_weights(family, attention) for attention in attentions(model)]
    config = DeltaMemConfig(rank=12, heads=("q", "k", "v", "o"), init=init, init_gain=0.05)
    for memory, own in zip(deltamem.attach(model, config).memories(), weights, strict=True):
        for head, weight in own.items():
            delta = memory.named_parts()[f"delta_{head}"]
            first = weight.flatten(0, -2)[:, :columns]
            torch.testing.assert_close(delta[:, :columns], 0.05 * first / first.norm(dim=0))
            assert not delta[:, columns:].any()
