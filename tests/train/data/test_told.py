"""Told facts: what is held out stays out of training, sentences agree, and only the value's tokens weigh fully."""

import dataclasses
import hashlib
import json
import random
import re
import sys
from collections import Counter
from collections.abc import Iterable, Iterator, Sequence
from pathlib import Path
from typing import Any

import pytest

pytest.importorskip("faker")
pytest.importorskip("xkcdpass")

from deltamem.train.data.lines import BadDataError
from deltamem.train.data.told.batches import ToldBatches, held_out_episodes, static_batches, training_batches
from deltamem.train.data.told.chats import Chats, conversations
from deltamem.train.data.told.dialogues import (
    ACKS,
    CORRECTIONS,
    FRAMED_QUESTIONS,
    FRAMED_TELLINGS,
    TALK,
    UNKNOWN,
    Dialogue,
    Fact,
    Mix,
    Split,
    everyday_words,
    sample_dialogue,
)
from deltamem.train.data.told.lines import told_lines
from deltamem.train.data.told.relations import Relation, put, relations
from deltamem.train.data.told.rendering import Renderer
from deltamem.train.data.told.replies import ToldReplies, reply_template
from deltamem.train.data.told.texts import Texts
from deltamem.train.data.told.values import OPEN, held_out, listed, members, parts, sample_value
from deltamem.train.episodes import Text

STAGE = {"updates": 3, "questions": 12, "facts": [1, 3], "corrected": 0.3, "unknown": 0.3}
EVERYTHING = Mix(facts=(1, 6), corrected=0.3, unknown=0.3, talk=0.5)
SMALL_TALK = [
    *(text for exchange in TALK for text in exchange),
    *ACKS,
    *(words.replace("{}", "") for words in CORRECTIONS),
]
WORD = re.compile(r"[^\W\d_]+")
# Without their last s, as in "large_words".
SMALL = """
    a an and are at by can did do doe for ha have i in it me my of on tell that the to wa were what when where which who
    whom with your
"""
SMALL_WORDS = {"", *SMALL.split()}


def dialogues(count: int, mix: Mix, split: Split = "train", seed: int = 0) -> list[Dialogue]:
    rng = random.Random(seed)
    return [sample_dialogue(rng, mix, split) for _ in range(count)]


@pytest.fixture(scope="module")
def trained() -> list[Dialogue]:
    return dialogues(500, EVERYTHING)


def text(dialogue: Dialogue) -> str:
    """All that is said, asked and answered."""
    asked = [part for question in dialogue.questions for part in (question.ask, question.answer)]
    return "\n".join([*(message["content"] for message in dialogue.messages), *asked])


def wordings(relation: Relation) -> Iterator[str]:
    yield from (*relation.tell, *relation.ask)


def test_the_world_is_open() -> None:
    assert len({value for kind in ("first", "last", "city", "word") for value in members(kind)}) >= 30_000
    assert len(relations()) >= 60
    assert len(relations(held=True)) >= 8
    said = [wording for held in (False, True) for relation in relations(held) for wording in wordings(relation)]
    assert len(set(said)) == len(said)
    assert all(len(relation.tell) >= 3 and len(relation.ask) >= 3 for relation in relations())


def test_every_relation_has_values_and_a_value_in_each_telling_and_answer() -> None:
    kinds = {*OPEN, *listed(), "number", "age", "size", "date", "time"}
    for relation in (*relations(), *relations(held=True)):
        assert relation.values in kinds
        assert sample_value(random.Random(0), relation.values)
        assert all(wording.count("{v}") == 1 for wording in (*relation.tell, relation.answer))
        assert not any("{v}" in wording for wording in relation.ask)


def sentences(fact: Fact, wordings: Sequence[str]) -> set[str]:
    """A fact in these wordings, told or asked, with its value now or before, of its subject with or without its kin."""
    mentions = {fact.subject, f"my {fact.kin} {fact.subject}"} if fact.subject else {""}
    values = {value for value in (fact.value, fact.replaces) if value} or {""}
    return {put(w, value=value, subject=mention) for w in wordings for value in values for mention in mentions}


def without(text: str, parts: Iterable[str]) -> str:
    """What is left of a text when sentences are taken away, the longest first."""
    for part in sorted(parts, key=len, reverse=True):
        text = text.replace(part, "")
    return text


