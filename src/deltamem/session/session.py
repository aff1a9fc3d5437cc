"""A conversation with a memory: what leaves the visible text stays in the state."""

import asyncio
import copy
import threading
from collections.abc import AsyncGenerator, AsyncIterable, Generator, Iterable, Iterator
from contextlib import closing, contextmanager
from pathlib import Path
from typing import Any, Self

from transformers import PreTrainedModel

from deltamem.attach import attached
from deltamem.formats.state import load_state, save_state, state_from_bytes, state_to_bytes
from deltamem.session.answering import Stop, from_loop, generate, in_thread
from deltamem.session.conversation import Conversation, Text, one_row
from deltamem.session.turns import Finished, SessionBusyError, Snapshot, TurnReport
from deltamem.state import MemoryState


class Session(Conversation):
    """One conversation: a frozen model, a memory state, and the few messages still visible.

    A reply is read from the memory as the turn began; once it is complete the turn is written, so a
    reply that fails or is abandoned leaves the session as it was.

    Sessions of one model may run in several threads. One session runs one turn at a time: what is asked
    of it meanwhile fails with :class:`SessionBusyError`.

    Args:
        model: a model with an adapter attached.
        tokenizer: its tokenizer, with a chat template.
        state: the memory to go on from; empty by default.
        window: how many past messages stay visible as text; ``None`` for any number. 0 answers from memory alone.
        window_tokens: how many tokens they may have together; ``None`` for any number.
        roles: whose messages are written to memory: ``user``, ``assistant``, ``tool``, ``document``.
        system: a system message: always visible, never written.
        retriever: brings past turns back; ``"prompt"`` and ``"memory"`` are ``Retriever("prompt")`` and so on.
        reuse: keep the keys and values of the visible text from turn to turn. A visible message then
            keeps the representation it got when it was read; without, it is read again with the memory of each turn.
        undo: how many turns can be rolled back. Each keeps a state of a few kilobytes.

    Attributes:
        state: the memory, as the last complete turn left it.
        visible: the messages still visible, oldest first.
        last_turn: what the last turn did.
        frozen: whether turns leave the memory as it is.
        log: the turns that a retriever may bring back; empty without one.

    Raises:
        ValueError: an argument is out of range, or ``state`` has several rows.
    """

    @classmethod
    def load(cls, path: str | Path, model: PreTrainedModel, tokenizer: Any, **options: Any) -> Self:
        """A session that goes on from a saved memory, with nothing visible.

        Raises:
            StateFileError: the file is damaged, or belongs to another adapter.
        """
        return cls(model, tokenizer, load_state(path, model), **options)

    def save(self, path: str | Path) -> None:
        """Writes the memory to a file of a few kilobytes. The visible text is not part of it."""
        save_state(self.state, path, self.model)

    def restore(self, path: str | Path) -> None:
        """Goes on from a saved memory, with nothing visible and no past turns. :meth:`rollback` takes it back.

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

    def observe(self, source: Text | Iterable[str], *, role: str | None = None) -> TurnReport:
        """Writes something to memory. It does not become visible.

        Args:
            source: a text, a message or several, or a long document as an iterator of pieces of any length, of which
                only a few kilobytes are held at a time; the memory does not depend on where the pieces end.
            role: whose text or document it is: by default a ``user``'s text, and a ``document``. Chat templates
                know no documents, so the model sees one as a user's message.

        Raises:
            ValueError: the session is frozen, or there is nothing to write.
        """
        with self._alone():
            done = self._observe(source, role, Stop())
            self._commit(done)
        return done.report

    async def aobserve(
        self, source: Text | Iterable[str] | AsyncIterable[str], *, role: str | None = None
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

    def reply(self, message: Text, **options: Any) -> str:
        """Answers a message and writes the turn to memory.

        Args:
            message: the user's text; or a message or several, such as the results of tools.
            options: for ``generate``, such as ``max_new_tokens`` (256 by default) or ``do_sample``.

        Raises:
            ValueError: the message is longer than the backbone has positions for.
        """
        with self._alone():
            done = self._reply(message, options, Stop())
            self._commit(done)
        return done.report.answer

    async def areply(self, message: Text, **options: Any) -> str:
        """:meth:`reply` in a thread. Cancelled, it stops generating and writes nothing."""
        stop = Stop()
        with self._alone():
            done = await in_thread(stop, lambda: self._reply(message, options, stop))
            self._commit(done)
        return done.report.answer

    def stream(self, message: Text, **options: Any) -> Generator[str, None, None]:
        """:meth:`reply`, piece by piece. Leaving early stops generating and writes nothing."""
        with self._alone(), closing(self._stream(message, options, Stop())) as items:
            for item in items:
                if isinstance(item, Finished):
                    self._commit(item)
                else:
                    yield item

    async def astream(self, message: Text, **options: Any) -> AsyncGenerator[str, None]:
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

    def ask(self, message: Text, *, memory: bool = True, **options: Any) -> str:
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
        """Has the next turn read the visible text again; to be called when the model's weights have changed."""
        with self._alone():
            self._read = None

    def freeze(self) -> None:
        """From now on turns read the memory and leave it as it is."""
        self.frozen = True

    def unfreeze(self) -> None:
        """From now on turns are written again."""
        self.frozen = False

    def fork(self) -> Self:
        """A session that goes on from here by itself: memory, visible text, what can be rolled back."""
        with self._alone():
            twin = copy.copy(self)
        twin.visible, twin.log, twin._undo = self.visible.copy(), self.log.copy(), self._undo.copy()
        twin._lock = threading.Lock()
        return twin

    def rollback(self, turns: int = 1) -> None:
        """Takes back the last turns, state and visible text; what was observed or restored counts as a turn.

        Raises:
            ValueError: so many turns cannot be taken back, or the session is frozen and its memory would change.
        """
        with self._alone():
            if not 1 <= turns <= len(self._undo):
                raise ValueError(f"{turns} turns cannot be rolled back; the last {len(self._undo)} can.")
            before = self._undo[-turns]
            if before.state is not self.state:
                self._refuse_frozen()
            for _ in range(turns):
                self._undo.pop()
            self.state, self.visible, self.log = before.state, list(before.visible), list(before.log)
            self._read = self.last_turn = None

    def forget(self) -> None:
        """Empties the memory and all else the session holds of the conversation. This cannot be rolled back.

        Raises:
            ValueError: the session is frozen.
        """
        with self._alone():
            self._refuse_frozen()
            self.state = attached(self.model).new_state(1)
            self.visible, self.log = [], []
            self._undo.clear()
            self._read = self.last_turn = None

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
            self.state, self.visible, self.log = state, [], []
            self._read = self.last_turn = None

    def _remember(self) -> None:
        self._undo.append(Snapshot(self.state, tuple(self.visible), tuple(self.log)))

    def _commit(self, done: Finished) -> None:
        self._remember()
        self.state, self.visible, self._read = done.state, done.visible, done.read
        self.last_turn = done.report
        if self.retriever is not None:
            self.log += done.log
