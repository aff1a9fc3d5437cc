"""IFEval's prompts and scores, by the harness's checkers."""

import random

import pytest
from bench_rows import ANY_ROOM, IFEVAL, write_lines

from deltamem_lab.tasks.data import BadDataError
from deltamem_lab.tasks.ifeval import IFEval

SENTENCES = {
    "key": 2,
    "prompt": "Say it in two sentences.",
    "instruction_id_list": ["length_constraints:number_sentences"],
    "kwargs": [{"relation": "at least", "num_sentences": 2}],
}


def test_a_prompt_is_asked_as_it_is(tmp_path):
    task = IFEval(write_lines(tmp_path / "ifeval.jsonl", [IFEVAL, SENTENCES]))
    item, other = task.items("release")
    (question,) = item.questions
    assert task.prompt(item, question, [], "release", ANY_ROOM) == [{"role": "user", "content": IFEVAL["prompt"]}]
    assert item.history == ()
    assert task.decoding(item, question, "release").max_new_tokens == 1500
    assert task.revision.startswith("ifeval.jsonl@sha256:")
    assert question.weights == {"instructions_strict": 2, "instructions_loose": 2}
    assert [one.id for one in task.items("release", 1)] == [item.id] != [other.id]


@pytest.mark.filterwarnings("ignore")
@pytest.mark.parametrize(
    ("output", "strict", "loose", "share"),
    [
        ("green and blue are colours that i like to look at", 1, 1, 1),
        ("green, and blue are colours that i like to look at", 0, 0, 0.5),
        ("HERE, MY LIST\ngreen and blue are colours that i like to look at", 0, 1, 0),
        ("", 0, 0, 0),
    ],
)
def test_answers_are_scored_to_the_letter_and_loosely(tmp_path, output, strict, loose, share):
    pytest.importorskip("lm_eval")
    task = IFEval(write_lines(tmp_path / "ifeval.jsonl", [IFEVAL]))
    (item,) = task.items("release")
    scores = task.score(item, item.questions[0], output, "release")
    assert (scores["prompt_strict"], scores["prompt_loose"]) == (strict, loose)
    assert scores["instructions_strict"] == share


@pytest.mark.filterwarnings("ignore")
def test_a_letter_that_is_none_is_drawn_by_the_prompts_key(tmp_path):
    pytest.importorskip("lm_eval")
    letters = {"let_relation": "at least", "letter": "#", "let_frequency": 1}
    rows = [
        {"key": key, "prompt": "p", "instruction_id_list": ["keywords:letter_frequency"], "kwargs": [letters]}
        for key in range(20)
    ]
    task = IFEval(write_lines(tmp_path / "ifeval.jsonl", rows))

    def scored():
        return [
            task.score(i, i.questions[0], "abcdefghijklm", "release")["prompt_strict"] for i in task.items("release")
        ]

    first = scored()
    assert set(first) == {0, 1}
    state = random.getstate()
    assert scored() == first
    assert random.getstate() == state


def test_shorter_answers_are_said_in_the_records(tmp_path):
    data = write_lines(tmp_path / "ifeval.jsonl", [IFEVAL])
    task = IFEval(data, answer_tokens=400)
    (item,) = task.items("release")
    assert task.decoding(item, item.questions[0], "release").max_new_tokens == 400
    assert task.settings == {"answer tokens": "400"}
    assert not IFEval(data).settings
    with pytest.raises(ValueError, match="at least 1"):
        IFEval(data, answer_tokens=0)


@pytest.mark.filterwarnings("ignore")
def test_missing_data_of_nltk_is_said_at_the_first_answer(tmp_path, monkeypatch):
    pytest.importorskip("lm_eval")
    import nltk

    task = IFEval(write_lines(tmp_path / "ifeval.jsonl", [IFEVAL, SENTENCES]))
    item = next(task.items("release"))
    monkeypatch.setattr(nltk.data, "path", [])
    with pytest.raises(ValueError, match=r"nltk\.downloader punkt_tab"):
        task.score(item, item.questions[0], "green", "release")


@pytest.mark.parametrize(
    ("change", "message"),
    [({"key": None}, "no key"), ({"kwargs": [{}]}, "2 instructions but 1 kwargs"), ({"prompt": 3}, "prompt")],
)
def test_a_bad_row_is_named(tmp_path, change, message):
    changed = {name: value for name, value in {**IFEVAL, **change}.items() if value is not None}
    with pytest.raises(BadDataError, match=r"bad\.jsonl:2.*" + message):
        IFEval(write_lines(tmp_path / "bad.jsonl", [IFEVAL, changed]))
