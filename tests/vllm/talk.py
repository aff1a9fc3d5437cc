"""A server over vLLM, and what tests say to it and to one over the own engine."""

import contextlib
import os
import socket
import subprocess
import sys
import time
from collections.abc import Iterator
from pathlib import Path
from typing import Any

import httpx
import torch
from serving import PATIENCE_S, SECRET

from deltamem.serve.server import Server
from deltamem.serve.settings import Settings
from deltamem.store import SessionStore

CHAT = "/v1/chat/completions"


def make_vllm_server(url: str, model: str = "embedded", adapter: str = "multi") -> Server:
    """A server over vLLM, as `deltamem serve --engine vllm` makes it."""
    from deltamem.vllm.engine import open_hollow, vllm_engine

    hollow = open_hollow(model, adapter)
    store = SessionStore.open(url, keep_messages=True)
    settings = Settings(secret=SECRET, model_name="demo")
    return Server(*hollow, store, settings, engine=vllm_engine(model, adapter))


def free_url() -> str:
    """An address of this machine that nothing listens at."""
    with socket.socket() as free:
        free.bind(("127.0.0.1", 0))
        return f"http://127.0.0.1:{free.getsockname()[1]}"


@contextlib.contextmanager
def command(home: Path, url: str, store: str, *options: str) -> Iterator["subprocess.Popen[bytes]"]:
    """A `deltamem serve --engine vllm` of its own process, once it is ready."""
    line = [sys.executable, "-m", "deltamem", "serve", "--engine", "vllm", "--model", "embedded"]
    line += ["--port", url.rpartition(":")[2], "--store", store, *options]
    environment = os.environ | {"DELTAMEM_HOME": str(home)}
    with (home / "log").open("ab") as log, subprocess.Popen(line, env=environment, stderr=log, stdout=log) as process:
        try:
            until, status = time.monotonic() + PATIENCE_S, 0
            while status != 200:
                assert process.poll() is None, (home / "log").read_text()[-3000:]
                assert time.monotonic() < until, (home / "log").read_text()[-3000:]
                with contextlib.suppress(httpx.TransportError):
                    status = httpx.get(f"{url}/readyz").status_code
                time.sleep(0.3)
            yield process
        finally:
            process.kill()


def say(client: httpx.Client, session: str, text: str, **more: Any) -> dict[str, Any]:
    body = {"messages": [{"role": "user", "content": text}], "temperature": 0, "max_tokens": 24} | more
    answer = client.post(CHAT, json=body | {"memory": {"session": session} | more.pop("memory", {})})
    assert answer.status_code == 200, answer.text
    return answer.json()


def content(answer: dict[str, Any]) -> str:
    return answer["choices"][0]["message"]["content"]


def matrices(client: httpx.Client, session: str) -> torch.Tensor:
    answer = client.get(f"/v1/sessions/{session}/memory")
    assert answer.status_code == 200, answer.text
    return torch.tensor(answer.json()["states"])
