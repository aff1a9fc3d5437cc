"""Attaching: adapters by name, layer choice, reports, and what is refused."""

import copy
from pathlib import Path
from typing import Any

import pytest
import torch
from torch import Tensor, nn
from transformers import AutoModelForCausalLM, Qwen3Config

import deltamem
from deltamem import DeltaMemConfig, Family, Step
from deltamem.attach.families import FAMILIES
from tiny import adapted, assert_same_state, backbone, enliven, live_state, tokens


def logits(model: nn.Module, seed: int = 2) -> Tensor:
    with torch.no_grad():
        return model(tokens(2, 11, seed)).logits  # type: ignore[no-any-return]


def test_several_adapters_one_active() -> None:
    model = backbone()
    bare = logits(model)
    attachment = deltamem.attach(model, DeltaMemConfig(rank=4), name="first")
    enliven(model)
    first = logits(model)
    assert deltamem.attach(model, DeltaMemConfig(rank=3, states=2, layers=(1,)), name="second") is attachment
    enliven(model)
    second = logits(model)
    assert attachment.active == "second"
    assert deltamem.new_state(model, 2).states[0].shape == (2, 2, 3, 3)
    assert attachment.layer_numbers() == (1,)
    assert attachment.layer_numbers("first") == (0, 1, 2)
    attachment.activate("first")
    assert torch.equal(logits(model), first)
    attachment.activate(None)
    assert torch.equal(logits(model), bare)
    attachment.activate("second")
    attachment.remove("first")
    assert attachment.active == "second"
    assert torch.equal(logits(model), second)
    attachment.remove("second")
    assert attachment.active is None
    assert torch.equal(logits(model), bare)
    assert len({tuple(x.flatten().tolist()) for x in (bare, first, second)}) == 3


def test_removing_the_active_adapter_leaves_the_newest() -> None:
    model = backbone()
    for name in ("a", "b", "c"):
        attachment = deltamem.attach(model, name=name)
    attachment.remove("c")
    assert attachment.active == "b"
    assert repr(attachment) == "Attachment(Qwen3ForCausalLM, adapters=['a', 'b'], active='b')"


def test_a_notebook_cell_can_be_run_twice() -> None:
    model = backbone()
    deltamem.attach(model, DeltaMemConfig(rank=4))
    attachment = deltamem.attach(model, DeltaMemConfig(rank=8))
    assert (list(attachment.configs), attachment.config.rank) == (["default"], 8)
    with pytest.raises(ValueError, match="layers 0 to 2"):
        deltamem.attach(model, DeltaMemConfig(layers=(3,)))
    assert attachment.config.rank == 8
    enliven(model)
    before = logits(model)
    with pytest.raises(ValueError, match="named 'default' already, and it has changed since it was put on; choose"):
        deltamem.attach(model, DeltaMemConfig(rank=8))
    assert torch.equal(logits(model), before)


def test_names_are_checked() -> None:
    attachment = deltamem.attach(backbone(), name="work")
    with pytest.raises(ValueError, match="named 'work' already"):
        attachment.add("work", DeltaMemConfig())
    with pytest.raises(ValueError, match="PyTorch uses the name 'half'"):
        attachment.add("half", DeltaMemConfig())
    for name in ("", "a.b"):
        with pytest.raises(ValueError, match="must not be empty or contain a dot"):
            attachment.add(name, DeltaMemConfig())
    for act in (attachment.activate, attachment.remove):
        with pytest.raises(ValueError, match="no adapter 'home'; there are: work"):
            act("home")


def test_disabled_is_the_bare_backbone_even_after_an_error() -> None:
    model = adapted()
    live = logits(model)
    with deltamem.disabled(model):
        off = logits(model)
        with deltamem.disabled(model):
            assert torch.equal(logits(model), off)
        assert torch.equal(logits(model), off)
    with pytest.raises(ValueError, match="exactly one of input_ids"), deltamem.disabled(model):
        model()
    assert torch.equal(logits(model), live)
    deltamem.detach(model)
    assert torch.equal(logits(model), off)


def test_only_the_adapter_trains() -> None:
    model = adapted()
    names = {name for name, parameter in model.named_parameters() if parameter.requires_grad}
    assert names
    assert all(".adapters.default." in name for name in names)


@pytest.mark.parametrize(("states", "millions"), [(1, 4.87), (4, 19.47)])
def test_the_published_sizes_on_qwen3_4b(states: int, millions: float) -> None:
    config = Qwen3Config(
        hidden_size=2560, num_hidden_layers=36, num_attention_heads=32, num_key_value_heads=8, head_dim=128,
        intermediate_size=9728, vocab_size=151936,
    )  # fmt: skip
    with torch.device("meta"):
        model = AutoModelForCausalLM.from_config(config)
    backbone_size = sum(parameter.numel() for parameter in model.parameters())
    report = deltamem.attach(model, DeltaMemConfig(rank=8, states=states, heads=("q", "o"))).report()
    assert round(report.adapter / 1e6, 2) == millions
    assert report.trainable == report.adapter
    assert report.total == report.adapter + backbone_size
    assert f"{report.adapter:,} parameters" in str(report)


