"""What a session knows, asked of a running server, and forgetting a fact there."""

import sqlite3
from collections.abc import Iterator
from pathlib import Path
from typing import Any

import httpx
import pytest
from serving import make_server, running

CITY, PET = "Which city do I live in?", "What pet do I have?"
LISBON, TORTOISE = "I settled in Lisbon some years ago.", "There is a tortoise at home with me."
BUS = "The bus was late on Monday."


@pytest.fixture(scope="module")
def file(tmp_path_factory: pytest.TempPathFactory) -> Path:
    return tmp_path_factory.mktemp("store") / "sessions.db"


@pytest.fixture(scope="module")
def http(file: Path) -> Iterator[httpx.Client]:
    with running(make_server(f"sqlite:///{file}")) as url, httpx.Client(base_url=url, timeout=60) as client:
        yield client


def tell(http: httpx.Client, session: str, *said: str) -> int:
    for text in said:
        messages = [{"role": "user", "content": text}, {"role": "assistant", "content": "Noted."}]
        answer = http.post(f"/v1/sessions/{session}/observe", json={"messages": messages})
        assert answer.status_code == 200
    return int(answer.json()["version"])


def recall(http: httpx.Client, session: str, *questions: str, **more: Any) -> dict[str, Any]:
    answer = http.post(f"/v1/sessions/{session}/recall", json={"questions": list(questions), **more})
    assert answer.status_code == 200, answer.text
    found: dict[str, Any] = answer.json()
    return found


def matrices(http: httpx.Client, session: str) -> Any:
    return http.get(f"/v1/sessions/{session}/memory").json()["states"]


def test_what_is_known_comes_with_its_source_and_what_is_not_is_not(http: httpx.Client) -> None:
    head = tell(http, "ravi", LISBON, TORTOISE, BUS)
    found = recall(http, "ravi", CITY, PET, "When is my birthday?")
    assert (found["version"], found["calibrated"]) == (head, True)
    city, pet, birthday = found["data"]
    assert [(one["answer"], one["known"]) for one in (city, pet)] == [("Lisbon.", True), ("tortoise.", True)]
    assert (birthday["known"], birthday["source"]) == (False, None)
    assert [city["words"], pet["words"]] == [["Lisbon"], ["tortoise"]]
    assert [city["source"]["version"], pet["source"]["version"]] == [2, 3]
    for one, word in ((city, "Lisbon"), (pet, "tortoise")):
        tokens = [token for message in one["source"]["messages"] for token in message["tokens"]]
        assert max(tokens, key=lambda token: token["share"])["text"].strip() == word
    assert http.get("/v1/sessions/ravi").json()["version"] == head


def test_questions_may_have_names_and_an_earlier_version_may_be_asked(http: httpx.Client) -> None:
    tell(http, "named", LISBON, TORTOISE)
    answer = http.post("/v1/sessions/named/recall", json={"questions": {"pet": PET}, "version": 2, "sources": False})
    (pet,) = answer.json()["data"]
    assert (pet["name"], pet["question"], pet["known"]) == ("pet", PET, False)
    profile = http.post("/v1/sessions/named/recall", json={"sources": False}).json()["data"]
    assert {one["name"] for one in profile if one["known"]} >= {"home", "pet"}


def test_forgetting_a_fact_leaves_no_trace_of_it(http: httpx.Client, file: Path) -> None:
    tell(http, "forgetful", TORTOISE, LISBON, BUS)
    tell(http, "never", TORTOISE, BUS)
    answer = http.post("/v1/sessions/forgetful/forget", json={"text": "lisbon"})
    assert answer.status_code == 200, answer.text
    assert answer.json()["forgotten"] == {"turns": 1, "exact": True}
    for mine, other in zip(_flat(matrices(http, "forgetful")), _flat(matrices(http, "never")), strict=True):
        assert mine == pytest.approx(other, abs=1e-5)
    said = [m["content"] for m in http.get("/v1/sessions/forgetful/messages").json()["data"]]
    assert said == [TORTOISE, "Noted.", BUS, "Noted."]
    kinds = [v["kind"] for v in http.get("/v1/sessions/forgetful/timeline").json()["data"]]
    assert kinds == ["observe", "rollback", "observe", "create"]
    with sqlite3.connect(file) as database:
        bodies = database.execute("SELECT body FROM deltamem_messages WHERE session = 'forgetful'").fetchall()
    assert len(bodies) == 4
    assert not any(b"Lisbon" in body for (body,) in bodies)
    city, pet = recall(http, "forgetful", CITY, PET)["data"]
    assert city["answer"] != "Lisbon."
    assert pet["source"]["messages"][0]["role"] == "user"
    # The session goes on, and what is written then can be forgotten in turn.
    tell(http, "forgetful", LISBON)
    assert recall(http, "forgetful", CITY)["data"][0]["known"]
    assert http.post("/v1/sessions/forgetful/forget", json={"text": "Lisbon"}).status_code == 200


