"""Log-probabilities and the written tokens of answers: the tokens are those of the text that the client gets."""

from collections.abc import Iterator
from typing import Any

import openai
import pytest
from serving import make_server, running
from tokenizers import Tokenizer, decoders, models
from transformers import PreTrainedTokenizerFast

from deltamem.serve.engine.text import piece
from deltamem.serve.server import Server

# Drawn at this temperature the embedded backbone chooses words, parts of words, end tokens and single bytes.
WILD: dict[str, Any] = {"model": "demo", "temperature": 2, "seed": 1, "max_tokens": 60}
ANY: dict[str, Any] = {"ignore_eos": True}


@pytest.fixture(scope="module")
def server() -> Server:
    return make_server()


@pytest.fixture(scope="module")
def client(server: Server) -> Iterator[openai.OpenAI]:
    with running(server) as url, openai.OpenAI(base_url=f"{url}/v1", api_key="unused", max_retries=0) as client:
        yield client


def test_the_tokens_of_a_chat_are_its_text(client: openai.OpenAI) -> None:
    told: Any = [{"role": "user", "content": "I live in Lisbon."}]
    choice = client.chat.completions.create(messages=told, logprobs=True, top_logprobs=3, **WILD).choices[0]
    assert choice.logprobs is not None
    tokens = choice.logprobs.content or []
    assert any(token.token.startswith(" ") for token in tokens)
    assert "".join(token.token for token in tokens) == choice.message.content
    for token in tokens:
        assert bytes(token.bytes or ()) == token.token.encode()
        assert len({other.token for other in token.top_logprobs}) == 3


def test_a_continuation_goes_on_from_its_prompt(client: openai.OpenAI) -> None:
    choice = client.completions.create(model="demo", prompt="I live in", max_tokens=8, temperature=0, logprobs=5)
    text, probed = choice.choices[0].text, choice.choices[0].logprobs
    assert text.startswith(" ")
    assert probed is not None
    assert probed.tokens is not None
    assert probed.text_offset is not None
    assert "".join(probed.tokens) == text
    for token, offset in zip(probed.tokens, probed.text_offset, strict=True):
        assert text[offset:].startswith(token)
    assert all(len(top) == 5 for top in probed.top_logprobs or [])


def test_offsets_count_what_is_in_the_text(client: openai.OpenAI) -> None:
    asked: Any = {"prompt": "I live", "logprobs": 0, "extra_body": ANY, **WILD}
    choice = client.completions.create(**asked).choices[0]
    probed: Any = choice.logprobs
    hidden = [token for token in probed.tokens if token.startswith(("<|", "bytes:"))]
    assert {token[:2] for token in hidden} == {"<|", "by"}
    for token, offset in zip(probed.tokens, probed.text_offset, strict=True):
        # Bytes that never become a character are shown with the next token, as "�".
        assert token in hidden or choice.text[offset:].lstrip("�").startswith(token)
    chunks = [chunk.choices[0] for chunk in client.completions.create(stream=True, **asked)]
    assert "".join(chunk.text for chunk in chunks) == choice.text
    for name in ("tokens", "text_offset"):
        streamed = [value for chunk in chunks if chunk.logprobs for value in getattr(chunk.logprobs, name)]
        assert streamed == getattr(probed, name)


@pytest.mark.parametrize("stream", [False, True])
def test_what_a_stop_text_cuts_off_is_neither_told_nor_written(
    client: openai.OpenAI, server: Server, stream: bool
) -> None:
    whole: Any = client.completions.create(prompt="I live", logprobs=0, extra_body=ANY, **WILD).choices[0]
    words = whole.text.split(" ")
    stop, session = f"{words[3][1:]} {words[4]}", f"cut-{stream}"
    kept = {**ANY, "memory": {"session": session}}
    asked: Any = {"prompt": "I live", "logprobs": 0, "stop": stop, "extra_body": kept, **WILD}
    reply = client.completions.create(stream=stream, **asked)
    chunks: Any = list(reply) if stream else [reply]
    text = "".join(chunk.choices[0].text for chunk in chunks)
    tokens = [t for chunk in chunks if chunk.choices[0].logprobs for t in chunk.choices[0].logprobs.tokens]
    assert text == whole.text[: whole.text.index(stop)]
    begun = text.rpartition(" ")[0]
    assert "".join(tokens) == begun
    assert tokens == whole.logprobs.tokens[: len(tokens)]
    assert chunks[-1].memory["written_tokens"] == len(server.prompts.text("I live")) + len(tokens)
    log = [(m.message["role"], m.message["content"]) for m in server.store.messages("default", session)]
    assert log == [("user", "I live"), ("assistant", text)]


def test_the_log_of_messages_shows_prompts_of_token_ids_as_text(client: openai.OpenAI, server: Server) -> None:
    ids = server.prompts.text("I live in Lisbon.")
    client.completions.create(model="demo", prompt=ids, max_tokens=1, extra_body={"memory": {"session": "ids"}})
    assert server.store.messages("default", "ids")[0].message["content"] == "I live in Lisbon."


def test_a_part_of_a_character_is_shown_by_its_bytes(server: Server) -> None:
    ids = server.prompts.text("so 😀 it")
    shown = [piece(server.engine.tokenizer, token, ids[:place]) for place, token in enumerate(ids)]
    assert b"".join(data for _, data in shown) == "so 😀 it".encode()
    assert [text for text, _ in shown if text.startswith("bytes:")] == [
        f"bytes:\\x{byte:02x}" for byte in "😀".encode()
    ]


def test_vocabularies_that_name_their_bytes() -> None:
    """As those of Llama 2 and Mistral do. Their ``é`` is a character, not the byte that it would be in GPT-2's."""
    vocabulary = ["▁so", "▁", "é", *(f"<0x{byte:02X}>" for byte in "😀".encode())]
    tokenizer = Tokenizer(models.BPE({part: n for n, part in enumerate(vocabulary)}, [], byte_fallback=True))
    tokenizer.decoder = decoders.Sequence(
        [decoders.Replace("▁", " "), decoders.ByteFallback(), decoders.Fuse(), decoders.Strip(" ", 1, 0)]
    )
    fast = PreTrainedTokenizerFast(tokenizer_object=tokenizer)
    ids = [0, 0, 2, 1, *range(3, 7)]
    shown = [piece(fast, token, ids[:place]) for place, token in enumerate(ids)]
    assert [text for text, _ in shown[:4]] == ["so", " so", "é", " "]
    assert b"".join(data for _, data in shown) == "so soé 😀".encode()
