"""Training adapters: write a history into the memory, drop the text, and learn from the answers."""

from typing import TYPE_CHECKING

from deltamem.lazily import lazily

if TYPE_CHECKING:
    from deltamem.train.episodes import Episode, EpisodeBatch, Text, TextBatch, collate, evenly
    from deltamem.train.objective import EpisodeObjective, ObjectiveResult, episode_loss
    from deltamem.train.options import ObjectiveOptions, Writing
    from deltamem.train.passes import read, write

__all__ = [
    "Episode",
    "EpisodeBatch",
    "EpisodeObjective",
    "ObjectiveOptions",
    "ObjectiveResult",
    "Text",
    "TextBatch",
    "Writing",
    "collate",
    "episode_loss",
    "evenly",
    "read",
    "write",
]

_HOMES = {
    "episodes": "Episode EpisodeBatch Text TextBatch collate evenly",
    "objective": "EpisodeObjective ObjectiveResult episode_loss",
    "options": "ObjectiveOptions Writing",
    "passes": "read write",
}
__getattr__ = lazily(__name__, _HOMES)
