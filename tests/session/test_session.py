"""A conversation with a memory, on a tiny random backbone: what is written, when, and what survives."""

import pytest

import deltamem
from talkers import SHORT, chat_tokenizer, talker
from tiny import assert_same_state, enliven


@pytest.fixture(scope="module")
def tokenizer():
    return chat_tokenizer()


@pytest.fixture
def model():
    return talker(positions=96)


def test_observing_writes_and_shows_nothing(model, tokenizer):
    session = deltamem.Session(model, tokenizer)
    session.observe("I live in Lisbon.")
    assert int(session.state.tokens) > 0
    assert float(session.state.norms().sum()) > 0
    assert session.visible == []


def test_a_session_is_shown_in_a_line(model, tokenizer):
    session = deltamem.Session(model, tokenizer)
    session.reply("hello", **SHORT)
    written = int(session.state.tokens)
    assert repr(session) == f"Session(written_tokens={written}, visible=2, frozen=False)"


def test_a_reply_reads_the_memory_and_then_writes_the_turn(model, tokenizer):
    session = deltamem.Session(model, tokenizer, window=0)
    session.observe("I live in Lisbon.")
    before = session.state
    answer = session.reply("Where do I live?", **SHORT)
    other = deltamem.Session(model, tokenizer, before, window=0)
    other.observe([{"role": "user", "content": "Where do I live?"}, {"role": "assistant", "content": answer}])
    assert_same_state(session.state, other.state)


def test_the_memory_changes_what_is_said(model, tokenizer):
    empty = deltamem.Session(model, tokenizer, window=0)
    told = deltamem.Session(model, tokenizer, window=0)
    told.observe("I live in Lisbon.")
    assert empty.reply("Where do I live?", **SHORT) != told.reply("Where do I live?", **SHORT)


def test_streaming_says_the_same_and_writes_the_same(model, tokenizer):
    whole, streamed = (deltamem.Session(model, tokenizer) for _ in range(2))
    for said in ("I live in Lisbon.", "Where do I live?"):
        assert "".join(streamed.stream(said, **SHORT)).strip() == whole.reply(said, **SHORT)
    assert_same_state(streamed.state, whole.state)
    assert streamed.visible == whole.visible


def test_leaving_a_stream_early_writes_nothing(model, tokenizer):
    session = deltamem.Session(model, tokenizer)
    before = session.state
    stream = session.stream("Hello there.", max_new_tokens=80, do_sample=False)
    next(stream)
    stream.close()
    assert session.state is before
    assert session.visible == []


def test_a_failing_stream_raises_and_writes_nothing(model, tokenizer):
    session = deltamem.Session(model, tokenizer)
    before = session.state
    with pytest.raises(ValueError, match="max_new_tokens"):
        list(session.stream("Hello there.", max_new_tokens=-1))
    assert session.state is before


def test_saved_and_loaded_it_says_what_it_would_have_said(model, tokenizer, tmp_path):
    session = deltamem.Session(model, tokenizer, window=0)
    session.observe("I live in Lisbon.")
    session.save(tmp_path / "ravi.safetensors")
    loaded = deltamem.Session.load(tmp_path / "ravi.safetensors", model, tokenizer, window=0)
    assert_same_state(loaded.state, session.state)
    assert loaded.reply("Where do I live?", **SHORT) == session.reply("Where do I live?", **SHORT)


def test_the_window_slides(model, tokenizer):
    session = deltamem.Session(model, tokenizer, window=2)
    session.reply("One.", **SHORT)
    session.reply("Two.", **SHORT)
    assert session.visible[0]["content"] == "Two."
    session.clear_context()
    assert session.visible == []


def test_old_messages_give_way_to_a_long_one(model, tokenizer):
    session = deltamem.Session(model, tokenizer, window=8)
    session.reply("I like tea and coffee and water and milk. " * 4, **SHORT)
    assert session.reply("I like tea and coffee and water and milk. " * 4, **SHORT) is not None
    with pytest.raises(ValueError, match="96 positions"):
        session.reply("I like tea and coffee. " * 40, **SHORT)


