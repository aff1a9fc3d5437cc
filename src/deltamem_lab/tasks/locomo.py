"""LoCoMo (Maharana et al., 2024): ten conversations over months, and 1,986 questions about them in five categories.

The data may not be used commercially (CC BY-NC 4.0), so it is not part of this package. Without a file it is
downloaded from its authors' repository and compared with a known checksum.
"""

import hashlib
import urllib.request
from collections.abc import Collection, Iterator, Sequence
from dataclasses import replace
from itertools import groupby
from pathlib import Path
from typing import Any

from deltamem.chat import Message
from deltamem.files import write_atomically
from deltamem_lab.interface import (
    Average,
    Budget,
    Decoding,
    Document,
    Entry,
    Item,
    PublishedSize,
    Question,
    as_messages,
    bare_text,
    date_of,
)
from deltamem_lab.metrics.judge import LOCOMO_PROMPTS, Judge
from deltamem_lab.metrics.locomo import (
    ADVERSARIAL,
    CATEGORIES,
    NO_INFORMATION,
    TEMPORAL,
    locomo_score,
    locomo_score_as_released,
    official_answer,
    released_answer,
)
from deltamem_lab.tasks.data import BadDataError, digest, items_from, need, read_rows
from deltamem_lab.tasks.registry import task

URL = "https://raw.githubusercontent.com/snap-research/locomo/{}/data/locomo10.json"
SHA256 = "79fa87e90f04081343b8c8debecb80a9a6842b76a7aa537dc9fdf651ea698ff4"
_SYSTEM = (
    "You are a helpful, respectful and honest assistant whose job is to understand the following conversation and "
    "answer questions based on the conversation. If you don't know the answer to a question, please don't share "
    "false information."
)
# The authors' spelling.
_INTRODUCTION = (
    "Below is a conversation between two people: {} and {}. The conversation takes place over multiple days and the "
    "date of each conversation is wriiten at the beginning of the conversation.\n\n"
)
_ASK = (
    "Based on the above conversations, write a short answer for the following question in a few words. Do not write "
    "complete and lengthy sentences. Answer with exact words from the conversations whenever possible.\n\n"
    "Question: {}"
)
_DATE_HINT = " Use DATE of CONVERSATION to answer with an approximate date."
_CHOICE = " (a) {} (b) {}. Select the correct answer by writing (a) or (b)."
_HEADING = "\nDATE: {}\nCONVERSATION:\n"
_REPLAY = "history_replay"
_ANSWER_TOKENS = 50
_SEED = 42


