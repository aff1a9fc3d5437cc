"""A store moves to another database with all that is in it."""

from collections.abc import Callable
from datetime import UTC, datetime, timedelta
from pathlib import Path

import pytest
from sqlalchemy import event, insert, select
from typer.testing import CliRunner

from deltamem.cli.main import build_app
from deltamem.store import (
    Act,
    ApiKeys,
    AuditLog,
    Commit,
    ExistsError,
    InvalidError,
    KeyLimits,
    SessionStore,
    StateKeys,
    UnavailableError,
    Webhooks,
    export,
)
from deltamem.store.schema import metadata, rates, schema_version

Opened = Callable[..., SessionStore]
KEYS = StateKeys.from_text(StateKeys.generate("one"))


@pytest.fixture
def elsewhere(tmp_path: Path) -> str:
    """A database that is not there yet."""
    return f"sqlite:///{tmp_path / 'elsewhere.db'}"


def fill(store: SessionStore) -> str:
    """At least one row in every table but those that are made when needed; gives an API key."""
    for session in ("ravi", "user:mia"):
        store.create("acme", session, fingerprint="f", state=b"\x00first", label="Straße", user=session[:4])
        for number in (1, 2):
            said = [{"role": "user", "content": f"{number}: 里斯本"}, {"role": "assistant", "content": "Noted."}]
            store.commit(Commit("acme", session, parent=number, state=b"\xff" * 900, tokens=7, messages=said))
    store.keep_vectors("acme", "ravi", [(one, b"vector") for one in store.messages("acme", "ravi")])
    store.rollback("acme", "ravi", version=2)
    store.fork("acme", "ravi", "fork")
    store.change("acme", "fork", frozen=True, expires=datetime.now(UTC) + timedelta(days=1))
    made = ApiKeys(store).create("acme", limits=KeyLimits(requests_per_minute=60))
    AuditLog(store).add([Act("acme", "read", route="GET /v1/sessions"), Act(None, "admin", route="deltamem keys")])
    webhooks = Webhooks(store)
    webhooks.create("acme", "https://example.org/hook", ["write"])
    webhooks.add([Act("acme", "write", route="POST /v1/chat/completions")], audit=True)
    with store.database.write() as connection:
        connection.execute(insert(rates).values(whose="tenant:acme", requests=1.5, tokens=2, filled=datetime.now(UTC)))
    return made.secret


def everything(store: SessionStore) -> dict[str, list[tuple[object, ...]]]:
    with store.database.read() as connection:
        return {
            table.name: [tuple(row) for row in connection.execute(select(table).order_by(*table.primary_key))]
            for table in metadata.sorted_tables
            if table is not schema_version
        }


@pytest.mark.parametrize("keys", [None, KEYS], ids=["plain", "encrypted"])
@pytest.mark.parametrize("back", [False, True], ids=["to_sqlite", "from_sqlite"])
def test_all_rows_are_the_same_afterwards(keys: StateKeys | None, back: bool, opened: Opened, elsewhere: str) -> None:
    here = opened(keys=keys, keep_messages=True)
    with SessionStore.open(elsewhere, keys=keys, keep_messages=True) as there:
        source, target = (there, here) if back else (here, there)
        key = fill(source)
        counted = source.copy_to(target)
        assert everything(target) == everything(source)
        assert counted == {name: len(rows) for name, rows in everything(source).items() if name in counted}
        assert counted["deltamem_versions"] == 8
        # It is a store like any other: keys open it, its logs are searched, and what is added gets the next number.
        assert list(export(target, "acme"))[1:] == list(export(source, "acme"))[1:]
        assert ApiKeys(target).authenticate(key) is not None
        found = target.search("acme", ["ravi"], "noted", told=lambda message: str(message["content"]), limit=9)
        assert found is None or {one.message["content"] for _, one, _ in found} == {"Noted."}
        target.commit(Commit("acme", "ravi", parent=4, state=b"next", tokens=1))
        AuditLog(target).add([Act("acme", "write", route="POST /v1/chat/completions")])
        assert [entry.number for entry in AuditLog(target).all()] == [1, 2, 3, 4]


def test_a_store_that_holds_something_is_left_alone(opened: Opened, elsewhere: str) -> None:
    store = opened()
    fill(store)
    with SessionStore.open(elsewhere) as other:
        other.create("else", "one", fingerprint="f", state=b"kept")
        before = everything(other)
        with pytest.raises(ExistsError, match="has rows in deltamem_sessions already"):
            store.copy_to(other)
        assert everything(other) == before
    with SessionStore.open("sqlite://") as fleeting, pytest.raises(InvalidError, match="in memory"):
        store.copy_to(fleeting)


def test_after_a_failure_nothing_is_there_and_it_can_be_repeated(opened: Opened, elsewhere: str) -> None:
    store = opened(keep_messages=True)
    fill(store)
    with SessionStore.open(elsewhere, timeout=0.2) as other:
        empty = everything(other)
        with SessionStore.open(elsewhere) as writer, writer.database.write(), pytest.raises(UnavailableError):
            store.copy_to(other)

        def fail(connection: object, cursor: object, statement: str, *rest: object) -> None:
            if statement.startswith("INSERT INTO deltamem_message_vectors"):
                raise OSError("cut off")

        event.listen(other.database.engine, "before_cursor_execute", fail)
        with pytest.raises(OSError, match="cut off"):
            store.copy_to(other)
        event.remove(other.database.engine, "before_cursor_execute", fail)
        assert everything(other) == empty
        store.copy_to(other)
        assert everything(other) == everything(store)


def test_the_command(opened: Opened, url: str, elsewhere: str, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.delenv("DELTAMEM_KEYS", raising=False)
    fill(opened(keep_messages=True))
    done = CliRunner().invoke(build_app(), ["store", "copy", "--store", url, "--to", elsewhere])
    assert done.exit_code == 0, done.output
    assert done.stdout == (
        f"Copied 3 sessions with 8 versions and 10 messages, and 1 API key, to {elsewhere}. "
        "Start the servers with it.\n"
    )
    with SessionStore.open(elsewhere) as other:
        last = list(AuditLog(other).all())[-1]
        assert (last.route, last.action, last.key) == ("deltamem store copy", "export", "operator")
    again = CliRunner().invoke(build_app(), ["store", "copy", "--store", url, "--to", elsewhere])
    assert isinstance(again.exception, ExistsError)
