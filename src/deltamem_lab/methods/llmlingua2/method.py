"""The method: the history compressed by the package ``llmlingua``, and shown whole."""

import hashlib
import random
from collections.abc import Iterator, Mapping, Sequence
from contextlib import contextmanager
from dataclasses import replace
from importlib.util import find_spec
from pathlib import Path
from typing import Any, Self

import numpy as np
import torch

from deltamem.extensions import from_extra, how_to_install
from deltamem_lab.backbone import Backbone
from deltamem_lab.interface import Ask, Document, Entry, as_text, bare_text, text_bytes
from deltamem_lab.methods.base import BackboneMethod, MethodOptions, Size
from deltamem_lab.methods.registry import method

COMPRESSOR = "microsoft/llmlingua-2-xlm-roberta-large-meetingbank"
# As in its authors' examples.
RATE = 0.33
_FORCED = ("\n", "?")
# What the command that trains a classifier writes beside it.
OWN_FILE = "training.json"
_NO_PACKAGE = f"needs llmlingua: {how_to_install('llmlingua')}"
_BORDER = "<entry>"
# The package knows how a classifier splits words by these parts of its name.
_SPLIT_AS = {"bert": "bert-base-multilingual-cased", "xlm-roberta": "xlm-roberta-large"}


@method("llmlingua2", "LLMLingua-2", "excerpt")
class LLMLingua2(BackboneMethod):
    """The bare backbone with the whole history compressed by the authors' classifier, or one like it.

    All turns and passages are compressed together, in windows of 512 tokens in each of which the same share is kept,
    and keep their roles, titles and dates; empty ones are left out. Shares are of the backbone's tokens, where the
    package counts OpenAI's.

    Args:
        compressor: Hub id or folder of the token classifier, a BERT or an XLM-RoBERTa.
        rate: the share of tokens to keep.
    """

    def __init__(self, name: str, backbone: Backbone, compressor: str = COMPRESSOR, rate: float = RATE) -> None:
        super().__init__(name, backbone)
        self.compressor = compressor
        self.rate = rate
        self._kept: list[Entry] = []
        self._model: Any = None

    @classmethod
    def build(cls, name: str, backbone: Backbone, adapter: str, options: MethodOptions, **arguments: Any) -> Self:
        """With the classifier that was chosen, or its authors'."""
        return cls(name, backbone, options.compressor or COMPRESSOR)

    @classmethod
    def lacks(cls, backbone: Backbone, options: MethodOptions) -> str:
        """The package, or a classifier that may have the published name."""
        if find_spec("llmlingua") is None:
            return _NO_PACKAGE
        if not options.compressor:
            return f"needs its authors' classifier: --compressor {COMPRESSOR}"
        if is_own_classifier(options.compressor):
            return f"{options.compressor} is not a classifier of its authors; the method compression uses it"
        return ""

    @property
    def fingerprint(self) -> str:
        """The SHA-256 of the classifier's weights; its id where it is on the Hub."""
        weights = Path(self.compressor) / "model.safetensors"
        return hashlib.sha256(weights.read_bytes()).hexdigest() if weights.is_file() else self.compressor

    def forget(self) -> None:
        """Drops the compressed text."""
        self._kept = []

    def keep(self, history: Sequence[Entry]) -> int:
        """Compresses it; the tokens are the classifier's."""
        said = [entry for entry in history if bare_text(entry).strip()]
        if not said:
            return 0
        text = _BORDER.join(bare_text(entry).replace(_BORDER, "") for entry in said)
        with _randomness_kept():
            self._model = self._model or _load(self.compressor, self.backbone)
            found = self._model.compress_prompt_llmlingua2([text], rate=self.rate, force_tokens=[*_FORCED, _BORDER])
        parts = found["compressed_prompt"].split(_BORDER)
        self._kept += [_with_words(entry, part.strip()) for entry, part in zip(said, parts, strict=True)]
        return len(self._model.tokenizer.tokenize(text, verbose=False))

    def show(self, asks: Sequence[Ask]) -> list[tuple[list[Entry], Mapping[str, Any]]]:
        """The compressed text."""
        words, kept = (sum(len(as_text(one).split()) for one in part) for part in (self.history, self._kept))
        return [(self._kept, {"kept_words": round(kept / words, 4) if words else 1.0})] * len(asks)

    def estimate(self, size: Size) -> tuple[int, int]:
        """The history is classified once; the share that is kept is read for each question."""
        return size.history, size.with_part(size.history * self.rate)

    @property
    def stored_bytes(self) -> int:
        """The compressed text."""
        return text_bytes(self._kept)


@method("compression", "compression (own classifier)", "excerpt")
class Compression(LLMLingua2):
    """The same with a small classifier that ``deltamem baseline compression`` has trained.

    It shares the package and the idea with LLMLingua-2, and neither the model nor what that has learned.
    """

    @classmethod
    def lacks(cls, backbone: Backbone, options: MethodOptions) -> str:
        """The package, or a classifier of one's own."""
        if find_spec("llmlingua") is None:
            return _NO_PACKAGE
        if not is_own_classifier(options.compressor):
            return "needs a classifier of its own: deltamem baseline compression, then --compressor FOLDER"
        return ""


def is_own_classifier(place: str) -> bool:
    """Whether a folder has a classifier that ``deltamem baseline compression`` has trained."""
    return bool(place) and (Path(place) / OWN_FILE).is_file()


def _with_words(entry: Entry, text: str) -> Entry:
    return replace(entry, text=text) if isinstance(entry, Document) else {**entry, "content": text}


def _load(compressor: str, backbone: Backbone) -> Any:
    """The package's compressor.

    Raises:
        ImportError: llmlingua is not installed; the message names the extra.
        OSError: the classifier is not there.
        ValueError: it is of another kind than the package knows.
    """
    with from_extra("llmlingua", "LLMLingua-2 needs llmlingua"):
        from llmlingua import PromptCompressor

    class Compressor(PromptCompressor):  # type: ignore[misc]
        """Counts tokens with the backbone's tokenizer instead of one that would have to be downloaded."""

        def __init__(self) -> None:
            self.load_model(compressor, backbone.model.device.type, {"trust_remote_code": False})
            kind = self.model.config.model_type
            if kind not in _SPLIT_AS:
                known = " and ".join(_SPLIT_AS)
                raise ValueError(f"The compressor {compressor} is of the kind {kind!r}; llmlingua knows {known}.")
            self.model_name = _SPLIT_AS[kind]
            self.oai_tokenizer = _Counter(backbone.tokenizer)
            self.init_llmlingua2()

    return Compressor()


@contextmanager
def _randomness_kept() -> Iterator[None]:
    """The package seeds all random numbers of the process; after the block they are what they were."""
    python, numbers = random.getstate(), np.random.get_state()
    try:
        with torch.random.fork_rng():
            yield
    finally:
        random.setstate(python)
        np.random.set_state(numbers)


class _Counter:
    def __init__(self, tokenizer: Any) -> None:
        self.tokenizer = tokenizer

    def encode(self, text: str) -> list[int]:
        """The tokens, none of them special; the border between entries is forced and must not use up their share."""
        return [] if text == _BORDER else list(self.tokenizer(text, add_special_tokens=False)["input_ids"])
