"""Figures of matplotlib, which an extra brings: the class to draw on, and a PNG that appears whole or not at all."""

import io
from pathlib import Path
from typing import Any

from deltamem.extensions import from_extra
from deltamem.files import write_atomically


def figure_class(extra: str) -> Any:
    """Matplotlib's ``Figure``, by the extra that has it; asked for before long work begins, lest its end fail.

    Raises:
        ImportError: matplotlib is not installed.
    """
    with from_extra(extra, "Plots need matplotlib"):
        from matplotlib.figure import Figure
    return Figure


def write_png(figure: Any, path: Path, dpi: int = 140) -> None:
    """Writes a figure as a PNG.

    Raises:
        OSError: the file cannot be written.
    """
    drawn = io.BytesIO()
    figure.savefig(drawn, format="png", dpi=dpi)
    write_atomically(path, drawn.getvalue())
