"""A conversation with a memory: what leaves the visible text stays in the state."""

import asyncio
import copy
import threading
import time
from collections import deque
from collections.abc import AsyncGenerator, AsyncIterable, Callable, Generator, Iterable, Iterator, Mapping, Sequence
from contextlib import closing, contextmanager
from dataclasses import replace
from pathlib import Path
from typing import Any, Literal, Self

from torch import Tensor
from transformers import PreTrainedModel

from deltamem.attach import attached
from deltamem.chat import Message
from deltamem.chat.input import TextInput
from deltamem.chat.tokens import check_messages, only_calls
from deltamem.formats.state import load_state, save_state, state_from_bytes, state_to_bytes
from deltamem.observe import positions
from deltamem.recall import Calibration, Interview, Recollection, WrittenTurn, calibration_of, questions_of, recollect
from deltamem.recall.sources import says
from deltamem.session.answering import Stop, from_loop, generate, in_thread, stream
from deltamem.session.retrieval import Exchange, Retriever, exchanges
from deltamem.session.reuse import ReadText
from deltamem.session.turns import Draft, Finished, Forgotten, KeptTurn, SessionBusyError, Snapshot, TurnReport
from deltamem.session.window import first_visible, fit_prompt, message_lengths
from deltamem.state import MemoryState
from deltamem.wording import counted

MessageInput = str | Message | Sequence[Message]
ROLES = ("user", "assistant", "tool", "document")
_NEW_TOKENS = 256


