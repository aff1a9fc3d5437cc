"""Turns that end together share a transaction, and nothing else."""

import asyncio
import threading
from collections.abc import Iterator
from pathlib import Path
from typing import Any

import pytest
from sqlalchemy import event

from deltamem.serve.committer import Committer
from deltamem.store import Commit, ConflictError, SessionStore, Version


@pytest.fixture
def store(tmp_path: Path) -> Iterator[SessionStore]:
    with SessionStore.open(f"sqlite:///{tmp_path / 'sessions.db'}") as store:
        for number in range(8):
            store.create("t", f"s{number}", fingerprint="f", state=b"empty")
        yield store


def turn(number: int, parent: int = 1) -> Commit:
    return Commit(tenant="t", session=f"s{number}", parent=parent, state=b"%d" % number, tokens=1)


def test_what_comes_while_one_is_written_goes_together(store: SessionStore) -> None:
    transactions: list[Any] = []
    event.listen(store.database.engine, "commit", transactions.append)
    held, writing = threading.Event(), threading.Event()

    def first() -> Commit:
        writing.set()
        assert held.wait(60)
        return turn(0)

    async def run() -> list[Version | BaseException]:
        committer = Committer(store)
        jobs = [asyncio.create_task(committer.commit(first))]
        await asyncio.to_thread(writing.wait, 60)
        for number in range(1, 7):
            parent = 9 if number == 3 else 1
            jobs.append(asyncio.create_task(committer.commit(lambda n=number, p=parent: turn(n, p))))
        jobs.append(asyncio.create_task(committer.commit(lambda: turn(7))))
        await asyncio.sleep(0)  # each has got in line
        jobs[-1].cancel()
        held.set()
        return await asyncio.gather(*jobs, return_exceptions=True)

    outcomes = asyncio.run(run())
    assert len(transactions) == 2
    assert isinstance(outcomes[3], ConflictError)
    assert isinstance(outcomes[7], asyncio.CancelledError)
    assert [store.get("t", f"s{n}").head for n in range(8)] == [2, 2, 2, 1, 2, 2, 2, 1]
    assert store.load("t", "s5").state == b"5"


def test_a_loop_that_ends_while_one_is_written_ends(store: SessionStore) -> None:
    writing, over = threading.Event(), threading.Event()

    def slow() -> Commit:
        writing.set()
        assert over.wait(60)
        return turn(0)

    async def run() -> None:
        committer = Committer(store)
        jobs = [asyncio.create_task(committer.commit(slow))]
        await asyncio.to_thread(writing.wait, 60)
        jobs.append(asyncio.create_task(committer.commit(lambda: turn(1))))
        await asyncio.sleep(0)  # it has got in line
        over.set()

    loop = threading.Thread(target=lambda: asyncio.run(run()), daemon=True)
    loop.start()
    loop.join(60)
    assert not loop.is_alive()
    assert [store.get("t", f"s{n}").head for n in range(2)] == [2, 1]


def test_what_cannot_be_prepared_fails_alone(store: SessionStore) -> None:
    def broken() -> Commit:
        raise OverflowError("too large")

    async def run() -> list[Version | BaseException]:
        committer = Committer(store)
        wanted = (lambda: turn(0), broken, lambda: turn(2))
        return await asyncio.gather(*(committer.commit(one) for one in wanted), return_exceptions=True)

    good, bad, other = asyncio.run(run())
    assert isinstance(bad, OverflowError)
    assert (good, other) == (store.load("t", "s0"), store.load("t", "s2"))