@pytest.mark.parametrize(("layers", "chosen"), [("back:1", {2}), ("front:2", {0, 1}), ((0, 2), {0, 2})])
def test_only_the_chosen_layers_remember(layers: Any, chosen: set[int]) -> None:
    model = adapted(layers=layers, init="zero")
    attachment = deltamem.attached(model)
    assert set(attachment.layer_numbers()) == chosen
    cache = deltamem.memory_cache(model)
    with torch.no_grad():
        model(tokens(1, 8), past_key_values=cache)
    assert len(cache.memory.states) == len(chosen)
    assert cache.memory.norms().min() > 0


@pytest.mark.parametrize("attention", ["eager", "sdpa"])
@pytest.mark.parametrize("family", ["qwen3", "gemma3"])
def test_attention_kernels_agree(family: str, attention: str) -> None:
    model, other = adapted(family), adapted(family, attention=attention)
    mask = torch.ones(2, 11, dtype=torch.int64)
    mask[1, :4] = 0
    steps = [Step(live_state(model, 2)) for _ in range(2)]
    with torch.no_grad():
        a = model(tokens(2, 11), attention_mask=mask, memory=steps[0]).logits
        b = other(tokens(2, 11), attention_mask=mask, memory=steps[1]).logits
    torch.testing.assert_close(a[mask.bool()], b[mask.bool()], rtol=1e-4, atol=1e-4)
    assert_same_state(steps[0].new_state, steps[1].new_state)


def test_a_bfloat16_backbone_keeps_a_float32_state() -> None:
    model = backbone(dtype=torch.bfloat16)
    deltamem.attach(model)
    enliven(model)
    cache = deltamem.memory_cache(model)
    with torch.no_grad():
        out = model(tokens(2, 9), past_key_values=cache)
        model(tokens(2, 1), past_key_values=cache)
    assert out.logits.dtype == torch.bfloat16
    assert {state.dtype for state in cache.memory.states} == {torch.float32}
    deltamem.attached(model).memories()[0].to(torch.bfloat16)
    step = Step(cache.memory)
    model(tokens(2, 9), memory=step)
    assert step.new_state.states[0].dtype == torch.float32


def test_a_rank_beyond_the_compiled_loop_works_on_a_cpu() -> None:
    model, ids = adapted(rank=129, alpha=129.0), tokens(1, 6)
    whole, split = Step(live_state(model)), deltamem.memory_cache(model, live_state(model))
    with torch.no_grad():
        model(ids, memory=whole)
        for token in ids.split(1, 1):
            model(token, past_key_values=split)
    assert_same_state(split.memory, whole.new_state, 1e-4)


class OddAttention(nn.Module):
    """An attention of its own kind, which returns a tensor and names its projections in its own way."""

    def __init__(self, theirs: nn.Module) -> None:
        super().__init__()
        self.config = theirs.config
        self.wq, self.wk, self.wv, self.wo = theirs.q_proj, theirs.k_proj, theirs.v_proj, theirs.o_proj

    def forward(self, hidden_states: Tensor, **_: Any) -> Tensor:
        q, k, v = self.wq(hidden_states), self.wk(hidden_states), self.wv(hidden_states)
        mixed = nn.functional.scaled_dot_product_attention(
            *(x.unflatten(-1, (-1, 8)).transpose(1, 2) for x in (q, k, v)), is_causal=True, enable_gqa=True
        )
        return self.wo(mixed.transpose(1, 2).flatten(2))  # type: ignore[no-any-return]


class Paired(nn.Module):
    """Puts the tensor of an attention where its block looks for it."""

    def __init__(self, inner: nn.Module) -> None:
        super().__init__()
        self.inner = inner

    def forward(self, *args: Any, **kwargs: Any) -> tuple[Tensor, None]:
        return self.inner(*args, **kwargs), None


def odd_model() -> nn.Module:
    model = backbone("llama")
    for block in model.model.layers:
        block.self_attn = Paired(OddAttention(block.self_attn))
    return model


