"""Reading a memory: answers with confidence and source, what it does not know, and forgetting one fact."""

from typing import Any

import pytest

import deltamem
from deltamem.demo.adapters import load_demo_adapter
from deltamem.demo.backbone import load_backbone
from deltamem.recall import PROFILE, Calibration, Evidence, Interview, Recollection, WrittenTurn, find_sources
from deltamem.recall.sources import Source, says
from talkers import chat_tokenizer, talker
from tiny import assert_same_state

CITY = "Which city do I live in?"
PET = "What pet do I have?"
TOLD = ("I settled in Lisbon some years ago.", "There is a tortoise at home with me.", "The bus was late on Monday.")


@pytest.fixture(scope="module")
def embedded() -> tuple[Any, Any]:
    model, tokenizer = load_backbone()
    load_demo_adapter(model, "multi")
    return model, tokenizer


def tell(embedded: tuple[Any, Any], *said: str, **options: Any) -> deltamem.Session:
    session = deltamem.Session(*embedded, window=0, **options)
    for text in said:
        session.observe([{"role": "user", "content": text}, {"role": "assistant", "content": "Noted."}])
    return session


@pytest.fixture(scope="module")
def told(embedded: tuple[Any, Any]) -> deltamem.Session:
    return tell(embedded, *TOLD, keep_messages=True)


def test_what_was_told_is_known_with_the_turn_and_the_word_that_wrote_it(told: deltamem.Session) -> None:
    before = told.state
    city, pet = told.recall({"home": CITY, "pet": PET})
    assert (city.name, city.answer, city.known) == ("home", "Lisbon.", True)
    assert (pet.name, pet.answer, pet.known) == ("pet", "tortoise.", True)
    assert city.calibrated
    assert city.confidence > 0.8
    for one, turn, word in ((city, 0, "Lisbon"), (pet, 1, "tortoise")):
        assert one.source is not None
        assert one.source.turn == turn
        assert one.source.messages[0].content == TOLD[turn]
        tokens = [token for message in one.source.messages for token in message.tokens]
        assert max(tokens, key=lambda token: token[1])[0].strip() == word
    assert told.state is before
    assert told.visible == []


def test_the_words_that_came_from_the_memory_are_told_from_those_around_them(
    told: deltamem.Session, embedded: tuple[Any, Any]
) -> None:
    interview = Interview(*embedded)
    assert interview.ask(CITY, told.state).words == ("Lisbon",)
    assert interview.weigh(CITY, "Lisbon.", deltamem.new_state(embedded[0])).words == ()


def test_an_empty_memory_knows_nothing(embedded: tuple[Any, Any]) -> None:
    found = deltamem.Session(*embedded).recall([CITY, PET, PROFILE["fear"]], threshold=0)
    assert [one.known for one in found] == [False] * 3
    assert [one.confidence for one in found] == [0.0] * 3


def test_what_was_not_told_is_not_known(told: deltamem.Session) -> None:
    (found,) = told.recall([PROFILE["birthday"]])
    assert not found.known
    assert found.source is None


def test_the_profile_is_asked_by_default_and_its_questions_differ() -> None:
    assert len(set(PROFILE.values())) == len(PROFILE)


def test_what_a_probe_finds_adds_up_to_the_evidence(told: deltamem.Session, embedded: tuple[Any, Any]) -> None:
    interview = Interview(*embedded)
    evidence = interview.ask(CITY, told.state)
    probe = interview.probe(CITY, evidence.answer, told.state, steps=32)
    assert probe.of(told.state) == pytest.approx(evidence.over_empty, rel=0.1)


def test_sources_are_looked_for_in_the_turns_that_are_given(told: deltamem.Session, embedded: tuple[Any, Any]) -> None:
    interview = Interview(*embedded)
    turns = [
        WrittenTurn.of(interview.text, turn.messages, turn.before, told.roles)
        for turn in told.kept
        if turn.messages is not None
    ]
    assert find_sources(interview, [(CITY, "Lisbon.")], told.state, []) == [None]
    (late,) = find_sources(interview, [(CITY, "Lisbon.")], told.state, turns[1:])
    (whole,) = find_sources(interview, [(CITY, "Lisbon.")], told.state, turns)
    assert whole is not None
    assert late is None or late.share < whole.share


def test_forgetting_a_fact_leaves_the_memory_as_if_it_had_not_been_told(embedded: tuple[Any, Any]) -> None:
    session = tell(embedded, *TOLD, keep_messages=True)
    never = tell(embedded, *TOLD[1:], keep_messages=True)
    done = session.forget("lisbon")
    assert (done.turns, done.exact) == (1, True)
    assert_same_state(session.state, never.state)
    assert [turn.messages for turn in session.kept] == [turn.messages for turn in never.kept]
    with pytest.raises(ValueError, match="rolled back"):
        session.rollback()
    (pet,) = session.recall([PET])
    assert pet.known
    assert pet.source is not None
    assert pet.source.turn == 0


def test_forgetting_what_recall_found_also_forgets_where_it_was_repeated(embedded: tuple[Any, Any]) -> None:
    session = tell(embedded, *TOLD, keep_messages=True)
    session.reply(CITY, max_new_tokens=8, do_sample=False)
    (city,) = session.recall([CITY])
    assert session.forget(city).turns == 2
    assert_same_state(session.state, tell(embedded, *TOLD[1:]).state)
    assert not any(says(turn.messages or (), "Lisbon") for turn in session.kept)


