import pytest
from bench_rows import ANY_ROOM, LONGMEMEVAL, words, write_json

from deltamem_lab.metrics.judge import Judge
from deltamem_lab.tasks.data import BadDataError
from deltamem_lab.tasks.longmemeval import LongMemEval
from deltamem_lab.tasks.options import task_options

ABSTENTION = {**LONGMEMEVAL, "question_id": "q2_abs", "answer": "The user never said where the cat lives."}


@pytest.fixture
def data(tmp_path):
    return write_json(tmp_path / "lme.json", [LONGMEMEVAL, ABSTENTION])


@pytest.fixture
def endpoint(judging):
    """A judge that says yes to what mentions Porto; it keeps what it was asked."""
    judging.reply = lambda prompt: "Yes." if "Porto" in prompt.split("Model Response: ")[1] else "No."
    return judging.url, judging.asked


def test_sessions_are_shown_in_the_order_of_their_dates(data):
    task = LongMemEval(data)
    item = next(task.items("official"))
    (message,) = task.prompt(item, item.questions[0], item.history, "official", ANY_ROOM)
    assert message["content"] == (
        "I will give you several history chats between you and a user. Please answer the question based on the "
        "relevant chat history.\n\n\nHistory Chats:\n\n"
        "\n### Session 1:\nSession Date: 2023/05/01 (Mon) 08:00\nSession Content:\n"
        "\n\nuser: I live in Lisbon.\n\nassistant: Nice!\n"
        "\n### Session 2:\nSession Date: 2023/05/02 (Tue) 09:00\nSession Content:\n\n\nuser: I moved to Porto.\n"
        "\n\nCurrent Date: 2023/06/01 (Thu) 10:00\nQuestion: Where do I live?\nAnswer:"
    )
    room = words(len(message["content"].split()) - 1)
    (cut,) = task.prompt(item, item.questions[0], item.history, "official", room)
    assert "Lisbon" in cut["content"]
    assert "Porto" not in cut["content"]
    (bare,) = task.prompt(item, item.questions[0], item.history, "no_context", ANY_ROOM)
    assert bare["content"].startswith("Current Date")


def test_without_a_judge_the_score_is_lexical_and_named_so(data):
    task = LongMemEval(data)
    first, second = task.items("official")
    assert task.main_metric == "lexical"
    assert task.score(first, first.questions[0], "You live in Porto now.", "official")["lexical"] == 1
    assert task.score(first, first.questions[0], "Lisbon", "official")["lexical"] == 0
    assert second.questions[0].subsets == ("abstention",)
    assert task.score(second, second.questions[0], "I don’t know that.", "official")["lexical"] == 1
    assert "judged" not in task.score(first, first.questions[0], "Porto", "official")


@pytest.mark.parametrize("gold", ["A", "the", "...?!", " "])
def test_a_gold_answer_without_a_word_is_in_no_answer(tmp_path, gold):
    item = next(LongMemEval(write_json(tmp_path / "l.json", [{**LONGMEMEVAL, "answer": gold}])).items("official"))
    for said in ("no idea", "", gold):
        scores = LongMemEval(tmp_path / "l.json").score(item, item.questions[0], said, "official")
        assert (scores["lexical"], scores["f1"]) == (0, 0)


def test_a_judge_is_asked_over_http(data, endpoint):
    url, asked = endpoint
    options = task_options(LongMemEval, {"judge": "some-model", "judge_url": url, "judge_key": "JUDGE_KEY"})
    task = LongMemEval(data, **options)
    item = next(task.items("official"))
    assert task.main_metric == "judged"
    assert (task.settings["judge"], task.settings["judge_url"]) == ("some-model", url)
    assert len(task.settings["judge_prompts"]) == 64
    assert LongMemEval(data).settings == {}
    assert task.score(item, item.questions[0], "In Porto", "official")["judged"] == 1
    assert task.score(item, item.questions[0], "In Lisbon", "official")["judged"] == 0
    assert asked[0]["model"] == "some-model"
    assert asked[0]["temperature"] == 0
    assert "updated answer" in asked[0]["messages"][0]["content"]


@pytest.mark.parametrize(
    ("change", "message"),
    [
        ({"question_type": "chat"}, "chat"),
        ({"haystack_dates": []}, "2 sessions but 0 dates"),
        ({"answer": None}, "no answer"),
        ({"question_date": None}, "question_date"),
    ],
)
def test_a_bad_row_is_named(tmp_path, change, message):
    file = write_json(tmp_path / "bad.json", [LONGMEMEVAL, {**LONGMEMEVAL, **change}])
    with pytest.raises(BadDataError, match=r"bad\.json, row 2.*" + message):
        LongMemEval(file)


def test_options_are_checked():
    assert task_options(LongMemEval, {"judge": "m"})["judge"] == Judge("m")
    with pytest.raises(ValueError, match=r"no option sources; its options: judge"):
        task_options(LongMemEval, {"sources": "icl"})
    with pytest.raises(ValueError, match="needs judge too"):
        task_options(LongMemEval, {"judge_url": "http://x"})