def test_an_unknown_attention_is_named_and_can_be_taught() -> None:
    model = odd_model()
    before = {name: parameter.requires_grad for name, parameter in model.named_parameters()}
    with pytest.raises(ValueError, match=r"OddAttention.*register_family\(.*Family\('ItsAttentionClass'"):
        deltamem.attach(model)
    assert {name: parameter.requires_grad for name, parameter in model.named_parameters()} == before
    try:
        deltamem.register_family(Family("OddAttention", output="wo", inputs=("wq", "wk", "wv")))
        bare = logits(model)
        deltamem.attach(model, DeltaMemConfig(heads=("q", "k", "v", "o")))
        enliven(model)
        step = Step(live_state(model, 2))
        with torch.no_grad():
            live = model(tokens(2, 11), memory=step).logits
            alone = model(tokens(2, 11)[1:], memory=Step(live_state(model, 2).row(1))).logits
        assert not torch.allclose(live, bare, atol=1e-2)
        torch.testing.assert_close(live[1:], alone, rtol=1e-4, atol=1e-4)
        deltamem.detach(model)
        assert torch.equal(logits(model), bare)
    finally:
        FAMILIES.drop("OddAttention")


def test_a_wrong_row_of_the_table_is_named() -> None:
    model = odd_model()
    try:
        deltamem.register_family(Family("OddAttention", output="wp", inputs=("wq", "wk", "wv")))
        with pytest.raises(ValueError, match="OddAttention has no projection 'wp'"):
            deltamem.attach(model)
    finally:
        FAMILIES.drop("OddAttention")


def test_what_cannot_be_attached_to_is_left_as_it_was() -> None:
    with pytest.raises(ValueError, match="no attention module"):
        deltamem.attach(nn.Sequential(nn.Linear(2, 2)))
    model = backbone()
    with pytest.raises(ValueError, match="cannot generate"):
        deltamem.attach(model.model)
    with pytest.raises(ValueError, match="layers 0 to 2"):
        deltamem.attach(model, DeltaMemConfig(layers=(3,)))
    assert all(parameter.requires_grad for parameter in model.parameters())
    assert not any(module._forward_hooks or module._forward_pre_hooks for module in model.modules())
    for act in (deltamem.attached, deltamem.detach, deltamem.new_state, deltamem.memory_cache):
        with pytest.raises(ValueError, match="carries no memory"):
            act(model)


def test_a_part_of_an_attached_model_is_not_attached_to_again() -> None:
    model = nn.Module()
    model.inner = adapted()
    model.generate = None
    with pytest.raises(ValueError, match="carries a memory already"):
        deltamem.attach(model)


def test_a_failed_second_adapter_changes_nothing() -> None:
    model = adapted()
    before, names = logits(model), list(model.state_dict())
    with pytest.raises(ValueError, match="layers 0 to 2"):
        deltamem.attach(model, DeltaMemConfig(layers=(3,)), name="second")
    assert torch.equal(logits(model), before)
    assert list(model.state_dict()) == names


def test_a_state_of_another_adapter_is_refused() -> None:
    model = adapted()
    for other in ({"rank": 3}, {"states": 2}, {"layers": (1,)}):
        state = deltamem.new_state(adapted(**other), 2)
        with pytest.raises(ValueError, match="belongs to another adapter"):
            model(tokens(2, 5), memory=Step(state))


def test_positional_arguments_are_understood() -> None:
    model, ids = adapted(), tokens(2, 8)
    mask = torch.ones_like(ids)
    mask[0, :3] = 0
    with torch.no_grad():
        by_place = model.model(ids, mask).past_key_values.memory
        by_name = model.model(input_ids=ids, attention_mask=mask).past_key_values.memory
    assert by_place.tokens.tolist() == [5, 8]
    assert_same_state(by_place, by_name)


def test_a_call_without_input_is_refused_by_the_model() -> None:
    with pytest.raises(ValueError, match="exactly one of input_ids"):
        adapted()()


def test_embeddings_do_as_well_as_tokens() -> None:
    model, ids = adapted(), tokens(2, 8)
    with torch.no_grad():
        by_id = model(ids)
        by_vector = model(inputs_embeds=model.get_input_embeddings()(ids))
    assert torch.equal(by_id.logits, by_vector.logits)
    assert_same_state(by_id.past_key_values.memory, by_vector.past_key_values.memory)


def test_a_copy_of_an_attached_model_is_its_own() -> None:
    model = adapted()
    before = logits(model)
    twin = copy.deepcopy(model)
    assert deltamem.attached(twin).model is twin
    assert torch.equal(logits(twin), before)
    enliven(twin, seed=9)
    changed = logits(twin)
    assert not torch.equal(changed, before)
    assert torch.equal(logits(model), before)
    with deltamem.disabled(model):
        assert torch.equal(logits(twin), changed)
        drawn = twin.generate(tokens(1, 4), max_new_tokens=3, do_sample=False)
    deltamem.detach(model)
    assert torch.equal(logits(twin), changed)
    assert torch.equal(twin.generate(tokens(1, 4), max_new_tokens=3, do_sample=False), drawn)
    deltamem.detach(twin)
    assert torch.equal(logits(twin), logits(model))


