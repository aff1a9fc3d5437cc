"""LangGraph's long-term store and its checkpoints, with memories on a server.

    pip install langchain-openai langgraph
    deltamem serve --keep-messages
    python examples/langgraph_store.py

The store keeps values as memories: what a graph puts is told to a state, and a search finds it by its words. A
checkpoint holds the id of the model's last response, and with it the memory of that moment: whoever goes back to a
checkpoint goes back to what was known then.
"""

import asyncio
import json
import os
import uuid
from collections.abc import Iterable
from datetime import datetime
from typing import Any

from langchain_openai import ChatOpenAI
from langgraph.checkpoint.memory import InMemorySaver
from langgraph.graph import END, START, MessagesState, StateGraph
from langgraph.store.base import BaseStore, GetOp, Item, ListNamespacesOp, PutOp, SearchItem, SearchOp

from deltamem.client import Found, MemoryClient

URL = os.environ.get("DELTAMEM_URL", "http://127.0.0.1:8000")


class DeltaStore(BaseStore):
    """LangGraph's store: a namespace is a user's memories, and a value's ``text`` what is remembered.

    Args:
        client: of the server.
    """

    def __init__(self, client: MemoryClient) -> None:
        self._client = client

    def batch(self, ops: Iterable[Any]) -> list[Any]:
        """Does what a graph asks for."""
        return [self._do(op) for op in ops]

    async def abatch(self, ops: Iterable[Any]) -> list[Any]:
        """The same, beside an event loop."""
        return await asyncio.to_thread(self.batch, list(ops))

    def _do(self, op: Any) -> Any:
        if isinstance(op, PutOp):
            return self._put(op)
        if isinstance(op, GetOp):
            found = self._find(op.namespace, op.key)
            return None if found is None else Item(namespace=op.namespace, **_fields(found))
        if isinstance(op, SearchOp):
            return self._search(op)
        assert isinstance(op, ListNamespacesOp)
        sessions = self._client.http.get("/v1/sessions", params={"search": "user:", "limit": 1000}).json()["data"]
        return [tuple(one["session"].removeprefix("user:").split(".")) for one in sessions][op.offset :][: op.limit]

    def _put(self, op: PutOp) -> None:
        found = self._find(op.namespace, op.key)
        if op.value is None:
            if found is not None:
                self._client.delete(found["id"])
            return
        text = str(op.value.get("text", json.dumps(op.value)))
        metadata = {"key": op.key, "value": json.dumps(op.value)}
        if found is None:
            self._client.add(text, user_id=_user(op.namespace), metadata=metadata)
        else:
            self._client.update(found["id"], text, metadata)

    def _search(self, op: SearchOp) -> list[SearchItem]:
        user, most = _user(op.namespace_prefix), op.limit + op.offset
        if op.query is None:
            found = self._client.get_all(user_id=user, limit=10000)
        else:
            found = self._client.search(op.query, user_id=user, limit=min(most, 100), ask=False)["results"]
        items = [
            SearchItem(op.namespace_prefix, score=one["score"], **_fields(one))
            for one in found
            if "key" in one["metadata"]
        ]
        wanted = (op.filter or {}).items()
        return [item for item in items if wanted <= item.value.items()][op.offset : most]

    def _find(self, namespace: tuple[str, ...], key: str) -> Found | None:
        memories = self._client.get_all(user_id=_user(namespace), limit=10000)
        return next((one for one in memories if one["metadata"].get("key") == key), None)


def _user(namespace: tuple[str, ...]) -> str:
    return ".".join(namespace)


def _fields(found: Found) -> dict[str, Any]:
    return {
        "key": found["metadata"]["key"],
        "value": json.loads(found["metadata"]["value"]),
        "created_at": datetime.fromisoformat(found["created_at"]),
        "updated_at": datetime.fromisoformat(found["updated_at"]),
    }


def main() -> None:
    """Puts and finds memories, then talks, goes back, and asks again."""
    run = uuid.uuid4().hex[:8]
    with MemoryClient(URL) as client:
        store = DeltaStore(client)
        namespace = ("users", f"ravi-{run}")
        store.put(namespace, "home", {"text": "I settled in Lisbon some years ago."})
        store.put(namespace, "pet", {"text": "There is a tortoise at home with me."})
        store.put(namespace, "home", {"text": "I settled in Porto some years ago."})
        print("store, tortoise:", [item.key for item in store.search(namespace, query="tortoise")])
        found = store.get(namespace, "home")
        print("store, home:", found.value["text"] if found else None)
        store.delete(namespace, "home")
        print("store, left:", [item.key for item in store.search(namespace)])

        model = ChatOpenAI(
            model="deltamem",
            base_url=f"{URL}/v1",
            api_key=os.environ.get("DELTAMEM_API_KEY", "none"),
            temperature=0,
            use_responses_api=True,
            use_previous_response_id=True,
        )
        graph = StateGraph(MessagesState)
        graph.add_node("answer", lambda state: {"messages": [model.invoke(state["messages"])]})
        graph.add_edge(START, "answer")
        graph.add_edge("answer", END)
        agent = graph.compile(checkpointer=InMemorySaver(), store=store)

        def say(text: str, config: Any) -> str:
            said = agent.invoke({"messages": [("user", text)]}, config)["messages"][-1].text
            print(f"> {text}\n{said}")
            return str(said)

        thread = {"configurable": {"thread_id": run}}
        say("I settled in Lisbon some years ago.", thread)
        before = agent.get_state(thread).config
        say("Actually, I live in Porto now.", thread)
        say("Which city do I live in?", thread)
        print("back at the checkpoint before the move:")
        say("Which city do I live in?", before)


if __name__ == "__main__":
    main()
