"""Sessions in asyncio: the same turns, stopped when cancelled, one at a time."""

import asyncio
import threading
import time
from collections.abc import AsyncIterator, Iterator
from typing import Any

import pytest
import torch

import deltamem
from talkers import SHORT, chat_tokenizer, talker
from tiny import assert_same_state

LONG = {"max_new_tokens": 400, "min_new_tokens": 400, "do_sample": False}


@pytest.fixture
def session() -> deltamem.Session:
    return deltamem.Session(talker(), chat_tokenizer())


def test_turns_are_those_of_the_other_form(session: deltamem.Session):
    other = session.fork()

    async def converse() -> list[str]:
        await session.aobserve("I live in Lisbon.")
        await session.aobserve(iter(["I have ", "a dog."]))
        whole = await session.areply("Where do I live?", **SHORT)
        return [whole, "".join([piece async for piece in session.astream("What do I have?", **SHORT)]).strip()]

    answers = asyncio.run(converse())
    other.observe("I live in Lisbon.")
    other.observe(iter(["I have a dog."]))
    assert answers == [other.reply("Where do I live?", **SHORT), other.reply("What do I have?", **SHORT)]
    assert_same_state(session.state, other.state, tolerance=0)
    assert session.visible == other.visible


def test_a_cancelled_reply_stops_and_commits_nothing(session: deltamem.Session):
    before, tokens = session.state, 0
    begun, cancelled = threading.Event(), threading.Event()

    def count(ids: torch.Tensor, scores: torch.Tensor, **_: Any) -> bool:
        """Counts the tokens; the first is not over before the reply is cancelled."""
        nonlocal tokens
        tokens += 1
        begun.set()
        assert cancelled.wait(60)
        return False

    async def cancel() -> None:
        task = asyncio.create_task(session.areply("Hello.", **LONG, stopping_criteria=[count]))
        assert await asyncio.to_thread(begun.wait, 60)
        task.cancel()
        await asyncio.sleep(0)
        cancelled.set()
        with pytest.raises(asyncio.CancelledError):
            await task

    asyncio.run(cancel())
    assert tokens == 1
    assert session.state is before
    assert session.visible == []
    assert session.last_turn is None
    assert session.reply("Hello.", **SHORT)


def test_a_reply_cancelled_as_it_is_written_commits_nothing(session: deltamem.Session, monkeypatch):
    """The cancellation comes when the answer is there and its turn is being computed."""
    writing, go_on = threading.Event(), threading.Event()
    write = session._written

    def slow_write(*args):
        writing.set()
        assert go_on.wait(60)
        return write(*args)

    monkeypatch.setattr(session, "_written", slow_write)
    before = session.state

    async def cancel() -> None:
        task = asyncio.create_task(session.areply("Hello.", **SHORT))
        assert await asyncio.to_thread(writing.wait, 60)
        task.cancel()
        await asyncio.sleep(0)
        go_on.set()
        with pytest.raises(asyncio.CancelledError):
            await task

    asyncio.run(cancel())
    assert session.state is before
    assert session.visible == []


def test_leaving_an_asynchronous_stream_commits_nothing(session: deltamem.Session):
    before = session.state

    async def leave() -> None:
        stream = session.astream("Hello.", **LONG)
        async for _ in stream:
            break
        await stream.aclose()

    asyncio.run(leave())
    assert session.state is before
    assert session.reply("Hello.", **SHORT)


def test_cancelling_a_stream_commits_nothing(session: deltamem.Session):
    before = session.state

    async def cancel() -> None:
        async def follow() -> None:
            async for _ in session.astream("Hello.", **LONG):
                pass

        task = asyncio.create_task(follow())
        await asyncio.sleep(0.1)
        task.cancel()
        with pytest.raises(asyncio.CancelledError):
            await task

    asyncio.run(cancel())
    assert session.state is before
    assert session.reply("Hello.", **SHORT)


def test_a_cancelled_document_is_not_read_on_and_leaves_nothing(session: deltamem.Session):
    taken, begun = 0, threading.Event()

    def endless() -> Iterator[str]:
        nonlocal taken
        while True:
            taken += 1
            begun.set()
            yield "It was a long day and nothing happened. " * 50

    before = session.state

    async def cancel() -> None:
        task = asyncio.create_task(session.aobserve(endless()))
        assert await asyncio.to_thread(begun.wait, 60)
        task.cancel()
        with pytest.raises(asyncio.CancelledError):
            await task

    asyncio.run(cancel())
    at_the_end = taken
    time.sleep(0.05)
    assert taken == at_the_end
    assert session.state is before


def test_a_document_may_be_an_asynchronous_iterator(session: deltamem.Session):
    other = session.fork()

    async def pieces() -> AsyncIterator[str]:
        for piece in ("I live ", "in Lis", "bon."):
            await asyncio.sleep(0)
            yield piece

    asyncio.run(session.aobserve(pieces()))
    other.observe(iter(["I live in Lisbon."]))
    assert_same_state(session.state, other.state, tolerance=0)


def test_a_document_that_never_comes_can_be_cancelled(session: deltamem.Session):
    async def stalled() -> AsyncIterator[str]:
        yield "I live in Lisbon. " * 100
        await asyncio.Event().wait()

    before = session.state

    async def cancel() -> None:
        with pytest.raises(TimeoutError):
            await asyncio.wait_for(session.aobserve(stalled()), 0.3)

    asyncio.run(cancel())
    assert session.state is before
    session.observe("I live in Lisbon.")


def test_an_error_comes_through(session: deltamem.Session):
    async def fail() -> None:
        with pytest.raises(ValueError, match="max_new_tokens"):
            await session.areply("Hello.", max_new_tokens=-1)
        with pytest.raises(ValueError, match="positions"):
            async for _ in session.astream("Hello there. " * 400):
                pass

    asyncio.run(fail())
    assert session.last_turn is None


def test_a_session_runs_one_turn_at_a_time(session: deltamem.Session):
    stream = session.stream("Hello.", **LONG)
    next(stream)
    for ask in (
        lambda: session.reply("Hello.", **SHORT),
        lambda: session.observe("Hello."),
        lambda: session.ask("Hello."),
        lambda: next(session.stream("Hello.")),
        session.rollback,
        session.forget,
        session.fork,
        session.clear_context,
        lambda: session.import_bytes(session.export_bytes()),
        lambda: asyncio.run(session.areply("Hello.")),
        lambda: asyncio.run(session.aobserve("Hello.")),
    ):
        with pytest.raises(deltamem.SessionBusyError):
            ask()
    stream.close()
    session.reply("Hello.", **SHORT)
    assert len(session.visible) == 2


def test_sessions_of_one_model_run_side_by_side(session: deltamem.Session):
    told = [f"My friend Ravi has {number} dogs." for number in range(4)]
    alone = []
    for said in told:
        one = session.fork()
        one.observe(said)
        alone.append((one.reply("How many dogs?", **SHORT), one.state))
    many = [session.fork() for _ in told]

    async def one(number: int) -> str:
        await many[number].aobserve(told[number])
        return await many[number].areply("How many dogs?", **SHORT)

    async def together() -> list[str]:
        return await asyncio.gather(*map(one, range(len(told))))

    assert asyncio.run(together()) == [answer for answer, _ in alone]
    for this, (_, state) in zip(many, alone, strict=True):
        assert_same_state(this.state, state)
