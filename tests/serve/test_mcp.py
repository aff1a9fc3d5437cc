"""The memory as tools of the Model Context Protocol, called by the SDK's own client."""

import json
import sys
from collections.abc import AsyncIterator
from contextlib import asynccontextmanager
from pathlib import Path
from typing import Any

import anyio
from mcp import Client, StdioServerParameters
from serving import make_server, running

from deltamem.serve.mcp import local, mcp_server, remote

LISBON, CITY = "I settled in Lisbon some years ago.", "Which city do I live in?"
TOOLS = {"remember", "recall", "ask", "forget", "list", "export"}


@asynccontextmanager
async def client_of(server: Any) -> AsyncIterator[Client]:
    async with local(server) as http, Client(mcp_server(http, "ravi"), raise_exceptions=False) as client:
        yield client


async def call(client: Client, tool: str, **arguments: Any) -> Any:
    done = await client.call_tool(tool, arguments)
    assert not done.is_error, done.content
    return done.structured_content


async def everything(client: Client) -> None:
    assert {tool.name for tool in (await client.list_tools()).tools} == TOOLS
    assert (await call(client, "remember", text=LISBON))["session"] == "ravi"
    await call(client, "remember", text="There is a tortoise at home with me.")
    found = await call(client, "recall", questions=[CITY, "When is my birthday?"])
    (city,) = found["known"]
    assert (city["answer"], city["told"]) == ("Lisbon.", LISBON)
    assert city["confidence"] > 0.8
    assert found["not_known"] == ["When is my birthday?"]
    answer = await call(client, "ask", question=CITY)
    assert (answer["answer"], answer["known"]) == ("Lisbon.", True)
    assert [one["session"] for one in (await call(client, "list"))["sessions"]] == ["ravi"]
    assert (await call(client, "export"))["state"].startswith("dms1.")
    assert await call(client, "forget", text="Lisbon") == {"turns": 1, "exact": True}
    assert (await call(client, "ask", question=CITY))["answer"] != "Lisbon."
    assert not (await call(client, "ask", question=CITY, session="ravi"))["known"]


async def resources(client: Client) -> None:
    assert [str(one.uri) for one in (await client.list_resources()).resources] == ["memory://sessions"]
    templates = (await client.list_resource_templates()).resource_templates
    assert {one.uri_template for one in templates} == {
        "memory://sessions/{session}",
        "memory://sessions/{session}/messages",
    }

    async def read(uri: str) -> Any:
        (content,) = (await client.read_resource(uri)).contents
        return json.loads(content.text)  # type: ignore[union-attr]

    assert [one["session"] for one in await read("memory://sessions")] == ["ravi"]
    assert (await read("memory://sessions/ravi"))["session"] == "ravi"
    assert [m["content"] for m in await read("memory://sessions/ravi/messages")] == [
        "There is a tortoise at home with me."
    ]


def test_every_tool_and_resource_in_one_process() -> None:
    async def run() -> None:
        async with client_of(make_server()) as client:
            await everything(client)
            await resources(client)
            for tool, arguments, says in (
                ("forget", {}, "Say what to forget"),
                ("forget", {"text": "Paris"}, "No turn that was kept says so"),
                ("recall", {"session": "nobody"}, "nobody"),
                ("remember", {"text": "   "}, "nothing would be written"),
            ):
                refused = await client.call_tool(tool, arguments)
                assert refused.is_error
                assert says in refused.content[0].text  # type: ignore[union-attr]

    anyio.run(run)


def test_streamable_http_before_a_server_elsewhere() -> None:
    import uvicorn

    async def run(url: str) -> None:
        async with remote(f"{url}/v1", "") as http:
            app = mcp_server(http, "ravi").streamable_http_app()
            web = uvicorn.Server(uvicorn.Config(app, host="127.0.0.1", port=0, log_config=None))
            async with anyio.create_task_group() as group:
                group.start_soon(web.serve)
                while not web.started:
                    await anyio.sleep(0.01)
                port = web.servers[0].sockets[0].getsockname()[1]
                async with Client(f"http://127.0.0.1:{port}/mcp") as client:
                    assert {tool.name for tool in (await client.list_tools()).tools} == TOOLS
                    await call(client, "remember", text=LISBON)
                    assert (await call(client, "ask", question=CITY))["answer"] == "Lisbon."
                web.should_exit = True

    with running(make_server()) as url:
        anyio.run(run, url)


def test_the_command_speaks_over_stdio(tmp_path: Path) -> None:
    parameters = StdioServerParameters(
        command=sys.executable,
        args=["-m", "deltamem", "mcp", "--model", "embedded", "--session", "ravi"],
        env={"DELTAMEM_HOME": str(tmp_path), "PATH": "/usr/bin:/bin"},
    )

    async def run() -> None:
        async with Client(parameters) as client:
            assert {tool.name for tool in (await client.list_tools()).tools} == TOOLS
            assert (await call(client, "remember", text=LISBON))["version"] == 2

    anyio.run(run)
    assert (tmp_path / "sessions.db").is_file()
