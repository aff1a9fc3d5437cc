"""Retrieval of the turns and passages of a history: by BM25, alone and beside a memory, and by vectors."""

from collections.abc import Mapping, Sequence
from dataclasses import replace
from typing import Any

from deltamem.chat import Message
from deltamem.encoder import MINILM, lacking_encoder
from deltamem.session.retrieval import best_matches
from deltamem.state import MemoryState
from deltamem_lab.backbone import Backbone, Generated
from deltamem_lab.interface import Ask, Entry, as_messages, as_one_text
from deltamem_lab.methods.base import BackboneMethod, MethodOptions, Size
from deltamem_lab.methods.fitting import chunks, packed
from deltamem_lab.methods.memory import StateMemory
from deltamem_lab.methods.registry import method
from deltamem_lab.methods.vectors import VectorStore, nearest

CHARACTERS = 2000
# About the 256 word pieces that MiniLM reads of a text.
PASSAGE = 1000


class Units:
    """What retrieval brings back: how many units, and what a unit is.

    Args:
        backbone: whose tokens count.
        options: how many, and of how many tokens; by default a turn, or a passage.
        characters: of a passage.
    """

    def __init__(self, backbone: Backbone, options: MethodOptions | None = None, characters: int = CHARACTERS) -> None:
        options = options or MethodOptions()
        self.most = options.turns
        self._tokens = options.unit
        self._count = backbone.count
        self._characters = min(characters, 4 * options.unit) if options.unit else characters

    def __call__(self, history: Sequence[Entry]) -> list[list[Entry]]:
        """The units of a history, in its order."""
        units = chunks(history, self._characters)
        return packed(units, self._tokens, self._count) if self._tokens else units

    def prompt(self, size: Size) -> int:
        """About how many tokens a prompt has that shows what is found."""
        if self._tokens:
            return size.with_part(self.most * self._tokens)
        return size.with_found(self.most, self._characters)

    def found(self, history: Sequence[Entry], asks: Sequence[Ask]) -> list[tuple[list[Entry], Mapping[str, Any]]]:
        """For each question the units that share the most telling words with it, by BM25, in their own order."""
        units = self(history)
        if not units:
            return [([], {"retrieved": []})] * len(asks)
        texts = [as_one_text(unit) for unit in units]
        ranked = best_matches(texts, [ask.question.text for ask in asks], self.most)
        places = [[place for place, score in row if score > 0] for row in ranked]
        return [([entry for place in row for entry in units[place]], {"retrieved": row}) for row in places]


@method("bm25", "BM25", "excerpt")
class Bm25(BackboneMethod):
    """The bare backbone with the turns that share the most telling words with the question."""

    takes_options = True
    # The index can be made from it again.
    keeps_text = True

    def __init__(self, name: str, backbone: Backbone, options: MethodOptions | None = None) -> None:
        super().__init__(name, backbone)
        self.units = Units(backbone, options)

    def show(self, asks: Sequence[Ask]) -> list[tuple[list[Entry], Mapping[str, Any]]]:
        """What was found."""
        return self.units.found(self.history, asks)

    def estimate(self, size: Size) -> tuple[int, int]:
        """Some turns and the question are read."""
        return 0, self.units.prompt(size)


@method("dense", "dense retrieval", "excerpt")
class Dense(BackboneMethod):
    """The bare backbone with the turns whose vectors are nearest to the question's."""

    takes_options = True
    keeps_text = True

    def __init__(
        self, name: str, backbone: Backbone, options: MethodOptions | None = None, encoder: str = MINILM
    ) -> None:
        super().__init__(name, backbone)
        self.units = Units(backbone, options, PASSAGE)
        self._store = VectorStore(encoder)
        self._units: list[list[Entry]] = []
        self._texts: list[str] = []

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
        self._units = self.units(self.history)
        self._texts = [as_one_text(unit) for unit in self._units]
        return self._store.hold(self._texts)

    def show(self, asks: Sequence[Ask]) -> list[tuple[list[Entry], Mapping[str, Any]]]:
        """The nearest turns and passages, in their own order."""
        rows = self._store.likeness([ask.question.text for ask in asks], self._texts)
        found = [sorted(nearest(row, self.units.most)) for row in rows]
        return [([entry for place in row for entry in self._units[place]], {"retrieved": row}) for row in found]

    def estimate(self, size: Size) -> tuple[int, int]:
        """The history is encoded once; some turns and the question are read."""
        return size.history, self.units.prompt(size)

    @property
    def stored_bytes(self) -> int:
        """The text and the vectors."""
        return super().stored_bytes + self._store.nbytes


@method("hybrid", "memory and BM25 in the prompt", "memory")
class HybridPrompt(StateMemory):
    """A memory of everything, and the turns that BM25 finds in the prompt."""

    takes_options = True
    keeps_text = True

    def __init__(self, name: str, backbone: Backbone, adapter: str, options: MethodOptions | None = None) -> None:
        super().__init__(name, backbone, adapter)
        self.units = Units(backbone, options)

    def show(self, asks: Sequence[Ask]) -> list[tuple[list[Entry], Mapping[str, Any]]]:
        """What was found."""
        return self.units.found(self.history, asks)

    def estimate(self, size: Size) -> tuple[int, int]:
        """The history is written once; some turns and the question are read."""
        return size.history, self.units.prompt(size)


@method("hybrid_state", "memory and BM25 into the memory", "memory")
class HybridState(HybridPrompt):
    """A memory of everything, into a copy of which the turns that BM25 finds are written once more before the answer.

    The prompt shows the question alone. The tokens written again for a question count as its prompt's.
    """

    def show(self, asks: Sequence[Ask]) -> list[tuple[list[Entry], Mapping[str, Any]]]:
        """Nothing; the notes say what was found."""
        return [([], notes) for _, notes in super().show(asks)]

    def say(self, prompts: list[list[Message]], asks: list[Ask]) -> list[Generated]:
        """The answers, each from a memory refreshed for its question."""
        found = [as_messages(part) for part, _ in super().show(asks)]
        states = [self.backbone.write(self.adapter, part, self._state) for part in found]
        said = self.backbone.generate(prompts, asks[0].decoding, adapter=self.adapter, state=MemoryState.stack(states))
        again = [int(state.tokens[0] - self._state.tokens[0]) for state in states]
        return [replace(one, prompt_tokens=one.prompt_tokens + more) for one, more in zip(said, again, strict=True)]
