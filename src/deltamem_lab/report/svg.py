"""The parts of a drawing. Colours are names that the page gives a value to, one in light and one in the dark."""

from collections.abc import Sequence
from html import escape

INK, QUIET, GRID = "var(--ink)", "var(--quiet)", "var(--grid)"
MAIN, MUTED = "var(--main)", "var(--muted)"
# Colours that stay apart for the colour-blind (M. Okabe and K. Ito, 2008), for lines that share a panel.
SERIES = (MAIN, "var(--series-1)", "var(--series-2)", "var(--series-3)", INK, MUTED)
WIDTH = 760
_FONT = 'font-family="system-ui, sans-serif" font-size="12"'


def line(x1: float, y1: float, x2: float, y2: float, colour: str) -> str:
    """A straight line."""
    return f'<line x1="{x1:.1f}" y1="{y1:.1f}" x2="{x2:.1f}" y2="{y2:.1f}" stroke="{colour}"/>'


def path(points: Sequence[tuple[float, float]], colour: str, *, dashed: bool = False) -> str:
    """A line through points."""
    dashes = ' stroke-dasharray="4 3"' if dashed else ""
    return f'<polyline points="{_places(points)}" fill="none" stroke="{colour}"{dashes}/>'


def area(points: Sequence[tuple[float, float]], colour: str) -> str:
    """A faint area with these corners."""
    return f'<polygon points="{_places(points)}" fill="{colour}" opacity="0.18"/>'


def dot(x: float, y: float, colour: str, radius: float) -> str:
    """A filled circle."""
    return f'<circle cx="{x:.1f}" cy="{y:.1f}" r="{radius}" fill="{colour}"/>'


def text(x: float, y: float, words: str, *, anchor: str = "start", bold: bool = False) -> str:
    """A line of text; it may hold anything."""
    weight = ' font-weight="600"' if bold else ""
    return f'<text x="{x:.1f}" y="{y:.1f}" {_FONT} fill="{INK}" text-anchor="{anchor}"{weight}>{escape(words)}</text>'


def svg(width: float, height: float, parts: Sequence[str]) -> str:
    """A drawing of these parts."""
    return (
        f'<svg xmlns="http://www.w3.org/2000/svg" viewBox="0 0 {width:.0f} {height:.0f}" width="{width:.0f}" '
        f'role="img">{"".join(parts)}</svg>'
    )


def _places(points: Sequence[tuple[float, float]]) -> str:
    return " ".join(f"{x:.1f},{y:.1f}" for x, y in points)
