import os
import signal
import socket
import subprocess
import sys
import time
from pathlib import Path

import httpx
from serving import address, make_server, start

from deltamem.store import SessionStore

BODY = {"messages": [{"role": "user", "content": "I live in Lisbon."}], "temperature": 0}
HEADERS = {"X-Memory-Session": "ravi"}


def test_a_turn_under_way_is_finished_and_committed(tmp_path: Path) -> None:
    url = f"sqlite:///{tmp_path / 'sessions.db'}"
    server = make_server(url)
    server.engine._ends = frozenset()
    web, thread = start(server)
    body = BODY | {"stream": True, "max_tokens": 40}
    path = f"{address(web)}/v1/chat/completions"
    with httpx.stream("POST", path, json=body, headers=HEADERS, timeout=60) as reply:
        lines = reply.iter_lines()
        next(lines)
        web.should_exit = True
        assert list(lines)[-2] == "data: [DONE]"
    thread.join()
    assert not server.engine.alive
    with SessionStore.open(url) as store:
        assert store.get("default", "ravi").head == 2


def test_the_command_serves_until_it_is_told_to_stop(tmp_path: Path) -> None:
    with socket.socket() as free:
        free.bind(("127.0.0.1", 0))
        port = free.getsockname()[1]
    command = [sys.executable, "-m", "deltamem", "serve", "--port", str(port)]
    environment = os.environ | {"DELTAMEM_HOME": str(tmp_path)}
    with subprocess.Popen(command, env=environment, stderr=subprocess.PIPE, text=True) as process:
        try:
            until, status = time.monotonic() + 200, 0
            while status != 200 and time.monotonic() < until and process.poll() is None:
                try:
                    status = httpx.get(f"http://127.0.0.1:{port}/readyz").status_code
                except httpx.TransportError:
                    time.sleep(0.2)
            reply = httpx.post(f"http://127.0.0.1:{port}/v1/chat/completions", json=BODY, headers=HEADERS, timeout=60)
            assert reply.json()["memory"]["version"] == 2
        finally:
            process.send_signal(signal.SIGTERM)
        _, errors = process.communicate(timeout=60)
    assert "Traceback" not in errors
    assert (tmp_path / "sessions.db").exists()
    assert (tmp_path / "state-secret").stat().st_mode & 0o077 == 0


def test_a_public_address_without_keys_is_refused(tmp_path: Path) -> None:
    from typer.testing import CliRunner

    from deltamem.cli.main import build_app

    store = f"sqlite:///{tmp_path / 'sessions.db'}"
    refused = CliRunner().invoke(
        build_app(), ["serve", "--host", "0.0.0.0", "--store", store], env={"DELTAMEM_HOME": str(tmp_path)}
    )
    assert refused.exit_code != 0
    assert "no API key" in str(refused.exception)
