"""Conversations become episodes: what is written, what is visible, what is learned."""

import pytest
from hypothesis import given, settings
from hypothesis import strategies as st

from deltamem.chat import encode_chat
from deltamem.config import DeltaMemConfig
from deltamem.train.data import DataOptions
from deltamem.train.data.encode import EpisodeEncoder
from deltamem.train.data.table import TableBuilder
from deltamem.train.episodes import Episode, Text, collate
from deltamem.train.views import full_texts

SYSTEM = {"role": "system", "content": "Be kind."}


def user(text: str) -> dict[str, str]:
    return {"role": "user", "content": text}


def assistant(text: str) -> dict[str, str]:
    return {"role": "assistant", "content": text}


CHAT = [SYSTEM, user("I live in Lisbon. My dog is Rex!"), assistant("Got it."), user("Where?"), assistant("Lisbon")]

# Three ways in which real templates do more than add each turn to the text so far.
DROPS_REASONING = (
    "{% set ns = namespace(last=0) %}{% for m in messages %}{% if m.role == 'user' %}"
    "{% set ns.last = loop.index0 %}{% endif %}{% endfor %}"
    "{% for m in messages %}<|im_start|>{{ m.role + '\n' }}"
    "{% if m.role == 'assistant' and loop.index0 > ns.last and loop.length > 1 %}(thinking)\n{% endif %}"
    "{{ m.content }}<|im_end|>{{ '\n' }}{% endfor %}"
)
ALTERNATES = (
    "{% set ns = namespace(at=0, system='') %}{% for m in messages %}"
    "{% if m.role == 'system' %}{% set ns.system = m.content + '\n' %}{% else %}"
    "{% if (m.role == 'user') != (ns.at % 2 == 0) %}{{ raise_exception('roles must alternate') }}{% endif %}"
    "<|im_start|>{{ m.role + '\n' + (ns.system if ns.at == 0 else '') + m.content }}<|im_end|>{{ '\n' }}"
    "{% set ns.at = ns.at + 1 %}{% endif %}{% endfor %}"
)


def episodes(tokenizer, messages, *, write: str = "token", **options) -> list[Episode]:
    chosen = DataOptions(path="unused", **options)
    builder = TableBuilder(chosen.write_tokens)
    builder.add(EpisodeEncoder(tokenizer, chosen, DeltaMemConfig(write=write)).encode(messages))
    table = builder.build()
    return [table.episode(i) for i in range(len(table))]


def ids(tokenizer, messages) -> tuple[int, ...]:
    return tuple(encode_chat(tokenizer, messages).input_ids[0].tolist())


def learned(tokenizer, query: Text) -> str:
    return tokenizer.decode([token for token, weight in zip(query.ids, query.weights, strict=True) if weight])


def test_all_before_the_last_turn_is_written_and_the_answer_learned(tokenizer) -> None:
    (episode,) = episodes(tokenizer, CHAT)
    assert [text.ids for text in episode.history] == [ids(tokenizer, CHAT[1:3])]
    assert not any(episode.history[0].weights)
    assert [query.ids for query in episode.queries] == [ids(tokenizer, [SYSTEM, *CHAT[3:]])]
    assert learned(tokenizer, episode.queries[0]) == "<|im_start|>assistant\nLisbon<|im_end|>\n"


def test_messages_after_the_last_answer_are_not_used(tokenizer) -> None:
    assert episodes(tokenizer, [*CHAT, user("Thanks!")]) == episodes(tokenizer, CHAT)


def test_segments_are_messages_or_sentences_and_the_target_is_in_none(tokenizer) -> None:
    (by_message,), (by_sentence,) = (episodes(tokenizer, CHAT, write=write) for write in ("message", "sentence"))
    history = by_message.history[0]
    assert set(history.segments) == {0, 1}
    said = [t for t, s in zip(by_sentence.history[0].ids, by_sentence.history[0].segments, strict=True) if s == 1]
    assert tokenizer.decode(said).strip() == "My dog is Rex!"
    query = by_message.queries[0]
    assert all(segment == -1 for segment, weight in zip(query.segments, query.weights, strict=True) if weight)
    asked = [t for t, segment in zip(query.ids, query.segments, strict=True) if segment == 0]
    assert "Where?" in tokenizer.decode(asked)


def test_every_target_has_its_own_history(tokenizer) -> None:
    chat = [SYSTEM, user("a"), assistant("b"), user("c"), assistant("d"), user("e"), assistant("f")]
    first, second = episodes(tokenizer, chat, target="every")
    assert first.history[0].ids == ids(tokenizer, chat[1:3])
    assert second.history[0].ids == ids(tokenizer, chat[1:5])
    assert first.queries[0].ids == ids(tokenizer, [SYSTEM, *chat[3:5]])
    assert second.queries[0].ids == ids(tokenizer, [SYSTEM, *chat[5:]])


WORDS = st.sampled_from(("teal", "Lisbon", "I like my dog.", "Got it!", ""))
TURNS = st.lists(st.tuples(st.sampled_from(("user", "user", "assistant", "system")), WORDS), min_size=1, max_size=8)


@settings(max_examples=50)
@given(TURNS, st.integers(1, 40), st.sampled_from(("token", "sentence")))
def test_an_episode_is_the_same_alone_or_with_others_of_its_line(tokenizer, turns, write_tokens, write) -> None:
    chat = [{"role": role, "content": text} for role, text in [*turns, ("user", "q"), ("assistant", "a")]]
    options = {"write_tokens": write_tokens, "write": write}
    together = episodes(tokenizer, chat, target="every", needs_history=False, **options)
    ends = [i for i, message in enumerate(chat) if message["role"] == "assistant" and message["content"]]
    alone = [episodes(tokenizer, chat[: end + 1], needs_history=False, **options)[0] for end in ends]
    assert together == alone
    for episode in alone:
        full_texts(collate([episode], 0))  # trains what the query trains


