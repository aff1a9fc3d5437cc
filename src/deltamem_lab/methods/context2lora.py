"""Context2LoRA in both readings: a LoRA trained beforehand, and one that is fitted to each history."""

import re
from collections.abc import Callable, Iterator, Mapping, Sequence
from importlib.util import find_spec
from typing import Any

from deltamem.chat import Message, encode_chat
from deltamem.extensions import how_to_install
from deltamem_lab.backbone import Backbone, Generated
from deltamem_lab.interface import Ask, Decoding, Entry, as_messages, as_one_text
from deltamem_lab.methods.base import MethodOptions, Size, Weights
from deltamem_lab.methods.fitting import chunks, packed
from deltamem_lab.methods.lora import (
    LoraPlan,
    add_lora,
    fit_lora,
    is_lora,
    load_lora,
    lora_bytes,
    lora_fingerprint,
    loras,
    reset_lora,
    using_lora,
)
from deltamem_lab.methods.memgen.weaver import weavers
from deltamem_lab.methods.registry import method
from deltamem_lab.methods.text import NoContext, TrainedContext
from deltamem_lab.methods.training import TokenRows

FITTED = "context2lora_fitted"
# Rate, updates, and the length and overlap of the pieces are those of Back et al., arXiv 2603.01097.
FIT = LoraPlan(rate=5e-4, steps=150, batch=4)
_PIECE, _OVERLAP = 2048, 200
# Of the questions that a backbone is to write: tokens of a passage, of what it writes about one, and of an answer.
_PASSAGE, _WRITTEN, _SHORT = 256, 192, 16
_WRITE = (
    "{}\n\nWrite four short questions about the text above that can be answered from it, each with a short answer, in "
    "this form:\nQuestion: ...\nAnswer: ..."
)
_PAIR = re.compile(r"Question[ \d]*:[ *]*(\S[^\n]*)\n+[* ]*Answer[ \d]*:[ *]*(\S[^\n]*)")

# The tokens of a text, and the loss weight of each.
_Row = tuple[list[int], list[float]]


def _trained_loras(model: Any) -> Mapping[str, Any]:
    """The LoRAs that were trained beforehand, without those of weavers."""
    return {one: one for one in loras(model) if one != FITTED and one not in weavers(model)}


@method("context2lora", "Context2LoRA, trained beforehand", "trained")
class StaticLora(TrainedContext):
    """The full context, read by the backbone with a LoRA that was trained on the adapters' data."""

    weights = Weights("lora", is_lora, load_lora)
    what, command = "a LoRA", "lora"
    loaded = staticmethod(_trained_loras)

    @property
    def fingerprint(self) -> str:
        """The LoRA's."""
        return lora_fingerprint(self.backbone.model, self.label)

    def show(self, asks: Sequence[Ask]) -> list[tuple[list[Entry], Mapping[str, Any]]]:
        """Everything."""
        return [(self.history, {"lora": self.label})] * len(asks)

    def say(self, prompts: list[list[Message]], asks: list[Ask]) -> list[Generated]:
        """The answers of the backbone with the LoRA."""
        with using_lora(self.backbone.model, self.label):
            return super().say(prompts, asks)


