"""The methods, each a way to keep what was read: as text, as a memory, or not at all."""

from deltamem_lab.methods.registry import (
    MethodOptions,
    build_method,
    default_methods,
    describe_method,
    is_control,
    lacking,
)

__all__ = ["MethodOptions", "build_method", "default_methods", "describe_method", "is_control", "lacking"]
