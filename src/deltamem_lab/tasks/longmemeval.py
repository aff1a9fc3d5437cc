"""LongMemEval (Wu et al., 2024): 500 questions, each about its own long history of chats with an assistant."""

from collections.abc import Iterator, Sequence
from itertools import groupby
from pathlib import Path
from typing import Any

from deltamem.chat import Message
from deltamem_lab.interface import (
    Average,
    Budget,
    Document,
    Entry,
    Item,
    PublishedSize,
    Question,
    bare_text,
    date_of,
)
from deltamem_lab.metrics.judge import LONGMEMEVAL_PROMPTS, QUESTION_TYPES, Judge, judge_prompt
from deltamem_lab.metrics.text import contains, normalise, token_f1
from deltamem_lab.tasks.data import FromFile, HubData, items_from, need, rows_from, texts
from deltamem_lab.tasks.registry import task

HUB = HubData("xiaowu0162/longmemeval-cleaned", ("longmemeval_s_cleaned.json",))
_ASK = "Current Date: {date}\nQuestion: {question}\nAnswer:"
_SHOWN = (
    "I will give you several history chats between you and a user. Please answer the question based on the relevant "
    "chat history.\n\n\nHistory Chats:\n\n{history}\n\n"
)
_ABSTENTION = "_abs"
_ADMISSIONS = ("don't know", "do not know", "not mention", "no information", "not enough information", "cannot answer")


@task
class LongMemEval(FromFile):
    """LongMemEval's questions, one an item; a history is the turns, each dated as its session is.

    The protocols: ``official`` is the authors' prompt with whole sessions in the order of their dates, cut at the end
    if there is no room, and no chain of thought; ``no_context`` shows none. Both are greedy.

    The authors' score, ``judged``, comes from a language model. Without one the main metric is ``lexical``, which
    is only whether the normalised gold answer stands in the answer (for questions that cannot be answered: whether
    the answer admits it). It is another quantity: it is 0 for many right answers in other words, so the two are
    never averaged or compared.

    Args:
        data: ``longmemeval_s.json``, ``longmemeval_oracle.json`` or a file like them; the Hub's if not given.
        revision: of the Hub's data. The cleaned version gives other scores than the first.
        judge: the judge, if there is one.

    Raises:
        BadDataError: the data is not as it should be; the message names the row.
    """

    name = "longmemeval"
    # As its authors say.
    size = PublishedSize(500, 500, 115_000, 115_000, 50, 500)
    protocols = ("official", "no_context")
    averages: tuple[Average, ...] = ("question", "category")

    def __init__(self, data: Path | None = None, *, revision: str | None = None, judge: Judge | None = None) -> None:
        rows, self.revision = rows_from(data, HUB, revision)
        self.judge = judge
        self.settings = judge.settings(LONGMEMEVAL_PROMPTS) if judge else {}
        self.main_metric = "judged" if judge else "lexical"
        self._items = items_from(rows, _item, "a question of LongMemEval")

    def prompt(
        self, item: Item, question: Question, history: Sequence[Entry], protocol: str, budget: Budget
    ) -> list[Message]:
        """The authors' single message: the chats, the date, the question."""
        asked = _ASK.format(date=question.extra["date"], question=question.text)
        shown = [] if protocol == "no_context" else list(history)

        def render(turns: int) -> list[Message]:
            content = _SHOWN.format(history=_sessions(shown[:turns])) + asked if turns else asked
            return [{"role": "user", "content": content}]

        return render(budget.most(len(shown), render))

    def score(self, item: Item, question: Question, output: str, protocol: str) -> dict[str, float]:
        """The lexical scores, and the judge's if there is one.

        Raises:
            openai.OpenAIError: the judge cannot be reached.
        """
        gold, unanswerable = question.answers[0], bool(question.extra["abstention"])
        if unanswerable:
            lexical = float(any(words in output.lower().replace("’", "'") for words in _ADMISSIONS))
        else:
            # Nothing can be seen of a gold answer without a word, so it is in no answer.
            lexical = contains(output, gold) if normalise(gold) else 0.0
        scores = {"lexical": lexical, "f1": token_f1(output, gold)}
        if self.judge:
            prompt = judge_prompt(question.category, question.text, gold, output, abstention=unanswerable)
            scores["judged"] = float(self.judge.says_yes(prompt))
        return scores


def _item(row: dict[str, Any]) -> Item:
    name, kind = need(row, "question_id", str), need(row, "question_type", str)
    if kind not in QUESTION_TYPES:
        raise ValueError(f"its type {kind!r} is none of {', '.join(QUESTION_TYPES)}")
    if row.get("answer") is None:
        raise ValueError("it has no answer")
    unanswerable = _ABSTENTION in name
    question = Question(
        id=name,
        text=need(row, "question", str),
        # Some gold answers are numbers.
        answers=(str(row["answer"]),),
        category=kind,
        subsets=("abstention",) if unanswerable else (),
        extra={"date": need(row, "question_date", str), "abstention": unanswerable},
    )
    return Item(name, tuple(_turns(row)), (question,))


def _turns(row: dict[str, Any]) -> Iterator[Document]:
    dates, sessions = texts(row, "haystack_dates"), need(row, "haystack_sessions", list)
    if len(dates) != len(sessions):
        raise ValueError(f"it has {len(sessions)} sessions but {len(dates)} dates")
    # Dates are written year first, so they sort as texts; sessions of a date stay in their order.
    for date, session in sorted(zip(dates, sessions, strict=True), key=lambda pair: pair[0]):
        for turn in session:
            yield Document(f"{need(turn, 'role', str)}: {need(turn, 'content', str).strip()}", date=date)


def _sessions(history: Sequence[Entry]) -> str:
    blocks = []
    by_date = groupby(history, key=date_of)
    for number, (date, turns) in enumerate(by_date, start=1):
        said = "".join(f"\n\n{bare_text(turn)}" for turn in turns)
        blocks.append(f"\n### Session {number}:\nSession Date: {date}\nSession Content:\n{said}\n")
    return "".join(blocks)
