"""What turns change, what they report, and how they are taken back."""

from typing import Any

import pytest
import torch
from hypothesis import given, settings
from hypothesis import strategies as st
from transformers import PreTrainedTokenizerFast

import deltamem
from deltamem.session.window import first_visible
from talkers import SHORT, chat_tokenizer, talker
from tiny import assert_same_state

SAID = ("I live in Lisbon.", "I like tea.", "My friend Ravi plays the cello.", "Where do I live?")


@pytest.fixture
def session() -> deltamem.Session:
    return deltamem.Session(talker(), chat_tokenizer())


def contents(messages) -> list[str]:
    return [message["content"] for message in messages]


def test_a_report_says_what_a_turn_did(session: deltamem.Session):
    assert session.last_turn is None
    before = session.state
    answer = session.reply(SAID[0], **SHORT)
    turn = session.last_turn
    assert turn.answer == answer
    assert turn.written_tokens == int(session.state.tokens) > 0
    torch.testing.assert_close(turn.change, session.state.diff(before)[:, 0], rtol=0, atol=0)
    assert turn.change.shape == (2, 1)
    assert turn.prompt_tokens > 0
    assert turn.seconds > 0
    assert turn.left == turn.retrieved == ()
    observed = session.observe(SAID[1])
    assert observed is session.last_turn
    assert observed.answer == ""
    assert observed.written_tokens > 0


def test_what_leaves_the_window_is_reported(session: deltamem.Session):
    session.window = 4
    for said in SAID[:3]:
        session.reply(said, **SHORT)
    assert contents(session.last_turn.left)[0] == SAID[0]
    assert len(session.last_turn.left) == 2
    assert len(session.visible) == 4
    session.window = 0
    session.reply(SAID[3], **SHORT)
    assert len(session.last_turn.left) == 6


def test_a_window_in_tokens(session: deltamem.Session):
    session.window, session.window_tokens = None, 45
    left = []
    for said in SAID * 3:
        session.reply(said, **SHORT)
        left += session.last_turn.left
        shown = session.visible
        if shown:
            assert deltamem.encode_chat(session.tokenizer, shown).input_ids.shape[1] <= 45
            assert shown[0]["role"] == "user"
    assert contents(left[::2] + session.visible[::2]) == list(SAID * 3)


roles = st.sampled_from(("user", "assistant", "tool"))


@given(st.lists(st.tuples(roles, st.integers(1, 30))), st.none() | st.integers(0, 9), st.none() | st.integers(0, 90))
def test_the_window_keeps_the_most_that_it_may(messages, most_messages, most_tokens):
    chat = [{"role": role, "content": ""} for role, _ in messages]
    lengths = [length for _, length in messages]

    def fits(start: int) -> bool:
        few = most_messages is None or len(chat) - start <= most_messages
        short = most_tokens is None or sum(lengths[start:]) <= most_tokens
        return few and short and (start == len(chat) or chat[start]["role"] == "user")

    first = first_visible(chat, lengths, most_messages=most_messages, most_tokens=most_tokens)
    assert first == min(start for start in range(len(chat) + 1) if fits(start))


def test_rollback_restores_the_state_and_the_visible_text(session: deltamem.Session):
    trail = [(session.state, [])]
    for said in SAID:
        session.reply(said, **SHORT)
        trail.append((session.state, session.visible.copy()))
    session.observe("I have a dog.")
    session.rollback()
    assert (session.state, session.visible) == trail[4]
    session.rollback(3)
    assert (session.state, session.visible) == trail[1]
    session.rollback()
    assert (session.state, session.visible) == trail[0]
    with pytest.raises(ValueError, match="the last 0 can"):
        session.rollback()


def test_a_turn_rolled_back_goes_again_as_before(session: deltamem.Session):
    session.reply(SAID[0], **SHORT)
    session.clear_context()
    answer, state = session.reply(SAID[3], **SHORT), session.state
    session.rollback()
    assert session.reply(SAID[3], **SHORT) == answer
    assert_same_state(session.state, state, tolerance=0)


def test_only_the_last_turns_can_be_rolled_back():
    session = deltamem.Session(talker(), chat_tokenizer(), undo=2)
    for said in SAID:
        session.observe(said)
    with pytest.raises(ValueError, match="3 turns cannot be rolled back; the last 2 can"):
        session.rollback(3)
    session.rollback(2)
    alone = deltamem.Session(talker(), chat_tokenizer())
    for said in SAID[:2]:
        alone.observe(said)
    assert_same_state(session.state, alone.state)


