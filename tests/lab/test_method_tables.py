"""What a table made by hand does in the embedded world, and where it ends."""

from collections.abc import Mapping

import pytest

from deltamem.demo.lexicon import lexicon
from deltamem.demo.world import UNKNOWN
from deltamem_lab.backbone import Backbone
from deltamem_lab.interface import Ask, Decoding, Item, Question
from deltamem_lab.methods import build_method, default_methods, is_control
from deltamem_lab.methods.tables import Told, asked, told
from deltamem_lab.tasks import unseen
from deltamem_lab.tasks.world import BEYOND, WorldTask


@pytest.mark.parametrize(
    ("text", "found"),
    [
        ("I play the cello.", Told(("user", "instrument"), "cello")),
        ("My cousin Ravi's pet is called Pepper.", Told(("Ravi", "pet_name"), "Pepper")),
        ("Actually, Ravi has moved to Oslo.", Told(("Ravi", "city"), "Oslo")),
        ("There is a cat at home with my boss Elsa.", Told(("Elsa", "pet"), "cat")),
        ("My coach Veronica's ticket went missing.", Told(("Veronica", "lost"), "ticket")),
        ("Somebody took my diary last week.", Told(("user", "lost"), "diary")),
        ("The weather is mild again.", None),
    ],
)
def test_a_sentence_of_the_world_is_read(text: str, found: Told | None) -> None:
    assert told(text) == found


def test_a_question_of_the_world_is_read() -> None:
    assert asked("Where do I live?") == ("user", "city")
    assert asked("What is my twin Nora's instrument?") == ("Nora", "instrument")
    assert asked("Name the city I call home.") is None


def ask(task: WorldTask, item: Item, question: Question, protocol: str) -> Ask:
    return Ask(question, lambda shown, budget: task.prompt(item, question, shown, protocol, budget), Decoding(16))


def share(name: str, backbone: Backbone, protocol: str) -> tuple[Mapping[str, float], int]:
    """The right answers by kind of item, and the most bytes kept."""
    task, method = WorldTask(seed=5, dialogues=4), build_method(name, backbone)
    right: dict[str, list[float]] = {}
    most = 0
    for item in task.items(protocol):
        method.reset(0)
        method.observe(item.history)
        answers = method.answer([ask(task, item, question, protocol) for question in item.questions])
        for question, answer in zip(item.questions, answers, strict=True):
            right.setdefault(item.source, []).append(task.score(item, question, answer.text, protocol)["exact"])
            most = max(most, answer.cost.stored_bytes)
            assert (answer.cost.write_tokens, answer.cost.prompt_tokens) == (0, 0)
    return {source: sum(scores) / len(scores) for source, scores in right.items()}, most


def test_expressions_answer_the_world_from_a_few_bytes(backbone: Backbone) -> None:
    found, most = share("regex", backbone, "world")
    assert set(found.values()) == {1.0}
    assert most < 300


def test_a_matrix_of_as_many_numbers_as_a_memory_answers_nearly_all(backbone: Backbone) -> None:
    found, most = share("delta_table", backbone, "world")
    assert min(found.values()) > 0.9
    assert most == 24 * 64 * 4 == backbone.empty("multi").nbytes


def test_beyond_the_world_tables_end(backbone: Backbone) -> None:
    expressions, most = share("regex", backbone, BEYOND)
    assert expressions["many people"] == expressions["new values"] == 1
    assert expressions["new wordings"] == expressions["new attributes"] == pytest.approx(1 / 5)
    # It has no idea what matters, and keeps everything; the matrix cannot.
    assert most > backbone.empty("multi").nbytes
    matrix, _ = share("delta_table", backbone, BEYOND)
    assert matrix["many people"] < 0.5


def test_they_are_controls_that_run_when_asked_for(backbone: Backbone) -> None:
    assert is_control("regex")
    assert is_control("delta_table")
    assert {"regex", "delta_table"}.isdisjoint(default_methods(backbone))


def test_what_is_unseen_is_not_in_the_world() -> None:
    kinds = lexicon().attributes
    assert unseen.ATTRIBUTES.keys().isdisjoint(kinds)
    for name, values in unseen.VALUES.items():
        assert set(values).isdisjoint(value for kind in kinds.values() for value in kind.values)
        assert name in kinds
    for name, wordings in unseen.ASKS.items():
        assert set(wordings).isdisjoint(kinds[name].ask)


def test_the_crowds_text_is_far_larger_than_a_memory(backbone: Backbone) -> None:
    for item in WorldTask(seed=2, dialogues=1).items(BEYOND):
        size = sum(len(str(entry["content"]).encode()) for entry in item.history)  # type: ignore[index]
        if item.source == "many people":
            assert size > 4 * backbone.empty("multi").nbytes
            assert len(item.history) == 2 * 604
            assert backbone.length(item.history, prompt=False) > 5000  # type: ignore[arg-type]
        assert len(item.questions) == 5
        assert item.questions[-1].answers == (UNKNOWN,)
        # Whoever never was told of is not asked for as if they were.
        assert [question.category for question in item.questions] == [item.source] * 4 + ["never told"]
