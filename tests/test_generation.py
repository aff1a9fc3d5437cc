"""``generate`` with a memory in its cache."""

import logging
import threading
from collections.abc import Iterator
from typing import Any

import pytest
import torch
from torch import Tensor
from transformers import (
    DynamicCache,
    GenerationConfig,
    QuantizedCache,
    StaticCache,
    StoppingCriteria,
    StoppingCriteriaList,
    TextStreamer,
)
from transformers.generation.utils import GenerateBeamDecoderOnlyOutput

import deltamem
from deltamem import MemoryCache, MemoryState, Step
from deltamem.attach.cache import PAST
from tiny import adapted, assert_same_state, backbone, live_state, tokens

EOS, PAD = 2, 0
LENGTHS = (9, 4, 1, 7)


def eager_to_stop(model: Any) -> Any:
    """Lets the model end its replies after a few tokens, at different places in different rows."""
    with torch.no_grad():
        model.lm_head.weight.mul_(3)
        model.lm_head.weight[EOS] *= 2
    return model


def padded(prompts: list[Tensor]) -> tuple[Tensor, Tensor]:
    """Left-padded prompts ``[B, T]`` and their mask."""
    width = max(len(prompt) for prompt in prompts)
    ids = torch.stack([torch.nn.functional.pad(prompt, (width - len(prompt), 0), value=PAD) for prompt in prompts])
    mask = torch.stack([torch.arange(width) >= width - len(prompt) for prompt in prompts])
    return ids, mask.long()


def reply(row: Tensor, width: int) -> list[int]:
    """The generated tokens of a row up to its end."""
    drawn: list[int] = row[width:].tolist()
    return drawn[: drawn.index(EOS)] if EOS in drawn else drawn


@pytest.mark.parametrize("family", ["qwen3", "gemma3", "gpt_neox", "gpt_neo", "phi3"])
def test_a_rows_tokens_and_memory_do_not_depend_on_its_neighbours(family: str) -> None:
    model = eager_to_stop(adapted(family))
    prompts = [tokens(1, length, seed)[0] for seed, length in enumerate(LENGTHS)]
    ids, mask = padded(prompts)
    state = live_state(model, len(prompts))
    cache = deltamem.memory_cache(model, state)
    drawn = model.generate(ids, attention_mask=mask, past_key_values=cache, max_new_tokens=24, do_sample=False)
    replies = [reply(row, ids.shape[1]) for row in drawn]
    for row, prompt in enumerate(prompts):
        alone = deltamem.memory_cache(model, state.row(row))
        own = model.generate(prompt[None], past_key_values=alone, max_new_tokens=24, do_sample=False)
        assert reply(own[0], len(prompt)) == replies[row]
        assert_same_state(cache.memory.row(row), alone.memory, 1e-4)
        by_hand = Step(state.row(row))
        ended = EOS in own[0, len(prompt) :]
        with torch.no_grad():
            model(own[:, :-1] if not ended else own[:, : len(prompt) + len(replies[row])], memory=by_hand)
        assert_same_state(by_hand.new_state, alone.memory, 1e-4)


def test_a_cache_that_was_not_used_is_no_silent_loss(monkeypatch: pytest.MonkeyPatch) -> None:
    model = backbone()
    generate = type(model).generate

    def forgetful(self: Any, *args: Any, **kwargs: Any) -> Any:  # what a version with other names might do
        return generate(self, *args, **{name: value for name, value in kwargs.items() if name != PAST})

    monkeypatch.setattr(type(model), "generate", forgetful)
    deltamem.attach(model)
    with pytest.raises(RuntimeError, match=r"transformers [\d.]+ did not use the cache that carries the memory"):
        model.generate(tokens(1, 5), past_key_values=deltamem.memory_cache(model), max_new_tokens=2)


def test_rows_really_finish_at_different_times() -> None:
    model = eager_to_stop(adapted())
    drawn = model.generate(tokens(6, 5), max_new_tokens=24, do_sample=False)
    assert len({len(reply(row, 5)) for row in drawn}) > 2


