"""Which implementation of the scan runs, and why."""

import functools
import importlib.util
import logging

import torch

BACKENDS = ("reference", "cpu", "chunked", "triton")
"""The definition, the numba loop, plain PyTorch by chunks, and the GPU kernels."""

MOST = 128
"""The largest R of the compiled loop: four tiles are on the stack, which on some systems is 512 KB for a thread."""

_HAS_TRITON = importlib.util.find_spec("triton") is not None
_log = logging.getLogger(__name__)


def backend_for(device: torch.device | str) -> str:
    """The backend that `scan` takes for tensors on `device`: "cpu", "triton" or "chunked"."""
    return _default(torch.device(device).type)[0]


def backend_reason(device: torch.device | str) -> str:
    """Why `backend_for(device)` is what it is, as a phrase for a person."""
    return _default(torch.device(device).type)[1]


def choose(backend: str | None, device: torch.device, rank: int) -> str:
    """The backend asked for, or the default of `device`; "chunked" where R is more than the compiled loop takes.

    Raises ValueError for a name that is none of BACKENDS, and for "cpu" on another device.
    """
    if backend is None:
        backend = _default(device.type)[0]
        if backend == "cpu" and rank > MOST:
            return "chunked"
        if backend == "chunked" and device.type == "cuda" and not torch.compiler.is_compiling():
            _say_triton_is_missing()
    elif backend not in BACKENDS:
        raise ValueError(f"scan: backend must be one of {', '.join(BACKENDS)} or None, got {backend!r}")
    elif backend == "cpu" and device.type not in ("cpu", "meta"):
        raise ValueError(f"scan: backend 'cpu' needs tensors on the CPU, got {device}")
    return backend


def unwatched(tensor: torch.Tensor) -> bool:
    """Whether a kernel may be called on a CPU tensor past its operator, whose dispatch costs more than a token's scan.

    It may if no autograd and no compiler watches.
    """
    return (
        not torch.is_grad_enabled()
        and type(tensor) is torch.Tensor
        and tensor.device.type == "cpu"
        and not torch.compiler.is_compiling()
    )


def _default(device: str) -> tuple[str, str]:
    if device == "cpu":
        return "cpu", "compiled loop (numba), the fastest on a CPU"
    if device == "meta":
        return "cpu", "shapes only"
    if device != "cuda":
        return "chunked", f"plain PyTorch: there is no kernel for {device}"
    if not _HAS_TRITON:
        return "chunked", "plain PyTorch: triton is not installed"
    return "triton", "GPU kernels (triton)"


@functools.cache
def _say_triton_is_missing() -> None:
    _log.warning("triton is not installed: on CUDA the memory runs in plain PyTorch, and slower")
