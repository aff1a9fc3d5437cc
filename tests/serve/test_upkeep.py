"""What a running server does for its store by itself."""

import logging
import sqlite3
import time
from collections.abc import Callable
from pathlib import Path

import httpx
import pytest
from serving import make_server, running

from deltamem.store import EncryptionError, SessionStore, StateKeys


def eventually(true: Callable[[], bool]) -> None:
    until = time.monotonic() + 60
    while not true():
        assert time.monotonic() < until
        time.sleep(0.02)


def test_what_has_expired_is_deleted_and_the_others_are_counted(
    tmp_path: Path, caplog: pytest.LogCaptureFixture
) -> None:
    path = tmp_path / "sessions.db"
    server = make_server(f"sqlite:///{path}", upkeep_every=0.05)

    def held() -> list[str]:
        with sqlite3.connect(path) as rows:
            return [session for (session,) in rows.execute("SELECT session FROM deltamem_sessions ORDER BY session")]

    with running(server) as url, httpx.Client(base_url=url, timeout=60) as http:
        for name in ("a", "b", "brief"):
            http.post("/v1/sessions", json={"session": name})
        eventually(lambda: "deltamem_sessions 3.0" in http.get("/metrics").text)
        http.patch("/v1/sessions/brief", json={"expires_in": 0.1})
        eventually(lambda: held() == ["a", "b"])
        eventually(lambda: "deltamem_sessions 2.0" in http.get("/metrics").text)
        with sqlite3.connect(path) as rows:
            rows.execute("ALTER TABLE deltamem_sessions RENAME TO elsewhere")
        eventually(lambda: "deltamem_sessions NaN" in http.get("/metrics").text)
        with sqlite3.connect(path) as rows:
            rows.execute("ALTER TABLE elsewhere RENAME TO deltamem_sessions")
        eventually(lambda: "deltamem_sessions 2.0" in http.get("/metrics").text)
    # What a driver says may quote what is stored; the log has the error's class and place.
    warned = {record.getMessage() for record in caplog.records if record.levelno == logging.WARNING}
    assert warned == {"the store was not looked after"}


def test_a_server_without_the_stores_keys_does_not_start(tmp_path: Path) -> None:
    url = f"sqlite:///{tmp_path / 'sessions.db'}"
    with SessionStore.open(url, keys=StateKeys.from_text(StateKeys.generate("one"))) as store:
        store.create("default", "old", fingerprint="f", state=b"x")
    with pytest.raises(EncryptionError, match="opened without keys"):
        make_server(url)
    with pytest.raises(EncryptionError, match="another key"):
        make_server(url, keys=StateKeys.from_text(StateKeys.generate("one")))


def test_a_running_server_stops_writing_plain_text_once_others_encrypt(tmp_path: Path) -> None:
    url = f"sqlite:///{tmp_path / 'sessions.db'}"
    keys = StateKeys.from_text(StateKeys.generate("secret-id"))
    with running(make_server(url, upkeep_every=0.05)) as address, httpx.Client(base_url=address, timeout=60) as http:
        assert http.get("/readyz").status_code == 200
        with SessionStore.open(url, keys=keys) as other:
            other.create("default", "theirs", fingerprint="f", state=b"x")
            eventually(lambda: http.get("/readyz").status_code == 503)
            assert "encryption keys" in http.get("/readyz").json()["status"]
            refused = http.post("/v1/sessions", json={"session": "ours"})
            assert refused.status_code == 503
            assert "secret-id" not in refused.text
            other.delete("default", "theirs")
        eventually(lambda: http.get("/readyz").status_code == 200)
        assert http.post("/v1/sessions", json={"session": "ours"}).status_code == 201


def test_a_server_with_keys_says_that_older_rows_are_plain(tmp_path: Path, caplog: pytest.LogCaptureFixture) -> None:
    url, keys = f"sqlite:///{tmp_path / 'sessions.db'}", StateKeys.from_text(StateKeys.generate("one"))
    with SessionStore.open(url) as store:
        store.create("default", "old", fingerprint="f", state=b"x")
    make_server(url, keys=keys)
    assert [record.getMessage() for record in caplog.records if "deltamem store rekey" in record.getMessage()]
    with SessionStore.open(url, keys=keys) as store:
        store.rekey()
    caplog.clear()
    make_server(url, keys=keys)
    assert not [record for record in caplog.records if "deltamem store rekey" in record.getMessage()]