@settings(max_examples=20)
@given(st.integers(1, 60))
def test_a_long_message_keeps_its_end(tokenizer, write_tokens: int) -> None:
    messages = [user("I live in Lisbon and my dog is Rex. " * 30), user("Where?"), assistant("Lisbon")]
    (episode,) = episodes(tokenizer, messages, write_tokens=write_tokens)
    assert episode.history[0].ids == ids(tokenizer, messages[:1])[-write_tokens:]


def test_a_long_question_is_cut_but_the_target_is_whole(tokenizer) -> None:
    messages = [user("a"), user("I live in Lisbon. " * 50), assistant("Lisbon")]
    target = len(ids(tokenizer, messages)) - len(ids(tokenizer, messages[:2]))
    for limit in (target, target + 7):
        (episode,) = episodes(tokenizer, messages, read_tokens=limit)
        assert episode.queries[0].ids == ids(tokenizer, messages[1:])[-limit:]
        assert sum(episode.queries[0].weights) == target
    line = EpisodeEncoder(tokenizer, DataOptions(path="x", read_tokens=target - 1), DeltaMemConfig()).encode(messages)
    assert not line.episodes
    assert line.problems == (f"message 3: the target has {target} tokens, more than read_tokens",)


def test_nothing_to_remember_is_bad_unless_allowed(tokenizer) -> None:
    messages = [SYSTEM, user("Where?"), assistant("Lisbon")]
    with pytest.raises(ValueError, match="nothing to remember"):
        episodes(tokenizer, messages)
    (episode,) = episodes(tokenizer, messages, needs_history=False)
    assert episode.history == ()


def test_a_template_that_drops_reasoning_gives_answers_as_they_stand_in_a_conversation(with_template) -> None:
    tokenizer = with_template(DROPS_REASONING)
    chat = [user("a"), assistant("b"), user("c"), assistant("d"), user("e"), assistant("f")]
    encoder = EpisodeEncoder(tokenizer, DataOptions(path="x", target="every"), DeltaMemConfig(write="message"))
    line = encoder.encode(chat)
    whole = tokenizer.apply_chat_template(chat, tokenize=False)
    text = tokenizer.decode(line.history.ids)
    assert "thinking" not in text
    assert whole.startswith(text)
    assert (encoder.rewritten, encoder.by_message) == (1, 0)
    assert sorted(set(line.history.segments.tolist())) == [0, 1, 2, 3]
    # The last answer is rendered as the last answer.
    assert "(thinking)" in tokenizer.decode(line.episodes[-1].read.ids)
    # With one answer the rewriting would not show, were the history rendered as if nothing followed.
    (episode,) = episodes(tokenizer, chat[:4])
    assert "thinking" not in tokenizer.decode(episode.history[0].ids)


def test_a_template_that_merges_the_system_message_or_wants_alternation(with_template) -> None:
    tokenizer = with_template(ALTERNATES)
    (episode,) = episodes(tokenizer, [SYSTEM, user("a"), user("b"), user("c"), assistant("d")])
    assert tokenizer.decode(episode.queries[0].ids).startswith("<|im_start|>user\nBe kind.\nc<|im_end|>")
    assert learned(tokenizer, episode.queries[0]).startswith("<|im_start|>assistant\nd")
    assert episode.history[0].ids == (*ids(tokenizer, [user("a")]), *ids(tokenizer, [user("b")]))
    (episode,) = episodes(tokenizer, [assistant("a"), user("b"), assistant("c")])
    assert tokenizer.decode(episode.history[0].ids) == "<|im_start|>assistant\na<|im_end|>\n"
    refusing = with_template("{{ raise_exception('not today') }}")
    with pytest.raises(ValueError, match="refuses this conversation: not today"):
        episodes(refusing, CHAT)


def test_a_templates_opening_is_no_part_of_a_history(with_template) -> None:
    tokenizer = with_template(
        "{% for m in messages %}{% if loop.first and m.role != 'system' %}<|im_start|>system\nI am Teal.<|im_end|>\n"
        "{% endif %}<|im_start|>{{ m.role + '\n' + m.content }}<|im_end|>{{ '\n' }}{% endfor %}"
    )
    chat = [user("I live in Lisbon."), assistant("Got it."), SYSTEM, user("Where?"), assistant("Lisbon")]
    for write in ("token", "message", "sentence"):
        (episode,) = episodes(tokenizer, chat, write=write)
        (history,) = episode.history
        batch = collate([episode], 0).passages[0]
        written = tokenizer.decode(batch.ids[batch.writes])
        assert "Teal" not in tokenizer.decode(history.ids)
        assert "Teal" in tokenizer.decode(episode.queries[0].ids)
        assert written == "<|im_start|>user\nI live in Lisbon.<|im_end|>\n<|im_start|>assistant\nGot it.<|im_end|>\n"
        assert int(batch.segment_ids.min()) >= -1
        full = full_texts(collate([episode], 0))
        assert "Teal" not in tokenizer.decode(full.ids[full.writes])


def test_template_variables_reach_the_template(with_template) -> None:
    tokenizer = with_template("{% for m in messages %}{{ mood | default('calm') }} {{ m.content }}\n{% endfor %}")
    (episode,) = episodes(tokenizer, CHAT[1:], template={"mood": "merry"})
    assert "merry" in tokenizer.decode(episode.history[0].ids)


def test_a_tokenizer_without_a_template_is_refused(with_template) -> None:
    with pytest.raises(ValueError, match="needs a fast tokenizer with a chat template"):
        EpisodeEncoder(with_template(""), DataOptions(path="x"), DeltaMemConfig())
