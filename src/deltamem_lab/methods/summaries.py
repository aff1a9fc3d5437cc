"""Summaries by the backbone, of texts of any length."""

from collections.abc import Sequence

from deltamem.chat import Message
from deltamem_lab.backbone import Backbone
from deltamem_lab.interface import Decoding

# As MemoryBank's code asks of its model.
_NEW_TOKENS = 400


class Summariser:
    """Lets a backbone sum up lines as an instruction says.

    What does not fit into one prompt is summed up in parts, whose summaries follow one another.

    Args:
        backbone: what summarises. A summary has at most 400 tokens, or an eighth of its positions.
    """

    def __init__(self, backbone: Backbone) -> None:
        self.backbone = backbone
        positions = backbone.positions
        self._decoding = Decoding(_NEW_TOKENS if positions is None else min(_NEW_TOKENS, positions // 8))

    def __call__(self, tasks: Sequence[tuple[str, Sequence[str]]]) -> tuple[list[str], int]:
        """The summary for each instruction and its lines, and how many tokens were read and generated."""
        if not tasks:
            return [], 0
        parts = [(place, part) for place, task in enumerate(tasks) for part in self._parts(*task)]
        said = self.backbone.generate([_prompt(tasks[place][0], part) for place, part in parts], self._decoding)
        texts: list[list[str]] = [[] for _ in tasks]
        for (place, _), one in zip(parts, said, strict=True):
            texts[place].append(one.text)
        return ["\n".join(part) for part in texts], sum(one.prompt_tokens + one.new_tokens for one in said)

    def _parts(self, instruction: str, lines: Sequence[str]) -> list[list[str]]:
        """The lines in parts that fit into a prompt each."""
        room = self.backbone.budget(self._decoding).tokens
        if room is None:
            return [list(lines)]
        room -= self.backbone.length(_prompt(instruction, []))
        parts: list[list[str]] = [[]]
        left = room
        for line in (piece for whole in lines for piece in self._pieces(whole, room)):
            # One more for the line's end, and one for a token that the joint may split.
            tokens = self.backbone.count(line) + 2
            if tokens > left and parts[-1]:
                parts.append([])
                left = room
            parts[-1].append(line)
            left -= tokens
        return parts

    def _pieces(self, line: str, room: int) -> list[str]:
        """A line, halved until its pieces fit."""
        if self.backbone.count(line) + 2 <= room or len(line) < 2:
            return [line]
        middle = line.rfind(" ", 1, len(line) // 2 + 1) + 1 or len(line) // 2
        return [*self._pieces(line[:middle], room), *self._pieces(line[middle:], room)]


def _prompt(instruction: str, lines: Sequence[str]) -> list[Message]:
    return [{"role": "user", "content": "\n".join([instruction, *lines])}]
