"""Tokenised data on disk: one safetensors file, named by a hash of all it depends on."""

import hashlib
import json
import logging
from pathlib import Path
from typing import Any

from safetensors import SafetensorError, safe_open
from safetensors.torch import save
from torch import Tensor

from deltamem.files import cache_folder, write_atomically
from deltamem.train.data.table import COLUMNS, EpisodeTable

_FORMAT = 4
_log = logging.getLogger(__name__)


def default_folder() -> Path:
    """Where tokenised data is kept if nothing else is asked for."""
    return cache_folder() / "episodes"


def cache_key(*parts: Any) -> str:
    """A hash of JSON values, and of the version of the format."""
    text = json.dumps([_FORMAT, *parts], sort_keys=True, default=str)
    return hashlib.blake2b(text.encode("utf-8", "surrogatepass"), digest_size=16).hexdigest()


def tokenizer_fingerprint(tokenizer: Any) -> str:
    """A hash of all that turns a conversation into tokens: vocabulary, rules and chat template."""
    backend = json.loads(tokenizer.backend_tokenizer.to_str())
    # These two are left over from the last call, not part of the tokenizer.
    rules = {name: value for name, value in backend.items() if name not in ("truncation", "padding")}
    return cache_key(rules, tokenizer.chat_template, tokenizer.special_tokens_map)


def load_table(path: Path) -> tuple[EpisodeTable, dict[str, Any]] | None:
    """A table and its report, mapped from the file; ``None`` if there is none or, with a notice, it is damaged."""
    if not path.exists():
        return None
    try:
        with safe_open(path, framework="pt") as file:
            columns = {name: file.get_tensor(name) for name in COLUMNS}
            ids, segments, texts = (file.get_tensor(name) for name in ("ids", "segments", "texts"))
            table = EpisodeTable(ids, segments, texts, columns)
            header = file.metadata()
        if header["digest"] != _digest(table):
            raise ValueError("its contents do not match their checksum")
        report: dict[str, Any] = json.loads(header["report"])
    except (SafetensorError, OSError, ValueError, KeyError, TypeError) as error:
        _log.warning("The tokenised data in %s is damaged (%s); it is made again.", path, error)
        return None
    return table, report


def save_table(table: EpisodeTable, report: dict[str, Any], path: Path) -> None:
    """Writes a table and its report; where that is impossible, says so and continues."""
    metadata = {"format": "deltamem-episodes", "digest": _digest(table), "report": json.dumps(report)}
    try:
        write_atomically(path, save(_tensors(table), metadata))
    except OSError as error:
        _log.warning("Cannot keep the tokenised data (%s); it will be tokenised again next time.", error)


def _tensors(table: EpisodeTable) -> dict[str, Tensor]:
    return {"ids": table.ids, "segments": table.segments, "texts": table.texts, **table.columns}


def _digest(table: EpisodeTable) -> str:
    digest = hashlib.blake2b(digest_size=16)
    for name, tensor in _tensors(table).items():
        digest.update(json.dumps([name, str(tensor.dtype), list(tensor.shape)]).encode())
        digest.update(tensor.numpy().tobytes())
    return digest.hexdigest()
