"""Agent frameworks against the server, each by its own client: a memory, tools, answers of a form, streams.

They are large, so they are no dependencies of the tests; ``make clients`` installs them, and without one its tests are
skipped. Tools are called by the embedded model where its 512 positions are enough for the framework's prompt.
"""

import asyncio
import os
import subprocess
import sys
from collections.abc import Iterator
from pathlib import Path
from typing import Annotated, Any, Literal, TypedDict

import pytest
from pydantic import BaseModel
from serving import make_server, running

from talkers import talker

LISBON, CITY = "I settled in Lisbon some years ago.", "Which city do I live in?"
ROOT = Path(__file__).parents[2]
City = Literal["Lisbon", "Porto"]

# What a framework says of itself and of its own dependencies is not ours to mend.
pytestmark = pytest.mark.filterwarnings("ignore")


class Place(BaseModel):
    """Where somebody lives."""

    city: City


@pytest.fixture(scope="module")
def url() -> Iterator[str]:
    """The embedded model, which remembers."""
    with running(make_server()) as address:
        yield f"{address}/v1"


@pytest.fixture
def asked() -> list[str]:
    """What a tool was asked."""
    return []


def test_langchain(url: str) -> None:
    openai = pytest.importorskip("langchain_openai")
    header = {"X-Memory-Session": "langchain"}
    model = openai.ChatOpenAI(model="demo", base_url=url, api_key="none", temperature=0, default_headers=header)
    model.invoke(LISBON)
    assert model.invoke(CITY).text == "Lisbon."
    assert "".join(chunk.text for chunk in model.stream(CITY)) == "Lisbon."
    assert asyncio.run(model.ainvoke(CITY)).text == "Lisbon."
    assert model.batch([CITY, CITY])[1].text == "Lisbon."
    formed = model.with_structured_output(Place, method="json_schema").invoke(CITY)
    assert isinstance(formed, Place)


def test_langchain_on_responses(url: str) -> None:
    openai = pytest.importorskip("langchain_openai")
    model = openai.ChatOpenAI(
        model="demo", base_url=url, api_key="none", temperature=0, use_responses_api=True, use_previous_response_id=True
    )
    told = [("user", LISBON)]
    noted = model.invoke(told)
    # Only what follows the last response is sent: its memory has the rest, and is continued twice.
    moved = ("user", "Actually, I live in Porto now.")
    assert model.invoke([*told, noted, moved, model.invoke([*told, noted, moved]), ("user", CITY)]).text == "Porto."
    assert model.invoke([*told, noted, ("user", CITY)]).text == "Lisbon."


def test_langgraph_calls_a_tool(url: str, asked: list[str]) -> None:
    openai = pytest.importorskip("langchain_openai")
    pytest.importorskip("langgraph")
    from langchain_core.tools import tool
    from langgraph.graph import END, START, StateGraph
    from langgraph.graph.message import add_messages
    from langgraph.prebuilt import ToolNode

    @tool
    def weather(city: City) -> str:
        """Tells the weather."""
        asked.append(city)
        return "It rains."

    class Said(TypedDict):
        messages: Annotated[list[Any], add_messages]

    model = openai.ChatOpenAI(model="demo", base_url=url, api_key="none", temperature=0, max_tokens=100)
    calling = model.bind_tools([weather], tool_choice="weather")
    graph = StateGraph(Said)
    graph.add_node("call", lambda said: {"messages": [calling.invoke(said["messages"])]})
    graph.add_node("tools", ToolNode([weather]))
    graph.add_node("answer", lambda said: {"messages": [model.invoke(said["messages"])]})
    for a, b in ((START, "call"), ("call", "tools"), ("tools", "answer"), ("answer", END)):
        graph.add_edge(a, b)
    messages = graph.compile().invoke({"messages": [("user", "How is it in Porto?")]})["messages"]
    assert asked == ["Porto"]
    assert [message.type for message in messages] == ["human", "ai", "tool", "ai"]
    assert messages[2].content == "It rains."
    assert messages[3].text


