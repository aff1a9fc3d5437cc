"""Facts told in a conversation that the model itself holds: what it replies is written to its memory too."""

from collections.abc import Sequence

from deltamem.chat import Message
from deltamem.session import Session
from deltamem.state import MemoryState
from deltamem_lab.real.chat import NEW_TOKENS, STATIC, Chat
from deltamem_lab.real.told import Rates, Told, sampled

# Whose messages are written.
WRITTEN = {"both": ("user", "assistant"), "user": ("user",)}


def measure_replies(chat: Chat, dialogues: int) -> Rates:
    """Four facts, told while the model replies to every message: recall by whose messages are written, and by method.

    With a memory the model replies through :class:`Session`: from the memory so far, the last messages in its window.
    ``full`` and ``bm25`` are the bare model with a conversation that it held itself, by greedy replies as the others.
    """
    told = Told(chat, sampled("known", 4, max(12, dialogues // 4), answered=0.0))
    said = [[message["content"] for message in dialogue.messages] for dialogue in told.dialogues]
    talks = _bare(chat, said)
    found: Rates = {written: {} for written in WRITTEN}
    answers = {"none": chat.answer(told.prompts, None), "full": told.with_text(talks)}
    answers["bm25"] = told.with_text(talks, turns=3)
    for name in chat.methods:
        chat.use(name)
        for written, roles in WRITTEN.items():
            states = MemoryState.stack([_with_memory(chat, texts, roles) for texts in said])
            if name != STATIC:
                found[written] |= told.recall({name: told.recalled(states)})
            if name in (STATIC, chat.memories[0]):
                strange = chat.answer(told.prompts, states.select(told.strange))
                found[written] |= told.recall({STATIC if name == STATIC else "stranger": strange})
    return {"both": told.recall(answers) | found["both"], "user": found["user"]}


def _with_memory(chat: Chat, texts: Sequence[str], roles: Sequence[str]) -> MemoryState:
    """The memory of a conversation in which the model with the active adapter replies to each text."""
    session = Session(chat.model, chat.tokenizer, roles=roles)
    for text in texts:
        session.reply(text, do_sample=False, max_new_tokens=NEW_TOKENS)
    return session.state


def _bare(chat: Chat, said: Sequence[Sequence[str]]) -> list[list[Message]]:
    """The conversations in which the bare model replies to each text, with all of it in its window."""
    talks: list[list[Message]] = [[] for _ in said]
    for turn in range(max(map(len, said))):
        rows = [row for row, texts in enumerate(said) if turn < len(texts)]
        for row in rows:
            talks[row].append({"role": "user", "content": said[row][turn]})
        for row, text in zip(rows, chat.answer([talks[row] for row in rows], None), strict=True):
            talks[row].append({"role": "assistant", "content": text})
    return talks
