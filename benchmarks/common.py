"""What the benchmarks share."""

import time
from collections.abc import Callable
from typing import Any

from deltamem_lab.machine import machine as machine


def timed(run: Callable[[], Any]) -> float:
    """CPU seconds of this process that a call takes."""
    start = time.process_time()
    run()
    return time.process_time() - start
