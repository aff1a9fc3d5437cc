"""A memory through OpenAI's own client: what one request tells, another knows.

Start a server (``deltamem serve``), then: ``python examples/openai_client.py``
"""

import os
import uuid

from openai import OpenAI

URL = os.environ.get("DELTAMEM_URL", "http://127.0.0.1:8000")
session = f"example-{uuid.uuid4().hex[:8]}"
client = OpenAI(
    base_url=f"{URL}/v1",
    api_key=os.environ.get("DELTAMEM_API_KEY", "none"),
    default_headers={"X-Memory-Session": session},
)


def ask(text: str) -> str:
    """One request with one message: nothing of the past is sent."""
    reply = client.chat.completions.create(
        model="deltamem", messages=[{"role": "user", "content": text}], temperature=0
    )
    print(f"> {text}\n{reply.choices[0].message.content}   (version {reply.memory['version']} of {session})")
    return reply.choices[0].message.content or ""


ask("I live in Lisbon.")
ask("My cat is called Biscuit.")
ask("Where do I live?")

print("> What is my pet called?")
stream = client.chat.completions.create(
    model="deltamem",
    messages=[{"role": "user", "content": "What is my pet called?"}],
    temperature=0,
    stream=True,
    extra_body={"memory": {"session": session, "mode": "read_only"}},
)
for chunk in stream:
    print(chunk.choices[0].delta.content or "", end="", flush=True)
print("   (read only)")
