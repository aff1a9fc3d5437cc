"""What the chat shows of a memory."""

from typing import TYPE_CHECKING

if TYPE_CHECKING:
    from rich.console import RenderableType

    from deltamem.session import Session

_BAR = 28


def memory_lines(session: "Session") -> str:
    """How large the memory is and what the last turn did to it, in words."""
    state, turn = session.state, session.last_turn
    held = f"{state.nbytes:,} bytes, {int(state.tokens[0]):,} tokens written, norm {float(state.norms().norm()):.2f}"
    if turn is None:
        return held + "; no turn yet"
    return (
        f"{held}; the last turn wrote {turn.written_tokens:,} tokens and changed it by {float(turn.change.norm()):.2f}"
    )


def memory_bars(session: "Session") -> "RenderableType":
    """For each adapted layer how much the last turn changed its states, beside how large they are."""
    from rich.bar import Bar
    from rich.table import Table

    from deltamem.attach import attached

    sizes = session.state.norms()[:, 0].norm(dim=-1).tolist()
    turn = session.last_turn
    changes = [0.0] * len(sizes) if turn is None else turn.change.norm(dim=-1).tolist()
    table = Table(box=None, padding=(0, 1, 0, 0), header_style="dim")
    for heading in ("layer", "changed by", "", "norm"):
        table.add_column(heading, justify="left" if not heading else "right")
    full = max(*changes, 1e-9)
    for number, change, size in zip(attached(session.model).layer_numbers(), changes, sizes, strict=True):
        table.add_row(str(number), f"{change:.3f}", Bar(full, 0, change, width=_BAR), f"{size:.2f}")
    return table


def side_by_side(with_memory: str, without: str) -> "RenderableType":
    """Two answers to one question."""
    from rich.table import Table
    from rich.text import Text

    table = Table("with memory", "without", expand=False, min_width=40)
    table.add_row(Text(with_memory), Text(without))
    return table