def sentence(answer: str, words: tuple[str, ...], source: int) -> Recollection:
    """An answer as a chat model gives it, with the place of its source."""
    evidence = Evidence(answer, 6, -1.0, -20.0, (-20.0,), words)
    return Recollection("home", CITY, answer, True, 0.9, True, evidence, Source(source, 0.8, ()))


def test_an_answer_in_a_sentence_is_forgotten_where_its_words_were_said(embedded: tuple[Any, Any]) -> None:
    session = tell(embedded, *TOLD, keep_messages=True)
    assert session.forget(sentence("You live in Lisbon.", ("Lisbon",), source=1)).turns == 1
    assert_same_state(session.state, tell(embedded, *TOLD[1:]).state)


def test_an_answer_that_nothing_says_is_forgotten_by_its_source(embedded: tuple[Any, Any]) -> None:
    session = tell(embedded, *TOLD, keep_messages=True)
    assert session.forget(sentence("You live in Portugal.", ("Portugal",), source=0)).turns == 1
    assert_same_state(session.state, tell(embedded, *TOLD[1:]).state)


@pytest.mark.parametrize(
    ("text", "phrases", "said"),
    [
        ("I live in LISBON!", ("lisbon",), True),
        ("I live in Lisbonne.", ("Lisbon",), False),
        ("Ana Lima moved to Rio de Janeiro.", ("Ana", "Rio", "Janeiro"), True),
        ("Ana Lima moved to Rio.", ("Ana", "Rio", "Janeiro"), False),
        ("I get up at 6:15.", ("6:15.",), True),
        ("I was born in Besanc\u0327on.", ("Besan\u00e7on",), True),
        ("我住在里斯本。", ("里斯本",), True),
        ("我住在Lisbon。", ("Lisbon",), True),
    ],
)
def test_a_message_says_whole_words_in_any_form(text: str, phrases: tuple[str, ...], said: bool) -> None:
    assert says([{"role": "user", "content": text}], *phrases) is said


def test_documents_are_kept_and_written_again_too(embedded: tuple[Any, Any]) -> None:
    session = deltamem.Session(*embedded, window=0, keep_messages=True)
    other = deltamem.Session(*embedded, window=0)
    for text in TOLD:
        session.observe(text)
    for text in TOLD[1:]:
        other.observe(text)
    (city,) = session.recall([CITY])
    assert city.source is not None
    assert city.source.messages[0].content == TOLD[0]
    session.forget(city)
    assert_same_state(session.state, other.state)


def test_without_the_text_the_answer_is_made_unlikely(embedded: tuple[Any, Any]) -> None:
    session = tell(embedded, *TOLD)
    (city,) = session.recall([CITY])
    assert city.source is None
    assert not session.forget(city).exact
    (after,) = session.recall([CITY], threshold=0)
    assert after.answer != city.answer
    interview = Interview(*embedded)
    assert interview.weigh(CITY, city.answer, session.state).memory < city.evidence.memory - 2


def test_what_cannot_be_forgotten_is_said_and_changes_nothing(embedded: tuple[Any, Any]) -> None:
    session, plain = tell(embedded, *TOLD, keep_messages=True), tell(embedded, *TOLD)
    before = session.state
    with pytest.raises(ValueError, match="No turn that was kept says 'Paris'"):
        session.forget("Paris")
    with pytest.raises(ValueError, match="keep_messages=True"):
        plain.forget("Lisbon")
    session.observe(iter(["A long ", "text in pieces."]))
    later = session.state
    with pytest.raises(ValueError, match="observed in pieces"):
        session.forget("Lisbon")
    assert session.state is later
    session.rollback()
    assert session.state is before
    assert len(session.kept) == len(TOLD)
    session.freeze()
    with pytest.raises(ValueError, match="frozen"):
        session.forget("Lisbon")


def test_what_is_asked_must_be_a_question() -> None:
    session = deltamem.Session(talker(), chat_tokenizer())
    for wrong, says_what in (([], "at least one"), (["  "], "without text"), (CITY, "sequence or a mapping")):
        with pytest.raises(ValueError, match=says_what):
            session.recall(wrong)
    with pytest.raises(ValueError, match="leaves no room"):
        session.recall(["word " * 600])
    with pytest.raises(ValueError, match="threshold"):
        session.recall([CITY], threshold=2)


def test_a_calibration_makes_rates_of_evidence() -> None:
    def evidence(memory: float, empty: float) -> Evidence:
        return Evidence("Lisbon.", 2, memory, empty, (empty,))

    strong, weak = evidence(-0.1, -20.0), evidence(-4.0, -4.5)
    seen = [strong] * 9 + [strong] + [weak] * 8 + [weak] * 2
    right = [True] * 9 + [False] + [False] * 8 + [True] * 2
    fitted = Calibration.fit(seen, right)
    assert fitted.fitted
    assert fitted.confidence(strong) == pytest.approx(0.9, abs=0.02)
    assert fitted.confidence(weak) == pytest.approx(0.2, abs=0.02)
    assert fitted.confidence(evidence(-1.0, -1.0)) == 0
    with pytest.raises(ValueError, match="right and answers that were wrong"):
        Calibration.fit([strong], [True])
