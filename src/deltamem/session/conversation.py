"""What a turn makes of a conversation. Nothing here changes the conversation: a turn is computed, then committed."""

import threading
import time
from collections import deque
from collections.abc import Generator, Iterable, Iterator, Mapping, Sequence
from contextlib import closing
from typing import Any, Literal

from torch import Tensor
from transformers import PreTrainedModel

from deltamem.attach import attached
from deltamem.chat import ChatTokens, Message, encode_chat
from deltamem.observe import observe, observe_stream
from deltamem.session.answering import Stop, generate, stream
from deltamem.session.document import encode_document
from deltamem.session.retrieval import Exchange, Retriever, exchanges
from deltamem.session.reuse import ReadText
from deltamem.session.turns import Draft, Finished, Snapshot, TurnReport
from deltamem.session.window import first_visible, fit_prompt, message_lengths
from deltamem.state import MemoryState

Text = str | Message | Sequence[Message]
ROLES = ("user", "assistant", "tool", "document")
_NEW_TOKENS = 256


class Conversation:
    """A model, a memory and the visible text, and how turns are computed from them.

    :class:`deltamem.Session` is the one to use; it explains the arguments.
    """

    def __init__(
        self,
        model: PreTrainedModel,
        tokenizer: Any,
        state: MemoryState | None = None,
        *,
        window: int | None = 8,
        window_tokens: int | None = None,
        roles: Sequence[str] = ROLES,
        system: str = "",
        retriever: Retriever | Literal["prompt", "memory"] | None = None,
        reuse: bool = True,
        undo: int = 16,
    ) -> None:
        for name, number in (("window", window), ("window_tokens", window_tokens), ("undo", undo)):
            if number is not None and number < 0:
                raise ValueError(f"{name} must not be negative: {number}.")
        if isinstance(roles, str) or not set(roles) <= set(ROLES):
            raise ValueError(f"roles must be some of {', '.join(ROLES)}, in a sequence; not {roles!r}.")
        self.model = model
        self.tokenizer = tokenizer
        self.state = one_row(state if state is not None else attached(model).new_state(1))
        self.window = window
        self.window_tokens = window_tokens
        self.roles = tuple(roles)
        self.system = system
        self.retriever = Retriever(retriever) if isinstance(retriever, str) else retriever
        self.reuse = reuse
        self.frozen = False
        self.visible: list[Message] = []
        self.log: list[Exchange] = []
        self.last_turn: TurnReport | None = None
        self._read: ReadText | None = None
        self._undo: deque[Snapshot] = deque(maxlen=undo)
        self._lock = threading.Lock()

    def _observe(self, source: Text | Iterable[str], role: str | None, stop: Stop) -> Finished:
        """The turn that writes ``source``."""
        start = time.monotonic()
        self._refuse_frozen()
        log: list[Exchange] = []
        if isinstance(source, str):
            role = role or "user"
            log = [({"role": role, "content": source},)]
            state = self._write_document([source], role, stop)
        elif messages := _messages(source):
            log = exchanges(messages)
            state = self._write(messages, self.state)
        else:
            state = self._write_document(source, role or "document", stop)  # type: ignore[arg-type]
        return Finished(state, self.visible, self._read, log, self._report(start, state))

    def _draft(self, message: Text, options: dict[str, Any], *, memory: bool = True) -> Draft:
        """A turn before it is answered. Without ``memory`` an empty one answers: what it reads is zero."""
        start = time.monotonic()
        attachment = attached(self.model)
        new: list[Message] = [{"role": "user", "content": message}] if isinstance(message, str) else _messages(message)
        state = self.state if memory else attachment.new_state(1)
        retrieved = self._retrieve(new) if memory else []
        shown: list[Exchange] = []
        if self.retriever is not None and self.retriever.into == "prompt":
            retrieved, shown = [], retrieved
        if retrieved:
            state = self._write([part for exchange in retrieved for part in exchange], state)
        answer = _answer_length(options)
        positions = getattr(attachment.base.config, "max_position_embeddings", None)
        visible = self.visible[self._first_visible(self.visible) :]
        chat, shown, past = fit_prompt(
            lambda messages: self._encode(messages, prompt=True),
            [{"role": "system", "content": self.system}] if self.system else [],
            shown,
            visible,
            new,
            positions=positions,
            answer=answer,
        )
        prompt = chat.input_ids.to(attachment.base.device)
        cache = attachment.new_cache(state, write=False)
        keep, reused = self.reuse and state is self.state, 0
        if keep and self._read is not None and len(past) == len(self.visible):
            reused = self._read.resume(prompt, cache, attachment)
        # Beyond its last position a backbone says nothing sensible, or fails.
        room = answer if positions is None else min(answer, positions - prompt.shape[1])
        return Draft(
            new, past, retrieved or shown, prompt, cache, reused, keep, options | {"max_new_tokens": room}, start
        )

    def _reply(self, message: Text, options: dict[str, Any], stop: Stop) -> Finished:
        """The turn that answers a message."""
        draft = self._draft(message, options)
        return self._finish(draft, generate(self.model, draft, stop))

    def _stream(self, message: Text, options: dict[str, Any], stop: Stop) -> Generator[str | Finished, None, None]:
        """The pieces of an answer, then its turn."""
        draft = self._draft(message, options)
        with closing(stream(self.model, self.tokenizer, draft, stop)) as items:
            for item in items:
                yield item if isinstance(item, str) else self._finish(draft, item)

    def _finish(self, draft: Draft, sequence: Tensor) -> Finished:
        """The turn of a draft that was answered with ``sequence`` ``[1, T]``."""
        answer = self._decode(draft, sequence)
        turn = [*draft.new, {"role": "assistant", "content": answer}]
        state = self.state if self.frozen else self._write(turn, self.state)
        before = [*draft.past, *turn]
        visible = before[self._first_visible(before) :]
        gone = [*self.visible, *turn]
        left = tuple(gone[: len(gone) - len(visible)])
        # Once the window has slid, what stays stands elsewhere and after other text: it is read again.
        read = ReadText.of(sequence, draft.cache, attached(self.model)) if draft.keep and not left else None
        return Finished(state, visible, read, [tuple(turn)], self._report(draft.start, state, draft, answer, left))

    def _report(
        self,
        start: float,
        state: MemoryState,
        draft: Draft | None = None,
        answer: str = "",
        left: tuple[Message, ...] = (),
    ) -> TurnReport:
        return TurnReport(
            answer=answer,
            prompt_tokens=0 if draft is None else draft.prompt.shape[1],
            reused_tokens=0 if draft is None else draft.reused,
            written_tokens=int(state.tokens[0] - self.state.tokens[0]),
            left=left,
            retrieved=() if draft is None else tuple(draft.retrieved),
            change=state.diff(self.state)[:, 0],
            seconds=time.monotonic() - start,
        )

    def _decode(self, draft: Draft, sequence: Tensor) -> str:
        answer = sequence[0, draft.prompt.shape[1] :]
        return str(self.tokenizer.decode(answer, skip_special_tokens=True)).strip()

    def _encode(self, messages: Sequence[Message], *, prompt: bool = False) -> ChatTokens:
        # Chat templates know no documents: the model sees one as a user's message.
        shown = [{**m, "role": "user"} if m["role"] == "document" else m for m in messages]
        return encode_chat(self.tokenizer, shown, segments=self._segments(), add_generation_prompt=prompt)

    def _segments(self) -> Literal["message", "sentence"]:
        return "sentence" if attached(self.model).config.write == "sentence" else "message"

    def _write(self, messages: Sequence[Message], state: MemoryState) -> MemoryState:
        """``state`` with what the messages of the written roles add to it."""
        chat = self._encode(messages)
        written = chat.of([i for i, message in enumerate(messages) if message["role"] in self.roles])
        device = attached(self.model).base.device
        ids, segments = chat.input_ids.to(device), chat.segment.to(device)
        return observe(self.model, ids, state, segment_ids=segments, write=written.to(device))

    def _write_document(self, pieces: Iterable[str], role: str, stop: Stop) -> MemoryState:
        if role not in self.roles:
            raise ValueError(f"This session writes {', '.join(self.roles) or 'no role'}, so a {role}'s text is not.")
        device = attached(self.model).base.device

        def parts() -> Iterator[tuple[Tensor, Tensor]]:
            for chat in encode_document(self.tokenizer, pieces, segments=self._segments()):
                stop.check()
                yield chat.input_ids.to(device), chat.segment.to(device)

        return observe_stream(self.model, parts(), self.state)

    def _first_visible(self, messages: Sequence[Message]) -> int:
        lengths: list[int] = []
        if self.window_tokens is not None and messages:
            lengths = message_lengths(self._encode(messages), len(messages))
        return first_visible(messages, lengths, most_messages=self.window, most_tokens=self.window_tokens)

    def _retrieve(self, new: Sequence[Message]) -> list[Exchange]:
        """The past turns that belong to new messages, without those that are visible anyway."""
        if self.retriever is None:
            return []
        seen = {id(message) for message in self.visible}
        hidden = [turn for turn in self.log if not any(id(message) in seen for message in turn)]
        return self.retriever.relevant(hidden, " ".join(message["content"] for message in new))

    def _refuse_frozen(self) -> None:
        if self.frozen:
            raise ValueError("This session is frozen, so its memory cannot change; call unfreeze() first.")


def one_row(state: MemoryState) -> MemoryState:
    """The state itself.

    Raises:
        ValueError: it has several rows.
    """
    if state.batch != 1:
        raise ValueError(f"A session is one row; this state has {state.batch}. Use state.row(i).")
    return state


def _answer_length(options: dict[str, Any]) -> int:
    """How many tokens the options for ``generate`` allow an answer."""
    config = options.get("generation_config")
    return int(options.get("max_new_tokens") or getattr(config, "max_new_tokens", None) or _NEW_TOKENS)


def _messages(source: Iterable[Any]) -> list[Message]:
    """The message or messages of ``source``, or none if it is an iterator of text."""
    if isinstance(source, Mapping):
        return [source]
    return list(source) if isinstance(source, Sequence) and source and isinstance(source[0], Mapping) else []
