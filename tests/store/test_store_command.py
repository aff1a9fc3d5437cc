"""``deltamem store``, as an operator types it, on both databases."""

import json
from collections.abc import Callable
from datetime import UTC, datetime, timedelta
from pathlib import Path
from typing import Any

import pytest
from typer.testing import CliRunner, Result

from deltamem.cli.main import build_app, main
from deltamem.store import ApiKeys, Commit, EncryptionError, NotFoundError, SessionStore, StateKeys

Opened = Callable[..., SessionStore]


@pytest.fixture
def run(url: str, monkeypatch: pytest.MonkeyPatch) -> Callable[..., Result]:
    monkeypatch.delenv("DELTAMEM_KEYS", raising=False)

    def run(command: str, *arguments: str, **options: Any) -> Result:
        return CliRunner().invoke(build_app(), ["store", command, *arguments, "--store", url], **options)

    return run


@pytest.fixture
def filled(opened: Opened) -> SessionStore:
    store = opened(keep_messages=True, keep_versions=None)
    for tenant, session, turns in (("acme", "ravi", 3), ("acme", "old", 1), ("other", "s", 0)):
        store.create(tenant, session, fingerprint="f", state=b"12345678")
        for number in range(1, turns + 1):
            store.commit(Commit(tenant, session, parent=number, state=b"12345678", tokens=1))
    store.change("acme", "old", expires=datetime.now(UTC) - timedelta(seconds=1))
    ApiKeys(store).create("acme")
    return store


def figures(result: Result) -> dict[str, Any]:
    assert result.exit_code == 0, result.output
    found: dict[str, Any] = json.loads(result.stdout)
    return found


def test_stats(filled: SessionStore, run: Callable[..., Result]) -> None:
    found = figures(run("stats", "--json"))
    assert (found["tenants"], found["sessions"], found["expired"], found["versions"]) == (2, 3, 1, 7)
    assert (found["state_bytes"], found["rows_by_key"], found["api_keys"]) == (56, {"(plain)": 7}, 1)
    assert figures(run("stats", "--json", "--tenant", "other"))["sessions"] == 1
    shown = run("stats").stdout
    assert "state bytes    56" in shown
    assert "(plain) 7" in shown


def test_purge_tells_before_it_deletes(filled: SessionStore, run: Callable[..., Result]) -> None:
    told = figures(run("purge", "--keep-versions", "2", "--dry-run", "--json"))
    assert told == {"dry_run": True, "expired_sessions": 1, "old_versions": 2}
    assert filled.stats().sessions == 3
    assert run("purge", "--keep-versions", "2").stdout == "Deleted 1 expired session and 2 old versions.\n"
    assert (filled.stats().sessions, filled.stats().versions) == (2, 3)
    assert figures(run("purge", "--json")) == {"dry_run": False, "expired_sessions": 0, "old_versions": 0}
    assert len(filled.versions("acme", "ravi")) == 2


def test_rekey(filled: SessionStore, run: Callable[..., Result], opened: Opened) -> None:
    refused = run("rekey")
    assert refused.exit_code == 1
    assert "without keys" in str(refused.exception)
    key = StateKeys.generate("one")
    assert run("rekey", env={"DELTAMEM_KEYS": key}).stdout == "Encrypted 7 rows of versions and messages anew.\n"
    assert figures(run("rekey", "--json", env={"DELTAMEM_KEYS": key})) == {"rows": 0}
    assert opened(keys=StateKeys.from_text(key)).load("acme", "ravi").state == b"12345678"


def test_deleting_asks_first(filled: SessionStore, run: Callable[..., Result]) -> None:
    assert run("delete-session", "acme", "ravi", input="n\n").exit_code == 1
    assert filled.get("acme", "ravi").head == 4
    assert run("delete-session", "acme", "ravi", input="y\n").exit_code == 0
    with pytest.raises(NotFoundError):
        filled.get("acme", "ravi")
    assert run("delete-tenant", "acme", input="n\n").exit_code == 1
    done = figures(run("delete-tenant", "acme", "--yes", "--json"))
    assert done == {"tenant": "acme", "sessions": 1, "api_keys": 1}
    assert ApiKeys(filled).list("acme") == ()
    assert filled.stats().sessions == 1
    for command in (("delete-session", "acme", "ravi"), ("delete-tenant", "acme")):
        absent = run(*command, "--yes")
        assert absent.exit_code == 1
        assert isinstance(absent.exception, NotFoundError)