@method(FITTED, "Context2LoRA, fitted to each history", "trained", on_demand=True)
class FittedLora(NoContext):
    """The question alone, asked of the backbone with a LoRA fitted to the history by the loss of each next token.

    Every history begins with a fresh LoRA, which other methods do not see. The tokens of all updates count as written;
    of each, the pass backwards costs about twice as much again.
    """

    needs_history = True

    def __init__(self, name: str, backbone: Backbone, plan: LoraPlan = FIT) -> None:
        super().__init__(name, backbone)
        self.plan = plan
        self._losses: list[float] = []

    @classmethod
    def lacks(cls, backbone: Backbone, options: MethodOptions) -> str:
        """The package."""
        return "" if find_spec("peft") else f"needs peft: {how_to_install('lora')}"

    def forget(self) -> None:
        """A fresh LoRA."""
        if FITTED not in loras(self.backbone.model):
            add_lora(self.backbone.model, FITTED, self.plan)
        reset_lora(self.backbone.model, FITTED, self._seed)
        self._losses = []

    def keep(self, history: Sequence[Entry]) -> int:
        """Fits the LoRA to what is new, from where it is."""
        rows = [(piece, [1.0] * len(piece)) for piece in self._pieces(history)]
        # A pass each, as pieces are long.
        return self._fit(rows, lambda part: [TokenRows.pad([row]) for row in part])

    def show(self, asks: Sequence[Ask]) -> list[tuple[list[Entry], Mapping[str, Any]]]:
        """Nothing: the text is gone."""
        ends = zip(("loss_before", "loss_after"), self._losses[:: max(1, len(self._losses) - 1)], strict=False)
        return [([], {name: round(loss, 4) for name, loss in ends})] * len(asks)

    def say(self, prompts: list[list[Message]], asks: list[Ask]) -> list[Generated]:
        """The answers of the backbone with the LoRA."""
        with using_lora(self.backbone.model, FITTED):
            return super().say(prompts, asks)

    def estimate(self, size: Size) -> tuple[int, int]:
        """The history is read in every update, as far as a batch holds it."""
        return self.plan.steps * min(size.history, self.plan.batch * self._length), size.bare

    @property
    def stored_bytes(self) -> int:
        """The LoRA."""
        return lora_bytes(self.backbone.model, FITTED)

    def _fit(self, rows: Sequence[_Row], passes: Callable[[list[_Row]], list[TokenRows]]) -> int:
        """Fits the LoRA to rows, an update's in so many passes; how many tokens were read."""
        if not rows:
            return 0
        used: list[int] = []
        with self.backbone.using(None):
            updates = map(passes, _dealt(rows, self.plan, used))
            self._losses = fit_lora(self.backbone.model, FITTED, updates, self.plan)
        return sum(used)

    @property
    def _length(self) -> int:
        return min(_PIECE, self.backbone.positions or _PIECE)

    def _pieces(self, history: Sequence[Entry]) -> list[list[int]]:
        """The tokens of the rendered history in pieces that overlap."""
        if not history:
            return []
        chat = encode_chat(self.backbone.tokenizer, as_messages(history), **self.backbone.template)
        ids = chat.input_ids[0].tolist()
        step = self._length - min(_OVERLAP, self._length // 10)
        last = max(1, len(ids) - (self._length - step))
        return [ids[start : start + self._length] for start in range(0, last, step)]


@method("context2lora_asked", "Context2LoRA, fitted to questions of the backbone's own", "trained", on_demand=True)
class AskedLora(FittedLora):
    """The question alone, asked of the backbone with a LoRA fitted to questions that it wrote about the history itself.

    It reads the history passage by passage and writes questions with their answers; the loss is the answers', each
    after its question alone. Where a backbone writes none in the form asked for, it answers without a history; the
    notes say how many there were.
    """

    def __init__(self, name: str, backbone: Backbone, plan: LoraPlan = FIT) -> None:
        super().__init__(name, backbone, plan)
        self._pairs: list[tuple[str, str]] = []

    def forget(self) -> None:
        """A fresh LoRA, and no questions."""
        super().forget()
        self._pairs = []

    def keep(self, history: Sequence[Entry]) -> int:
        """Has the backbone ask about what is new, and fits the LoRA to all questions there are."""
        units = packed(chunks(history, 4 * _PASSAGE), _PASSAGE, self.backbone.count)
        texts = [as_one_text(unit) for unit in units]
        prompts: list[list[Message]] = [[{"role": "user", "content": _WRITE.format(text)}] for text in texts]
        written = self.backbone.generate(prompts, Decoding(_WRITTEN)) if prompts else []
        self._pairs += [pair for one in written for pair in asked_and_answered(one.text)]
        read = sum(one.prompt_tokens + one.new_tokens for one in written)
        rows = [self._row(question, answer) for question, answer in self._pairs]
        return read + self._fit(rows, lambda part: [TokenRows.pad(part)])

    def show(self, asks: Sequence[Ask]) -> list[tuple[list[Entry], Mapping[str, Any]]]:
        """Nothing: the text is gone."""
        return [(shown, {**notes, "questions": len(self._pairs)}) for shown, notes in super().show(asks)]

    def estimate(self, size: Size) -> tuple[int, int]:
        """The history is read once; how much is asked about it is not known, a batch of short questions an update."""
        return size.history + self.plan.steps * self.plan.batch * (size.bare + _SHORT), size.bare

    def _row(self, question: str, answer: str) -> _Row:
        asked: list[Message] = [{"role": "user", "content": question}]
        prompt = self.backbone.text.encode(asked, prompt=True).input_ids[0].tolist()
        whole = self.backbone.text.encode([*asked, {"role": "assistant", "content": answer}]).input_ids[0].tolist()
        shared = next((place for place, (a, b) in enumerate(zip(prompt, whole, strict=False)) if a != b), len(prompt))
        return whole, [0.0] * shared + [1.0] * (len(whole) - shared)


def asked_and_answered(text: str) -> list[tuple[str, str]]:
    """The questions with their answers in what a model wrote, in the form that it was asked for."""
    return [(question.strip(), answer.strip()) for question, answer in _PAIR.findall(text)]


def _dealt(rows: Sequence[_Row], plan: LoraPlan, used: list[int]) -> Iterator[list[_Row]]:
    """The rows in turn, a batch an update; ``used`` takes the number of tokens of each."""
    size = min(plan.batch, len(rows))
    for step in range(plan.steps):
        part = [rows[(step * size + place) % len(rows)] for place in range(size)]
        used.append(sum(len(ids) for ids, _ in part))
        yield part
