import itertools
import random
import threading
import time
from collections.abc import Callable, Iterator
from typing import Any

import pytest
import torch

import deltamem
import tiny
from deltamem.chat import encode_chat
from deltamem.demo.adapters import load_demo_adapter
from deltamem.demo.backbone import load_backbone
from deltamem.serve.engine.engine import Engine
from deltamem.serve.engine.jobs import (
    CancelledJobError,
    ClosedError,
    DeadlineError,
    Done,
    EngineError,
    Event,
    Failed,
    Piece,
    QueueFullError,
    Written,
    results,
)
from deltamem.serve.engine.sampling import Sampling
from deltamem.serve.settings import EngineLimits
from deltamem.state import MemoryState

GREEDY = Sampling(max_tokens=24, temperature=0)
TOLD = ["I live in Lisbon.", "My sister is Mina.", "I live in Oslo.", "My cat is called Bo.", "I live in Rome."]
ASKED = ["Where do I live?", "What is my sister called?", "Hello!", "What is my cat called, if I have one?"]


@pytest.fixture(scope="module")
def demo() -> tuple[Any, Any]:
    model, tokenizer = load_backbone()
    load_demo_adapter(model, "multi")
    return model, tokenizer


@pytest.fixture(scope="module")
def engine(demo: tuple[Any, Any]) -> Iterator[Engine]:
    engine = Engine(*demo, EngineLimits(max_batch=4, queue=64, prefill_tokens=24))
    yield engine
    engine.close()


def prompt(tokenizer: Any, text: str) -> list[int]:
    return encode_chat(tokenizer, [{"role": "user", "content": text}], add_generation_prompt=True).input_ids[0].tolist()


def written(tokenizer: Any, *texts: str) -> tuple[torch.Tensor, torch.Tensor, torch.Tensor]:
    chat = encode_chat(tokenizer, [{"role": "user", "content": text} for text in texts])
    return chat.input_ids, chat.segment, chat.message >= 0


def collect(engine: Engine, jobs: list[tuple[list[int], Sampling, MemoryState | None]]) -> list[list[Event]]:
    """The events of jobs that are submitted one right after the other."""
    events: list[list[Event]] = [[] for _ in jobs]
    left = threading.Semaphore(0)

    def deliver(number: int) -> Callable[[Event], None]:
        def take(event: Event) -> None:
            events[number].append(event)
            if isinstance(event, (Done, Failed)):
                left.release()

        return take

    for number, (ids, sampling, state) in enumerate(jobs):
        engine.generate(ids, sampling, deliver(number), state=state)
    for _ in jobs:
        assert left.acquire(timeout=60)
    return events


def token_ids(events: list[Event]) -> list[int]:
    return [event.chosen.token for event in events if isinstance(event, Piece)]


def text_of(events: list[Event]) -> str:
    return "".join(event.text for event in events if isinstance(event, (Piece, Done)))


def test_rows_together_give_what_a_session_gives_alone(demo: tuple[Any, Any], engine: Engine) -> None:
    model, tokenizer = demo
    cases = list(itertools.product(TOLD, ASKED))[::2]
    states, alone = [], []
    for told, asked in cases:
        session = deltamem.Session(model, tokenizer, window=0)
        session.observe(told)
        states.append(session.state)
        alone.append(session.reply(asked, max_new_tokens=24, do_sample=False))
    together = collect(engine, [(prompt(tokenizer, a), GREEDY, s) for (_, a), s in zip(cases, states, strict=True)])
    assert [text_of(events).strip() for events in together] == alone
    assert len(set(alone)) >= 3


def test_long_generations_of_unlike_length_equal_those_alone(demo: tuple[Any, Any], engine: Engine) -> None:
    model, tokenizer = demo
    rng = random.Random(1)
    jobs = []
    for number in range(9):
        text = " ".join(rng.choices([*TOLD, *ASKED], k=rng.randint(1, 12)))
        how = Sampling(max_tokens=rng.randint(3, 40), temperature=0, ignore_end=True)
        jobs.append((prompt(tokenizer, text), how, tiny.live_state(model, seed=number)))
    alone = [collect(engine, [job])[0] for job in jobs]
    together = collect(engine, jobs)
    assert [token_ids(events) for events in together] == [token_ids(events) for events in alone]
    assert [events[-1].completion_tokens for events in together] == [how.max_tokens for _, how, _ in jobs]  # type: ignore[union-attr]


@pytest.mark.parametrize("family", ["qwen3", "llama", "gpt2", "gpt_neox", "granite", "phi3"])
def test_rows_equal_generate_on_other_families(demo: tuple[Any, Any], family: str) -> None:
    model = tiny.adapted(family)
    engine = Engine(model, demo[1], EngineLimits(max_batch=3, prefill_tokens=7))
    try:
        jobs = []
        for number, length in enumerate((1, 9, 4, 17, 2)):
            ids = tiny.tokens(1, length, seed=number)[0].tolist()
            how = Sampling(max_tokens=5 + number, temperature=0, ignore_end=True)
            jobs.append((ids, how, tiny.live_state(model, seed=number)))
        together = collect(engine, jobs)
    finally:
        engine.close()
    for (ids, how, state), events in zip(jobs, together, strict=True):
        cache = deltamem.memory_cache(model, state, write=False)
        row = torch.tensor([ids])
        options = {"do_sample": False, "max_new_tokens": how.max_tokens, "eos_token_id": None, "pad_token_id": 0}
        whole = model.generate(row, attention_mask=torch.ones_like(row), past_key_values=cache, **options)
        assert token_ids(events) == whole[0, len(ids) :].tolist()


