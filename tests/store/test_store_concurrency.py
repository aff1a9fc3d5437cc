"""Two writers never mix, and what was acknowledged survives kill -9."""

import random
import threading
import time
from collections import Counter
from collections.abc import Callable
from concurrent.futures import ThreadPoolExecutor
from contextlib import ExitStack
from datetime import UTC, datetime, timedelta

import pytest
import writers
from sqlalchemy import func, select, update

from deltamem.store import Commit, ConflictError, ExistsError, NotFoundError, SessionStore, StateKeys
from deltamem.store.schema import messages, sessions, versions

Opened = Callable[..., SessionStore]
KEYS = StateKeys.generate("k")


def test_of_two_threads_exactly_one_wins(store: SessionStore) -> None:
    store.create("t", "s", fingerprint="f", state=b"start")
    threads = 8
    gate = threading.Barrier(threads)
    heads: list[int] = []

    def write(name: int) -> str | None:
        said = [{"role": "user", "content": str(name)}]
        gate.wait()
        try:
            store.commit(Commit("t", "s", parent=parent, state=b"%d" % name, tokens=1, messages=said))
        except ConflictError as error:
            heads.append(error.head)
            return None
        return str(name)

    with ThreadPoolExecutor(threads) as pool:
        for parent in range(1, 6):
            won = [name for name in pool.map(write, range(threads)) if name is not None]
            assert len(won) == 1
            assert store.load("t", "s").state == won[0].encode()
            assert [m.message["content"] for m in store.messages("t", "s")][parent - 1 :] == won
            assert heads == [parent + 1] * (threads - 1)
            heads.clear()


def test_a_session_that_is_given_more_time_while_others_are_purged_stays(store: SessionStore) -> None:
    soon, later = (datetime.now(UTC) + timedelta(hours=hours) for hours in (1, 3))
    for name in ("prolonged", "gone"):
        store.create("t", name, fingerprint="f", state=b"start", expires=soon)
    with ThreadPoolExecutor(1) as pool:
        with store.database.write() as connection:
            connection.execute(update(sessions).where(sessions.c.session == "prolonged").values(expires=later))
            purging = pool.submit(store.purge_expired, soon + timedelta(hours=1))
            time.sleep(0.5)  # it has come to the row, or to the lock
        assert purging.result() == 1
    assert store.get("t", "prolonged").expires == later
    with pytest.raises(NotFoundError):
        store.get("t", "gone")


def test_writers_of_two_processes_take_turns(url: str) -> None:
    store = SessionStore.open(url, keep_messages=True, keep_versions=None)
    store.create("t", "s", fingerprint="f", state=b"start,")
    turns = 12
    with ExitStack() as stack:
        pipes = {
            name: stack.enter_context(writers.process(writers.compete, url, name, turns))[1] for name in ("a", "b", "c")
        }
        for pipe in pipes.values():
            assert pipe.recv() == "ready"
        for pipe in pipes.values():
            pipe.send("go")
        results = {name: pipe.recv() for name, pipe in pipes.items()}
    winner_of = {number: name for name, (won, _) in results.items() for number in won}
    assert sorted(winner_of) == list(range(2, 2 + 3 * turns))
    line = [winner_of[number] for number in sorted(winner_of)]
    assert store.load("t", "s").state == b"start," + "".join(f"{name}," for name in line).encode()
    said = [m.message["content"] for m in store.messages("t", "s")]
    assert said == [f"{name} {number - 1}" for number, name in sorted(winner_of.items())]
    assert sum(lost for _, lost in results.values()) > 0
    store.close()


def test_sessions_written_at_once_do_not_mix(store: SessionStore) -> None:
    names = [(f"t{n % 3}", f"s{n}") for n in range(12)]

    def live(place: tuple[str, str]) -> None:
        store.create(*place, fingerprint="f", state=b"x")
        for number in range(1, 6):
            text = f"{place} {number}"
            store.commit(
                Commit(
                    *place, parent=number, state=text.encode(), tokens=1, messages=[{"role": "user", "content": text}]
                )
            )

    with ThreadPoolExecutor(len(names)) as pool:
        list(pool.map(live, names))
    for place in names:
        assert store.load(*place).state == f"{place} 5".encode()
        assert [m.message["content"] for m in store.messages(*place)] == [f"{place} {n}" for n in range(1, 6)]


