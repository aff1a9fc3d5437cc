"""API keys open one tenant's sessions until they are revoked, and are not in the database."""

import re
from collections.abc import Callable
from datetime import timedelta

import pytest
from sqlalchemy import select, update

from deltamem.store import SCOPES, ApiKeys, InvalidError, KeyLimits, NotFoundError, SessionStore
from deltamem.store.schema import api_keys

LIMITS = KeyLimits(requests_per_minute=60, tokens_per_minute=10**9, request_bytes=2**20)


def test_a_key_opens_its_tenant(store: SessionStore, opened: Callable[..., SessionStore]) -> None:
    keys = ApiKeys(store)
    new = keys.create("t", "laptop", LIMITS)
    assert re.fullmatch(r"dm_[\w-]{43}", new.secret)
    assert (new.record.tenant, new.record.label, new.record.limits) == ("t", "laptop", LIMITS)
    assert new.record.hint == new.secret[:7]
    assert ApiKeys(opened()).authenticate(new.secret) == new.record
    assert keys.create("t").record.limits == KeyLimits()


def test_a_key_has_a_scope(store: SessionStore, opened: Callable[..., SessionStore]) -> None:
    made = [ApiKeys(store).create("t"), *(ApiKeys(store).create("t", scope=scope) for scope in SCOPES)]
    found = [ApiKeys(opened()).authenticate(one.secret) for one in made]
    assert [key and key.scope for key in found] == ["write", "read", "write", "admin"]
    with pytest.raises(InvalidError, match="read, write, admin"):
        ApiKeys(store).create("t", scope="all")  # type: ignore[arg-type]


def test_any_other_text_opens_nothing(store: SessionStore) -> None:
    keys = ApiKeys(store)
    secret = keys.create("t").secret
    for other in ("", "dm_", secret[:-1], secret + "x", secret.swapcase(), secret[3:], "\0", "\ud800", "é" * 5000):
        assert keys.authenticate(other) is None


def test_a_key_cannot_be_read_from_the_database(store: SessionStore) -> None:
    new = ApiKeys(store).create("t")
    assert new.secret not in repr(new)
    with store.database.read() as connection:
        (row,) = connection.execute(select(api_keys)).all()
    assert new.secret[7:] not in repr(tuple(row))
    assert re.fullmatch("[0-9a-f]{64}", row.digest)


def test_a_revoked_key_opens_nothing(store: SessionStore) -> None:
    keys = ApiKeys(store)
    one, two = keys.create("t"), keys.create("t")
    revoked = keys.revoke(one.record.id)
    assert revoked.revoked is not None
    assert keys.authenticate(one.secret) is None
    assert keys.authenticate(two.secret) is not None
    assert keys.revoke(one.record.id) == revoked
    for absent in ("key_0", "t"):
        with pytest.raises(NotFoundError, match="no API key"):
            keys.revoke(absent)


def test_keys_are_listed_by_tenant(store: SessionStore) -> None:
    keys = ApiKeys(store)
    made = [keys.create(tenant).record for tenant in ("t", "u", "t")]
    assert keys.list() == tuple(made)
    assert keys.list("t") == (made[0], made[2])
    assert keys.list("v") == ()


def test_last_use_is_noted_once_a_minute(store: SessionStore) -> None:
    keys = ApiKeys(store)
    new = keys.create("t")
    assert keys.list()[0].last_used is None
    keys.authenticate(new.secret)
    first = keys.list()[0].last_used
    assert first is not None
    keys.authenticate(new.secret)
    ApiKeys(store).authenticate(new.secret)
    assert keys.list()[0].last_used == first
    long_ago = first - timedelta(hours=1)
    with store.database.write() as connection:
        connection.execute(update(api_keys).values(last_used=long_ago))
    ApiKeys(store).authenticate(new.secret)
    assert (keys.list()[0].last_used or long_ago) > first


@pytest.mark.parametrize("limits", [{"requests_per_minute": 0}, {"tokens_per_minute": -1}, {"request_bytes": "1"}])
def test_limits_are_positive(memory: SessionStore, limits: dict[str, int]) -> None:
    with pytest.raises(InvalidError, match=next(iter(limits))):
        ApiKeys(memory).create("t", limits=KeyLimits(**limits))
    with pytest.raises(InvalidError):
        ApiKeys(memory).create("a/b")
