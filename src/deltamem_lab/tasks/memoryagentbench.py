"""MemoryAgentBench (Hu et al., 2025): long contexts that are read once, and 3,671 questions in four competencies."""

import json
from collections.abc import Collection, Iterable, Iterator, Sequence
from pathlib import Path
from typing import Any

from deltamem.chat import Message
from deltamem_lab.interface import Average, Budget, Decoding, Document, Entry, Item, PublishedSize, Question, as_text
from deltamem_lab.metrics.judge import LONGMEMEVAL_PROMPTS, SUMMARY_PROMPTS, Judge, judge_prompt
from deltamem_lab.metrics.judge import summary_prompts as read_summary_prompts
from deltamem_lab.metrics.memoryagentbench import mab_scores, mab_scores_as_released
from deltamem_lab.metrics.movies import film_names
from deltamem_lab.tasks.chunks import chunks_of, joined
from deltamem_lab.tasks.data import BadDataError, HubData, Row, digest, hub_file, need, rows_from, texts
from deltamem_lab.tasks.mab_prompts import (
    clip,
    clip_to_room,
    from_memory,
    kind_of,
    official_messages,
    released_messages,
)
from deltamem_lab.tasks.registry import task

SPLITS = ("Accurate_Retrieval", "Test_Time_Learning", "Long_Range_Understanding", "Conflict_Resolution")
HUB = HubData("ai-hyz/MemoryAgentBench", tuple(f"data/{split}-00000-of-00001.parquet" for split in SPLITS))
_CHUNK = 4_000
_CLIP = 120_000
_ANSWER_TOKENS = {
    "eventqa": 40,
    "longmemeval": 50,
    "ruler": 50,
    "factconsolidation": 10,
    "icl": 20,
    "recsys": 300,
    "detective": 2000,
    "infbench": 1200,
}


@task
class MemoryAgentBench:
    """MemoryAgentBench's contexts and questions; a context is read as documents of at most 4,000 characters.

    The protocols: ``release`` is the release's one prompt and lenient score, its context clipped to 120,000
    characters, then to the tokens there is room for, by cutting out of the first half; ``official`` the authors'
    prompts and scores for each source, the oldest documents given up if there is no room; ``no_context`` is
    ``release`` with nothing shown. All are greedy. Categories are the competencies.

    The authors ask a judge about ``longmemeval`` and ``infbench``, which ``official`` runs with a judge only.

    Rows without ``context`` (with ``question``, ``answers``, ``source`` and ``split``) make questions about nothing,
    to find out what can be answered without memory.

    Args:
        data: rows as on the Hub, in JSON or Parquet; the Hub's four splits if not given.
        revision: of the Hub's data.
        sources: the sources to ask, by the start of their names; all if not given.
        movies: ``entity2id.json``, for ``recsys``; with the Hub's data it is fetched.
        judge: for ``official`` with ``longmemeval`` and ``infbench``.
        summary_prompts: the authors' ``llm_based_eval/summarization_evaluate.py``, to ask about ``infbench`` in their
            words; by default in ours, whose scores are not theirs.

    Raises:
        BadDataError: the data is not as it should be; the message names the row.
        ValueError: no row is of the sources, or recommendations have no names of films.
    """

    name = "memoryagentbench"
    # Contexts by the lengths in the sources' names and in the benchmark's paper. Nearly all are clipped at 120,000
    # characters.
    size = PublishedSize(146, 3671, 186_000, 28_700, 150, 116)
    protocols = ("release", "official", "no_context")
    main_metric = "score"
    averages: tuple[Average, ...] = ("question", "category", "source")

    def __init__(
        self,
        data: Path | None = None,
        *,
        revision: str | None = None,
        sources: Collection[str] = (),
        movies: Path | None = None,
        judge: Judge | None = None,
        summary_prompts: Path | None = None,
    ) -> None:
        rows, self.revision = rows_from(data, HUB, revision)
        self.judge = judge
        self._summary_prompts = read_summary_prompts(summary_prompts) if summary_prompts else SUMMARY_PROMPTS
        self.settings = judge.settings((*LONGMEMEVAL_PROMPTS, *self._summary_prompts)) if judge else {}
        wanted = tuple(sources)
        self._items = [item for item in _items(rows) if not wanted or item.source.startswith(wanted)]
        if not self._items:
            raise ValueError(f"There is no source that begins with {' or '.join(wanted)} in {self.revision}.")
        self._movies: dict[int, str] | None = None
        if any(kind_of(item.source) == "recsys" for item in self._items):
            if movies is None and data is not None:
                raise ValueError(
                    "Recommendations need the films' names: give the benchmark's entity2id.json (option movies), or "
                    "name other sources (option sources)."
                )
            names = movies or hub_file(HUB.name, "entity2id.json", revision)
            self._movies = _film_names(names)
            self.settings |= {"movies": digest(names)}

    def items(self, protocol: str, limit: int | None = None) -> Iterator[Item]:
        """The contexts in the data's order.

        Raises:
            ValueError: ``official`` would need a judge that there is not.
        """
        if protocol == "official" and not self.judge:
            judged = {"infbench", "longmemeval"}
            if found := sorted({item.source for item in self._items if kind_of(item.source) in judged}):
                raise ValueError(
                    f"The authors' score of {', '.join(found)} comes from a judge: give one (option judge), or name "
                    "other sources (option sources)."
                )
        yield from self._items[:limit]

    def prompt(
        self, item: Item, question: Question, history: Sequence[Entry], protocol: str, budget: Budget
    ) -> list[Message]:
        """The release's message, or the authors' for the item's source."""
        if protocol == "official" and history:
            return self._official(item, question, list(history), budget)
        asked = question.text.strip()
        if protocol == "no_context" or not history:
            return from_memory(asked)
        return released_messages(clip_to_room(clip(_context(item, history), _CLIP), asked, budget), asked)

    def decoding(self, item: Item, question: Question, protocol: str) -> Decoding:
        """Greedy; how many tokens depends on the source."""
        return Decoding(_ANSWER_TOKENS[kind_of(item.source)])

    def score(self, item: Item, question: Question, output: str, protocol: str) -> dict[str, float]:
        """The scores of the item's source.

        Raises:
            openai.OpenAIError: the judge cannot be reached.
        """
        if protocol != "official":
            return mab_scores_as_released(item.source, output, question.answers, self._movies)
        scores = mab_scores(item.source, output, question.answers, self._movies)
        if "score" not in scores and self.judge:
            if kind_of(item.source) == "infbench":
                points = question.extra["points"]
                return scores | self.judge.summary_scores(output, question.answers[0], points, self._summary_prompts)
            kind = str(question.extra["kind"])
            abstention = "_abs" in question.id
            prompt = judge_prompt(kind, question.text, question.answers[0], output, abstention=abstention)
            scores["score"] = float(self.judge.says_yes(prompt))
        return scores

    def _official(self, item: Item, question: Question, shown: list[Entry], budget: Budget) -> list[Message]:
        pieces = [joined([entry]) for entry in shown]

        def render(last: int) -> list[Message]:
            return official_messages(item.source, pieces[len(pieces) - last :], question.text)

        return render(budget.most(len(pieces), render))