def test_one_of_many_creates_a_name(store: SessionStore) -> None:
    def create(number: int) -> int:
        try:
            store.create("t", "s", fingerprint="f", state=b"%d" % number)
        except ExistsError:
            return 0
        return 1

    with ThreadPoolExecutor(8) as pool:
        assert sum(pool.map(create, range(8))) == 1


def test_deleting_while_writing_leaves_nothing(store: SessionStore) -> None:
    def write(session: str) -> None:
        store.create("t", session, fingerprint="f", state=b"x")
        number = 1
        while True:
            try:
                number = store.commit(
                    Commit(
                        "t", session, parent=number, state=b"y", tokens=1, messages=[{"role": "user", "content": "z"}]
                    )
                ).number
            except NotFoundError:
                return

    with ThreadPoolExecutor(4) as pool:
        writing = [pool.submit(write, f"s{n}") for n in range(4)]
        while len(store.list("t").sessions) < 4 or min(r.head for r in store.list("t").sessions) < 3:
            time.sleep(0.01)
        assert store.delete_tenant("t") == 4
        for future in writing:
            future.result()
    with store.database.read() as connection:
        for table in (sessions, versions, messages):
            assert connection.execute(select(func.count()).select_from(table)).scalar_one() == 0


def test_processes_that_open_an_empty_database_together_all_succeed(url: str) -> None:
    with ExitStack() as stack:
        pipes = [stack.enter_context(writers.process(writers.open_at_once, url))[1] for _ in range(4)]
        for pipe in pipes:
            assert pipe.recv() == "ready"
        for pipe in pipes:
            pipe.send("go")
        assert Counter(pipe.recv() for pipe in pipes) == {"opened": 4}


@pytest.mark.parametrize("keys", [None, KEYS], ids=["plain", "encrypted"])
def test_what_was_acknowledged_survives_kill_9(url: str, opened: Opened, keys: str | None) -> None:
    store = opened(keys=StateKeys.from_text(keys) if keys else None, keep_messages=True, keep_versions=5)
    store.create("t", "s", fingerprint="f", state=writers.memory_of("w", 1))
    chance = random.Random(0)
    acknowledged = 1
    for _ in range(8):
        with writers.process(writers.write_turns, url, keys) as (worker, pipe):
            first = pipe.recv()
            assert first > acknowledged
            time.sleep(chance.uniform(0, 0.08))
            worker.kill()
            worker.join()
            acknowledged = first
            while pipe.poll():
                try:
                    acknowledged = pipe.recv()
                except EOFError:
                    break
        # A server may still be finishing what the killed process sent; this waits for its lock.
        store.change("t", "s", frozen=False)
        record = store.get("t", "s")
        # At most one turn was durable and not yet acknowledged.
        assert acknowledged <= record.head <= acknowledged + 1
        acknowledged = record.head
        timeline = store.versions("t", "s")
        assert [v.number for v in timeline] == list(range(record.head, max(record.head - 5, 0), -1))
        for info in timeline:
            version = store.load("t", "s", info.number)
            assert version.state == writers.memory_of("w", info.number)
            assert version.parent == (info.number - 1 or None)
        said = [m.message["content"] for m in store.messages("t", "s", limit=10_000)]
        assert said == [f"{role} {n}" for n in range(2, record.head + 1) for role in ("user", "assistant")]
    if store.database.is_sqlite:
        with store.database.read() as connection:
            assert connection.exec_driver_sql("PRAGMA integrity_check").scalar_one() == "ok"
            assert connection.exec_driver_sql("PRAGMA foreign_key_check").all() == []
