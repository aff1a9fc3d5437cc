"""A model under evaluation: it writes histories into memories, and answers batches of prompts."""

import copy
from collections.abc import Iterator, Sequence
from contextlib import AbstractContextManager, contextmanager
from dataclasses import dataclass
from itertools import takewhile
from typing import Any

import torch
from torch import Tensor
from transformers import DynamicCache

from deltamem.attach import Attachment, attached
from deltamem.attach.cache import PAST
from deltamem.chat import ChatTokens, Message
from deltamem.chat.input import TextInput, adapter_of, carries_memory, using
from deltamem.observe import positions
from deltamem.state import NO_SEGMENT, MemoryState
from deltamem_lab.interface import Budget, Decoding

# A shorter common beginning is not worth a pass of its own.
_SHARED = 64
_CHUNK = 1024


@dataclass(frozen=True)
class Generated:
    """An answer: its text, the rendered prompt, and how many tokens both had."""

    text: str
    prompt: str
    prompt_tokens: int
    new_tokens: int


class Backbone:
    """A causal language model, bare or with adapters of which each call names one; ``None`` is the bare backbone.

    Args:
        batch: the most prompts that are answered at once.
        template: further variables of the chat template, such as ``enable_thinking``.
    """

    def __init__(
        self,
        model: Any,
        tokenizer: Any,
        *,
        batch: int = 16,
        name: str = "",
        revision: str = "",
        template: dict[str, Any] | None = None,
    ) -> None:
        self.model = model
        self.tokenizer = tokenizer
        self.batch = batch
        self.name = name
        self.revision = revision
        self.text = TextInput(model, tokenizer, template)
        pad = tokenizer.pad_token_id if tokenizer.pad_token_id is not None else tokenizer.eos_token_id
        self.pad_id = int(pad or 0)

    @property
    def template(self) -> dict[str, Any]:
        """Further variables of the chat template."""
        return self.text.template

    @property
    def adapters(self) -> tuple[str, ...]:
        """The names of the adapters on the model."""
        return tuple(attached(self.model).configs) if carries_memory(self.model) else ()

    @property
    def positions(self) -> int | None:
        """How many tokens the backbone has positions for, if it says so."""
        return positions(self.model)

    def count(self, text: str) -> int:
        """How many tokens a text is."""
        return len(self.tokenizer(text, add_special_tokens=False)["input_ids"])

    def length(self, messages: Sequence[Message], *, prompt: bool = True) -> int:
        """How many tokens messages are, all that the chat template adds included; as a prompt or to be written."""
        chat = self.text.encode(messages, prompt=True) if prompt else self.text.encode_to_write(messages)
        return chat.input_ids.shape[1]

    def budget(self, decoding: Decoding) -> Budget:
        """The room that positions leave for a prompt before an answer; an answer is granted at most half of them."""
        most = self.positions
        room = None if most is None else most - min(decoding.max_new_tokens, most // 2)
        return Budget(room, self.length, self.tokenizer)

    def empty(self, adapter: str) -> MemoryState:
        """An empty memory."""
        with self.using(adapter):
            return attached(self.model).new_state(1)

    @torch.no_grad()
    def write(self, adapter: str, messages: Sequence[Message], state: MemoryState | None = None) -> MemoryState:
        """The memory, one row, after messages have been read; their text is gone."""
        with self.using(adapter):
            return self.text.write(messages, state, chunk_size=_CHUNK)

    @torch.no_grad()
    def generate(
        self,
        prompts: Sequence[Sequence[Message]],
        decoding: Decoding,
        *,
        adapter: str | None = None,
        state: MemoryState | None = None,
        write: bool = False,
    ) -> list[Generated]:
        """Answers prompts, each as if it were the only one.

        What all prompts begin with is read once, and each continues from a copy of the cache and the memory.

        Args:
            prompts: the messages of each.
            decoding: how; sampled answers are generated one by one, so that their randomness is their own.
            adapter: which reads the memory.
            state: the memory that every prompt starts from, or a row for each; empty by default.
            write: whether prompt and answer are written as they are read.

        Raises:
            ValueError: a prompt has no room left for an answer.
        """
        with self.using(adapter):
            # What a segment is depends on the adapter.
            chats = [self.text.encode(messages, prompt=True) for messages in prompts]
            room = None if self.positions is None else self.positions - max(chat.input_ids.shape[1] for chat in chats)
            if room is not None and room < 1:
                raise ValueError(f"A prompt is {1 - room} tokens longer than this backbone can read and answer.")
            options = generation_options(decoding, room)
            batch = 1 if decoding.temperature else self.batch
            found: list[Generated] = []
            one_memory = state is None or state.batch == 1
            shared = _common(chats) if one_memory and len(chats) > 1 else 0
            cache = self._prefill(chats[0], shared, state, write=write) if shared >= _SHARED else None
            for start in range(0, len(chats), batch):
                part = chats[start : start + batch]
                own = state if state is None or one_memory else state.select(range(start, start + len(part)))
                with seeded(decoding, self.model.device):
                    found += self._answer(part, shared if cache else 0, cache, own, write=write, options=options)
        return found

    def _answer(
        self,
        chats: Sequence[ChatTokens],
        shared: int,
        cache: DynamicCache | None,
        state: MemoryState | None,
        *,
        write: bool,
        options: dict[str, Any],
    ) -> list[Generated]:
        """Answers one batch; the first ``shared`` tokens are in ``cache``, which stays as it is."""
        ids, mask, segments = self._pad_left(chats, shared)
        if cache is not None:
            cache = copy.deepcopy(cache)
            cache.batch_repeat_interleave(len(chats))
            if hasattr(cache, "segment_ids"):
                cache.segment_ids = segments
        else:
            cache = self._cache(state, segments, len(chats), write=write)
        output = self.model.generate(
            ids, attention_mask=mask, **{PAST: cache}, pad_token_id=self.pad_id, use_cache=True, **options
        )
        rows = output[:, ids.shape[1] :].tolist()
        ends = self.end_tokens()
        return [
            Generated(
                text=str(self.tokenizer.decode(row, skip_special_tokens=True)).strip(),
                prompt=str(self.tokenizer.decode(chat.input_ids[0])),
                prompt_tokens=chat.input_ids.shape[1],
                new_tokens=sum(1 for _ in takewhile(lambda token: token not in ends, row)),
            )
            for chat, row in zip(chats, rows, strict=True)
        ]

    def _prefill(self, chat: ChatTokens, length: int, state: MemoryState | None, *, write: bool) -> DynamicCache:
        """A cache that holds the first ``length`` tokens."""
        device = self.model.device
        ids, segments = chat.input_ids[:, :length].to(device), chat.segment[:, :length].to(device)
        cache = self._cache(state, segments, 1, write=write)
        base = self.model.get_decoder()
        for start in range(0, length, _CHUNK):
            base(input_ids=ids[:, start : start + _CHUNK], **{PAST: cache}, use_cache=True)
        return cache

    def _cache(self, state: MemoryState | None, segments: Tensor, rows: int, *, write: bool) -> DynamicCache:
        if adapter_of(self.model) is None:
            return empty_cache(self.model)
        attachment = attached(self.model)
        state = state if state is not None else attachment.new_state(1)
        ids = segments if attachment.config.writes_segments else None
        return attachment.new_cache(state.repeat_interleave(rows // state.batch), write=write, segment_ids=ids)

    def _pad_left(self, chats: Sequence[ChatTokens], shared: int) -> tuple[Tensor, Tensor, Tensor]:
        """Ids, mask and segments ``[B, T]``; padding lies between what is shared and the rest."""
        longest = max(chat.input_ids.shape[1] for chat in chats)

        def row(tokens: Tensor, value: int) -> Tensor:
            gap = tokens.new_full((longest - tokens.shape[1],), value)
            return torch.cat([tokens[0, :shared], gap, tokens[0, shared:]])

        ids = torch.stack([row(chat.input_ids, self.pad_id) for chat in chats])
        mask = torch.stack([row(torch.ones_like(chat.input_ids), 0) for chat in chats])
        segments = torch.stack([row(chat.segment, NO_SEGMENT) for chat in chats])
        device = self.model.device
        return ids.to(device), mask.to(device), segments.to(device)

    def end_tokens(self) -> set[int]:
        """The tokens that end an answer."""
        ends = getattr(self.model.generation_config, "eos_token_id", None)
        listed = ends if isinstance(ends, list) else [ends]
        return {int(end) for end in [*listed, self.pad_id] if end is not None}

    def using(self, adapter: str | None) -> AbstractContextManager[Attachment | None]:
        """Within the block this adapter is the active one.

        Raises:
            ValueError: there is no such adapter.
        """
        return using(self.model, adapter)


def _common(chats: Sequence[ChatTokens]) -> int:
    """How many tokens all prompts begin with; each keeps one of its own at least."""
    rows = [(chat.input_ids[0].tolist(), chat.segment[0].tolist()) for chat in chats]
    most = min(len(ids) for ids, _ in rows) - 1
    first, segments = rows[0]
    for place in range(most):
        if any(ids[place] != first[place] or marks[place] != segments[place] for ids, marks in rows[1:]):
            return place
    return most


def generation_options(decoding: Decoding, room: int | None) -> dict[str, Any]:
    """What ``generate`` of a model is told, where there is room for so many new tokens."""
    most = decoding.max_new_tokens if room is None else min(decoding.max_new_tokens, room)
    if not decoding.temperature:
        return {"max_new_tokens": most, "do_sample": False, "temperature": None, "top_p": None, "top_k": None}
    sampling = {"temperature": decoding.temperature, "top_p": decoding.top_p, "top_k": decoding.top_k}
    return {"max_new_tokens": most, "do_sample": True, **sampling}


@contextmanager
def seeded(decoding: Decoding, device: torch.device) -> Iterator[None]:
    """Within the block PyTorch's randomness is the answer's own, if it is sampled."""
    if not decoding.temperature:
        yield
        return
    devices = [device] if device.type == "cuda" else []
    with torch.random.fork_rng(devices=devices):
        torch.manual_seed(decoding.seed)
        yield


def empty_cache(model: Any) -> DynamicCache:
    """A cache without a memory for a backbone, bare or with adapters that are not used."""
    return DynamicCache(config=model.config.get_text_config(decoder=True))
