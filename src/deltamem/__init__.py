"""δ-mem for PyTorch: a small associative memory beside a frozen language model (arXiv 2605.12357).

The public names are loaded when first used, so that importing the package costs nothing.
"""

import sys
from types import ModuleType
from typing import TYPE_CHECKING, Any

from deltamem.lazily import lazily
from deltamem.version import __version__

if TYPE_CHECKING:
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
    from deltamem.attach.cache import MemoryCache
    from deltamem.attach.families import Family, register_family
    from deltamem.attribution import ReadProbe, WriteShares, read_probe, write_shares
    from deltamem.chat import ChatTokens, encode_chat
    from deltamem.config import DeltaMemConfig
    from deltamem.formats.adapter import AdapterFileError
    from deltamem.formats.hub import adapter_fingerprint, load_adapter, push_to_hub, save_adapter
    from deltamem.formats.state import StateFileError, load_state, save_state, state_from_bytes, state_to_bytes
    from deltamem.models.loading import load_model
    from deltamem.observe import observe
    from deltamem.recall import Calibration, Recollection
    from deltamem.rules import UpdateRule, WriteStrategy, register_update_rule, register_write_strategy
    from deltamem.session import Forgotten, Retriever, Session, SessionBusyError, TurnReport
    from deltamem.state import MemoryState, OpenSegment
    from deltamem.step import Step

__all__ = [
    "AdapterFileError",
    "Attachment",
    "Calibration",
    "ChatTokens",
    "DeltaMemConfig",
    "Family",
    "Forgotten",
    "MemoryCache",
    "MemoryState",
    "OpenSegment",
    "ParameterReport",
    "ReadProbe",
    "Recollection",
    "Retriever",
    "Session",
    "SessionBusyError",
    "StateFileError",
    "Step",
    "TurnReport",
    "UpdateRule",
    "WriteShares",
    "WriteStrategy",
    "__version__",
    "adapter_fingerprint",
    "attach",
    "attached",
    "detach",
    "disabled",
    "encode_chat",
    "load_adapter",
    "load_model",
    "load_state",
    "memory_cache",
    "new_state",
    "observe",
    "push_to_hub",
    "read_probe",
    "register_family",
    "register_update_rule",
    "register_write_strategy",
    "save_adapter",
    "save_state",
    "state_from_bytes",
    "state_to_bytes",
    "write_shares",
]

# The public names by the module they come from.
_HOMES = {
    "attach": "Attachment ParameterReport attach attached detach disabled memory_cache new_state",
    "attach.cache": "MemoryCache",
    "attach.families": "Family register_family",
    "attribution": "ReadProbe WriteShares read_probe write_shares",
    "chat": "ChatTokens encode_chat",
    "config": "DeltaMemConfig",
    "formats.adapter": "AdapterFileError",
    "formats.hub": "adapter_fingerprint load_adapter push_to_hub save_adapter",
    "formats.state": "StateFileError load_state save_state state_from_bytes state_to_bytes",
    "models.loading": "load_model",
    "observe": "observe",
    "recall": "Calibration Recollection",
    "rules": "UpdateRule WriteStrategy register_update_rule register_write_strategy",
    "session": "Forgotten Retriever Session SessionBusyError TurnReport",
    "state": "MemoryState OpenSegment",
    "step": "Step",
}
_MODULES = {name: module for module, names in _HOMES.items() for name in names.split()}
__getattr__ = lazily(__name__, _HOMES)


def __dir__() -> list[str]:
    return sorted({*globals(), *__all__})


class _Package(ModuleType):
    """Python binds a submodule to its package as it is imported; ``deltamem.attach`` stays the function."""

    def __setattr__(self, name: str, value: Any) -> None:
        if not (name in _MODULES and isinstance(value, ModuleType)):
            super().__setattr__(name, value)


sys.modules[__name__].__class__ = _Package
