"""What a running server does for its store by itself."""

import logging
import sqlite3
import time
from collections.abc import Callable
from pathlib import Path

import httpx
import pytest
from serving import make_server, running


def eventually(true: Callable[[], bool]) -> None:
    until = time.monotonic() + 20
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
