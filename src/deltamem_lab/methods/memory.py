"""δ-mem: a memory written while the history is read, and the controls that put another in its place."""

from collections.abc import Mapping, Sequence
from dataclasses import replace
from typing import Any, Literal

import torch

from deltamem.chat import Message
from deltamem.formats.hub import adapter_fingerprint
from deltamem.state import MemoryState
from deltamem_lab.backbone import Backbone, Generated
from deltamem_lab.interface import Ask, Entry, as_messages
from deltamem_lab.methods.base import BackboneMethod, Size
from deltamem_lab.methods.registry import method
from deltamem_lab.methods.text import FullContext

Control = Literal["", "empty", "shuffled", "noise"]


@method("noise", "control: noise of the same norm", "control", control="noise")
@method("shuffled", "control: another item's memory", "control", control="shuffled")
@method("empty", "control: empty memory", "control", control="empty")
@method("memory", "memory", "memory")
class StateMemory(BackboneMethod):
    """The history is written into a memory and its text is dropped; answers see the question and read the memory.

    Prompts and answers are not written, which is the condition the published adapters are trained in.

    Args:
        control: what takes the memory's place: an ``empty`` one, another item's (``shuffled``), or ``noise`` of the
            same norm in every state.
    """

    adapted = True

    def __init__(self, name: str, backbone: Backbone, adapter: str, control: Control = "") -> None:
        super().__init__(name, backbone)
        self.adapter: str = adapter
        self.control = control
        self.stranger = control == "shuffled"
        self._state = backbone.empty(adapter)

    def forget(self) -> None:
        """Empties the memory."""
        self._state = self.backbone.empty(self.adapter)

    def keep(self, history: Sequence[Entry]) -> int:
        """Writes it."""
        if self.control == "empty":
            return 0
        before = int(self._state.tokens[0])
        self._state = self.backbone.write(self.adapter, as_messages(history), self._state)
        return int(self._state.tokens[0]) - before

    def show(self, asks: Sequence[Ask]) -> list[tuple[list[Entry], Mapping[str, Any]]]:
        """Nothing: the text is gone."""
        return [([], {"state_norm": round(float(self._state.norms().mean()), 4)})] * len(asks)

    def say(self, prompts: list[list[Message]], asks: list[Ask]) -> list[Generated]:
        """The answers that read the memory, or what the control puts in its place."""
        state = noise_like(self._state, self._seed) if self.control == "noise" else self._state
        return self.backbone.generate(prompts, asks[0].decoding, adapter=self.adapter, state=state)

    def estimate(self, size: Size) -> tuple[int, int]:
        """The history is written once."""
        return (0 if self.control == "empty" else size.history), size.bare

    @property
    def fingerprint(self) -> str:
        """The adapter's."""
        return adapter_fingerprint(self.backbone.model, self.adapter)

    @property
    def stored_bytes(self) -> int:
        """The state, and the text where that is kept too."""
        return super().stored_bytes + self._state.nbytes


@method("context", "memory and full context", "memory")
class WritingContext(FullContext):
    """δ-mem as in the published tables: the memory starts empty and is written as the full prompt is read."""

    needs_history = False
    adapted = True

    def __init__(self, name: str, backbone: Backbone, adapter: str) -> None:
        super().__init__(name, backbone)
        self.adapter: str = adapter

    def say(self, prompts: list[list[Message]], asks: list[Ask]) -> list[Generated]:
        """The answers; prompt and answer are written as they are read."""
        return self.backbone.generate(prompts, asks[0].decoding, adapter=self.adapter, write=True)

    @property
    def fingerprint(self) -> str:
        """The adapter's."""
        return adapter_fingerprint(self.backbone.model, self.adapter)

    @property
    def stored_bytes(self) -> int:
        """The text, and the state that goes with it."""
        return super().stored_bytes + self.backbone.empty(self.adapter).nbytes


@method("replay", "memory and the text again, read without writing", "memory", on_demand=True)
class Replay(StateMemory):
    """The history is written into a memory, and the prompt shows all of it once more, which is not written.

    With LoCoMo's protocol ``history_replay`` it answers as the release does in its mode of that name.
    """

    keeps_text = True

    def show(self, asks: Sequence[Ask]) -> list[tuple[list[Entry], Mapping[str, Any]]]:
        """Everything."""
        return [(self.history, notes) for _, notes in super().show(asks)]

    def estimate(self, size: Size) -> tuple[int, int]:
        """The history is written once, and read with each question as far as there is room."""
        return size.history, size.full


def noise_like(state: MemoryState, seed: int) -> MemoryState:
    """A memory of random numbers in which every matrix has the Frobenius norm it has in ``state``."""
    generator = torch.Generator().manual_seed(seed)

    def noise(matrices: torch.Tensor) -> torch.Tensor:
        drawn = torch.randn(matrices.shape, generator=generator).to(matrices.device)
        norms, drawn_norms = (one.norm(dim=(-2, -1), keepdim=True) for one in (matrices, drawn))
        return torch.mul(drawn, norms / drawn_norms)

    return replace(state, states=tuple(noise(matrices) for matrices in state.states))
