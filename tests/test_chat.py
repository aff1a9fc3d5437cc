"""Messages to tokens: every token knows its message and its segment."""

import copy

import pytest
import torch

from deltamem.chat import encode_chat
from deltamem.demo.tokenizer import build_tokenizer

MESSAGES = [
    {"role": "system", "content": "Be kind."},
    {"role": "user", "content": "I live in Lisbon. My dog is Rex!"},
    {"role": "assistant", "content": "Got it."},
]


@pytest.fixture(scope="module")
def tokenizer():
    return build_tokenizer()


def text_of(tokenizer, chat, which: torch.Tensor) -> str:
    return tokenizer.decode(chat.input_ids[which])


def test_tokens_are_those_of_the_template(tokenizer):
    chat = encode_chat(tokenizer, MESSAGES, add_generation_prompt=True)
    rendered = tokenizer.apply_chat_template(MESSAGES, add_generation_prompt=True, return_dict=True)
    assert chat.input_ids[0].tolist() == rendered["input_ids"]


def test_every_message_is_found_whole(tokenizer):
    chat = encode_chat(tokenizer, MESSAGES, add_generation_prompt=True)
    for number, message in enumerate(MESSAGES):
        assert message["content"] in text_of(tokenizer, chat, chat.of([number]))
    assert text_of(tokenizer, chat, chat.message == -1) == "<|im_start|>assistant\n"


def test_system_messages_and_the_generation_prompt_are_in_no_segment(tokenizer):
    chat = encode_chat(tokenizer, MESSAGES, add_generation_prompt=True)
    assert (chat.segment[chat.of([0])] == -1).all()
    assert (chat.segment[chat.message == -1] == -1).all()
    assert chat.segment[chat.of([1])].unique().tolist() == [0]
    assert chat.segment[chat.of([2])].unique().tolist() == [1]


def test_sentences_are_segments_without_the_template_around_them(tokenizer):
    chat = encode_chat(tokenizer, MESSAGES, segments="sentence")
    said = [text_of(tokenizer, chat, chat.segment == n).strip() for n in range(3)]
    assert said == ["I live in Lisbon.", "My dog is Rex!", "Got it."]
    assert chat.segment.max() == 2


def test_a_message_that_the_template_changes_is_one_segment_among_sentences(tokenizer):
    other = copy.deepcopy(tokenizer)
    other.chat_template = (
        "{% for m in messages %}<|im_start|>{{ m.role }}\n"
        "{{ m.content | reverse if m.role == 'assistant' else m.content | lower }}\n{% endfor %}"
    )
    chat = encode_chat(other, [{"role": "user", "content": "Teal. Blue."}, *MESSAGES[2:]], segments="sentence")
    assert chat.segment[chat.of([0])].unique().tolist() == [-1, 0, 1]
    assert text_of(tokenizer, chat, chat.segment == 1) == "blue."
    assert chat.segment[chat.of([1])].unique().tolist() == [2]


REASONING = (
    "{% for m in messages %}<|im_start|>{{ m['role'] }}\n"
    "{% if m['role'] == 'assistant' and loop.last %}<think>\n\n</think>\n\n{% endif %}"
    "{{ m['content'] }}<|im_end|>\n{% endfor %}{% if add_generation_prompt %}<|im_start|>assistant\n{% endif %}"
)


def test_messages_are_found_though_the_template_shows_the_last_one_otherwise(tokenizer):
    reasoning = tokenizer.__class__(tokenizer_object=tokenizer.backend_tokenizer, chat_template=REASONING)
    chat = encode_chat(
        reasoning,
        [*MESSAGES, {"role": "user", "content": "Ok."}, {"role": "assistant", "content": "Ok."}],
        segments="sentence",
    )
    assert text_of(tokenizer, chat, chat.of([2])) == "<|im_start|>assistant\nGot it.<|im_end|>\n"
    assert text_of(tokenizer, chat, chat.of([4])) == ("<|im_start|>assistant\n<think>\n\n</think>\n\nOk.<|im_end|>\n")
    assert (chat.message >= 0).all()
    assert text_of(tokenizer, chat, chat.segment == 2).strip() == "Got it."
    prompt = encode_chat(reasoning, [*MESSAGES, {"role": "user", "content": "Where?"}], add_generation_prompt=True)
    assert text_of(tokenizer, prompt, prompt.message == -1) == "<|im_start|>assistant\n"


def test_a_template_that_does_not_show_the_text_is_refused(tokenizer):
    counting = "{{ messages | length }}{% for m in messages %}{{ m['content'] * 2 }}{% endfor %}"
    rewriting = tokenizer.__class__(tokenizer_object=tokenizer.backend_tokenizer, chat_template=counting)
    with pytest.raises(ValueError, match="does not show the text of message 1"):
        encode_chat(rewriting, MESSAGES)


def test_no_template_and_no_messages_are_clear_errors(tokenizer):
    bare = tokenizer.__class__(tokenizer_object=tokenizer.backend_tokenizer)
    with pytest.raises(ValueError, match="no chat template"):
        encode_chat(bare, MESSAGES)
    with pytest.raises(ValueError, match="no message"):
        encode_chat(tokenizer, [])
