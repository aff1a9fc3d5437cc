"""Turns on their way to the store: those that end together wait for the disk together."""

import asyncio
from collections.abc import Callable

from deltamem.serve.bridge import settled
from deltamem.store import Commit, SessionStore, Version

Prepare = Callable[[], Commit]
_MOST = 64
_Waiting = tuple[Prepare, "asyncio.Future[Version]"]


class Committer:
    """Commits for one event loop.

    SQLite has one writer at a time, and a transaction waits for the disk. So what is to be committed while another
    transaction runs goes into the next one together. PostgreSQL takes several transactions at once, and each commit
    gets one of its own.
    """

    def __init__(self, store: SessionStore) -> None:
        self._store = store
        self._waiting: list[_Waiting] = []
        self._task: asyncio.Task[None] | None = None

    async def commit(self, prepare: Prepare) -> Version:
        """The version that a commit made; durable once this returns.

        Cancelled before its transaction, it writes nothing. Later it waits for the end, so that no other turn of the
        session begins in between.

        Args:
            prepare: makes what is to be committed, in a thread.

        Raises:
            StoreError: the store refused it; nothing of it was written.
        """
        if not self._store.database.is_sqlite:
            return await settled(asyncio.to_thread(lambda: self._store.commit(prepare())))
        done: asyncio.Future[Version] = asyncio.get_running_loop().create_future()
        waiting = (prepare, done)
        self._waiting.append(waiting)
        if self._task is None or self._task.done():
            self._task = asyncio.create_task(self._run())
        return await settled(done, stop=lambda: waiting in self._waiting and done.cancel())

    async def _run(self) -> None:
        while self._waiting:
            taken, self._waiting = self._waiting[:_MOST], self._waiting[_MOST:]
            wanted = [(prepare, done) for prepare, done in taken if not done.cancelled()]
            outcomes: list[Version | Exception]
            try:
                outcomes = await asyncio.to_thread(self._write, [prepare for prepare, _ in wanted])
            except Exception as error:  # no thread could be started
                outcomes = [error] * len(wanted)
            except asyncio.CancelledError:  # the loop ends, and waits for those who wait here
                for _, done in wanted:
                    done.cancel()
                raise
            for (_, done), outcome in zip(wanted, outcomes, strict=True):
                if isinstance(outcome, Exception):
                    done.set_exception(outcome)
                else:
                    done.set_result(outcome)

    def _write(self, prepares: list[Prepare]) -> list[Version | Exception]:
        prepared = [_outcome(prepare) for prepare in prepares]
        made = iter(self._store.commit_all([one for one in prepared if isinstance(one, Commit)]))
        return [next(made) if isinstance(one, Commit) else one for one in prepared]


def _outcome(prepare: Prepare) -> Commit | Exception:
    try:
        return prepare()
    except Exception as error:
        return error
