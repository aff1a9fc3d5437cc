"""A memory as tools of the Model Context Protocol, in front of deltamem's HTTP API."""

import json
from collections.abc import AsyncIterator
from contextlib import asynccontextmanager
from typing import TYPE_CHECKING, Annotated, Any

from pydantic import Field

from deltamem.extensions import from_extra
from deltamem.store import NAME_PATTERN
from deltamem.version import __version__

with from_extra("mcp", "The MCP server needs {}"):
    import httpx
    from mcp.server import MCPServer
    from mcp.server.mcpserver.exceptions import ToolError

if TYPE_CHECKING:  # before a server elsewhere nothing heavy is imported: clients wait only so long for the first answer
    from deltamem.serve.server import Server

_INSTRUCTIONS = (
    "A memory that lasts. remember what should be known later; ask it a question, or recall what it knows, with how "
    "sure that is and the words it is from. It can be wrong: say so where confidence is low. forget takes things out."
)
Session = Annotated[
    str | None,
    Field(pattern=f"^{NAME_PATTERN}$", max_length=128, description="Whose memory; by default the default session."),
]


class Api:
    """The HTTP API, of a server in this process or elsewhere."""

    def __init__(self, client: httpx.AsyncClient, session: str) -> None:
        self._client = client
        self._session = session

    def place(self, session: str | None, rest: str = "") -> str:
        """A path of a session."""
        return f"/v1/sessions/{session or self._session}{rest}"

    async def ask(self, method: str, path: str, **options: Any) -> Any:
        """What a request answers; the options are those of httpx.

        Raises:
            ToolError: it is refused; the message says why.
        """
        try:
            answer = await self._client.request(method, path, **options)
            found = answer.json()
        except (httpx.HTTPError, ValueError) as error:
            raise ToolError(f"The memory's server does not answer ({type(error).__name__}).") from None
        if answer.is_error:
            raise ToolError(found["error"]["message"] if "error" in found else f"Refused: {answer.status_code}.")
        return found


@asynccontextmanager
async def local(server: "Server") -> AsyncIterator[httpx.AsyncClient]:
    """Asks a server of this process, which is closed at the end."""
    from deltamem.serve.app import create_app

    app = create_app(server)
    transport = httpx.ASGITransport(app)
    async with (
        app.router.lifespan_context(app),
        httpx.AsyncClient(transport=transport, base_url="http://localhost", timeout=None) as client,
    ):
        yield client


@asynccontextmanager
async def remote(url: str, key: str) -> AsyncIterator[httpx.AsyncClient]:
    """Asks a server elsewhere; ``key`` is empty where it needs none."""
    headers = {"Authorization": f"Bearer {key}"} if key else {}
    async with httpx.AsyncClient(base_url=url.rstrip("/").removesuffix("/v1"), headers=headers, timeout=600) as client:
        yield client


def mcp_server(client: httpx.AsyncClient, session: str = "default") -> "MCPServer[Any]":
    """The tools and resources of the memories that a client of the HTTP API reaches.

    Args:
        client: as :func:`local` and :func:`remote` give it.
        session: the session of tools that are given none.
    """
    mcp: MCPServer[Any] = MCPServer("deltamem", version=__version__, instructions=_INSTRUCTIONS)
    api = Api(client, session)
    _add_tools(mcp, api)
    _add_resources(mcp, api)
    return mcp


def _add_tools(mcp: "MCPServer[Any]", api: Api) -> None:
    @mcp.tool()
    async def remember(
        text: Annotated[str, Field(min_length=1, description="What to remember, in natural words.")],
        session: Session = None,
    ) -> dict[str, Any]:
        """Write something to a memory."""
        done = await api.ask("POST", api.place(session, "/observe"), json={"text": text})
        return {name: done[name] for name in ("session", "version", "written_tokens")}

    @mcp.tool()
    async def recall(
        questions: Annotated[
            list[str] | None, Field(description="Questions to ask; by default a profile of the user.")
        ] = None,
        threshold: Annotated[float, Field(ge=0, le=1, description="The least confidence that counts as known.")] = 0.5,
        session: Session = None,
    ) -> dict[str, Any]:
        """What a memory knows, how sure that is, and the words that it is from. What it does not know it says so."""
        body = {"questions": questions, "threshold": threshold}
        found = await api.ask("POST", api.place(session, "/recall"), json=body)
        known = [{"question": one["question"], **_answer(one)} for one in found["data"] if one["known"]]
        return {"known": known, "not_known": [one["question"] for one in found["data"] if not one["known"]]}

    @mcp.tool()
    async def ask(
        question: Annotated[str, Field(min_length=1, description="A question, as the user would put it.")],
        session: Session = None,
    ) -> dict[str, Any]:
        """The memory's answer to one question, and whether it knows. Nothing is written."""
        found = await api.ask("POST", api.place(session, "/recall"), json={"questions": [question]})
        (one,) = found["data"]
        return {"known": one["known"], **_answer(one)}

    @mcp.tool()
    async def forget(
        text: Annotated[str | None, Field(description="Words that say what to forget, such as a name.")] = None,
        question: Annotated[str | None, Field(description="With answer, if the text was not kept.")] = None,
        answer: str | None = None,
        everything: Annotated[bool, Field(description="Empty the memory.")] = False,
        session: Session = None,
    ) -> dict[str, Any]:
        """Take something out of a memory, or everything."""
        wanted = {"text": text, "question": question, "answer": answer}
        given = {name: value for name, value in wanted.items() if value is not None}
        if everything == bool(given):
            raise ToolError("Say what to forget: text, or question and answer, or everything.")
        done = await api.ask("POST", api.place(session, "/forget"), json=given or None)
        forgotten: dict[str, Any] = done["forgotten"]
        return forgotten

    @mcp.tool(name="list")
    async def list_sessions(
        search: Annotated[str | None, Field(description="Text to find in names and labels.")] = None,
    ) -> dict[str, Any]:
        """The memories that there are, the latest first."""
        found = await api.ask("GET", "/v1/sessions", params={"search": search} if search else {})
        names = ("session", "label", "version", "tokens_written", "updated")
        return {"sessions": [{name: one[name] for name in names} for one in found["data"]]}

    @mcp.tool()
    async def export(session: Session = None) -> dict[str, Any]:
        """A memory as signed text, which the import of the server that signed it takes back."""
        found = await api.ask("GET", api.place(session, "/export"))
        return {name: found[name] for name in ("session", "version", "tokens_written", "state")}


def _add_resources(mcp: "MCPServer[Any]", api: Api) -> None:
    @mcp.resource("memory://sessions", mime_type="application/json")
    async def sessions() -> str:
        """The memories that there are."""
        return json.dumps((await api.ask("GET", "/v1/sessions"))["data"])

    @mcp.resource("memory://sessions/{session}", mime_type="application/json")
    async def session(session: str) -> str:
        """A memory's record."""
        return json.dumps(await api.ask("GET", api.place(session)))

    @mcp.resource("memory://sessions/{session}/messages", mime_type="application/json")
    async def messages(session: str) -> str:
        """What was said to it, where that is kept."""
        return json.dumps((await api.ask("GET", api.place(session, "/messages")))["data"])


def _answer(recalled: dict[str, Any]) -> dict[str, Any]:
    """An answer, how sure it is, and the words of the message that it is from."""
    told = None
    if recalled["source"] is not None:
        messages = recalled["source"]["messages"]
        said = max(messages, key=lambda message: sum(token["share"] for token in message["tokens"]))
        told = "".join(token["text"] for token in said["tokens"])
    return {"answer": recalled["answer"], "confidence": round(recalled["confidence"], 3), "told": told}
