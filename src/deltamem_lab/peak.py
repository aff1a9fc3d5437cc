"""How much memory a piece of work needs at most, beyond what was held before it."""

import ctypes
from collections.abc import Iterator
from contextlib import contextmanager
from pathlib import Path

import torch

# Numbers of glibc's <malloc.h>, and the values that its own adjustment of them ends with.
_TRIM_THRESHOLD, _MMAP_THRESHOLD = -1, -3
_SETTLED = {_TRIM_THRESHOLD: 64 << 20, _MMAP_THRESHOLD: 32 << 20}
_RETURN_ABOVE = 1 << 16
_PROCESS = Path("/proc/self")


class PeakMemory:
    """Measures the peak of memory from :meth:`start` on, in bytes.

    On CUDA that is what PyTorch's allocator has handed out. On a CPU it is resident memory, whose peak Linux can begin
    anew, unlike ``getrusage``'s; elsewhere it is not measured. There the work has to be done within :meth:`exact`.

    Attributes:
        reason: why memory is not measured; empty where it is.
    """

    def __init__(self, device: torch.device) -> None:
        self.device = device
        self.reason = "" if device.type == "cuda" else _obstacle()
        self._before = 0

    def start(self) -> None:
        """Forgets the peak so far, and takes what is held now for the beginning."""
        if self.device.type == "cuda":
            torch.cuda.synchronize(self.device)
            torch.cuda.reset_peak_memory_stats(self.device)
            self._before = torch.cuda.memory_allocated(self.device)
        elif not self.reason:
            ctypes.CDLL(None).malloc_trim(0)
            (_PROCESS / "clear_refs").write_text("5")
            self._before = _status("VmRSS")

    def increase(self) -> int | None:
        """The most bytes held since the start beyond those held then; ``None`` where it is not measured."""
        if self.device.type == "cuda":
            return int(torch.cuda.max_memory_allocated(self.device)) - self._before
        return None if self.reason else max(0, _status("VmHWM") - self._before)

    @contextmanager
    def exact(self) -> Iterator[None]:
        """Within the block freed memory goes back to the system at once, so that resident memory is what is in use.

        That takes time of its own, so nothing is timed in it.
        """
        if self.device.type == "cuda" or self.reason:
            yield
            return
        libc = ctypes.CDLL(None)
        libc.mallopt(_MMAP_THRESHOLD, _RETURN_ABOVE)
        try:
            yield
        finally:
            for option, value in _SETTLED.items():
                libc.mallopt(option, value)


def _obstacle() -> str:
    try:
        (_PROCESS / "clear_refs").write_text("5")
        ctypes.CDLL(None).mallopt  # noqa: B018
    except (OSError, AttributeError):
        return "the peak of memory is measured on Linux with glibc, where a process may write /proc/self/clear_refs"
    return ""


def _status(field: str) -> int:
    """Bytes, as the kernel counts them."""
    lines = (_PROCESS / "status").read_text().splitlines()
    return next(int(line.split()[1]) for line in lines if line.startswith(f"{field}:")) * 1024
