import copy

import pytest
from bench_rows import ANY_ROOM, LOCOMO, words, write_json, write_lines

from deltamem_lab.methods.fitting import fit
from deltamem_lab.tasks.data import BadDataError
from deltamem_lab.tasks.locomo import LoCoMo
from deltamem_lab.tasks.options import task_options


@pytest.fixture
def task(tmp_path):
    return LoCoMo(write_json(tmp_path / "locomo.json", [LOCOMO]), categories=(1, 2, 3, 4, 5))


def content(task, number, protocol="release", budget=ANY_ROOM, history=None):
    (item,) = task.items(protocol)
    shown = item.history if history is None else history
    return task.prompt(item, item.questions[number], shown, protocol, budget)[-1]["content"]


def test_turns_are_dated_and_in_order(task):
    (item,) = task.items("release")
    assert [entry.text for entry in item.history] == [
        'Ada said, "I moved to Oslo."\n and shared a photo of a fjord.',
        'Bruno said, "Good for you!"',
        'Ada said, "I bought a cello."',
    ]
    assert item.history[2].date == "3 pm on 2 June, 2023"
    assert [question.category for question in item.questions] == [
        "multi-hop",
        "temporal",
        "open-domain",
        "single-hop",
        "adversarial",
    ]
    assert task.revision.startswith("locomo.json@sha256:")


def test_the_release_shows_sessions_newest_first_and_the_authors_in_order(task):
    released, official = content(task, 3), content(task, 3, "official")
    assert released.index("2 June") < released.index("1 May")
    assert official.index("1 May") < official.index("2 June")
    for text in (released, official):
        assert text.startswith("Below is a conversation between two people: Ada and Bruno.")
        assert text.index("Oslo") < text.index("Good for you")
        assert text.endswith("Question: Which instrument has Ada?")


def test_of_the_last_session_shown_the_first_turns_give_way(task):
    (item,) = task.items("release")
    whole = words(None).length(task.prompt(item, item.questions[3], item.history, "release", ANY_ROOM))
    # The release's count has the heading twice in it, once with the turn it asks about.
    short = content(task, 3, budget=words(whole - 5))
    assert "I bought a cello" not in short.split("Based on")[0]
    assert "DATE: 3 pm on 2 June, 2023\nCONVERSATION:\n\nDATE: 1 pm on 1 May, 2023" in short
    shorter = content(task, 3, budget=words(whole - 20))
    assert "Good for you!" in shorter
    assert "Oslo" not in shorter
    assert "Oslo" not in content(task, 3, "official", words(whole - 1))
    assert "I bought a cello" in content(task, 3, "official", words(whole - 1))


def test_what_the_template_adds_is_room_too(task):
    (item,) = task.items("release")
    question = item.questions[3]

    def render(history, budget):
        return task.prompt(item, question, history, "release", budget)

    whole = words(None, template=7).length(render(item.history, ANY_ROOM))
    for tokens in range(whole - 8, whole):
        messages, cut = fit(render, item.history, room := words(tokens, template=7))
        shown = messages[-1]["content"]
        assert cut
        assert room.fits(messages)
        assert "Good for you" in shown
        assert "I bought a cello" not in shown


def test_nothing_is_shown_without_context(task):
    assert "cello" not in content(task, 3, "no_context")
    assert content(task, 3, "no_context") == content(task, 3, "release", history=[])


def test_temporal_and_adversarial_questions_are_put_as_published(task):
    assert content(task, 1).endswith("Use DATE of CONVERSATION to answer with an approximate date.")
    asked = content(task, 4).split("Question: ")[1]
    assert asked.endswith("Select the correct answer by writing (a) or (b).")
    assert "No information available" in asked
    assert "a cello" in asked


def test_scores(task):
    (item,) = task.items("release")
    score = lambda number, output, protocol="release": task.score(item, item.questions[number], output, protocol)["f1"]  # noqa: E731
    assert score(0, "Oslo, a cello") == 1
    assert score(1, "2023") == 1
    assert score(2, "yes") == 1
    assert score(4, "No information available") == 1
    right = "(a)" if item.questions[4].options[0] == "No information available" else "(b)"
    for protocol in ("official", "release"):
        assert score(4, right, protocol) == 1
        assert score(4, "(b)" if right == "(a)" else "(a)", protocol) == 0