def test_words_name_the_turns_with_a_message_that_has_them_all(http: httpx.Client) -> None:
    tell(http, "wordy", LISBON, "I leave Lisbon on Monday.", BUS)
    refused = http.post("/v1/sessions/wordy/forget", json={"words": ["Lisbon", "Monday", "bus"]})
    assert refused.status_code == 404
    done = http.post("/v1/sessions/wordy/forget", json={"words": ["monday", "Lisbon"]})
    assert done.json()["forgotten"] == {"turns": 1, "exact": True}
    said = [m["content"] for m in http.get("/v1/sessions/wordy/messages").json()["data"]]
    assert said == [LISBON, "Noted.", BUS, "Noted."]


def test_turns_older_than_the_kept_versions_are_forgotten_too() -> None:
    server = make_server(keep_messages=True)
    server.store.keep_versions = 2
    with running(server) as url, httpx.Client(base_url=url, timeout=60) as http:
        tell(http, "old", LISBON, TORTOISE, BUS)
        assert recall(http, "old", CITY)["data"][0]["source"]["version"] == 2
        tell(http, "other", TORTOISE, BUS)
        assert http.post("/v1/sessions/old/forget", json={"text": "Lisbon"}).json()["forgotten"]["exact"]
        for mine, other in zip(_flat(matrices(http, "old")), _flat(matrices(http, "other")), strict=True):
            assert mine == pytest.approx(other, abs=1e-5)


def test_without_text_the_answer_is_erased() -> None:
    with running(make_server(keep_messages=False)) as url, httpx.Client(base_url=url, timeout=60) as http:
        head = tell(http, "mute", LISBON, TORTOISE)
        assert recall(http, "mute", CITY)["data"][0]["source"] is None
        refused = http.post("/v1/sessions/mute/forget", json={"text": "Lisbon"})
        assert refused.status_code == 404
        assert "keeps no messages" in refused.json()["error"]["message"]
        body = {"question": CITY, "answer": "Lisbon."}
        done = http.post("/v1/sessions/mute/forget", json=body).json()
        assert done["forgotten"] == {"turns": 0, "exact": False}
        assert done["version"] == head + 1
        assert recall(http, "mute", CITY)["data"][0]["answer"] != "Lisbon."


def test_what_something_else_was_written_to_is_not_written_again(http: httpx.Client) -> None:
    tell(http, "mixed", LISBON, TORTOISE)
    assert http.post("/v1/sessions/mixed/forget", json={"question": PET, "answer": "tortoise."}).status_code == 200
    before = matrices(http, "mixed")
    refused = http.post("/v1/sessions/mixed/forget", json={"text": "Lisbon"})
    assert (refused.status_code, refused.json()["error"]["code"]) == (409, "cannot_replay")
    assert matrices(http, "mixed") == before


def test_forgetting_everything_needs_no_body(http: httpx.Client) -> None:
    tell(http, "all", LISBON)
    done = http.post("/v1/sessions/all/forget").json()
    assert done["tokens_written"] == 0
    assert done["forgotten"]["exact"]


@pytest.mark.parametrize(
    ("path", "body", "status", "says"),
    [
        ("recall", {"questions": []}, 400, "questions"),
        ("recall", {"questions": ["€" * 499]}, 400, "leaves no room"),
        ("recall", {"questions": "Where?"}, 400, "list of questions"),
        ("recall", {"threshold": 2}, 400, "threshold"),
        ("forget", {}, 400, "say what to forget"),
        ("forget", {"question": CITY}, 400, "belong together"),
        ("forget", {"text": " . "}, 400, "give words"),
        ("forget", {"words": ["Lisbon", "?"]}, 400, "give words"),
        ("forget", {"words": []}, 400, "words"),
        ("forget", {"question": "€" * 499, "answer": "x"}, 400, "leaves no room"),
        ("forget", {"text": "Paris"}, 404, "No turn that was kept says so"),
    ],
)
def test_what_cannot_be_done_is_said(
    http: httpx.Client, path: str, body: dict[str, Any], status: int, says: str
) -> None:
    tell(http, "plain", BUS)
    answer = http.post(f"/v1/sessions/plain/{path}", json=body)
    assert answer.status_code == status, answer.text
    assert says in answer.json()["error"]["message"]
    assert http.post(f"/v1/sessions/nobody/{path}", json={"text": "x"} if path == "forget" else {}).status_code == 404


def _flat(nested: Any) -> list[float]:
    return [value for part in nested for value in _flat(part)] if isinstance(nested, list) else [nested]
