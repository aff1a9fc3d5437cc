"""What webhooks are to be told is kept until they have heard it, and each message is one server's at a time."""

from collections.abc import Callable
from datetime import UTC, datetime, timedelta

import pytest

from deltamem.store import Act, AuditLog, InvalidError, NotFoundError, SessionStore, Webhooks

Opened = Callable[..., SessionStore]
LEASE = timedelta(minutes=1)
URL = "https://example.com/hook"


def act(tenant: str = "t", action: str = "write", status: int = 200) -> Act:
    return Act(tenant, action, route="POST /v1/x", session="s", status=status)  # type: ignore[arg-type]


def test_only_what_a_webhook_asked_for_is_told(store: SessionStore) -> None:
    hooks = Webhooks(store)
    made = hooks.create("t", URL)
    deletions = hooks.create("t", "http://10.0.0.1:9/x", ["delete"])
    hooks.create("u", URL)
    assert made.actions == ("write", "export", "delete")
    assert hooks.list("t") == (made, deletions)
    assert made.secret not in repr(made)
    acts = [act(), act(action="read"), act(action="delete"), act(status=409), act("nobody")]
    hooks.add(acts, audit=True)
    assert set(hooks.due()) == {made.id, deletions.id}
    told = hooks.take(made.id, 10, LEASE)
    assert [(one.webhook, one.url, one.secret) for one in told] == [(made.id, made.url, made.secret)] * 2
    assert [one.url for one in hooks.take(deletions.id, 10, LEASE)] == [deletions.url]
    assert hooks.due() == ()
    assert '"type": "memory.write"' in told[0].body
    assert len(AuditLog(store).read()) == 5
    hooks.add([act()], audit=False)
    assert len(AuditLog(store).read()) == 5


def test_a_message_is_one_servers_until_its_lease_is_over(opened: Opened) -> None:
    one, two = Webhooks(opened()), Webhooks(opened())
    hook = one.create("t", URL).id
    one.add([act(), act()], audit=False)
    first, second = one.take(hook, 1, LEASE), two.take(hook, 5, LEASE)
    assert (len(first), len(second)) == (1, 1)
    assert first[0].number != second[0].number
    assert one.take(hook, 5, LEASE) == ()
    one.done(first[0].number)
    two.later(second[0].number, datetime.now(UTC) - timedelta(seconds=1))
    again = one.take(hook, 5, timedelta(seconds=-1))  # of a server that died while it told it
    assert [(found.number, found.attempts) for found in again] == [(second[0].number, 2)]
    assert [found.attempts for found in two.take(hook, 5, LEASE)] == [3]


def test_a_webhook_that_is_deleted_is_told_nothing_more(store: SessionStore) -> None:
    hooks = Webhooks(store)
    kept = hooks.create("u", URL)
    gone = hooks.create("t", URL)
    hooks.add([act(), act("u")], audit=False)
    assert hooks.delete(gone.id) == gone
    with pytest.raises(NotFoundError, match="no webhook"):
        hooks.delete(gone.id)
    assert hooks.due() == (kept.id,)
    assert hooks.take(gone.id, 5, LEASE) == ()
    store.delete_tenant("u")
    assert hooks.list() == ()


@pytest.mark.parametrize(
    "url",
    [
        "ftp://example.com", "example.com", "https://", "file:///etc/passwd", "https://a b/", "https://example.com/a b",
        "https://example.com:99999/", "https://example.com:0/", "https://example.com:x/", "https://..example.com/",
        "https://[::1", "https://exam\nple.com/",
    ],
)  # fmt: skip
def test_an_address_is_one_of_http(memory: SessionStore, url: str) -> None:
    with pytest.raises(InvalidError, match="https://"):
        Webhooks(memory).create("t", url)
    with pytest.raises(InvalidError, match="actions are some of"):
        Webhooks(memory).create("t", URL, ["steal"])


@pytest.mark.parametrize("url", ["http://127.0.0.1:8080", "https://[::1]/x", "https://user:word@example.com./x?y=z"])
def test_an_address_that_can_be_reached_is_taken(memory: SessionStore, url: str) -> None:
    assert Webhooks(memory).create("t", url).url == url