def test_decoding_is_seeded_by_the_question(task):
    (item,) = task.items("release")
    decodings = [task.decoding(item, question, "release") for question in item.questions]
    assert [decoding.seed for decoding in decodings] == [42, 43, 44, 45, 46]
    assert decodings[0].temperature == 0.4


def test_seeds_and_sides_follow_the_place_among_the_questions_asked(tmp_path):
    """As in the release, whose categories are chosen before questions are counted."""
    rows = [LOCOMO, {**LOCOMO, "sample_id": "conv-2"}]
    task = LoCoMo(write_json(tmp_path / "locomo.json", rows), categories=(4, 5))
    for item in task.items("release"):
        assert [question.id for question in item.questions] == [f"{item.id}-3", f"{item.id}-4"]
        assert [task.decoding(item, question, "release").seed for question in item.questions] == [42, 43]


def test_categories_and_the_audited_subset(tmp_path):
    data = write_json(tmp_path / "locomo.json", [LOCOMO])
    wrong = write_lines(tmp_path / "audit.jsonl", [{"sample_id": "conv-1", "question": "When did Ada move?"}])
    (item,) = LoCoMo(data, audit=wrong).items("release")
    assert [question.subsets for question in item.questions] == [("audited",), (), ("audited",), ("audited",)]
    with pytest.raises(ValueError, match="6"):
        LoCoMo(data, categories=(6,))


@pytest.mark.parametrize(
    ("path", "value", "message"),
    [
        (["sample_id"], None, "sample_id"),
        (["conversation", "speaker_a"], None, "speaker_a"),
        (["conversation", "session_1", 0, "text"], 3, "text"),
        (["qa", 1, "category"], 9, "category 9"),
        (["qa", 1, "answer"], None, "question 2 has no answer"),
    ],
)
def test_a_bad_row_is_named(tmp_path, path, value, message):
    row = copy.deepcopy(LOCOMO)
    place = row
    for key in path[:-1]:
        place = place[key]
    place[path[-1]] = value
    file = write_json(tmp_path / "bad.json", [LOCOMO, row])
    with pytest.raises(BadDataError, match=r"bad\.json, row 2.*" + message):
        LoCoMo(file)


def test_a_replayed_conversation_is_one_message_a_session_and_the_first_give_way(task):
    (item,) = task.items("history_replay")
    sessions = [
        'DATE: 1 pm on 1 May, 2023\nCONVERSATION:\nAda said, "I moved to Oslo."\n and shared a photo of a fjord.\n'
        'Bruno said, "Good for you!"',
        'DATE: 3 pm on 2 June, 2023\nCONVERSATION:\nAda said, "I bought a cello."',
    ]
    assert [message["role"] for message in item.history] == ["system", "user", "user"]
    assert [message["content"] for message in item.history[1:]] == sessions

    def prompt(budget, history=item.history):
        return task.prompt(item, item.questions[3], history, "history_replay", budget)

    whole = prompt(ANY_ROOM)
    assert whole[:3] == list(item.history)
    assert whole[3]["content"].startswith("Based on the above conversations")
    short = prompt(words(words(None).length(whole) - 1))
    assert [message["content"] for message in short[1:-1]] == sessions[1:]
    assert [message["role"] for message in prompt(ANY_ROOM, ())] == ["system", "user"]


def test_a_judge_stands_beside_f1(tmp_path, judging):
    judging.reply = lambda prompt: "CORRECT" if "Answer: a violoncello" in prompt else "That is INCORRECT."
    options = task_options(LoCoMo, {"judge": "m", "judge_url": judging.url, "judge_key": "JUDGE_KEY"})
    task = LoCoMo(write_json(tmp_path / "locomo.json", [LOCOMO]), categories=(1, 2, 3, 4, 5), **options)
    (item,) = task.items("release")
    assert task.main_metric == "f1"
    assert task.score(item, item.questions[3], "a violoncello", "release") == {"f1": 0, "judged": 1}
    assert task.score(item, item.questions[3], "a flute", "official")["judged"] == 0
    assert "Right answer: a cello" in judging.asked[0]["messages"][0]["content"]
    # Whether an adversarial question is declined can be read.
    assert task.score(item, item.questions[4], "Not mentioned", "release") == {"f1": 1}
    assert task.settings["judge"] == "m"