def test_training_tells_no_held_out_relation_wording_value_or_name(trained: list[Dialogue]) -> None:
    assert sum(len(dialogue.questions) for dialogue in trained) > 1500
    held_back = {relation.name for relation in relations(held=True)}
    for dialogue in trained:
        facts = [question.fact for question in dialogue.questions]
        told = {sentence for fact in facts if fact.value for sentence in sentences(fact, fact.relation.tell[:-1])}
        for message in dialogue.messages:
            assert without(message["content"], [*told, *SMALL_TALK]).strip() == ""
        for question in dialogue.questions:
            fact = question.fact
            assert question.ask in sentences(fact, fact.relation.ask[:-1])
            assert fact.relation.name not in held_back
            assert not (fact.subject and held_out(fact.subject))
            for value in filter(None, (fact.value, fact.replaces)):
                assert fact.relation.values not in OPEN or not held_out(value)


@pytest.mark.parametrize("split", ["known", "values", "relations"])
def test_a_split_holds_out_what_it_says(split: Split, trained: list[Dialogue]) -> None:
    known = {question.value for dialogue in trained for question in dialogue.questions}
    names = {question.fact.subject for dialogue in trained for question in dialogue.questions}
    for dialogue in dialogues(150, Mix(facts=(2, 3), corrected=0.3, unknown=0.3, talk=0.5), split):
        facts = [question.fact for question in dialogue.questions]
        told = {sentence for fact in facts if fact.value for sentence in sentences(fact, fact.relation.tell[-1:])}
        for message in dialogue.messages:
            assert without(message["content"], [*told, *SMALL_TALK]).strip() == ""
        for question in dialogue.questions:
            fact = question.fact
            assert question.ask in sentences(fact, fact.relation.ask[-1:])
            assert fact.relation.held == (split == "relations")
            assert not fact.subject or (held_out(fact.subject) and fact.subject not in names)
            for value in filter(None, (fact.value, fact.replaces)):
                assert split == "values" or not held_out(value) or fact.relation.values not in OPEN
                assert split != "values" or (held_out(value) and value not in known)


def test_strictly_no_word_of_training_is_one_that_is_held_out() -> None:
    strict = dataclasses.replace(EVERYTHING, strict=True, further=True)
    said = {word.lower() for dialogue in dialogues(500, strict) for word in WORD.findall(text(dialogue))}
    assert len(said) > 2000
    assert not {word for word in said - everyday_words() if held_out(word)}
    for dialogue in dialogues(150, strict, "values"):
        for question in dialogue.questions:
            if question.value:
                assert not {part.lower() for part in parts(question.value, kind_of(question.fact))} & said


def kind_of(fact: Fact) -> str:
    """The kind a value is of: its relation's, or where any word was taken, one that has no parts."""
    return fact.relation.values if " " in fact.value else "word"


def test_values_of_a_closed_kind_have_none_that_are_unseen() -> None:
    with pytest.raises(ValueError, match="no values that are held out"):
        sample_value(random.Random(0), "colour", unseen=True)


def test_sentences_agree_with_who_speaks_and_of_whom() -> None:
    by_name = {relation.name: relation for relation in relations()}
    home, job, child = by_name["home"], by_name["job"], by_name["child"]
    assert put(home.tell[0], value="Lisbon") == "I live in Lisbon."
    assert put(home.tell[0], value="Lisbon", subject="my sister Ana") == "My sister Ana lives in Lisbon."
    assert put(home.ask[0], subject="Ana") == "Where does Ana live?"
    assert put(home.answer, value="Lisbon", speaker="assistant") == "You live in Lisbon."
    assert put(job.answer, value="editor", subject="Ana", speaker="assistant") == "Ana works as an editor."
    assert put(child.tell[3], value="Eva", subject="Ana") == "Ana named their daughter Eva."


def test_no_placeholder_is_left(trained: list[Dialogue]) -> None:
    assert not [said for said in map(text, trained) if re.search(r"[{}]|\(e?s\)", said)]


def test_a_correction_is_what_counts() -> None:
    for dialogue in dialogues(50, Mix(facts=(2, 2), corrected=1.0), seed=2):
        said = " ".join(message["content"] for message in dialogue.messages)
        for question in dialogue.questions:
            assert said.rfind(question.value) > said.find(question.fact.replaces) >= 0
            assert question.value in question.answer


def test_what_was_not_told_is_not_known() -> None:
    for dialogue in dialogues(50, Mix(facts=(2, 2), unknown=1.0)):
        told = {(question.fact.subject, question.fact.relation) for question in dialogue.questions if question.value}
        untold = [question for question in dialogue.questions if not question.value]
        assert len(untold) == 2
        assert all(question.answer == UNKNOWN for question in untold)
        assert not told & {(question.fact.subject, question.fact.relation) for question in untold}


