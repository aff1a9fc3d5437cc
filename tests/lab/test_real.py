"""The measurement of a real chat model, on the embedded one, which knows none of these words but runs at once."""

import json
import random

import numpy as np
import pytest
from asking import called

from deltamem.cli.main import main
from deltamem.train.data.lines import BadDataError
from deltamem.train.data.told.chats import Chats
from deltamem.train.data.told.dialogues import everyday_words
from deltamem.train.data.told.texts import AskedText
from deltamem.train.recipefile import RecipeError
from deltamem_lab.real import replies, told
from deltamem_lab.real.chat import Chat, choose_adapters
from deltamem_lab.real.sections import Extent, Results, choose_sections, measure
from deltamem_lab.real.texts import measure_share, persona_texts, ratio, story_texts
from deltamem_lab.real.told import FORMATS, Told, holds, last_within, packed, plain_words, sampled, trained_words

STORY = {
    "sections": [{"text": "A fox lived in Oslo."}, {"text": "It had a red hat."}],
    "questions": [
        {"question": "Where did it live?", "answers": ["Oslo"], "explicit": True},
        {"question": "Was it happy?", "answers": ["yes"], "explicit": False},
    ],
}
TALK = {
    "personas": [["I live in Oslo.", "I play chess."], ["I drive a van."]],
    "turns": [["User 1", "Hi, I live in Oslo."], ["User 2", "I drive a van."], ["User 1", "I play chess."]],
}


@pytest.fixture(scope="module")
def chat():
    return Chat("embedded", choose_adapters("embedded", ()))


def lines(path, rows):
    path.write_text("".join(json.dumps(row) + "\n" for row in rows))
    return path


def test_an_answer_is_right_where_the_value_stands_in_it_word_by_word():
    assert holds("You live in São  Paulo.", "Sao Paulo")
    assert holds("At 7:30.", "7:30")
    assert not holds("You live in Oslow.", "Oslo")
    assert not holds("Anything.", "")


def test_dialogues_are_the_same_ones_each_time_and_hold_their_values():
    first = sampled("values", 4, 2)
    assert first == sampled("values", 4, 2)
    for dialogue in first:
        text = " ".join(message["content"] for message in dialogue.messages)
        assert len(dialogue.questions) == 4
        assert all(holds(text, question.value) for question in dialogue.questions)


def test_the_text_is_in_the_window_where_it_should_be_and_nowhere_else(chat, monkeypatch):
    seen = []
    monkeypatch.setattr(
        Chat, "answer", lambda self, prompts, state: seen.append((prompts, state)) or [""] * len(prompts)
    )
    asked = Told(chat, sampled("known", 1, 3))
    answers = asked.answers()
    assert list(answers) == ["none", "full", "bm25", "multi", "stranger", "empty", "token"]
    prompts = dict(zip(answers, seen, strict=True))
    for place, one in enumerate(asked.asked):
        for method, (shown, _) in prompts.items():
            text = " ".join(message["content"] for message in shown[place])
            assert holds(text, one.value) == (method in ("full", "bm25"))
    own, strange, empty = (prompts[name][1] for name in ("multi", "stranger", "empty"))
    assert [prompts[name][1] for name in ("none", "full", "bm25")] == [None] * 3
    assert not any(one.any() for one in empty.states)
    assert own.select([1]).states[0].equal(strange.select([0]).states[0])
    assert not own.states[0].equal(strange.states[0])


def test_fewer_bits_are_fewer_steps(chat):
    chat.use("multi")
    (matrices, *_) = chat.write([dialogue.messages for dialogue in sampled("known", 1, 2)]).states
    for name, most in (("int8", 255), ("int4", 15)):
        rounded = FORMATS[name][1](matrices)
        assert max(len(one.unique()) for one in rounded.flatten(0, 1)) <= most
        assert not rounded.equal(matrices)
    assert FORMATS["float32"][1](matrices).equal(matrices)


