"""A session for OpenAI's Agents SDK whose past is in the model's memory: nothing of it is sent again.

pip install openai-agents
deltamem serve
python examples/agents_session.py
"""

import asyncio
import os
import uuid
from typing import Any

import httpx
from agents import Agent, ModelSettings, OpenAIChatCompletionsModel, Runner, set_tracing_disabled
from agents.memory.session import SessionABC
from openai import AsyncOpenAI

URL = os.environ.get("DELTAMEM_URL", "http://127.0.0.1:8000")
KEY = os.environ.get("DELTAMEM_API_KEY", "none")


class DeltaSession(SessionABC):
    """A memory session of a server. The model writes it while it answers, so items need no keeping.

    Args:
        session_id: its name.

    Attributes:
        model: a model that reads and writes this session.
    """

    session_settings = None

    def __init__(self, session_id: str) -> None:
        self.session_id = session_id
        self._client = AsyncOpenAI(base_url=f"{URL}/v1", api_key=KEY, default_headers={"X-Memory-Session": session_id})
        self.model = OpenAIChatCompletionsModel(model="deltamem", openai_client=self._client)

    async def get_items(self, limit: int | None = None) -> list[Any]:
        """Nothing: the model has the past."""
        return []

    async def add_items(self, items: list[Any]) -> None:
        """Nothing: the model has written them."""

    async def pop_item(self) -> None:
        """Takes the last turn back."""
        await self._call("POST", "/rollback", {"turns": 1})

    async def clear_session(self) -> None:
        """Deletes the session."""
        await self._call("DELETE", "")

    async def _call(self, method: str, path: str, body: dict[str, Any] | None = None) -> None:
        headers = {"Authorization": f"Bearer {KEY}"}
        async with httpx.AsyncClient(base_url=URL, headers=headers, timeout=60) as http:
            (await http.request(method, f"/v1/sessions/{self.session_id}{path}", json=body)).raise_for_status()


async def main() -> None:
    """Tells, asks, takes back, and asks again."""
    set_tracing_disabled(True)
    session = DeltaSession(f"agent-{uuid.uuid4().hex[:8]}")
    agent = Agent(name="guide", model=session.model, model_settings=ModelSettings(temperature=0))
    for said in ("I live in Lisbon.", "Where do I live?", "I live in Rome.", "Where do I live?"):
        answer = await Runner.run(agent, said, session=session)
        print(f"> {said}\n{answer.final_output}")
    await session.pop_item()
    await session.pop_item()
    print("two turns taken back")
    answer = await Runner.run(agent, "Where do I live?", session=session)
    print(f"> Where do I live?\n{answer.final_output}")
    await session.clear_session()


if __name__ == "__main__":
    asyncio.run(main())
