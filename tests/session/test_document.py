"""Documents that arrive in pieces: the same tokens and the same memory wherever the pieces end."""

import tracemalloc
from collections.abc import Iterator
from itertools import pairwise

import pytest
import torch
from hypothesis import given, settings
from hypothesis import strategies as st

import deltamem
from deltamem.chat.document import BLOCK, encode_document
from deltamem.demo.tokenizer import build_tokenizer
from deltamem.observe import observe_stream
from talkers import SHORT, chat_tokenizer, talker
from tiny import assert_same_state, enliven

WORDS = st.sampled_from(
    ("Lisbon", "tortoise", " ", "\n", ". ", "! ", "the cello", "  ", "…", "é", "日本。", "x" * 40, "?\n\n", "\t")
)
STORY = "I live in Lisbon. My friend Ravi plays the cello!\nThe bus was late, which is annoying. " * 60


def tokens_of(pieces, **options) -> list[tuple[int, int]]:
    chats = list(encode_document(chat_tokenizer(), pieces, **options))
    assert max(chat.input_ids.shape[1] for chat in chats) <= 4 * BLOCK
    return [pair for chat in chats for pair in zip(chat.input_ids[0].tolist(), chat.segment[0].tolist(), strict=True)]


def cut(text: str, places: list[int]) -> Iterator[str]:
    edges = [0, *sorted(place % (len(text) + 1) for place in places), len(text)]
    return (text[start:end] for start, end in pairwise(edges))


@settings(max_examples=60, deadline=None)
@given(
    st.lists(WORDS, max_size=400),
    st.lists(st.integers(0, 10**6), max_size=12),
    st.sampled_from(("message", "sentence")),
)
def test_tokens_and_segments_do_not_depend_on_the_pieces(words, places, segments):
    text = "".join(["Lisbon", *words])
    assert tokens_of(cut(text, places), segments=segments) == tokens_of([text], segments=segments)


@settings(max_examples=40, deadline=None)
@given(st.lists(st.sampled_from(("Lisbon", "tortoise", "cello", "annoying.", "Ravi!", "bus?")), max_size=400))
def test_tokens_are_those_of_the_whole_text(words):
    text = " ".join(["Lisbon", *words])
    whole = deltamem.encode_chat(chat_tokenizer(), [{"role": "user", "content": text}], segments="sentence")
    assert tokens_of([text], segments="sentence") == list(
        zip(whole.input_ids[0].tolist(), whole.segment[0].tolist(), strict=True)
    )


def test_a_sentence_longer_than_a_block_is_one_segment():
    text = "Short. " + "on and on " * 400 + "until it ends. The end."
    segments = [segment for _, segment in tokens_of([text], segments="sentence")]
    assert sorted(set(segments)) == [-1, 0, 1, 2]
    told = [segment for segment in segments if segment >= 0]
    assert told == sorted(told)
    assert told.count(1) > 800


@pytest.mark.parametrize("write", ["token", "message", "sentence"])
def test_the_memory_does_not_depend_on_the_pieces(write: str):
    model = talker(positions=96)
    deltamem.attach(model, deltamem.DeltaMemConfig(rank=4, write=write), name=write)
    enliven(model)
    states = []
    for pieces in ([STORY], list(STORY), cut(STORY, [3, 1000, 1001, 4000])):
        session = deltamem.Session(model, chat_tokenizer())
        session.observe(iter(pieces))
        states.append(session.state)
    session = deltamem.Session(model, chat_tokenizer())
    session.observe(STORY)
    for state in states:
        assert_same_state(state, session.state, tolerance=0)
        assert int(state.tokens) == int(session.state.tokens) > 1000
    if write != "token":
        assert session.state.open.count.tolist() == [0]


def test_a_short_document_is_a_message():
    session, other = (deltamem.Session(talker(), chat_tokenizer()) for _ in range(2))
    session.observe(iter(["I live ", "in Lisbon."]))
    other.observe([{"role": "document", "content": "I live in Lisbon."}])
    assert_same_state(session.state, other.state, tolerance=0)
    assert session.reply("Where do I live?", **SHORT) == other.reply("Where do I live?", **SHORT)


def test_little_of_a_document_is_held_at_a_time():
    def peak(sentences: int) -> int:
        pieces = ("The bus was late on Monday. " for _ in range(sentences))
        tracemalloc.start()
        for _ in encode_document(chat_tokenizer(), pieces):
            pass
        most = tracemalloc.get_traced_memory()[1]
        tracemalloc.stop()
        return most

    peak(100)
    assert peak(20_000) < 20_000 * len("The bus was late on Monday. ") / 2


def test_a_failing_document_leaves_the_session_as_it_was():
    session = deltamem.Session(talker(), chat_tokenizer())
    before = session.state

    def broken() -> Iterator[str]:
        yield STORY
        raise OSError("The disk is gone.")

    with pytest.raises(OSError, match="disk"):
        session.observe(broken())
    assert session.state is before
    assert session.last_turn is None


@pytest.mark.parametrize("nothing", ["", " \n" * 2000, [], iter([]), iter(["", " "])])
def test_nothing_is_not_a_document(nothing):
    session = deltamem.Session(talker(), chat_tokenizer())
    with pytest.raises(ValueError, match="no text"):
        session.observe(nothing)
    assert session.last_turn is None


def test_a_template_that_hides_the_text_is_refused():
    tokenizer = build_tokenizer()
    tokenizer.chat_template = "{{ messages[0]['content'] | upper }}"
    session = deltamem.Session(talker(), tokenizer)
    with pytest.raises(ValueError, match="chat template"):
        session.observe(iter(["Hello."]))


def test_parts_are_joined_to_the_chunks_of_the_whole():
    model = talker()
    ids = torch.randint(3, 200, (2, 100))
    pieces = ids.split([1, 0, 30, 50, 19], 1)
    parts = [(part, torch.zeros_like(part), torch.ones_like(part, dtype=torch.bool)) for part in pieces]
    whole = deltamem.observe(model, ids, chunk_size=16)
    assert_same_state(observe_stream(model, parts, chunk_size=16), whole, tolerance=0)
    with pytest.raises(ValueError, match="no text"):
        observe_stream(model, [])