def test_a_text_is_cut_to_what_zstd_packs():
    messages = [{"role": "user", "content": f"{random.Random(n).random()}"} for n in range(50)]
    whole = packed("\n".join(message["content"] for message in messages))
    cut = last_within(messages, whole // 2)
    assert messages[-len(cut) :] == cut
    assert 10 < len(cut) < 40
    assert packed("\n".join(message["content"] for message in cut)) <= whole // 2
    assert last_within(messages, whole) == messages
    assert list(last_within(messages, 1)) == []


def test_a_ratio_has_an_interval_over_texts():
    found = ratio(np.array([1.0, 2.0, 3.0, 2.0]), np.array([2.0, 4.0, 6.0, 4.0]))
    assert found == {"value": 0.5, "low": 0.5, "high": 0.5}
    wide = ratio(np.array([0.0, 4.0, 0.0, 4.0]), np.full(4, 4.0))
    assert wide["low"] < wide["value"] == 0.5 < wide["high"]
    assert ratio(np.ones(3), -np.ones(3)) is None


def test_the_loss_with_the_text_is_that_of_the_whole_prompt(chat):
    history = sampled("known", 1, 1)[0].messages
    asked = [{"role": "user", "content": text} for text in ("Where do I live?", "What is my name, please?")]
    targets = [chat.tokens("Oslo"), chat.tokens("Ada Lovelace")]
    found = chat.losses_with_text(history, asked, targets)
    for question, target, loss in zip(asked, targets, found, strict=True):
        whole = chat.tokens(chat.prompt([*history, question]))
        assert loss == pytest.approx(chat.loss(whole, target, None), abs=0.05)


def test_texts_are_read_with_what_is_asked_about_them(tmp_path):
    (story,) = story_texts(lines(tmp_path / "s.jsonl", [STORY]), 5)
    assert [message["content"] for message in story.history] == ["A fox lived in Oslo.", "It had a red hat."]
    assert story.questions == (("Where did it live?", "Oslo"),)
    path = lines(tmp_path / "c.jsonl", [TALK])
    first, second = persona_texts(path, 5)
    assert first.history[0] == {"role": "user", "content": "Hi, I live in Oslo."}
    assert second.history[0]["role"] == "assistant"
    assert second.questions == (("What do I drive?", "You drive a van."),)
    with pytest.raises(BadDataError, match=r"s\.jsonl.*nothing|s\.jsonl"):
        persona_texts(tmp_path / "s.jsonl", 5)
    (tmp_path / "bad.jsonl").write_text("{}\n{")
    with pytest.raises(BadDataError, match=r"bad\.jsonl, row 1: not a story"):
        story_texts(tmp_path / "bad.jsonl", 5)


def test_shares_are_of_the_gap_that_the_text_leaves(chat):
    texts = [
        AskedText(one.messages, tuple((question.ask, question.answer) for question in one.questions))
        for one in sampled("known", 1, 4)
    ]
    found = measure_share(chat, texts)
    nats = found["nats"]
    gap = nats["nothing"] - nats["full"]
    if gap > 0:
        assert found["own"]["value"] == pytest.approx((nats["nothing"] - nats["multi own"]) / gap, abs=0.02)
        assert found["memory"]["value"] == pytest.approx((nats["multi stranger"] - nats["multi own"]) / gap, abs=0.02)
    assert found["control"] == "stranger"
    assert {"own", "stranger", "memory", "control"} == set(found["token"])
    assert found["questions"] == 4


def test_what_is_there_is_not_measured_again_unless_something_changed(chat, tmp_path, monkeypatch):
    measured = []

    def cell(chat, dialogues, split, facts):
        measured.append((split, facts))
        if len(measured) == 3:
            raise KeyboardInterrupt
        return {"none": {"value": 0.5}}

    monkeypatch.setattr(told, "measure_told", cell)
    path = tmp_path / "real.json"

    def run(extent=Extent()):  # noqa: B008
        return measure(chat, ["told"], {}, extent, path, answers=tmp_path, say=lambda line: None)

    with pytest.raises(KeyboardInterrupt):
        run()
    assert set(json.loads(path.read_text())["told"]["known"]["none"]) == {"1", "4"}
    assert len(run()["told"]) == 3
    assert len(measured) == 1 + len(told.CELLS)
    run()
    assert len(measured) == 1 + len(told.CELLS)
    run(Extent(dialogues=5))
    assert len(measured) == 1 + 2 * len(told.CELLS)
    (tmp_path / "other.json").write_text("[]")
    with pytest.raises(ValueError, match=r"other\.json is not a file of these results"):
        Results(tmp_path / "other.json", {})


def test_facts_are_forgotten_over_chat_that_is_counted(chat, monkeypatch):
    monkeypatch.setattr(told, "_FORGETTING", (0, 60))
    talk = [{"role": "user", "content": "I like red hats."}, {"role": "assistant", "content": "So do I."}]
    found = told.measure_forgetting(chat, 1, Chats([talk], chat.renderer.count))
    assert set(found) == {"multi", "token"}
    first, last = map(int, found["multi"])
    assert first == 0
    assert 30 < last <= 60


def test_in_a_conversation_that_the_model_holds_itself_its_replies_are_written_or_not(chat, monkeypatch):
    asked = []
    answer = Chat.answer

    def kept(self, prompts, state):
        asked.append((prompts, state))
        return answer(self, prompts, state)

    monkeypatch.setattr(Chat, "answer", kept)
    monkeypatch.setattr(replies, "sampled", lambda split, facts, count, **mix: sampled(split, 2, 2, **mix))
    found = replies.measure_replies(chat, 1)
    assert set(found["both"]) == {"none", "full", "bm25", "multi", "token", "stranger"}
    assert set(found["user"]) == {"multi", "token", "stranger"}
    assert found["both"]["multi"]["questions"] == 4
    (_, both), (_, user) = asked[-2:]
    assert int(both.tokens.sum()) > int(user.tokens.sum()) > 0


def test_sections_need_their_files(tmp_path):
    assert "stories" not in choose_sections("", {})
    assert "stories" in choose_sections("", {"stories": tmp_path})
    with pytest.raises(ValueError, match="needs the file locomo"):
        choose_sections("locomo", {})
    with pytest.raises(ValueError, match="no section recall; there are told"):
        choose_sections("recall", {})


def test_the_suite_measures_a_section_into_its_folder(tmp_path, capsys):
    command = ["eval", "--suite", "real", "--model", "embedded", "--output", str(tmp_path / "run")]
    command += ["--data", f"stories={lines(tmp_path / 's.jsonl', [STORY] * 2)}", "--option", "sections=stories"]
    assert called(main, [*command, "--dry-run"]) == 0
    said = capsys.readouterr().out
    assert "stories    is measured" in said
    assert "locomo     left out: --data locomo=FILE (locomo10.json)" in said
    assert not (tmp_path / "run").exists()
    assert called(main, command) == 0
    assert json.loads((tmp_path / "run" / "real_model.json").read_text())["share"]["stories"]["texts"] == 2
    for bad, message in (
        (["--method", "full"], "--method cannot be used with --suite real"),
        (["--option", "dialogues=x"], "sections=NAMES, dialogues=NUMBER"),
        (["--option", "sections=told,x"], "no section x"),
    ):
        assert called(main, [*command, *bad])
        assert message in " ".join(capsys.readouterr().err.replace("│", " ").split())


def test_no_held_out_value_has_a_word_of_the_training(tmp_path, chat):
    recipe = tmp_path / "told.yaml"
    stage = "{updates: 40, questions: 8, facts: [1, 4]}"
    recipe.write_text(
        "backbone: {model: embedded}\ndata:\n  source: deltamem.train.data.told.batches:training_batches\n"
        f"  options: {{stages: [{stage}]}}\nschedule: {{steps: 40}}\noutput: {{folder: run}}\n"
    )
    some, words = (trained_words(chat.tokenizer, recipe, updates) for updates in (4, None))
    assert some < words
    (free,) = sampled("values", 4, 1)
    own = {word for question in free.questions for word in plain_words(question.value).split()} - everyday_words()
    kept = sampled("values", 4, 2, trained=words | {min(own)})
    assert free not in kept
    assert sampled("values", 4, 1, trained=words - own) == [free]
    assert sampled("known", 2, 3, trained=words) == sampled("known", 2, 3)
    recipe.write_text(
        "backbone: {model: embedded}\ndata: {path: chats.jsonl}\nschedule: {steps: 1}\noutput: {folder: run}"
    )
    with pytest.raises(RecipeError, match="its data is not of told facts"):
        trained_words(chat.tokenizer, recipe)
