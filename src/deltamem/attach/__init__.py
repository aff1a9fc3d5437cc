"""Putting a memory on a backbone: families, the wrapped attention, the calls around it, and the cache of generation."""

from deltamem.attach.attachment import (
    Attachment,
    ParameterReport,
    attach,
    attached,
    detach,
    disabled,
    memory_cache,
    new_state,
)

__all__ = [
    "Attachment",
    "ParameterReport",
    "attach",
    "attached",
    "detach",
    "disabled",
    "memory_cache",
    "new_state",
]
