import copy

import pytest
from bench_rows import ANY_ROOM, MAB, words, write_json, write_lines
from hypothesis import given
from hypothesis import strategies as st

from deltamem_lab.interface import Document
from deltamem_lab.methods.fitting import fit
from deltamem_lab.metrics.judge import Judge
from deltamem_lab.tasks.chunks import chunks_of, joined
from deltamem_lab.tasks.data import BadDataError
from deltamem_lab.tasks.mab_prompts import KINDS, clip, kind_of, official_messages
from deltamem_lab.tasks.memoryagentbench import MemoryAgentBench


@pytest.fixture
def task(tmp_path):
    return MemoryAgentBench(write_lines(tmp_path / "mab.jsonl", [MAB]))


def row(**metadata):
    changed = copy.deepcopy(MAB)
    changed["metadata"] |= metadata
    return changed


def test_the_release_has_one_prompt(task):
    (item,) = task.items("release")
    assert (item.source, item.questions[0].category) == ("icl_toy_2shot_balance", "Test_Time_Learning")
    (message,) = task.prompt(item, item.questions[0], item.history, "release", ANY_ROOM)
    assert message["content"] == (
        "Use only the memory context below to answer the question.\n"
        "Reply with a short entity, phrase, number, or sentence only.\n"
        "If the answer is not supported by the context, reply exactly: I don't know.\n\n"
        f"{MAB['context']}\n\nQuestion: play the blues\nAnswer:"
    )
    (bare,) = task.prompt(item, item.questions[0], item.history, "no_context", ANY_ROOM)
    assert "jazz" not in bare["content"]
    assert [bare] == task.prompt(item, item.questions[0], [], "release", ANY_ROOM)


def test_the_authors_prompt_depends_on_the_source(task):
    (item,) = task.items("official")
    system, user = task.prompt(item, item.questions[0], item.history, "official", ANY_ROOM)
    assert system["role"] == "system"
    assert "the examples I have learned: \nplay some jazz" in user["content"]
    assert 'Only output "label: {label}" and nothing else. \n\nplay the blues \n\n label:' in user["content"]
    texts = {official_messages(kind, ["c"], "q?")[1]["content"] for kind in KINDS}
    assert len(texts) == len(KINDS)
    with pytest.raises(ValueError, match="is not a source"):
        kind_of("other")


def test_answers_are_scored_by_protocol(task):
    (item,) = task.items("release")
    score = lambda output, protocol: task.score(item, item.questions[1], output, protocol)["score"]  # noqa: E731
    assert score("label: seven", "release") == 1
    assert score("label: seven", "official") == 0
    assert score("7\n", "official") == 1


def test_contexts_are_clipped_to_the_room(tmp_path):
    long = {**copy.deepcopy(MAB), "context": " ".join(f"word{n}" for n in range(3000))}
    task = MemoryAgentBench(write_lines(tmp_path / "long.jsonl", [long]))
    (item,) = task.items("release")
    (message,) = task.prompt(item, item.questions[0], item.history, "release", words(400))
    assert 330 < len(message["content"].split()) <= 400
    assert "word0 " in message["content"]
    assert "word2999" in message["content"]
    assert "[... context truncated ...]" in message["content"]
    user = task.prompt(item, item.questions[0], item.history, "official", words(2000))[1]["content"]
    assert "word0 " not in user
    assert "word2999" in user


def test_what_the_template_adds_is_room_too(tmp_path):
    long = {**copy.deepcopy(MAB), "context": " ".join(f"word{n}" for n in range(3000))}
    (item,) = (task := MemoryAgentBench(write_lines(tmp_path / "long.jsonl", [long]))).items("release")

    for tokens in (400, 401, 433):
        (message,), cut = fit(
            lambda history, budget: task.prompt(item, item.questions[0], history, "release", budget),
            item.history,
            room := words(tokens, template=50),
        )
        assert cut
        assert room.fits([message])
        assert "word0 " in message["content"]
        assert "[... context truncated ...]" in message["content"]


@pytest.mark.parametrize("blanks", ["", "\n ", " \n\n"])
def test_a_context_is_shown_to_the_letter(tmp_path, blanks):
    text = f"{blanks}{'x' * 9000} end.{blanks}"
    (item,) = (task := MemoryAgentBench(write_lines(tmp_path / "m.jsonl", [{**MAB, "context": text}]))).items("release")
    assert len(item.history) > 2
    (message,) = task.prompt(item, item.questions[0], item.history, "release", ANY_ROOM)
    assert f"I don't know.\n\n{text}\n\nQuestion" in message["content"]
    # Excerpts that are no end of it are kept apart.
    (message,) = task.prompt(item, item.questions[0], item.history[:1] * 2, "release", ANY_ROOM)
    assert "x\nx" in message["content"].replace(blanks, "")


def test_the_time_of_reading_stands_where_the_authors_have_it():
    said = {kind: official_messages(kind, ["c"], "q?")[1]["content"].partition("<User>")[0] for kind in KINDS}
    head, time = "Dialogue between User and Assistant ", "2025-01-01 00:00:00"
    assert said.pop("longmemeval") == rf"{head}\n"
    assert [said.pop(kind) for kind in ("ruler", "eventqa")] == [rf"{head}{time}\n"] * 2
    assert set(said.values()) == {rf"{head}{time} \n"}


def test_clip_keeps_a_third_of_the_beginning():
    text = "a" * 600 + "b" * 600
    mark = "\n\n[... context truncated ...]\n\n"
    cut = clip(text, 300 + len(mark))
    assert len(cut) == 300 + len(mark)
    assert cut.startswith("a" * 100)
    assert not cut.startswith("a" * 101)
    assert cut.endswith("b" * 200)
    assert clip("short", 5) == "short"


