"""What the tests of trained methods share: an item of the toy world, its questions, and commands called in process."""

from collections.abc import Callable

from deltamem_lab.backbone import Backbone
from deltamem_lab.interface import Ask, Decoding, Item
from deltamem_lab.tasks.world import WorldTask

TASK = WorldTask(seed=3)
ITEM = next(iter(TASK.items("world", 1)))


def asks(backbone: Backbone, item: Item = ITEM, *, tokens: int = 16) -> list[Ask]:
    """All questions of an item, answered in at most so many tokens."""
    decoding = Decoding(tokens)
    return [
        Ask(q, lambda shown, budget, q=q: TASK.prompt(item, q, shown, "world", budget), decoding)  # type: ignore[misc]
        for q in item.questions
    ]


def called(main: Callable[[list[str]], None], arguments: list[str]) -> int:
    """The exit status of a command line."""
    try:
        main(arguments)
    except SystemExit as end:
        return int(end.code or 0)
    return 0
