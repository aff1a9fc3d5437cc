"""The methods, each a way to keep what was read: as text, as a memory, or not at all."""

from deltamem_lab.methods.base import BackboneMethod, MethodOptions
from deltamem_lab.methods.registry import (
    build_method,
    default_methods,
    describe_method,
    is_control,
    lacking,
    method,
)

__all__ = [
    "BackboneMethod",
    "MethodOptions",
    "build_method",
    "default_methods",
    "describe_method",
    "is_control",
    "lacking",
    "method",
]