def test_llamaindex(url: str, asked: list[str]) -> None:
    like = pytest.importorskip("llama_index.llms.openai_like")
    from llama_index.core.llms import ChatMessage
    from llama_index.core.tools import FunctionTool

    def weather(city: City) -> str:
        """Tells the weather."""
        asked.append(city)
        return "It rains."

    def model(**options: Any) -> Any:
        return like.OpenAILike(
            model="demo",
            api_base=url,
            api_key="none",
            is_chat_model=True,
            is_function_calling_model=True,
            context_window=512,
            temperature=0,
            **options,
        )

    remembering = model(default_headers={"X-Memory-Session": "llamaindex"})
    remembering.chat([ChatMessage(role="user", content=LISBON)])
    question = [ChatMessage(role="user", content=CITY)]
    assert remembering.chat(question).message.content == "Lisbon."
    assert "".join(part.delta for part in remembering.stream_chat(question)) == "Lisbon."
    assert asyncio.run(remembering.achat(question)).message.content == "Lisbon."
    tool = FunctionTool.from_defaults(weather)
    said = model(max_tokens=100).predict_and_call([tool], "How is it in Porto?", tool_required=True)
    assert asked == ["Porto"]
    assert said.response == "It rains."


def test_openais_agents_sdk(asked: list[str]) -> None:
    agents = pytest.importorskip("agents")
    import openai

    agents.set_tracing_disabled(True)

    @agents.function_tool
    def weather(city: str) -> str:
        """Tells the weather."""
        asked.append(city)
        return "It rains."

    settings = agents.ModelSettings(tool_choice="required", temperature=0, max_tokens=400)

    async def run(kind: Any, address: str) -> Any:
        async with openai.AsyncOpenAI(base_url=f"{address}/v1", api_key="none", max_retries=0) as client:
            agent = agents.Agent(
                name="guide",
                instructions="Help.",
                tools=[weather],
                model=kind(model="demo", openai_client=client),
                model_settings=settings,
                tool_use_behavior="stop_on_first_tool",
            )
            return await agents.Runner.run(agent, "How is it?", max_turns=3)

    with running(make_server(model=talker(positions=2048), max_tokens=48)) as address:
        for kind in (agents.OpenAIResponsesModel, agents.OpenAIChatCompletionsModel):
            asked.clear()
            assert asyncio.run(run(kind, address)).final_output == "It rains."
            assert asked


@pytest.mark.parametrize(
    ("example", "package", "says"),
    [
        pytest.param(
            "langgraph_store.py",
            "langchain_openai",
            [
                "store, tortoise: ['pet']",
                "store, home: I settled in Porto some years ago.",
                "store, left: ['pet']",
                "> Which city do I live in?\nPorto.",
                "back at the checkpoint before the move:\n> Which city do I live in?\nLisbon.",
            ],
            id="langgraph-store",
        ),
        pytest.param(
            "llamaindex_block.py",
            "llama_index.core",
            ["in the window: False", "from the block: Lisbon.\n"],
            id="llamaindex-block",
        ),
        pytest.param(
            "agents_session.py",
            "agents",
            [
                "> Where do I live?\nLisbon.\n> I live in Rome.",
                "> Where do I live?\nRome.\ntwo turns taken back\n> Where do I live?\nLisbon.",
            ],
            id="agents-session",
        ),
        pytest.param("langgraph_memory.py", "langchain_openai", ["Where do I live?\nOslo."], id="langgraph-memory"),
    ],
)
def test_the_example(example: str, package: str, says: list[str], url: str) -> None:
    pytest.importorskip(package)
    command = [sys.executable, str(ROOT / "examples" / example)]
    settings = os.environ | {"DELTAMEM_URL": url.removesuffix("/v1")}
    done = subprocess.run(command, env=settings, capture_output=True, text=True, timeout=800)
    assert done.returncode == 0, done.stderr
    for line in says:
        assert line in done.stdout


def test_smolagents(asked: list[str]) -> None:
    smolagents = pytest.importorskip("smolagents")

    @smolagents.tool
    def weather(city: str) -> str:
        """Tells the weather.

        Args:
            city: where.
        """
        asked.append(city)
        return "It rains."

    # Its instructions alone are thousands of tokens.
    with running(make_server(model=talker(positions=16384), max_tokens=200)) as address:
        model = smolagents.OpenAIModel("demo", api_base=f"{address}/v1", api_key="none", temperature=0, max_tokens=200)
        agent = smolagents.ToolCallingAgent(tools=[weather], model=model, max_steps=1, verbosity_level=0)
        agent.run("How is it?")
    step = next(step for step in agent.memory.steps if getattr(step, "tool_calls", None))
    assert [call.name for call in step.tool_calls] == ["weather"]
    assert asked
    assert step.observations == "It rains."
