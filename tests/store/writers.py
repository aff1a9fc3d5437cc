"""What other processes do to a store in these tests; they are started afresh and import little."""

import sqlite3
import time
from collections.abc import Iterator
from contextlib import contextmanager
from multiprocessing import get_context
from multiprocessing.connection import Connection
from multiprocessing.process import BaseProcess
from typing import Any

from deltamem.store import Commit, ConflictError, SessionStore, StateKeys

_CONTEXT = get_context("forkserver")
_CONTEXT.set_forkserver_preload(["deltamem.store"])


@contextmanager
def process(target: Any, *arguments: Any) -> Iterator[tuple[BaseProcess, Connection]]:
    """A process that runs ``target(*arguments, pipe)``, and this end of its pipe."""
    here, there = _CONTEXT.Pipe()
    worker = _CONTEXT.Process(target=target, args=(*arguments, there), daemon=True)
    worker.start()
    there.close()
    try:
        yield worker, here
    finally:
        worker.kill()
        worker.join()
        worker.close()
        here.close()


def memory_of(writer: str, number: int) -> bytes:
    """A memory that tells who made it and from which version, too long for one page."""
    return f"{writer}:{number};".encode() * 800


def write_turns(url: str, keys: str | None, pipe: Connection) -> None:
    """Commits turns until killed, and tells of each once it is acknowledged."""
    store = SessionStore.open(
        url, keys=StateKeys.from_text(keys) if keys else None, keep_messages=True, keep_versions=5
    )
    parent = store.get("t", "s").head
    while True:
        said = [{"role": role, "content": f"{role} {parent + 1}"} for role in ("user", "assistant")]
        parent = store.commit(
            Commit("t", "s", parent=parent, state=memory_of("w", parent + 1), tokens=parent + 1, messages=said)
        ).number
        pipe.send(parent)


def compete(url: str, name: str, turns: int, pipe: Connection) -> None:
    """Tries to commit on top of whatever it loads; tells the versions it won and how many it lost."""
    store = SessionStore.open(url, keep_messages=True, keep_versions=None)
    pipe.send("ready")
    pipe.recv()
    won, lost = [], 0
    while len(won) < turns:
        head = store.load("t", "s")
        said = [{"role": "user", "content": f"{name} {head.number}"}]
        try:
            version = store.commit(
                Commit("t", "s", parent=head.number, state=head.state + f"{name},".encode(), tokens=0, messages=said)
            )
            won.append(version.number)
        except ConflictError:
            lost += 1
    store.close()
    pipe.send((won, lost))


def open_at_once(url: str, pipe: Connection) -> None:
    """Opens a database that does not exist yet, together with others."""
    pipe.send("ready")
    pipe.recv()
    with SessionStore.open(url) as store:
        store.check()
    pipe.send("opened")


def hold_sqlite_lock(path: str, seconds: float, pipe: Connection) -> None:
    """Holds SQLite's write lock for a while."""
    connection = sqlite3.connect(path, isolation_level=None)
    connection.execute("BEGIN IMMEDIATE")
    pipe.send("held")
    time.sleep(seconds)
    connection.execute("ROLLBACK")
    connection.close()
    pipe.send("released")
