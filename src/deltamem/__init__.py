"""δ-mem for PyTorch: a small associative memory beside a frozen language model (arXiv 2605.12357)."""

from deltamem.adapters import adapter_fingerprint, load_adapter, push_to_hub, save_adapter
from deltamem.attach import (
    Attachment,
    ParameterReport,
    attach,
    attached,
    detach,
    disabled,
    memory_cache,
    new_state,
)
from deltamem.backbones import Family, register_family
from deltamem.cache import MemoryCache
from deltamem.chat import ChatTokens, encode_chat
from deltamem.checkpoint import AdapterFileError
from deltamem.config import DeltaMemConfig
from deltamem.observe import observe
from deltamem.session import Session
from deltamem.state import MemoryState, OpenSegment
from deltamem.statefile import StateFileError, load_state, save_state, state_from_bytes, state_to_bytes
from deltamem.step import Step
from deltamem.version import __version__

__all__ = [
    "AdapterFileError",
    "Attachment",
    "ChatTokens",
    "DeltaMemConfig",
    "Family",
    "MemoryCache",
    "MemoryState",
    "OpenSegment",
    "ParameterReport",
    "Session",
    "StateFileError",
    "Step",
    "__version__",
    "adapter_fingerprint",
    "attach",
    "attached",
    "detach",
    "disabled",
    "encode_chat",
    "load_adapter",
    "load_state",
    "memory_cache",
    "new_state",
    "observe",
    "push_to_hub",
    "register_family",
    "save_adapter",
    "save_state",
    "state_from_bytes",
    "state_to_bytes",
]
