"""HotpotQA (Yang et al., 2018), distractor setting: ten passages, two of which answer the question together."""

from collections.abc import Iterator, Sequence
from pathlib import Path
from typing import Any

from deltamem.chat import Message
from deltamem.train.data.converters.hotpotqa import passages_of
from deltamem_lab.interface import Average, Budget, Document, Entry, Item, PublishedSize, Question, bare_text
from deltamem_lab.metrics.text import exact, first_line, normalise_as_released, strict_f1, token_f1_as_released
from deltamem_lab.tasks.data import FromFile, HubData, items_from, need, rows_from
from deltamem_lab.tasks.registry import task

HUB = HubData("hotpotqa/hotpot_qa", ("distractor/validation-00000-of-00001.parquet",))
_INSTRUCTIONS = "Answer the question using only the passages below.\nReply with a short span or yes/no only."
_NOTHING = "No passages provided."


@task
class HotpotQA(FromFile):
    """HotpotQA's questions, one an item.

    The protocols: ``release`` is the release's prompt and scores; ``official`` the same prompt with the scores of
    the benchmark's own script; ``no_context`` shows no passage and scores as the release does. All are greedy.

    Args:
        data: the official JSON, rows as on the Hub, or Parquet; the Hub's validation split if not given.
        revision: of the Hub's data.

    Raises:
        BadDataError: the data is not as it should be; the message names the row.
    """

    name = "hotpotqa"
    # From the first 100.
    size = PublishedSize(7405, 7405, 1465, 1555, 57, 32)
    protocols = ("release", "official", "no_context")
    main_metric = "em"
    averages: tuple[Average, ...] = ("question", "category")

    def __init__(self, data: Path | None = None, *, revision: str | None = None) -> None:
        rows, self.revision = rows_from(data, HUB, revision)
        self._items = items_from(rows, _item, "a question of HotpotQA")

    def prompt(
        self, item: Item, question: Question, history: Sequence[Entry], protocol: str, budget: Budget
    ) -> list[Message]:
        """The release's single message: instructions, numbered passages, the question.

        A passage without text is left out and keeps its number.
        """
        shown = [] if protocol == "no_context" else history
        passages = [f"Passage {number} - {_titled(entry)}" for number, entry in enumerate(shown, 1) if bare_text(entry)]
        context = "\n\n".join(passages) or _NOTHING
        text = f"{_INSTRUCTIONS}\n\n{context}\n\nQuestion: {question.text.strip()}\nAnswer:"
        return [{"role": "user", "content": text}]

    def score(self, item: Item, question: Question, output: str, protocol: str) -> dict[str, float]:
        """Exact match and F1 of the answer's first line."""
        scores = hotpotqa_scores if protocol == "official" else hotpotqa_scores_as_released
        return scores(output, question.answers[0])


def _item(row: dict[str, Any]) -> Item:
    name = str(row.get("_id") or row.get("id") or "")
    if not name:
        raise ValueError("it has no id")
    question = Question(
        id=name,
        text=need(row, "question", str),
        answers=(need(row, "answer", str).strip(),),
        category=str(row.get("type") or "untyped"),
        subsets=(str(row["level"]),) if row.get("level") else (),
    )
    return Item(name, tuple(_passages(row)), (question,))


def _passages(row: dict[str, Any]) -> Iterator[Document]:
    for title, sentences in passages_of(row):
        yield Document(" ".join(filter(None, map(str.strip, sentences))), title=title)


def _titled(entry: Entry) -> str:
    return f"{entry.title}:\n{entry.text}" if isinstance(entry, Document) else bare_text(entry)


def hotpotqa_scores(output: str, gold: str) -> dict[str, float]:
    """Exact match and F1 by the official script: punctuation deleted, a wrong yes or no scores nothing."""
    answer = first_line(output)
    return {"em": exact(answer, gold), "f1": strict_f1(answer, gold)}


def hotpotqa_scores_as_released(output: str, gold: str) -> dict[str, float]:
    """Exact match and F1 of the first line by the release's rules: punctuation to spaces, no rule for yes and no."""
    answer = first_line(output)
    return {
        "em": exact(answer, gold, normalise_as_released),
        "f1": token_f1_as_released(answer, gold),
    }
