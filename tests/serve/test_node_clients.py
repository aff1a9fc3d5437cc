"""Clients that run on Node: OpenAI's, Vercel's AI SDK, and the inspector of the Model Context Protocol.

``make clients`` installs them under examples/node; without them, or without Node, their tests are skipped.
"""

import json
import os
import shutil
import socket
import subprocess
import sys
import time
from collections.abc import Iterator
from pathlib import Path
from typing import Any

import pytest
from serving import make_server, running

CLIENT = Path(__file__).parents[2] / "clients" / "typescript"
FOLDER = Path(__file__).parents[2] / "examples" / "node"
LISBON, CITY = "I settled in Lisbon some years ago.", "Which city do I live in?"


@pytest.fixture(scope="module")
def url() -> Iterator[str]:
    """The embedded model, which remembers, before clients that are installed."""
    if shutil.which("node") is None or not (FOLDER / "node_modules").is_dir():
        pytest.skip("Node or its clients are not here: make clients installs these")
    with running(make_server()) as address:
        yield address


def node(*command: str, **environment: str) -> str:
    """What a command of Node's prints."""
    settings = os.environ | environment
    done = subprocess.run(["node", *command], cwd=FOLDER, env=settings, capture_output=True, text=True, timeout=800)
    assert done.returncode == 0, done.stderr
    return done.stdout


def test_openais_client(url: str) -> None:
    said = node("openai_client.mjs", DELTAMEM_URL=url)
    assert "> Where do I live?\nLisbon.\n" in said
    assert "Biscuit.   (read only)" in said
    assert "Lisbon.   (Responses)" in said


def test_vercels_ai_sdk(url: str) -> None:
    text, stream, formed, called = node("vercel_ai_sdk.mjs", DELTAMEM_URL=url).splitlines()
    assert text == "text: Lisbon."
    assert stream.startswith("stream: Lisbon.   (")
    assert json.loads(formed.removeprefix("object: "))["city"] in ("Lisbon", "Porto")
    assert called == "tool: It rains in Porto."


def test_the_typescript_client(url: str) -> None:
    if not (CLIENT / "node_modules").is_dir():
        pytest.skip("TypeScript is not here: make clients installs it")
    settings = os.environ | {"DELTAMEM_URL": url}
    done = subprocess.run(["npm", "test"], cwd=CLIENT, env=settings, capture_output=True, text=True, timeout=800)
    assert done.returncode == 0, done.stdout + done.stderr


def inspect(*command: str) -> Any:
    """What the inspector's command line shows."""
    return json.loads(node("node_modules/@modelcontextprotocol/inspector/cli/build/cli.js", "--cli", *command))


def test_the_inspector_lists_every_tool_and_resource_over_stdio(url: str, tmp_path: Path) -> None:
    started = {"command": sys.executable, "args": ["-m", "deltamem", "mcp", "--server", url]}
    (tmp_path / "mcp.json").write_text(json.dumps({"mcpServers": {"memory": started}}))
    command = ("--config", str(tmp_path / "mcp.json"), "--server", "memory", "--method")
    tools = inspect(*command, "tools/list")["tools"]
    assert {tool["name"] for tool in tools} == {"remember", "recall", "ask", "forget", "list", "export"}
    assert all(tool["description"] for tool in tools)
    assert [one["uri"] for one in inspect(*command, "resources/list")["resources"]] == ["memory://sessions"]


def test_the_inspector_calls_every_tool_over_http(url: str) -> None:
    with socket.socket() as free:
        free.bind(("127.0.0.1", 0))
        port = free.getsockname()[1]
    command = [sys.executable, "-m", "deltamem", "mcp", "--transport", "http", "--port", str(port), "--server", url]
    with subprocess.Popen(command, stderr=subprocess.DEVNULL) as served:
        try:
            until = time.monotonic() + 600
            while True:
                try:
                    socket.create_connection(("127.0.0.1", port)).close()
                    break
                except OSError:
                    assert time.monotonic() < until
                    assert served.poll() is None
                    time.sleep(0.1)

            def call(tool: str, **arguments: str) -> Any:
                options = [f"{name}={value}" for name, value in {"session": "inspected", **arguments}.items()]
                if tool == "list":
                    options = []
                given = ("--tool-arg", *options) if options else ()
                place = (f"http://127.0.0.1:{port}/mcp", "--transport", "http")
                done = inspect(*place, "--method", "tools/call", "--tool-name", tool, *given)
                assert not done["isError"], done
                return done["structuredContent"]

            assert call("remember", text=LISBON)["session"] == "inspected"
            assert call("ask", question=CITY)["answer"] == "Lisbon."
            known = call("recall", questions=json.dumps([CITY, "When is my birthday?"]))
            assert [one["answer"] for one in known["known"]] == ["Lisbon."]
            assert "inspected" in [one["session"] for one in call("list")["sessions"]]
            assert call("export")["state"].startswith("dms1.")
            assert call("forget", text="Lisbon") == {"turns": 1, "exact": True}
        finally:
            served.terminate()
