"""``deltamem serve`` as an operator starts it."""

import json
import os
import signal
import subprocess
import sys
import threading
import time
from http.client import HTTPConnection
from pathlib import Path

import httpx
import pytest
from serving import make_server

from deltamem.serve.run import Web


def test_all_that_it_tells_is_json_and_its_flags_count(tmp_path: Path) -> None:
    flags = ["--port", "0", "--max-body", "300", "--max-tokens", "2", "--timeout", "0.2", "--keep-versions", "0"]
    environment = os.environ | {"DELTAMEM_HOME": str(tmp_path)}
    command = [sys.executable, "-m", "deltamem", "serve", *flags]
    with subprocess.Popen(command, env=environment, stderr=subprocess.PIPE, text=True) as process:
        assert process.stderr is not None
        lines: list[str] = []
        url = ""
        while not url and (line := process.stderr.readline()):
            lines.append(line)
            event = json.loads(line)["event"]
            if event.startswith("serving "):
                url = event.split(" at ")[1].split(",")[0]
        try:
            said = [{"role": "user", "content": "x"}]
            with httpx.Client(base_url=url, timeout=60) as http:
                assert http.get("/readyz").status_code == 200
                assert http.post("/v1/sessions", json={"label": "x" * 300}).status_code == 413
                slow = {"messages": said, "max_tokens": 400, "ignore_eos": True}
                assert http.post("/v1/chat/completions", json=slow).status_code == 504
                for _ in range(25):
                    http.post("/v1/sessions/s/observe", json={"text": "I live in Lisbon."}).raise_for_status()
                assert len(http.get("/v1/sessions/s/timeline").json()["data"]) == 26
                brief = http.post("/v1/chat/completions", json={"messages": said, "ignore_eos": True})
                assert brief.json()["usage"]["completion_tokens"] == 2
        finally:
            process.send_signal(signal.SIGTERM)
            _, rest = process.communicate(timeout=300)
    events = [json.loads(line) for line in (*lines, *rest.splitlines())]
    assert [event["error"] for event in events if event["level"] == "error"] == ["DeadlineError"]
    assert "/v1/sessions/{session}/observe" in {event.get("route") for event in events}


def test_two_servers_in_one_process_tell_everything_once() -> None:
    lines = [
        "import logging",
        "from deltamem.serve.logs import configure_logging",
        "configure_logging(), configure_logging()",
        "logging.getLogger('deltamem').info('once')",
    ]
    told = subprocess.run(
        [sys.executable, "-c", "\n".join(lines)], stderr=subprocess.PIPE, text=True, check=True
    ).stderr
    assert [json.loads(line)["event"] for line in told.splitlines() if '"once"' in line] == ["once"]


def test_an_unused_connection_outlives_those_of_clients() -> None:
    web = Web(make_server(), port=0)
    thread = threading.Thread(target=web.run)
    thread.start()
    while not web.started:
        assert thread.is_alive()
        time.sleep(0.01)
    connection = HTTPConnection("127.0.0.1", web.servers[0].sockets[0].getsockname()[1])
    try:
        for pause in (0, 5.5):  # httpx keeps its own for 5 seconds
            time.sleep(pause)
            connection.request("GET", "/healthz")
            answer = connection.getresponse()
            answer.read()
            assert answer.status == 200
            assert connection.sock is not None
    finally:
        connection.close()
        web.should_exit = True
        thread.join()


@pytest.mark.parametrize("terminal", [True, False])
def test_on_a_terminal_the_pages_address_is_printed(
    terminal: bool, capsys: pytest.CaptureFixture[str], monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr(sys.stdout, "isatty", lambda: terminal)
    server = make_server()
    web = Web(server, port=0)
    thread = threading.Thread(target=web.run)
    thread.start()
    while not web.started:
        assert thread.is_alive()
        time.sleep(0.01)
    address = f"http://127.0.0.1:{web.servers[0].sockets[0].getsockname()[1]}/"
    web.should_exit = True
    thread.join()
    assert capsys.readouterr().out == (f"demo is at {address}, sessions in sqlite://\n" if terminal else "")