@task
class LoCoMo:
    """LoCoMo's questions, answered after reading a conversation of two people.

    A history is the conversation's turns, each a document dated as its session is. The protocols: ``release`` shows
    sessions newest first, turns in order within, and leaves out the last sessions if there is no room, and of the
    last one shown its first turns; ``official``, the authors' own for open models, shows them in order and leaves
    out the first turns; ``no_context`` shows none; ``history_replay`` is the release's other way, in which a history
    is the system prompt and one message of the user a session, and the question one more: the first sessions give way.
    The method ``ADAPTER+replay`` answers as the release does there. All sample as the authors do.

    Args:
        data: ``locomo10.json`` or a file like it; downloaded if not given.
        revision: of the authors' repository, from which the data is downloaded.
        categories: which categories to ask. The paper leaves out 5, the adversarial one.
        audit: a file of rows with ``sample_id`` and ``question``, the questions whose gold answer is known to be
            wrong. The others then form the subset ``audited``.
        judge: says whether an answer is right in other words: the score ``judged`` beside F1, of the categories 1 to 4.

    Raises:
        BadDataError: a file is not as it should be; the message names the row.
        ValueError: there is no such category.
    """

    name = "locomo"
    # Counted on the whole file.
    size = PublishedSize(10, 1540, 26_300, 23_000, 135, 50)
    protocols = ("release", "official", "no_context", "history_replay")
    main_metric = "f1"
    averages: tuple[Average, ...] = ("question", "category")

    def __init__(
        self,
        data: Path | None = None,
        *,
        revision: str | None = None,
        categories: Collection[int] = (1, 2, 3, 4),
        audit: Path | None = None,
        judge: Judge | None = None,
    ) -> None:
        if unknown := set(categories) - set(CATEGORIES):
            raise ValueError(f"LoCoMo's categories are 1 to 5, not {sorted(unknown)}.")
        path = data or _downloaded(revision or "main")
        self.revision = digest(path)
        self.judge = judge
        self.settings = {} if audit is None else {"audit": digest(audit)}
        self.settings |= judge.settings(LOCOMO_PROMPTS) if judge else {}
        self._categories = frozenset(categories)
        self._wrong = None if audit is None else _wrong_keys(audit)
        self._items = items_from(read_rows(path), self._item, "a conversation of LoCoMo")

    def items(self, protocol: str, limit: int | None = None) -> Iterator[Item]:
        """The conversations; those without a question of the categories are left out."""
        items = [item for item in self._items if item.questions][:limit]
        yield from (
            (replace(item, history=_as_sessions(item.history)) for item in items) if protocol == _REPLAY else items
        )

    def prompt(
        self, item: Item, question: Question, history: Sequence[Entry], protocol: str, budget: Budget
    ) -> list[Message]:
        """The authors' messages: a system prompt, the conversation, the question."""
        asked = _ASK.format(_asked(question))
        if protocol == "no_context" or not history:
            return _messages(asked)
        if protocol == _REPLAY:
            sessions = [message for message in as_messages(history) if message["role"] != "system"]

            def replayed(shown: int) -> list[Message]:
                opening, question = _messages(asked)
                return [opening, *sessions[len(sessions) - shown :], question]

            return replayed(budget.most(len(sessions), replayed))
        start = _INTRODUCTION.format(*item.extra["speakers"])
        if protocol == "release":
            return _released(start, history, asked, budget)

        def render(shown: Sequence[Entry]) -> list[Message]:
            return _messages(f"{start}{''.join(_sessions(shown))}\n\n{asked}" if shown else asked)

        last = budget.most(len(history), lambda number: render(history[len(history) - number :]))
        return render(history[len(history) - last :])

    def decoding(self, item: Item, question: Question, protocol: str) -> Decoding:
        """Sampling at temperature 0.4 from the ten likeliest.

        The seed is 42 plus the question's place among its conversation's questions of the categories asked.
        """
        return Decoding(_ANSWER_TOKENS, temperature=0.4, top_p=0.9, top_k=10, seed=_SEED + question.extra["index"])

    def score(self, item: Item, question: Question, output: str, protocol: str) -> dict[str, float]:
        """F1 by the rules of the question's category, and what the judge says if there is one.

        Raises:
            openai.OpenAIError: the judge cannot be reached.
        """
        gold, category = question.answers[0], question.extra["category"]
        if protocol == "official":
            scores = {"f1": locomo_score(official_answer(output, question.options), gold, category)}
        else:
            scores = {"f1": locomo_score_as_released(released_answer(output, question.options), gold, category)}
        if self.judge and category != ADVERSARIAL:
            scores["judged"] = float(self.judge.says_correct(question.text, gold, output))
        return scores

    def _item(self, row: dict[str, Any]) -> Item:
        name, conversation = need(row, "sample_id", str), need(row, "conversation", dict)
        questions: list[Question] = []
        for number, one in enumerate(need(row, "qa", list)):
            question = self._question(name, number, len(questions), one)
            if question.extra["category"] in self._categories:
                questions.append(question)
        speakers = [need(conversation, who, str) for who in ("speaker_a", "speaker_b")]
        return Item(name, tuple(_turns(conversation)), tuple(questions), extra={"speakers": speakers})

    def _question(self, item: str, number: int, index: int, row: dict[str, Any]) -> Question:
        category, text = need(row, "category", int), need(row, "question", str)
        if category not in CATEGORIES:
            raise ValueError(f"question {number + 1} is of category {category}")
        options: tuple[str, ...] = ()
        if category == ADVERSARIAL:
            options = _options(item, index, str(row.get("answer", row.get("adversarial_answer", NO_INFORMATION))))
        elif row.get("answer") is None:
            raise ValueError(f"question {number + 1} has no answer")
        # A few gold answers are numbers.
        answer = NO_INFORMATION if category == ADVERSARIAL else str(row["answer"])
        right = self._wrong is not None and (item, text) not in self._wrong
        return Question(
            id=f"{item}-{number}",
            text=text,
            answers=(answer,),
            options=options,
            category=CATEGORIES[category],
            subsets=("audited",) if right else (),
            extra={"category": category, "index": index, "evidence": list(row.get("evidence", []))},
        )


