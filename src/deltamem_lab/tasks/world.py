"""The toy world as a benchmark: held-out dialogues with facts, corrections and small talk, and questions about them."""

import random
from collections.abc import Callable, Iterator, Mapping, Sequence
from dataclasses import replace
from functools import cache
from importlib.resources import as_file, files
from pathlib import Path

from deltamem.chat import Message
from deltamem.demo.lessons import DialogueTokens
from deltamem.demo.world import UNKNOWN, USER, Dialogue, Utterance, chat, sample_dialogue, unanswerable_question
from deltamem.demo.world import Question as Asked
from deltamem_lab.interface import Average, Budget, Decoding, Entry, Item, Question, as_messages
from deltamem_lab.tasks import unseen
from deltamem_lab.tasks.registry import task

_NEW_TOKENS = 16
# By kind of dialogue its facts, how many of them are corrected, and the exchanges of small talk that follow.
_KINDS: Mapping[str, tuple[int, int, int]] = {
    **{f"{facts} facts": (facts, 0, 0) for facts in (2, 4, 8, 16)},
    "corrections": (4, 2, 0),
    "long ago": (4, 0, 40),
}
# Of many people, so many facts beside the user's: about five times as many bytes as the largest memory has.
_CROWD = (4, 600)
_UNSEEN = 4
BEYOND = "beyond"
_BEYOND: Mapping[str, Callable[[random.Random], Dialogue]] = {
    "many people": lambda rng: unseen.crowd(rng, *_CROWD),
    "new values": lambda rng: unseen.with_new_values(rng, _UNSEEN),
    "new wordings": lambda rng: unseen.with_new_wordings(rng, _UNSEEN),
    "new attributes": lambda rng: unseen.with_new_attributes(rng, _UNSEEN),
}
FACTS, AGO = "facts told", "tokens since it was told"


@task
class WorldTask:
    """Dialogues of the held-out split in six kinds, which take turns; each is asked about every fact and one it lacks.

    The kinds are 2, 4, 8 and 16 facts; four facts of which two are corrected; and four facts followed by forty
    exchanges of small talk, beyond the embedded backbone's window. A question about a fact says how many tokens of the
    embedded tokenizer came after the message that told it and, where there was nothing but facts, how many there were.

    The protocol ``beyond`` has four other kinds, which ask for more than the adapters were trained to do: four facts of
    the user among six hundred about many people, whose text has several times the bytes of any memory here; and four
    facts with values, in wordings of the questions, or of attributes that neither backbone nor adapters have met.

    Args:
        data: none; the world is made up.
        seed: another seed, other dialogues.
        dialogues: how many of each kind.

    Raises:
        ValueError: data was given.
    """

    name = "world"
    protocols = ("world", BEYOND)
    main_metric = "exact"
    averages: tuple[Average, ...] = ("question", "category")
    settings: Mapping[str, str] = {}

    def __init__(self, data: Path | None = None, seed: int = 0, dialogues: int = 8) -> None:
        if data is not None:
            raise ValueError("The embedded world takes no data; leave --data out.")
        self.seed = seed
        self.dialogues = dialogues
        self.revision = f"world/1/{seed}"

    def items(self, protocol: str, limit: int | None = None) -> Iterator[Item]:
        """Item after item, a kind each."""
        kinds = len(_BEYOND if protocol == BEYOND else _KINDS)
        make = self._beyond if protocol == BEYOND else self._item
        every = kinds * self.dialogues
        for number in range(every if limit is None else min(limit, every)):
            yield make(number // kinds, number % kinds)

    def prompt(
        self, item: Item, question: Question, history: Sequence[Entry], protocol: str, budget: Budget
    ) -> list[Message]:
        """The turns shown, then the question."""
        return [*as_messages(history), {"role": "user", "content": question.text}]

    def decoding(self, item: Item, question: Question, protocol: str) -> Decoding:
        """Greedy."""
        return Decoding(_NEW_TOKENS)

    def score(self, item: Item, question: Question, output: str, protocol: str) -> dict[str, float]:
        """``exact``: to the letter. ``abstained``: "I don't know." ``outdated``, of a corrected fact: the first."""
        scores = {"exact": float(output in question.answers), "abstained": float(output == UNKNOWN)}
        if before := question.extra["replaces"]:
            scores["outdated"] = float(output == f"{before}.")
        return scores

    def _item(self, number: int, kind: int) -> Item:
        source, (facts, corrections, later) = list(_KINDS.items())[kind]
        rng = random.Random(f"eval/{self.seed}/{number}/{kind}")
        dialogue = sample_dialogue(rng, facts=facts, corrections=corrections, split="test")
        longer = replace(dialogue, messages=(*dialogue.messages, *chat(rng, later)))
        return self._made(number, source, rng, longer)

    def _beyond(self, number: int, kind: int) -> Item:
        source, make = list(_BEYOND.items())[kind]
        rng = random.Random(f"eval/{self.seed}/{number}/{source}")
        return self._made(number, source, rng, make(rng))

    def _made(self, number: int, source: str, rng: random.Random, dialogue: Dialogue) -> Item:
        return Item(
            id=f"{self.seed}/{number}/{source.replace(' ', '-')}",
            history=tuple(message.to_dict() for message in dialogue.messages),
            questions=tuple(_questions(rng, dialogue, source)),
            source=source,
        )


def _questions(rng: random.Random, dialogue: Dialogue, source: str) -> Iterator[Question]:
    unknown = unanswerable_question(rng, dialogue.facts, dialogue.people, "test")
    ago = _tokens_since(dialogue.messages)
    for number, asked in enumerate((*dialogue.questions, unknown)):
        yield Question(
            id=str(number),
            text=asked.ask,
            answers=(asked.answer,),
            category=_category(asked, source),
            axes=_axes(asked, dialogue, source, ago),
            # Only what was corrected has an old value that could be said.
            weights={"old": float(bool(asked.fact and asked.fact.replaces))},
            extra={"replaces": asked.fact.replaces if asked.fact else ""},
        )


def _category(asked: Asked, source: str) -> str:
    if asked.fact is None:
        return "never told"
    return "corrected" if asked.fact.replaces else "4 facts" if source == "corrections" else source


def _axes(asked: Asked, dialogue: Dialogue, source: str, ago: Mapping[str, int]) -> dict[str, float]:
    if asked.fact is None:
        return {}
    plain = source == f"{len(dialogue.facts)} facts"
    return {AGO: ago[asked.fact.tell], **({FACTS: len(dialogue.facts)} if plain else {})}


def _tokens_since(messages: Sequence[Utterance]) -> Mapping[str, int]:
    """For what the user said, the tokens that follow it, of its last time."""
    tokens, since = _tokens(), 0
    found: dict[str, int] = {}
    for message in reversed(messages):
        if message.role == USER:
            found.setdefault(message.text, since)
        since += len(tokens.text([(message, 0.0)]).ids)
    return found


@cache
def _tokens() -> DialogueTokens:
    from transformers import PreTrainedTokenizerFast

    with as_file(files("deltamem.demo").joinpath("assets")) as folder:
        return DialogueTokens(PreTrainedTokenizerFast.from_pretrained(folder, local_files_only=True))
