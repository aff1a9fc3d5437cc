"""The audit log keeps what was added, and the database itself refuses to change it."""

from collections.abc import Callable
from datetime import UTC, datetime, timedelta

import pytest
from sqlalchemy import text
from sqlalchemy.exc import DBAPIError

from deltamem.store import Act, AuditLog, InvalidError, SessionStore

LONG_AGO = datetime(2026, 1, 2, tzinfo=UTC)


def act(tenant: str = "t", session: str | None = "s", **about: object) -> Act:
    return Act(tenant, "write", route="POST /v1/x", session=session, **about)  # type: ignore[arg-type]


def test_entries_are_read_by_tenant_session_user_and_time(
    store: SessionStore, opened: Callable[..., SessionStore]
) -> None:
    log = AuditLog(store)
    old = act(created=LONG_AGO, key="key_1", user="ravi", status=409, request_id="r")
    log.add([old, act("u")])
    log.add([act(session=None), act()])
    found = AuditLog(opened()).read("t")
    assert [(one.created, one.key, one.user, one.status, one.request_id) for one in found[:1]] == [
        (LONG_AGO, "key_1", "ravi", 409, "r")
    ]
    numbers = [one.number for one in log.read()]
    assert numbers == sorted(set(numbers))
    assert [one.session for one in found] == ["s", None, "s"]
    assert len(log.read("t", session="s")) == 2
    assert len(log.read("t", user="ravi")) == 1
    assert len(log.read(since=LONG_AGO + timedelta(seconds=1))) == 3
    assert len(log.read(until=LONG_AGO + timedelta(seconds=1))) == 1
    assert log.read("t", after=found[0].number, limit=1) == found[1:2]
    assert tuple(log.all()) == log.read()
    with pytest.raises(InvalidError, match="not an action"):
        log.add([act(), Act("t", "steal", route="x")])  # type: ignore[arg-type]
    assert len(log.read()) == 4


@pytest.mark.parametrize(
    "statement",
    ["UPDATE deltamem_audit SET status = 200", "DELETE FROM deltamem_audit WHERE tenant = 't'"],
    ids=["update", "delete"],
)
def test_the_database_refuses_to_change_entries(store: SessionStore, statement: str) -> None:
    log = AuditLog(store)
    log.add([act(status=403)])
    before = log.read()
    with pytest.raises(DBAPIError, match="append-only"), store.database.write() as connection:
        connection.execute(text(statement))
    assert log.read() == before


def test_only_pruning_deletes_entries_and_says_so(store: SessionStore) -> None:
    log = AuditLog(store)
    log.add([act(created=LONG_AGO), act()])
    kept = log.read()[1]
    by = Act(None, "admin", route="deltamem store prune-audit")
    assert log.prune(LONG_AGO + timedelta(days=1), by) == 1
    assert [one.route for one in log.read()] == [kept.route, by.route]
    assert log.read()[0] == kept
    assert log.read()[1].number > kept.number
    with pytest.raises(DBAPIError, match="append-only"), store.database.write() as connection:
        connection.execute(text("DELETE FROM deltamem_audit"))
