"""LangGraph with a memory in the model: the graph's state holds one turn, the past is on the server.

    pip install langchain-openai langgraph
    deltamem serve
    python examples/langgraph_memory.py

LangGraph's thread id becomes the session's name, so that every thread has a memory of its own. The node sends the new
message alone; no checkpointer is needed for the conversation, and none grows with it.
"""

import os
import uuid
from typing import TypedDict

from langchain_core.runnables import RunnableConfig
from langchain_openai import ChatOpenAI
from langgraph.graph import END, START, StateGraph

model = ChatOpenAI(
    model="deltamem",
    base_url=os.environ.get("DELTAMEM_URL", "http://127.0.0.1:8000") + "/v1",
    api_key=os.environ.get("DELTAMEM_API_KEY", "none"),
    temperature=0,
)


class Turn(TypedDict, total=False):
    """What goes through the graph: one message and its answer."""

    said: str
    answer: str


def answer(turn: Turn, config: RunnableConfig) -> Turn:
    """Asks the model, in the thread's session."""
    session = config["configurable"]["thread_id"]
    reply = model.bind(extra_headers={"X-Memory-Session": session}).invoke(turn["said"])
    return {"answer": reply.text if isinstance(reply.text, str) else reply.text()}


graph = StateGraph(Turn)
graph.add_node("answer", answer)
graph.add_edge(START, "answer")
graph.add_edge("answer", END)
agent = graph.compile()

run = uuid.uuid4().hex[:8]
threads = {name: {"configurable": {"thread_id": f"{name}-{run}"}} for name in ("ravi", "mina")}
for name, said in [
    ("ravi", "I live in Lisbon."),
    ("mina", "I live in Oslo."),
    ("ravi", "Where do I live?"),
    ("mina", "Where do I live?"),
]:
    print(f"{name}> {said}\n{agent.invoke({'said': said}, threads[name])['answer']}")