class Session:
    """One conversation: a frozen model, a memory state, and the few messages still visible.

    A reply reads the memory as it was when the turn began, and the turn is written once it is complete. So a
    reply that fails, or that you abandon, leaves the session as it was.

    Sessions of one model may run in several threads. One session runs one turn at a time: a second
    call meanwhile raises :class:`SessionBusyError`.

    Args:
        model: a model with an adapter attached.
        tokenizer: its tokenizer, with a chat template.
        state: the memory to continue from; empty by default.
        window: how many past messages stay visible as text; ``None`` for any number. 0 answers from memory alone.
        window_tokens: how many tokens they may have together; ``None`` for any number.
        roles: whose messages are written to memory: ``user``, ``assistant``, ``tool``, ``document``.
        system: a system message: always visible, never written.
        retriever: brings past turns back; ``"prompt"`` and ``"memory"`` are ``Retriever("prompt")`` and so on.
        reuse: keep the keys and values of the visible text from turn to turn. A visible message then
            keeps the representation from when it was read; otherwise it is read again with the memory of each turn.
        undo: how many turns can be rolled back. Each keeps a state of a few kilobytes.
        keep_messages: keep the text of what is written, only in this process. Then :meth:`recall` tells which turn
            an answer came from, and :meth:`forget` takes single facts out again, exactly.

    Attributes:
        state: the memory, as the last complete turn left it.
        visible: the messages still visible, oldest first.
        last_turn: what the last turn did.
        frozen: whether turns leave the memory unchanged.
        log: the turns that a retriever may bring back; empty without one.
        kept: the turns that were written, with their text; empty without ``keep_messages``.

    Raises:
        ValueError: an argument is out of range, or ``state`` has several rows.
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
        keep_messages: bool = False,
    ) -> None:
        for name, number in (("window", window), ("window_tokens", window_tokens), ("undo", undo)):
            if number is not None and number < 0:
                raise ValueError(f"{name} must not be negative: {number}.")
        if isinstance(roles, str) or not set(roles) <= set(ROLES):
            raise ValueError(f"roles must be some of {', '.join(ROLES)}, in a sequence; not {roles!r}.")
        self.model = model
        self.tokenizer = tokenizer
        self._text = TextInput(model, tokenizer)
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
        self.keep_messages = keep_messages
        self.kept: list[KeptTurn] = []
        self._interview: Interview | None = None
        self.last_turn: TurnReport | None = None
        self._read: ReadText | None = None
        self._undo: deque[Snapshot] = deque(maxlen=undo)
        self._lock = threading.Lock()

    def __repr__(self) -> str:
        written = int(self.state.tokens.sum())
        return f"Session(written_tokens={written}, visible={len(self.visible)}, frozen={self.frozen})"

    @classmethod
    def load(cls, path: str | Path, model: PreTrainedModel, tokenizer: Any, **options: Any) -> Self:
        """A session that continues from a saved memory, with nothing visible.

        Raises:
            StateFileError: the file is damaged, or belongs to another adapter.
        """
        return cls(model, tokenizer, load_state(path, model), **options)

    def save(self, path: str | Path) -> None:
        """Writes the memory to a file of a few kilobytes. The visible text is not part of it."""
        save_state(self.state, path, self.model)

    def restore(self, path: str | Path) -> None:
        """Continues from a saved memory, with nothing visible and no past turns. :meth:`rollback` undoes it.

        Raises:
            StateFileError: the file is damaged, or belongs to another adapter.
            ValueError: the session is frozen.
        """
        self._replace(load_state(path, self.model))

    def export_bytes(self) -> bytes:
        """What :meth:`save` writes."""
        return state_to_bytes(self.state, self.model)

    def import_bytes(self, data: bytes) -> None:
        """The same as :meth:`restore`, from the bytes of :meth:`export_bytes`."""
        self._replace(state_from_bytes(data, self.model))

    def observe(self, source: MessageInput | Iterable[str], *, role: str | None = None) -> TurnReport:
        """Writes something to memory. It does not become visible.

        Args:
            source: a text, a message or several, or a long document as an iterator of pieces of any length, of which
                only a few kilobytes are held at a time; the memory does not depend on where the pieces end.
            role: whose text or document it is: by default a ``user``'s text, and a ``document``. Chat templates
                have no documents, so the model sees a user's message.

        Raises:
            ValueError: the session is frozen, or there is nothing to write.
        """
        with self._alone():
            done = self._observe(source, role, Stop())
            self._commit(done)
        return done.report

    async def aobserve(
        self, source: MessageInput | Iterable[str] | AsyncIterable[str], *, role: str | None = None
    ) -> TurnReport:
        """:meth:`observe` in a thread; a document may also be an asynchronous iterator. Cancelled, it writes nothing.

        The thread also takes the pieces of an ordinary iterator.
        """
        stop = Stop()
        given = from_loop(source, asyncio.get_running_loop(), stop) if isinstance(source, AsyncIterable) else source
        with self._alone():
            done = await in_thread(stop, lambda: self._observe(given, role, stop))
            self._commit(done)
        return done.report

    def reply(self, message: MessageInput, **options: Any) -> str:
        """Answers a message and writes the turn to memory.

        Args:
            message: the user's text; or a message or several, such as the results of tools.
            options: for ``generate``, such as ``max_new_tokens`` (256 by default) or ``do_sample``.

        Raises:
            ValueError: the message is longer than the backbone's number of positions.
        """
        with self._alone():
            done = self._reply(message, options, Stop())
            self._commit(done)
        return done.report.answer

    async def areply(self, message: MessageInput, **options: Any) -> str:
        """:meth:`reply` in a thread. Cancelled, it stops generating and writes nothing."""
        stop = Stop()
        with self._alone():
            done = await in_thread(stop, lambda: self._reply(message, options, stop))
            self._commit(done)
        return done.report.answer

    def stream(self, message: MessageInput, **options: Any) -> Generator[str, None, None]:
        """:meth:`reply`, piece by piece. Leaving early stops generating and writes nothing."""
        with self._alone(), closing(self._stream(message, options, Stop())) as items:
            for item in items:
                if isinstance(item, Finished):
                    self._commit(item)
                else:
                    yield item

    async def astream(self, message: MessageInput, **options: Any) -> AsyncGenerator[str, None]:
        """:meth:`stream` in a thread. Cancelled or left early, it stops generating and writes nothing."""
        stop = Stop()
        with self._alone():
            items = self._stream(message, options, stop)
            try:
                while (item := await in_thread(stop, lambda: next(items, None))) is not None:
                    if isinstance(item, Finished):
                        self._commit(item)
                    else:
                        yield item
            finally:
                stop.requested = True
                await in_thread(stop, items.close)

    def ask(self, message: MessageInput, *, memory: bool = True, **options: Any) -> str:
        """Answers as :meth:`reply` would, and leaves no trace in the session.

        Args:
            message: as in :meth:`reply`.
            memory: ``False`` answers as the bare backbone would, from the visible text alone.
            options: for ``generate``.
        """
        with self._alone():
            draft = self._draft(message, options, memory=memory)
            return self._decode(draft, generate(self.model, draft, Stop()))

    def clear_context(self) -> None:
        """Drops the visible text; only the memory remains."""
        with self._alone():
            self.visible.clear()
            self._read = None

    def reread(self) -> None:
        """Makes the next turn read the visible text again; call it when the model's weights have changed."""
        with self._alone():
            self._read = None

    def freeze(self) -> None:
        """From now on turns read the memory and do not change it."""
        self.frozen = True

    def unfreeze(self) -> None:
        """From now on turns are written again."""
        self.frozen = False

    def fork(self) -> Self:
        """An independent session from here on, with the memory, the visible text and the undo history."""
        with self._alone():
            twin = copy.copy(self)
        twin.visible, twin.log, twin._undo = self.visible.copy(), self.log.copy(), self._undo.copy()
        twin.kept = self.kept.copy()
        twin._lock = threading.Lock()
        return twin

    def rollback(self, turns: int = 1) -> None:
        """Takes back the last turns, state and visible text; what was observed or restored counts as a turn.

        Raises:
            ValueError: there are fewer turns to take back, or the session is frozen and its memory would change.
        """
        with self._alone():
            if not 1 <= turns <= len(self._undo):
                raise ValueError(f"{counted(turns, 'turn')} cannot be rolled back; the last {len(self._undo)} can.")
            before = self._undo[-turns]
            if before.state is not self.state:
                self._refuse_frozen()
            for _ in range(turns):
                self._undo.pop()
            self.state, self.visible, self.log = before.state, list(before.visible), list(before.log)
            self.kept = list(before.kept)
            self._read = self.last_turn = None

    def recall(
        self,
        questions: Mapping[str, str] | Sequence[str] | None = None,
        *,
        threshold: float = 0.5,
        calibration: Calibration | None = None,
    ) -> list[Recollection]:
        """What the memory knows: its answer to each question, how sure it is, and which turn it came from.

        The visible text is not shown to the model, and nothing is written. An answer's confidence depends on how much
        likelier the memory makes it than an empty memory does, and than strangers' memories do. Without a difference
        from an empty memory, an answer is not known.

        Args:
            questions: by name, or texts; the profile :data:`deltamem.recall.PROFILE` by default.
            threshold: the least confidence that counts as ``known``.
            calibration: turns evidence into confidence; by default the package's own for the adapter.

        Returns:
            one for each question. Known answers have a ``source`` in a session with ``keep_messages``; its ``turn`` is
            a place in :attr:`kept`.

        Raises:
            ValueError: there is no question, or one is too long.
        """
        with self._alone():
            first = next((i + 1 for i in range(len(self.kept) - 1, -1, -1) if self.kept[i].messages is None), 0)
            found = recollect(
                self._interviewer(),
                calibration or calibration_of(self.model),
                questions_of(questions),
                self.state,
                threshold=threshold,
                turns=[self._written_turn(turn) for turn in self.kept[first:]],
            )
        return [
            replace(one, source=replace(one.source, turn=one.source.turn + first)) if one.source else one
            for one in found
        ]

    def forget(self, fact: str | Recollection | None = None) -> Forgotten:
        """Empties the memory, or takes one fact out of it. This cannot be rolled back.

        In a session with ``keep_messages`` the turns that say the fact are left out, and those after the first of them
        are written again: the memory is then as if they had never been. Without the text, the memory is changed
        until the question no longer gives the answer; who has its numbers can still read the fact (docs/security.md).

        Args:
            fact: words of the turns to forget, such as ``"Lisbon"``, or what :meth:`recall` found: then the turns that
                say the words of the answer that came from the memory, or its source if none does. By default the
                session forgets the whole conversation.

        Raises:
            ValueError: the session is frozen, no turn that was kept says it, or a text is given to a session that
                keeps none.
        """
        with self._alone():
            self._refuse_frozen()
            if fact is None:
                done = Forgotten(len(self.kept), exact=True)
                self.state = attached(self.model).new_state(1)
                self.visible, self.log, self.kept = [], [], []
            elif self.keep_messages:
                done = self._forget_turns(fact)
            elif isinstance(fact, str):
                raise ValueError(
                    "This session keeps no text to find the fact in: give what recall() found of it, or make the "
                    "session with keep_messages=True."
                )
            else:
                self.state = self._interviewer().erase(fact.question, fact.answer, self.state)
                self._drop_text(lambda messages: says(messages, *fact.words))
                done = Forgotten(0, exact=False)
            self._undo.clear()
            self._read = self.last_turn = None
        return done

    def _interviewer(self) -> Interview:
        if self._interview is None or not self._interview.current:
            self._interview = Interview(self.model, self.tokenizer)
        return self._interview

    def _forget_turns(self, fact: str | Recollection) -> Forgotten:
        """Writes what was kept again, without the turns that say a fact."""
        phrases = (fact,) if isinstance(fact, str) else fact.words
        gone = [place for place, turn in enumerate(self.kept) if turn.messages and says(turn.messages, *phrases)]
        if not gone and isinstance(fact, Recollection) and fact.source is not None:
            gone = [fact.source.turn]
        if not gone:
            said = " and ".join(map(repr, phrases))
            raise ValueError(f"No turn that was kept says {said}, so nothing was forgotten.")
        state, kept = self.kept[gone[0]].before, self.kept[: gone[0]]
        again = [turn for place, turn in enumerate(self.kept) if place >= gone[0] and place not in gone]
        if any(turn.messages is None for turn in again):
            raise ValueError(
                "After the fact a document was observed in pieces. Its text was not kept, so it cannot be written "
                "again, and nothing was forgotten. To keep documents, observe each as one text."
            )
        for turn in again:
            kept.append(replace(turn, before=state))
            state = self._written_again(turn, state)
        self.state, self.kept = state, kept
        self._drop_text(lambda messages: says(messages, *phrases))
        return Forgotten(len(gone), exact=True)

    def _drop_text(self, told: Callable[[Sequence[Message]], bool]) -> None:
        """Takes what says a fact out of the visible text and of what a retriever brings back."""
        self.visible = [message for exchange in exchanges(self.visible) if not told(exchange) for message in exchange]
        self.log = [exchange for exchange in self.log if not told(exchange)]

    def _written_turn(self, turn: KeptTurn) -> WrittenTurn:
        assert turn.messages is not None
        if turn.document:
            return WrittenTurn.of_document(self._text, turn.messages[0]["content"], turn.before)
        return WrittenTurn.of(self._text, turn.messages, turn.before, self.roles)

    def _written_again(self, turn: KeptTurn, state: MemoryState) -> MemoryState:
        assert turn.messages is not None
        if turn.document:
            return self._text.write_document([turn.messages[0]["content"]], state)
        return self._written(turn.messages, state)

    @contextmanager
    def _alone(self) -> Iterator[None]:
        if not self._lock.acquire(blocking=False):
            raise SessionBusyError("A turn of this session is running; wait for it, or close its stream.")
        try:
            yield
        finally:
            self._lock.release()

    def _replace(self, state: MemoryState) -> None:
        with self._alone():
            self._refuse_frozen()
            state = one_row(state)
            self._remember()
            self.state, self.visible, self.log, self.kept = state, [], [], []
            self._read = self.last_turn = None

    def _remember(self) -> None:
        self._undo.append(Snapshot(self.state, tuple(self.visible), tuple(self.log), tuple(self.kept)))

    def _commit(self, done: Finished) -> None:
        self._remember()
        self.state, self.visible, self._read = done.state, done.visible, done.read
        self.last_turn = done.report
        if self.retriever is not None:
            self.log += done.log
        if self.keep_messages and done.kept is not None:
            self.kept.append(done.kept)

    def _observe(self, source: MessageInput | Iterable[str], role: str | None, stop: Stop) -> Finished:
        """The turn that writes ``source``."""
        start = time.monotonic()
        self._refuse_frozen()
        log: list[Exchange] = []
        said: tuple[Message, ...] | None = None
        if isinstance(source, str):
            role = role or "user"
            said = ({"role": role, "content": source},)
            log = [said]
            state = self._written_document([source], role, stop)
        elif messages := _messages(source):
            said = tuple(messages)
            log = exchanges(messages)
            state = self._written(messages, self.state)
        else:
            state = self._written_document(source, role or "document", stop)  # type: ignore[arg-type]
        kept = KeptTurn(said, isinstance(source, str), self.state, time.time())
        return Finished(state, self.visible, self._read, log, self._report(start, state), kept)

    def _draft(self, message: MessageInput, options: dict[str, Any], *, memory: bool = True) -> Draft:
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
            state = self._written([part for exchange in retrieved for part in exchange], state)
        answer = _answer_length(options)
        most = positions(self.model)
        visible = self.visible[self._first_visible(self.visible) :]
        chat, shown, past = fit_prompt(
            lambda messages: self._text.encode(messages, prompt=True),
            [{"role": "system", "content": self.system}] if self.system else [],
            shown,
            visible,
            new,
            positions=most,
            answer=answer,
        )
        prompt = chat.input_ids.to(attachment.base.device)
        cache = attachment.new_cache(state, write=False)
        keep, reused = self.reuse and state is self.state, 0
        if keep and self._read is not None and len(past) == len(self.visible):
            reused = self._read.resume(prompt, cache, attachment)
        # Beyond its last position a backbone says nothing sensible, or fails.
        room = answer if most is None else min(answer, most - prompt.shape[1])
        return Draft(
            new, past, retrieved or shown, prompt, cache, reused, keep, options | {"max_new_tokens": room}, start
        )

    def _reply(self, message: MessageInput, options: dict[str, Any], stop: Stop) -> Finished:
        """The turn that answers a message."""
        draft = self._draft(message, options)
        return self._finish(draft, generate(self.model, draft, stop))

    def _stream(
        self, message: MessageInput, options: dict[str, Any], stop: Stop
    ) -> Generator[str | Finished, None, None]:
        """The pieces of an answer, then its turn."""
        draft = self._draft(message, options)
        with closing(stream(self.model, self.tokenizer, draft, stop)) as items:
            for item in items:
                yield item if isinstance(item, str) else self._finish(draft, item)

    def _finish(self, draft: Draft, sequence: Tensor) -> Finished:
        """The turn of a draft that was answered with ``sequence`` ``[1, T]``."""
        answer = self._decode(draft, sequence)
        turn = [*draft.new, {"role": "assistant", "content": answer}]
        state = self.state if self.frozen else self._written(turn, self.state)
        before = [*draft.past, *turn]
        visible = before[self._first_visible(before) :]
        gone = [*self.visible, *turn]
        left = tuple(gone[: len(gone) - len(visible)])
        # Once the window has slid, what stays stands elsewhere and after other text: it is read again.
        read = ReadText.of(sequence, draft.cache, attached(self.model)) if draft.keep and not left else None
        kept = None if self.frozen else KeptTurn(tuple(turn), False, self.state, time.time())
        return Finished(
            state, visible, read, [tuple(turn)], self._report(draft.start, state, draft, answer, left), kept
        )

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

    def _written(self, messages: Sequence[Message], state: MemoryState) -> MemoryState:
        """``state`` with what the messages of the written roles add to it."""
        return self._text.write(messages, state, roles=self.roles)

    def _written_document(self, pieces: Iterable[str], role: str, stop: Stop) -> MemoryState:
        if role not in self.roles:
            raise ValueError(f"This session writes {', '.join(self.roles) or 'no role'} and not {role!r}.")
        return self._text.write_document(pieces, self.state, check=stop.check)

    def _first_visible(self, messages: Sequence[Message]) -> int:
        lengths: list[int] = []
        if self.window_tokens is not None and messages:
            lengths = message_lengths(self._text.encode(messages), len(messages))
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
    """The state itself; raises a ``ValueError`` if it has several rows."""
    if state.batch != 1:
        raise ValueError(f"A session is one row; this state has {state.batch}. Use state.row(i).")
    return state


def _answer_length(options: dict[str, Any]) -> int:
    """How many tokens the options for ``generate`` allow an answer."""
    config = options.get("generation_config")
    return int(options.get("max_new_tokens") or getattr(config, "max_new_tokens", None) or _NEW_TOKENS)


def _messages(source: Iterable[Any]) -> list[Message]:
    """The message or messages of ``source``, or none if it is an iterator of text."""
    if isinstance(source, bytes) or not isinstance(source, Iterable):
        raise TypeError(f"Give a text, a message or several, or a document's pieces, not {type(source).__name__}.")
    if isinstance(source, Mapping):
        source = [source]
    if not isinstance(source, Sequence) or not source or not isinstance(source[0], Mapping):
        return []
    for message in source:
        if not isinstance(message, Mapping):
            raise TypeError(f"Every message must be a dict with role and content, not {type(message).__name__}.")
    messages = [{**message, "content": ""} if only_calls(message) else message for message in source]
    check_messages(messages)
    return messages
