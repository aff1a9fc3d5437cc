"""A memory block for LlamaIndex: what leaves its window is told to a state, and comes back where it fits.

pip install llama-index-core
deltamem serve --keep-messages
python examples/llamaindex_block.py
"""

import asyncio
import os
import uuid
from typing import Any

from llama_index.core.llms import ChatMessage
from llama_index.core.memory import BaseMemoryBlock, Memory

from deltamem.client import MemoryClient


class DeltaBlock(BaseMemoryBlock[str]):
    """Memories of a user on a server.

    Attributes:
        client: of the server.
        user_id: whose they are.
    """

    client: MemoryClient
    user_id: str

    async def _aget(self, messages: list[ChatMessage] | None = None, **_: Any) -> str:
        """What the state knows for the last thing that the user said, and the texts that fit it."""
        asked = next((one.content for one in reversed(messages or []) if one.role == "user" and one.content), None)
        if asked is None:
            return ""
        found = await asyncio.to_thread(self.client.search, asked[:500], user_id=self.user_id, limit=3)
        known = [one["answer"] for one in found["answers"] if one["known"]]
        return "\n".join([*known, *(one["memory"] for one in found["results"])])

    async def _aput(self, messages: list[ChatMessage]) -> None:
        """Tells the state what has left the window."""
        said = [{"role": one.role.value, "content": one.content} for one in messages if one.content]
        if said:
            await asyncio.to_thread(self.client.add, said, user_id=self.user_id)


async def main() -> None:
    """Fills a window until the first fact leaves it, and asks for that fact."""
    with MemoryClient(os.environ.get("DELTAMEM_URL", "http://127.0.0.1:8000")) as client:
        block = DeltaBlock(name="deltamem", client=client, user_id=f"ravi-{uuid.uuid4().hex[:8]}")
        memory = Memory.from_defaults(
            session_id=block.user_id,
            memory_blocks=[block],
            token_limit=60,
            token_flush_size=20,
            chat_history_token_ratio=0.5,
        )
        for text in ("I settled in Lisbon some years ago.", *(f"The bus number {n} was late again." for n in range(6))):
            await memory.aput(ChatMessage(role="user", content=text))
            await memory.aput(ChatMessage(role="assistant", content="Noted."))
        question = ChatMessage(role="user", content="Which city do I live in?")
        shown = await memory.aget([question])
        window = [one.content for one in shown if one.role != "system"]
        print("in the window:", any("Lisbon" in str(text) for text in window))
        print("from the block:", await block.aget([question]))


if __name__ == "__main__":
    asyncio.run(main())
