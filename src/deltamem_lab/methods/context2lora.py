"""Context2LoRA in both readings: a LoRA trained beforehand, and one that is fitted to each history."""

from collections.abc import Iterator, Mapping, Sequence
from importlib.util import find_spec
from typing import Any

from deltamem.chat import Message, encode_chat
from deltamem.extensions import how_to_install
from deltamem_lab.backbone import Backbone, Generated
from deltamem_lab.interface import Ask, Entry, as_messages
from deltamem_lab.methods.base import MethodOptions, Size, Weights
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
from deltamem_lab.methods.text import FullContext, NoContext
from deltamem_lab.methods.training import TokenRows

FITTED = "context2lora_fitted"
# Rate, updates, and the length and overlap of the pieces are those of Back et al., arXiv 2603.01097.
FIT = LoraPlan(rate=5e-4, steps=150, batch=4)
_PIECE, _OVERLAP = 2048, 200


@method("context2lora", "Context2LoRA, trained beforehand", "trained")
class StaticLora(FullContext):
    """The full context, read by the backbone with a LoRA that was trained on the adapters' data.

    Args:
        name: as in records and tables.
        backbone: a model with a LoRA.

    Raises:
        ValueError: it has none.
    """

    needs_history = False
    weights = Weights("lora", is_lora, load_lora)

    def __init__(self, name: str, backbone: Backbone) -> None:
        super().__init__(name, backbone)
        there = _trained(backbone)
        if not there:
            raise ValueError(f"The method {name!r} needs a LoRA, and none is loaded; load one with --adapter FOLDER.")
        self.lora = there[-1]

    @classmethod
    def lacks(cls, backbone: Backbone, options: MethodOptions) -> str:
        """A LoRA."""
        return "" if _trained(backbone) else "needs a LoRA: deltamem baseline lora, then --adapter lora=FOLDER"

    @property
    def fingerprint(self) -> str:
        """The LoRA's."""
        return lora_fingerprint(self.backbone.model, self.lora)

    def show(self, asks: Sequence[Ask]) -> list[tuple[list[Entry], Mapping[str, Any]]]:
        """Everything."""
        return [(self.history, {"lora": self.lora})] * len(asks)

    def say(self, prompts: list[list[Message]], asks: list[Ask]) -> list[Generated]:
        """The answers of the backbone with the LoRA."""
        with using_lora(self.backbone.model, self.lora):
            return super().say(prompts, asks)


@method(FITTED, "Context2LoRA, fitted to each history", "trained", on_demand=True)
class FittedLora(NoContext):
    """The question alone, asked of the backbone with a LoRA fitted to the history by the loss of each next token.

    Every history begins with a fresh LoRA. The tokens of all updates count as written; of each, the pass backwards
    costs about twice as much again.

    Args:
        name: as in records and tables.
        backbone: what answers; it is given a LoRA, which other methods do not see.
        plan: how it is fitted.
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
        pieces = self._pieces(history)
        if not pieces:
            return 0
        used: list[int] = []
        with self.backbone.using(None):
            self._losses = fit_lora(self.backbone.model, FITTED, _batches(pieces, self.plan, used), self.plan)
        return sum(used)

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


def _trained(backbone: Backbone) -> list[str]:
    """The LoRAs that were trained beforehand, those of weavers apart."""
    return [one for one in loras(backbone.model) if one != FITTED and one not in weavers(backbone.model)]


def _batches(pieces: Sequence[list[int]], plan: LoraPlan, used: list[int]) -> Iterator[list[TokenRows]]:
    """The pieces in turn, a batch an update and a pass each; ``used`` takes the number of tokens of each batch."""
    size = min(plan.batch, len(pieces))
    for step in range(plan.steps):
        part = [pieces[(step * size + place) % len(pieces)] for place in range(size)]
        used.append(sum(len(piece) for piece in part))
        yield [TokenRows.pad([(piece, [1.0] * len(piece))]) for piece in part]
