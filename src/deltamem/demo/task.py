"""The toy world as a benchmark: held-out dialogues with facts, corrections and small talk, and questions about them."""

import random
from collections.abc import Iterator, Sequence
from pathlib import Path
from typing import TYPE_CHECKING

from deltamem.chat import Message
from deltamem.demo.world import UNKNOWN, Dialogue, chat, sample_dialogue, unanswerable_question
from deltamem.demo.world import Question as Asked
from deltamem.eval.interface import Average, Budget, Decoding, Entry, Item, Question, as_messages

if TYPE_CHECKING:
    from transformers import PreTrainedTokenizerFast, Qwen3ForCausalLM

_NEW_TOKENS = 16
_FACTS = (2, 4, 8, 16)
_CORRECTED = (4, 2)
_LATER = (4, 40)


class WorldTask:
    """Dialogues of the held-out split in six kinds, which take turns; each is asked about every fact and one it lacks.

    The kinds are 2, 4, 8 and 16 facts; four facts of which two are corrected; and four facts followed by forty
    exchanges of small talk, beyond the embedded backbone's window.

    Args:
        data: none; the world is made up.
        seed: another seed, other dialogues.
        dialogues: how many of each kind.

    Raises:
        ValueError: data was given.
    """

    name = "world"
    protocols = ("world",)
    main_metric = "exact"
    averages: tuple[Average, ...] = ("question", "category")

    def __init__(self, data: Path | None = None, seed: int = 0, dialogues: int = 8) -> None:
        if data is not None:
            raise ValueError("The embedded world takes no data; leave --data out.")
        self.seed = seed
        self.dialogues = dialogues
        self.revision = f"world/1/{seed}"

    def items(self, protocol: str, limit: int | None = None) -> Iterator[Item]:
        """Item after item, a kind each."""
        wanted = 6 * self.dialogues if limit is None else min(limit, 6 * self.dialogues)
        for number in range(wanted):
            yield self._item(number // 6, number % 6)

    def prompt(
        self, item: Item, question: Question, history: Sequence[Entry], protocol: str, budget: Budget
    ) -> list[Message]:
        """The turns shown, then the question."""
        return [*as_messages(history), {"role": "user", "content": question.text}]

    def decoding(self, item: Item, question: Question, protocol: str) -> Decoding:
        """Greedy."""
        return Decoding(_NEW_TOKENS)

    def score(self, item: Item, question: Question, output: str, protocol: str) -> dict[str, float]:
        """``exact``: the answer to the letter. ``old``: the value before a correction. ``abstained``: knows nothing."""
        return {
            "exact": float(output in question.answers),
            "old": float(bool(question.extra["replaces"]) and output == f"{question.extra['replaces']}."),
            "abstained": float(output == UNKNOWN),
        }

    def _item(self, number: int, kind: int) -> Item:
        rng = random.Random(f"eval/{self.seed}/{number}/{kind}")
        if kind < len(_FACTS):
            source = f"{_FACTS[kind]} facts"
            dialogue = sample_dialogue(rng, facts=_FACTS[kind], split="test")
            messages = dialogue.messages
        elif kind == len(_FACTS):
            source = "corrections"
            dialogue = sample_dialogue(rng, facts=_CORRECTED[0], corrections=_CORRECTED[1], split="test")
            messages = dialogue.messages
        else:
            source = "long ago"
            dialogue = sample_dialogue(rng, facts=_LATER[0], split="test")
            messages = (*dialogue.messages, *chat(rng, _LATER[1]))
        return Item(
            id=f"{self.seed}/{number}/{source.replace(' ', '-')}",
            history=tuple(message.to_dict() for message in messages),
            questions=tuple(_questions(rng, dialogue, source)),
            source=source,
        )


def _questions(rng: random.Random, dialogue: Dialogue, source: str) -> Iterator[Question]:
    unknown = unanswerable_question(rng, dialogue.facts, dialogue.people, "test")
    for number, asked in enumerate((*dialogue.questions, unknown)):
        yield Question(
            id=str(number),
            text=asked.ask,
            answers=(asked.answer,),
            category=_category(asked, source),
            extra={"replaces": asked.fact.replaces if asked.fact else ""},
        )


def _category(asked: Asked, source: str) -> str:
    if asked.fact is None:
        return "never told"
    return "corrected" if asked.fact.replaces else "4 facts" if source == "corrections" else source


def load_embedded() -> tuple["Qwen3ForCausalLM", "PreTrainedTokenizerFast"]:
    """The embedded backbone with its three adapters, and the tokenizer."""
    from deltamem.demo.show import load_demo

    return load_demo()
