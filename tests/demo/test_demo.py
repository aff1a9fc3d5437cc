"""The demo: its grading is greedy decoding, its numbers have intervals, and the command says what it shows."""

import io
import json
import random
import sys
from dataclasses import replace
from pathlib import Path

import pytest
import torch

import deltamem
from deltamem.cli.main import build_app, main
from deltamem.demo import show
from deltamem.demo.measure import ADAPTERS, FORGETTING_TOKENS, METHODS, Sizes, measure, relevant_turns
from deltamem.demo.reader import Asked, Reader
from deltamem.demo.results import Rate
from deltamem.demo.story import ASKED
from deltamem.demo.world import Dialogue, Utterance, chat, sample_dialogue
from deltamem.extensions import how_to_install

TINY = Sizes(recall={1: 1}, updates=1, forgetting=1, loss=1)
SMALL = Sizes(recall={1: 4, 4: 2}, updates=2, forgetting=2, loss=2)


@pytest.fixture(scope="module")
def reader() -> Reader:
    return Reader(*show.load_demo())


def dialogues(count: int, facts: int = 3) -> list[Dialogue]:
    rng = random.Random(11)
    return [sample_dialogue(rng, facts=facts, split="test") for _ in range(count)]


def asked(rows: list[Dialogue]) -> list[Asked]:
    """Every question twice: with its answer, and with the answer to another one."""
    questions = [(row, question) for row, dialogue in enumerate(rows) for question in dialogue.questions]
    answers = [question.answer for _, question in questions]
    right = [Asked(row, question.ask, question.answer) for row, question in questions]
    wrong = [
        Asked(row, question.ask, answer)
        for (row, question), answer in zip(questions, answers[1:] + answers[:1], strict=True)
    ]
    return right + wrong


def generated(reader: Reader, messages: list[Utterance], **options: object) -> str:
    tokenizer = show.load_demo()[1]
    prompt = tokenizer.apply_chat_template(
        [message.to_dict() for message in messages], add_generation_prompt=True, return_tensors="pt", return_dict=True
    )
    out = reader.model.generate(**prompt, do_sample=False, max_new_tokens=24, **options)
    return tokenizer.decode(out[0, prompt["input_ids"].shape[1] :], skip_special_tokens=True).strip()


def test_reading_is_graded_as_greedy_decoding(reader: Reader) -> None:
    rows = dialogues(3)
    questions = asked(rows)
    right = reader.read(None, [dialogue.messages for dialogue in rows], questions)
    with deltamem.disabled(reader.model):
        said = [generated(reader, [*rows[q.row].messages, Utterance("user", q.ask)]) for q in questions]
    assert right == [answer == question.answer for answer, question in zip(said, questions, strict=True)]
    assert any(right)
    assert not all(right)


@pytest.mark.parametrize("adapter", ADAPTERS)
def test_recall_is_graded_as_greedy_decoding(reader: Reader, adapter: str) -> None:
    rows = dialogues(3, facts=1)
    questions = asked(rows)
    state = reader.remember(adapter, [dialogue.messages for dialogue in rows])
    right = reader.recall(adapter, state, questions)
    deltamem.attached(reader.model).activate(adapter)
    said = [
        generated(
            reader,
            [Utterance("user", q.ask)],
            past_key_values=deltamem.memory_cache(reader.model, state.row(q.row), write=False),
        )
        for q in questions
    ]
    assert right == [answer == question.answer for answer, question in zip(said, questions, strict=True)]
    assert any(right)
    assert not all(right)


def test_rows_do_not_depend_on_their_neighbours(reader: Reader) -> None:
    rows = [*dialogues(2, facts=2), *dialogues(1, facts=8)]
    histories = [dialogue.messages for dialogue in rows]
    together = reader.remember("multi", histories)
    for row, history in enumerate(histories):
        alone = reader.remember("multi", [history])
        for a, b in zip(alone.states, together.row(row).states, strict=True):
            torch.testing.assert_close(a, b, atol=1e-4, rtol=1e-4)
    questions = asked(rows)
    one_by_one = [reader.read(None, histories, [question])[0] for question in questions]
    assert reader.read(None, histories, questions) == one_by_one


def test_a_history_beyond_the_window_is_written_whole(reader: Reader) -> None:
    history = chat(random.Random(3), 60)
    assert reader.length(history) > 600
    for adapter in ADAPTERS:
        assert int(reader.remember(adapter, [history]).tokens) == reader.length(history)


def test_the_window_holds_the_last_tokens_only(reader: Reader) -> None:
    dialogue = dialogues(1, facts=1)[0]
    question = [Asked(0, dialogue.questions[0].ask, dialogue.questions[0].answer)]
    talk = chat(random.Random(3), 60)
    assert reader.read(None, [[*talk, *dialogue.messages]], question) == [True]
    assert reader.read(None, [[*dialogue.messages, *talk]], question) == [False]


def test_bm25_finds_the_turns_with_the_words_of_the_question() -> None:
    said = ("Good morning.", "My pet is a tortoise.", "I have to clean the kitchen.", "My hobby is chess.", "Hello!")
    messages = [m for text in said for m in (Utterance("user", text), Utterance("assistant", "Okay."))]
    found = relevant_turns(messages, ["What is my hobby?", "What kind of animal is my pet?"], turns=1)
    assert [turns[0].text for turns in found] == ["My hobby is chess.", "My pet is a tortoise."]
    order = [message.text for message in relevant_turns(messages, ["hobby, pet"], turns=2)[0]]
    assert order == ["My pet is a tortoise.", "Okay.", "My hobby is chess.", "Okay."]
    assert len(relevant_turns(messages[:2], ["anything"])[0]) == 2


