"""The methods by name, for the command line and for suites."""

from collections.abc import Callable, Sequence
from dataclasses import dataclass

from deltamem.eval.backbone import Backbone
from deltamem.eval.methods.base import BackboneMethod
from deltamem.eval.methods.context2lora import FITTED, FittedLora, StaticLora
from deltamem.eval.methods.dense import Dense
from deltamem.eval.methods.llmlingua2 import COMPRESSOR, LLMLingua2
from deltamem.eval.methods.memgen.method import MemGen
from deltamem.eval.methods.memory import StateMemory, WritingContext
from deltamem.eval.methods.memorybank import MemoryBank
from deltamem.eval.methods.mlp_memory.method import MixedMemory
from deltamem.eval.methods.retrieval import TURNS, Bm25, Found, HybridPrompt, HybridState
from deltamem.eval.methods.text import FullContext, NoContext, Window
from deltamem.eval.methods.vectors import dense_installed

STATIC = "static"
CONTROLS = ("empty", "shuffled", "noise")
_WINDOW = 4096


@dataclass(frozen=True)
class MethodOptions:
    """What can be chosen of the methods.

    Attributes:
        window: the most prompt tokens of ``window``; by default half of the backbone's positions, at most 4,096.
        turns: how many turns or passages retrieval brings back.
        compressor: Hub id or folder of the token classifier of ``llmlingua2``.
    """

    window: int | None = None
    turns: int = TURNS
    compressor: str = COMPRESSOR

    def window_tokens(self, backbone: Backbone) -> int:
        """The most prompt tokens of ``window``."""
        return self.window or min(_WINDOW, (backbone.positions or 2 * _WINDOW) // 2)


Build = Callable[[str, Backbone, str, MethodOptions], BackboneMethod]


def _adapted(kind: Callable[..., BackboneMethod], **more: str) -> Build:
    return lambda name, backbone, adapter, options: kind(name, backbone, adapter, **more)


METHODS: dict[str, tuple[str, Build]] = {
    "none": ("no context", lambda name, backbone, adapter, options: NoContext(name, backbone)),
    "full": ("full context", lambda name, backbone, adapter, options: FullContext(name, backbone)),
    "window": (
        "last tokens",
        lambda name, backbone, adapter, options: Window(name, backbone, options.window_tokens(backbone)),
    ),
    "bm25": ("BM25", lambda name, backbone, adapter, options: Bm25(name, backbone, Found(options.turns))),
    "dense": ("dense retrieval", lambda name, backbone, adapter, options: Dense(name, backbone, options.turns)),
    "llmlingua2": (
        "LLMLingua-2",
        lambda name, backbone, adapter, options: LLMLingua2(name, backbone, options.compressor),
    ),
    "memorybank": ("MemoryBank", lambda name, backbone, adapter, options: MemoryBank(name, backbone)),
    "memorybank_keep": (
        "MemoryBank without forgetting",
        lambda name, backbone, adapter, options: MemoryBank(name, backbone, forgets=False),
    ),
    "context2lora": (
        "Context2LoRA, trained beforehand",
        lambda name, backbone, adapter, options: StaticLora(name, backbone),
    ),
    FITTED: (
        "Context2LoRA, fitted to each history",
        lambda name, backbone, adapter, options: FittedLora(name, backbone),
    ),
    "memgen": ("MemGen", lambda name, backbone, adapter, options: MemGen(name, backbone)),
    "mlp_memory": ("MLP Memory", lambda name, backbone, adapter, options: MixedMemory(name, backbone)),
    "memory": ("memory", _adapted(StateMemory)),
    "context": ("memory and full context", _adapted(WritingContext)),
    "hybrid": (
        "memory and BM25 in the prompt",
        lambda name, backbone, adapter, options: HybridPrompt(name, backbone, adapter, Found(options.turns)),
    ),
    "hybrid_state": (
        "memory and BM25 into the memory",
        lambda name, backbone, adapter, options: HybridState(name, backbone, adapter, Found(options.turns)),
    ),
    "empty": ("control: empty memory", _adapted(StateMemory, control="empty")),
    "shuffled": ("control: another item's memory", _adapted(StateMemory, control="shuffled")),
    "noise": ("control: noise of the same norm", _adapted(StateMemory, control="noise")),
}
# The first run by default, the second where a sentence encoder is installed, and the others on demand.
_TEXT = ("none", "full", "window", "bm25")
_DENSE = ("dense", "memorybank")
_BARE = (*_TEXT, *_DENSE, "memorybank_keep", "llmlingua2", "context2lora", FITTED, "memgen", "mlp_memory")


def parse_method(name: str, adapters: Sequence[str]) -> tuple[str, str]:
    """The kind of a method and the adapter it is about.

    ``multi`` is the memory of the adapter of that name and ``multi+context`` with the full context. The others are
    ``kind:adapter``, or the kind alone for the last adapter that is no control.

    Raises:
        ValueError: there is no such method or adapter.
    """
    plain, _, part = name.partition("+")
    if plain in adapters and part in ("", "context"):
        return ("context" if part else "memory"), plain
    kind, _, adapter = name.partition(":")
    if kind not in METHODS or (adapter and kind in _BARE):
        known = [*METHODS, *adapters, *(f"{adapter}+context" for adapter in adapters)]
        raise ValueError(f"There is no method {name!r}; there are: {', '.join(known)}.")
    if kind in _BARE:
        return kind, ""
    main = [adapter for adapter in adapters if adapter != STATIC]
    if not main or (adapter and adapter not in adapters):
        raise ValueError(f"The method {name!r} needs an adapter that is not loaded; load one with --adapter.")
    return kind, adapter or main[-1]


def build_method(name: str, backbone: Backbone, options: MethodOptions | None = None) -> BackboneMethod:
    """A method by its name; see :func:`parse_method`.

    Raises:
        ValueError: there is no such method or adapter.
    """
    kind, adapter = parse_method(name, backbone.adapters)
    return METHODS[kind][1](name, backbone, adapter, options or MethodOptions())


def describe_method(name: str) -> str:
    """What a method is, in words for a table."""
    plain, _, part = name.partition("+")
    kind, _, adapter = name.partition(":")
    if kind in METHODS:
        return METHODS[kind][0] + (f" ({adapter})" if adapter else "")
    if plain == STATIC:
        return "control: trained on strangers' memories"
    return f"δ-mem {plain}" + (" and full context" if part else "")


def is_control(name: str) -> bool:
    """Whether a method shows what is not memory."""
    return name.partition(":")[0] in CONTROLS or name.partition("+")[0] == STATIC


def default_methods(adapters: Sequence[str]) -> tuple[str, ...]:
    """Every method that needs no more than these adapters and the packages installed, controls included."""
    main = [adapter for adapter in adapters if adapter != STATIC]
    memories = [name for adapter in main for name in (adapter, f"{adapter}+context")]
    with_memory = ["hybrid", "hybrid_state", *CONTROLS, *([STATIC] if STATIC in adapters else [])] if main else []
    return (*_TEXT, *(_DENSE if dense_installed() else ()), *memories, *with_memory)
