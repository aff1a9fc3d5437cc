"""Retrieval of the turns and passages of a history: by BM25, alone and beside a memory, and by vectors."""

from collections.abc import Mapping, Sequence
from dataclasses import replace
from typing import Any, Self

from deltamem.chat import Message
from deltamem.session.retrieval import best_matches
from deltamem.state import MemoryState
from deltamem_lab.backbone import Backbone, Generated
from deltamem_lab.interface import Ask, Entry, as_messages, as_text
from deltamem_lab.methods.base import BackboneMethod, MethodOptions, Size
from deltamem_lab.methods.fitting import chunks
from deltamem_lab.methods.memory import StateMemory
from deltamem_lab.methods.registry import method
from deltamem_lab.methods.vectors import ENCODER, VectorStore, lacking_encoder, nearest

CHARACTERS = 2000
# About the 256 word pieces that MiniLM reads of a text.
PASSAGE = 1000


class Found:
    """What BM25 finds in a history for each question.

    Args:
        turns: how many turns or passages.
        characters: the length of the passages that documents are cut into.
    """

    def __init__(self, turns: int = MethodOptions.turns, characters: int = CHARACTERS) -> None:
        self.turns = turns
        self.characters = characters

    def __call__(self, history: Sequence[Entry], asks: Sequence[Ask]) -> list[tuple[list[Entry], Mapping[str, Any]]]:
        """For each question the turns and passages that share the most telling words with it, in their own order."""
        units = chunks(history, self.characters)
        if not units:
            return [([], {"retrieved": []})] * len(asks)
        texts = ["\n".join(as_text(entry) for entry in unit) for unit in units]
        ranked = best_matches(texts, [ask.question.text for ask in asks], self.turns)
        places = [[place for place, score in row if score > 0] for row in ranked]
        return [([entry for place in row for entry in units[place]], {"retrieved": row}) for row in places]


@method("bm25", "BM25", "excerpt")
class Bm25(BackboneMethod):
    """The bare backbone with the turns that share the most telling words with the question.

    Args:
        name: as in records and tables.
        backbone: what answers.
        find: how turns are found.
    """

    def __init__(self, name: str, backbone: Backbone, find: Found | None = None) -> None:
        super().__init__(name, backbone)
        self.find = find or Found()

    @classmethod
    def build(cls, name: str, backbone: Backbone, adapter: str, options: MethodOptions, **arguments: Any) -> Self:
        """With as many turns as were chosen."""
        return cls(name, backbone, Found(options.turns))

    def show(self, asks: Sequence[Ask]) -> list[tuple[list[Entry], Mapping[str, Any]]]:
        """What was found."""
        return self.find(self.history, asks)

    def estimate(self, size: Size) -> tuple[int, int]:
        """Some turns and the question are read."""
        return 0, size.with_found(self.find.turns, self.find.characters)

    @property
    def stored_bytes(self) -> int:
        """The text; the index can be made from it again."""
        return sum(len(as_text(entry).encode()) for entry in self.history)


@method("dense", "dense retrieval", "excerpt")
class Dense(BackboneMethod):
    """The bare backbone with the turns whose vectors are nearest to the question's.

    Args:
        name: as in records and tables.
        backbone: what answers.
        turns: how many turns or passages.
        encoder: Hub id or folder of a sentence encoder.
    """

    def __init__(self, name: str, backbone: Backbone, turns: int = MethodOptions.turns, encoder: str = ENCODER) -> None:
        super().__init__(name, backbone)
        self.turns = turns
        self._store = VectorStore(encoder)
        self._units: list[list[Entry]] = []
        self._texts: list[str] = []

    @classmethod
    def build(cls, name: str, backbone: Backbone, adapter: str, options: MethodOptions, **arguments: Any) -> Self:
        """With as many turns as were chosen."""
        return cls(name, backbone, options.turns)

    @classmethod
    def lacks(cls, backbone: Backbone, options: MethodOptions) -> str:
        """The encoder, where it is not installed."""
        return lacking_encoder()

    def forget(self) -> None:
        """Drops text and vectors."""
        self._units, self._texts = [], []
        self._store.hold([])

    def keep(self, history: Sequence[Entry]) -> int:
        """Encodes it; the tokens are the encoder's."""
        self._units = chunks(self.history, PASSAGE)
        self._texts = ["\n".join(as_text(entry) for entry in unit) for unit in self._units]
        return self._store.hold(self._texts)

    def show(self, asks: Sequence[Ask]) -> list[tuple[list[Entry], Mapping[str, Any]]]:
        """The nearest turns and passages, in their own order."""
        rows = self._store.likeness([ask.question.text for ask in asks], self._texts)
        found = [sorted(nearest(row, self.turns)) for row in rows]
        return [([entry for place in row for entry in self._units[place]], {"retrieved": row}) for row in found]

    def estimate(self, size: Size) -> tuple[int, int]:
        """The history is encoded once; some turns and the question are read."""
        return size.history, size.with_found(self.turns, PASSAGE)

    @property
    def stored_bytes(self) -> int:
        """The text and the vectors."""
        return sum(len(as_text(entry).encode()) for entry in self.history) + self._store.nbytes


@method("hybrid", "memory and BM25 in the prompt", "memory")
class HybridPrompt(StateMemory):
    """A memory of everything, and the turns that BM25 finds in the prompt.

    Args:
        name: as in records and tables.
        backbone: a model with adapters.
        adapter: which of them.
        find: how turns are found.
    """

    def __init__(self, name: str, backbone: Backbone, adapter: str, find: Found | None = None) -> None:
        super().__init__(name, backbone, adapter)
        self.find = find or Found()

    @classmethod
    def build(cls, name: str, backbone: Backbone, adapter: str, options: MethodOptions, **arguments: Any) -> Self:
        """With as many turns as were chosen."""
        return cls(name, backbone, adapter, Found(options.turns))

    def show(self, asks: Sequence[Ask]) -> list[tuple[list[Entry], Mapping[str, Any]]]:
        """What was found."""
        return self.find(self.history, asks)

    def estimate(self, size: Size) -> tuple[int, int]:
        """The history is written once; some turns and the question are read."""
        return size.history, size.with_found(self.find.turns, self.find.characters)

    @property
    def stored_bytes(self) -> int:
        """The state and the text."""
        return super().stored_bytes + sum(len(as_text(entry).encode()) for entry in self.history)


@method("hybrid_state", "memory and BM25 into the memory", "memory")
class HybridState(HybridPrompt):
    """A memory of everything, into a copy of which the turns that BM25 finds are written once more before the answer.

    The prompt shows the question alone. The tokens written again for a question count as its prompt's.
    """

    def show(self, asks: Sequence[Ask]) -> list[tuple[list[Entry], Mapping[str, Any]]]:
        """Nothing; the notes say what was found."""
        return [([], notes) for _, notes in self.find(self.history, asks)]

    def say(self, prompts: list[list[Message]], asks: list[Ask]) -> list[Generated]:
        """The answers, each from a memory refreshed for its question."""
        found = [as_messages(part) for part, _ in self.find(self.history, asks)]
        states = [self.backbone.write(self.adapter, part, self._state) for part in found]
        said = self.backbone.generate(prompts, asks[0].decoding, adapter=self.adapter, state=MemoryState.stack(states))
        again = [int(state.tokens[0] - self._state.tokens[0]) for state in states]
        return [replace(one, prompt_tokens=one.prompt_tokens + more) for one, more in zip(said, again, strict=True)]