def test_a_frozen_session_reads_and_does_not_write(session: deltamem.Session):
    session.observe(SAID[0])
    state = session.state
    session.freeze()
    answer = session.reply(SAID[3], **SHORT)
    assert session.state is state
    assert session.last_turn.written_tokens == 0
    assert contents(session.visible) == [SAID[3], answer]
    for change in (
        lambda: session.observe(SAID[1]),
        session.forget,
        lambda: session.import_bytes(session.export_bytes()),
    ):
        with pytest.raises(ValueError, match="unfreeze"):
            change()
    session.rollback()
    with pytest.raises(ValueError, match="unfreeze"):
        session.rollback()
    assert session.state is state
    session.unfreeze()
    session.reply(SAID[3], **SHORT)
    assert float(session.state.diff(state).norm()) > 0


def test_a_fork_goes_its_own_way(session: deltamem.Session):
    session.reply(SAID[0], **SHORT)
    fork = session.fork()
    state, visible = session.state, session.visible.copy()
    assert fork.reply(SAID[1], **SHORT) == session.fork().reply(SAID[1], **SHORT)
    assert (session.state, session.visible) == (state, visible)
    fork.rollback(2)
    session.rollback()
    assert_same_state(fork.state, session.state)
    assert fork.visible == session.visible == []


def test_forgetting_leaves_nothing(session: deltamem.Session):
    session.reply(SAID[0], **SHORT)
    session.forget()
    fresh = deltamem.Session(session.model, session.tokenizer)
    assert_same_state(session.state, fresh.state, tolerance=0)
    assert session.visible == []
    with pytest.raises(ValueError, match="cannot be rolled back"):
        session.rollback()
    assert session.reply(SAID[3], **SHORT) == fresh.reply(SAID[3], **SHORT)


def test_exported_and_imported_it_goes_on(session: deltamem.Session, tmp_path):
    session.reply(SAID[0], **SHORT)
    other = deltamem.Session(session.model, session.tokenizer)
    other.reply(SAID[1], **SHORT)
    own = other.state
    other.import_bytes(session.export_bytes())
    assert_same_state(other.state, session.state, tolerance=0)
    assert other.visible == []
    session.clear_context()
    assert other.reply(SAID[3], **SHORT) == session.reply(SAID[3], **SHORT)
    other.rollback(2)
    assert other.state is own
    session.save(tmp_path / "a.safetensors")
    other.restore(tmp_path / "a.safetensors")
    assert_same_state(other.state, session.state, tolerance=0)
    with pytest.raises(deltamem.StateFileError):
        other.import_bytes(b"not a memory")
    assert_same_state(other.state, session.state, tolerance=0)


def test_asking_leaves_no_trace(session: deltamem.Session):
    session.observe(SAID[0])
    session.reply(SAID[1], **SHORT)
    state, visible, turn = session.state, session.visible.copy(), session.last_turn
    asked = session.ask(SAID[3], **SHORT)
    assert (session.state, session.visible, session.last_turn) == (state, visible, turn)
    assert session.reply(SAID[3], **SHORT) == asked


def test_asked_without_memory_the_bare_backbone_answers(session: deltamem.Session):
    session.observe(SAID[0])
    prompt = deltamem.encode_chat(
        session.tokenizer, [{"role": "user", "content": SAID[3]}], add_generation_prompt=True
    ).input_ids
    with deltamem.disabled(session.model):
        bare = session.model.generate(prompt, attention_mask=torch.ones_like(prompt), **SHORT)
    wanted = session.tokenizer.decode(bare[0, prompt.shape[1] :], skip_special_tokens=True).strip()
    assert session.ask(SAID[3], memory=False, **SHORT) == wanted
    assert session.ask(SAID[3], **SHORT) != wanted


def test_a_system_message_is_seen_and_never_written(session: deltamem.Session):
    plain = deltamem.Session(session.model, session.tokenizer)
    session.system = "I am a tortoise."
    assert session.ask(SAID[3], **SHORT) != plain.ask(SAID[3], **SHORT)
    session.observe(SAID[0])
    plain.observe(SAID[0])
    assert_same_state(session.state, plain.state, tolerance=0)


def test_results_of_tools_are_answered_and_written_like_messages(session: deltamem.Session):
    results = [{"role": "tool", "content": "It is sunny."}, {"role": "user", "content": "Shall I walk?"}]
    deaf = deltamem.Session(session.model, session.tokenizer, roles=("user", "assistant"))
    answer = session.reply(results, **SHORT)
    assert deaf.reply(results, **SHORT) == answer
    assert 0 < deaf.last_turn.written_tokens < session.last_turn.written_tokens
    assert contents(session.visible) == ["Shall I walk?", answer]


