"""Numbers in sentences."""


def counted(number: int, noun: str) -> str:
    """So many of something, as in "1 turn" and "1,200 turns"; the noun is the singular of a regular plural."""
    return f"{number:,} {noun}" if number == 1 else f"{number:,} {noun}s"
