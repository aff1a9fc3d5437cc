"""A client of the server's memories: add, search, get_all, get, update, delete and history, by user, agent and run."""

import os
from collections.abc import Mapping, Sequence
from typing import Any, Self
from urllib.parse import quote

import httpx

Found = dict[str, Any]


class MemoryRefusedError(ValueError):
    """The server refused something; the message says what and why.

    Attributes:
        status: HTTP's status.
        code: the server's word for it.
    """

    def __init__(self, message: str, status: int, code: str | None) -> None:
        super().__init__(message)
        self.status, self.code = status, code


class MemoryClient:
    """The memories of a running ``deltamem serve --keep-messages``.

    Each memory belongs to a user, an agent or a run, or to several of them together: what is added for a user in a
    run is found by the user, by the run, and by both.

    Args:
        url: the server's address; ``DELTAMEM_URL``, or this machine, by default.
        api_key: where the server needs one; ``DELTAMEM_API_KEY`` by default.
        timeout: seconds that an answer may take.

    Attributes:
        http: what asks the server.
    """

    def __init__(self, url: str | None = None, api_key: str | None = None, timeout: float = 600) -> None:
        url = url or os.environ.get("DELTAMEM_URL", "http://127.0.0.1:8000")
        key = api_key or os.environ.get("DELTAMEM_API_KEY")
        headers = {"Authorization": f"Bearer {key}"} if key else {}
        self.http = httpx.Client(base_url=url.rstrip("/").removesuffix("/v1"), headers=headers, timeout=timeout)

    def __enter__(self) -> Self:
        return self

    def __exit__(self, *raised: object) -> None:
        self.close()

    def close(self) -> None:
        """Closes the connection."""
        self.http.close()

    def add(
        self,
        messages: str | Sequence[Mapping[str, Any]],
        *,
        user_id: str | None = None,
        agent_id: str | None = None,
        run_id: str | None = None,
        metadata: Mapping[str, str | int | float | bool] | None = None,
    ) -> list[Found]:
        """Remembers a text, or messages with ``role`` and ``content``; each gets an ``id``."""
        said = messages if isinstance(messages, str) else [dict(message) for message in messages]
        body = {"messages": said, "metadata": metadata, **_whose(user_id, agent_id, run_id)}
        added: list[Found] = self._ask("POST", "", json=body)["results"]
        return added

    def search(
        self,
        query: str,
        *,
        user_id: str | None = None,
        agent_id: str | None = None,
        run_id: str | None = None,
        limit: int = 10,
        ask: bool = True,
        vectors: bool | None = None,
    ) -> Found:
        """The texts that fit a query as ``results``, and what the states say to it, if asked, as ``answers``.

        With ``vectors`` the texts are also found by what they mean, as they are by default where the server has a
        model for embeddings.
        """
        body = {"query": query, "limit": limit, "ask": ask, "vectors": vectors, **_whose(user_id, agent_id, run_id)}
        found: Found = self._ask("POST", "/search", json=body)
        return found

    def get_all(
        self,
        *,
        user_id: str | None = None,
        agent_id: str | None = None,
        run_id: str | None = None,
        limit: int = 100,
    ) -> list[Found]:
        """The memories, the latest first."""
        query = {**_whose(user_id, agent_id, run_id), "limit": limit}
        found: list[Found] = self._ask("GET", "", params=query)["results"]
        return found

    def get(self, memory_id: str) -> Found:
        """A memory."""
        found: Found = self._ask("GET", _path(memory_id))
        return found

    def update(self, memory_id: str, text: str, metadata: Mapping[str, Any] | None = None) -> Found:
        """Gives a memory another text, as if it had been told so at first."""
        found: Found = self._ask("PUT", _path(memory_id), json={"text": text, "metadata": metadata})
        return found

    def delete(self, memory_id: str) -> None:
        """Forgets a memory, as if it had never been told."""
        self._ask("DELETE", _path(memory_id))

    def delete_all(
        self, *, user_id: str | None = None, agent_id: str | None = None, run_id: str | None = None
    ) -> list[str]:
        """Forgets a user, an agent or a run, and gives the names of the sessions that are gone."""
        gone: list[str] = self._ask("DELETE", "", params=_whose(user_id, agent_id, run_id))["sessions"]
        return gone

    def history(self, memory_id: str) -> list[Found]:
        """What became of a memory: how it was added and updated."""
        found: list[Found] = self._ask("GET", _path(memory_id) + "/history")
        return found

    def _ask(self, method: str, path: str, **options: Any) -> Any:
        try:
            answer = self.http.request(method, f"/v1/memories{path}", **options)
        except httpx.HTTPError as error:
            raise ConnectionError(f"{self.http.base_url} does not answer: {error or type(error).__name__}.") from None
        try:
            found = answer.json()
        except ValueError:
            found = {}
        if answer.is_error:
            refusal = found.get("error", {}) if isinstance(found, dict) else {}
            reason = refusal.get("message") or f"{answer.url} answered {answer.status_code}."
            raise MemoryRefusedError(reason, answer.status_code, refusal.get("code"))
        return found


def _whose(user_id: str | None, agent_id: str | None, run_id: str | None) -> dict[str, str]:
    given = {"user_id": user_id, "agent_id": agent_id, "run_id": run_id}
    return {name: one for name, one in given.items() if one is not None}


def _path(memory_id: str) -> str:
    return "/" + quote(memory_id, safe="")
