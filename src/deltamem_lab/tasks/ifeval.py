"""IFEval (Zhou et al., 2023): instructions whose fulfilment a program can check, by the checkers of the harness."""

import random
import sys
from collections.abc import Iterator, Sequence
from contextlib import contextmanager, redirect_stdout
from functools import cache
from importlib import import_module
from importlib.util import find_spec
from pathlib import Path
from typing import Any

from deltamem.chat import Message
from deltamem.extensions import how_to_install
from deltamem_lab.interface import Average, Budget, Decoding, Entry, Item, PublishedSize, Question
from deltamem_lab.tasks.data import FromFile, HubData, items_from, need, rows_from, texts
from deltamem_lab.tasks.registry import task

HUB = HubData("google/IFEval", ("ifeval_input_data.jsonl",))
_ANSWER_TOKENS = 1500
_PER_INSTRUCTION = ("instructions_strict", "instructions_loose")
# What cuts sentences and words, which needs data of NLTK.
_SENTENCES = frozenset({"length_constraints:number_sentences", "change_case:capital_word_frequency"})


@task
class IFEval(FromFile):
    """IFEval's prompts, one an item without a history, each a single message as it is; greedy, 1,500 tokens.

    The main score is that all instructions of a prompt are fulfilled to the letter; ``prompt_loose`` also takes the
    answer without its first or last line and without asterisks. ``instructions_strict`` and ``instructions_loose`` are
    shares of a prompt's instructions, which count as many times as there are, so that their means are over all
    instructions. Checkers are lm-evaluation-harness's. They differ from the release's in one point: the release
    replaces the detection of languages by a list of stop words, which concerns 95 of the 834 instructions. Where an
    instruction asks for a letter that is none (two prompts do), the checkers count one drawn at random: here it is
    drawn by the prompt's key, so that the same answer always has the same score.

    Args:
        data: rows as on the Hub, in JSON lines; the Hub's if not given.
        revision: of the Hub's data.
        answer_tokens: cuts answers shorter, for models that never end: then it is not quite the published benchmark.

    Raises:
        BadDataError: the data is not as it should be; the message names the row.
        ValueError: answers would have no tokens.
    """

    name = "ifeval"
    # Counted on the whole file.
    size = PublishedSize(541, 541, 0, 60, 60, 1500)
    protocols = ("release",)
    main_metric = "prompt_strict"
    averages: tuple[Average, ...] = ("question",)

    def __init__(
        self, data: Path | None = None, *, revision: str | None = None, answer_tokens: int = _ANSWER_TOKENS
    ) -> None:
        if answer_tokens < 1:
            raise ValueError(f"answer_tokens must be at least 1, not {answer_tokens}.")
        self._answer_tokens = answer_tokens
        if answer_tokens != _ANSWER_TOKENS:
            self.settings = {"answer tokens": str(answer_tokens)}
        rows, self.revision = rows_from(data, HUB, revision)
        self._items = items_from(rows, _item, "a prompt of IFEval")
        asked = {name for item in self._items for name in item.questions[0].extra["instruction_id_list"]}
        self._cuts_sentences = not asked.isdisjoint(_SENTENCES)

    def prompt(
        self, item: Item, question: Question, history: Sequence[Entry], protocol: str, budget: Budget
    ) -> list[Message]:
        """The prompt alone; nothing of a history is shown, there is none."""
        return [{"role": "user", "content": question.text}]

    def decoding(self, item: Item, question: Question, protocol: str) -> Decoding:
        """Greedy, 1,500 tokens unless told otherwise."""
        return Decoding(self._answer_tokens)

    def score(self, item: Item, question: Question, output: str, protocol: str) -> dict[str, float]:
        """Whether all instructions are fulfilled, and the share of them, to the letter and loosely.

        Raises:
            ImportError: lm-eval is not installed; the message names the extra.
            ValueError: data of NLTK is missing, which some prompt of the data needs.
        """
        checkers = _checkers(self._cuts_sentences)
        with _drawn_for(question.id):
            found = checkers.process_results({"key": 0, "prompt": question.text, **question.extra}, [output])
        strict, loose = found["inst_level_strict_acc"], found["inst_level_loose_acc"]
        return {
            "prompt_strict": float(found["prompt_level_strict_acc"]),
            "prompt_loose": float(found["prompt_level_loose_acc"]),
            "instructions_strict": sum(strict) / len(strict),
            "instructions_loose": sum(loose) / len(loose),
        }


def _item(row: dict[str, Any]) -> Item:
    name, instructions, given = str(row.get("key", "")), texts(row, "instruction_id_list"), need(row, "kwargs", list)
    if not name:
        raise ValueError("it has no key")
    if not instructions or len(instructions) != len(given):
        raise ValueError(f"it has {len(instructions)} instructions but {len(given)} kwargs")
    question = Question(
        id=name,
        text=need(row, "prompt", str),
        answers=(),
        weights=dict.fromkeys(_PER_INSTRUCTION, float(len(instructions))),
        extra={"instruction_id_list": instructions, "kwargs": given},
    )
    return Item(name, (), (question,))


@contextmanager
def _drawn_for(key: str) -> Iterator[None]:
    """Within the block what is drawn at random follows from a text."""
    before = random.getstate()
    random.seed(f"ifeval/{key}")
    try:
        yield
    finally:
        random.setstate(before)


@cache
def _checkers(cuts_sentences: bool) -> Any:
    """The harness's checkers, with the detection of languages made to give the same answer every time."""
    if find_spec("lm_eval") is None or find_spec("langdetect") is None:
        raise ImportError(f"IFEval's checkers are those of lm-eval: {how_to_install('harness')}")
    import nltk

    # What it prints as it fetches NLTK's data is not a result.
    with redirect_stdout(sys.stderr):
        from lm_eval.tasks.ifeval import utils

    import_module("langdetect").DetectorFactory.seed = 0
    if cuts_sentences:
        try:
            nltk.data.find("tokenizers/punkt_tab")
        except LookupError:
            raise ValueError(
                "Some of IFEval's prompts ask for a number of sentences or words. NLTK needs its data punkt_tab to "
                "count them: python -m nltk.downloader punkt_tab"
            ) from None
    return utils
