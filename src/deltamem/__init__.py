"""δ-mem for PyTorch: a small associative memory beside a frozen language model (arXiv 2605.12357)."""

from deltamem.attach import Attachment, attach, attached, detach, disabled, memory_cache, new_state
from deltamem.backbones import Family, register_family
from deltamem.cache import MemoryCache
from deltamem.config import DeltaMemConfig
from deltamem.state import MemoryState
from deltamem.step import Step

__all__ = [
    "Attachment",
    "DeltaMemConfig",
    "Family",
    "MemoryCache",
    "MemoryState",
    "Step",
    "attach",
    "attached",
    "detach",
    "disabled",
    "memory_cache",
    "new_state",
    "register_family",
]
__version__ = "0.1.0"