def test_a_store_that_is_not_there_is_not_made(url: str, capsys: pytest.CaptureFixture[str]) -> None:
    with pytest.raises(SystemExit) as exit:
        main(["store", "purge", "--store", url])
    assert exit.value.code == 1
    assert "no store" in capsys.readouterr().err


def test_a_new_key_is_one_that_the_environment_takes(
    url: str, run: Callable[..., Result], opened: Opened, monkeypatch: pytest.MonkeyPatch
) -> None:
    opened().create("t", "plain", fingerprint="f", state=b"x")
    made = CliRunner().invoke(build_app(), ["store", "new-key", "2026-11"]).stdout.strip()
    monkeypatch.setenv("DELTAMEM_KEYS", made)
    opened(keys=StateKeys.from_environment()).create("t", "secret", fingerprint="f", state=b"x")
    assert "1 row in plain text beside encrypted ones; deltamem store rekey encrypts them." in run("stats").stdout
    run("rekey")
    assert "plain text" not in run("stats").stdout
    refused = CliRunner().invoke(build_app(), ["store", "new-key", "a:b"])
    assert isinstance(refused.exception, EncryptionError)


def test_keys_are_listed_with_limits_and_use_and_a_mistyped_store_is_not_made(
    opened: Opened, url: str, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    def keys(*arguments: str, store: str = url) -> Result:
        monkeypatch.setenv("DELTAMEM_STORE", store)
        return CliRunner().invoke(build_app(), ["keys", *arguments])

    ApiKeys(opened())  # the store is there, and empty
    assert keys("list").stdout == ""
    assert "There are no API keys. Make one with deltamem keys create TENANT." in keys("list").stderr
    assert "No key opens the tenant acme yet" in keys("limit", "acme").stderr
    keys("limit", "other", "--tokens-per-minute", "5000")
    assert keys("list").stdout == "No key opens the tenant other; its limits are tokens per minute 5,000.\n"
    created = keys("create", "acme", "--requests-per-minute", "60", "--label", "for Ravi", "--if-none")
    assert created.stdout.startswith("dm_")
    assert keys("create", "acme", "--if-none").stdout == ""
    assert keys("limit", "acme", "--requests-per-minute", "600").stderr == ""
    entries = [json.loads(entry) for entry in CliRunner().invoke(build_app(), ["store", "audit"]).stdout.splitlines()]
    routes = [entry["route"] for entry in entries if "limit" in entry["route"]]
    assert routes == [
        "deltamem keys limit no limits",
        "deltamem keys limit tokens per minute 5,000",
        "deltamem keys limit requests per minute 600",
    ]
    (key,) = json.loads(keys("list", "--json").stdout)
    assert key["created"] == ApiKeys(opened()).list()[0].created.isoformat()
    line = keys("list").stdout
    assert "never used  requests per minute 60  all keys together requests per minute 600  for Ravi" in line
    secret = created.stdout.strip()
    refused = keys("revoke", secret)
    assert "That is an API key itself" in str(refused.exception)
    assert secret not in str(refused.exception)
    ApiKeys(opened()).authenticate(secret)
    assert "  used 20" in keys("list").stdout
    mistyped = tmp_path / "mistyped.db"
    for command in (["list"], ["revoke", "key_1"]):
        refused = keys(*command, store=f"sqlite:///{mistyped}")
        assert isinstance(refused.exception, NotFoundError)
    monkeypatch.setenv("DELTAMEM_STORE", f"sqlite:///{mistyped}")
    refused = CliRunner().invoke(build_app(), ["webhooks", "create", "acme", "https://example.com/hook"])
    assert isinstance(refused.exception, NotFoundError)
    assert not mistyped.exists()


def test_a_webhook_of_a_tenant_that_no_key_opens_is_doubted(filled: SessionStore, url: str) -> None:
    def create(tenant: str) -> Result:
        return CliRunner().invoke(
            build_app(), ["webhooks", "create", tenant, "https://example.com/hook", "--store", url]
        )

    assert "No key opens the tenant amce yet" in create("amce").stderr
    for tenant in ("acme", "default"):
        assert "No key" not in create(tenant).stderr
