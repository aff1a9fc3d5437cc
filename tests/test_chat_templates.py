"""What real templates do besides showing messages: openings of their own, refusals, the same words elsewhere."""

from functools import cache

import pytest
import torch

import deltamem
from deltamem.chat import TemplateRefusedError, encode_chat, encode_to_write
from deltamem.chat.document import encode_document
from deltamem.demo.tokenizer import build_tokenizer

# As SmolLM2's, Qwen2.5's and others': a system prompt of the template's own unless the conversation brings one.
DEFAULT_SYSTEM = (
    "{% for m in messages %}{% if loop.first and m.role != 'system' %}"
    "<|im_start|>system\nYou are a helpful AI assistant named Teal.<|im_end|>\n{% endif %}"
    "<|im_start|>{{ m.role + '\n' + m.content }}<|im_end|>{{ '\n' }}{% endfor %}"
    "{% if add_generation_prompt %}<|im_start|>assistant\n{% endif %}"
)
# As Gemma's: strict alternation, the system message within the first user's, white space cut off, a first token.
ALTERNATING = (
    "{{ '<|pad|>' }}{% set ns = namespace(system='', at=0) %}{% for m in messages %}"
    "{% if m.role == 'system' %}{% set ns.system = m.content + '\n\n' %}{% else %}"
    "{% if (m.role == 'user') != (ns.at % 2 == 0) %}{{ raise_exception('roles must alternate') }}{% endif %}"
    "<|im_start|>{{ ('model' if m.role == 'assistant' else m.role) + '\n' }}"
    "{{ (ns.system if ns.at == 0 else '') + m.content | trim }}<|im_end|>{{ '\n' }}"
    "{% set ns.at = ns.at + 1 %}{% endif %}{% endfor %}"
    "{% if add_generation_prompt %}<|im_start|>model\n{% endif %}"
)


_trained = cache(build_tokenizer)


def tokenizer_with(template: str):
    return _trained().__class__(tokenizer_object=_trained().backend_tokenizer, chat_template=template)


def said(tokenizer, chat, which: torch.Tensor) -> str:
    return tokenizer.decode(chat.input_ids[which])


@pytest.mark.parametrize("content", ["AI", "user", "system", "assistant", "\n", "im_start", "Teal. You. I"])
@pytest.mark.parametrize("template", [DEFAULT_SYSTEM, ALTERNATING])
def test_the_place_of_the_content_comes_from_the_render_and_not_from_a_search(template: str, content: str):
    tokenizer = tokenizer_with(template)
    chat = encode_chat(tokenizer, [{"role": "user", "content": content}], segments="sentence")
    shown = "".join(text for _, text in chat.content(0))
    assert shown == content.strip()
    sentences = [said(tokenizer, chat, chat.segment == n).strip() for n in range(int(chat.segment.max()) + 1)]
    assert sentences == [part for part in content.replace(". ", ".|").split("|") if part.strip()]


@pytest.mark.parametrize("segments", ["message", "sentence"])
@pytest.mark.parametrize("template", [DEFAULT_SYSTEM, ALTERNATING])
def test_a_templates_opening_belongs_to_nobody(template: str, segments: str):
    tokenizer = tokenizer_with(template)
    for messages in ([HI], [*TURN, HI], [{"role": "user", "content": "\n Hi. "}]):
        chat = encode_chat(tokenizer, messages, segments=segments)
        opening = chat.message[0] == -1
        assert opening[0]
        assert bool((chat.segment[0][opening] == -1).all())
        assert said(tokenizer, chat, chat.of([0])).startswith("<|im_start|>user\n")
        assert "Teal" not in said(tokenizer, chat, chat.message >= 0)
    alone, later = encode_chat(tokenizer, [HI]), encode_chat(tokenizer, [*TURN, HI])
    assert said(tokenizer, alone, alone.of([0])) == said(tokenizer, later, later.of([2]))