@given(st.text(alphabet="ab. \n", max_size=300), st.integers(1, 40))
def test_pieces_are_the_whole_text(text, size):
    pieces = chunks_of(text, size)
    assert "".join(pieces) == text
    assert all(0 < len(piece) <= size for piece in pieces)


def test_pieces_end_at_paragraphs_and_excerpts_are_kept_apart():
    assert chunks_of("one one\n\ntwo two\n\nthree", 19) == ["one one\n\ntwo two\n\n", "three"]
    assert joined([Document("one "), Document("two"), Document("three")]) == "one two\nthree"


def test_judged_sources_need_a_judge_in_the_authors_protocol(tmp_path):
    task = MemoryAgentBench(write_lines(tmp_path / "m.jsonl", [row(source="longmemeval_s*"), MAB]))
    with pytest.raises(ValueError, match=r"longmemeval_s\*.*judge"):
        list(task.items("official"))
    assert len(list(task.items("release"))) == 2
    chosen = MemoryAgentBench(tmp_path / "m.jsonl", sources=("icl",))
    assert [item.source for item in chosen.items("official")] == ["icl_toy_2shot_balance"]
    with pytest.raises(ValueError, match="no source"):
        MemoryAgentBench(tmp_path / "m.jsonl", sources=("ruler",))


def judged_summary(tmp_path, judging, **options):
    book = row(source="infbench_sum_eng_shots2")
    book["metadata"]["keypoints"] = ["Ada leaves.", "Bruno stays.", "It rains.", "They meet."]
    judge = Judge("m", judging.url, "JUDGE_KEY")
    task = MemoryAgentBench(write_lines(tmp_path / "m.jsonl", [book]), judge=judge, **options)
    (item,) = task.items("official")
    return task.score(item, item.questions[0], "Ada leaves and Bruno stays.", "official")


def test_a_summary_is_judged_by_fluency_key_points_and_sentences(tmp_path, judging):
    def reply(prompt):
        if "4. They meet." in prompt:
            return 'Point {1} is there.\n```json\n{"recall": 2}\n```'
        return '{"precision": 1, "sentence_count": 1}' if "sentence_count" in prompt else 'Fine: {"fluency": 1}'

    judging.reply = reply
    scores = judged_summary(tmp_path, judging)
    assert (scores["fluency"], scores["recall"], scores["precision"]) == (1, 0.5, 1)
    assert scores["score"] == pytest.approx(2 / 3)
    assert len(judging.asked) == 3


def test_a_summary_whose_judge_gives_no_numbers_is_an_error(tmp_path, judging):
    judging.reply = lambda prompt: "A fine summary."
    with pytest.raises(ValueError, match=r"no JSON with fluency in 3 replies; the last: 'A fine summary\.'"):
        judged_summary(tmp_path, judging)


def test_summaries_can_be_judged_in_the_authors_words(tmp_path, judging):
    judging.reply = lambda prompt: '{"fluency": 0, "recall": 9, "precision": 0, "sentence_count": 0}'
    script = tmp_path / "summarization_evaluate.py"
    text = 'raise SystemExit\nfluency_prompt_book = "F {text}"\nrecall_prompt_book="R {keypoints}{summary}"\n'
    script.write_text(text)
    with pytest.raises(ValueError, match=r"not MemoryAgentBench's .*precision_prompt_book"):
        judged_summary(tmp_path, judging, summary_prompts=script)
    script.write_text(text + 'precision_prompt_book = """P {expert_summary}{summary}"""\n')
    scores = judged_summary(tmp_path, judging, summary_prompts=script)
    assert scores["score"] == 0
    assert scores["recall"] == 1
    assert judging.asked[0]["messages"][0]["content"] == "F Ada leaves and Bruno stays."


def test_recommendations_need_the_names_of_the_films(tmp_path):
    films = {**row(source="recsys_redial_full"), "answers": [["2"], ["3"]]}
    data = write_lines(tmp_path / "m.jsonl", [films])
    with pytest.raises(ValueError, match=r"entity2id\.json"):
        MemoryAgentBench(data)
    task = MemoryAgentBench(data, movies=write_json(tmp_path / "entity2id.json", {"x/Up": 2, "x/Alien": 3}))
    (item,) = task.items("release")
    assert task.score(item, item.questions[1], "1. Alien", "release")["score"] == 1
    with pytest.raises(BadDataError, match="names"):
        MemoryAgentBench(data, movies=write_json(tmp_path / "other.json", [1]))


def test_questions_alone_are_about_nothing(tmp_path):
    alone = {
        "split": "Conflict_Resolution",
        "source": "factconsolidation_sh_6k",
        "qa_pair_id": "f0",
        "question": "Who?",
        "answers": ["Ada"],
    }
    (item,) = MemoryAgentBench(write_lines(tmp_path / "q.jsonl", [alone, {**alone, "qa_pair_id": "f1"}])).items(
        "release"
    )
    assert item.history == ()
    assert [question.id for question in item.questions] == ["f0", "f1"]


@pytest.mark.parametrize(
    ("bad", "message"),
    [
        ({**MAB, "answers": [["4"]]}, "2 questions but 1 lists"),
        ({**MAB, "answers": [["4"], []]}, "at least one"),
        ({**MAB, "split": "Train"}, "Train"),
        (row(source="imagenet"), "imagenet"),
        ({**MAB, "metadata": None}, "metadata"),
        ({"question": "Who?"}, "source"),
    ],
)
def test_a_bad_row_is_named(tmp_path, bad, message):
    with pytest.raises(BadDataError, match=r"bad\.jsonl:2.*" + message):
        MemoryAgentBench(write_lines(tmp_path / "bad.jsonl", [MAB, bad]))
