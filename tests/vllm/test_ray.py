"""The example on Ray Serve: two replicas over one store, one of which is killed under load."""

import contextlib
import importlib.util
import os
import signal
import socket
import subprocess
import sys
import threading
import time
from pathlib import Path

import httpx
import pytest

from deltamem.demo.suggestions import SUGGESTIONS
from deltamem.store import SessionStore

EXAMPLE = Path(__file__).parents[2] / "examples" / "ray_serve.py"
TURNS = 8
pytestmark = pytest.mark.skipif(importlib.util.find_spec("ray") is None, reason="Ray is not installed here")


class Client:
    """Somebody with a session, who asks again what was not acknowledged."""

    def __init__(self, url: str, session: str) -> None:
        self.url, self.session = url, session
        self.acknowledged: list[int] = []
        self.failures = 0
        self.thread = threading.Thread(target=self.talk)
        self.thread.start()

    def talk(self) -> None:
        told = SUGGESTIONS[0][0]
        body = {"messages": [{"role": "user", "content": told}], "max_tokens": 4, "memory": {"session": self.session}}
        with httpx.Client(base_url=self.url, timeout=60) as http:
            while len(self.acknowledged) < TURNS:
                with contextlib.suppress(httpx.TransportError):
                    answer = http.post("/v1/chat/completions", json=body)
                    if answer.status_code == 200:
                        self.acknowledged.append(answer.json()["memory"]["version"])
                        continue
                self.failures += 1
                time.sleep(0.2)


def replicas() -> list[int]:
    """The processes of the replicas, by what Ray calls them."""
    found = []
    for place in Path("/proc").glob("[0-9]*"):
        with contextlib.suppress(OSError):
            if (place / "cmdline").read_bytes().startswith(b"ray::ServeReplica:deltamem:Replica"):
                found.append(int(place.name))
    return found


@pytest.mark.timeout(900)
def test_no_acknowledged_turn_is_lost_with_a_replica(tmp_path: Path):
    with socket.socket() as free:
        free.bind(("127.0.0.1", 0))
        port = free.getsockname()[1]
    store = f"sqlite:///{tmp_path}/sessions.db"
    command = [sys.executable, str(EXAMPLE), "--store", store, "--port", str(port), "--cpus", "0.1"]
    command += ["--engine", os.environ.get("DELTAMEM_RAY_ENGINE", "own")]
    environment = os.environ | {"RAY_USAGE_STATS_ENABLED": "0", "RAY_raylet_start_wait_time_s": "300"}
    with (
        (tmp_path / "log").open("wb") as log,
        subprocess.Popen(command, env=environment, stdout=log, stderr=log, start_new_session=True) as process,
    ):
        try:
            until = time.monotonic() + 400
            while b"Serving at" not in (tmp_path / "log").read_bytes() and time.monotonic() < until:
                assert process.poll() is None, (tmp_path / "log").read_text()[-3000:]
                time.sleep(0.5)
            before = replicas()
            assert len(before) == 2
            clients = [Client(f"http://127.0.0.1:{port}", f"session-{number}") for number in range(4)]
            while sum(len(client.acknowledged) for client in clients) < 2 * len(clients):
                time.sleep(0.05)
            os.kill(before[0], signal.SIGKILL)
            for client in clients:
                client.thread.join()
            assert before[0] not in replicas()
        finally:
            process.send_signal(signal.SIGINT)
            with contextlib.suppress(subprocess.TimeoutExpired):
                process.wait(60)
            process.kill()
    with contextlib.closing(SessionStore.open(store)) as sessions:
        for client in clients:
            assert client.acknowledged == sorted(set(client.acknowledged))
            for version in client.acknowledged:
                assert sessions.load("default", client.session, version).kind == "turn"
            head = sessions.load("default", client.session).number
            assert client.acknowledged[-1] <= head <= 1 + TURNS + client.failures  # 1 is empty
