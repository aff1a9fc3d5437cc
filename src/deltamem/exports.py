"""What other products export, as texts to remember: mem0's memories, Letta's agent files, ChatGPT's conversations."""

import zipfile
from collections.abc import Iterable, Iterator, Mapping
from dataclasses import dataclass
from datetime import UTC, datetime
from pathlib import Path
from typing import Any

from deltamem.files import from_json


@dataclass(frozen=True)
class Told:
    """A text of an export.

    Attributes:
        text: what was said, or remembered.
        source: where from: ``mem0``, ``letta`` or ``chatgpt``.
        about: what the export says of it: when it was told, the conversation, the memory block.
    """

    text: str
    source: str
    about: Mapping[str, str]


def read_export(path: Path) -> list[Told]:
    """The texts of an export, in its order; which product's it is follows from its form.

    Args:
        path: JSON of mem0's ``get_all`` or of its export, Letta's agent file (``.af``), or ChatGPT's export, the zip
            file or a ``conversations.json`` of it.

    Raises:
        ValueError: it is not one of these, or holds no texts.
    """
    found = [one for document in _documents(path) for one in _told(document, path)]
    found = [Told(one.text.strip(), one.source, one.about) for one in found if one.text.strip()]
    if not found:
        raise ValueError(f"{path} holds no memories and nothing that a user said.")
    return found


def _documents(path: Path) -> list[Any]:
    if not path.exists():
        raise ValueError(f"There is no file {path}.")
    if not zipfile.is_zipfile(path):
        return [_parsed(path.read_bytes(), str(path))]
    with zipfile.ZipFile(path) as archive:
        names = [name for name in archive.namelist() if Path(name).match("conversations*.json")]
        if not names:
            raise ValueError(f"{path} has no conversations.json, which ChatGPT's export has.")
        return [_parsed(archive.read(name), f"{name} in {path}") for name in sorted(names)]


def _parsed(data: bytes, where: str) -> Any:
    try:
        return from_json(data)
    except ValueError as error:
        raise ValueError(f"{where} is not valid JSON: {error}.") from None


def _told(document: Any, path: Path) -> Iterable[Told]:
    try:
        if isinstance(document, dict) and ("agents" in document or "agent_type" in document):
            return list(_of_letta(document))
        entries = document
        if isinstance(document, dict):
            entries = document.get("results", document.get("memories"))
        if isinstance(entries, list):
            if all(isinstance(one, dict) and "mapping" in one for one in entries):
                return [told for one in entries for told in _of_chatgpt(one)]
            if all(isinstance(one, dict) and isinstance(one.get("memory"), str) for one in entries):
                return [_of_mem0(one) for one in entries]
    except (AttributeError, KeyError, TypeError, OverflowError) as error:
        raise ValueError(f"{path} looks like an export, but is damaged ({type(error).__name__}: {error}).") from None
    raise ValueError(
        f"{path} is not an export that deltamem knows: mem0's has 'results' with a 'memory' each, Letta's agent file "
        "'agents', and ChatGPT's conversations.json a list with a 'mapping' each."
    )


def _of_mem0(one: Mapping[str, Any]) -> Told:
    return Told(one["memory"], "mem0", _about(created=one.get("created_at"), category=_first(one.get("categories"))))


def _of_letta(document: Mapping[str, Any]) -> Iterator[Told]:
    """The lines of memory blocks, but for the agent's own persona, and what users said."""
    agents = document.get("agents", [document])
    blocks = [*document.get("blocks", []), *(block for agent in agents for block in agent.get("core_memory", []))]
    for block in blocks:
        if block.get("label") != "persona":
            for line in str(block["value"]).splitlines():
                yield Told(line, "letta", _about(block=block.get("label")))
    for agent in agents:
        for message in agent.get("messages", []):
            if message["role"] == "user":
                for text in _letta_texts(message["content"]):
                    yield Told(text, "letta", _about(created=message.get("created_at"), agent=agent.get("name")))


def _letta_texts(content: Any) -> Iterator[str]:
    """The texts of a message; Letta packs what a user says, and its own alarms, into JSON."""
    parts = [content] if isinstance(content, str) else content or []
    for part in parts:
        text = part if isinstance(part, str) else part.get("text")
        if not isinstance(text, str):
            continue
        try:
            packed = from_json(text)
        except ValueError:
            packed = None
        if not isinstance(packed, dict) or "type" not in packed:
            yield text
        elif packed["type"] == "user_message":
            yield str(packed["message"])


def _of_chatgpt(conversation: Mapping[str, Any]) -> Iterator[Told]:
    """What the user said on the branch that the conversation ends with."""
    nodes = conversation["mapping"]
    branch: list[Mapping[str, Any]] = []
    at = conversation.get("current_node")
    while at is not None and at in nodes and len(branch) <= len(nodes):
        branch.append(nodes[at])
        at = nodes[at].get("parent")
    for node in reversed(branch):
        message = node.get("message")
        if message is None or message["author"]["role"] != "user":
            continue
        if (message.get("metadata") or {}).get("is_visually_hidden_from_conversation"):
            continue
        text = "\n".join(part for part in message["content"].get("parts", []) if isinstance(part, str))
        moment = message.get("create_time")
        created = None if moment is None else datetime.fromtimestamp(moment, UTC).isoformat()
        yield Told(text, "chatgpt", _about(created=created, conversation=conversation.get("title")))


def _first(values: Any) -> str | None:
    return str(values[0]) if isinstance(values, list) and values else None


def _about(**given: Any) -> dict[str, str]:
    return {name: str(value)[:500] for name, value in given.items() if value}