def test_only_the_chosen_roles_are_written(model, tokenizer):
    chat = [{"role": "user", "content": "I live in Lisbon."}, {"role": "assistant", "content": "Got it."}]
    both = deltamem.Session(model, tokenizer)
    mine = deltamem.Session(model, tokenizer, roles=("user",))
    both.observe(chat)
    mine.observe(chat)
    assert 0 < int(mine.state.tokens) < int(both.state.tokens)


def test_roles_that_no_message_has_are_refused(model, tokenizer):
    for roles in ("user", ("user", "system"), ("User",)):
        with pytest.raises(ValueError, match="roles must be some of user, assistant, tool, document"):
            deltamem.Session(model, tokenizer, roles=roles)


def test_what_is_no_text_is_refused(model, tokenizer):
    session = deltamem.Session(model, tokenizer)
    for write in (session.observe, session.reply):
        for wrong in (5, None, b"I live in Lisbon."):
            with pytest.raises(TypeError, match=f"Give a text, a message or several, .*not {type(wrong).__name__}"):
                write(wrong)
    assert int(session.state.tokens) == 0


@pytest.mark.parametrize(
    ("message", "said"),
    [
        ({"role": "user", "content": None}, "The content of message 2 must be a text, not NoneType"),
        ({"role": "user", "content": [{"type": "text"}]}, "The content of message 2 must be a text, not list"),
        ({"role": "assistant"}, "The content of message 2 must be a text, not NoneType"),
        ({"content": "hi"}, "The role of message 2 must be a text, not NoneType"),
    ],
)
def test_a_message_without_role_or_text_is_named(model, tokenizer, message, said):
    session = deltamem.Session(model, tokenizer)
    with pytest.raises(ValueError, match=said):
        session.observe([{"role": "user", "content": "hello"}, message])
    with pytest.raises(ValueError, match=said):
        session.reply([{"role": "user", "content": "hello"}, message], **SHORT)
    with pytest.raises(TypeError, match="must be a dict with role and content, not str"):
        session.observe([message, "hi"])
    assert int(session.state.tokens) == 0


def test_a_message_that_only_calls_tools_needs_no_text(model, tokenizer):
    call = {"role": "assistant", "tool_calls": [{"function": {"name": "weather", "arguments": "{}"}}]}
    told = [{"role": "user", "content": "hello"}, {"role": "tool", "content": "Sunny."}]
    states = []
    for content in ({"content": None}, {"content": ""}, {}):
        session = deltamem.Session(model, tokenizer, keep_messages=True)
        session.observe([told[0], call | content, told[1]])
        states.append(session.state)
    for state in states[1:]:
        assert_same_state(state, states[0])
    assert int(states[0].tokens) > 0


def test_a_single_message_needs_no_list(model, tokenizer):
    message = {"role": "user", "content": "I live in Lisbon."}
    one, several = deltamem.Session(model, tokenizer), deltamem.Session(model, tokenizer)
    one.observe(message)
    several.observe([message])
    assert one.state.diff(several.state).norm() == 0
    assert one.ask(message, **SHORT) == several.ask([message], **SHORT)


def test_segment_adapters_converse_too(model, tokenizer):
    for kind in ("message", "sentence"):
        deltamem.attach(model, deltamem.DeltaMemConfig(rank=4, write=kind), name=kind)
        enliven(model)
        session = deltamem.Session(model, tokenizer)
        session.observe("I live in Lisbon. I like tea.")
        assert session.state.open.count.tolist() == [0]
        session.reply("Where do I live?", **SHORT)
        assert float(session.state.norms().sum()) > 0


def test_a_session_is_one_row(model, tokenizer):
    with pytest.raises(ValueError, match="one row"):
        deltamem.Session(model, tokenizer, deltamem.new_state(model, 2))
