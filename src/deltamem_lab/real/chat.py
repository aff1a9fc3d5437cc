"""The frozen model with its adapters: it writes histories, answers prompts, and tells the loss of answers."""

import copy
from collections.abc import Iterator, Mapping, Sequence
from typing import Any

import torch
from torch import Tensor
from torch.nn import functional as F
from torch.nn.utils.rnn import pad_sequence

from deltamem.attach import attached, disabled, memory_cache
from deltamem.attach.cache import PAST
from deltamem.chat import Message
from deltamem.formats.hub import adapter_fingerprint, load_adapter
from deltamem.models.catalog import MODELS, KnownModel
from deltamem.models.loading import find_adapter, load_tokenizer, load_weights
from deltamem.observe import observe, positions
from deltamem.state import MemoryState
from deltamem.step import Step
from deltamem.train.data.told.rendering import Renderer
from deltamem_lab.backbone import empty_cache
from deltamem_lab.loading import adapter_kind

STATIC = "static"
NEW_TOKENS = 24
_ROWS = 32
# Of all prompts of a batch, so that long ones do not fill the machine.
_TOKENS = 32_768
# Of a history that is shown; the rest of the positions is for the question and its answer.
_SHOWN = 7000
_ASKED = 200


def choose_adapters(model: str, given: Sequence[str]) -> dict[str, str]:
    """The adapters by name, each given as ``NAME=PLACE`` or named by what it writes.

    Of a model with a name of ours, by default all in the package that write token by token, the main one first.

    Raises:
        AdapterFileError: there is no such adapter, or none in the package.
        ValueError: two adapters have one name.
    """
    known = MODELS.get(model)
    there = known.shipped() if known else {}
    found: dict[str, str] = {}
    for one in given or _usual(known):
        name, named, place = one.partition("=")
        place = str(find_adapter(model, place if named else one))
        name = name if named or one in there else adapter_kind(place)
        if name in found:
            raise ValueError(f"Two adapters are named {name}; name them with NAME=FOLDER.")
        found[name] = place
    return found


def _usual(known: KnownModel | None) -> list[str]:
    if known is None:
        return []
    names = [name for name, folder in known.shipped().items() if adapter_kind(str(folder)) != "segment"]
    return sorted(names, key=lambda name: name != known.main_adapter)


