"""Prompts that fit, and the units of retrieval."""

from collections.abc import Sequence

import pytest
from hypothesis import given, settings
from hypothesis import strategies as st

from deltamem.chat import Message
from deltamem_lab.interface import Budget, Document, Entry, as_messages, as_text
from deltamem_lab.methods.fitting import chunks, fit, packed


def length(messages: Sequence[Message]) -> int:
    return sum(len(message["content"].split()) for message in messages)


def render(history: Sequence[Entry], budget: Budget) -> list[Message]:
    return [*as_messages(history), {"role": "user", "content": "and now?"}]


@settings(max_examples=60, deadline=None)
@given(st.lists(st.integers(1, 9), max_size=8), st.integers(2, 30))
def test_what_is_shown_is_the_longest_end_that_fits(sizes: list[int], limit: int) -> None:
    history = [{"role": "user", "content": " ".join([str(number)] * size)} for number, size in enumerate(sizes)]
    shown, cut = fit(render, history, Budget(limit, length))
    assert length(shown) <= limit
    kept = len(shown) - 1
    assert shown[:-1] == history[len(history) - kept :]
    assert cut == (kept < len(history))
    if cut:
        assert length(render(history[len(history) - kept - 1 :], Budget(None, length))) > limit


def test_of_a_long_document_the_end_stays() -> None:
    shown, cut = fit(render, [Document(" ".join(map(str, range(100))), title="numbers")], Budget(13, length))
    assert cut
    assert shown[0]["content"] == "numbers\n90 91 92 93 94 95 96 97 98 99"


def test_a_question_that_is_too_long_is_an_error() -> None:
    with pytest.raises(ValueError, match="alone has 2 tokens, but only 1 fit"):
        fit(render, [Document("text")], Budget(1, length))


def test_what_a_task_cuts_itself_is_left_as_it_cuts_it() -> None:
    def beginning(history: Sequence[Entry], budget: Budget) -> list[Message]:
        return render(history[: budget.most(len(history), lambda number: render(history[:number], budget))], budget)

    history = [Document(f"word {number}") for number in range(9)]
    shown, cut = fit(beginning, history, Budget(7, length))
    assert [message["content"] for message in shown] == ["word 0", "word 1", "and now?"]
    assert cut
    assert fit(beginning, history, Budget(20, length))[1] is False


def test_turns_and_passages() -> None:
    turns = [{"role": role, "content": text} for role, text in (("user", "a"), ("assistant", "b"), ("user", "c"))]
    text = "One sentence. " * 40
    found = chunks([*turns, Document(text, title="t")], 100)
    assert [[as_text(entry) for entry in unit] for unit in found[:2]] == [["a", "b"], ["c"]]
    passages = [entry for unit in found[2:] for entry in unit]
    assert all(isinstance(entry, Document) and len(entry.text) <= 100 and entry.title == "t" for entry in passages)
    assert " ".join(entry.text for entry in passages if isinstance(entry, Document)).split() == text.split()


def test_units_are_put_together_up_to_a_size() -> None:
    turns: list[list[Entry]] = [[Document(" ".join(["word"] * count))] for count in (3, 3, 4, 12, 1, 1)]
    found = packed(turns, 10, lambda text: len(text.split()))
    assert [len(unit) for unit in found] == [3, 1, 2]
    assert [entry for unit in found for entry in unit] == [entry for unit in turns for entry in unit]
    assert packed([], 10, len) == []
    with pytest.raises(ValueError, match="at least one token"):
        packed(turns, 0, len)
