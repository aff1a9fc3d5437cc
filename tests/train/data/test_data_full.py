"""The full text of an episode: the whole conversation as the chat template renders it, with the same target."""

from typing import Any

import pytest
from test_data_encode import ALTERNATES, CHAT, DROPS_REASONING, SYSTEM, assistant, episodes, learned, user

from deltamem.chat import encode_chat
from deltamem.config import DeltaMemConfig
from deltamem.train import collate
from deltamem.train.data import DataOptions
from deltamem.train.data.encode import EpisodeEncoder
from deltamem.train.episodes import UNWRITTEN, Text
from deltamem.train.views import full_texts

# As Llama's does: a first token, and a system message of its own where the conversation has none.
OPENS = (
    "<|endoftext|>{% if messages[0].role != 'system' %}<|im_start|>system\nBe good.<|im_end|>\n{% endif %}"
    "{% for m in messages %}<|im_start|>{{ m.role + '\n' + m.content }}<|im_end|>{{ '\n' }}{% endfor %}"
)


def rendered(tokenizer: Any, messages: list[dict[str, str]]) -> tuple[int, ...]:
    return tuple(encode_chat(tokenizer, messages).input_ids[0].tolist())


def full(tokenizer: Any, messages: list[dict[str, str]], **options: Any) -> Text:
    """The full text of the only episode, which must train what its query trains."""
    (episode,) = episodes(tokenizer, messages, **options)
    full_texts(collate([episode], 0))
    return episode.full[0]


@pytest.mark.parametrize("chat", [CHAT, CHAT[1:]], ids=["system", "none"])
@pytest.mark.parametrize("template", [None, OPENS, DROPS_REASONING], ids=["grows", "opens", "rewrites"])
def test_it_is_what_the_template_renders(tokenizer: Any, with_template: Any, chat: Any, template: str | None) -> None:
    tokenizer = tokenizer if template is None else with_template(template)
    found = full(tokenizer, chat)
    assert found.ids == rendered(tokenizer, chat)
    assert learned(tokenizer, found).startswith("<|im_start|>assistant\n")


def test_every_target_has_its_own_and_each_message_is_a_segment(with_template: Any) -> None:
    tokenizer = with_template(OPENS)
    chat = [SYSTEM, user("a"), assistant("b"), user("c"), assistant("d"), user("e"), assistant("f")]
    first, second = episodes(tokenizer, chat, target="every", write="message")
    assert first.full[0].ids == rendered(tokenizer, chat[:5])
    assert second.full[0].ids == rendered(tokenizer, chat)
    assert sorted(set(second.full[0].segments)) == [UNWRITTEN, -1, 0, 1, 2, 3, 4]


def test_it_is_cut_as_the_episode_is_and_keeps_its_opening(with_template: Any) -> None:
    tokenizer = with_template(OPENS)
    messages = [user("I live in Lisbon and my dog is Rex. " * 5), user("Where?"), assistant("Lisbon")]
    (episode,) = episodes(tokenizer, messages, write_tokens=12)
    query, history = episode.queries[0], episode.history[0].ids
    opening = tokenizer("<|endoftext|><|im_start|>system\nBe good.<|im_end|>\n<|im_start|>user\n")["input_ids"]
    visible = len(rendered(tokenizer, messages)) - len(rendered(tokenizer, messages[:1]))
    assert episode.full[0].ids == (*opening, *history, *query.ids[-visible:])
    target = int(sum(query.weights))
    found = full(tokenizer, messages, write_tokens=12, read_tokens=target + 2)
    assert found.ids == (*history, *query.ids[-target - 2 :])


def test_a_target_alone_trains_all_but_its_first_token_in_both(tokenizer: Any) -> None:
    target = len(rendered(tokenizer, CHAT)) - len(rendered(tokenizer, CHAT[:4]))
    found = full(tokenizer, CHAT, read_tokens=target)
    assert sum(found.weights) == target - 1


def test_a_conversation_that_the_template_refuses_is_joined_and_begins_once(with_template: Any) -> None:
    tokenizer = with_template("<|endoftext|>" + ALTERNATES)
    messages = [user("a"), user("b"), user("c"), assistant("d")]
    (episode,) = episodes(tokenizer, messages)
    opening = len(tokenizer("<|endoftext|>")["input_ids"])
    begin = rendered(tokenizer, messages[:1])[:opening]
    assert (*begin, *episode.history[0].ids) == (
        *rendered(tokenizer, messages[:1]),
        *rendered(tokenizer, messages[1:2])[opening:],
    )
    assert episode.full[0].ids == (*begin, *episode.history[0].ids, *episode.queries[0].ids[opening:])
    first = episodes(tokenizer, [user("a"), assistant("b"), *messages[1:]], target="every", needs_history=False)[0]
    assert (first.history, first.full) == ((), first.queries)
    encoder = EpisodeEncoder(tokenizer, DataOptions(path="x"), DeltaMemConfig())
    encoder.encode(messages)
    assert (encoder.rewritten, encoder.by_message) == (0, 1)


def test_prompts_that_need_no_memory_have_none(tokenizer: Any) -> None:
    line = EpisodeEncoder(tokenizer, DataOptions(path="x"), DeltaMemConfig(), plain=True).encode(CHAT)
    assert line.episodes[0].full is None