def greedy_by_hand(model: Any, ids: Tensor, state: MemoryState, count: int) -> Tensor:
    """Greedy decoding that runs the whole sequence again for each token."""
    with torch.no_grad():
        for _ in range(count):
            logits = model(ids, memory=Step(state), use_cache=False).logits
            ids = torch.cat([ids, logits[:, -1:].argmax(-1)], 1)
    return ids


NEVER_STOP: dict[str, Any] = {"eos_token_id": None, "pad_token_id": PAD}


def test_greedy_is_what_the_whole_sequence_gives() -> None:
    model, ids = adapted(), tokens(2, 6)
    state = live_state(model, 2)
    cache = deltamem.memory_cache(model, state)
    drawn = model.generate(ids, past_key_values=cache, max_new_tokens=10, do_sample=False, **NEVER_STOP)
    assert torch.equal(drawn, greedy_by_hand(model, ids, state, 10))
    assert cache.memory.tokens.tolist() == [15, 15]
    uncached = model.generate(ids, use_cache=False, max_new_tokens=4, do_sample=False, **NEVER_STOP)
    assert torch.equal(uncached, greedy_by_hand(model, ids, deltamem.new_state(model, 2), 4))


def test_the_memory_changes_what_is_said() -> None:
    model, ids = adapted(), tokens(1, 6)
    replies = set()
    for seed in range(4):
        cache = deltamem.memory_cache(model, live_state(model, seed=seed))
        drawn = model.generate(ids, past_key_values=cache, max_new_tokens=8, do_sample=False)
        replies.add(tuple(drawn[0].tolist()))
    assert len(replies) > 1


def test_sampling_is_repeatable_and_leaves_the_memory_of_what_was_drawn() -> None:
    model, ids = adapted(), tokens(2, 6)
    state = live_state(model, 2)
    results = []
    for _ in range(2):
        torch.manual_seed(7)
        cache = deltamem.memory_cache(model, state)
        drawn = model.generate(ids, past_key_values=cache, max_new_tokens=8, do_sample=True, **NEVER_STOP)
        results.append(drawn)
    assert torch.equal(*results)
    step = Step(state)
    with torch.no_grad():
        model(results[0][:, :-1], memory=step)
    assert_same_state(cache.memory, step.new_state, 1e-4)


def test_several_sequences_a_prompt() -> None:
    model, ids = adapted(), tokens(2, 6)
    state = live_state(model, 2)
    cache = deltamem.memory_cache(model, state)
    drawn = model.generate(
        ids, past_key_values=cache, max_new_tokens=8, do_sample=True, num_return_sequences=3, **NEVER_STOP
    )
    assert drawn.shape == (6, 14)
    step = Step(state.repeat_interleave(3))
    with torch.no_grad():
        model(drawn[:, :-1], memory=step)
    assert_same_state(cache.memory, step.new_state, 1e-4)


def beam_by_hand(model: Any, ids: Tensor, state: MemoryState, count: int, beams: int) -> list[int]:
    """Beam search without an end token that runs every beam whole."""
    running = [(0.0, ids[0].tolist())]
    for _ in range(count):
        grown = []
        for score, sequence in running:
            with torch.no_grad():
                logits = model(torch.tensor([sequence]), memory=Step(state), use_cache=False).logits[0, -1]
            for token, one in enumerate(logits.log_softmax(-1).tolist()):
                grown.append((score + one, [*sequence, token]))
        running = sorted(grown, reverse=True)[:beams]
    return running[0][1]


def test_beam_search_reorders_the_memory_with_the_beams() -> None:
    model, ids = eager_to_stop(adapted()), tokens(2, 6)
    state = live_state(model, 2)
    cache = deltamem.memory_cache(model, state)
    drawn = model.generate(
        ids, past_key_values=cache, max_new_tokens=6, num_beams=3, do_sample=False, length_penalty=0.0, **NEVER_STOP
    )
    for row in range(2):
        assert drawn[row].tolist() == beam_by_hand(model, ids[row : row + 1], state.row(row), 6, 3)
    step = Step(state)
    with torch.no_grad():
        model(drawn[:, :-1], memory=step)
    assert_same_state(cache.memory, step.new_state, 1e-4)


class StopsAt(StoppingCriteria):
    """Ends a row that draws a token."""

    def __init__(self, token: int) -> None:
        self.token = token

    def __call__(self, input_ids: Tensor, scores: Any, **kwargs: Any) -> Tensor:
        return input_ids[:, -1] == self.token


