"""A server over vLLM, and what tests say to it and to one over the own engine."""

from typing import Any

import httpx
import torch
from serving import SECRET

from deltamem.serve.server import Server
from deltamem.serve.settings import Settings
from deltamem.store import SessionStore

CHAT = "/v1/chat/completions"


def make_vllm_server(url: str, model: str = "embedded", adapter: str = "multi") -> Server:
    """A server over vLLM, as `deltamem serve --engine vllm` makes it."""
    from deltamem.vllm.engine import open_hollow, vllm_engine

    hollow = open_hollow(model, adapter)
    store = SessionStore.open(url, keep_messages=True)
    settings = Settings(secret=SECRET, model_name="demo")
    return Server(*hollow, store, settings, engine=vllm_engine(model, adapter))


def say(client: httpx.Client, session: str, text: str, **more: Any) -> dict[str, Any]:
    body = {"messages": [{"role": "user", "content": text}], "temperature": 0, "max_tokens": 24} | more
    answer = client.post(CHAT, json=body | {"memory": {"session": session} | more.pop("memory", {})})
    assert answer.status_code == 200, answer.text
    return answer.json()


def content(answer: dict[str, Any]) -> str:
    return answer["choices"][0]["message"]["content"]


def matrices(client: httpx.Client, session: str) -> torch.Tensor:
    answer = client.get(f"/v1/sessions/{session}/memory")
    assert answer.status_code == 200, answer.text
    return torch.tensor(answer.json()["states"])
