"""The bare backbone: without the history, with all of it, or with its last tokens."""

from abc import abstractmethod
from collections.abc import Mapping, Sequence
from dataclasses import replace
from typing import Any, ClassVar, Self

from deltamem.chat import Message
from deltamem_lab.backbone import Backbone
from deltamem_lab.interface import Ask, Budget, Decoding, Entry
from deltamem_lab.methods.base import BackboneMethod, MethodOptions, Size, Weights
from deltamem_lab.methods.fitting import fit
from deltamem_lab.methods.registry import method

_WINDOW = 4096


@method("none", "no context", "text")
class NoContext(BackboneMethod):
    """The question alone."""

    needs_history = False

    def show(self, asks: Sequence[Ask]) -> list[tuple[list[Entry], Mapping[str, Any]]]:
        """Nothing."""
        return [([], {})] * len(asks)


@method("full", "full context", "text")
class FullContext(BackboneMethod):
    """The whole history before the question; of one beyond the backbone's positions, the end."""

    keeps_text = True

    def show(self, asks: Sequence[Ask]) -> list[tuple[list[Entry], Mapping[str, Any]]]:
        """Everything."""
        return [(self.history, {})] * len(asks)

    def estimate(self, size: Size) -> tuple[int, int]:
        """History and question are read for each question, as far as there is room."""
        return 0, size.full


class TrainedContext(FullContext):
    """The full context, read with what was trained beforehand; of several that are loaded, with the last.

    Attributes:
        what: was trained, with its article.
        command: of ``deltamem baseline``, which trains it.
        label: its name on the backbone.
        trained: what is loaded.

    Raises:
        ValueError: none is loaded.
    """

    needs_history = False
    weights: ClassVar[Weights]
    what: ClassVar[str]
    command: ClassVar[str]

    def __init__(self, name: str, backbone: Backbone) -> None:
        super().__init__(name, backbone)
        there = self.loaded(backbone.model)
        if not there:
            raise ValueError(
                f"The method {name!r} needs {self.what}, and none is loaded; load one with --adapter FOLDER."
            )
        self.label, self.trained = list(there.items())[-1]

    @staticmethod
    @abstractmethod
    def loaded(model: Any) -> Mapping[str, Any]:
        """What is loaded on a model, by name."""

    @classmethod
    def lacks(cls, backbone: Backbone, options: MethodOptions) -> str:
        """What was trained."""
        if cls.loaded(backbone.model):
            return ""
        return f"needs {cls.what}: deltamem baseline {cls.command}, then --adapter {cls.weights.kind}=FOLDER"


@method("window", "last tokens", "text")
class Window(FullContext):
    """The end of the history that fits into a prompt of so many tokens."""

    def __init__(self, name: str, backbone: Backbone, tokens: int) -> None:
        super().__init__(name, backbone)
        self.tokens = tokens

    @classmethod
    def build(cls, name: str, backbone: Backbone, adapter: str, options: MethodOptions, **arguments: Any) -> Self:
        """With as many tokens as were chosen."""
        return cls(name, backbone, options.window or min(_WINDOW, (backbone.positions or 2 * _WINDOW) // 2))

    def room(self, decoding: Decoding) -> Budget:
        """At most so many tokens."""
        budget = super().room(decoding)
        return replace(budget, tokens=self.tokens if budget.tokens is None else min(budget.tokens, self.tokens))

    def fitted(self, ask: Ask, shown: Sequence[Entry]) -> tuple[list[Message], bool]:
        """The prompt with the end of the history, whatever the task would cut."""
        budget = self.room(ask.decoding)
        return fit(lambda part, _: ask.render(part, replace(budget, tokens=None)), shown, budget)

    def estimate(self, size: Size) -> tuple[int, int]:
        """At most the window is read for each question."""
        return 0, min(size.full, self.tokens)
