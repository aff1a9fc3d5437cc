"""A scripted conversation: what is told, and what the model still knows when the text is gone."""

from dataclasses import dataclass
from pathlib import Path
from typing import TYPE_CHECKING, Any

import torch

from deltamem.attach import disabled
from deltamem.chat import Message, encode_chat
from deltamem.session import Session

if TYPE_CHECKING:
    from transformers import PreTrainedTokenizerFast, Qwen3ForCausalLM

_LONGEST_REPLY = 24

TOLD = (
    ("Hello!", "Hello! How are you?"),
    ("I settled in Lisbon some years ago.", "Good to know."),
    ("There is a tortoise at home with me.", "Noted."),
    ("The bus was late on Monday.", "That is annoying. I hope the rest went well."),
    ("My friend Ravi practises the cello daily.", "I will remember that."),
    ("I chose blue moon as a password.", "Understood."),
    ("Actually, I live in Porto now.", "Okay, updated."),
)
ASKED = (
    ("Which city do I live in?", "Porto."),
    ("What pet do I have?", "tortoise."),
    ("What is Ravi's instrument?", "cello."),
    ("Which word opens my safe?", "blue moon."),
)


@dataclass(frozen=True)
class Reply:
    """One question, the answer it should get, and the answers of the bare backbone and of the one with memory."""

    ask: str
    answer: str
    bare: str
    memory: str


@dataclass(frozen=True)
class Story:
    """What came of the conversation.

    Attributes:
        replies: the questions and both answers.
        text_bytes: the size of the conversation's text.
        memory_bytes: the size of the memory that is left of it.
        shape: layers, states a layer, and the side of one state.
        file: where the memory is saved.
    """

    replies: tuple[Reply, ...]
    text_bytes: int
    memory_bytes: int
    shape: tuple[int, int, int]
    file: Path


def tell_story(model: "Qwen3ForCausalLM", tokenizer: "PreTrainedTokenizerFast", file: Path) -> Story:
    """Tells the active adapter the conversation, drops the text, and asks from the saved memory alone.

    Each question is asked of a fresh session that has loaded ``file``, so the only thing between the telling and
    the answer is that file.
    """
    messages: list[Message] = []
    for said, reply in TOLD:
        messages += [{"role": "user", "content": said}, {"role": "assistant", "content": reply}]
    session = Session(model, tokenizer, window=0)
    session.observe(messages)
    session.save(file)
    state = session.state
    replies = [
        Reply(
            ask,
            answer,
            bare=_bare_reply(model, tokenizer, ask),
            memory=Session.load(file, model, tokenizer, window=0).reply(ask, max_new_tokens=_LONGEST_REPLY),
        )
        for ask, answer in ASKED
    ]
    return Story(
        replies=tuple(replies),
        text_bytes=sum(len(message["content"].encode()) for message in messages),
        memory_bytes=state.nbytes,
        shape=(len(state.states), *state.states[0].shape[1:3]),
        file=file,
    )


def _bare_reply(model: Any, tokenizer: "PreTrainedTokenizerFast", text: str) -> str:
    prompt = encode_chat(tokenizer, [{"role": "user", "content": text}], add_generation_prompt=True).input_ids
    with disabled(model):
        tokens = model.generate(
            prompt, attention_mask=torch.ones_like(prompt), do_sample=False, max_new_tokens=_LONGEST_REPLY
        )
    return str(tokenizer.decode(tokens[0, prompt.shape[1] :], skip_special_tokens=True)).strip()