@pytest.mark.parametrize(
    ("fields", "message"),
    [
        ({"facts": (3, 2)}, "facts must be two numbers from 1 up"),
        ({"corrected": 1.5}, "corrected is a share and must be from 0 to 1, not 1.5"),
        ({"talk": -1.0}, "talk must be 0 or more"),
    ],
)
def test_an_impossible_mix_is_refused(fields: dict[str, Any], message: str) -> None:
    with pytest.raises(ValueError, match=message):
        Mix(**fields)


def test_more_facts_than_there_are_relations_are_refused() -> None:
    with pytest.raises(ValueError, match="only 8 relations"):
        dialogues(1, Mix(facts=(60, 60)), "relations")


def test_only_the_value_weighs_fully(chat_tokenizer: Any) -> None:
    renderer = Renderer(chat_tokenizer, lead=0.1, unknown=0.3)
    for dialogue in dialogues(20, Mix(unknown=0.5), seed=3):
        for question in dialogue.questions:
            query = renderer.query(question)
            weighed = {weight: spelt(chat_tokenizer, query, weight) for weight in set(query.weights)}
            if not question.value:
                assert weighed.keys() == {0.0, 0.3}
                assert weighed[0.3].strip() == f"{UNKNOWN}<|im_end|>"
                continue
            assert weighed.keys() == {0.0, 0.1, 1.0}
            assert question.value in weighed[1.0]
            assert len(weighed[1.0].strip()) <= len(question.value) + 2
            trained = spelt(chat_tokenizer, query, 0.1, 1.0)
            assert trained.strip() == f"{question.answer}<|im_end|>"
            assert set(renderer.query(question, lead=False).weights) == {0.0, 1.0}


def spelt(tokenizer: Any, text: Text, *weights: float) -> str:
    """The tokens that have one of these weights, as text."""
    return str(tokenizer.decode([i for i, weight in zip(text.ids, text.weights, strict=True) if weight in weights]))


def test_the_opening_is_read_before_questions_and_never_written(chat_tokenizer: Any) -> None:
    renderer = Renderer(chat_tokenizer)
    assert renderer.opening == "<|im_start|>system\nBe good.<|im_end|>\n"
    (dialogue,) = dialogues(1, Mix(facts=(3, 3), answered=1.0))
    written = renderer.history(dialogue.messages)
    turns = [f"<|im_start|>{m['role']}\n{m['content']}<|im_end|>\n" for m in dialogue.messages]
    assert chat_tokenizer.decode(written.ids) == "".join(turns)
    assert written.segments == tuple(sorted(written.segments))
    assert set(written.segments) == set(range(len(turns)))
    question = dialogue.questions[0]
    bare, opened, other = (chat_tokenizer.decode(renderer.query(question, s).ids) for s in ("", None, "Be quick."))
    assert opened == renderer.opening + bare
    assert other == "<|im_start|>system\nBe quick.<|im_end|>\n" + bare


def test_templates_that_cannot_be_rendered_are_refused(with_template: Any, tokenizer: Any) -> None:
    with pytest.raises(ValueError, match="renders a first message differently"):
        Renderer(with_template("{% for m in messages %}{{ loop.index }}{{ m.content }}{% endfor %}"))
    with pytest.raises(ValueError, match="a fast tokenizer with a chat template"):
        Renderer(with_template(""))


def test_batches_follow_from_their_seed_and_stages(chat_tokenizer: Any) -> None:
    stages = [STAGE, {**STAGE, "facts": [4, 4], "unknown": 0.0}]
    batches = training_batches(chat_tokenizer, stages=stages, parts=2, seed=5)
    again = training_batches(chat_tokenizer, stages=stages, parts=2, seed=5)
    other = training_batches(chat_tokenizer, stages=stages, parts=2, seed=6)
    assert len(batches) == 12
    assert batches[7].queries.ids.equal(again[7].queries.ids)
    assert not batches[7].queries.ids.equal(other[7].queries.ids)
    assert (batches[7].episode_of.bincount() == 4).all()
    assert len(batches[6].queries.ids) + len(batches[7].queries.ids) >= 12
    with pytest.raises(IndexError):
        batches[12]


