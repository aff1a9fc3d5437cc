"""Memory products behind the interface that mem0 made common: ``add`` messages of a user, ``search`` what they said.

Any object with these two is one. Here are those that need a few lines: mem0 itself, out of its own configuration, and
this package's server, so that stages which speak to such an interface can measure it.
"""

import hashlib
import inspect
import json
import os
import re
from collections.abc import Callable, Mapping, Sequence
from contextlib import suppress
from functools import partial
from importlib.metadata import PackageNotFoundError, version
from pathlib import Path
from typing import Any, Protocol

from deltamem.chat import Message
from deltamem.extensions import from_extra, load_object

_TEXTS = ("memory", "text", "content")
_USER = "user_id"
_NAME = re.compile(r"[A-Za-z0-9][A-Za-z0-9_.-]{0,63}")


class Product(Protocol):
    """What a product must have. Further arguments of its own are fine if they have defaults."""

    def add(self, messages: Sequence[Message], *, user_id: str) -> Any:
        """Takes in what a user said, and the answers."""

    def search(self, query: str, *, user_id: str, limit: int) -> Any:
        """What it knows of a user about a question, best first.

        Mem0's later versions take ``filters={"user_id": …}`` and ``top_k`` instead, which is fine too. It gives a list
        of texts, or of objects with ``memory``, ``text`` or ``content``; or an object that has it as ``results``.
        """


class DeltaMemServer:
    """This package's server as such a product: a user's memory is a session, and a search asks it the question.

    What it gives is no passage that was said but its own answer, and nothing where the memory is not sure enough.

    Args:
        url: of the server, such as ``http://127.0.0.1:8000``.
        key: its API key, if it has any.
        threshold: the least confidence of an answer, from 0 to 1.
        timeout: of a request, in seconds.
    """

    def __init__(self, url: str, key: str = "", *, threshold: float = 0.0, timeout: float = 600) -> None:
        with from_extra("eval", "The server's client needs httpx"):
            import httpx
        headers = {"Authorization": f"Bearer {key}"} if key else {}
        self._request = partial(httpx.request, headers=headers, timeout=timeout)
        self._sessions = f"{url.rstrip('/')}/v1/sessions"
        self._threshold = threshold

    def add(self, messages: Sequence[Message], *, user_id: str) -> Any:
        """Writes messages to the user's session, which is made if need be.

        Raises:
            ValueError: the server refuses; the message has its words.
        """
        return self._post(user_id, "observe", {"messages": [dict(message) for message in messages]})

    def search(self, query: str, *, user_id: str, limit: int = 1) -> list[dict[str, Any]]:
        """The memory's answer to a question, with its confidence as ``score``; empty if there is no such session.

        Raises:
            ValueError: the server refuses; the message has its words.
        """
        asked = {"questions": [query], "threshold": self._threshold, "sources": False}
        data = self._post(user_id, "recall", asked, missing={"data": []})["data"]
        return [{"memory": one["answer"], "score": one["confidence"]} for one in data if one["known"]][:limit]

    def delete_all(self, *, user_id: str) -> None:
        """Deletes the user's session."""
        self._request("DELETE", f"{self._sessions}/{_session(user_id)}")

    def _post(self, user: str, what: str, body: dict[str, Any], missing: Any = None) -> Any:
        reply = self._request("POST", f"{self._sessions}/{_session(user)}/{what}", json=body)
        if reply.status_code == 404 and missing is not None:
            return missing
        if reply.is_error:
            raise ValueError(f"The server refuses to {what} (status {reply.status_code}): {reply.text[:500]}")
        return reply.json()


def server() -> DeltaMemServer:
    """The server at ``DELTAMEM_URL``, with the key ``DELTAMEM_API_KEY`` if that is set.

    Raises:
        ValueError: there is no such variable.
    """
    url = os.environ.get("DELTAMEM_URL", "")
    if not url:
        raise ValueError("Set DELTAMEM_URL to the server's address, such as http://127.0.0.1:8000.")
    return DeltaMemServer(url, os.environ.get("DELTAMEM_API_KEY", ""))


def load_product(place: str) -> Product:
    """A product as it is named: ``module:function``, which is called, or a JSON file with mem0's configuration.

    The file may have one more key, ``"infer": false``, which stores messages as they are and asks no language model.

    Raises:
        ImportError: mem0 is not installed; the message names the extra.
        ValueError: there is no such thing, or it is no product.
    """
    if not place.endswith(".json"):
        made: Any = load_object(place)
        found = made() if callable(made) else made
    else:
        found = _mem0(Path(place))
    if not all(callable(getattr(found, name, None)) for name in ("add", "search")):
        raise ValueError(f"{place} gives a {type(found).__name__}, which has no add() and search().")
    product: Product = found
    return product


def describe_product(place: str) -> str:
    """What a run keeps of a product, to tell it from another: its name, and mem0's version and configuration."""
    if not place.endswith(".json"):
        return place
    text = Path(place).read_text("utf-8")
    with suppress(PackageNotFoundError):
        return f"mem0ai {version('mem0ai')} {text}"
    return text


def searched(product: Product, query: str, user: str, most: int) -> list[str]:
    """What a product knows of a user about a question, as texts, best first.

    Raises:
        ValueError: it gives something else.
    """
    search: Callable[..., Any] = product.search
    known = inspect.signature(search).parameters
    count = "top_k" if "top_k" in known and "limit" not in known else "limit"
    who = {_USER: user} if _USER in known or "filters" not in known else {"filters": {_USER: user}}
    found = search(query, **who, **{count: most})
    listed = found.get("results") if isinstance(found, Mapping) else found
    if not isinstance(listed, list | tuple):
        raise ValueError(f"search() gave no list of memories but {found!r:.200}.")
    return [_text(one) for one in listed][:most]


def _session(user: str) -> str:
    """The name of a user's session: theirs, or a hash of it where a session cannot be called so."""
    return user if _NAME.fullmatch(user) else f"user-{hashlib.sha256(user.encode()).hexdigest()[:32]}"


class _Plain:
    """Mem0 that stores what was said as it is."""

    def __init__(self, memory: Any) -> None:
        self._memory = memory
        self.search, self.delete_all = memory.search, memory.delete_all

    def add(self, messages: Sequence[Message], *, user_id: str) -> Any:
        return self._memory.add(list(messages), user_id=user_id, infer=False)


def _mem0(path: Path) -> Any:
    try:
        config = json.loads(path.read_text("utf-8"))
    except OSError as error:
        raise ValueError(f"There is no configuration of mem0 to read: {error}.") from None
    except ValueError as error:
        raise ValueError(f"{path} is not JSON ({error}); it is mem0's configuration.") from None
    # Nobody who evaluates offline expects a call home.
    os.environ.setdefault("MEM0_TELEMETRY", "False")
    with from_extra("products", "This product needs mem0ai"):
        from mem0 import Memory
    infer = config.pop("infer", True)
    memory = Memory.from_config(config)
    return memory if infer else _Plain(memory)


def _text(found: Any) -> str:
    if isinstance(found, str):
        return found
    values = [found.get(name) if isinstance(found, Mapping) else getattr(found, name, None) for name in _TEXTS]
    for value in values:
        if isinstance(value, str):
            return value
    raise ValueError(f"search() gave a memory without {', '.join(_TEXTS)}: {found!r:.200}.")