def _context(item: Item, history: Sequence[Entry]) -> str:
    """What is shown, as one text: the context to the letter if it is all of it or its end, else excerpts kept apart."""
    if tuple(history) == item.history[len(item.history) - len(history) :]:
        return "".join(as_text(entry) for entry in history)
    return joined(history)


def _items(rows: Iterable[Row]) -> list[Item]:
    items: list[Item] = []
    alone: dict[str, list[Question]] = {}
    splits: dict[str, str] = {}
    for place, row in rows:
        try:
            if "context" in row:
                items.append(_item(row, f"{len(items)}"))
            else:
                source, question = _question_alone(row)
                alone.setdefault(source, []).append(question)
                splits[source] = question.category
        except (ValueError, TypeError, IndexError) as error:
            raise BadDataError(f"{place} is not a row of MemoryAgentBench: {error}.") from error
    items += [Item(f"{source}-alone", (), tuple(questions), source) for source, questions in alone.items()]
    return items


def _item(row: dict[str, Any], number: str) -> Item:
    details = need(row, "metadata", dict)
    source, split = need(details, "source", str), _split(row)
    kind_of(source)
    asked, golds = texts(row, "questions"), need(row, "answers", list)
    if len(asked) != len(golds):
        raise ValueError(f"it has {len(asked)} questions but {len(golds)} lists of answers")
    kinds, ids = details.get("question_types") or [], details.get("question_ids") or details.get("qa_pair_ids") or []
    points = [str(point) for point in details.get("keypoints") or []]
    questions = tuple(
        Question(
            # The benchmark's ids repeat between rows and are sometimes missing.
            id=f"{place}-{ids[place]}" if place < len(ids) else f"{place}",
            text=text,
            answers=_answers(golds[place]),
            category=split,
            extra={"kind": kinds[place] if place < len(kinds) else "", "points": points},
        )
        for place, text in enumerate(asked)
    )
    history = tuple(Document(chunk) for chunk in chunks_of(need(row, "context", str), _CHUNK))
    return Item(f"{source}-{number}", history, questions, source)


def _question_alone(row: dict[str, Any]) -> tuple[str, Question]:
    source, name = need(row, "source", str), need(row, "qa_pair_id", str)
    kind_of(source)
    text = need(row, "question", str)
    return source, Question(
        name, text, _answers(row.get("answers")), category=_split(row), extra={"kind": "", "points": []}
    )


def _split(row: dict[str, Any]) -> str:
    split: str = need(row, "split", str)
    if split not in SPLITS:
        raise ValueError(f"its split {split!r} is none of {', '.join(SPLITS)}")
    return split


def _answers(value: Any) -> tuple[str, ...]:
    golds = [value] if isinstance(value, str) else value
    if not isinstance(golds, list) or not golds or not all(isinstance(gold, str) for gold in golds):
        raise ValueError("answers must be texts, at least one for each question")
    return tuple(golds)


def _film_names(path: Path) -> dict[int, str]:
    try:
        entities = json.loads(path.read_text("utf-8"))
        return film_names({str(address): int(number) for address, number in entities.items()})
    except (OSError, ValueError, AttributeError, TypeError) as error:
        raise BadDataError(f"{path} is not the file of films' names, entity2id.json: {error}.") from error