class Chat:
    """The frozen model, with at most one adapter active at a time.

    Args:
        model: its name, folder or Hub id.
        adapters: names in the package, folders or Hub ids, by method. The one named ``static`` is the control that was
            trained on strangers' memories; the first of the others is the main one.
        dtype: of the model's weights.

    Attributes:
        methods: the adapters' names.
        trained: words of the adapters' training, which no held-out value may have; none are known at first.

    Raises:
        OSError: the model is not here; the message names the command that fetches it.
        AdapterFileError: an adapter is not there, or belongs to another model.
        ValueError: there is no adapter but a control.
    """

    def __init__(self, model: str, adapters: Mapping[str, str], *, dtype: str = "bfloat16") -> None:
        if not set(adapters) - {STATIC}:
            raise ValueError("Name an adapter that is not a control, such as multi=first.")
        places = {name: find_adapter(model, place) for name, place in adapters.items()}
        self.name = model
        self.tokenizer = load_tokenizer(model)
        self.model = load_weights(model, dtype=dtype)
        for name, place in places.items():
            load_adapter(self.model, place, name=name)
        self.methods = tuple(adapters)
        self.trained: frozenset[str] = frozenset()
        self.renderer = Renderer(self.tokenizer)
        self.pad = int(self.tokenizer.pad_token_id or 0)

    @property
    def memories(self) -> tuple[str, ...]:
        """The adapters that are no control, the main one first."""
        return tuple(name for name in self.methods if name != STATIC)

    @property
    def fingerprints(self) -> dict[str, str]:
        """What each adapter is."""
        return {name: adapter_fingerprint(self.model, name) for name in self.methods}

    def use(self, name: str) -> None:
        """Makes an adapter the active one."""
        attached(self.model).activate(name)

    def empty(self, rows: int = 1) -> MemoryState:
        """An empty memory of the active adapter."""
        return attached(self.model).new_state(rows)

    def tokens(self, text: str) -> Tensor:
        """A text's token ids ``[T]``."""
        return torch.tensor(self.tokenizer(text, add_special_tokens=False).input_ids)

    def tokens_of(self, messages: Sequence[Message]) -> Tensor:
        """The token ids ``[T]`` of messages as they are written."""
        return torch.tensor(self.renderer.history(messages).ids)

    @property
    def ending(self) -> str:
        """What the chat template puts after a message."""
        text = self.tokenizer.apply_chat_template([{"role": "assistant", "content": "?"}], tokenize=False)
        return str(text).rpartition("?")[2].rstrip("\n")

    def prompt(self, messages: Sequence[Message]) -> str:
        """Messages by the chat template, with the header of an answer."""
        return str(self.tokenizer.apply_chat_template(list(messages), tokenize=False, add_generation_prompt=True))

    def end(self, messages: Sequence[Message]) -> Sequence[Message]:
        """The last messages that a prompt has room for beside a question."""
        room = min(_SHOWN, (positions(self.model) or 2 * _SHOWN) - _ASKED)
        for place in range(len(messages) - 1, -1, -1):
            room -= self.renderer.count(messages[place])
            if room < 0:
                return messages[place + 1 :]
        return messages

    @torch.no_grad()
    def write(self, histories: Sequence[Sequence[Message]]) -> MemoryState:
        """The memory of each history, one row each."""
        rows = [list(self.renderer.history(messages).ids) for messages in histories]
        states = []
        for start in range(0, len(rows), _ROWS):
            ids, mask = self._padded(rows[start : start + _ROWS], left=False)
            states.append(observe(self.model, ids, attention_mask=mask))
        return MemoryState.stack(states)

    def write_more(self, state: MemoryState, messages: Sequence[Message]) -> tuple[MemoryState, int]:
        """All memories after they have read the same messages, and how many tokens that was."""
        ids = torch.tensor([self.renderer.history(messages).ids])
        return observe(self.model, ids.expand(state.batch, -1), state), ids.shape[1]

    @torch.no_grad()
    def answer(self, prompts: Sequence[Sequence[Message]], state: MemoryState | None) -> list[str]:
        """The greedy reply to each prompt: from a memory of one row each that is only read, or bare."""
        rows = [self.tokenizer(self.prompt(messages), add_special_tokens=False).input_ids for messages in prompts]
        found = [""] * len(rows)
        for places in _batches([len(row) for row in rows]):
            ids, mask = self._padded([rows[place] for place in places])
            options = {
                "attention_mask": mask,
                "max_new_tokens": NEW_TOKENS,
                "do_sample": False,
                "pad_token_id": self.pad,
            }
            if state is None:
                with disabled(self.model):
                    out = self.model.generate(ids, **options)
            else:
                cache = memory_cache(self.model, state.select(torch.tensor(places)), write=False)
                out = self.model.generate(ids, **{PAST: cache}, **options)
            for place, row in zip(places, out[:, ids.shape[1] :], strict=True):
                found[place] = self.tokenizer.decode(row, skip_special_tokens=True)
        return found

    @torch.no_grad()
    def loss(self, prompt: Tensor, target: Tensor, state: MemoryState | None, *, write: bool = False) -> float:
        """The mean loss in nats of a target's tokens after a prompt, from a memory of one row or bare."""
        ids = torch.cat([prompt, target])[None]
        keep = {"logits_to_keep": len(target) + 1}
        if state is None:
            with disabled(self.model):
                logits = self.model(ids, **keep).logits
        else:
            logits = self.model(ids, memory=Step(state, write=write), **keep).logits
        return F.cross_entropy(logits[0, :-1].float(), target).item()

    @torch.no_grad()
    def losses_with_text(
        self, history: Sequence[Message], asked: Sequence[Message], targets: Sequence[Tensor]
    ) -> list[float]:
        """The bare model's loss of each target after a history, of which the end is shown, and a question.

        What all prompts begin with is read once.
        """
        rows = [self.tokens(self.prompt([*self.end(history), question])) for question in asked]
        shortest = min(map(len, rows)) - 1
        alike = torch.stack([row[:shortest] == rows[0][:shortest] for row in rows]).all(0).long()
        shared = int(alike.cumprod(0).sum())
        with disabled(self.model):
            cache = empty_cache(self.model)
            self.model.get_decoder()(input_ids=rows[0][None, :shared], **{PAST: cache}, use_cache=True)
            found = []
            for row, target in zip(rows, targets, strict=True):
                ids = torch.cat([row[shared:], target])[None]
                logits = self.model(
                    ids, **{PAST: copy.deepcopy(cache)}, logits_to_keep=len(target) + 1, use_cache=True
                ).logits
                found.append(F.cross_entropy(logits[0, :-1].float(), target).item())
        return found

    def _padded(self, rows: Sequence[list[int]], *, left: bool = True) -> tuple[Tensor, Tensor]:
        """Ids and mask ``[B, T]``."""
        ids = [torch.tensor(row, dtype=torch.int64) for row in rows]
        side: dict[str, Any] = {"batch_first": True, "padding_side": "left" if left else "right"}
        mask = pad_sequence([torch.ones_like(row) for row in ids], **side)
        return pad_sequence(ids, padding_value=self.pad, **side), mask


def _batches(lengths: Sequence[int]) -> Iterator[list[int]]:
    """The places of prompts of like length, as many at once as there is room for."""
    batch: list[int] = []
    for place in sorted(range(len(lengths)), key=lengths.__getitem__):
        if batch and (len(batch) == _ROWS or (len(batch) + 1) * lengths[place] > _TOKENS):
            yield batch
            batch = []
        batch.append(place)
    if batch:
        yield batch