def test_what_is_not_written_is_refused_as_a_document():
    session = deltamem.Session(talker(), chat_tokenizer(), roles=("user",))
    with pytest.raises(ValueError, match="document"):
        session.observe(iter(["A story."]))
    with pytest.raises(ValueError, match="tool"):
        session.observe("Sunny.", role="tool")


@pytest.mark.parametrize("option", ["window", "window_tokens", "undo"])
def test_numbers_out_of_range_are_refused(option: str):
    with pytest.raises(ValueError, match=option):
        deltamem.Session(talker(), chat_tokenizer(), **{option: -1})


@settings(max_examples=12, deadline=None)
@given(st.lists(st.sampled_from(("reply", "observe", "rollback", "fork", "clear", "stop")), max_size=8))
def test_any_history_leaves_the_memory_of_what_was_kept(steps: list[str]):
    session = deltamem.Session(MODEL, chat_tokenizer(), undo=99)
    kept: list[list[dict[str, str]]] = []
    for number, step in enumerate(steps):
        said = SAID[number % len(SAID)]
        if step == "reply":
            answer = session.reply(said, **SHORT)
            kept.append([{"role": "user", "content": said}, {"role": "assistant", "content": answer}])
        elif step == "observe":
            session.observe(said)
            kept.append([{"role": "user", "content": said}])
        elif step == "rollback" and kept:
            session.rollback()
            kept.pop()
        elif step == "fork":
            session.fork().reply(said, **SHORT)
        elif step == "clear":
            session.clear_context()
        elif step == "stop":
            stream = session.stream(said, **SHORT)
            next(stream, None)
            stream.close()
    replayed = deltamem.Session(MODEL, chat_tokenizer())
    for messages in kept:
        replayed.observe(messages)
    assert_same_state(session.state, replayed.state)


MODEL = talker()


@pytest.fixture
def opening() -> PreTrainedTokenizerFast:
    """A tokenizer whose template begins a conversation with a system prompt of its own."""
    template = (
        "{% for m in messages %}{% if loop.first and m.role != 'system' %}"
        "<|im_start|>system\nYou are a helpful assistant named Teal.<|im_end|>\n{% endif %}"
        "<|im_start|>{{ m.role + '\n' + m.content }}<|im_end|>{{ '\n' }}{% endfor %}"
        "{% if add_generation_prompt %}<|im_start|>assistant\n{% endif %}"
    )
    tokenizer = chat_tokenizer()
    return tokenizer.__class__(tokenizer_object=tokenizer.backend_tokenizer, chat_template=template)


def test_a_templates_own_system_prompt_is_neither_written_nor_counted(opening: PreTrainedTokenizerFast):
    plain, session = deltamem.Session(talker(), chat_tokenizer()), deltamem.Session(talker(), opening)
    for observed in ("Hi.", [{"role": "user", "content": "Hi."}, {"role": "assistant", "content": "Hello."}]):
        assert session.observe(observed).written_tokens == plain.observe(observed).written_tokens
    assert session.observe(iter(["Hi."])).written_tokens == plain.observe(iter(["Hi."])).written_tokens
    for one in (plain, session):
        one.window, one.window_tokens = None, 24
        for _ in range(3):
            one.reply("Hi.", max_new_tokens=1, do_sample=False)
    assert len(session.visible) == len(plain.visible) > 0


def test_messages_that_a_template_refuses_are_written_or_refused_before_an_answer(alternating: Any):
    session = deltamem.Session(talker(), alternating)
    assert session.observe({"role": "assistant", "content": "Hello."}).written_tokens > 3
    before = session.state
    with pytest.raises(ValueError, match="chat template refuses these messages: roles must alternate"):
        session.reply({"role": "assistant", "content": "Hello."})
    assert session.state is before
    with pytest.raises(ValueError, match="half of a surrogate pair"):
        session.reply("Hi \udcff")
    with pytest.raises(ValueError, match="half of a surrogate pair"):
        session.observe("Hi \udcff")
    assert session.state is before
    assert session.visible == []


@pytest.fixture
def alternating() -> PreTrainedTokenizerFast:
    """A tokenizer whose template wants a user's message first, and then the other's by turns."""
    template = (
        "{% for m in messages %}{% if (m.role == 'user') != (loop.index0 % 2 == 0) %}"
        "{{ raise_exception('roles must alternate') }}{% endif %}"
        "<|im_start|>{{ m.role + '\n' + m.content }}<|im_end|>{{ '\n' }}{% endfor %}"
        "{% if add_generation_prompt %}<|im_start|>assistant\n{% endif %}"
    )
    tokenizer = chat_tokenizer()
    return tokenizer.__class__(tokenizer_object=tokenizer.backend_tokenizer, chat_template=template)