TURN = [{"role": "user", "content": "I live in Lisbon."}, {"role": "assistant", "content": "Noted."}]
HI = {"role": "user", "content": "Hi."}
SYSTEM = {"role": "system", "content": "Be kind."}


@pytest.mark.parametrize("template", [DEFAULT_SYSTEM, ALTERNATING])
def test_a_system_message_is_in_no_other_message_though_the_template_shows_it_there(template: str):
    tokenizer = tokenizer_with(template)
    chat = encode_chat(tokenizer, [SYSTEM, *TURN])
    assert "Be kind." in said(tokenizer, chat, chat.of([0]))
    assert "Be kind." not in said(tokenizer, chat, chat.of([1, 2]))
    assert bool((chat.segment[chat.of([0])] == -1).all())


def test_a_first_token_is_no_part_of_a_system_message():
    tokenizer = tokenizer_with("<|pad|>" + _trained().chat_template)
    chat = encode_chat(tokenizer, [SYSTEM, *TURN])
    assert said(tokenizer, chat, chat.message == -1) == "<|pad|>"


def test_what_a_template_refuses_together_is_written_message_by_message():
    tokenizer = tokenizer_with(ALTERNATING)
    for messages in (
        [TURN[1]],
        [{"role": "user", "content": "One."}, {"role": "user", "content": "Two."}],
        [TURN[1], TURN[1], TURN[0]],
    ):
        with pytest.raises(TemplateRefusedError, match=r"refuses these messages: .*must alternate"):
            encode_chat(tokenizer, messages)
        chat = encode_to_write(tokenizer, messages, segments="message")
        assert chat.apart
        assert bool((chat.message >= 0).all())
        roles = {"user": "user", "assistant": "model"}
        assert [said(tokenizer, chat, chat.of([n])) for n in range(len(messages))] == [
            f"<|im_start|>{roles[m['role']]}\n{m['content']}<|im_end|>\n" for m in messages
        ]
        assert [int(chat.segment[chat.of([n])].unique()) for n in range(len(messages))] == list(range(len(messages)))


def test_a_message_that_no_conversation_takes_is_refused_with_what_the_template_says():
    tokenizer = tokenizer_with(
        "{% for m in messages %}{% if m.role == 'tool' %}{{ raise_exception('no tools') }}{% endif %}"
        "{{ m.content }}{% endfor %}"
    )
    with pytest.raises(TemplateRefusedError, match="refuses these messages: no tools"):
        encode_to_write(tokenizer, [*TURN, {"role": "tool", "content": "No."}])


def test_what_becomes_memory_begins_with_the_first_message_and_not_with_the_templates_opening():
    tokenizer = tokenizer_with(DEFAULT_SYSTEM)
    chat = encode_to_write(tokenizer, TURN)
    assert said(tokenizer, chat, chat.message >= 0) == tokenizer.decode(chat.input_ids[0])
    assert tokenizer.decode(chat.input_ids[0]).startswith("<|im_start|>user\nI live in Lisbon.")
    blocks = list(encode_document(tokenizer, ["I live in Lisbon. " * 100]))
    assert len(blocks) > 1
    assert tokenizer.decode(blocks[0].input_ids[0]).startswith("<|im_start|>user\nI live in Lisbon.")
    assert tokenizer.decode(blocks[-1].input_ids[0]).endswith("<|im_end|>\n")


def test_half_a_surrogate_pair_is_refused_before_the_tokenizer_sees_it():
    damaged = [TURN[0], {"role": "assistant", "content": "Hi \udcff"}]
    with pytest.raises(ValueError, match=r"message 2 .*half of a surrogate pair at character 3"):
        deltamem.encode_chat(_trained(), damaged)
    with pytest.raises(ValueError, match=r"message 2 .*half of a surrogate pair at character 3"):
        encode_to_write(_trained(), damaged)
    with pytest.raises(ValueError, match="half of a surrogate pair"):
        list(encode_document(_trained(), ["Hello ", "\ud83d there."]))