@pytest.mark.parametrize(
    ("stage", "message"),
    [
        (
            {"updates": 1, "questions": 1, "fact": 1},
            "Stage 1 has no fact; its keys are updates, questions, filler",
        ),
        ({"questions": 1}, "Stage 1 needs updates, a whole number above 0"),
        ({"updates": 1, "questions": 1, "facts": [2, 1]}, "Stage 1: facts must be two numbers"),
    ],
)
def test_a_bad_stage_is_refused(stage: dict[str, Any], message: str, chat_tokenizer: Any) -> None:
    with pytest.raises(ValueError, match=message):
        training_batches(chat_tokenizer, stages=[stage])


def test_held_out_episodes_ask_for_every_fact(chat_tokenizer: Any) -> None:
    episodes = held_out_episodes(chat_tokenizer, split="values", facts=3, dialogues=2)
    assert [len(episode.queries) for episode in episodes] == [3, 3]
    assert {weight for episode in episodes for query in episode.queries for weight in query.weights} == {0.0, 1.0}


def test_the_stream_of_a_seed_stays_what_it_was() -> None:
    """Recipes name a seed, and their results are of these dialogues; Faker's lists are part of them."""
    import faker

    if faker.VERSION != "40.63.0":
        pytest.skip("another version of Faker lists other names")
    found = dialogues(50, Mix(facts=(1, 4), corrected=0.2, unknown=0.3))
    said = repr([dialogue.messages for dialogue in found])
    assert hashlib.sha256(said.encode()).hexdigest()[:16] == "fc0215bb54cdf97f"