def _turns(conversation: dict[str, Any]) -> Iterator[Document]:
    numbers = sorted(int(key.split("_")[1]) for key in conversation if key.split("_")[-1].isdigit())
    for number in numbers:
        turns = need(conversation, f"session_{number}", list)
        date = need(conversation, f"session_{number}_date_time", str) if turns else ""
        for turn in turns:
            text = f'{need(turn, "speaker", str)} said, "{need(turn, "text", str)}"'
            caption = turn.get("blip_caption")
            # A picture stands on a line of its own, as the authors have it.
            yield Document(f"{text}\n and shared {caption}." if caption else text, date=date)


def _as_sessions(history: Sequence[Entry]) -> tuple[Message, ...]:
    """A history as the release replays it: the system prompt, and a message of the user a session."""
    told: list[Message] = [{"role": "user", "content": session.strip()} for session in _sessions(history)]
    return ({"role": "system", "content": _SYSTEM}, *told)


def _released(start: str, history: Sequence[Entry], asked: str, budget: Budget) -> list[Message]:
    """The release's prompt: as many turns as there is room for, counted in tokens of their texts.

    Sessions are taken from the first on, and the turns of each from its last. With the first turn without room all
    ends; the heading of its session stands there all the same. The release does not count what the chat template and
    the system prompt add; here what they would have too much is left out as well.
    """
    if budget.tokens is None:
        return _messages(f"{start}{''.join(reversed(_sessions(history)))}\n\n{asked}")
    room = budget.tokens
    while True:
        shown = _newest_first(history, room - _count(start, budget) - _count(asked, budget), budget)
        messages = _messages(f"{start}{shown}\n\n{asked}")
        over = 0 if budget.fits(messages) else budget.length(messages) - budget.tokens
        if not over or room <= 0:
            return messages
        room -= over


def _newest_first(history: Sequence[Entry], room: int, budget: Budget) -> str:
    sessions, used = "", 0
    for date, turns in groupby(history, key=date_of):
        heading, shown, full = _HEADING.format(date), "", False
        for turn in map(_turn, reversed(list(turns))):
            if full := used + _count(heading.lstrip() + turn, budget) >= room:
                break
            shown = turn + shown
            used += _count(turn, budget)
        sessions = heading + shown + sessions
        if full:
            break
    return sessions


def _count(text: str, budget: Budget) -> int:
    return len(budget.tokenizer.encode(text))


def _sessions(history: Sequence[Entry]) -> list[str]:
    return [_HEADING.format(date) + "".join(map(_turn, turns)) for date, turns in groupby(history, key=date_of)]


def _turn(entry: Entry) -> str:
    """A turn and the white space after it, which the authors' code has twice where no picture is shared."""
    text = bare_text(entry)
    return f"{text}\n\n" if text.endswith('"') else f"{text}\n"


def _asked(question: Question) -> str:
    if question.extra["category"] == TEMPORAL:
        return question.text + _DATE_HINT
    return question.text + _CHOICE.format(*question.options) if question.options else question.text


def _options(item: str, index: int, tempting: str) -> tuple[str, str]:
    """The two choices of an adversarial question, on the sides that the release draws by its place."""
    even = hashlib.sha256(f"{_SEED}|{item}|{index}|cat5".encode()).digest()[7] % 2 == 0
    return (NO_INFORMATION, tempting) if even else (tempting, NO_INFORMATION)


def _messages(asked: str) -> list[Message]:
    return [{"role": "system", "content": _SYSTEM}, {"role": "user", "content": asked}]


def _wrong_keys(path: Path) -> frozenset[tuple[str, str]]:
    found = set()
    for place, row in read_rows(path):
        try:
            found.add((need(row, "sample_id", str), need(row, "question", str)))
        except ValueError as error:
            raise BadDataError(f"{place} does not name a question of LoCoMo: {error}.") from None
    return frozenset(found)


def _downloaded(revision: str) -> Path:
    """The data in the user's cache, fetched the first time.

    Raises:
        BadDataError: it cannot be fetched, or is not what it was.
    """
    path = Path.home() / ".cache" / "deltamem" / "locomo10.json"
    if not path.exists():
        address = URL.format(revision)
        try:
            with urllib.request.urlopen(address, timeout=60) as answer:
                data = answer.read()
        except OSError as error:
            raise BadDataError(f"Cannot fetch {address} ({error}); pass a file with --data.") from None
        if hashlib.sha256(data).hexdigest() != SHA256:
            raise BadDataError(f"{address} is not the file behind the published scores; pass your file with --data.")
        write_atomically(path, data)
    return path