@pytest.mark.parametrize("family", ["mistral", "gemma3", "gpt_neo"])
def test_backbones_whose_rows_cannot_be_kept_apart_are_refused(demo: tuple[Any, Any], family: str) -> None:
    with pytest.raises(ValueError, match="Use a Session for this"):
        Engine(tiny.adapted(family), demo[1])


def test_writes_together_give_what_observe_gives_alone(demo: tuple[Any, Any], engine: Engine) -> None:
    model, tokenizer = demo
    texts = [[TOLD[0]], TOLD, ["word " * 700], [ASKED[0], TOLD[1]]]
    done: dict[int, MemoryState] = {}
    finished = threading.Semaphore(0)

    def take(number: int) -> Callable[[Event], None]:
        def deliver(event: Event) -> None:
            assert isinstance(event, Written), event
            done[number] = event.state
            finished.release()

        return deliver

    for number, text in enumerate(texts):
        engine.write(*written(tokenizer, *text), take(number))
    for _ in texts:
        assert finished.acquire(timeout=60)
    for number, text in enumerate(texts):
        ids, segments, write = written(tokenizer, *text)
        tiny.assert_same_state(done[number], deltamem.observe(model, ids, segment_ids=segments, write=write), 1e-4)


def test_segments_are_written_as_observe_writes_them(demo: tuple[Any, Any]) -> None:
    model = tiny.adapted("qwen3", write="message")
    engine = Engine(model, demo[1])
    try:
        for length in (3, 270, 600):
            ids = tiny.tokens(1, length)
            segments = torch.arange(length)[None] // 50
            flags = torch.ones_like(ids, dtype=torch.bool)
            (event,) = results(lambda d, i=ids, s=segments, f=flags: engine.write(i, s, f, d))  # type: ignore[misc]
            assert isinstance(event, Written)
            tiny.assert_same_state(event.state, deltamem.observe(model, ids, segment_ids=segments))
    finally:
        engine.close()


def test_an_empty_memory_reads_as_the_bare_backbone(demo: tuple[Any, Any]) -> None:
    model = tiny.adapted("qwen3")
    ids = tiny.tokens(1, 12)
    step = deltamem.Step(deltamem.new_state(model, 1), write=False)
    with torch.no_grad(), deltamem.disabled(model):
        bare = model(ids).logits
    with torch.no_grad():
        assert torch.equal(model(ids, memory=step).logits, bare)


def test_a_seed_repeats_whatever_the_neighbours(demo: tuple[Any, Any], engine: Engine) -> None:
    ids = prompt(demo[1], "Hello!")
    how = Sampling(max_tokens=12, temperature=1.5, top_p=0.95, seed=7, ignore_end=True)
    others = [(ids, Sampling(max_tokens=n, temperature=2, ignore_end=True), None) for n in (3, 5, 9)]
    alone = token_ids(collect(engine, [(ids, how, None)])[0])
    beside = token_ids(collect(engine, [*others, (ids, how, None)])[-1])
    assert alone == beside
    seeds = [Sampling(max_tokens=12, temperature=1.5, seed=seed, ignore_end=True) for seed in range(4)]
    assert len({tuple(token_ids(e)) for e in collect(engine, [(ids, s, None) for s in seeds])}) == 4