def test_a_state_dict_returns_to_an_attached_model() -> None:
    model, other = adapted(), adapted()
    enliven(other, seed=5)
    other.load_state_dict(model.state_dict())
    assert torch.equal(logits(model), logits(other))


def test_a_models_own_methods_come_back() -> None:
    model = backbone()
    own = model.generate = lambda *args, **kwargs: "its own"
    deltamem.attach(model)
    assert model.generate(tokens(1, 4), use_cache=False) == "its own"
    deltamem.detach(model)
    assert model.generate is own
    assert "save_pretrained" not in vars(model)


def test_an_attached_backbone_is_not_stored_under_other_names(tmp_path: Path) -> None:
    model = adapted()
    with pytest.raises(ValueError, match=r"save_adapter\(\) stores the adapter.*detach\(\) first"):
        model.save_pretrained(tmp_path)
    assert not list(tmp_path.iterdir())
    deltamem.detach(model)
    model.save_pretrained(tmp_path)
    assert torch.equal(logits(AutoModelForCausalLM.from_pretrained(tmp_path)), logits(model))


def test_a_bare_state_is_no_step() -> None:
    model = adapted()
    with pytest.raises(TypeError, match=r"takes a deltamem\.Step, not a MemoryState.*Step\(state\)"):
        model(tokens(1, 4), memory=live_state(model))


@pytest.mark.parametrize("act", [deltamem.attach, deltamem.attached, deltamem.new_state, deltamem.adapter_fingerprint])
def test_the_name_of_a_model_is_no_model(act: Any) -> None:
    with pytest.raises(TypeError, match=r"Give a loaded model, not str 'Qwen/Qwen3-0\.6B'.*from_pretrained\('Qwen/"):
        act("Qwen/Qwen3-0.6B")


def test_an_object_of_options_is_no_configuration() -> None:
    model: Any = backbone()
    with pytest.raises(TypeError, match=r"Give a DeltaMemConfig, not dict, as in DeltaMemConfig\(rank=8\)"):
        deltamem.attach(model, {"rank": 8})  # type: ignore[arg-type]
    with pytest.raises(ValueError, match="carries no memory"):
        deltamem.attached(model)


@pytest.mark.parametrize("positions", [[[0, 1, 2, 3, 0, 1, 2]], [[5, 6, 0, 1, 2, 3, 4]]])
def test_several_texts_in_one_row_are_refused(positions: list[list[int]]) -> None:
    model = adapted()
    ids = tokens(1, 7)
    with pytest.raises(ValueError, match=r"position_ids start again at token [24].*Give each text a row of its own"):
        model(ids, position_ids=torch.tensor(positions))
    with pytest.raises(ValueError, match="cu_seq_lens_q says that a row holds several texts"):
        model(ids, cu_seq_lens_q=torch.tensor([0, 4, 7]))
    with deltamem.disabled(model):
        model(ids, position_ids=torch.tensor(positions))


def test_positions_of_padding_do_not_matter() -> None:
    model = adapted()
    ids, mask = tokens(1, 6), torch.tensor([[0, 0, 1, 1, 1, 1]])
    padded = model(ids, attention_mask=mask, position_ids=torch.tensor([[1, 1, 0, 1, 2, 3]])).logits[:, 2:]
    torch.testing.assert_close(padded, model(ids[:, 2:]).logits, rtol=1e-4, atol=1e-4)
    model(ids, position_ids=torch.arange(4, 10)[None])


def test_layers_on_disk_run_where_they_are_brought(tmp_path: Path) -> None:
    whole = adapted("llama")
    deltamem.save_adapter(whole, tmp_path / "adapter")
    backbone("llama").save_pretrained(tmp_path / "model")
    places = dict.fromkeys(("model.embed_tokens", "model.rotary_emb", "model.norm", "lm_head"), "cpu")
    places |= {"model.layers.0": "cpu", "model.layers.1": "disk", "model.layers.2": "disk"}
    part = AutoModelForCausalLM.from_pretrained(
        tmp_path / "model", device_map=places, offload_folder=tmp_path / "offload", dtype=torch.float32
    )
    deltamem.load_adapter(part, tmp_path / "adapter")
    ids = tokens(2, 7)
    with torch.no_grad():
        torch.testing.assert_close(part(ids).logits, whole(ids).logits, rtol=1e-4, atol=1e-4)
    with pytest.raises(ValueError, match=r"layers\.1\.self_attn\.q_proj is offloaded.*init='zero'"):
        deltamem.attach(part, DeltaMemConfig(), name="fresh")