BEAMS: dict[str, dict[str, Any]] = {
    "greedy": {"do_sample": False},
    "sampled": {"do_sample": True},
    "early": {"do_sample": False, "early_stopping": True},
    "criteria": {"do_sample": False, "stopping_criteria": StoppingCriteriaList([StopsAt(7)])},
}


@pytest.mark.parametrize("how", BEAMS)
@pytest.mark.parametrize("family", ["qwen3", "gemma3", "gpt_neo"])
def test_after_beam_search_every_returned_sequence_has_its_memory(family: str, how: str) -> None:
    model = eager_to_stop(adapted(family))
    ids, mask = padded([tokens(1, length, seed)[0] for seed, length in enumerate(LENGTHS)])
    width, state = ids.shape[1], live_state(model, len(LENGTHS))
    cache = deltamem.memory_cache(model, state)
    torch.manual_seed(5)
    drawn = model.generate(
        ids,
        attention_mask=mask,
        past_key_values=cache,
        max_new_tokens=12,
        num_beams=4,
        num_return_sequences=3,
        **BEAMS[how],
    )
    last = {EOS, 7} if how == "criteria" else {EOS}
    lengths = set()
    for row, sequence in enumerate(drawn.tolist()):
        fed = next((at for at in range(width, len(sequence)) if sequence[at] in last), len(sequence) - 1)
        step = Step(state.row(row // 3))
        with torch.no_grad():
            model(torch.tensor([sequence[width - LENGTHS[row // 3] : fed]]), memory=step)
        assert_same_state(cache.memory.row(row), step.new_state, 1e-4)
        lengths.add(fed)
    assert len(lengths) > 2


def test_beams_of_segment_writers_start_empty_or_from_a_memory() -> None:
    model, ids = adapted(write="message"), tokens(2, 6)
    segments = torch.tensor([[0, 0, 0, -1, 1, 1]]).expand(2, -1)
    options: dict[str, Any] = {"max_new_tokens": 5, "num_beams": 2, "num_return_sequences": 2, **NEVER_STOP}
    for state in (None, live_state(model, 2)):
        cache = deltamem.memory_cache(model, state, segment_ids=segments)
        drawn = model.generate(ids, past_key_values=cache, do_sample=False, **options)
        before = (deltamem.new_state(model, 2) if state is None else state).repeat_interleave(2)
        step = Step(before, segment_ids=torch.tensor([[0, 0, 0, -1, 1, 1, 9, 9, 9, 9]]).expand(4, -1))
        with torch.no_grad():
            model(drawn[:, :-1], memory=step)
        wanted, found = step.new_state, cache.memory
        assert_same_state(MemoryState(found.states, found.tokens), MemoryState(wanted.states, wanted.tokens), 1e-4)


def test_fewer_sequences_than_beams_may_be_possible() -> None:
    """Where a prompt allows one token only, the other sequences come back without any."""
    model, ids = adapted(), tokens(2, 6)
    cache = deltamem.memory_cache(model, live_state(model, 2))
    options: dict[str, Any] = {"num_beams": 3, "num_return_sequences": 3, "prefix_allowed_tokens_fn": lambda *_: [5]}
    model.generate(ids, past_key_values=cache, max_new_tokens=1, do_sample=False, **options)
    step = Step(live_state(model, 2).repeat_interleave(3))
    with torch.no_grad():
        model(ids.repeat_interleave(3, 0), memory=step)
    assert_same_state(cache.memory, step.new_state, 1e-4)


@pytest.mark.parametrize("place", ["keyword", "config"])
@pytest.mark.parametrize("wanted", [False, True])
def test_beam_search_returns_what_was_asked_for(place: str, wanted: bool) -> None:
    model, ids = adapted(), tokens(2, 6)
    options = {"num_beams": 2, "max_new_tokens": 3, "do_sample": False, "return_dict_in_generate": wanted}
    config = GenerationConfig(**options) if place == "config" else None
    found = model.generate(ids, config) if config else model.generate(ids, **options)
    assert isinstance(found, GenerateBeamDecoderOnlyOutput if wanted else Tensor)
    assert config is None or config.return_dict_in_generate is wanted
    with deltamem.disabled(model):
        assert isinstance(model.generate(ids, config, **({} if config else options)), type(found))


def test_a_cache_is_not_gone_on_from_after_beam_search() -> None:
    model, ids = adapted(), tokens(2, 6)
    cache = deltamem.memory_cache(model, live_state(model, 2))
    options: dict[str, Any] = {"max_new_tokens": 3, "do_sample": False, **NEVER_STOP}
    drawn = model.generate(ids, past_key_values=cache, num_beams=2, **options)
    for go_on in (
        lambda: model.generate(drawn, past_key_values=cache, **options),
        lambda: model(ids, None, None, cache),
    ):
        with pytest.raises(ValueError, match="been through a beam search"):
            go_on()
    memory = cache.memory
    cache.reset()
    fresh = deltamem.memory_cache(model, memory)
    again = [model.generate(ids, past_key_values=c, **options) for c in (cache, fresh)]
    assert torch.equal(*again)


class Kept(TextStreamer):
    """A streamer that keeps the tokens it is given."""

    def __init__(self) -> None:
        self.seen: list[int] = []

    def put(self, value: Tensor) -> None:
        self.seen += value.flatten().tolist()

    def end(self) -> None:
        self.seen.append(-1)


def test_a_streamer_sees_every_token() -> None:
    model, ids, streamer = adapted(), tokens(1, 6), Kept()
    drawn = model.generate(ids, streamer=streamer, max_new_tokens=5, do_sample=False)
    assert streamer.seen == [*drawn[0].tolist(), -1]


@pytest.mark.parametrize("family", ["qwen3", "gemma2", "gpt_neo"])
def test_a_chunked_prompt_gives_the_same(family: str) -> None:
    model, ids = adapted(family), tokens(2, 21)
    mask = torch.ones_like(ids)
    mask[1, :8] = 0
    state = live_state(model, 2)
    results = []
    for size in (None, 5):
        cache = deltamem.memory_cache(model, state)
        drawn = model.generate(
            ids, attention_mask=mask, past_key_values=cache, prefill_chunk_size=size, max_new_tokens=6, do_sample=False
        )
        results.append((drawn, cache.memory))
    assert torch.equal(results[0][0], results[1][0])
    assert_same_state(results[0][1], results[1][1], 1e-4)


@pytest.mark.parametrize(
    "config", [None, GenerationConfig(max_new_tokens=2, do_sample=False)], ids=["kwargs", "config"]
)
def test_a_long_prompt_is_taken_in_by_pieces_and_without_its_logits(config: GenerationConfig | None) -> None:
    model = adapted("qwen3", layers="front:1")
    given, headed = [], []
    model.model.register_forward_pre_hook(lambda _, __, k: given.append(k["input_ids"].shape[1]), with_kwargs=True)
    model.lm_head.register_forward_hook(lambda _, args, __: headed.append(args[0].shape[1]))
    options = {} if config else {"max_new_tokens": 2, "do_sample": False}
    model.generate(tokens(1, 2100), generation_config=config, **options)
    assert given == [1024, 1024, 52, 1]
    assert headed == [1] * len(headed)
    assert config is None or config.prefill_chunk_size is None


def test_a_long_prompt_may_be_embeddings() -> None:
    model, ids = adapted("qwen3", layers="front:1"), tokens(1, 1100)
    memories = []
    for prompt in ({"inputs": ids}, {"inputs_embeds": model.get_input_embeddings()(ids)}):
        cache = deltamem.memory_cache(model, live_state(model))
        model.generate(**prompt, past_key_values=cache, max_new_tokens=2, do_sample=False, **NEVER_STOP)
        memories.append(cache.memory)
    assert_same_state(*memories, 1e-4)


@pytest.fixture
def warned(caplog: pytest.LogCaptureFixture) -> Iterator[pytest.LogCaptureFixture]:
    """What transformers logs, also what it logs once only and did log before."""
    log = logging.getLogger("transformers")
    log.warning_once.cache_clear()
    log.addHandler(caplog.handler)
    yield caplog
    log.removeHandler(caplog.handler)


@pytest.mark.parametrize("options", [{}, {"num_beams": 2}], ids=["greedy", "beams"])
def test_the_memory_causes_no_warnings(options: dict[str, Any], warned: pytest.LogCaptureFixture) -> None:
    model = adapted("qwen3", layers="front:1")
    model.generation_config.max_new_tokens = 2
    model.config.max_position_embeddings = 2048
    model.generate(tokens(1, 1030), do_sample=False, **options)
    model.generate(tokens(1, 1030), GenerationConfig(do_sample=False, **options))
    assert warned.messages == []


@pytest.mark.parametrize("family", ["gpt2", "gpt_neo", "gpt_neox", "phi"])
def test_no_family_computes_the_prompts_logits(family: str) -> None:
    model, headed = adapted(family), []
    head = model.get_output_embeddings()
    head.register_forward_hook(lambda _, args, __: headed.append(args[0].shape[1]))
    model.generate(tokens(2, 12), max_new_tokens=3, do_sample=False)
    assert headed == [1, 1, 1]


def test_a_conversation_goes_on_in_one_cache() -> None:
    model, ids = adapted(), tokens(1, 6)
    state = live_state(model)
    cache = deltamem.memory_cache(model, state)
    options: dict[str, Any] = {"do_sample": False, **NEVER_STOP}
    first = model.generate(ids, past_key_values=cache, max_new_tokens=4, **options)
    longer = torch.cat([first, tokens(1, 5, seed=8)], 1)
    second = model.generate(longer, past_key_values=cache, max_new_tokens=4, **options)
    assert torch.equal(second, greedy_by_hand(model, longer, state, 4))
    step = Step(state)
    with torch.no_grad():
        model(second[:, :-1], memory=step)
    assert_same_state(cache.memory, step.new_state, 1e-4)


def test_answering_from_a_memory_leaves_it() -> None:
    model, ids = adapted(), tokens(2, 6)
    state = live_state(model, 2)
    cache = deltamem.memory_cache(model, state, write=False)
    model.generate(ids, past_key_values=cache, max_new_tokens=4, do_sample=False)
    assert cache.memory is state


def test_generated_tokens_form_a_segment_that_stays_open() -> None:
    model, ids = adapted(write="message"), tokens(1, 6)
    state = live_state(model)
    segments = torch.tensor([[0, 0, 0, -1, 1, 1]])
    cache = deltamem.memory_cache(model, state, segment_ids=segments)
    drawn = model.generate(ids, past_key_values=cache, max_new_tokens=5, do_sample=False, **NEVER_STOP)
    step = Step(state, segment_ids=torch.tensor([[0, 0, 0, -1, 1, 1, 9, 9, 9, 9]]))
    with torch.no_grad():
        model(drawn[:, :-1], memory=step)
    wanted, found = step.new_state, cache.memory
    assert_same_state(MemoryState(found.states, found.tokens), MemoryState(wanted.states, wanted.tokens), 1e-4)
    assert found.open.count.tolist() == [4]
    cache.reset()
    with pytest.raises(ValueError, match="needs segment ids"):
        model.generate(ids, past_key_values=cache, max_new_tokens=2)


def test_a_finished_row_writes_no_segment_members() -> None:
    model = eager_to_stop(adapted(write="message"))
    ids = tokens(4, 5)
    segments = torch.zeros_like(ids)
    state = live_state(model, 4)
    cache = deltamem.memory_cache(model, state, segment_ids=segments)
    model.generate(ids, past_key_values=cache, max_new_tokens=20, do_sample=False)
    assert len(set(cache.memory.open.count.tolist())) > 1
    for row in range(4):
        alone = deltamem.memory_cache(model, state.row(row), segment_ids=segments[row : row + 1])
        model.generate(ids[row : row + 1], past_key_values=alone, max_new_tokens=20, do_sample=False)
        assert_same_state(cache.memory.row(row), alone.memory, 1e-4)


def test_padding_tokens_may_be_drawn_by_rows_that_go_on() -> None:
    model, ids = adapted(), tokens(1, 5)
    with torch.no_grad():
        model.lm_head.weight.zero_()  # every token is as likely: greedy decoding draws token 0, the padding
    cache = deltamem.memory_cache(model)
    drawn = model.generate(ids, past_key_values=cache, max_new_tokens=4, do_sample=False)
    assert drawn[0, 5:].tolist() == [PAD] * 4
    assert cache.memory.tokens.tolist() == [8]


def test_the_end_token_of_a_passed_configuration_counts() -> None:
    model = eager_to_stop(adapted())
    ids, state = tokens(4, 5), live_state(model, 4)
    config = GenerationConfig(max_new_tokens=20, do_sample=False)
    for place in ("positional", "keyword"):
        cache = deltamem.memory_cache(model, state)
        if place == "positional":
            model.generate(ids, config, past_key_values=cache)
        else:
            model.generate(ids, generation_config=config, past_key_values=cache)
        assert len(set(cache.memory.tokens.tolist())) > 1


@pytest.mark.parametrize("kind", ["static", "quantized", "offloaded"])
def test_other_kinds_of_cache_are_refused(kind: str) -> None:
    with pytest.raises(ValueError, match=f"cache_implementation='{kind}' cannot carry a memory"):
        adapted().generate(tokens(1, 4), cache_implementation=kind, max_new_tokens=2)


@pytest.mark.parametrize("kind", ["dynamic", "hybrid"])
def test_the_dynamic_kind_is_ours(kind: str) -> None:
    model, ids = adapted(), tokens(1, 4)
    plain = model.generate(ids, max_new_tokens=3, do_sample=False)
    model.generation_config.cache_implementation = kind  # as the Gemma checkpoints on the Hub have it
    assert torch.equal(model.generate(ids, max_new_tokens=3, do_sample=False), plain)
    assert torch.equal(model.generate(ids, GenerationConfig(max_new_tokens=3, do_sample=False)), plain)


def test_cache_objects_without_a_memory_are_refused() -> None:
    model, ids = adapted(), tokens(1, 4)
    static = StaticCache(model.config, max_cache_len=16)
    for cache in (static, QuantizedCache.__new__(QuantizedCache)):
        with pytest.raises(ValueError, match=f"{type(cache).__name__} carries no memory"):
            model.generate(ids, past_key_values=cache, max_new_tokens=2)
    with torch.no_grad(), deltamem.disabled(model):
        filled = model(ids).past_key_values
    with pytest.raises(ValueError, match="DynamicCache carries no memory"):
        model(ids, past_key_values=filled)


def test_an_empty_plain_cache_is_replaced_once_and_never_misread() -> None:
    model, ids = adapted(), tokens(1, 4)
    plain = DynamicCache(config=model.config)
    with torch.no_grad():
        out = model(ids, past_key_values=plain)
        assert isinstance(out.past_key_values, MemoryCache)
        with pytest.raises(ValueError, match="DynamicCache carries no memory"):
            model(ids[:, :1], past_key_values=plain)


@pytest.mark.parametrize("how", ["assistant", "lookup"])
def test_assisted_decoding_is_refused(how: str) -> None:
    model = adapted()
    options = {"assistant_model": backbone()} if how == "assistant" else {"prompt_lookup_num_tokens": 2}
    with pytest.raises(ValueError, match="cannot be cropped, and assisted or speculative"):
        model.generate(tokens(1, 6), max_new_tokens=4, **options)


def test_a_memory_needs_one_row_a_prompt() -> None:
    model = adapted()
    for rows in (1, 2, 3):
        with pytest.raises(ValueError, match=f"{rows} rows for 4 prompts"):
            model.generate(tokens(4, 3), past_key_values=deltamem.memory_cache(model, live_state(model, rows)))
    cache = deltamem.memory_cache(model, segment_ids=torch.zeros(3, 5))
    with pytest.raises(ValueError, match="segment_ids has 3 rows and the input 4"):
        model(tokens(4, 5), past_key_values=cache)
    with pytest.raises(ValueError, match="segment_ids has 3 rows for 4 prompts"):
        model.generate(tokens(4, 5), past_key_values=cache)


def test_without_a_keyword_the_memory_starts_empty_and_comes_back() -> None:
    model, ids = adapted(), tokens(2, 7)
    step = Step(deltamem.new_state(model, 2))
    with torch.no_grad():
        out = model(ids)
        wanted = model(ids, memory=step)
    assert torch.equal(out.logits, wanted.logits)
    assert isinstance(out.past_key_values, MemoryCache)
    assert_same_state(out.past_key_values.memory, step.new_state)


def test_a_disabled_memory_is_left_alone() -> None:
    model, ids = adapted(), tokens(2, 7)
    state = live_state(model, 2)
    cache = deltamem.memory_cache(model, state)
    with torch.no_grad(), deltamem.disabled(model):
        off = model.generate(ids, past_key_values=cache, max_new_tokens=3, do_sample=False)
        assert cache.memory is state
        assert cache.get_seq_length() == 9
        assert type(model(ids).past_key_values) is DynamicCache
    deltamem.detach(model)
    assert torch.equal(model.generate(ids, max_new_tokens=3, do_sample=False), off)


def test_rows_of_a_cache_can_be_kept_and_repeated() -> None:
    model, ids = adapted(), tokens(2, 7)
    cache = deltamem.memory_cache(model, live_state(model, 2))
    with torch.no_grad():
        model(ids, past_key_values=cache)
        cache.batch_repeat_interleave(2)
        cache.batch_select_indices(torch.tensor([3, 0]))
        found = model(tokens(2, 1), past_key_values=cache).logits
        whole = torch.cat([ids[[1, 0]], tokens(2, 1)], 1)
        wanted = model(whole, memory=Step(live_state(model, 2).select([1, 0]))).logits
    torch.testing.assert_close(found[:, 0], wanted[:, -1], rtol=1e-4, atol=1e-4)
    with pytest.raises(ValueError, match="cannot be cropped"):
        cache.crop(3)


def test_two_threads_with_two_sessions_do_not_mix() -> None:
    model = adapted()
    prompts = [tokens(1, 6, seed) for seed in range(4)]
    states = [live_state(model, seed=seed) for seed in range(4)]

    def run(i: int) -> tuple[Tensor, MemoryState]:
        cache = deltamem.memory_cache(model, states[i])
        drawn = model.generate(prompts[i], past_key_values=cache, max_new_tokens=12, do_sample=False)
        return drawn, cache.memory

    alone = [run(i) for i in range(4)]
    found: dict[int, list[tuple[Tensor, MemoryState]]] = {i: [] for i in range(4)}
    threads = [threading.Thread(target=lambda i=i: found[i].extend(run(i) for _ in range(5))) for i in range(4)]
    for thread in threads:
        thread.start()
    for thread in threads:
        thread.join()
    for i in range(4):
        assert len(found[i]) == 5
        for drawn, memory in found[i]:
            assert torch.equal(drawn, alone[i][0])
            assert_same_state(memory, alone[i][1])


@pytest.mark.parametrize("where", ["the model's options", "a configuration passed along"])
def test_a_cache_is_switched_on_where_only_options_are_against_it(where: str) -> None:
    model = adapted()
    ids = tokens(1, 6)
    start = live_state(model)
    options: dict[str, Any] = {"max_new_tokens": 6, "do_sample": False}
    expected = deltamem.memory_cache(model, start)
    wanted = model.generate(ids, past_key_values=expected, **options)
    cache = deltamem.memory_cache(model, start)
    if where == "the model's options":
        model.generation_config.use_cache = False
        found = model.generate(ids, past_key_values=cache, **options)
    else:
        config = GenerationConfig(use_cache=False, eos_token_id=EOS, pad_token_id=PAD, **options)
        found = model.generate(ids, generation_config=config, past_key_values=cache)
    assert found.tolist() == wanted.tolist()
    assert cache.memory.tokens.tolist() == expected.memory.tokens.tolist() == [6 + 5]
    assert_same_state(cache.memory, expected.memory)


def test_a_cache_and_the_wish_for_none_are_refused() -> None:
    model = adapted()
    with pytest.raises(ValueError, match="use_cache=False contradicts past_key_values"):
        model.generate(tokens(1, 3), past_key_values=deltamem.memory_cache(model), use_cache=False, max_new_tokens=2)


def test_generate_with_a_step_names_the_way() -> None:
    model = adapted()
    with pytest.raises(TypeError, match=r"deltamem\.memory_cache\(model, state\).*past_key_values=cache"):
        model.generate(tokens(1, 3), memory=Step(deltamem.new_state(model)), max_new_tokens=2)
