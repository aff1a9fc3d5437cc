"""The vectors of a history's texts, for dense retrieval."""

from collections.abc import Iterable, Sequence
from functools import cache

import numpy as np

from deltamem.encoder import MINILM, Encoder, Vectors


class VectorStore:
    """The vectors of texts, each encoded once."""

    def __init__(self, encoder: str = MINILM) -> None:
        self.encoder = encoder
        self._vectors: dict[str, Vectors] = {}

    def hold(self, texts: Iterable[str]) -> int:
        """Encodes those of the texts that are new, and drops the vectors of all other texts.

        Returns:
            how many tokens the encoder read; of a text beyond its length it reads the beginning.

        Raises:
            ImportError: sentence-transformers is not installed; the message names the extra.
            ValueError: the encoder is not there.
        """
        wanted = dict.fromkeys(texts)
        new = [text for text in wanted if text not in self._vectors]
        vectors, tokens = _load(self.encoder).encode(new)
        known = {**self._vectors, **dict(zip(new, vectors, strict=True))}
        self._vectors = {text: known[text] for text in wanted}
        return tokens

    def likeness(self, queries: Sequence[str], texts: Sequence[str]) -> Vectors:
        """The cosine of each query and each text that is held, ``[queries, texts]``."""
        if not queries or not texts:
            return np.zeros((len(queries), len(texts)), np.float32)
        asked = _load(self.encoder).encode(queries)[0]
        return asked @ np.stack([self._vectors[text] for text in texts]).T

    @property
    def nbytes(self) -> int:
        """Of all vectors."""
        return sum(vector.nbytes for vector in self._vectors.values())


def nearest(likeness: Vectors, most: int) -> list[int]:
    """The places of the largest values of one row, largest first, and the first of equals first."""
    return [int(place) for place in np.argsort(-likeness, kind="stable")[:most]]


_load = cache(Encoder)
