"""Dense retrieval over the turns and passages of a history."""

from collections.abc import Mapping, Sequence
from typing import Any

from deltamem_lab.backbone import Backbone
from deltamem_lab.interface import Ask, Entry, as_text
from deltamem_lab.methods.base import BackboneMethod, Size
from deltamem_lab.methods.fitting import chunks
from deltamem_lab.methods.retrieval import TURNS
from deltamem_lab.methods.vectors import ENCODER, VectorStore, nearest

# About the 256 word pieces that MiniLM reads of a text.
CHARACTERS = 1000


class Dense(BackboneMethod):
    """The bare backbone with the turns whose vectors are nearest to the question's.

    Args:
        name: as in records and tables.
        backbone: what answers.
        turns: how many turns or passages.
        encoder: Hub id or folder of a sentence encoder.
    """

    def __init__(self, name: str, backbone: Backbone, turns: int = TURNS, encoder: str = ENCODER) -> None:
        super().__init__(name, backbone)
        self.turns = turns
        self._store = VectorStore(encoder)
        self._units: list[list[Entry]] = []
        self._texts: list[str] = []

    def forget(self) -> None:
        """Drops text and vectors."""
        self._units, self._texts = [], []
        self._store.hold([])

    def keep(self, history: Sequence[Entry]) -> int:
        """Encodes it; the tokens are the encoder's."""
        self._units = chunks(self.history, CHARACTERS)
        self._texts = ["\n".join(as_text(entry) for entry in unit) for unit in self._units]
        return self._store.hold(self._texts)

    def show(self, asks: Sequence[Ask]) -> list[tuple[list[Entry], Mapping[str, Any]]]:
        """The nearest turns and passages, in their own order."""
        rows = self._store.likeness([ask.question.text for ask in asks], self._texts)
        found = [sorted(nearest(row, self.turns)) for row in rows]
        return [([entry for place in row for entry in self._units[place]], {"retrieved": row}) for row in found]

    def estimate(self, size: Size) -> tuple[int, int]:
        """The history is encoded once; some turns and the question are read."""
        return size.history, size.with_found(self.turns, CHARACTERS)

    @property
    def stored_bytes(self) -> int:
        """The text and the vectors."""
        return sum(len(as_text(entry).encode()) for entry in self.history) + self._store.nbytes
