"""The real model's demo, on the toy: what it asks, of whose memory, and how it judges an answer."""

import json
from pathlib import Path
from typing import Any

import pytest
import torch

import deltamem
from deltamem.cli.main import main
from deltamem.demo.real import measure as measuring
from deltamem.demo.real import show
from deltamem.demo.real.answers import answer, found_again, holds
from deltamem.demo.real.measure import BARE, BM25, FULL, MEMORY, METHODS, STRANGER, Column, converse, recall
from deltamem.demo.real.script import ASKED, TOLD


@pytest.fixture(scope="module")
def toy() -> tuple[Any, Any]:
    return deltamem.load_model("embedded")


def user(text: str) -> dict[str, str]:
    return {"role": "user", "content": text}


def quiet(label: str) -> None:
    """Says nothing."""


def test_answers_are_those_of_a_session_whatever_their_neighbours(toy: tuple[Any, Any]) -> None:
    model, tokenizer = toy
    sessions = []
    for told in ("I settled in Lisbon some years ago.", "There is a tortoise at home with me."):
        sessions.append(deltamem.Session(model, tokenizer, window=0))
        sessions[-1].observe(told)
    asked = ("Which city do I live in?", "What pet do I have?")
    state = deltamem.MemoryState.stack([session.state for session in sessions])
    said = answer(model, tokenizer, [[user(text)] for text in asked], state)
    assert said == ["Lisbon.", "tortoise."]
    bare = answer(model, tokenizer, [[user(text)] for text in asked])
    assert bare == [sessions[0].ask(text, memory=False, do_sample=False, max_new_tokens=16) for text in asked]
    assert int(state.tokens[0]) == int(sessions[0].state.tokens[0])


def test_an_answer_holds_a_value_as_whole_words_in_any_case() -> None:
    assert holds("You live in LISBON.", "Lisbon")
    assert holds("It is New York, I think.", "new york")
    assert holds("Dr. O'Neil (she said)", "O'Neil")
    assert not holds("You live in Annapolis.", "Anna")
    assert not holds("", "Anna")


def test_bm25_brings_back_whole_exchanges_in_their_order() -> None:
    said = ["My pet is a parrot.", "Hello!", "I like tea.", "The parrot of my aunt sings.", "It rains."]
    messages = [one for text in said for one in (user(text), {"role": "assistant", "content": "Noted."})]
    back = found_again(messages, "What does the parrot do?")
    assert [one["content"] for one in back if one["role"] == "user" and "parrot" in one["content"]] == [
        said[0],
        said[3],
    ]
    assert len(back) == 6
    places = [messages.index(one) for one in back if one["role"] == "user"]
    assert places == sorted(places)


def test_the_conversation_is_the_models_own_and_the_questions_see_only_what_they_should(
    toy: tuple[Any, Any], tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    seen: list[tuple[list[int], bool]] = []

    def spy(model: Any, tokenizer: Any, prompts: Any, memory: Any = None) -> list[str]:
        seen.append(([len(one) for one in prompts], memory is not None))
        return answer(model, tokenizer, prompts, memory)

    monkeypatch.setattr(measuring, "answer", spy)
    steps: list[str] = []
    talk = converse(*toy, tmp_path / "memory.safetensors", steps.append)
    assert len(steps) == measuring.CONVERSATION_STEPS
    assert [one["content"] for one in talk.messages if one["role"] == "user"] == list(TOLD)
    assert len(talk.messages) == 2 * len(TOLD)
    alone = [1] * len(ASKED)
    assert [sizes for sizes, _ in seen] == [alone, alone, [7] * len(ASKED), [2 * len(TOLD) + 1] * len(ASKED)]
    assert [memory for _, memory in seen] == [False, True, False, False]
    assert [set(said) for said in talk.answers] == [{BARE, MEMORY, BM25, FULL}] * len(ASKED)
    state = deltamem.load_state(tmp_path / "memory.safetensors", toy[0])
    assert (talk.memory_bytes, talk.shape) == (state.nbytes, (6, 4, 8))
    questions = [[user(ask)] for ask, _ in ASKED]
    assert [said[MEMORY] for said in talk.answers] == answer(*toy, questions, state.select([0] * len(ASKED)))


def test_the_table_asks_everyone_and_a_stranger_has_the_next_ones_memory(
    toy: tuple[Any, Any], monkeypatch: pytest.MonkeyPatch
) -> None:
    pytest.importorskip("faker")
    states: dict[str, torch.Tensor] = {}
    labels: list[str] = []

    def spy(model: Any, tokenizer: Any, prompts: Any, memory: Any = None) -> list[str]:
        method = labels[-1].rpartition(" ")[2]
        if memory is not None:
            states[method] = memory.states[0]
        return ["no"] * len(prompts)

    monkeypatch.setattr(measuring, "answer", spy)
    column = Column("known", 2, 3)
    rates = recall(*toy, column, labels.append)
    assert len(labels) == measuring.recall_steps(column)
    assert list(rates) == list(METHODS)
    assert all((rate.right, rate.total) == (0, 6) for rate in rates.values())
    assert torch.equal(states[STRANGER], states[MEMORY].roll(-2, 0))
    assert not torch.equal(states[MEMORY][0], states[MEMORY][2])


def test_it_prints_every_answer_and_gives_the_same_as_data(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch, capsys: pytest.CaptureFixture[str], toy: tuple[Any, Any]
) -> None:
    pytest.importorskip("faker")
    monkeypatch.setattr("deltamem.models.loading.load_model", lambda *_, **__: toy)
    small = (Column("known", 1, 2), Column("values", 2, 1))
    monkeypatch.setattr(show, "COLUMNS", small)
    data = show.run_real_demo(tmp_path)
    printed = capsys.readouterr().out
    assert all(ask in printed for ask, _ in ASKED)
    assert "another dialogue's memory" in printed
    assert max(map(len, printed.splitlines())) <= 100 + len(str(tmp_path))
    assert json.loads(json.dumps(data))["answers"][0].keys() == {"ask", "value", BARE, MEMORY, BM25, FULL}
    assert [(row["split"], row["facts"]) for row in data["recall"]] == [("known", 1), ("values", 2)]
    show.run_real_demo(tmp_path, as_data=True)
    assert capsys.readouterr().out == ""


def test_without_the_real_model_the_command_shows_the_toy_and_says_so(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch, capfd: pytest.CaptureFixture[str]
) -> None:
    ran: list[str] = []
    monkeypatch.setattr("deltamem.demo.show.run_demo", lambda *_, **__: ran.append("toy"))
    monkeypatch.setattr(show, "run_real_demo", lambda *_, **__: ran.append("real"))
    monkeypatch.setattr("deltamem.cli.models.choose_model", lambda *_: None)
    for options in ([], ["--embedded"], ["--adapter", "somewhere"]):
        with pytest.raises(SystemExit):
            main(["demo", "--output", str(tmp_path), *options])
    assert ran == ["toy", "toy", "real"]
    assert capfd.readouterr().err.startswith("This is the toy. For the demo with a real chat model")