def test_intervals_are_by_dialogues() -> None:
    alone = Rate.of([False] * 10, range(10))
    assert alone.interval == pytest.approx((0.0, 0.2775), abs=1e-4)  # Wilson's
    assert Rate.of([True] * 10, range(10)).interval == pytest.approx((0.7225, 1.0), abs=1e-4)
    # What is asked again about the same dialogues and answered alike tells no more of others.
    many = Rate.of([True, False] * 100, range(200))
    assert many.interval == pytest.approx((0.431, 0.569), abs=2e-3)
    tenfold = Rate.of([right for right in [True, False] * 10 for _ in range(10)], [n // 10 for n in range(200)])
    assert tenfold.value == many.value
    low, high = tenfold.interval
    assert high - low > 3 * (many.interval[1] - many.interval[0])
    # Twenty dialogues: Wilson's of as many answers, a little wider as Student's.
    assert (low, high) == pytest.approx((0.28, 0.72), abs=0.02)
    together = Rate.together([alone, many])
    assert (together.right, together.total, len(together.dialogues)) == (100, 210, 210)


def test_the_whole_demo(tmp_path: Path, capsys: pytest.CaptureFixture[str]) -> None:
    data = show.run_demo(tmp_path / "out", sizes=SMALL)
    right = [reply["memory"] == answer for reply, (_, answer) in zip(data["story"], ASKED, strict=True)]
    assert sum(right) >= len(right) - 1
    assert all(reply["bare"] != reply["answer"] for reply in data["story"])
    assert list(data["recall"]) == list(METHODS)
    for method in METHODS:
        assert data["recall"][method].keys() == data["recall_interval"][method].keys() == {"1", "4"}
        for facts, rate in data["recall"][method].items():
            low, high = data["recall_interval"][method][facts]
            assert 0 <= low <= rate <= high <= 1
        assert 0 <= data["updates"][method] <= 1
    for curve in data["forgetting"].values():
        marks = zip((tokens for tokens, _ in curve), FORGETTING_TOKENS, strict=True)
        assert all(0 <= tokens - mark < 60 for tokens, mark in marks)
        assert curve[-1][0] >= 2000
    assert data["capability"].keys() >= {"in_context", "next_token_loss"}
    assert (
        data["capability"]["in_context"].keys() == data["capability"]["next_token_loss"].keys() == {"bare", "adapted"}
    )
    layers, states, rank = 6, 4, 8
    assert data["bytes_per_session"] == layers * states * rank * rank * 4
    assert json.loads(json.dumps(data))["seconds"] > 0
    for plot in data["plots"].values():
        assert Path(plot).read_bytes().startswith(b"\x89PNG")
    printed = capsys.readouterr().out
    for part in ("A conversation", "Recall", "Corrected", "Forgetting", "costs", "does not show", str(tmp_path)):
        assert part in printed
    assert max(len(line) for line in printed.splitlines() if str(tmp_path) not in line) <= 100


def test_more_readers_give_the_same_results(reader: Reader) -> None:
    labels: list[str] = []
    together = measure([reader, Reader(*show.load_demo())], labels.append, TINY)
    assert len(labels) == TINY.steps
    alone = measure([reader], labels.append, TINY)
    # Sums may differ in their last bits.
    assert together.cost.loss == pytest.approx(alone.cost.loss, rel=1e-5)
    assert replace(together, cost=replace(together.cost, loss=alone.cost.loss)) == alone


def test_as_data_leaves_standard_output_alone(tmp_path: Path, capsys: pytest.CaptureFixture[str]) -> None:
    show.run_demo(tmp_path, as_data=True, sizes=TINY)
    assert capsys.readouterr().out == ""


def test_facts_are_json(capsys: pytest.CaptureFixture[str]) -> None:
    build_app()(["demo", "--facts"], standalone_mode=False)
    facts = json.loads(capsys.readouterr().out)
    assert len(facts) >= 10
    assert all(fact.keys() == {"tell", "ask", "answer"} for fact in facts)


def test_talking(monkeypatch: pytest.MonkeyPatch, capsys: pytest.CaptureFixture[str]) -> None:
    """It is the chat, and knows the chat's commands."""
    monkeypatch.setattr(sys, "stdin", io.StringIO("I live in Porto.\nWhere do I live?\n/help\n"))
    build_app()(["demo", "--ask"], standalone_mode=False)
    out = capsys.readouterr().out
    assert "Porto." in out.split("you › ")[2]
    assert "/rollback" in out.split("you › ")[3]


def test_a_missing_extra_names_its_command(
    monkeypatch: pytest.MonkeyPatch, tmp_path: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    monkeypatch.setitem(sys.modules, "bm25s", None)
    with pytest.raises(SystemExit) as exit_:
        main(["demo", "--output", str(tmp_path)])
    assert exit_.value.code == 1
    assert how_to_install("demo") in capsys.readouterr().err


def test_one_thing_at_a_time(capsys: pytest.CaptureFixture[str]) -> None:
    with pytest.raises(SystemExit) as exit_:
        main(["demo", "--facts", "--ask"])
    assert exit_.value.code == 2
    assert "exclude" in capsys.readouterr().err