def test_a_missing_package_names_its_extra(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setitem(sys.modules, "faker", None)
    with pytest.raises(ImportError, match=r"pip install .*\[told\]"):
        members.__wrapped__("first")


CHATS = [
    [f"So {n} it is, then." if k % 2 else f"Let us talk about {n} and {k}." for k in range(2 * n)] for n in (2, 4, 6)
]


@pytest.fixture
def chat(tmp_path: Path) -> Path:
    file = tmp_path / "chat.jsonl"
    roles = ("user", "assistant")
    rows = [{"messages": [{"role": roles[k % 2], "content": c} for k, c in enumerate(said)]} for said in CHATS]
    file.write_text("\n".join(map(json.dumps, rows)), encoding="utf-8")
    return file


def is_subsequence(part: Sequence[Any], whole: Iterable[Any]) -> bool:
    rest = iter(whole)
    return all(item in rest for item in part)


def test_chat_lies_around_the_facts_in_order_and_to_length(chat: Path, chat_tokenizer: Any) -> None:
    renderer = Renderer(chat_tokenizer)
    chats = Chats(conversations(chat), renderer.count)
    rng, first, last = random.Random(0), set(), set()
    for dialogue in dialogues(30, Mix(facts=(4, 4), answered=1.0)):
        around = chats.around(rng, dialogue.messages, 1500)
        assert is_subsequence(dialogue.messages, around)
        added = [message for message in around if message not in dialogue.messages]
        assert 1300 <= sum(map(renderer.count, added)) <= 1500
        assert {message["content"] for message in added} <= {text for said in CHATS for text in said}
        first.add(around[0] in added)
        last.add(around[-1] in added)
    assert True in first
    assert True in last
    assert chats.around(rng, dialogue.messages, 3) == dialogue.messages


def test_long_histories_are_passages_of_whole_messages(chat: Path, chat_tokenizer: Any) -> None:
    renderer = Renderer(chat_tokenizer)
    (dialogue,) = dialogues(1, Mix(facts=(8, 8)))
    around = Chats(conversations(chat), renderer.count).around(random.Random(0), dialogue.messages, 2000)
    passages = renderer.passages(around, 200)
    assert len(passages) > 8
    assert max(len(passage.ids) for passage in passages) <= 200
    whole = renderer.history(around)
    assert [token for passage in passages for token in passage.ids] == list(whole.ids)
    assert sum(len(set(passage.segments)) for passage in passages) == len(around)
    (message,) = [{"role": "user", "content": "word " * 500}]
    assert len(message["content"].split()) / 200 < len(renderer.passages([message], 200))


def test_filler_changes_histories_and_not_what_is_told_or_asked(chat: Path, chat_tokenizer: Any) -> None:
    long = [{**STAGE, "filler": [600, 1200]}]
    plain = training_batches(chat_tokenizer, stages=[STAGE])
    filled = training_batches(chat_tokenizer, stages=long, chat=str(chat))
    asked = [
        {
            chat_tokenizer.decode([t for t in row if t])
            for part in range(2)
            for row in batches[part].queries.ids.tolist()
        }
        for batches in (plain, filled)
    ]
    assert asked[0] == asked[1]
    assert len(plain[0].passages) == 1
    assert len(filled[1].passages) >= 2
    assert all(passage.ids.shape[1] <= 512 for passage in filled[1].passages)
    with pytest.raises(ValueError, match="give chat, a file of JSON lines"):
        training_batches(chat_tokenizer, stages=long)
    with pytest.raises(ValueError, match="Stage 1: filler must be tokens"):
        training_batches(chat_tokenizer, stages=[{**STAGE, "filler": [5, 1]}], chat=str(chat))


def test_held_out_episodes_have_chat_around_them_too(chat: Path, chat_tokenizer: Any) -> None:
    (plain,), (filled,) = (
        held_out_episodes(chat_tokenizer, split="values", facts=4, dialogues=1, chat=str(chat), filler=filler)
        for filler in (0, 1500)
    )
    assert plain.queries == filled.queries
    assert 1300 < filled.tokens - plain.tokens <= 1500
    with pytest.raises(ValueError, match="give chat"):
        held_out_episodes(chat_tokenizer, filler=10)


def test_chats_may_be_turns_of_speakers(tmp_path: Path) -> None:
    rows = [{"turns": [["User 1", "Hi!"], ["User 2", "Hello."]]}, {"turns": []}]
    (tmp_path / "chats.jsonl").write_text("".join(json.dumps(row) + "\n" for row in rows), encoding="utf-8")
    assert conversations(tmp_path / "chats.jsonl") == [
        [{"role": "user", "content": "Hi!"}, {"role": "assistant", "content": "Hello."}]
    ]
    (tmp_path / "bad.jsonl").write_text('{"turns": ["Hi!"]}\n', encoding="utf-8")
    with pytest.raises(BadDataError, match=r"bad.jsonl:1: turns must be a list of a speaker and a text each"):
        conversations(tmp_path / "bad.jsonl")


def test_bad_chat_is_named(tmp_path: Path, chat_tokenizer: Any) -> None:
    (tmp_path / "bad.jsonl").write_text('{"messages": 3}\n', encoding="utf-8")
    with pytest.raises(BadDataError, match=r"bad.jsonl:1: messages must be a list"):
        conversations(tmp_path / "bad.jsonl")


def test_lines_have_a_question_each_and_its_fact_beside() -> None:
    found = list(told_lines(20, Mix(facts=(2, 2), unknown=0.5, corrected=0.5), "values", seed=1))
    assert found == list(told_lines(20, Mix(facts=(2, 2), unknown=0.5, corrected=0.5), "values", seed=1))
    assert len(found) == 60
    assert len({line["id"] for line in found}) == 60
    names = {relation.name: relation for relation in relations()}
    for line in found:
        *history, asked, answer = line["messages"]
        assert (asked["role"], answer["role"], line["split"]) == ("user", "assistant", "values")
        assert line["kind"] == names[line["relation"]].values
        if line["value"]:
            said = " ".join(message["content"] for message in history)
            assert said.rfind(line["value"]) > said.find(line["replaces"]) - (not line["replaces"])
            assert line["value"] in answer["content"]
        else:
            assert answer["content"] == UNKNOWN


def test_the_words_before_a_value_are_trained_in_a_share_of_the_dialogues(tokenizer: Any) -> None:
    stages = [{"updates": 1, "questions": 40}]

    def trained(share: float) -> int:
        batches = training_batches(tokenizer, stages=stages, parts=1, lead=0.5, lead_share=share)
        return int((batches[0].queries.weights == 0.5).any(1).sum())

    everywhere, nowhere = trained(1.0), trained(0.0)
    assert everywhere == 40
    assert nowhere == 0
    assert nowhere < trained(0.5) < everywhere


def test_only_the_last_reply_of_a_conversation_weighs(chat_tokenizer: Any) -> None:
    renderer = Renderer(chat_tokenizer)
    said = [
        {"role": "user", "content": "Hello"},
        {"role": "assistant", "content": "Yes"},
        {"role": "user", "content": "Hello"},
        {"role": "assistant", "content": "Yes, yes"},
    ]
    text = renderer.reply(said)
    assert spelt(chat_tokenizer, text, 1.0).startswith("Yes, yes")
    assert chat_tokenizer.decode(text.ids).count("Yes, yes") == 1
    opened = renderer.reply(said, None)
    assert len(opened.ids) > len(text.ids)
    assert opened.ids[-len(text.ids) :] == text.ids


def test_updates_have_prompts_that_need_no_memory(chat: Path, chat_tokenizer: Any) -> None:
    batches = training_batches(chat_tokenizer, stages=[STAGE], parts=2, plain=str(chat), prompts=4)
    for batch in (batches[0], batches[1]):
        assert batch.plain is not None
        assert len(batch.plain.ids) == 2
        assert (batch.plain.weights.sum(1) > 0).all()
    assert training_batches(chat_tokenizer, stages=[STAGE])[0].plain is None
    with pytest.raises(ValueError, match="give plain, a file of JSON lines"):
        training_batches(chat_tokenizer, stages=[STAGE], prompts=4)


def test_a_static_control_meets_other_dialogues_memories(chat_tokenizer: Any) -> None:
    own, static = (
        memories(make(chat_tokenizer, stages=[STAGE], parts=2)) for make in (training_batches, static_batches)
    )
    assert own.keys() == static.keys()
    assert all(static[asked] != own[asked] for asked in own)
    assert set(static.values()) == set(own.values())


def memories(batches: ToldBatches) -> dict[tuple[int, ...], tuple[int, ...]]:
    """For each question of the first update, by its tokens, those of the history that it meets."""
    return {
        tuple(ids[mask].tolist()): tuple(
            token for passage in batch.passages for token in passage.ids[row][passage.mask[row]].tolist()
        )
        for batch in (batches[part] for part in range(batches.parts))
        for ids, mask, row in zip(batch.queries.ids, batch.queries.mask, batch.episode_of, strict=True)
    }


def test_a_static_control_meets_strangers_where_a_long_text_is_a_batch_of_its_own(
    texts: Path, chat_tokenizer: Any
) -> None:
    stages = [{**STAGE, "questions": 3, "facts": [1, 1], "texts": 1}]
    own, static = (
        make(chat_tokenizer, stages=stages, texts=texts / "long.jsonl", longest_text=4000)
        for make in (training_batches, static_batches)
    )
    assert [own[part].rows for part in range(2)][1] == 1
    assert all(static_text != memories(own)[asked] for asked, static_text in memories(static).items())


def test_further_wordings_are_for_training_alone() -> None:
    everything = (*relations(), *relations(held=True))
    held_told, held_asked = {said(each.tell[-1]) for each in everything}, {said(each.ask[-1]) for each in everything}
    also = {said(wording) for each in relations() for wording in each.also_ask}
    told = {said(wording) for each in relations() for wording in each.further_tell}
    asked = {said(wording) for each in relations() for wording in each.further_ask}
    assert len(told) > 200
    assert len(asked) > 400
    assert len(also) > 150
    assert not told & held_told
    assert not (asked | also) & held_asked
    for options, expected in ((("also_ask",), also), (("also_ask", "further"), also | asked), ((), set())):
        mix = Mix(facts=(4, 4), others=0.0, **dict.fromkeys(options, True))  # type: ignore[arg-type]
        train, known = (
            {question.ask for one in dialogues(400, mix, split) for question in one.questions}
            for split in ("train", "known")
        )
        assert len(train & expected) >= len(expected) / 2
        assert not train & ((also | asked) - expected)
        assert known <= {put(each.ask[-1]) for each in relations()}
    plain, further = (dialogues(300, Mix(others=0.0, talk=0.0, answered=0.0, further=on)) for on in (False, True))
    assert not {message for one in plain for message in tellings(one)} & told
    assert len({message for one in further for message in tellings(one)} & told) > 100


def test_no_further_wording_says_what_is_held_out_in_other_small_words() -> None:
    for each in relations():
        for further, older, held in (
            (each.further_tell, each.tell[:-1], each.tell[-1]),
            (each.further_ask, (*each.ask[:-1], *each.also_ask), each.ask[-1]),
        ):
            if large_words(held) not in map(large_words, older):
                assert large_words(held) not in map(large_words, further)
    assert large_words("Tell me the name of {my} boat.") == large_words("What is {my} boat's name?")


def large_words(wording: str) -> set[str]:
    """The words of a wording that say what it is about, without their endings."""
    return {word.rstrip("s") for word in WORD.findall(said(wording).lower())} - SMALL_WORDS


def said(wording: str) -> str:
    """A telling or an asking with a mark in place of the value."""
    return put(wording, value="?")


def tellings(dialogue: Dialogue) -> Iterator[str]:
    """What is told, with a mark in place of each value."""
    for message, question in zip(dialogue.messages, dialogue.questions, strict=True):
        text = message["content"]
        yield from (
            text.replace(value, "?") for value in (question.value, question.value.capitalize()) if value in text
        )


@pytest.fixture
def replies(tmp_path: Path) -> Path:
    file = tmp_path / "told_replies.jsonl"
    rows = [
        {"relation": each.name, "other": other, "reply": "So {subject} has {v}?" if other else "So it is {v}?"}
        for each in relations()
        for other in (False, True)
    ]
    file.write_text("\n".join(map(json.dumps, rows)), encoding="utf-8")
    return file


def test_the_assistant_replies_as_the_backbone_does_in_a_share_of_its_answers(
    replies: Path, chat_tokenizer: Any
) -> None:
    stage = {**STAGE, "questions": 60, "answered": 1.0, "together": 0.0, "talk": 0.0, "others": 0.5}

    def answers(share: float) -> list[tuple[Dialogue, str]]:
        batches = training_batches(chat_tokenizer, stages=[{**stage, "replied": share}], replies=replies)
        return [(one, said["content"]) for one in batches.dialogues(0) for said in one.messages[1::2]]

    assert {said for _, said in answers(0.0)} <= set(ACKS)
    for dialogue, said in answers(1.0):
        facts = [question.fact for question in dialogue.questions]
        values = [value for fact in facts for value in (fact.value, fact.replaces) if value]
        assert said in {f"So it is {value}?" for value in values} | {
            f"So {fact.subject} has {value}?" for fact in facts for value in values
        }
    assert {said in ACKS for _, said in answers(0.5)} == {True, False}
    with pytest.raises(ValueError, match="give replies, a file that"):
        training_batches(chat_tokenizer, stages=[{**STAGE, "replied": 0.5}])


def test_a_reply_is_kept_without_its_value_and_name() -> None:
    home = next(each for each in relations() if each.name == "home")
    reply = "Lyon! Ana, Lyonnais are proud of Lyon, Anabel."
    assert (
        reply_template(reply, Fact("Ana", "sister", home, "Lyon"))
        == "{v}! {subject}, Lyonnais are proud of {v}, Anabel."
    )
    assert reply_template(reply, Fact("", "", home, "Ana")) == "Lyon! {v}, Lyonnais are proud of Lyon, Anabel."


def test_bad_told_replies_are_named(tmp_path: Path) -> None:
    file = tmp_path / "bad.jsonl"
    file.write_text('{"relation": "home", "reply": "Nice."}\n', encoding="utf-8")
    with pytest.raises(BadDataError, match=r"bad.jsonl:1: needs relation, other and reply, .* 'other'"):
        ToldReplies(file)
    file.write_text('["home"]\n', encoding="utf-8")
    with pytest.raises(BadDataError, match=r"bad.jsonl:1: needs relation"):
        ToldReplies(file)


def test_a_share_of_the_dialogues_has_chat(chat: Path, chat_tokenizer: Any) -> None:
    stage = {**STAGE, "questions": 60, "filler": 300}

    def longest(share: float) -> set[bool]:
        batches = training_batches(chat_tokenizer, stages=[{**stage, "filler_share": share}], parts=10, chat=str(chat))
        return {
            tokens > 200
            for number in range(10)
            for tokens in sum(part.mask.sum(1) for part in batches[number].passages).tolist()  # type: ignore[union-attr]
        }

    assert longest(0.0) == {False}
    assert longest(1.0) == {True}
    assert longest(0.5) == {True, False}
    with pytest.raises(ValueError, match="Stage 1: filler_share is a share"):
        training_batches(chat_tokenizer, stages=[{**stage, "filler_share": 2}], chat=str(chat))


def test_framed_wordings_are_for_training_alone() -> None:
    framed = Mix(facts=(2, 2), framed=1.0, answered=0.0, talk=0.0, together=0.0)

    def within(text: str, frames: Sequence[str]) -> bool:
        return any(
            text.startswith(before) and text.endswith(after) for before, after in (f.split("{}") for f in frames)
        )

    for dialogue in dialogues(50, framed):
        assert all(within(message, FRAMED_TELLINGS) for message in tellings(dialogue))
        assert all(within(question.ask, FRAMED_QUESTIONS) for question in dialogue.questions)
    assert dialogues(50, framed, "known") == dialogues(50, dataclasses.replace(framed, framed=0.0), "known")


@pytest.fixture
def texts(tmp_path: Path) -> Path:
    """Three files of texts; the first has one with two questions and a long one, the third the long one alone."""

    def line(text: str, ask: str, answer: str) -> str:
        roles = zip(("user", "user", "assistant"), (text, ask, answer), strict=True)
        return json.dumps({"messages": [{"role": role, "content": content} for role, content in roles]}) + "\n"

    folder = tmp_path / "texts"
    folder.mkdir()
    fox, long = "A fox lost its tail.", "The king slept. " * 400
    (folder / "a.jsonl").write_text(
        line(fox, "Who lost it?", "A fox")
        + line(long, "Who slept?", "The king")
        + line(fox, "What was lost?", "A tail")
    )
    (folder / "b.jsonl").write_text(line("Ida sells boats.", "What does Ida sell?", "Boats"))
    (folder / "long.jsonl").write_text(line(long, "Who slept?", "The king"))
    return folder


def test_texts_are_drawn_with_their_questions(texts: Path) -> None:
    count = lambda message: len(message["content"].split())  # noqa: E731
    found = Texts(str(texts / "[ab].jsonl"), count, 100)
    drawn = [found.draw(random.Random(seed)) for seed in range(40)]
    assert {text.history[0]["content"] for text in drawn} == {"A fox lost its tail.", "Ida sells boats."}
    fox = next(text for text in drawn if "fox" in text.history[0]["content"])
    assert set(fox.questions) == {("Who lost it?", "A fox"), ("What was lost?", "A tail")}
    long = Texts(texts / "a.jsonl", count, 2000)
    assert {len(long.draw(random.Random(seed)).history[0]["content"]) for seed in range(40)} == {20, 6400}
    with pytest.raises(BadDataError, match=r"b\.jsonl has no text of at most 2 tokens"):
        Texts(texts / "b.jsonl", count, 2)


def test_bad_texts_are_named(tmp_path: Path) -> None:
    file = tmp_path / "bad.jsonl"
    for messages in (
        [{"role": "user", "content": "Who?"}, {"role": "assistant", "content": "A fox"}],
        [
            {"role": "user", "content": "A fox."},
            {"role": "assistant", "content": "Oh."},
            {"role": "user", "content": "?"},
        ],
    ):
        file.write_text(json.dumps({"messages": messages}) + "\n", encoding="utf-8")
        with pytest.raises(BadDataError, match=r"bad\.jsonl:1: needs a text, a question of the user"):
            Texts(file, lambda message: 1, 100)
    file.write_text("[]\n", encoding="utf-8")
    with pytest.raises(BadDataError, match=r"bad\.jsonl:1: "):
        Texts(file, lambda message: 1, 100)


def test_an_update_has_texts_beside_the_dialogues(texts: Path, chat_tokenizer: Any) -> None:
    stage = {**STAGE, "texts": 2}
    with_texts = training_batches(chat_tokenizer, stages=[stage], texts=str(texts / "[ab].jsonl"), longest_text=100)
    without = training_batches(chat_tokenizer, stages=[STAGE])
    assert with_texts.dialogues(0) == without.dialogues(0)

    def asked(batches: ToldBatches) -> list[str]:
        return [
            chat_tokenizer.decode(ids[mask])
            for part in range(batches.parts)
            for ids, mask in zip(batches[part].queries.ids, batches[part].queries.mask, strict=True)
        ]

    def trained(batches: ToldBatches) -> list[str]:
        queries = [batches[part].queries for part in range(batches.parts)]
        return [
            chat_tokenizer.decode(row[weights > 0])
            for one in queries
            for row, weights in zip(one.ids, one.weights, strict=True)
        ]

    more = Counter(asked(with_texts)) - Counter(asked(without))
    assert not Counter(asked(without)) - Counter(asked(with_texts))
    histories = [
        sum(each[part].passages[0].ids.shape[0] for part in range(each.parts)) for each in (with_texts, without)
    ]
    assert histories[0] == histories[1] + 2
    assert all(any(ask in text for ask in ("Who lost it?", "What was lost?", "What does Ida sell?")) for text in more)
    assert {answer for answer in ("A fox", "A tail", "Boats") if any(answer in text for text in trained(with_texts))}
    with pytest.raises(ValueError, match="give texts, a file that"):
        training_batches(chat_tokenizer, stages=[stage])
    with pytest.raises(ValueError, match="Stage 1: texts must be a whole number, not -1"):
        training_batches(chat_tokenizer, stages=[{**STAGE, "texts": -1}])