def test_stop_strings_end_before_they_are_seen(demo: tuple[Any, Any], engine: Engine) -> None:
    ids = prompt(demo[1], "Hello!")
    whole = text_of(collect(engine, [(ids, Sampling(max_tokens=20, temperature=0, ignore_end=True), None)])[0])
    stop = whole[len(whole) // 2 :][:3]
    how = Sampling(max_tokens=20, temperature=0, ignore_end=True, stop=("never this", stop))
    (events,) = collect(engine, [(ids, how, None)])
    assert text_of(events) == whole[: whole.index(stop)]
    assert isinstance(events[-1], Done)
    assert events[-1].reason == "stop"


def test_logprobs_are_the_models_own(demo: tuple[Any, Any], engine: Engine) -> None:
    ids = prompt(demo[1], "Hello!")
    (events,) = collect(engine, [(ids, Sampling(max_tokens=3, temperature=0, logprobs=4, ignore_end=True), None)])
    with torch.no_grad():
        logits = demo[0](torch.tensor([ids]), memory=deltamem.Step(engine.new_state(), write=False)).logits[0, -1]
    expected = torch.log_softmax(logits, -1).topk(4)
    first = next(event.chosen for event in events if isinstance(event, Piece))
    assert [token for token, _ in first.alternatives] == expected.indices.tolist()
    assert first.logprob == pytest.approx(expected.values[0].item(), abs=1e-4)


def test_cancelling_frees_the_row_and_leaves_the_others_alone(demo: tuple[Any, Any], engine: Engine) -> None:
    ids = prompt(demo[1], "Hello!")
    endless = Sampling(max_tokens=400, temperature=0, ignore_end=True)
    expected = token_ids(collect(engine, [(ids, GREEDY, None)])[0])
    beside = engine.generate(ids, endless, lambda event: None)

    def cancelled_at_its_first_token(deliver: Any) -> Any:
        begun = threading.Event()

        def tell(event: Event) -> None:
            begun.set()
            deliver(event)

        ticket = engine.generate(ids, endless, tell)
        assert begun.wait(30)
        ticket.cancel()
        return ticket

    with pytest.raises(CancelledJobError):
        results(cancelled_at_its_first_token)
    assert token_ids(collect(engine, [(ids, GREEDY, None)])[0]) == expected
    beside.cancel()
    until = time.monotonic() + 30
    while engine.load().decoding and time.monotonic() < until:
        time.sleep(0.01)
    assert engine.load().decoding == 0


def test_a_deadline_ends_what_runs_and_what_waits(demo: tuple[Any, Any], engine: Engine) -> None:
    ids = prompt(demo[1], "Hello!")
    endless = Sampling(max_tokens=400, temperature=0, ignore_end=True)
    with pytest.raises(DeadlineError):
        results(lambda d: engine.generate(ids, endless, d, deadline=time.monotonic() + 0.1))


def test_a_full_queue_refuses_and_says_when_to_return(demo: tuple[Any, Any]) -> None:
    engine = Engine(*demo, EngineLimits(max_batch=1, queue=2))
    ids = prompt(demo[1], "Hello!")
    endless = Sampling(max_tokens=400, temperature=0, ignore_end=True)
    tickets: list[Any] = []

    def flood() -> None:
        while len(tickets) < 6:
            tickets.append(engine.generate(ids, endless, lambda event: None))

    try:
        with pytest.raises(QueueFullError) as refused:
            flood()
        assert 3 <= len(tickets) <= 4
        assert refused.value.retry_after >= 1
    finally:
        for ticket in tickets:
            ticket.cancel()
        engine.close()
    with pytest.raises(ClosedError):
        engine.generate(ids, endless, lambda event: None)


def test_closing_finishes_what_was_taken_in(demo: tuple[Any, Any]) -> None:
    engine = Engine(*demo, EngineLimits(max_batch=2))
    ids = prompt(demo[1], "Hello!")
    ended: list[Event] = []
    for _ in range(5):
        engine.generate(ids, GREEDY, lambda e: ended.append(e) if isinstance(e, (Done, Failed)) else None)
    engine.close()
    assert len(ended) == 5
    assert all(isinstance(event, Done) for event in ended)
    assert not engine.alive


def test_a_model_that_fails_fails_its_batch_and_the_engine_goes_on(demo: tuple[Any, Any], engine: Engine) -> None:
    ids = prompt(demo[1], "Hello!")

    def explode(*args: Any) -> None:
        raise RuntimeError("out of memory")

    handle = demo[0].model.layers[0].register_forward_pre_hook(explode)
    try:
        with pytest.raises(EngineError, match="nothing was written"):
            results(lambda d: engine.generate(ids, GREEDY, d))
        with pytest.raises(EngineError, match="nothing was written"):
            results(lambda d: engine.write(*written(demo[1], TOLD[0]), d))
    finally:
        handle.remove()
    assert text_of(collect(engine, [(ids, GREEDY, None)])[0])


def test_a_memory_that_is_not_finite_harms_no_neighbour(demo: tuple[Any, Any], engine: Engine) -> None:
    ids = prompt(demo[1], "Hello!")
    empty = engine.new_state()
    broken = MemoryState(tuple(torch.full_like(s, torch.nan) for s in empty.states), empty.tokens)
    expected = token_ids(collect(engine, [(ids, GREEDY, None)])[0])
    bad = (ids, Sampling(max_tokens=30, ignore_end=True), broken)
    mixed = collect(engine, [bad, (ids, GREEDY, None), bad, (ids, GREEDY, None)])
    after = collect(engine, [(ids, GREEDY, None)] * 3)
    assert [token_ids(events) for events in [mixed[1], mixed[3], *after]] == [expected] * 5


def test_a_prompt_must_leave_room(demo: tuple[Any, Any], engine: Engine) -> None:
    with pytest.raises(ValueError, match="512 positions"):
        engine.generate([5] * 512, GREEDY, lambda event: None)
    (events,) = collect(engine, [([5] * 508, Sampling(max_tokens=50, temperature=0, ignore_end=True), None)])
    assert isinstance(events[-1], Done)
    assert (events[-1].reason, events[-1].completion_tokens) == ("length", 4)
