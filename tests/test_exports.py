"""Exports of other products, in the forms that these write."""

import json
import zipfile
from pathlib import Path
from typing import Any

import pytest

from deltamem.exports import Told, read_export


def node(parent: str | None, role: str = "user", *parts: Any, **message: Any) -> dict[str, Any]:
    content = {"content_type": "text", "parts": list(parts)}
    return {"parent": parent, "message": {"author": {"role": role}, "content": content, **message}}


def text(said: str) -> dict[str, str]:
    return {"type": "text", "text": said}


CHAT = {
    "title": "Moving",
    "current_node": "d",
    "mapping": {
        "root": {"parent": None, "message": None},
        "hidden": node("root", "user", "What is to be known", metadata={"is_visually_hidden_from_conversation": True}),
        "a": node("hidden", "user", "I live in Lisbon.", create_time=1700000000.5),
        "b": node("a", "assistant", "Noted."),
        "other": node("b", "user", "A branch that was left."),
        "d": node("b", "user", {"asset_pointer": "file-service://x"}, "I have a tortoise."),
    },
}
MEM0 = {
    "results": [
        {"id": "1", "memory": "Lives in Lisbon", "user_id": "ravi", "created_at": "2025-11-02T10:00:00-07:00"},
        {"id": "2", "memory": "Has a tortoise", "categories": ["pets"], "metadata": None},
    ]
}
LETTA = {
    "agents": [
        {
            "name": "sam",
            "messages": [
                {"role": "system", "content": [text("You are Sam.")]},
                {
                    "role": "user",
                    "content": [text("I live in Lisbon.")],
                    "created_at": "2025-10-31",
                },
                {"role": "user", "content": json.dumps({"type": "user_message", "message": "I have a tortoise."})},
                {"role": "user", "content": [text(json.dumps({"type": "heartbeat"}))]},
                {"role": "assistant", "content": [text("Noted.")]},
            ],
        }
    ],
    "blocks": [
        {"label": "human", "value": "\nFirst name: Chad\n\nLikes sailing\n"},
        {"label": "persona", "value": "I am Sam."},
    ],
}


def write(path: Path, document: Any) -> Path:
    path.write_text(json.dumps(document))
    return path


def test_mem0(tmp_path: Path) -> None:
    wanted = [
        Told("Lives in Lisbon", "mem0", {"created": "2025-11-02T10:00:00-07:00"}),
        Told("Has a tortoise", "mem0", {"category": "pets"}),
    ]
    for number, form in enumerate((MEM0, MEM0["results"], {"memories": MEM0["results"]})):
        assert read_export(write(tmp_path / f"{number}.json", form)) == wanted


def test_letta(tmp_path: Path) -> None:
    found = read_export(write(tmp_path / "sam.af", LETTA))
    texts = ["First name: Chad", "Likes sailing", "I live in Lisbon.", "I have a tortoise."]
    assert [one.text for one in found] == texts
    assert found[0].about == {"block": "human"}
    assert found[2].about == {"created": "2025-10-31", "agent": "sam"}
    older = {
        "agent_type": "memgpt_agent",
        "core_memory": LETTA["blocks"],
        "messages": LETTA["agents"][0]["messages"],  # type: ignore[index]
    }
    assert [one.text for one in read_export(write(tmp_path / "old.af", older))] == texts


def test_chatgpt(tmp_path: Path) -> None:
    found = read_export(write(tmp_path / "conversations.json", [CHAT]))
    assert found == [
        Told("I live in Lisbon.", "chatgpt", {"created": "2023-11-14T22:13:20.500000+00:00", "conversation": "Moving"}),
        Told("I have a tortoise.", "chatgpt", {"conversation": "Moving"}),
    ]
    with zipfile.ZipFile(tmp_path / "export.zip", "w") as archive:
        archive.writestr("user.json", "{}")
        archive.writestr("conversations.json", json.dumps([CHAT]))
    assert read_export(tmp_path / "export.zip") == found


@pytest.mark.parametrize(
    ("document", "says"),
    [
        pytest.param({"a": 1}, "not an export that deltamem knows", id="another-object"),
        pytest.param([{"memory": 1}], "not an export that deltamem knows", id="a-number-for-a-memory"),
        pytest.param([], "holds no memories", id="nothing"),
        pytest.param([{"mapping": {"a": {"message": {}}}, "current_node": "a"}], "damaged", id="no-author"),
        pytest.param({"agents": [{"messages": [{}]}]}, "damaged", id="no-role"),
        pytest.param({"agents": 3}, "damaged", id="a-number-for-agents"),
    ],
)
def test_what_is_no_export_is_said(document: Any, says: str, tmp_path: Path) -> None:
    with pytest.raises(ValueError, match=says):
        read_export(write(tmp_path / "some.json", document))


def test_files_that_are_none_are_said(tmp_path: Path) -> None:
    with pytest.raises(ValueError, match="no file"):
        read_export(tmp_path / "nothing.json")
    (tmp_path / "text.json").write_text("hello")
    with pytest.raises(ValueError, match="is not valid JSON"):
        read_export(tmp_path / "text.json")
    with zipfile.ZipFile(tmp_path / "other.zip", "w") as archive:
        archive.writestr("user.json", "{}")
    with pytest.raises(ValueError, match=r"no conversations\.json"):
        read_export(tmp_path / "other.zip")
