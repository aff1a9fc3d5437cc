"""A scripted conversation: what is told, and what the model still knows when the text is gone."""

from collections.abc import Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import TYPE_CHECKING, Any, Self

from deltamem.chat import Message
from deltamem.demo.real.answers import answer
from deltamem.session import Session
from deltamem.state import MemoryState

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
class Remains:
    """What is left of a conversation whose text is dropped.

    Attributes:
        text_bytes: the size of the conversation's text.
        memory_bytes: the size of the memory that is left of it.
        shape: layers, states a layer, and the side of one state.
        file: where the memory is saved.
    """

    text_bytes: int
    memory_bytes: int
    shape: tuple[int, int, int]
    file: Path

    @classmethod
    def of(cls, said: Sequence[Message], state: MemoryState, file: Path, **more: Any) -> Self:
        """What is left of what was said, and ``more`` of what came of it."""
        text_bytes = sum(len(message["content"].encode()) for message in said)
        shape = (len(state.states), *state.states[0].shape[1:3])
        return cls(text_bytes=text_bytes, memory_bytes=state.nbytes, shape=shape, file=file, **more)

    def __str__(self) -> str:
        layers, states, rank = self.shape
        return (
            f"[bold]{self.memory_bytes:,} bytes[/bold] ({layers} layers × {states} states of {rank} × {rank} numbers), "
            "the same size whatever is told"
        )


@dataclass(frozen=True)
class Reply:
    """One question, the answer it should get, and the answers of the bare backbone and of the one with memory."""

    ask: str
    answer: str
    bare: str
    memory: str


@dataclass(frozen=True)
class Story(Remains):
    """What came of the conversation: what is left of it, and the questions with both answers."""

    replies: tuple[Reply, ...]


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
    replies = []
    for ask, right in ASKED:
        (bare,) = answer(model, tokenizer, [[{"role": "user", "content": ask}]], longest=_LONGEST_REPLY)
        fresh = Session.load(file, model, tokenizer, window=0)
        replies.append(Reply(ask, right, bare, fresh.reply(ask, max_new_tokens=_LONGEST_REPLY)))
    return Story.of(messages, session.state, file, replies=tuple(replies))
