"""A running server for tests: the embedded backbone, a store in memory or in a file, and a real uvicorn."""

import asyncio
import os
import signal
import socket
import subprocess
import sys
import threading
import time
from collections.abc import Iterator
from contextlib import contextmanager
from pathlib import Path
from typing import Any

import httpx
import uvicorn

from deltamem.demo.adapters import load_demo_adapter
from deltamem.demo.backbone import load_backbone
from deltamem.encoder import Encoder
from deltamem.serve.app import create_app
from deltamem.serve.server import Server
from deltamem.serve.settings import EngineLimits, Settings
from deltamem.store import SessionStore, StateKeys

SECRET = b"a secret that only the tests have"
PATIENCE_S = 1800  # for a server to start or to answer, on a machine that is busy with other work


def make_server(
    url: str = "sqlite://",
    *,
    limits: EngineLimits | None = None,
    keep_messages: bool = True,
    keys: StateKeys | None = None,
    template: str | None = None,
    model: Any = None,
    encoder: Encoder | None = None,
    **settings: Any,
) -> Server:
    backbone, tokenizer = load_backbone()
    model = model or backbone
    if model is backbone:
        load_demo_adapter(model, "multi")
    if template is not None:
        tokenizer = tokenizer.__class__(tokenizer_object=tokenizer.backend_tokenizer, chat_template=template)
    settings = {"secret": SECRET, "model_name": "demo", **settings}
    store = SessionStore.open(url, keep_messages=keep_messages, keys=keys)
    return Server(model, tokenizer, store, Settings(**settings), limits, encoder=encoder)


@contextmanager
def running(server: Server) -> Iterator[str]:
    """The address of a uvicorn that serves ``server`` until the block ends."""
    web, thread = start(server)
    try:
        yield address(web)
    finally:
        web.should_exit = True
        thread.join()


@contextmanager
def commanded(home: Path, *options: str) -> Iterator[str]:
    """The address of a ``deltamem serve`` of its own process, which is told to stop when the block ends."""
    with socket.socket() as free:
        free.bind(("127.0.0.1", 0))
        url = f"http://127.0.0.1:{free.getsockname()[1]}"
    command = [sys.executable, "-m", "deltamem", "serve", "--port", url.rpartition(":")[2], *options]
    environment = os.environ | {"DELTAMEM_HOME": str(home)}
    with subprocess.Popen(command, env=environment, stderr=subprocess.PIPE, text=True) as process:
        try:
            until, status = time.monotonic() + PATIENCE_S, 0
            while status != 200 and time.monotonic() < until and process.poll() is None:
                try:
                    status = httpx.get(f"{url}/readyz").status_code
                except httpx.TransportError:
                    time.sleep(0.2)
            yield url
        finally:
            process.send_signal(signal.SIGTERM)
            _, errors = process.communicate(timeout=300)
    assert "Traceback" not in errors


def start(server: Server) -> tuple[uvicorn.Server, threading.Thread]:
    """A uvicorn that has started to serve ``server``."""
    return start_app(create_app(server))


def start_app(app: Any) -> tuple[uvicorn.Server, threading.Thread]:
    """A uvicorn that has started to serve an application."""
    config = uvicorn.Config(app, host="127.0.0.1", port=0, log_config=None, timeout_graceful_shutdown=20)
    web = uvicorn.Server(config)
    thread = threading.Thread(target=lambda: asyncio.run(web.serve()))
    thread.start()
    while not web.started:
        assert thread.is_alive(), "uvicorn did not start"
        time.sleep(0.01)
    return web, thread


def address(web: uvicorn.Server) -> str:
    """Where it listens."""
    return f"http://127.0.0.1:{web.servers[0].sockets[0].getsockname()[1]}"
